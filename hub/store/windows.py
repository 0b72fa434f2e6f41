"""What a window of time means to every engine: buckets, whole seconds, what retention has left. Pure, no engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND, ClockFact, Overview

Ranges = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` equal buckets of `width` ns from `t0` on (UTC ns), of the roll-up or of the samples themselves."""

    t0: int
    width: int
    count: int
    from_rollup: bool

    @property
    def end(self) -> int:
        """The first ns behind the last bucket."""
        return self.t0 + self.count * self.width

    def empty(self, channels: Iterable[str]) -> Ranges:
        """Least and greatest of each channel, NaN everywhere."""
        return {channel: (np.full(self.count, np.nan), np.full(self.count, np.nan)) for channel in channels}

    def overview(self, ranges: Ranges) -> Overview:
        """The answer of TelemetryStore.overview."""
        t = self.t0 + np.arange(self.count, dtype=np.int64) * self.width
        return Overview(t, self.width, ranges, self.from_rollup)


def buckets_of(t0: int, t1: int, buckets: int, from_rollup: bool | None, samples_from: int | None) -> Buckets:
    """The buckets of TelemetryStore.overview. Raises ValueError unless t0 < t1 and buckets > 0."""
    if t0 >= t1 or buckets <= 0:
        raise ValueError(f"expected t0 < t1 and buckets > 0, found {t0}, {t1}, {buckets}")
    width = -(-(t1 - t0) // buckets)
    if from_rollup is None:
        from_rollup = width >= SECOND or (samples_from is not None and t0 < samples_from)
    if from_rollup:
        width = -(-width // SECOND) * SECOND
        t0 = t0 // SECOND * SECOND
    return Buckets(t0, width, -(-(t1 - t0) // width), from_rollup)


def left_by_retention(t0: int, t1: int, samples_from: int | None) -> tuple[int, int]:
    """The window, widened to whole seconds where only the roll-up is left."""
    if samples_from is not None and t0 < samples_from:
        t0 = t0 // SECOND * SECOND
        if t1 < samples_from:
            t1 = -(-t1 // SECOND) * SECOND
    return t0, t1


def whole_seconds(t0: int, t1: int) -> tuple[int, int]:
    """The whole seconds inside of a window; empty ones begin and end at the same second."""
    first = -(-t0 // SECOND) * SECOND
    return first, max(first, t1 // SECOND * SECOND)


def changes(facts: Sequence[ClockFact]) -> list[ClockFact]:
    """The facts, in order of time, without those that say what the one before says."""
    return [
        *facts[:1],
        *(
            later
            for former, later in pairwise(facts)
            if (former.offset_ns, former.uncertainty_ns) != (later.offset_ns, later.uncertainty_ns)
        ),
    ]
