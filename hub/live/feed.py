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
from hub.store.base import DecodedBatch, DecodedFrame, Latest

if TYPE_CHECKING:
    from hub.ingest.decode import KitEntry

FRAME_HEADER = struct.Struct("<IHBBd")
"""Frame number, samples, channels, index of the stream in the kit model, time of the first sample in ms."""
FRAME_SAMPLES = 4096
"""A longer frame is sent in pieces, so that a browser draws while the rest comes."""
QUEUE_FRAMES = 64
"""Frames that wait for one viewer: 16 s at four a second, far more than a strip chart shows."""


class Viewer:
    """What waits for one browser that watches one kit. Used on the event loop only."""

    def __init__(self, kit: str) -> None:
        self.kit = kit
        self.changed = asyncio.Event()
        self.values: dict[str, Latest] = {}
        self.dropped = 0
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

    def take_values(self) -> dict[str, Latest]:
        """The values that wait, which wait no longer."""
        values, self.values = self.values, {}
        return values

    def next_frame(self) -> bytes | None:
        """The oldest frame that waits."""
        return self._frames.popleft() if self._frames else None


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
        self.counters: dict[str, int] = {"published": 0, "viewers": 0, "dropped_frames": 0, "late_frames": 0}

    def publish(self, batches: Sequence[DecodedBatch]) -> None:
        """Batches that are durable now, in the order in which they were stored."""
        for batch in batches:
            state = self._state(batch.header.kit)
            if state is None:
                continue  # Taken out of the catalog between commit and now.
            self.counters["published"] += 1
            changed = state.apply(batch)
            viewers = self._viewers.get(batch.header.kit)
            if isinstance(batch, DecodedFrame):
                self._fan_out(batch, state, viewers or set())
            elif viewers:
                values = {channel: state.latest[channel] for channel in changed}
                for viewer in viewers:
                    viewer.add_values(values)
            for viewer in viewers or ():
                viewer.changed.set()

    def _fan_out(self, batch: DecodedFrame, state: KitState, viewers: set[Viewer]) -> None:
        key = (batch.header.kit, batch.header.stream)
        if batch.t[-1] <= self._sent_to_ns.get(key, 0):
            self.counters["late_frames"] += 1
            return
        self._sent_to_ns[key] = int(batch.t[-1])
        index = list(state.entry.model.stream_by_id).index(batch.header.stream)
        for start in range(0, batch.values.shape[1], FRAME_SAMPLES) if viewers else ():
            piece = batch.values[:, start : start + FRAME_SAMPLES]
            for viewer in viewers:
                before = viewer.dropped
                viewer.add_frame(index, int(batch.t[start]) / 1e6, piece)
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

    def _state(self, kit: str) -> KitState | None:
        entry = self._kits().get(kit)
        if entry is None:
            return None
        with self._making:
            state = self._states.get(kit)
            if state is None or state.entry.model is not entry.model:
                state = self._states[kit] = KitState(entry, self._known(kit))
            state.entry = entry
            return state
