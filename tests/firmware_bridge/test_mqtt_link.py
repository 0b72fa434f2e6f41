"""What everything above relies on in the MQTT link session, on both real brokers."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.mqtt_link import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    BrokerAddress,
    MqttLink,
    backoff_s,
    parse_url,
)
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


class Meddler:
    """A TCP proxy in front of a broker, which can put bytes of its own into what the broker says."""

    def __init__(self, port: int) -> None:
        self._broker = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker))
                self._ends += [client, broker]
                for source, sink in ((client, broker), (broker, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def inject(self, data: bytes) -> None:
        """To the newest client."""
        self._ends[-2].sendall(data)

    def close(self) -> None:
        for end in (self._server, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_packets_that_make_no_sense_cost_no_more_than_a_reconnect(tmp_path: Path) -> None:
    longer_than_itself, no_utf_8 = b"\x30\x04\xff\xffab", b"\x30\x04\0\x01\xffx"
    with mosquitto(tmp_path) as broker:
        meddler = Meddler(broker.port)
        try:
            with connected(meddler.url, "a") as listener, connected(broker.url) as sender:
                meddler.inject(no_utf_8)
                meddler.inject(longer_than_itself)
                assert listener.down.wait(WAIT_S)
                assert listener.up.wait(WAIT_S)
                assert listener.link.counters["callback_errors"] == 1
                assert sender.link.publish("a", b"after")
                assert listener.next() == ("a", b"after")
        finally:
            meddler.close()


def test_a_fault_that_ends_the_network_thread_is_counted_and_the_link_made_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paho's thread ends over it with nobody told: the edge would call itself connected for ever and send nothing."""
    handle = paho.Client._handle_publish
    faults = [ZeroDivisionError("a bug")]

    def faulty(client: paho.Client) -> Any:
        if faults:
            raise faults.pop()
        return handle(client)

    with connected(broker.url, "a") as listener, connected(broker.url) as sender:
        monkeypatch.setattr(paho.Client, "_handle_publish", faulty)
        assert sender.link.publish("a", b"poison", qos=0)
        assert listener.down.wait(WAIT_S)
        assert "ZeroDivisionError" in listener.said[1][1]
        assert listener.up.wait(WAIT_S)
        assert listener.link.counters["network_faults"] == 1
        assert sender.link.publish("a", b"food")
        assert listener.next()[1] in (b"poison", b"food")


def test_a_link_that_stands_and_passes_nothing_on_is_made_anew(broker: Broker) -> None:
    """A broker that has forgotten a subscription answers pings all the same: only messages prove that messages pass."""
    with connected(broker.url, "a", silent_s=0.5) as listener:
        assert listener.down.wait(WAIT_S)
        assert "nothing heard for 0.5 s" in listener.said[1][1]
        assert listener.up.wait(WAIT_S)
        assert listener.link.counters["silences"] == 1


def test_a_link_on_which_messages_come_is_left_alone(broker: Broker) -> None:
    with connected(broker.url, "a", silent_s=1.5) as listener, connected(broker.url) as sender:
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            assert sender.link.publish("a", b"beat")
            assert listener.next() == ("a", b"beat")
            assert not listener.down.wait(0.2)
        assert listener.link.counters["silences"] == 0


def test_what_a_stuck_broker_does_not_take_stays_with_the_caller(tmp_path: Path) -> None:
    """paho would queue in RAM without bound, and drop without a word past 65,535."""
    with (
        mosquitto(tmp_path) as broker,
        connected(broker.url, "a") as listener,
        connected(broker.url, max_inflight=20) as sender,
    ):
        os.kill(broker.pid, signal.SIGSTOP)
        taken = [n for n in range(50) if sender.link.publish("a", b"%d" % n)]
        assert taken == list(range(20))
        assert sender.link.counters["refused_publishes"] == 30
        os.kill(broker.pid, signal.SIGCONT)
        assert [listener.next() for _ in taken] == [("a", b"%d" % n) for n in taken]


def test_a_link_to_a_stuck_broker_stops_in_time(tmp_path: Path) -> None:
    """An edge that is told to stop would hang with its buffer full of what nobody takes."""
    with mosquitto(tmp_path) as broker, connected(broker.url, max_inflight=200) as sender:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            for _ in range(200):
                sender.link.publish("a", bytes(100_000))
            begin = time.monotonic()
            sender.link.stop()
            assert time.monotonic() - begin < 4
            assert sender.link._thread is not None
            assert not sender.link._thread.is_alive()
        finally:
            os.kill(broker.pid, signal.SIGCONT)


@given(attempt=st.integers(0, 1000), seeds=st.lists(st.integers(), min_size=2, max_size=2, unique=True))
def test_no_two_links_knock_at_the_same_pace(attempt: int, seeds: list[int]) -> None:
    """A hundred edges that lost one broker would come back in the same instant, again and again."""
    first, second = (random.Random(seed) for seed in seeds)
    pauses = [backoff_s(min(attempt, 60), first), backoff_s(min(attempt, 60), second)]
    assert pauses[0] != pauses[1] or first.getstate() == second.getstate()
    least = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(attempt, 60)) / 2
    assert all(least <= pause <= BACKOFF_MOST_S for pause in pauses)
