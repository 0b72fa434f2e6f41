"""Beside the line: algebra of half-open intervals [start, end) of UTC nanoseconds. Pure.

Every function takes intervals in any order, overlapping or touching, as plain pairs too, and answers in normal form:
in order, disjoint, joined where they touch, none empty. An interval that ends before it starts is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """[start, end): the start belongs to it, the end does not, so a slot may begin where another ends."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Nanoseconds from start to end."""
        return self.end - self.start


Pairs = Iterable[tuple[int, int]]


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether the two have an instant in common; an empty one has none with any."""
    return max(a[0], b[0]) < min(a[1], b[1])


def union(*sets: Pairs) -> list[Interval]:
    """What lies in any of the sets."""
    joined: list[Interval] = []
    for start, end in sorted(pair for pairs in sets for pair in pairs):
        if end < start:
            raise ValueError(f"an interval ends before it starts: [{start}, {end})")
        if end == start:
            continue
        if joined and start <= joined[-1].end:
            if end > joined[-1].end:
                joined[-1] = Interval(joined[-1].start, end)
        else:
            joined.append(Interval(start, end))
    return joined


def intersect(a: Pairs, b: Pairs) -> list[Interval]:
    """What lies in both sets."""
    left, right = union(a), union(b)
    common: list[Interval] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i].start, right[j].start), min(left[i].end, right[j].end)
        if start < end:
            common.append(Interval(start, end))
        if left[i].end < right[j].end:
            i += 1
        else:
            j += 1
    return common


def minus(a: Pairs, b: Pairs) -> list[Interval]:
    """What lies in `a` and not in `b`."""
    rest: list[Interval] = []
    taken = union(b)
    j = 0
    for start, end in union(a):
        while j < len(taken) and taken[j].end <= start:
            j += 1
        begin = start
        # The last one taken may reach into the next interval of `a`, so `j` stays on it.
        k = j
        while k < len(taken) and taken[k].start < end:
            if taken[k].start > begin:
                rest.append(Interval(begin, taken[k].start))
            begin = max(begin, taken[k].end)
            k += 1
        j = max(j, k - 1)
        if begin < end:
            rest.append(Interval(begin, end))
    return rest


def gaps(window: tuple[int, int], busy: Pairs, at_least: int = 1) -> list[Interval]:
    """The free intervals of a window that last at least `at_least` nanoseconds."""
    return [free for free in minus([window], busy) if free.length >= at_least]
