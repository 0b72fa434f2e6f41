"""What is special about DuckDB and therefore not in the contract of every store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hub.store import quarantine_table
from hub.store.base import Outcome, Quarantine, StoreUnavailable
from hub.store.duckdb import CONFIG, DuckdbStore
from tests.hub.support import events
from tests.small_kit import KIT, NOW


def test_an_engine_that_broke_is_opened_anew(tmp_path: Path) -> None:
    """After a full disk DuckDB refuses all until it is opened again; nobody should have to restart the hub for that."""
    store = DuckdbStore(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    store.append([events(1, [(NOW, "line.good", 1)])])
    assert store.raw(KIT, ["line.good"], NOW, NOW + 9).read_all().num_rows == 1
    assert store._writer is not None
    store._writer.close()
    with pytest.raises(StoreUnavailable):
        store.append([events(2, [(NOW + 1, "line.good", 2)])])
    assert not store.health().ok
    with pytest.raises(StoreUnavailable):
        store.stats()
    assert store.append([events(2, [(NOW + 1, "line.good", 2)])]) == [Outcome.STORED]
    assert store.health().ok
    assert store.raw(KIT, ["line.good"], NOW, NOW + 9).read_all().num_rows == 2
    store.close()


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
    store = DuckdbStore(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    store.quarantine([Quarantine("edge-1", "checksum", "", bytes([n]) * 6, NOW + n) for n in range(3)])
    assert [kept.raw for kept in store.quarantined()] == [None, None, bytes(6)]
    assert store.quarantine_counts() == {"checksum": 3}
    store.close()


def test_nothing_is_fetched_from_a_network() -> None:
    """An engine that installs extensions by itself would call home from a closed workshop."""
    assert CONFIG["autoinstall_known_extensions"] is False
    assert CONFIG["autoload_known_extensions"] is False
