"""What every telemetry store must do with old samples: delete them, and lose nothing that is still asked."""

from __future__ import annotations

import numpy as np

from hub.store.base import DAY, ClockFact, Record, Result, State, TelemetryStore
from lab_contract.batch import Gap, GapReason
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import Place, events, frame, gaps, values

OLD = NOW - 40 * DAY
BOUNDARY = NOW - 30 * DAY


def fill(store: TelemetryStore) -> None:
    t = OLD + np.arange(1000) * 4_000_000
    store.append(
        [
            frame(1, t, np.vstack([np.arange(1000), np.zeros(1000)]), clock=(7, 1)),
            events(2, [(OLD + 1, "line.state", 1, "Execute"), (OLD + 2, "line.state", 2, "Aborted")], clock=(7, 1)),
            frame(3, [NOW, NOW + SECOND], np.array([[5, 6], [0, 0]]), clock=(7, 1)),
            gaps(4, Gap("eeg", OLD - 9, OLD, GapReason.STOPPED)),
        ]
    )
    store.put_results([Result(KIT, "w", "task", "model", OLD, 0.5, True, 60.0)])


def test_old_samples_go_and_new_ones_stay(store: TelemetryStore) -> None:
    """A disk that fills up stops every lesson; a sample deleted too early is gone for good."""
    fill(store)
    assert store.facts().samples_from_ns is None
    # All but the last of each of the three channels.
    assert store.apply_retention(BOUNDARY + 5) == 999 + 999 + 1
    assert values(store, "eeg.a", 0, BOUNDARY) == [(OLD + 999 * 4_000_000, 999.0)]
    assert values(store, "eeg.a", BOUNDARY) == [(NOW, 5.0), (NOW + SECOND, 6.0)]
    assert store.stats().samples == 4 + 3
    assert store.facts().samples_from_ns == BOUNDARY
    assert store.apply_retention(BOUNDARY) == store.apply_retention(BOUNDARY - DAY) == 0
    assert store.facts().samples_from_ns == BOUNDARY


def test_what_is_older_than_retention_is_still_shown_from_the_roll_up(store: TelemetryStore, place: Place) -> None:
    """Last year's trend keeps its peaks; zooming into it must not show an empty page."""
    fill(store)
    store.apply_retention(BOUNDARY)
    for opened in (store, None):
        if opened is None:
            store.close()
            opened = place.open()
        for buckets in (4, 1000):
            view = opened.overview(KIT, ["eeg.a"], OLD, OLD + 4 * SECOND, buckets)
            assert (view.from_rollup, view.width_ns) == (True, SECOND)
            assert view.channels["eeg.a"][0].tolist() == [0, 250, 500, 750]
            assert view.channels["eeg.a"][1].tolist() == [249, 499, 749, 999]
        told = opened.statistics(KIT, ["eeg.a"], OLD + 5, OLD + 2 * SECOND - 5)["eeg.a"]
        assert (told.n, told.lo, told.hi, told.mean, told.first) == (500, 0, 499, 249.5, None)
        assert opened.statistics(KIT, ["eeg.a"], OLD, NOW + 1)["eeg.a"].last == 5
    opened.close()


def test_what_held_when_samples_were_deleted_still_holds(store: TelemetryStore) -> None:
    """A line that was aborted 40 days ago and never touched since is still aborted."""
    fill(store)
    store.apply_retention(BOUNDARY)
    assert store.states(KIT, "line.state", NOW, NOW + 5) == [State(NOW, NOW + 5, 2, "Aborted")]
    assert store.latest(KIT)["line.state"].text == "Aborted"


def test_gaps_clock_facts_results_and_ledger_outlive_the_samples(store: TelemetryStore) -> None:
    """A trainee's mark stays; a batch redelivered after its samples were deleted must not bring them back."""
    fill(store)
    store.apply_retention(BOUNDARY)
    assert len(store.gaps(KIT, 0, NOW)) == 1
    assert store.clock(KIT, OLD, NOW) == [ClockFact(OLD, 7, 1)]
    assert [result.task for result in store.results(KIT, 0, NOW)] == ["task"]
    assert store.missing("edge-1", 1, 1, 4) == []
    assert sum(store.days(Record.ROLLUP, KIT).values()) == 4 + 4 + 1 + 2 + 2


def test_ingest_goes_on_after_retention(store: TelemetryStore) -> None:
    """The hourly job runs beside the line."""
    fill(store)
    store.apply_retention(NOW + SECOND)
    # A backlog older than the boundary is kept until the job comes by again.
    store.append([frame(9, [OLD + 5, NOW + 2 * SECOND])])
    assert len(values(store, "eeg.a")) == 4
    assert store.apply_retention(NOW + 2 * SECOND) == 2 + 2 + 0


def test_a_store_without_samples_has_nothing_to_delete(store: TelemetryStore) -> None:
    """A new workshop's hub runs the job too."""
    assert store.apply_retention(NOW) == 0
    store.append([frame(1, [NOW])])
    assert store.apply_retention(NOW) == 0
