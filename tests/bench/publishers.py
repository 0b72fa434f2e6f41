"""Twenty edges that only publish: prepared batches to the hub's broker, each with an edge's window. Run as a program.

A line `LOAD NUMBER RATE` on standard input asks for a round; RATE is in samples a second of all edges together, 0 as
fast as they are acknowledged. The answer is `done SECONDS P50_MS P99_MS`: from the first publish to the last
acknowledgement, and how long acknowledgements took from the publish on.

The sockets are spoken to directly, in one thread (MQTT 3.1.1, sections 3.1 to 3.4 and 3.8): twenty MQTT clients would
take as much of this machine's two cores as the hub that is to be measured.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from lab_contract.topics import Kind, topic
from tests.bench.figures import percentile
from tests.bench.loads import BATCHES_A_ROUND, EDGES, LOADS, Load, prepared

WINDOW = 64
WINDOW_BYTES = 8 * 2**20
"""Both as an edge's own."""
STUCK_S = 30.0
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
QOS1 = 0x02


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT control packet."""
    length, rest = b"", len(body)
    while True:
        rest, low = divmod(rest, 128)
        length += bytes([low | (0x80 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body


def text(value: str) -> bytes:
    """A length-prefixed string."""
    return struct.pack(">H", len(value)) + value.encode()


class Edge:
    """One edge's connection, with the batches that wait for the hub's acknowledgement."""

    def __init__(self, url: str, edge: str, password: str) -> None:
        address = urlsplit(url)
        self.edge = edge
        self.socket = socket.create_connection((address.hostname or "", address.port or 0), timeout=STUCK_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = bytearray()
        self._out: deque[memoryview] = deque()
        flags = 0x02 | 0x80 | 0x40  # clean session, user name, password
        body = text("MQTT") + bytes([4, flags]) + struct.pack(">H", 0)
        self._ask(packet(CONNECT, body + text(f"bench-{edge}") + text(f"edge-{edge}") + text(password)), CONNACK)
        self._ask(packet(SUBSCRIBE, b"\0\1" + text(topic(edge, Kind.ACK)) + b"\0"), SUBACK)
        self.socket.setblocking(False)
        self.sent_ns: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.waits_ms: list[float] = []

    def _ask(self, request: bytes, expected: int) -> None:
        self.socket.sendall(request)
        while not (answers := list(self._packets())):
            self._in += self.socket.recv(4096)
        kind, body = answers[0]
        if kind & 0xF0 != expected & 0xF0 or body[-1] not in (0, 1):
            raise ConnectionError(f"{self.edge}: the broker answered {kind:#x} {body.hex()}")

    def start(self, load: Load, number: int) -> None:
        """Prepare a round."""
        name = text(topic(self.edge, Kind.UP))
        batches = prepared(load, self.edge, number)
        self.packets = [
            packet(PUBLISH | QOS1, name + struct.pack(">H", i % 65535 + 1) + batch) for i, batch in enumerate(batches)
        ]
        self.first = (number + 1) * BATCHES_A_ROUND
        self.next = 0
        self.waits_ms.clear()

    @property
    def done(self) -> bool:
        """Whether everything is acknowledged."""
        return self.next == len(self.packets) and not self.sent_ns

    @property
    def writes(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._out)

    def publish(self, due: int) -> None:
        """Up to the batch of this place, as far as the window allows."""
        while self.next < min(due, len(self.packets)) and len(self.sent_ns) < WINDOW:
            data = self.packets[self.next]
            if sum(self.sizes.values()) + len(data) > WINDOW_BYTES:
                break
            self.sent_ns[self.first + self.next] = time.monotonic_ns()
            self.sizes[self.first + self.next] = len(data)
            self._out.append(memoryview(data))
            self.next += 1
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._out:
            try:
                written = self.socket.send(self._out[0])
            except BlockingIOError:
                return
            if written == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][written:]

    def read(self) -> None:
        """Take acknowledgements. Raises RuntimeError for a batch that the hub keeps aside."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"{self.edge}: the broker has closed the connection")
        self._in += data
        now = time.monotonic_ns()
        for kind, body in self._packets():
            if kind & 0xF0 != PUBLISH:
                continue
            (length,) = struct.unpack_from(">H", body)
            ack = json.loads(body[2 + length :])
            if ack.get("quarantined"):
                raise RuntimeError(f"{self.edge}: kept aside: {ack['quarantined'][0]}")
            for seq in ack["stored"]:
                self.sizes.pop(seq)
                self.waits_ms.append((now - self.sent_ns.pop(seq)) / 1e6)

    def _packets(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while len(self._in) >= 2:
            length, shift, at = 0, 0, 1
            while at < len(self._in):
                byte = self._in[at]
                length |= (byte & 127) << shift
                shift, at = shift + 7, at + 1
                if not byte & 128:
                    break
            else:
                break
            if len(self._in) < at + length:
                break
            found.append((self._in[0], bytes(self._in[at : at + length])))
            del self._in[: at + length]
        return found


def play(edges: list[Edge], load: Load, rate: float) -> str:
    """One round. Raises TimeoutError where acknowledgements stop coming."""
    begin = heard = time.monotonic()
    a_second = rate / (load.samples / load.batches) if rate else 0.0
    with selectors.DefaultSelector() as selector:
        for edge in edges:
            selector.register(edge.socket, selectors.EVENT_READ, edge)
        while not all(edge.done for edge in edges):
            now = time.monotonic()
            # Spread over the interval: edges do not publish all in the same moment.
            for place, edge in enumerate(edges):
                due = int((now - begin) * a_second + 1 - place / len(edges)) if rate else len(edge.packets)
                edge.publish(due)
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if edge.writes else 0)
                selector.modify(edge.socket, events, edge)
            for key, events in selector.select(0.002 if rate else 0.05):
                if events & selectors.EVENT_READ:
                    key.data.read()
                    heard = now
                if events & selectors.EVENT_WRITE:
                    key.data.flush()
            if now - heard > STUCK_S:
                raise TimeoutError("no acknowledgement comes any more")
    seconds = time.monotonic() - begin
    waits = [wait for edge in edges for wait in edge.waits_ms]
    return f"done {seconds} {percentile(waits, 0.5)} {percentile(waits, 0.99)}"


def main(url: str, folder: Path) -> None:
    """Play the rounds that are asked for, until the end of input."""
    edges = [Edge(url, edge, (folder / f"{edge}.password").read_text("utf-8").strip()) for edge in EDGES]
    print("ready", flush=True)
    for line in sys.stdin:
        name, number, rate = line.split()
        load = LOADS[name]
        for edge in edges:
            edge.start(load, int(number))
        print(play(edges, load, float(rate)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
