"""What is lost where this fails: every edge, cut off by a broker that came up on a full disk, until a person comes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import HEARTBEAT_TOPIC
from hub.broker.nats import NatsBroker
from tests.brokers import free_port
from tests.chaos.disk import BALLAST, small_disk
from tests.hub.broker.rigs import until

CLIENTS = 24
"""Their sessions take more than the share of one free page."""
PAGE = 4096


@pytest.mark.real
def test_a_broker_started_on_a_full_disk_takes_everybody_as_soon_as_there_is_room(tmp_path: Path) -> None:
    heard: list[bytes] = []
    links: list[MqttLink] = []
    with small_disk(tmp_path / "disk", 16, list) as disk:
        broker = NatsBroker(disk.folder / "broker", free_port())
        try:
            broker.start([])
            disk.fill()
            ballast = disk.folder / BALLAST
            if ballast.exists():
                os.truncate(ballast, ballast.stat().st_size - PAGE)
            pid = broker.health().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda: broker.health().running and broker.health().pid != pid)
            disk.free()
            for number in range(CLIENTS):
                link = MqttLink(
                    broker.access.url,
                    client_id=f"client-{number}",
                    user=broker.access.user,
                    password=broker.access.password,
                    on_message=lambda _topic, payload: heard.append(payload),
                    on_connection=lambda _up, _why: None,
                )
                links.append(link)
                link.subscribe(HEARTBEAT_TOPIC)
                link.start()
            until(lambda: all(link.connected for link in links))
            assert links[0].publish(HEARTBEAT_TOPIC, b"beat")
            until(lambda: len(heard) == CLIENTS)
        finally:
            for link in links:
                link.stop()
            broker.stop()
