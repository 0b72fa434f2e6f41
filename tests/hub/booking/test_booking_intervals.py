"""Interval algebra against a bitmap: a wrong one shows a taken kit as free, or hides a free one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.booking.intervals import Interval, gaps, intersect, minus, overlap, union

SIZE = 24
Pair = tuple[int, int]
pair = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda two: (min(two), max(two)))
sets = st.lists(pair, max_size=6)


def bits(pairs: list[Pair] | list[Interval]) -> set[int]:
    return {t for start, end in pairs for t in range(start, end)}


def normal(answer: list[Interval]) -> list[Interval]:
    assert all(one.start < one.end for one in answer)
    assert all(one.end < after.start for one, after in pairwise(answer))
    return answer


@given(sets, sets)
def test_union_intersection_and_difference_are_those_of_the_instants(a: list[Pair], b: list[Pair]) -> None:
    assert bits(normal(union(a, b))) == bits(a) | bits(b)
    assert bits(normal(intersect(a, b))) == bits(a) & bits(b)
    assert bits(normal(minus(a, b))) == bits(a) - bits(b)


@given(pair, pair)
def test_overlapping_looks_at_half_open_intervals(a: Pair, b: Pair) -> None:
    assert overlap(a, b) == bool(bits([a]) & bits([b]))


@given(pair, sets, st.integers(1, 8))
def test_gaps_are_all_the_free_times_that_are_long_enough_and_no_other(
    window: Pair, busy: list[Pair], at_least: int
) -> None:
    free = bits([window]) - bits(busy)
    fits = {t for t in range(SIZE) if set(range(t, t + at_least)) <= free}
    found = normal(gaps(window, busy, at_least))
    assert {t for start, end in found for t in range(start, end - at_least + 1)} == fits
    assert bits(found) <= free


def test_a_slot_may_begin_where_another_ends() -> None:
    assert not overlap((0, 10), (10, 20))
    assert gaps((0, 30), [(0, 10), (20, 30)]) == [(10, 20)]


def test_an_interval_that_ends_before_it_starts_is_told() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        union([(5, 3)])
