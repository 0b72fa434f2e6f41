"""A Mosquitto that is set up as the paper says serves the hub that is set up as the paper says."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.broker.choose import make_broker, problems
from hub.clock import SystemClock
from hub.ingest.service import Ingest
from hub.settings import parse_settings
from hub.store import open_store
from tests.brokers import Broker, dynamic_security, free_port
from tests.certificates import Authority
from tests.docs.papers import FENCE, read, section
from tests.hub.broker.rigs import WAIT_S

PAPER = read("how-to/mosquitto.md")
FILES = r"\b(hub\.pem|hub\.key|dynamic-security\.json|accounts/\w+|mosquitto\.pid)"


def with_plugin(folder: Path) -> None:
    (command,) = re.findall(r"^    (mosquitto_ctrl .*)$", PAPER, re.MULTILINE)
    password = (folder / "broker.password").read_text()
    subprocess.run([*command.split(), password], cwd=folder, check=True, capture_output=True)


def with_files(folder: Path) -> None:
    (folder / "accounts").mkdir()
    for name in ("passwords", "acl"):
        (folder / "accounts" / name).touch(mode=0o600)


@pytest.mark.real
@pytest.mark.parametrize(("way", "prepare"), [("With the plugin", with_plugin), ("With files", with_files)])
def test_a_message_comes_back_through_a_broker_set_up_as_the_paper_says(
    way: str, prepare: Callable[[Path], None], tmp_path: Path
) -> None:
    found = dict(FENCE.findall(section(PAPER, way)))
    authority = Authority(tmp_path)
    authority.issue("hub", "localhost")
    authority.file.rename(tmp_path / "hub-ca.pem")
    (tmp_path / "broker.password").write_text(secrets.token_urlsafe(24))
    prepare(tmp_path)
    port = free_port()
    conf = re.sub(FILES, lambda name: str(tmp_path / name[0]), found["conf"])
    conf = conf.replace("mosquitto_dynamic_security.so", str(dynamic_security()))
    (tmp_path / "mosquitto.conf").write_text(conf.replace("8883", f"{port} 127.0.0.1") + "user root\n")
    settings = parse_settings(found["toml"].replace("broker.example:8883", f"localhost:{port}"), tmp_path / "hub.toml")
    assert problems(settings) == []
    command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(tmp_path / "mosquitto.conf")]
    server = Broker("mosquitto", command, port, tmp_path)
    broker = make_broker(settings)
    store = open_store(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    server.start()
    try:
        broker.start([])
        ingest = Ingest(
            access=broker.access,
            store=store,
            kits=dict,
            clock=SystemClock(),
            on_committed=lambda _: None,
            on_status=lambda *_: None,
        )
        ingest.start()
        try:
            assert ingest.wait_ready(WAIT_S)
            deadline = time.monotonic() + WAIT_S
            while not (health := broker.health()).ok:
                assert time.monotonic() < deadline, health
                time.sleep(0.01)
        finally:
            ingest.stop()
    finally:
        broker.stop()
        store.close()
        server.stop()
