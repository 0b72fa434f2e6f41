"""What every telemetry store must do, whatever the engine: the suite is parametrised over the implementations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store import STORES, open_store
from hub.store.base import (
    DecodedBatch,
    DecodedEvents,
    Outcome,
    Quarantine,
    StoreMisconfigured,
    StoreUnavailable,
    TelemetryStore,
)
from tests.hub.support import events, frame
from tests.small_kit import EEG, KIT, NOW, SECOND

URLS: dict[str, Callable[[Path], str]] = {"duckdb": lambda folder: f"duckdb:///{folder / 'telemetry.duckdb'}"}


@pytest.fixture(params=sorted(URLS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return URLS[request.param](tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[TelemetryStore]:
    opened = open_store(url)
    yield opened
    opened.close()


def values(store: TelemetryStore, channel: str, t0: int = 0, t1: int = 2**62) -> list[tuple[int, float | None]]:
    table = store.raw(KIT, [channel], t0, t1).read_all()
    return list(zip(table["t"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_every_registered_store_runs_this_suite() -> None:
    """A store added without the suite would lose data in its own way."""
    assert set(STORES) == set(URLS)


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


def test_everything_is_there_after_a_restart(url: str) -> None:
    store = open_store(url)
    batch = events(1, [(NOW, "line.state", 1, "Execute")])
    store.append([batch])
    store.quarantine([Quarantine("edge-1", "checksum", "no", b"junk", NOW)])
    identity = store.store_id
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.append([batch])
    again = open_store(url)
    assert again.store_id == identity
    assert again.append([batch]) == [Outcome.DUPLICATE]
    assert again.latest(KIT)["line.state"].text == "Execute"
    assert again.append([frame(2, [NOW])]) == [Outcome.STORED]
    assert again.quarantine_counts() == {"checksum": 1}
    again.close()


def test_quarantine_keeps_the_bytes_once_and_counts(store: TelemetryStore) -> None:
    """An edge that resends a broken batch every 3 s must not fill the disk."""
    item = Quarantine("edge-1", "checksum", "crc differs", b"\x00junk", NOW)
    store.quarantine([item, item])
    store.quarantine([Quarantine("edge-1", "checksum", "crc differs", b"\x00junk", NOW + 5), item])
    (kept,) = store.quarantined()
    assert (kept.repeats, kept.first_ns, kept.raw, kept.size) == (4, NOW, b"\x00junk", 5)
    assert store.quarantine_counts() == {"checksum": 4}


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


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[DecodedBatch], list[tuple[int, float]]]:
    """Batches with repeated, unordered and missing samples, and the flat list of what is in them."""
    batches: list[DecodedBatch] = []
    flat: list[tuple[int, float]] = []
    for seq in range(draw(st.integers(1, 5))):
        start = NOW + draw(st.integers(0, 9_000)) * 1_000_000
        numbers = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
        if draw(st.booleans()):
            row = draw(st.lists(numbers, min_size=1, max_size=20))
            t = start + np.arange(len(row)) * draw(st.sampled_from([4_000_000, 300_000_000]))
            batches.append(frame(seq, t, np.array([row, row])))
            flat += zip(t.tolist(), row, strict=True)
        else:
            points = draw(st.lists(st.tuples(st.integers(0, 5_000), numbers), min_size=1, max_size=20))
            rows = [(start + ms * 1_000_000, value) for ms, value in points]
            batches.append(events(seq, [(t, "eeg.a", value) for t, value in rows]))
            flat += rows
    return batches, [(t, value) for t, value in flat if value == value]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), offset=st.integers(-3_000, 9_000), span=st.integers(1, 30_000), buckets=st.integers(1, 40))
def test_overview_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    history: tuple[list[DecodedBatch], list[tuple[int, float]]],
    offset: int,
    span: int,
    buckets: int,
) -> None:
    """A trend from the roll-up must show the very peaks that the raw samples have."""
    batches, flat = history
    for make_url in URLS.values():
        store = open_store(make_url(tmp_path_factory.mktemp("store")))
        for batch in batches:
            store.append([batch])
        t0 = NOW + offset * 1_000_000
        view = store.overview(KIT, ["eeg.a"], t0, t0 + span * 1_000_000, buckets)
        low, high = view.channels["eeg.a"]
        assert len(view.t) <= buckets + 1
        assert view.t[0] <= t0
        assert view.t[-1] + view.width_ns >= t0 + span * 1_000_000
        for start, lowest, highest in zip(view.t.tolist(), low, high, strict=True):
            inside = [value for t, value in flat if start <= t < start + view.width_ns]
            assert (lowest, highest) == (min(inside), max(inside)) if inside else np.isnan([lowest, highest]).all()
        store.close()


def test_questions_are_answered_from_other_threads_while_appending(store: TelemetryStore) -> None:
    """An open trend must not stop the line, nor the line the trend."""
    store.append([frame(0, [NOW])])
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert store.raw(KIT, EEG, NOW, NOW + SECOND).read_all().num_rows >= 2
                store.overview(KIT, EEG, NOW, NOW + 10 * SECOND, 5)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seq in range(1, 20):
        store.append([frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000)])
    for thread in threads:
        thread.join()
    assert not failures


def test_a_failed_transaction_stores_nothing_and_the_next_succeeds(store: TelemetryStore) -> None:
    """A half stored batch would be counted as a duplicate on its retry and so be lost."""
    good = events(1, [(NOW, "line.good", 1)])
    assert isinstance(good, DecodedEvents)
    # A batch no decoder lets through: the engine fails after the ledger row was written.
    broken = DecodedEvents(
        good.header, NOW, good.raw, good.channels, good.index + 5, good.t, good.values, good.quality, good.text,
        good.t_server, good.t_receipt,
    )  # fmt: skip
    with pytest.raises(IndexError):
        store.append([broken])
    assert store.append([good]) == [Outcome.STORED]
    assert values(store, "line.good") == [(NOW, 1.0)]


WRITER = """
import sys
from hub.store import open_store
from tests.hub.support import frame
from tests.small_kit import NOW, SECOND
import numpy as np
store = open_store(sys.argv[1])
for seq in range(100_000):
    store.append([frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000)])
    print(seq, flush=True)
"""


@pytest.mark.real
def test_what_was_acknowledged_survives_a_kill(url: str) -> None:
    """The edge deletes what is acknowledged: a killed hub must still have it."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, env={**os.environ})
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged == 40:
            break
    writer.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = open_store(url)
    found = len(values(store, "eeg.a"))
    # One more may have been committed without being said.
    assert found in {(acknowledged + 1) * 250, (acknowledged + 2) * 250}
    assert store.append([frame(acknowledged, NOW + acknowledged * SECOND + np.arange(250) * 4_000_000)]) == [
        Outcome.DUPLICATE
    ]
    store.close()
