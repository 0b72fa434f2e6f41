"""What is special about DuckDB and therefore not in the contract of every store."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hub.store import quarantine_table
from hub.store.base import DAY, ExportFormat, Outcome, Quarantine, StoreUnavailable
from hub.store.duckdb import DuckdbStore
from hub.store.duckdb_engine import row
from tests.small_disk import SmallDisk, small_files, small_tmpfs
from tests.small_kit import EEG, KIT, NOW, SECOND
from tests.stores import events, frame, values


def opened(folder: Path) -> DuckdbStore:
    return DuckdbStore(f"duckdb:///{folder / 'telemetry.duckdb'}")


def test_an_engine_that_broke_is_opened_anew(tmp_path: Path) -> None:
    """After a fatal error DuckDB refuses all until it is opened again; nobody should have to restart the hub."""
    store = opened(tmp_path)
    store.append([events(1, [(NOW, "line.good", 1)])])
    assert store.raw(KIT, ["line.good"], NOW, NOW + 9).read_all().num_rows == 1
    assert store._engine._writer is not None
    store._engine._writer.close()
    with pytest.raises(StoreUnavailable):
        store.append([events(2, [(NOW + 1, "line.good", 2)])])
    assert not store.health().ok
    assert store.stats().samples == 1
    assert store.append([events(2, [(NOW + 1, "line.good", 2)])]) == [Outcome.STORED]
    assert store.health().ok
    assert values(store, "line.good") == [(NOW, 1.0), (NOW + 1, 2.0)]
    store.close()


def test_a_store_can_be_closed_whatever_is_still_being_read(tmp_path: Path) -> None:
    """A download that nobody reads on must not keep the hub from leaving, nor the next from opening the file."""
    store = opened(tmp_path)
    store.append([frame(1, NOW + np.arange(200_000) * 4_000_000, received_ns=NOW + DAY)])
    begun, ended = (store.raw(KIT, EEG, 0, 2**62) for _ in range(2))
    assert begun.read_next_batch().num_rows > 0
    assert ended.read_all().num_rows == 400_000
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        begun.read_all()
    again = opened(tmp_path)
    assert again.stats().samples == 400_000
    again.close()


@contextmanager
def asking(store: DuckdbStore) -> Iterator[list[str]]:
    """A page that renews itself all the while, also while the engine is opened anew; what it was told instead."""
    failures: list[str] = []
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            try:
                store.overview(KIT, EEG, NOW, NOW + 1000 * SECOND, 10)
                store.raw(KIT, EEG, NOW, NOW + SECOND).read_all()
            except StoreUnavailable as error:
                failures.append(str(error))

    reader = threading.Thread(target=ask)
    reader.start()
    try:
        yield failures
    finally:
        stopping.set()
        reader.join()


def fill_up(store: DuckdbStore, disk: SmallDisk) -> None:
    """Appends until the disk is full, checks what a full disk may and may not do, makes room, goes on."""
    noise = np.random.default_rng(0).normal(size=(2, 2000))

    def batch(seq: int) -> list[Outcome]:
        t = NOW + seq * 8 * SECOND + np.arange(2000) * 4_000_000
        return store.append([frame(seq, t, noise)])

    acknowledged = 0
    with asking(store) as failures:
        # Opening the file anew may find some room; full is where that does not help any more.
        refused = 0
        while refused < 4:
            assert acknowledged < 3000, f"never full: {disk.kind}"
            try:
                batch(acknowledged)
                acknowledged += 1
                refused = 0
            except StoreUnavailable:
                refused += 1
                assert store.health().detail
    assert all(failures)
    assert not store.health().ok
    # Nothing can be written, and what was acknowledged can still be read.
    assert store.latest(KIT)["eeg.a"].t >= NOW
    assert store.missing("edge-1", 1, 0, acknowledged - 1) == []
    disk.make_room()
    assert batch(acknowledged) in ([Outcome.STORED], [Outcome.DUPLICATE])
    assert store.health().ok
    store.close()
    again = opened(disk.folder)
    assert again.missing("edge-1", 1, 0, acknowledged) == []
    assert len(values(again, "eeg.a")) == (acknowledged + 1) * 2000
    assert again.statistics(KIT, ["eeg.a"], 0, 2**62)["eeg.a"].n == (acknowledged + 1) * 2000
    again.close()


def test_a_full_disk_stops_writing_alone(tmp_path: Path) -> None:
    """The hub stays up, says why, answers readers, loses nothing it acknowledged, and goes on once there is room."""
    with small_tmpfs(tmp_path / "disk", 8) as disk:
        if disk is not None:
            fill_up(opened(disk.folder), disk)
            return
    with small_files(tmp_path / "disk", 4) as disk:
        fill_up(opened(disk.folder), disk)


def test_a_quota_that_is_used_up_stops_writing_alone(tmp_path: Path) -> None:
    """A quota is said by another error than a full disk."""
    with small_files(tmp_path / "disk", 4) as disk:
        fill_up(opened(disk.folder), disk)


def test_a_store_on_a_disk_without_any_room_says_so(tmp_path: Path) -> None:
    """A hub that starts on a full disk must name the cause, not end in a traceback."""
    folder = tmp_path / "file"
    folder.write_text("no folder")
    with pytest.raises(StoreUnavailable, match="file"):
        opened(folder / "below")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Two hubs on one data folder would end each other's broker; the lock of the file stops the second."""
    url = f"duckdb:///{tmp_path / 'telemetry.duckdb'}"
    store = DuckdbStore(url)
    code = (
        "import sys\nfrom hub.store import open_store\nfrom hub.store.base import StoreUnavailable\n"
        "try:\n    open_store(sys.argv[1])\nexcept StoreUnavailable as error:\n    print('refused', error)\n"
    )
    second = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert second.stdout.startswith("refused")
    store.close()


def test_quarantine_stops_keeping_bytes_but_not_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mad edge must not fill the disk on which the lessons are stored."""
    monkeypatch.setattr(quarantine_table, "RAW_BYTES", 10)
    store = opened(tmp_path)
    store.quarantine([Quarantine("edge-1", "checksum", "", bytes([n]) * 6, NOW + n) for n in range(3)])
    assert [kept.raw for kept in store.quarantined()] == [None, None, bytes(6)]
    assert store.quarantine_counts() == {"checksum": 3}
    store.close()


def test_nothing_is_fetched_from_a_network(tmp_path: Path) -> None:
    """An engine that installs extensions by itself would call home from a closed workshop."""
    store = opened(tmp_path)
    for name in ("autoinstall_known_extensions", "autoload_known_extensions"):
        assert store._engine.ask(lambda con, name=name: row(con, f"SELECT current_setting('{name}')")) == (False,)
    # A web address is refused without a look at the network; what exports and copies use is built in.
    with pytest.raises(StoreUnavailable, match=r"httpfs|Missing Extension"):
        store._engine.ask(lambda con: row(con, "SELECT * FROM read_parquet('https://127.0.0.1:9/x.parquet')"))
    store.append([frame(1, [NOW])])
    assert store.export(KIT, EEG, NOW, NOW + 1, ExportFormat.PARQUET, tmp_path / "x.parquet") == 2
    store.close()


def test_room_of_deleted_samples_is_used_again(tmp_path: Path) -> None:
    """Retention that freed nothing would only put off the day on which the disk is full."""
    store = opened(tmp_path)
    noise = np.random.default_rng(0).normal(size=(2, 70_000))
    sizes: list[int] = []
    for day in range(6):
        t = NOW + day * DAY + np.arange(70_000) * 4_000_000
        store.append([frame(day, t, noise, received_ns=int(t[-1]))])
        store.apply_retention(NOW + (day - 1) * DAY)
        sizes.append(store.stats().bytes_on_disk)
    assert store.stats().samples <= 3 * 140_000
    assert sizes[-1] < 1.5 * sizes[3]
    store.close()
