"""The MQTT link session: one MQTT 3.1.1 connection kept up for ever, with paho's traps handled here and nowhere else.

What paho leaves to its user, and what is done about it:

* An exception in a callback ends the network thread while `is_connected()` stays true: every callback is wrapped.
* So does one of its own over a packet that makes no sense: its end is noticed, counted, and the link made anew.
* A message published while disconnected waits in RAM and is dropped silently past 65,535: `publish` refuses instead, so
  the caller keeps its message, and each connection has a client of its own, so that nothing old is left to resend.
* A broker that takes no more makes a queue in RAM as well: past `max_inflight` paho answers code 15, and `publish`
  refuses; so it does for every other code than success.
* A failed connection is retried at a fixed pace by everyone at once: the back-off here is exponential with jitter.
* Subscriptions are forgotten with a clean session: they are renewed at each connect, and the link counts as connected
  only when the broker has answered them all. A refused one is counted and logged.
* A connection that stands and passes nothing on looks well: whoever knows that messages must come gives `silent_s`, and
  the link is made anew where none did. What makes them come is the caller's: acknowledgements, answers, a heartbeat.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from firmware_bridge.mqtt_socket import ReadAheadClient

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.25
BACKOFF_MOST_S = 10.0
HANDSHAKE_S = 10.0
"""How long the broker may take from the TCP connection to the last granted subscription."""
WATCH_S = 0.5
FAREWELL_S = 1.0
SILENCE_MOST = 10.0
"""A silence that lasts is met with ever rarer reconnects, at last this many times `silent_s` apart."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens."""

    host: str
    port: int
    tls: bool


def parse_url(url: str) -> BrokerAddress:
    """The address in `mqtt://host:port` or `mqtts://host:port`. Raises ValueError with the expected form."""
    parts = urlsplit(url)
    # A password written into the address by mistake must not come out in a log.
    shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else url
    expected = f"expected mqtt://host:port or mqtts://host:port, found {shown!r}"
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise ValueError(expected)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, port or (8883 if tls else 1883), tls)


def backoff_s(attempt: int, rng: random.Random) -> float:
    """The pause before a connection is tried again: twice as long each time, and never the same for all clients."""
    return min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**attempt) * rng.uniform(0.5, 1.0)


class _Client(ReadAheadClient):
    """paho's client, whose network thread tells of its end whatever ends it."""

    on_end: Callable[[Exception | None], None]

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        try:
            code = super().loop_forever(timeout, retry_first_connection)
        except Exception as error:
            # A packet that paho stumbles over. Raised further it would only end the thread with nobody told.
            log.exception("the network thread of the MQTT link failed")
            self.on_end(error)
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        self.on_end(None)
        return code


class MqttLink:
    """One connection to a broker, renewed in the background until `stop`.

    `on_message(topic, payload)` and `on_connection(connected, detail)` run on a thread of the link and must be quick.
    Over TLS the broker must show a certificate that `ca_file` (left out: the system) trusts and that bears the host's
    name; with `certificate` it must show exactly that one, whatever name it bears.
    After a refused sign-in `refusal` holds the broker's reason until the next connection succeeds. Where nothing is
    heard for `silent_s` though the link stands, it is made anew.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        on_message: Callable[[str, bytes], None],
        on_connection: Callable[[bool, str], None],
        user: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        certificate: Path | None = None,
        will: tuple[str, bytes] | None = None,
        keepalive_s: int = 15,
        max_inflight: int = 256,
        silent_s: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._address = parse_url(url)
        self._client_id = client_id
        self._user = user
        self._password = password
        self._ca_file = ca_file
        self._certificate = certificate
        self._will = will
        self._keepalive_s = keepalive_s
        self._max_inflight = max_inflight
        self._silent_s = silent_s
        self._patience_s = silent_s or 0.0
        self._heard_s = 0.0
        self._rng = rng or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._on_message = on_message
        self._on_connection = on_connection
        self._subscriptions: dict[str, int] = {}
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        self._waiting: dict[int, str] = {}
        self._ended = threading.Event()
        """The present connection is over."""
        self._loop_ended = threading.Event()
        """So is its network thread."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._why = ""
        self.connected = False
        self.refusal: str | None = None
        self.counters: dict[str, int] = {
            "connects": 0,
            "disconnects": 0,
            "refused_connects": 0,
            "refused_subscriptions": 0,
            "refused_publishes": 0,
            "silences": 0,
            "callback_errors": 0,
            "network_faults": 0,
        }

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost."""
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self._address.host}", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Disconnect in order (the broker does not send the will) and end the threads. Safe to call again."""
        self._stopping.set()
        client = self._client
        if client is not None:
            client.disconnect()
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def subscribe(self, topic: str, qos: int = 1) -> None:
        """Hear `topic` on this and on every later connection."""
        with self._lock:
            self._subscriptions[topic] = qos
            client = self._client
            if client is not None and client.is_connected():
                self._request(client, topic, qos)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool:
        """Hand a message to the broker; False where it was not taken, and then the caller still has it.

        True is no promise of storage, only that the message is on its way.
        """
        client = self._client
        if client is None or not self.connected:
            self.counters["refused_publishes"] += 1
            return False
        info = client.publish(topic, payload, qos)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.counters["refused_publishes"] += 1
            return False
        return True

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._ended.clear()
            self._loop_ended.clear()
            if self._stopping.is_set():
                return  # `stop` came between the two lines above
            connected_before = self.counters["connects"]
            try:
                # Inside, as a certificate file that is gone meanwhile must not end this thread with nobody told.
                client = self._new_client()
                client.connect(self._address.host, self._address.port, self._keepalive_s)
            except (OSError, ValueError) as error:
                self._down(f"{self._address.host}:{self._address.port}: {error}")
            else:
                self._client = client
                client.loop_start()
                if self._stopping.is_set():
                    client.disconnect()  # `stop` came before it could see this client
                self._wait_for_end(client)
                self._client = None
                if not self._loop_ended.wait(FAREWELL_S):
                    self._cut(client)
                client.loop_stop()
                left_open: Any = client.socket()
                if left_open is not None:
                    left_open.close()  # paho forgets it where the loop ends before the broker has closed
                self._down(self._why)
            attempt = 0 if self.counters["connects"] > connected_before else attempt + 1
            self._stopping.wait(backoff_s(attempt, self._rng))

    def _wait_for_end(self, client: paho.Client) -> None:
        until = time.monotonic() + HANDSHAKE_S
        self._heard_s = time.monotonic()
        while not self._ended.wait(WATCH_S):
            now = time.monotonic()
            if not self.connected:
                if now >= until:
                    self._why = f"no answer within {HANDSHAKE_S:.0f} s"
                    client.disconnect()
                    return
                self._heard_s = now
            elif self._silent_s is not None and now - self._heard_s >= self._patience_s:
                self._why = f"connected, but nothing heard for {self._patience_s:g} s"
                self._patience_s = min(SILENCE_MOST * self._silent_s, 2 * self._patience_s)
                self.counters["silences"] += 1
                client.disconnect()
                return

    @staticmethod
    def _cut(client: paho.Client) -> None:
        """End the network thread's wait for a broker that takes nothing more, not even the farewell."""
        left: Any = client.socket()
        if left is not None:
            try:
                left.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def _network_ended(self, error: Exception | None) -> None:
        if error is not None:
            self.counters["network_faults"] += 1
            self._why = f"unexpected {type(error).__name__}: {error}"
        self._loop_ended.set()
        self._ended.set()

    def _new_client(self) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(self._max_inflight)
        client.max_queued_messages_set(self._max_inflight)
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._address.tls:
            context = _tls(self._ca_file, self._certificate)
            client.tls_set_context(context)  # pyright: ignore[reportUnknownMemberType]
        if self._will is not None:
            client.will_set(self._will[0], self._will[1], qos=1)

        client.on_end = self._network_ended

        def on_connect(_c: paho.Client, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
            self._guard(self._connected, client, reason)

        def on_disconnect(_c: paho.Client, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
            if reason.is_failure and not self._why:
                self._why = str(reason)
            self._ended.set()

        def on_subscribe(_c: paho.Client, _u: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
            self._guard(self._granted, mid, reasons)

        def on_publish(_c: paho.Client, _u: Any, _mid: int, reason: ReasonCode, _p: Any) -> None:
            if reason.is_failure:
                self.counters["refused_publishes"] += 1

        def on_message(_c: paho.Client, _u: Any, message: paho.MQTTMessage) -> None:
            self._heard_s = time.monotonic()
            self._patience_s = self._silent_s or 0.0
            # The topic is decoded in there: one that is no UTF-8 would end the thread too.
            self._guard(lambda: self._on_message(message.topic, bytes(message.payload)))

        def on_socket_open(_c: paho.Client, _u: Any, opened: Any) -> None:
            # Nagle's algorithm would hold small messages back: 25 ms more from publish to acknowledgement.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        client.on_socket_open = on_socket_open
        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_subscribe = on_subscribe
        client.on_publish = on_publish
        client.on_message = on_message
        return client

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception:
            # Whatever a callback raises would end the network thread with nobody told.
            self.counters["callback_errors"] += 1
            log.exception("a callback of the MQTT link failed")

    def _connected(self, client: paho.Client, reason: ReasonCode) -> None:
        if reason.is_failure:
            self.counters["refused_connects"] += 1
            self.refusal = str(reason)
            self._why = f"refused: {reason}"
            return
        self.refusal = None
        self._why = ""
        with self._lock:
            self._waiting.clear()
            for topic, qos in self._subscriptions.items():
                self._request(client, topic, qos)
            if self._waiting:
                return
        self._up()

    def _request(self, client: paho.Client, topic: str, qos: int) -> None:
        code, mid = client.subscribe(topic, qos)
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
            self._waiting[mid] = topic

    def _granted(self, mid: int, reasons: list[ReasonCode]) -> None:
        with self._lock:
            topic = self._waiting.pop(mid, None)
            if topic is not None and any(reason.is_failure for reason in reasons):
                self.counters["refused_subscriptions"] += 1
                log.warning("the broker refused a subscription: may this account hear %s?", topic)
            ready = not self._waiting and not self.connected
        if ready:
            self._up()

    def _up(self) -> None:
        self.connected = True
        self.counters["connects"] += 1
        self._on_connection(True, "")

    def _down(self, why: str) -> None:
        if self.connected:
            self.counters["disconnects"] += 1
        self.connected = False
        self._why = ""
        self._guard(self._on_connection, False, why)


class _TlsSocket(ssl.SSLSocket):
    """Closes itself where the handshake fails: paho forgets it then, and a broker that refuses would cost a handle each
    time.
    """

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls(ca_file: Path | None, certificate: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate or ca_file) if certificate or ca_file else None)
    context.sslsocket_class = _TlsSocket
    if certificate is not None:
        # Whoever shows it holds its key: that proves more than a name. Without the flag only a root would be trusted.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
