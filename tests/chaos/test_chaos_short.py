"""The short run: twenty kills, cut links and full disks, and every committed value is in the store once, unchanged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.chaos.__main__ import summary
from tests.chaos.driver import Order, run
from tests.chaos.link import Trouble
from tests.chaos.parts import ROOT

SEED = 174
"""Its twenty kills meet every part, every trouble of the link and both disks."""


@pytest.mark.real
@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing_store_nothing_twice_and_change_nothing(tmp_path: Path) -> None:
    report = asyncio.run(run(Order(kills=20, seed=SEED), tmp_path / "site", lambda _report, _phase: None))
    text = "\n".join(summary(report))
    assert not report.failed, text
    # That nothing was lost proves nothing unless all of it was tried.
    assert set(report.kills) == {"edge", "hub", "broker", "producer"}, text
    assert sum(report.kills.values()) == 20, text
    assert set(report.troubles) == set(Trouble), text
    assert set(report.filled) == {"edge", "hub"}, text
    assert report.felt > 0, text
    assert report.redeliveries > 0, text
    assert report.verdict.committed > 1000, text
    assert report.verdict.said > 0, text


@pytest.mark.real
@pytest.mark.timeout(120)
def test_ctrl_c_in_the_midst_of_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Left-over programs, mounts or folders would spoil the machine of whoever stops a long run."""
    command = [sys.executable, "-m", "tests.chaos", "--kills", "1000", "--seed", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    log = tmp_path / "said"
    with log.open("wb") as said:
        run_ = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said, start_new_session=True)
    try:
        process = psutil.Process(run_.pid)
        until(lambda: any("hub.cli" in words(child) for child in process.children(recursive=True)), run_)
        os.killpg(run_.pid, signal.SIGINT)
        assert run_.wait(60) == 130, log.read_text()
    finally:
        run_.kill()
        run_.wait()
    assert "nothing is left behind" in log.read_text()
    assert [words(one) for one in psutil.process_iter() if f"{tmp_path}/" in words(one)] == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(tmp_path.iterdir()) == [log]


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(condition: Callable[[], bool], of: subprocess.Popen[bytes]) -> None:
    """Another process is waited for, which tells nobody."""
    deadline = time.monotonic() + 60
    while not condition():
        assert of.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
