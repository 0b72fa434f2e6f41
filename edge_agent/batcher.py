"""Second stage of the line: takes the readings of one kit, hands on encoded batches. Pure: no I/O, no clock, no task.

Events wait a moment after the first one, so that what the equipment publishes in one burst travels in one batch; frames
wait longer, since a sampled stream comes in many small pieces. Both are bounded in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import EARLIEST_NS, LATEST_NS
from edge_agent.clock_offset import Offset, no_offset
from edge_agent.source import Event, Frame
from lab_contract.batch import EVENT_STREAM, Header, Shape, encode_events, encode_frame
from lab_contract.kit import Stream

EVENT_LINGER_MS = 10
"""A server publishes all changes of a period at once, some in several answers: 10 ms catch them. Every change waits as
long, so more would be felt at the pages and save hardly a batch."""
MOST_EVENTS = 2000
MOST_SAMPLES = 8192
"""Rows of one batch; more are split. 8,192 samples of 16 channels are 0.6 MB."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch that is ready for the spool; `seq` is its number in this epoch, the times in it are UTC ns."""

    seq: int
    data: bytes
    kit: str
    stream: str
    shape: Shape
    rows: int
    t_first: int
    t_last: int


@dataclass(slots=True)
class _Gathered:
    """Pieces of one stream that wait to become a batch."""

    stream: Stream
    t: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)
    samples: int = 0
    due_ns: int | None = None


class Batcher:
    """Gathers the readings of one kit. Times named `now_ns` are monotonic, those named `utc_ns` UTC.

    `offset` is asked for the clock offset that each batch bears; no time in a batch is changed by it.
    """

    def __init__(
        self,
        *,
        edge: str,
        kit: str,
        epoch: int,
        streams: Sequence[Stream],
        take_seq: Callable[[], int],
        batch_ms: int = 250,
        event_linger_ms: int = EVENT_LINGER_MS,
        offset: Callable[[], Offset] = no_offset,
    ) -> None:
        self._edge = edge
        self._kit = kit
        self._epoch = epoch
        self._take_seq = take_seq
        self._offset = offset
        self._batch_ns = batch_ms * 1_000_000
        self._linger_ns = event_linger_ms * 1_000_000
        self._events: list[Event] = []
        self._events_due_ns: int | None = None
        self._streams = {stream.id: _Gathered(stream) for stream in streams}
        self.counters: dict[str, int] = {"bad_readings": 0, "bad_times": 0}
        """`bad_readings`: events and frames that fit no batch, left out. `bad_times`: events of an impossible time."""

    @property
    def has_events(self) -> bool:
        """Whether events wait to become a batch."""
        return bool(self._events)

    def add(self, reading: list[Event] | Frame, now_ns: int, utc_ns: int) -> None:
        """Gather a reading that came at `now_ns`.

        An event dated outside of this century is dated by its receipt, `utc_ns` where the source gives none: nothing
        could be found again under a date such as 1601. What fits no batch is left out and counted.
        """
        if isinstance(reading, Frame):
            self._add_frame(reading, now_ns)
            return
        for event in reading:
            if not EARLIEST_NS <= event.t < LATEST_NS:
                self.counters["bad_times"] += 1
                event.t = event.t_receipt if event.t_receipt is not None else utc_ns
        self._events += reading
        if self._events and self._events_due_ns is None:
            self._events_due_ns = now_ns + self._linger_ns
        if len(self._events) >= MOST_EVENTS:
            self._events_due_ns = now_ns

    def _add_frame(self, frame: Frame, now_ns: int) -> None:
        gathered = self._streams.get(frame.stream)
        if gathered is None or not _fits(frame, gathered.stream):
            self.counters["bad_readings"] += 1
            return
        if not len(frame.t):
            return
        gathered.t.append(frame.t)
        gathered.values.append(frame.values)
        gathered.samples += len(frame.t)
        if gathered.due_ns is None:
            gathered.due_ns = now_ns + self._batch_ns
        if gathered.samples >= MOST_SAMPLES:
            gathered.due_ns = now_ns

    def due_ns(self) -> int | None:
        """When `take` has something to hand on next; None while nothing waits."""
        due = [gathered.due_ns for gathered in self._streams.values() if gathered.due_ns is not None]
        if self._events_due_ns is not None:
            due.append(self._events_due_ns)
        return min(due, default=None)

    def take(self, now_ns: int | None) -> list[Encoded]:
        """The batches that are due at `now_ns`; with None everything that waits."""
        taken: list[Encoded] = []
        if self._events_due_ns is not None and (now_ns is None or self._events_due_ns <= now_ns):
            events, self._events, self._events_due_ns = self._events, [], None
            for start in range(0, len(events), MOST_EVENTS):
                taken += self._event_batch(events[start : start + MOST_EVENTS])
        for gathered in self._streams.values():
            if gathered.due_ns is not None and (now_ns is None or gathered.due_ns <= now_ns):
                taken += self._frame_batches(gathered)
        return taken

    def _header(self, stream: str, shape: Shape) -> Header:
        offset = self._offset()
        return Header(
            self._edge,
            self._epoch,
            self._take_seq(),
            self._kit,
            stream,
            shape,
            clock_offset_ns=offset.ns,
            clock_uncertainty_ns=offset.uncertainty_ns,
        )

    def _event_batch(self, events: list[Event]) -> list[Encoded]:
        header = self._header(EVENT_STREAM, Shape.EVENT)
        try:
            data = _encode_events(header, events)
        except (ValueError, TypeError, AttributeError, OverflowError):
            # One event of a wrong type must not take the others of its batch with it.
            whole = [event for event in events if _is_whole(event)]
            self.counters["bad_readings"] += len(events) - len(whole)
            if not whole:
                return []
            events, data = whole, _encode_events(header, whole)
        times = [event.t for event in events]
        return [Encoded(header.seq, data, self._kit, EVENT_STREAM, Shape.EVENT, len(events), min(times), max(times))]

    def _frame_batches(self, gathered: _Gathered) -> Iterator[Encoded]:
        t = np.concatenate(gathered.t)
        values = np.concatenate(gathered.values, axis=1)
        gathered.t, gathered.values, gathered.samples, gathered.due_ns = [], [], 0, None
        stream = gathered.stream
        for start in range(0, len(t), MOST_SAMPLES):
            part = slice(start, start + MOST_SAMPLES)
            header = self._header(stream.id, Shape.FRAME)
            times = t[part]
            data = encode_frame(header, times, stream.channels, values[:, part])
            ends = int(times.min()), int(times.max())
            yield Encoded(header.seq, data, self._kit, stream.id, Shape.FRAME, len(times), *ends)


def _fits(frame: Frame, stream: Stream) -> bool:
    """Arrays of the right types and shapes, and times of this century; a frame is left out whole."""
    t, values = frame.t, frame.values
    return (
        t.ndim == 1
        and t.dtype == np.int64
        and values.dtype == np.float32
        and values.shape == (len(stream.channels), len(t))
        and (not len(t) or bool(t.min() >= EARLIEST_NS and t.max() < LATEST_NS))
    )


def _encode_events(header: Header, events: list[Event]) -> bytes:
    return encode_events(
        header,
        [event.t for event in events],
        [event.channel for event in events],
        [event.value for event in events],
        [event.text for event in events],
        [event.quality for event in events],
        [event.t_server for event in events],
        [event.t_receipt for event in events],
    )


def _is_whole(event: Event) -> bool:
    """Whether the event is what its type says."""
    times = (event.t, event.t_server, event.t_receipt)
    return (
        isinstance(event.channel, str)
        and (event.value is None or isinstance(event.value, int | float))
        and (event.text is None or isinstance(event.text, str))
        and isinstance(event.quality, int)
        and 0 <= event.quality < 2**32
        and isinstance(event.t, int)
        and all(t is None or (isinstance(t, int) and -(2**63) <= t < 2**63) for t in times)
        and _encodable(event)
    )


def _encodable(event: Event) -> bool:
    """A huge int fits no float; half a surrogate pair fits no UTF-8."""
    try:
        float(event.value or 0)
        (event.channel + (event.text or "")).encode()
    except (OverflowError, UnicodeEncodeError):
        return False
    return True
