"""What is lost where this fails: every edge, cut off by a broker that came up on a full disk, until a person comes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import HEARTBEAT_TOPIC
from hub.broker.nats import NatsBroker
from tests.brokers import free_port
from tests.chaos.disk import BALLAST, small_disk
from tests.hub.broker.rigs import until

PAGES = 2 * 4096
"""With nothing free at all the server does not limit itself; with almost nothing it did, for ever."""


@pytest.mark.real
def test_a_broker_started_on_a_full_disk_serves_when_there_is_room_and_does_not_limit_itself(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with small_disk(tmp_path / "disk", 16, list) as disk:
        broker = NatsBroker(disk.folder / "broker", free_port())
        link = MqttLink(
            broker.access.url,
            client_id="hub-1",
            user=broker.access.user,
            password=broker.access.password,
            on_message=lambda _topic, payload: heard.append(payload),
            on_connection=lambda _up, _why: None,
        )
        link.subscribe(HEARTBEAT_TOPIC)
        try:
            broker.start([])
            link.start()
            until(lambda: link.connected)
            disk.fill()
            ballast = disk.folder / BALLAST
            if ballast.exists():
                os.truncate(ballast, ballast.stat().st_size - PAGES)
            pid = broker.health().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda: broker.health().running and broker.health().pid != pid)
            disk.free()
            until(lambda: link.connected and link.publish(HEARTBEAT_TOPIC, b"beat") and heard)
            said = (broker.folder / "broker.log").read_text("utf-8")
            at_first, at_last = re.findall(r"Max Storage: +(\S+ \S+)", said)
            assert at_first == at_last
        finally:
            link.stop()
            broker.stop()
