"""Edges that only publish: prepared frames to the hub's broker, as fast as they are acknowledged. Run as a program.

Each line on standard input asks for the round of that number; the answer is `done BEGIN END`, monotonic ns.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from pathlib import Path

import numpy as np

from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import Header, Shape, encode_frame
from lab_contract.kit import builtin_kit_models
from lab_contract.messages import load_ack
from lab_contract.topics import Kind, topic

EDGES = ("eeg-1", "eeg-2", "eeg-3", "eeg-4")
"""Each has one kit, of the same name."""
ROUNDS = 3
FRAMES = 300
"""Frames of one edge in one round."""
RATE_HZ = 250
WINDOW = 64
"""As the edge's own."""
STUCK_S = 30.0
SECOND = 1_000_000_000


def frames(edge: str, number: int) -> list[bytes]:
    """A round's frames of an edge: each 1 s of eight EEG channels at 250 Hz; consecutive, the last a minute ago."""
    stream = builtin_kit_models()["bci_platform"].stream_by_id["eeg"]
    rng = np.random.default_rng([EDGES.index(edge), number])
    first = time.time_ns() // SECOND * SECOND - (60 + (ROUNDS - number) * FRAMES) * SECOND
    made: list[bytes] = []
    for i in range(FRAMES):
        t = first + i * SECOND + np.arange(RATE_HZ, dtype=np.int64) * (SECOND // RATE_HZ)
        values = rng.normal(0, 20, (len(stream.channels), RATE_HZ)).astype(np.float32)
        header = Header(edge, 1, number * FRAMES + i + 1, edge, stream.id, Shape.FRAME)
        made.append(encode_frame(header, t, stream.channels, values))
    return made


class Publisher:
    """One edge's link, with a window of frames that wait for the hub's acknowledgement."""

    def __init__(self, url: str, edge: str, password: str) -> None:
        self._edge = edge
        self._connected = threading.Event()
        self._acknowledged: queue.Queue[int] = queue.Queue()
        self.link = MqttLink(
            url,
            client_id=f"bench-{edge}",
            user=f"edge-{edge}",
            password=password,
            on_message=self._heard,
            on_connection=lambda up, _why: self._connected.set() if up else None,
        )
        self.link.subscribe(topic(edge, Kind.ACK))
        self.link.start()

    def wait_connected(self) -> None:
        """Raises TimeoutError where the broker does not take us."""
        if not self._connected.wait(STUCK_S):
            raise TimeoutError(f"{self._edge}: no connection to the broker")

    def _heard(self, _topic: str, payload: bytes) -> None:
        ack = load_ack(payload)
        if ack.quarantined:
            print(f"kept aside: {ack.quarantined[0]}", file=sys.stderr, flush=True)
        self._acknowledged.put(len(ack.stored))

    def send(self, batches: list[bytes]) -> None:
        """Until all are acknowledged. Raises queue.Empty where the acknowledgements stop coming."""
        waiting = 0
        for batch in batches:
            while waiting >= WINDOW:
                waiting -= self._acknowledged.get(timeout=STUCK_S)
            if not self.link.publish(topic(self._edge, Kind.UP), batch):
                raise ConnectionError(f"{self._edge}: the broker took a batch no more")
            waiting += 1
        while waiting > 0:
            waiting -= self._acknowledged.get(timeout=STUCK_S)


def main(url: str, folder: Path) -> None:
    """Publish the rounds that are asked for, until the end of input."""
    publishers = {
        edge: Publisher(url, edge, (folder / f"{edge}.password").read_text("utf-8").strip()) for edge in EDGES
    }
    for publisher in publishers.values():
        publisher.wait_connected()
    print("ready", flush=True)
    for line in sys.stdin:
        batches = {edge: frames(edge, int(line)) for edge in EDGES}
        threads = [threading.Thread(target=publishers[edge].send, args=(batches[edge],)) for edge in EDGES]
        begin = time.monotonic_ns()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"done {begin} {time.monotonic_ns()}", flush=True)
    for publisher in publishers.values():
        publisher.link.stop()


def _leave(fault: threading.ExceptHookArgs) -> None:
    # A thread that fails must not leave a round that looks complete.
    print(f"{fault.exc_type.__name__}: {fault.exc_value}", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    threading.excepthook = _leave
    main(sys.argv[1], Path(sys.argv[2]))
