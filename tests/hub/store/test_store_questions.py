"""What every telemetry store must answer about samples: newest, overview, raw, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store.base import DecodedBatch, TelemetryStore
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import events, frame, values

MS = 1_000_000
History = tuple[list[Callable[[str], DecodedBatch]], list[tuple[int, float]]]


def test_latest_is_the_newest_by_its_own_time(store: TelemetryStore) -> None:
    """A backlog that arrives behind live data must not turn the shown state back."""
    store.append([events(2, [(NOW, "line.state", 1, "Execute")])])
    store.append([events(1, [(NOW - 60 * SECOND, "line.state", 2, "Aborted")])])
    latest = store.latest(KIT)["line.state"]
    assert (latest.t, latest.value, latest.text) == (NOW, 1.0, "Execute")
    store.append([events(3, [(NOW + 1, "line.state", None, None, 0x80000000)])])
    latest = store.latest(KIT)["line.state"]
    assert (latest.value, latest.text, latest.quality) == (None, None, 0x80000000)
    assert store.latest("other") == {}


def test_raw_samples_are_those_of_a_half_open_window_in_order_of_time(store: TelemetryStore) -> None:
    """Two windows side by side must have every sample once."""
    store.append([frame(2, [NOW + 2 * SECOND]), events(3, [(NOW + SECOND, "line.good", 4)])])
    store.append([frame(1, [NOW, NOW + SECOND])])
    table = store.raw(KIT, ["eeg.a", "line.good"], NOW, NOW + 2 * SECOND).read_all()
    assert table.schema.names == ["t", "channel", "value", "text", "quality"]
    assert table["t"].to_pylist() == [NOW, NOW + SECOND, NOW + SECOND]
    assert values(store, "eeg.a", NOW + 2 * SECOND) == [(NOW + 2 * SECOND, 0.0)]
    assert store.raw(KIT, ["eeg.b", "none.such"], 0, NOW).read_all().num_rows == 0
    assert store.raw("kit-9", ["eeg.b"], 0, 2**62).read_all().num_rows == 0


def test_an_empty_second_shows_as_a_gap(store: TelemetryStore) -> None:
    """A line drawn through a break would hide that nothing was measured."""
    store.append([events(1, [(NOW, "line.pressure", 0.6), (NOW + 2 * SECOND, "line.pressure", 0.5)])])
    store.append([events(2, [(NOW + SECOND, "line.pressure", None, None, 0x80000000)])])
    view = store.overview(KIT, ["line.pressure", "line.good"], NOW, NOW + 3 * SECOND, 3)
    low, high = view.channels["line.pressure"]
    assert view.from_rollup
    assert view.t.tolist() == [NOW, NOW + SECOND, NOW + 2 * SECOND]
    np.testing.assert_array_equal(low, [0.6, np.nan, 0.5])
    np.testing.assert_array_equal(high, [0.6, np.nan, 0.5])
    assert np.isnan(view.channels["line.good"][0]).all()
    with pytest.raises(ValueError, match="t0 < t1"):
        store.overview(KIT, ["line.good"], NOW, NOW, 3)


def test_an_overview_is_to_be_had_from_samples_and_from_the_roll_up(store: TelemetryStore) -> None:
    """Zooming in shows single samples; a figure from raw data must be to be had to check the roll-up against."""
    t = NOW + np.arange(1000) * 4 * MS
    store.append([frame(1, t, np.vstack([np.arange(1000), -np.arange(1000)]))])
    fine = store.overview(KIT, ["eeg.a"], NOW, NOW + SECOND, 250)
    assert (fine.from_rollup, fine.width_ns, fine.channels["eeg.a"][0].tolist()) == (False, 4 * MS, list(range(250)))
    coarse = store.overview(KIT, ["eeg.a"], NOW, NOW + SECOND, 250, from_rollup=True)
    assert (coarse.from_rollup, coarse.width_ns, coarse.channels["eeg.a"][1].tolist()) == (True, SECOND, [249])
    views = [store.overview(KIT, ["eeg.b"], NOW, NOW + 4 * SECOND, 2, from_rollup=way) for way in (True, False)]
    assert [view.from_rollup for view in views] == [True, False]
    assert views[0].channels["eeg.b"][0].tolist() == views[1].channels["eeg.b"][0].tolist() == [-499, -999]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Batches with repeated, unordered and missing samples, and the flat list of what is in them.

    No two samples have the same time: which of them is the first is not asked here.
    """
    batches: list[Callable[[str], DecodedBatch]] = []
    flat: dict[int, float] = {}
    numbers = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
    for seq in range(draw(st.integers(1, 5))):
        # The remainder by 5 ms tells the batches apart.
        start = NOW + draw(st.integers(0, 1_800)) * 5 * MS + seq * MS
        if draw(st.booleans()):
            row = draw(st.lists(numbers, min_size=1, max_size=20))
            t = start + np.arange(len(row)) * draw(st.sampled_from([5 * MS, 300 * MS]))
            wave = np.array([row, row])
            batches.append(lambda kit, seq=seq, t=t, wave=wave: frame(seq, t, wave, kit=kit))
            flat |= dict(zip(t.tolist(), row, strict=True))
        else:
            points = draw(
                st.lists(st.tuples(st.integers(0, 1_000), numbers), min_size=1, max_size=20, unique_by=lambda p: p[0])
            )
            rows = [(start + step * 5 * MS, value) for step, value in points]
            batches.append(
                lambda kit, seq=seq, rows=rows: events(seq, [(t, "eeg.a", value) for t, value in rows], kit=kit)
            )
            flat |= dict(rows)
    return batches, sorted((t, value) for t, value in flat.items() if value == value)


def put(store: TelemetryStore, history: History, kit: str, epoch: int) -> list[tuple[int, float]]:
    batches, flat = history
    for make in batches:
        batch = make(kit)
        store.append([replace(batch, header=replace(batch.header, epoch=epoch))])
    return flat


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=histories(),
    offset=st.integers(-3_000, 9_000),
    span=st.integers(1, 30_000),
    buckets=st.integers(1, 40),
    from_rollup=st.sampled_from([None, True, False]),
)
def test_overview_equals_brute_force(
    store: TelemetryStore,
    new_kit: Callable[[], str],
    history: History,
    offset: int,
    span: int,
    buckets: int,
    from_rollup: bool | None,
) -> None:
    """A trend from the roll-up must show the very peaks that the raw samples have."""
    kit = new_kit()
    flat = put(store, history, kit, int(kit[4:]))
    t0 = NOW + offset * MS
    view = store.overview(kit, ["eeg.a"], t0, t0 + span * MS, buckets, from_rollup=from_rollup)
    low, high = view.channels["eeg.a"]
    assert len(view.t) <= buckets + 1
    assert view.t[0] <= t0
    assert view.t[-1] + view.width_ns >= t0 + span * MS
    for start, lowest, highest in zip(view.t.tolist(), low, high, strict=True):
        inside = [value for t, value in flat if start <= t < start + view.width_ns]
        assert (lowest, highest) == (min(inside), max(inside)) if inside else np.isnan([lowest, highest]).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), offset=st.integers(-3_000, 9_000), span=st.integers(1, 30_000))
def test_statistics_equal_brute_force(
    store: TelemetryStore, new_kit: Callable[[], str], history: History, offset: int, span: int
) -> None:
    """A work task is passed or failed by these numbers: the edges of its window count to the nanosecond."""
    kit = new_kit()
    flat = put(store, history, kit, int(kit[4:]))
    t0, t1 = NOW + offset * MS, NOW + (offset + span) * MS
    inside = [value for t, value in flat if t0 <= t < t1]
    found = store.statistics(kit, ["eeg.a", "line.good"], t0, t1)
    assert set(found) == ({"eeg.a"} if inside else set())
    if inside:
        told = found["eeg.a"]
        assert (told.n, told.lo, told.hi) == (len(inside), min(inside), max(inside))
        assert (told.first, told.last) == (inside[0], inside[-1])
        assert math.isclose(told.mean, math.fsum(inside) / len(inside), rel_tol=1e-9, abs_tol=1e-6)


def test_statistics_of_a_counter_over_hours(store: TelemetryStore) -> None:
    """How many parts a shift made is last less first, also where the window begins and ends within a second."""
    store.append([events(1, [(NOW + n * 60 * SECOND + 7, "line.good", n) for n in range(240)])])
    told = store.statistics(KIT, ["line.good"], NOW + 60 * SECOND + 8, NOW + 120 * 60 * SECOND + 8)["line.good"]
    assert (told.first, told.last, told.n, told.lo, told.hi, told.mean) == (2, 120, 119, 2, 120, 61)
    assert store.statistics(KIT, ["line.good"], NOW + 8, NOW + 9) == {}
    assert store.statistics("kit-9", ["line.good"], 0, 2**62) == {}
