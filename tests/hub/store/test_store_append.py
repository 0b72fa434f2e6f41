"""What every telemetry store must do with batches that arrive: once, whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store import STORES, open_store
from hub.store.base import DecodedEvents, Outcome, Quarantine, StoreMisconfigured, TelemetryStore
from lab_contract.batch import Gap, GapReason
from tests.small_kit import EDGE, KIT, NOW, SECOND
from tests.stores import PLACES, events, frame, gaps, values


def test_every_registered_store_runs_this_suite() -> None:
    """A store added without the suite would lose data in its own way."""
    assert {open_by.partition("+")[0] for open_by in STORES} == set(PLACES)


def test_unknown_scheme_names_what_is_expected() -> None:
    with pytest.raises(StoreMisconfigured, match="duckdb://"):
        open_store("oracle:///x")
    with pytest.raises(StoreMisconfigured, match="duckdb:///FILE"):
        open_store("duckdb:///")


def test_appended_samples_come_back_as_they_were(store: TelemetryStore) -> None:
    t = NOW + np.arange(3) * 4_000_000
    wave = np.array([[1.5, np.nan, -2.25], [0, 1, 2]])
    changes = events(2, [(NOW, "line.state", 1, "Execute"), (NOW + 5, "line.program", None, "二号", 0x80AE0000)])
    assert store.append([frame(1, t, wave), changes]) == [Outcome.STORED, Outcome.STORED]
    assert values(store, "eeg.a") == [(int(t[0]), 1.5), (int(t[1]), None), (int(t[2]), -2.25)]
    table = store.raw(KIT, ["line.state", "line.program"], NOW, NOW + 6).read_all()
    assert table["channel"].to_pylist() == ["line.state", "line.program"]
    assert table["text"].to_pylist() == ["Execute", "二号"]
    assert table["quality"].to_pylist() == [0, 0x80AE0000]
    assert store.channels(KIT) == ["eeg.a", "eeg.b", "line.program", "line.state"]
    assert store.kits() == [KIT]


def test_same_batch_again_is_stored_once(store: TelemetryStore) -> None:
    """A redelivery after a lost acknowledgement must not double a trainee's parts."""
    batch = events(7, [(NOW, "line.good", 1)])
    assert store.append([batch, batch]) == [Outcome.STORED, Outcome.DUPLICATE]
    assert store.append([batch, events(8, [(NOW + 1, "line.good", 2)])]) == [Outcome.DUPLICATE, Outcome.STORED]
    assert values(store, "line.good") == [(NOW, 1.0), (NOW + 1, 2.0)]
    assert store.stats().batches == 2


def test_same_id_with_other_content_is_a_conflict(store: TelemetryStore) -> None:
    """Two machines with one identity must be noticed, not averaged."""
    ours, theirs = events(7, [(NOW, "line.good", 1)]), events(7, [(NOW, "line.good", 99)])
    assert store.append([ours, theirs]) == [Outcome.STORED, Outcome.CONFLICT]
    assert store.append([theirs]) == [Outcome.CONFLICT]
    assert values(store, "line.good") == [(NOW, 1.0)]


def test_a_new_epoch_is_a_new_batch(store: TelemetryStore) -> None:
    """An edge restored from an image starts its sequence again and must not be taken for a duplicate."""
    first, second = events(1, [(NOW, "line.good", 1)], epoch=1), events(1, [(NOW + 1, "line.good", 2)], epoch=2**63)
    assert store.append([first]) + store.append([second]) == [Outcome.STORED, Outcome.STORED]


def test_a_gap_record_is_delivered_like_data(store: TelemetryStore) -> None:
    """A gap told twice would be counted twice in what a session lacks."""
    lost = gaps(3, Gap("eeg", NOW, NOW + SECOND, GapReason.OVERFLOW, 250))
    assert store.append([lost, events(4, [(NOW, "line.good", 1)])]) == [Outcome.STORED, Outcome.STORED]
    assert store.append([lost]) == [Outcome.DUPLICATE]
    assert store.append([gaps(3, Gap("eeg", NOW, NOW + 9, GapReason.DISK))]) == [Outcome.CONFLICT]
    assert len(store.gaps(KIT, NOW, NOW + SECOND)) == 1
    assert store.stats().batches == 2


def test_a_failed_transaction_stores_nothing_and_the_next_succeeds(store: TelemetryStore) -> None:
    """A half stored batch would be counted as a duplicate on its retry and so be lost."""
    good = events(1, [(NOW, "line.good", 1)])
    assert isinstance(good, DecodedEvents)
    # A batch no decoder lets through: writing fails after the ledger row was written.
    broken = DecodedEvents(
        good.header, NOW, good.raw, good.channels, good.index + 5, good.t, good.values, good.quality, good.text,
        good.t_server, good.t_receipt,
    )  # fmt: skip
    with pytest.raises(IndexError):
        store.append([broken])
    assert store.append([good]) == [Outcome.STORED]
    assert values(store, "line.good") == [(NOW, 1.0)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.sets(st.integers(0, 60), max_size=30),
    base=st.sampled_from([0, 2**40, 2**63]),
    first=st.integers(0, 60),
    more=st.integers(0, 60),
)
def test_missing_numbers_are_all_those_without_a_batch(
    store: TelemetryStore, new_kit: Callable[[], str], numbers: set[int], base: int, first: int, more: int
) -> None:
    """A hub restored from a backup asks the edges for exactly these: one left out is lost for good."""
    epoch = int(new_kit().rpartition("-")[2]) + base
    if numbers:
        store.append([events(base + n, [(NOW + n, "line.good", n)], epoch=epoch) for n in numbers])
    found = store.missing(EDGE, epoch, base + first, base + first + more)
    assert found == sorted(found)
    listed = [n - base for a, z in found for n in range(a, z + 1)]
    assert listed == [n for n in range(first, first + more + 1) if n not in numbers]
    assert all(later[0] > former[1] + 1 for former, later in pairwise(found))


def test_nothing_is_known_of_another_edge(store: TelemetryStore) -> None:
    """One edge's numbers say nothing about another's."""
    store.append([events(5, [(NOW, "line.good", 1)])])
    assert store.missing("edge-2", 1, 4, 6) == [(4, 6)]
    assert store.missing(EDGE, 1, 4, 6) == [(4, 4), (6, 6)]
    assert store.missing(EDGE, 1, 5, 5) == []
    assert store.missing(EDGE, 1, 6, 5) == []


def test_quarantine_keeps_the_bytes_once_and_counts(store: TelemetryStore) -> None:
    """An edge that resends a broken batch every 3 s must not fill the disk."""
    item = Quarantine("edge-1", "checksum", "crc differs", b"\x00junk", NOW)
    store.quarantine([item, item])
    store.quarantine([Quarantine("edge-1", "checksum", "crc differs", b"\x00junk", NOW + 5), item])
    (kept,) = store.quarantined()
    assert (kept.repeats, kept.first_ns, kept.raw, kept.size) == (4, NOW, b"\x00junk", 5)
    assert store.quarantine_counts() == {"checksum": 4}
