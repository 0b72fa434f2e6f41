"""The queue between the MQTT network thread and the writer: receives messages, hands on bursts; bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from lab_contract.batch import HEADER, HEADER_BYTES, Shape

MAX_BYTES = 64 * 1024 * 1024
BURST_SAMPLES = 250_000
"""Larger transactions store no faster and make the acknowledgement late."""
WORTH_SAMPLES = 150_000
"""From a row group (122,880 rows) on the embedded store writes a transaction once and not twice."""
BUSY_SAMPLES = 30_000
"""Once this much comes at a time it is worth waiting for more."""
GATHER_S = 0.1
"""How long then: half of the load that a hub can take would else be stored in so many small transactions that
acknowledgements are twice as late."""
BURST_BYTES = 16 * 1024 * 1024
"""A burst of messages that tell no number of samples, or of long texts, ends here."""
_SHAPE, _ROWS = 2, 5
"""Places in the header's fields."""
SAMPLE_BYTES = 5
"""Of a frame: each value has four, and its share of the time."""


@dataclass(frozen=True, slots=True)
class Message:
    """A batch as it came: the edge whose topic it came on, its bytes, when it came (UTC ns)."""

    sender: str
    data: bytes
    received_ns: int

    @property
    def samples(self) -> int:
        """About how many values it holds, from a header that nobody has checked yet."""
        if len(self.data) < HEADER_BYTES:
            return 0
        fields = HEADER.unpack_from(self.data)
        most = len(self.data) // SAMPLE_BYTES
        return most if fields[_SHAPE] == Shape.FRAME else min(most, fields[_ROWS])


class Inbox:
    """First in, first out. `put` never waits: the edge still has what is refused, and sends it again."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._samples = self._last_samples = 0
        self.bytes = 0

    def put(self, message: Message) -> bool:
        """Take a message; False where it would pass the bound or the inbox is closed."""
        with self._changed:
            if self._closed or self.bytes + len(message.data) > self._max_bytes:
                return False
            self._messages.append(message)
            self.bytes += len(message.data)
            self._samples += message.samples
            # The writer waits for the first or for enough; to wake it for each between would cost both threads time.
            if len(self._messages) == 1 or self._worth_it():
                self._changed.notify()
            return True

    def take(self, timeout_s: float) -> list[Message]:
        """What has come, up to a burst; empty after the time-out or once closed.

        While little comes nothing is waited for once there is one message: while one burst is stored the next gathers
        by itself. Where the last burst was large, a while is waited for a burst that is worth its transaction.
        """
        with self._changed:
            if not self._messages and not self._closed:
                self._changed.wait(timeout_s)
            if self._last_samples >= BUSY_SAMPLES:
                self._changed.wait_for(self._worth_it, GATHER_S)
            burst: list[Message] = []
            size = samples = 0
            while self._messages and not self._closed and size < BURST_BYTES and samples < BURST_SAMPLES:
                message = self._messages.popleft()
                size += len(message.data)
                samples += message.samples
                burst.append(message)
            self.bytes -= size
            self._samples -= samples
            self._last_samples = samples
            return burst

    def _worth_it(self) -> bool:
        return self._closed or self._samples >= WORTH_SAMPLES or self.bytes >= BURST_BYTES

    def close(self) -> None:
        """Take and give nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
