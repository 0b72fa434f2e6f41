"""Between InfluxDB and its ledger: which writes the server has lost although it had confirmed them.

A server of 1.x that found its disk full, and was then started twice, can drop whatever it wrote in between to a shard
(a part of the time line with a log of its own). So every body that is written has a mark in each hour that it has
points in. No shard is shorter than an hour and each begins with one, and a body's points in one shard are one entry of
its log: where the mark is, they are; where it is missing, they are gone and the write's batches must come again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND
from hub.store.influx_client import Server
from hub.store.influx_lines import mark_line
from hub.store.influx_questions import rows_of
from hub.store.influx_sidecar import Sidecar

HOUR = 3600 * SECOND
BLOCK = 10_000
"""Numbers noted at once: a note is a transaction."""


class Numbers:
    """Numbers of marks, none given twice: the mark of a write that failed may be in the database, and would vouch for
    another write that took its place.

    A block is noted before it is used, so that numbers given before a crash are not given again.
    """

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._next = self._noted = int(sidecar.get("mark") or 0)

    def take(self) -> int:
        """The next one. Raises StoreUnavailable."""
        if self._next == self._noted:
            self._sidecar.put("mark", str(self._noted + BLOCK))
            self._noted += BLOCK
        self._next += 1
        return self._next - 1


class Marks:
    """The marks of one write; `made` are their times."""

    def __init__(self, write_no: int, numbers: Numbers) -> None:
        self._write_no = write_no
        self._numbers = numbers
        self.made: list[int] = []

    def lines(self, times: NDArray[np.int64]) -> bytes:
        """Lines that mark a body with points at these times (UTC ns). Raises StoreUnavailable."""
        found: list[str] = []
        for hour in np.unique(times // HOUR).tolist():
            t = hour * HOUR + self._numbers.take() % HOUR
            self.made.append(t)
            found.append(mark_line(self._write_no, t))
        return "".join(found).encode()


def lost_writes(server: Server, sidecar: Sidecar, *, whole: bool, kept_from: int | None) -> set[int]:
    """Numbers of writes that the database has not all of.

    `whole` compares mark by mark, else only hours whose count differs. What the database's own retention has deleted,
    everything before `kept_from` (UTC ns, None: nobody knows), is not lost; where nobody knows, an hour without any
    mark counts as deleted. Raises StoreUnavailable.
    """
    expected = sidecar.marks_by_hour(HOUR)
    if kept_from is not None:
        expected = {hour: count for hour, count in expected.items() if hour >= kept_from}
    if not expected:
        return set()
    within = f"time >= {min(expected)} AND time < {max(expected) + HOUR}"
    query = f'SELECT count("n") FROM "mark" WHERE {within} GROUP BY time(1h) fill(none)'  # noqa: S608
    there = {int(hour): int(count) for hour, count in rows_of(server, query)}
    lost: set[int] = set()
    for hour, count in expected.items():
        if (hour not in there and kept_from is None) or (not whole and there.get(hour) == count):
            continue
        query = f'SELECT "n" FROM "mark" WHERE time >= {hour} AND time < {hour + HOUR}'  # noqa: S608
        found = {int(t): int(write_no) for t, write_no in rows_of(server, query)}
        marks = sidecar.marks(hour, hour + HOUR)
        lost |= {write_no for t, write_no in marks.items() if write_no and found.get(t) != write_no}
        sidecar.take_marks(found.keys() - marks.keys())
    return lost
