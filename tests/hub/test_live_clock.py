"""Clocks that go wrong: what is stored keeps the edge's time, what is shown has the hub's."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.health.pages import EdgeFacts
from hub.live.edges import EdgeRegistry, EdgeState
from hub.live.feed import LiveFeed, StreamShift
from hub.live.history import History, latest_in_hub_time
from hub.live.hub_time import BEFORE_FIRST_NS, HubTime
from hub.live.routes import csv_of
from hub.store import open_store
from hub.store.base import ClockFact, DecodedBatch, DecodedFrame, TelemetryStore
from lab_contract.batch import CLOCK_UNKNOWN, Gap, GapReason
from lab_contract.messages import ConnectionStatus, EdgeStatus, KitStatus
from tests.hub.conftest import HandClock
from tests.hub.support import events, frame, gaps, kits
from tests.small_kit import EDGE, EEG, KIT, NOW, SECOND, model

HOUR = 3600 * SECOND
MS = 1_000_000
SURE = 2 * MS
"""An uncertainty as on a good link."""


class Shop:
    """A kit whose edge's clock goes as a test wants: true time in, batches out, into store and live feed."""

    def __init__(self, folder: Path) -> None:
        self.store: TelemetryStore = open_store(f"duckdb:///{folder / 'telemetry.duckdb'}")
        self.clock = HandClock()
        self.clock.now = NOW
        self.edges = EdgeRegistry(self.clock)
        self.feed = LiveFeed(
            clock=self.clock, edges=self.edges, kits=kits, known=lambda kit: latest_in_hub_time(self.store, kit)
        )
        self.seq = 0
        self.kept: list[DecodedBatch] = []

    def second(self, true: int, slow_ns: int, measured_ns: int | None) -> None:
        """One second of EEG and a pressure at true time `true`, by a clock that is `slow_ns` behind."""
        clock = (0, CLOCK_UNKNOWN) if measured_ns is None else (measured_ns, SURE)
        self.clock.now = true + SECOND
        t = true - slow_ns + np.arange(250) * 4 * MS
        wave = np.full((2, 250), true / SECOND % 1000, dtype=np.float32)
        now = self.clock.now
        rows = [(true - slow_ns, "line.pressure", 0.6)]
        batches = [
            frame(self.seq + 1, t, wave, now=now, clock=clock),
            events(self.seq + 2, rows, now=now, clock=clock),
        ]
        self.seq += 2
        self.kept += batches
        self.store.append(batches)
        self.feed.publish(batches)

    def stored_times(self) -> list[int]:
        rows = self.store.raw(KIT, ["eeg.a"], 0, 2**62).read_all()
        return [int(t) for t in rows["t"].to_pylist()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.store.close()


def online(shop: Shop) -> None:
    links = tuple(
        ConnectionStatus(id=name, protocol="x", state="running", since_ns=NOW, detail="") for name in ("plc", "amp")
    )
    kit = KitStatus(id=KIT, model="test_kit", model_version="1.0.0", digest=model().digest, connections=links)
    shop.edges.update(EdgeStatus(edge=EDGE, online=True, kits=(kit,)), shop.clock.now)


def seen(shop: Shop, begin: int, end: int) -> dict[int, float]:
    """Bucket starts and values of `eeg.a` as a trend shows them."""
    view = History(shop.store, KIT).overview(["eeg.a"], begin, end, round((end - begin) / SECOND))
    low, high = view.channels["eeg.a"]
    np.testing.assert_array_equal(low, high)
    return {int(t): float(v) for t, v in zip(view.t, low, strict=True) if not np.isnan(v)}


def value(true: int) -> float:
    return true / SECOND % 1000


def test_a_clock_an_hour_behind_is_stored_as_it_is_and_shown_right(shop: Shop) -> None:
    """Trainees would find their lesson an hour before it began, and the kit would count as stale."""
    for i in range(5):
        shop.second(NOW + i * SECOND, HOUR, HOUR)
    assert shop.stored_times()[0] == NOW - HOUR
    assert seen(shop, NOW, NOW + 5 * SECOND) == {NOW + i * SECOND: value(NOW + i * SECOND) for i in range(5)}
    online(shop)
    view = shop.feed.view(KIT)
    assert view is not None
    assert (view.fresh, view.state, view.age_ns) == (True, "ready", 4 * MS)
    assert view.values["line.pressure"].t == NOW + 4 * SECOND
    assert view.stale_channels == frozenset()


def test_a_clock_an_hour_ahead_is_shown_right_too(shop: Shop) -> None:
    for i in range(5):
        shop.second(NOW + i * SECOND, -HOUR, -HOUR)
    assert shop.stored_times()[0] == NOW + HOUR
    assert seen(shop, NOW, NOW + 5 * SECOND) == {NOW + i * SECOND: value(NOW + i * SECOND) for i in range(5)}


def test_a_clock_that_is_set_right_in_the_lesson_is_corrected_before_and_after(shop: Shop) -> None:
    """Setting a clock right must neither leave a hole of an hour in the lesson nor put one half over the other."""
    for i in range(20):
        slow = HOUR if i < 10 else 0
        shop.second(NOW + i * SECOND, slow, slow)
    expected = [NOW - HOUR + i * SECOND for i in range(10)] + [NOW + i * SECOND for i in range(10, 20)]
    assert shop.stored_times()[::250] == expected
    assert seen(shop, NOW, NOW + 20 * SECOND) == {NOW + i * SECOND: value(NOW + i * SECOND) for i in range(20)}
    assert shop.feed.counters["late_frames"] == 0
    state = shop.feed.view(KIT)
    assert state is not None
    assert state.values["line.pressure"].t == NOW + 19 * SECOND


def test_a_drift_of_100_ppm_is_followed_and_leaves_no_holes(shop: Shop) -> None:
    """8.6 s a day: after a week nothing would fit the clock on the wall."""
    drift = [i * SECOND // 10_000 for i in range(80)]
    with shop.feed.watch(KIT) as viewer:
        frames: list[bytes] = []
        for i, slow in enumerate(drift):
            # Compared every 10 s, give or take a millisecond.
            shop.second(NOW + i * SECOND, slow, drift[i // 10 * 10] + (i // 10 % 3 - 1) * MS)
            while (one := viewer.next_frame()) is not None:
                frames.append(one)
    assert shop.stored_times()[::250] == [NOW + i * SECOND - slow for i, slow in enumerate(drift)]
    view = shop.feed.view(KIT)
    assert view is not None
    assert abs(view.values["line.pressure"].t - (NOW + 79 * SECOND)) <= 3 * MS
    firsts = [float(np.frombuffer(one, "<f8", 1, 8)[0]) for one in frames]
    assert len(firsts) == 80
    # A strip chart breaks its line past two and a half sample periods of 4 ms, and drops what runs backwards.
    steps = np.diff(firsts) - 1000
    assert steps.max() < 6
    assert steps.min() > -4
    overview = History(shop.store, KIT).overview(["eeg.a"], NOW, NOW + 80 * SECOND, 80)
    low, high = (of_channel[:80] for of_channel in overview.channels["eeg.a"])
    assert not np.isnan(low).any()
    # Milliseconds at the edge of a bucket may fall into the next.
    expected = np.array([value(int(t) + SECOND // 2) for t in overview.t[:80]])
    assert (np.abs(low - expected) <= 1).all()
    assert (np.abs(high - expected) <= 1).all()


def test_what_was_sent_before_the_first_comparison_is_corrected_by_it(shop: Shop) -> None:
    """The first seconds after each start of an edge would stand an hour away from the rest."""
    for i in range(6):
        shop.second(NOW + i * SECOND, HOUR, None if i < 3 else HOUR)
    assert seen(shop, NOW, NOW + 6 * SECOND) == {NOW + i * SECOND: value(NOW + i * SECOND) for i in range(6)}


def test_an_edge_that_never_compares_its_clock_is_shown_as_it_is(shop: Shop) -> None:
    shop.second(NOW, 0, None)
    assert seen(shop, NOW, NOW + SECOND) == {NOW: value(NOW)}


def test_gaps_are_shown_in_the_hubs_time_and_stored_in_the_edges(shop: Shop) -> None:
    shop.second(NOW, HOUR, HOUR)
    lost = Gap("eeg", NOW - HOUR + 2 * SECOND, NOW - HOUR + 3 * SECOND, GapReason.COUNTER_JUMP, 250)
    shop.store.append([gaps(99, [lost])])
    assert shop.store.gaps(KIT, 0, 2**62) == [lost]
    (shown,) = History(shop.store, KIT).gaps(NOW, NOW + 10 * SECOND)
    assert (shown.t_from, shown.t_to, shown.count) == (NOW + 2 * SECOND, NOW + 3 * SECOND, 250)
    assert History(shop.store, KIT).gaps(NOW + 4 * SECOND, NOW + 10 * SECOND) == []


def test_raw_csv_has_both_times(shop: Shop) -> None:
    """Whoever compares it with notes taken at the kit needs the one, whoever compares kits the other."""
    for i in range(4):
        slow = HOUR if i < 2 else 0
        shop.second(NOW + i * SECOND, slow, slow)
    text = "".join(csv_of(History(shop.store, KIT).raw(["line.pressure"], NOW, NOW + 10 * SECOND)))
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["t"][11:19] for row in rows] == ["07:53:20", "07:53:21", "08:53:22", "08:53:23"]
    assert [row["t_hub"][11:19] for row in rows] == ["08:53:20", "08:53:21", "08:53:22", "08:53:23"]


def test_a_hub_that_starts_again_shows_the_right_age_at_once(shop: Shop) -> None:
    """After each restart every kit with a wrong clock would be stale until new data comes."""
    shop.second(NOW, HOUR, HOUR)
    known = latest_in_hub_time(shop.store, KIT)
    assert known["line.pressure"].t == NOW
    assert shop.store.latest(KIT)["line.pressure"].t == NOW - HOUR


def test_nothing_that_is_handed_on_has_changed_the_batches(shop: Shop) -> None:
    for i in range(3):
        shop.second(NOW + i * SECOND, HOUR, HOUR)
    first = next(batch for batch in shop.kept if isinstance(batch, DecodedFrame))
    assert int(first.t[0]) == NOW - HOUR
    assert first.channels == EEG


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 10**12), st.integers(-(10**12), 10**12)), min_size=1, max_size=8),
    times=st.lists(st.integers(0, 10**13), min_size=1, max_size=20),
)
def test_pieces_cover_all_times_once(steps: list[tuple[int, int]], times: list[int]) -> None:
    """A sample would be missing from a chart, or be on it twice."""
    begins = np.cumsum([step for step, _ in steps])
    facts = [ClockFact(int(t), offset, SURE) for t, (_, offset) in zip(begins, steps, strict=True)]
    hub_time = HubTime(facts)
    array = np.array(times)
    np.testing.assert_array_equal(hub_time.of(array), [hub_time.at(t) for t in times])
    for t in times:
        expected = next((f.offset_ns for f in reversed(facts) if f.t <= t), facts[0].offset_ns)
        shown = hub_time.at(t)
        assert shown == t + expected
        within = [piece for piece in hub_time.windows(shown, shown + 1) if piece.begin <= t < piece.end]
        assert [piece.offset_ns for piece in within] == [expected]


def test_an_offset_is_not_carried_over_a_long_silence() -> None:
    """What an edge sent last week without comparing clocks is not explained by this week's offset."""
    facts = [ClockFact(0, 5, SURE), ClockFact(1000, 0, CLOCK_UNKNOWN), ClockFact(10 * BEFORE_FIRST_NS, 7, SURE)]
    hub_time = HubTime(facts)
    assert hub_time.at(2000) == 2005
    assert hub_time.at(10 * BEFORE_FIRST_NS - 1) == 10 * BEFORE_FIRST_NS + 6


def test_a_stream_follows_its_offset_slowly_and_a_step_at_once() -> None:
    shift = StreamShift(MS)
    assert [shift.follow(offset) for offset in (10 * MS, 13 * MS, 13 * MS, 9 * MS, HOUR)] == [
        10 * MS,
        11 * MS,
        12 * MS,
        11 * MS,
        HOUR,
    ]


@pytest.mark.parametrize(
    ("offset", "uncertainty", "expected"),
    [
        (0, CLOCK_UNKNOWN, None),
        (MS, SURE, (False, True)),
        (900 * MS, SURE, (False, False)),
        (-1001 * MS, SURE, (True, False)),
        (HOUR, SURE, (True, False)),
    ],
)
def test_the_health_page_knows_a_wrong_clock(offset: int, uncertainty: int, expected: tuple[bool, bool] | None) -> None:
    """Nobody would set it right."""
    status = EdgeStatus(edge=EDGE, online=True, clock_offset_ns=offset, clock_uncertainty_ns=uncertainty)
    clock = EdgeFacts(EDGE, None, online=True, state=EdgeState(status, NOW)).clock
    assert (clock and (clock.wrong, clock.agrees)) == expected
