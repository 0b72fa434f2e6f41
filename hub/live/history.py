"""What has been, in hub time: receives questions of pages and programs, asks the store in the edge's time. Blocks.

Each kit's times are those of its edge's clock; a window of hub time is one or, where that clock was set meanwhile,
several windows of edge time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hub.live.hub_time import HubTime
from hub.store.base import SECOND, Latest, Overview, StoreUnavailable, TelemetryStore
from lab_contract.batch import Gap

if TYPE_CHECKING:
    # Imported where it is used: pages must not wait for Arrow at the start.
    import pyarrow as pa

LOOKS = 4
"""How often the window of edge time is widened by the offsets found in it: one step of the clock needs two looks."""
AHEAD_NS = 24 * 3600 * SECOND
T_HUB = "t_hub"


@dataclass(frozen=True, slots=True)
class History:
    """Questions to the store about one kit."""

    store: TelemetryStore
    kit: str

    def hub_time(self, begin: int, end: int, tolerance_ns: int = 0) -> HubTime:
        """The offsets that matter for `begin` to `end` of hub time (UTC ns)."""
        # What a clock that is ahead has dated lies after the window; ingest takes nothing that is ahead by more.
        first, last = begin, end + AHEAD_NS
        found = HubTime(())
        for _ in range(LOOKS):
            found = HubTime(self.store.clock(self.kit, first, last), tolerance_ns)
            earlier = begin - max(piece.offset_ns for piece in found.pieces)
            if earlier >= first:
                break
            first = earlier
        return found

    def overview(self, channels: Sequence[str], begin: int, end: int, buckets: int) -> Overview:
        """See TelemetryStore.overview, with the bucket starts in hub time."""
        width = -(-(end - begin) // buckets)
        pieces = self.hub_time(begin, end, max(width, SECOND) // 2).windows(begin, end)
        if not pieces:
            # The clock was set forward past this window: no sample can be of it.
            t = begin + np.arange(-(-(end - begin) // width), dtype=np.int64) * width
            nothing = np.full(len(t), np.nan)
            return Overview(t, width, dict.fromkeys(channels, (nothing, nothing)), False)
        found = [
            self.store.overview(self.kit, channels, p.begin, p.end, max(1, -(-(p.end - p.begin) // width)))
            for p in pieces
        ]
        if len(pieces) == 1:
            return replace(found[0], t=found[0].t + pieces[0].offset_ns)
        return _merged(found, [piece.offset_ns for piece in pieces], channels)

    def gaps(self, begin: int, end: int) -> list[Gap]:
        """What was lost and overlaps the window, in hub time and in order."""
        hub_time = self.hub_time(begin, end)
        found = {
            gap for piece in hub_time.windows(begin, end) for gap in self.store.gaps(self.kit, piece.begin, piece.end)
        }
        shown = [replace(gap, t_from=hub_time.at(gap.t_from), t_to=hub_time.at(gap.t_to)) for gap in found]
        # A gap while the clock was set back would end before it begins.
        shown = [gap if gap.t_from <= gap.t_to else replace(gap, t_from=gap.t_to, t_to=gap.t_from) for gap in shown]
        return sorted(shown, key=lambda gap: (gap.t_from, gap.t_to, gap.stream))

    def raw(self, channels: Sequence[str], begin: int, end: int) -> Iterator[pa.RecordBatch]:
        """See TelemetryStore.raw, for a window of hub time; with a last column `t_hub`."""
        hub_time = self.hub_time(begin, end)
        # Asked before anything is sent, so that a store that is away is an error and not half an answer.
        pieces = hub_time.windows(begin, end)
        readers = [self.store.raw(self.kit, channels, piece.begin, piece.end) for piece in pieces[:1]]

        import pyarrow as pa

        def rows() -> Iterator[pa.RecordBatch]:
            for place, piece in enumerate(pieces):
                reader = readers[0] if place == 0 else self.store.raw(self.kit, channels, piece.begin, piece.end)
                with reader:
                    for batch in reader:
                        t = batch.column(batch.schema.get_field_index("t")).to_numpy()
                        yield batch.append_column(T_HUB, pa.array(t + piece.offset_ns))

        return rows()


def _merged(parts: Sequence[Overview], offsets: Sequence[int], channels: Sequence[str]) -> Overview:
    """Buckets of several stretches on one grid; one that two of them touch has the least and greatest of both."""
    width = max(part.width_ns for part in parts)
    starts = [part.t + offset for part, offset in zip(parts, offsets, strict=True)]
    begin = min(int(t[0]) for t in starts)
    count = (max(int(t[-1]) for t in starts) - begin) // width + 1
    result: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for channel in channels:
        low, high = np.full(count, np.nan), np.full(count, np.nan)
        for part, t in zip(parts, starts, strict=True):
            place = (t - begin) // width
            part_low, part_high = part.channels[channel]
            np.fmin.at(low, place, part_low)
            np.fmax.at(high, place, part_high)
        result[channel] = low, high
    grid = begin + np.arange(count, dtype=np.int64) * width
    return Overview(grid, width, result, all(part.from_rollup for part in parts))


def latest_in_hub_time(store: TelemetryStore, kit: str) -> dict[str, Latest]:
    """The newest sample of each channel of the kit with its hub time; uncorrected where the store cannot tell."""
    known = store.latest(kit)
    if not known:
        return {}
    times = [sample.t for sample in known.values()]
    try:
        hub_time = HubTime(store.clock(kit, min(times), max(times) + 1))
    except StoreUnavailable:
        # The values are in memory and are shown; their age is right but for the edge's clock.
        return known
    return {channel: replace(sample, t=hub_time.at(sample.t)) for channel, sample in known.items()}
