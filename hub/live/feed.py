"""The fan-out: receives committed batches from ingest, hands on values, alarms and stream frames to whoever watches.

A slow browser drops its own oldest frames and sees values less often; it never holds up ingest or another viewer.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from hub.clock import Clock
from hub.live.edges import EdgeRegistry
from hub.live.state import KitState, KitView
from hub.store.base import SECOND, DecodedBatch, DecodedFrame, Latest

if TYPE_CHECKING:
    from hub.ingest.decode import KitEntry

FRAME_HEADER = struct.Struct("<IHBBd")
"""Frame number, samples, channels, index of the stream in the kit model, time of the first sample in ms."""
FRAME_SAMPLES = 4096
"""A longer frame is sent in pieces, so that a browser draws while the rest comes."""
QUEUE_FRAMES = 64
"""Frames that wait for one viewer: 16 s at four a second, far more than a strip chart shows."""

CLOCK_STEP_NS = SECOND
"""A clock offset that changes by more was a step of the edge's clock."""
LATE_NS = 10 * SECOND
"""What is that much older than the newest data is a backlog: trends that show its time are drawn anew."""


class Viewer:
    """What waits for one browser that watches one kit. Used on the event loop only."""

    def __init__(self, kit: str) -> None:
        self.kit = kit
        self.changed = asyncio.Event()
        self.values: dict[str, Latest] = {}
        self.dropped = 0
        self.late: tuple[int, int] | None = None
        self._frames: deque[bytes] = deque()
        self._numbers: defaultdict[int, int] = defaultdict(int)

    def add_values(self, values: Mapping[str, Latest]) -> None:
        """Newer values: each takes the place of the one that waits for the same channel."""
        if values:
            self.values.update(values)
            self.changed.set()

    def add_frame(self, stream: int, first_ms: float, samples: np.ndarray) -> None:
        """Samples float32 (channels, n). Numbered before anything is dropped, so that the page sees the gap."""
        number = self._numbers[stream]
        self._numbers[stream] = (number + 1) % 2**32
        head = FRAME_HEADER.pack(number, samples.shape[1], samples.shape[0], stream, first_ms)
        self._frames.append(head + np.ascontiguousarray(samples, dtype="<f4").tobytes())
        while len(self._frames) > QUEUE_FRAMES:
            self._frames.popleft()
            self.dropped += 1
        self.changed.set()

    def add_late(self, begin: int, end: int, known_to: int) -> None:
        """Something of `begin` to `end` has come although the kit's data were known to `known_to` (hub's UTC ns)."""
        if begin < known_to - LATE_NS:
            before = self.late or (begin, end)
            self.late = min(begin, before[0]), max(end, before[1])

    def take_late(self) -> tuple[int, int] | None:
        """The window within which something came late, told once."""
        late, self.late = self.late, None
        return late

    def take_values(self) -> dict[str, Latest]:
        """The values that wait, which wait no longer."""
        values, self.values = self.values, {}
        return values

    def next_frame(self) -> bytes | None:
        """The oldest frame that waits."""
        return self._frames.popleft() if self._frames else None


class StreamShift:
    """The clock offset with which the frames of one stream are shown.

    It follows the measured one by at most `most_ns` a frame, so that a strip chart neither loses a frame nor shows a
    hole that is none each time the offset is measured anew; only a step of the clock is taken over at once.
    """

    def __init__(self, most_ns: int) -> None:
        self._most_ns = most_ns
        self._shift_ns: int | None = None

    def follow(self, offset_ns: int) -> int:
        """The offset for the next frame."""
        now = self._shift_ns
        if now is None or abs(offset_ns - now) >= CLOCK_STEP_NS:
            now = offset_ns
        else:
            now += max(-self._most_ns, min(self._most_ns, offset_ns - now))
        self._shift_ns = now
        return now


class LiveFeed:
    """All kits as they are now, and who watches them.

    `publish` and `watch` belong to the event loop; `view` may be called from any thread.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        edges: EdgeRegistry,
        kits: Callable[[], Mapping[str, KitEntry]],
        known: Callable[[str], Mapping[str, Latest]],
    ) -> None:
        self._clock = clock
        self._edges = edges
        self._kits = kits
        self._known = known
        self._states: dict[str, KitState] = {}
        self._making = threading.Lock()
        self._viewers: defaultdict[str, set[Viewer]] = defaultdict(set)
        self._sent_to_ns: dict[tuple[str, str], int] = {}
        self._shifts: dict[tuple[str, str], StreamShift] = {}
        self.counters: dict[str, int] = {"published": 0, "viewers": 0, "dropped_frames": 0, "late_frames": 0}

    def publish(self, batches: Sequence[DecodedBatch]) -> None:
        """Batches that are durable now, in the order in which they were stored."""
        kits = self._kits()
        by_kit: defaultdict[str, list[DecodedBatch]] = defaultdict(list)
        for batch in batches:
            by_kit[batch.header.kit].append(batch)
        for kit, own in by_kit.items():
            state = self._state(kit, kits)
            if state is None:
                continue  # Taken out of the catalog between commit and now.
            self.counters["published"] += len(own)
            viewers = self._viewers.get(kit, set())
            before = state.data_ns
            changed = state.apply(own)
            for batch in own:
                if isinstance(batch, DecodedFrame):
                    self._fan_out(batch, state, viewers)
                for viewer in viewers:
                    viewer.add_late(*state.window(batch), before)
            # A stream's channels have their frames.
            streams = state.streamed
            values = (
                {channel: state.latest[channel] for channel in changed if channel not in streams} if viewers else {}
            )
            for viewer in viewers:
                viewer.add_values(values)
                viewer.changed.set()

    def _fan_out(self, batch: DecodedFrame, state: KitState, viewers: set[Viewer]) -> None:
        key = (batch.header.kit, batch.header.stream)
        stream = state.entry.model.stream_by_id[batch.header.stream]
        shift = self._shifts.setdefault(key, StreamShift(round(SECOND / stream.rate_hz / 4)))
        offset = shift.follow(state.offset(batch))
        if batch.t[-1] + offset <= self._sent_to_ns.get(key, 0):
            self.counters["late_frames"] += 1
            return
        self._sent_to_ns[key] = int(batch.t[-1]) + offset
        if not viewers:
            return
        index = list(state.entry.model.stream_by_id).index(batch.header.stream)
        for start in range(0, batch.values.shape[1], FRAME_SAMPLES):
            piece = batch.values[:, start : start + FRAME_SAMPLES]
            for viewer in viewers:
                before = viewer.dropped
                viewer.add_frame(index, (int(batch.t[start]) + offset) / 1e6, piece)
                self.counters["dropped_frames"] += viewer.dropped - before

    def edge_changed(self, edge: str) -> None:
        """An edge has reported: wake those who watch its kits."""
        for entry in self._kits().values():
            if entry.edge == edge:
                for viewer in self._viewers.get(entry.id, ()):
                    viewer.changed.set()

    @contextmanager
    def watch(self, kit: str) -> Iterator[Viewer]:
        """A viewer of a kit for as long as the context lasts."""
        viewer = Viewer(kit)
        self._viewers[kit].add(viewer)
        self.counters["viewers"] += 1
        try:
            yield viewer
        finally:
            self.counters["viewers"] -= 1
            self._viewers[kit].discard(viewer)
            if not self._viewers[kit]:
                del self._viewers[kit]

    def view(self, kit: str) -> KitView | None:
        """The kit as it is now; None where the catalog has none of this id."""
        state = self._state(kit)
        return None if state is None else state.view(self._edges, self._clock.time_ns())

    def views(self, workshop: str) -> list[KitView]:
        """The kits of a workshop as they are now, in the order of the catalog."""
        found = (self.view(entry.id) for entry in self._kits().values() if entry.workshop == workshop)
        return [view for view in found if view is not None]

    def clear_alarm(self, kit: str, channel: str, alarm: str) -> bool:
        """Let go of a latched alarm whose cause has gone; False where there is none."""
        state = self._state(kit)
        if state is None or not state.alarms.clear(channel, alarm):
            return False
        for viewer in self._viewers.get(kit, ()):
            viewer.changed.set()
        return True

    def _state(self, kit: str, kits: Mapping[str, KitEntry] | None = None) -> KitState | None:
        entry = (self._kits() if kits is None else kits).get(kit)
        if entry is None:
            return None
        with self._making:
            state = self._states.get(kit)
            if state is None or state.entry.model is not entry.model:
                state = self._states[kit] = KitState(entry, self._known(kit))
            state.entry = entry
            return state
