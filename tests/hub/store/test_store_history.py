"""What every telemetry store must answer about time itself: gaps, states, clock offsets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store.base import ClockFact, State, TelemetryStore
from lab_contract.batch import CLOCK_UNKNOWN, Gap, GapReason
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import events, frame, gaps

HOUR = 3600 * SECOND


def test_gaps_that_overlap_a_window_come_whole_and_in_order(store: TelemetryStore) -> None:
    """A hole that is not shown, or cut short, is taken for a flat line."""
    before = Gap("eeg", NOW - HOUR, NOW - 1, GapReason.STOPPED)
    across = Gap("eeg", NOW - SECOND, NOW + SECOND, GapReason.DISCONNECTED)
    inside = Gap("events", NOW + 5, NOW + 5, GapReason.OVERFLOW, 3)
    after = Gap("eeg", NOW + HOUR, NOW + 2 * HOUR, GapReason.SPOOL_FULL, 900_000)
    store.append([gaps(1, after, inside), gaps(2, across, before)])
    assert store.gaps(KIT, NOW, NOW + HOUR) == [across, inside]
    assert store.gaps(KIT, NOW - 1, NOW) == [before, across]
    assert store.gaps(KIT, 0, 2**62) == [before, across, inside, after]
    assert store.gaps("kit-9", 0, 2**62) == []


def test_every_reason_for_a_gap_can_be_kept(store: TelemetryStore) -> None:
    """Why data is missing decides who has to act."""
    lost = [Gap("eeg", NOW + n, NOW + n + 1, reason, n or None) for n, reason in enumerate(GapReason)]
    store.append([gaps(1, *lost)])
    assert store.gaps(KIT, NOW, NOW + HOUR) == lost


def test_states_are_runs_of_one_value_clipped_to_the_window(store: TelemetryStore) -> None:
    """How long a line ran is summed from these: a state that began before the window still holds in it."""
    store.append(
        [
            events(
                1,
                [
                    (NOW - HOUR, "line.state", 1, "Execute"),
                    (NOW + 10, "line.state", 1, "Execute"),
                    (NOW + 20, "line.state", 2, "Aborted"),
                    (NOW + 30, "line.state", None, None, 0x80000000),
                    (NOW + 40, "line.state", 1, "Execute"),
                ],
            )
        ]
    )
    assert store.states(KIT, "line.state", NOW, NOW + 100) == [
        State(NOW, NOW + 20, 1, "Execute"),
        State(NOW + 20, NOW + 30, 2, "Aborted"),
        State(NOW + 30, NOW + 40, None, None),
        State(NOW + 40, NOW + 100, 1, "Execute"),
    ]
    assert store.states(KIT, "line.state", NOW + 21, NOW + 22) == [State(NOW + 21, NOW + 22, 2, "Aborted")]
    assert store.states(KIT, "line.state", NOW - 2 * HOUR, NOW) == [State(NOW - HOUR, NOW, 1, "Execute")]
    assert store.states(KIT, "line.state", 0, NOW - HOUR) == []
    assert store.states(KIT, "line.good", 0, NOW) == []


def test_a_text_alone_is_a_state(store: TelemetryStore) -> None:
    """The name of the running program is a text without a number."""
    store.append([events(1, [(NOW, "line.program", None, "一号"), (NOW + 1, "line.program", None, "二号")])])
    assert store.states(KIT, "line.program", NOW, NOW + 5) == [
        State(NOW, NOW + 1, None, "一号"),
        State(NOW + 1, NOW + 5, None, "二号"),
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from([0, 1, 2, None])),
        min_size=1,
        max_size=20,
        unique_by=lambda change: change[0],
    ),
    cut=st.integers(0, 20),
    t0=st.integers(-5, 55),
    span=st.integers(1, 60),
)
def test_states_equal_brute_force(
    store: TelemetryStore,
    new_kit: Callable[[], str],
    changes: list[tuple[int, int | None]],
    cut: int,
    t0: int,
    span: int,
) -> None:
    """Whatever the order in which changes arrive, at each instant the last change before it holds."""
    kit = new_kit()
    epoch = int(kit[4:])
    for seq, part in enumerate((changes[:cut], changes[cut:])):
        if part:
            rows = [(NOW + t, "line.state", value) for t, value in part]
            store.append([events(seq, rows, kit=kit, epoch=epoch)])
    found = store.states(kit, "line.state", NOW + t0, NOW + t0 + span)
    told = {t: state.value for state in found for t in range(state.t_from - NOW, state.t_to - NOW)}
    ordered = sorted(changes, key=lambda change: change[0])
    held = {t: [v for at, v in ordered if at <= t][-1] for t in range(t0, t0 + span) if ordered[0][0] <= t}
    assert told == held
    assert all(former.value != later.value for former, later in pairwise(found))


def test_clock_facts_are_told_where_they_change(store: TelemetryStore) -> None:
    """A workshop whose clock is an hour off is shown at the right time only with the offset of that time."""
    store.append([frame(1, [NOW], clock=(0, CLOCK_UNKNOWN))])
    store.append(
        [
            frame(3, [NOW + 20 * SECOND], clock=(HOUR, 900)),
            frame(2, [NOW + 10 * SECOND], clock=(HOUR, 900)),
            events(4, [(NOW + 30 * SECOND, "line.good", 1)], clock=(HOUR + 5, 800)),
        ]
    )
    store.append([frame(5, [NOW + 40 * SECOND], clock=(HOUR + 5, 800))])
    unknown, hour, more = (
        ClockFact(NOW, 0, CLOCK_UNKNOWN),
        ClockFact(NOW + 10 * SECOND, HOUR, 900),
        ClockFact(NOW + 30 * SECOND, HOUR + 5, 800),
    )
    assert store.clock(KIT, NOW - HOUR, NOW + HOUR) == [unknown, hour, more]
    assert store.clock(KIT, NOW + 15 * SECOND, NOW + 16 * SECOND) == [hour]
    assert store.clock(KIT, NOW + 10 * SECOND, NOW + 30 * SECOND) == [hour]
    assert store.clock(KIT, NOW + 50 * SECOND, NOW + HOUR) == [more]
    assert store.clock(KIT, 0, NOW) == []
    assert store.clock("kit-9", 0, 2**62) == []


def test_a_backlog_brings_its_own_clock_facts(store: TelemetryStore) -> None:
    """Live data comes first: what a workshop sampled before its clock was mended must not get the mended offset."""
    store.append([frame(9, [NOW], clock=(7, 1))])
    store.append([frame(1, [NOW - HOUR], clock=(-HOUR, 1)), frame(2, [NOW - HOUR + SECOND], clock=(-HOUR, 1))])
    store.append([frame(3, [NOW - HOUR + 2 * SECOND], clock=(-HOUR, 1))])
    store.append([frame(10, [NOW + SECOND], clock=(7, 1))])
    assert store.clock(KIT, 0, 2**62) == [ClockFact(NOW - HOUR, -HOUR, 1), ClockFact(NOW, 7, 1)]


def test_a_gap_says_nothing_about_the_clock(store: TelemetryStore) -> None:
    """What was lost yesterday is told today, with today's offset."""
    store.append([frame(1, [NOW], clock=(7, 1)), gaps(2, Gap("eeg", NOW - HOUR, NOW, GapReason.STOPPED))])
    assert store.clock(KIT, 0, 2**62) == [ClockFact(NOW, 7, 1)]
