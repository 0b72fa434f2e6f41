"""What a technician loses where these fail: `epip-edge`, its lines and its exit code, with the kits that ship."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli import main
from edge_agent.spool import FILE
from tests.brokers import Broker, mosquitto
from tests.edge_agent.support import SmallHub, until

SECRET = "correct horse battery staple"
THREE_KITS = """\
edge = "tashkent-1"

[hub]
url = "mqtt://127.0.0.1:1883"
user = "edge-tashkent-1"
password_file = "edge.password"

[[kits]]
id = "tas-plc-1"
model = "plc_line"
[kits.connections.plc]
endpoint = "opc.tcp://127.0.0.1:4840/"
[kits.addresses]
"line.state" = { node = "Line.State" }

[[kits]]
id = "tas-robot-1"
model = "robot_cell"
[kits.connections.cell]
url = "mqtt://127.0.0.1:1883"
prefix = "cells/tas-robot-1"

[[kits]]
id = "tas-bci-1"
model = "bci_platform"
[kits.connections.eeg]
port = "COM3"
[kits.connections.drive]
port = "COM4"
"""
FIRST, _, ROBOT, _ = THREE_KITS.split("[[kits]]")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "edge.password").write_text(SECRET)
    (tmp_path / "edge.password").chmod(0o600)
    path = tmp_path / "edge.toml"
    path.write_text(THREE_KITS)
    return path


def test_good_settings_of_three_kits_pass(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(settings)]) == 0
    out, err = capsys.readouterr()
    assert "edge tashkent-1, 3 kits, " in out
    assert err == ""


@pytest.mark.parametrize("command", ["check", "run"])
def test_each_fault_is_one_line_and_the_exit_code_is_1(
    settings: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = THREE_KITS.replace('endpoint = "opc.tcp://127.0.0.1:4840/"', "").replace("tas-bci-1", "tas-robot-1", 1)
    settings.write_text(text.replace('node = "Line.State"', "node = 7"))
    assert main([command, str(settings)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": expected")[0].split(": input")[0] for line in err.splitlines()] == [
        f"{settings}: kits[2].id",
        f"{settings}: kits[0].connections.plc.endpoint",
        f'{settings}: kits[0].addresses."line.state".node',
    ]


def test_a_password_that_others_may_read_is_a_warning_and_no_fault(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings.parent / "edge.password").chmod(0o644)
    assert main(["check", str(settings)]) == 0
    err = capsys.readouterr().err
    assert "hub.password_file: warning" in err
    assert SECRET not in err


def started(settings: Path, broker: Broker, *more: str) -> subprocess.Popen[str]:
    """The agent with the robot alone, which is the quickest to import."""
    settings.write_text(f"{FIRST}[[kits]]{ROBOT}".replace("mqtt://127.0.0.1:1883", broker.url))
    return subprocess.Popen(
        [sys.executable, "-m", "edge_agent.cli", "run", str(settings), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "end of input"])
async def test_a_running_agent_leaves_in_order_and_leaves_nothing_locked(settings: Path, way: str) -> None:
    with mosquitto(settings.parent) as broker, SmallHub(broker.url) as hub:
        agent = started(settings, broker, "--exit-with-parent")
        await until(lambda: hub.connected and hub.statuses)
        assert agent.poll() is None
        if way == "end of input":
            assert agent.stdin is not None
            agent.stdin.close()
            agent.stdin = None
        else:
            os.kill(agent.pid, getattr(signal, way))
        await until(lambda: agent.poll() is not None)
        out, _ = agent.communicate()
        assert agent.returncode == 0, out
        assert "Traceback" not in out
        assert SECRET not in out
        await until(lambda: not hub.statuses[-1].online)
    db = sqlite3.connect(settings.parent / "edge-data" / FILE)
    db.execute("BEGIN IMMEDIATE")
    db.close()


@pytest.mark.real
async def test_a_second_agent_on_the_same_folder_is_turned_away_with_one_line(settings: Path) -> None:
    with mosquitto(settings.parent) as broker, SmallHub(broker.url) as hub:
        first = started(settings, broker)
        await until(lambda: hub.connected and hub.statuses)
        second = started(settings, broker)
        await until(lambda: second.poll() is not None)
        out, _ = second.communicate()
        assert second.returncode == 1
        assert out.splitlines()[-1].endswith("edge-data: in use by another edge agent")
        assert "Traceback" not in out
        assert first.poll() is None
        first.terminate()
        await until(lambda: first.poll() is not None)
        first.communicate()
