"""Between InfluxDB and its ledger: which writes the server has lost although it had confirmed them.

A server of 1.x that found its disk full, and was then started twice, can drop whatever it wrote in between to a shard
(a part of the time line with a log of its own). So every body that is written has a mark in each hour that it has
points in. No shard is shorter than an hour and each begins with one, and a body's points in one shard are one entry of
its log: where the mark is, they are; where it is missing, they are gone and the write's batches must come again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND
from hub.store.influx_client import Server
from hub.store.influx_lines import mark_line
from hub.store.influx_questions import rows_of
from hub.store.influx_sidecar import Sidecar

HOUR = 3600 * SECOND


class Marks:
    """The marks of one write; `made` are their times."""

    def __init__(self, write_no: int, sidecar: Sidecar) -> None:
        self._write_no = write_no
        self._sidecar = sidecar
        self.made: list[int] = []

    def lines(self, times: NDArray[np.int64]) -> bytes:
        """Lines that mark a body with points at these times (UTC ns). Raises StoreUnavailable."""
        found: list[str] = []
        for hour in np.unique(times // HOUR).tolist():
            t = hour * HOUR + self._sidecar.mark_number() % HOUR
            self.made.append(t)
            found.append(mark_line(self._write_no, t))
        return "".join(found).encode()


def lost_writes(server: Server, sidecar: Sidecar, *, whole: bool, kept_from: Callable[[], int | None]) -> set[int]:
    """Numbers of writes that the database has not all of.

    `whole` compares mark by mark, else only hours whose count differs. `kept_from` is asked where marks are missing:
    what the database's own retention has deleted, everything before that time (UTC ns), is not lost; where nobody knows
    it (None), an hour without any mark counts as deleted. Raises StoreUnavailable.
    """
    expected = sidecar.marks_by_hour(HOUR)
    if not expected:
        return set()
    within = f"time >= {min(expected)} AND time < {max(expected) + HOUR}"
    query = f'SELECT count("n") FROM "mark" WHERE {within} GROUP BY time(1h) fill(none)'  # noqa: S608
    there = {int(hour): int(count) for hour, count in rows_of(server, query)}
    missing: dict[int, set[int]] = {}
    for hour, count in expected.items():
        if not whole and there.get(hour) == count:
            continue
        query = f'SELECT "n" FROM "mark" WHERE time >= {hour} AND time < {hour + HOUR}'  # noqa: S608
        found = {int(t): int(write_no) for t, write_no in rows_of(server, query)}
        marks = sidecar.marks(hour, hour + HOUR)
        missing[hour] = {write_no for t, write_no in marks.items() if write_no and found.get(t) != write_no}
        sidecar.take_marks(found.keys() - marks.keys())
    if not any(missing.values()):
        return set()
    since = kept_from()
    return set().union(*(lost for hour, lost in missing.items() if (hour in there if since is None else hour >= since)))
