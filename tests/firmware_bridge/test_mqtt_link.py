"""What everything above relies on in the MQTT link session, on both real brokers."""

from __future__ import annotations

import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.mqtt_link import BrokerAddress, MqttLink, parse_url
from tests.brokers import Broker, free_port, mosquitto, nats

WAIT_S = 15.0


class Listener:
    """A link that keeps what it hears and how it stands."""

    def __init__(
        self, url: str, *topics: str, on_message: Callable[[str, bytes], None] | None = None, **how: Any
    ) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.said: list[tuple[bool, str]] = []
        self.up = threading.Event()
        self.down = threading.Event()
        self.link = MqttLink(
            url,
            client_id=f"test-{secrets.token_hex(6)}",
            on_message=on_message or (lambda topic, payload: self.heard.put((topic, payload))),
            on_connection=self._on_connection,
            **how,
        )
        for topic in topics:
            self.link.subscribe(topic)

    def _on_connection(self, connected: bool, detail: str) -> None:
        self.said.append((connected, detail))
        (self.up if connected else self.down).set()
        (self.down if connected else self.up).clear()

    def next(self) -> tuple[str, bytes]:
        return self.heard.get(timeout=WAIT_S)


@contextmanager
def connected(url: str, *topics: str, **how: Any) -> Iterator[Listener]:
    listener = Listener(url, *topics, **how)
    listener.link.start()
    try:
        assert listener.up.wait(WAIT_S)
        yield listener
    finally:
        listener.link.stop()


@pytest.fixture(params=[nats, mosquitto], ids=["nats", "mosquitto"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with request.param(tmp_path) as broker:
        yield broker


def test_bytes_arrive_unchanged_and_in_order(broker: Broker) -> None:
    payloads = [bytes([n]) * (n * 37) for n in range(100)]
    with connected(broker.url, "a/b") as listener, connected(broker.url) as sender:
        for payload in payloads:
            assert sender.link.publish("a/b", payload)
        assert [listener.next() for _ in payloads] == [("a/b", payload) for payload in payloads]


def test_subscriptions_are_renewed_after_the_broker_was_killed(broker: Broker) -> None:
    """Without this an edge would look connected and never again hear an acknowledgement."""
    with connected(broker.url, "a/#") as listener, connected(broker.url) as sender:
        broker.kill()
        assert listener.down.wait(WAIT_S)
        assert sender.down.wait(WAIT_S)
        assert not sender.link.publish("a/1", b"while away")
        assert sender.link.counters["refused_publishes"] == 1
        broker.start()
        assert listener.up.wait(WAIT_S)
        assert sender.up.wait(WAIT_S)
        assert sender.link.publish("a/2", b"back")
        assert listener.next() == ("a/2", b"back")
        assert listener.link.counters["connects"] == 2
        assert listener.link.counters["disconnects"] == 1


def test_a_subscription_made_while_connected_is_heard_too(broker: Broker) -> None:
    with connected(broker.url, "first") as listener:
        listener.link.subscribe("second")
        deadline = time.monotonic() + WAIT_S
        while listener.heard.empty():
            assert time.monotonic() < deadline
            assert listener.link.publish("second", b"x")
            try:
                assert listener.heard.get(timeout=0.05) == ("second", b"x")
                break
            except queue.Empty:
                continue


def test_an_exception_in_a_callback_is_counted_and_the_link_lives(broker: Broker) -> None:
    """paho ends its network thread for it and still calls itself connected."""
    heard: queue.Queue[bytes] = queue.Queue()

    def on_message(_topic: str, payload: bytes) -> None:
        if payload == b"poison":
            raise RuntimeError("a fault of the application")
        heard.put(payload)

    with connected(broker.url, "a", on_message=on_message) as listener:
        assert listener.link.publish("a", b"poison")
        assert listener.link.publish("a", b"food")
        assert heard.get(timeout=WAIT_S) == b"food"
        assert listener.link.counters["callback_errors"] == 1
        assert listener.link.connected


CHILD = """
import sys
from firmware_bridge.mqtt_link import MqttLink
def said(up, detail):
    if up:
        print("up", flush=True)
link = MqttLink(
    sys.argv[1], client_id=sys.argv[2], will=("will", b"gone"), on_message=lambda t, p: None, on_connection=said
)
link.start()
sys.stdin.read()
link.stop()
print("stopped", flush=True)
"""


@contextmanager
def child(url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, f"child-{secrets.token_hex(6)}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_the_will_is_sent_when_a_client_dies(broker: Broker) -> None:
    with connected(broker.url, "will") as listener, child(broker.url) as process:
        process.kill()
        assert listener.next() == ("will", b"gone")


def test_the_will_is_not_sent_after_an_orderly_stop(broker: Broker) -> None:
    with connected(broker.url, "will", "mark") as listener:
        with child(broker.url) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            assert process.stdout.readline() == "stopped\n"
            process.wait(WAIT_S)
        assert listener.link.publish("mark", b"after")
        assert listener.next() == ("mark", b"after")


@pytest.mark.parametrize("start", [nats, mosquitto], ids=["nats", "mosquitto"])
def test_a_refused_sign_in_says_so_and_is_tried_again(start: Any, tmp_path: Path) -> None:
    with start(tmp_path, users={"edge": "right"}) as broker:
        listener = Listener(broker.url, user="edge", password="wrong")
        listener.link.start()
        try:
            deadline = time.monotonic() + WAIT_S
            while listener.link.counters["refused_connects"] < 2:
                assert time.monotonic() < deadline
                listener.down.wait(0.05)
            assert not listener.link.connected
            assert listener.link.refusal == "Not authorized"
            assert listener.said[0] == (False, "refused: Not authorized")
        finally:
            listener.link.stop()
        with connected(broker.url, user="edge", password="right") as again:
            assert again.link.refusal is None


def test_a_link_without_a_broker_says_why_and_stops_at_once() -> None:
    listener = Listener(f"mqtt://127.0.0.1:{free_port()}")
    listener.link.start()
    assert listener.down.wait(WAIT_S)
    assert not listener.link.publish("a", b"x")
    started = threading.active_count()
    listener.link.stop()
    listener.link.stop()
    assert threading.active_count() < started
    assert listener.said[0][0] is False
    assert "refused" in listener.said[0][1]


def test_a_broker_that_comes_later_is_found(tmp_path: Path) -> None:
    with nats(tmp_path) as broker:
        broker.stop()
        listener = Listener(broker.url, "a")
        listener.link.start()
        try:
            assert listener.down.wait(WAIT_S)
            broker.start()
            assert listener.up.wait(WAIT_S)
        finally:
            listener.link.stop()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://127.0.0.1:1883", BrokerAddress("127.0.0.1", 1883, False)),
        ("mqtt://broker", BrokerAddress("broker", 1883, False)),
        ("mqtts://broker", BrokerAddress("broker", 8883, True)),
        ("mqtt://[::1]:99", BrokerAddress("::1", 99, False)),
    ],
)
def test_addresses(url: str, address: BrokerAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1883", "http://a", "mqtt://", "mqtt://u:p@a", "mqtt://a:x", "mqtt://a/b"]
)
def test_wrong_addresses_name_the_expected_form(url: str) -> None:
    with pytest.raises(ValueError, match="expected mqtt://host:port"):
        parse_url(url)
