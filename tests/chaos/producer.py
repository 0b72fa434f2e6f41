"""`python -m tests.chaos.producer URL LOG`: equipment that counts, publishes over MQTT, and logs first what it makes.

The line of a message is written to the log before the message is published, in one call, so that a kill -9 at any
moment leaves a whole line for everything that can ever have been sent. Started again, it counts on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from firmware_bridge.mqtt_link import MqttLink
from tests.chaos.made import COUNTS_EVERY, PREFIX, WAVE_HZ, Made, payload, read_log


class Producer:
    """Makes messages for as long as its standard input is open."""

    def __init__(self, url: str, log: Path) -> None:
        self._counters = {"wave": 0, "counts": 0}
        self._t = 0
        for made in read_log(log):
            self._counters[made.topic] = made.counter + 1
            self._t = made.t
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._connected = threading.Event()
        self._ended = threading.Event()
        self._link = MqttLink(
            url,
            client_id=f"equipment-{os.getpid()}",
            on_message=lambda _topic, _payload: None,
            on_connection=self._connection,
        )

    def run(self) -> None:
        """Until standard input ends; then everything made is handed over before this returns."""
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        self._link.start()
        while not self._connected.wait(0.1):
            if self._ended.is_set():
                return
        due = time.monotonic()
        tick = 0
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._make("wave")
            if tick % COUNTS_EVERY == 0:
                self._make("counts")
            tick += 1
            due = max(due + 1 / WAVE_HZ, time.monotonic() - 1)
        self._link.stop()

    def _make(self, topic: str) -> None:
        # Each time only once: a store that knows samples by channel and time could not tell two apart.
        self._t = max(self._t + 1, time.time_ns())
        made = Made(topic, self._counters[topic], self._t)
        self._counters[topic] += 1
        os.write(self._log, made.line())
        data = payload(topic, made.counter, made.t)
        while not self._link.publish(f"{PREFIX}/{topic}", data) and not self._ended.wait(0.02):
            pass

    def _connection(self, up: bool, _why: str) -> None:
        if up:
            self._connected.set()

    def _wait_for_the_end(self) -> None:
        sys.stdin.buffer.read()
        self._ended.set()


if __name__ == "__main__":
    Producer(sys.argv[1], Path(sys.argv[2])).run()
