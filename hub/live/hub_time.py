"""Edge time to hub time: receives the clock offsets that batches carried, hands on times as views show them. Pure.

What is stored bears the time of the edge's clock for ever. Views add the offset that the edge had measured when it
sent: piecewise, so that a clock that was put right in the middle of a lesson is corrected before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND, ClockFact
from lab_contract.batch import CLOCK_UNKNOWN

FOREVER = 2**62
BEFORE_FIRST_NS = 300 * SECOND
"""What an edge sends before its first comparison is of the same run: the offset found soon after holds for it too."""


@dataclass(frozen=True, slots=True)
class Piece:
    """From edge time `begin` until before `end` (UTC ns), `offset_ns` is to be added."""

    begin: int
    end: int
    offset_ns: int


class HubTime:
    """The offsets of one kit over a stretch of edge time. Offsets that differ by less than `tolerance_ns` are one."""

    def __init__(self, facts: Sequence[ClockFact], tolerance_ns: int = 0) -> None:
        self.pieces = _pieces(_known(facts), tolerance_ns)
        self._begins = np.array([piece.begin for piece in self.pieces[1:]], dtype=np.int64)
        self._offsets = np.array([piece.offset_ns for piece in self.pieces], dtype=np.int64)

    def at(self, t: int) -> int:
        """Edge time as hub time."""
        return t + int(self._offsets[np.searchsorted(self._begins, t, side="right")])

    def of(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Edge times as hub times."""
        shifted: NDArray[np.int64] = t + self._offsets[np.searchsorted(self._begins, t, side="right")]
        return shifted

    def windows(self, begin: int, end: int) -> list[Piece]:
        """The stretches of edge time that lie within `begin` to `end` of hub time, each with its offset."""
        found: list[Piece] = []
        for piece in self.pieces:
            first, last = max(piece.begin, begin - piece.offset_ns), min(piece.end, end - piece.offset_ns)
            if first < last:
                found.append(Piece(first, last, piece.offset_ns))
        return found


def _known(facts: Sequence[ClockFact]) -> list[ClockFact]:
    """The facts with an offset, in order of time; the first after a stretch without holds for its last minutes."""
    known: list[ClockFact] = []
    unknown_since: int | None = None
    for fact in sorted(facts, key=lambda fact: fact.t):
        if fact.uncertainty_ns == CLOCK_UNKNOWN:
            unknown_since = fact.t if unknown_since is None else unknown_since
            continue
        begin = fact.t if unknown_since is None else max(unknown_since, fact.t - BEFORE_FIRST_NS)
        known.append(ClockFact(begin, fact.offset_ns, fact.uncertainty_ns))
        unknown_since = None
    return known


def _pieces(facts: Sequence[ClockFact], tolerance_ns: int) -> list[Piece]:
    begins: list[tuple[int, int]] = []
    for fact in facts:
        if not begins or abs(fact.offset_ns - begins[-1][1]) > tolerance_ns:
            begins.append((fact.t, fact.offset_ns))
    if not begins:
        return [Piece(-FOREVER, FOREVER, 0)]
    ends = [begin for begin, _ in begins[1:]] + [FOREVER]
    # Before the first comparison ever the first offset is the best that is known.
    starts = [-FOREVER] + [begin for begin, _ in begins[1:]]
    return [Piece(begin, end, offset) for begin, end, (_, offset) in zip(starts, ends, begins, strict=True)]
