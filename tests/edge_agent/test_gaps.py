"""What a user would lose where these fail: the truth about holes, which look like quiet equipment on a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.gaps import OPEN_MOST, SETTLED_NS, ConnectionWatch, Loss, OpenLosses, told
from edge_agent.source import Event, Lost
from lab_contract.batch import GapReason
from tests.edge_agent.support import FakeClock, frame
from tests.small_kit import KIT, NOW, SECOND, model

PERIOD = 4_000_000
REASONS = st.sampled_from(GapReason)


def event() -> list[Event]:
    return [Event("line.good", NOW, 1.0)]


class Watched:
    def __init__(self, ends: Mapping[tuple[str, str], int] | None = None, **changes: Any) -> None:
        self.clock = FakeClock()
        self.losses: list[Loss] = []
        self.watch = ConnectionWatch(
            **{
                "kit": KIT,
                "connection": "amp",
                "streams": model().streams,
                "changes": False,
                "ends": ends or {},
                "lose": self.losses.append,
                "clock": self.clock,
            }
            | changes
        )
        self.watch.opened()


def events_only(ends: Mapping[tuple[str, str], int] | None = None) -> Watched:
    return Watched(ends, connection="plc", streams=(), changes=True)


def test_what_was_not_read_while_the_agent_did_not_run_is_a_gap() -> None:
    watched = Watched({(KIT, "eeg"): NOW - 60 * SECOND})
    watched.watch.take(frame(0, 10))
    watched.watch.take(frame(10, 10))
    assert watched.losses == [Loss(KIT, "eeg", NOW - 60 * SECOND, NOW, GapReason.STOPPED)]


def test_a_first_start_and_a_restart_without_loss_say_nothing() -> None:
    for ends in ({}, {(KIT, "eeg"): NOW - PERIOD}):
        watched = Watched(ends)
        watched.watch.take(frame(0, 10))
        assert watched.losses == []


def test_a_reconnect_is_a_gap_from_the_last_sample_to_the_first() -> None:
    watched = Watched({(KIT, "eeg"): NOW - PERIOD})
    watched.watch.take(frame(0, 10))
    watched.watch.opened()
    watched.watch.opened()
    watched.watch.take(frame(500, 10))
    begin, end = NOW + 9 * PERIOD, NOW + 500 * PERIOD
    assert watched.losses == [Loss(KIT, "eeg", begin, end, GapReason.DISCONNECTED)]


def test_a_jump_of_the_counter_is_a_gap_with_its_count() -> None:
    watched = Watched()
    watched.watch.take(frame(0, 10))
    watched.watch.take(frame(13, 10, lost=3))
    assert watched.losses == [Loss(KIT, "eeg", NOW + 9 * PERIOD, NOW + 13 * PERIOD, GapReason.COUNTER_JUMP, 3)]


def test_changes_are_missing_while_their_connection_was_down_by_the_edges_clock() -> None:
    watched = events_only({(KIT, "events/plc"): NOW - 600 * SECOND, (KIT, "events/amp"): 5})
    watched.watch.take([])
    assert watched.losses == [Loss(KIT, "events", NOW - 600 * SECOND, NOW, GapReason.STOPPED)]
    watched.clock.pass_s(10)
    watched.watch.take([])
    watched.clock.pass_s(1)
    watched.watch.opened()
    watched.clock.pass_s(3)
    watched.watch.take(event())
    assert watched.losses[1:] == [Loss(KIT, "events", NOW + 10 * SECOND, NOW + 14 * SECOND, GapReason.DISCONNECTED)]


def test_dropped_changes_lie_between_the_last_sign_of_life_and_now() -> None:
    watched = events_only()
    watched.watch.take(event())
    watched.clock.pass_s(2)
    watched.watch.take(Lost(GapReason.OVERFLOW, 7))
    watched.watch.take(event())
    assert watched.losses == [Loss(KIT, "events", NOW, NOW + 2 * SECOND, GapReason.OVERFLOW, 7)]


def test_a_connection_of_streams_alone_has_no_gap_of_changes() -> None:
    watched = Watched({(KIT, "events/amp"): NOW - SECOND})
    watched.watch.take(frame(0, 1))
    assert watched.losses == []


def test_a_clock_that_was_set_back_leaves_a_gap_without_length() -> None:
    """Nobody can say how long it was; a gap that ends before it begins would be refused by the hub."""
    watched = Watched({(KIT, "eeg"): NOW + 3600 * SECOND})
    watched.watch.take(frame(0, 10))
    (loss,) = watched.losses
    assert told(loss) == Loss(KIT, "eeg", NOW, NOW, GapReason.STOPPED)


@pytest.mark.parametrize("t", [0, -5, 4_200_000_000 * SECOND, 2**63 - 1])
def test_a_clock_that_was_never_set_makes_no_gap_of_decades(t: int) -> None:
    assert told(Loss(KIT, "eeg", 0, t, GapReason.STOPPED)) is None
    assert told(Loss(KIT, "eeg", t, NOW, GapReason.STOPPED)) == Loss(KIT, "eeg", NOW, NOW, GapReason.STOPPED)


losses = st.builds(
    lambda begin, length, reason, count: Loss(KIT, "eeg", NOW + begin, NOW + begin + length, reason, count),
    st.integers(0, 500 * SECOND),
    st.integers(0, 5 * SECOND),
    REASONS,
    st.none() | st.integers(1, 1000),
)


@given(losses=st.lists(losses, max_size=200))
def test_joining_gaps_loses_no_stretch_and_no_count(losses: list[Loss]) -> None:
    gathered = OpenLosses()
    for loss in losses:
        gathered.add(loss, 0)
    assert gathered.due(SETTLED_NS - 1) == []
    found = [entry.loss for entry in gathered.due(SETTLED_NS)]
    assert len(found) == len(gathered) <= OPEN_MOST * len(GapReason)
    for loss in losses:
        assert any(one.reason is loss.reason and one.t_from <= loss.t_from and loss.t_to <= one.t_to for one in found)
    for reason in GapReason:
        counted = [loss.count for loss in losses if loss.reason is reason]
        if None not in counted:
            assert sum(filter(None, counted)) == sum(one.count or 0 for one in found if one.reason is reason)
    entries = gathered.due(SETTLED_NS)
    gathered.said(entries)
    assert len(gathered) == 0


def test_jumps_with_good_samples_between_them_stay_apart_until_they_are_too_many() -> None:
    gathered = OpenLosses()
    for i in range(OPEN_MOST):
        gathered.add(Loss(KIT, "eeg", NOW + i * SECOND, NOW + i * SECOND + 3 * PERIOD, GapReason.COUNTER_JUMP, 2), 0)
    assert len(gathered) == OPEN_MOST
    gathered.add(Loss(KIT, "eeg", NOW + 900 * SECOND, NOW + 901 * SECOND, GapReason.COUNTER_JUMP, 2), 0)
    assert len(gathered) == OPEN_MOST
    assert sum(entry.loss.count or 0 for entry in gathered.due(SETTLED_NS)) == 2 * OPEN_MOST + 2
