"""The hourly job that deletes old samples, on the real embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.store.base import DAY, StoreUnavailable
from hub.store.duckdb import DuckdbStore
from hub.store.retention import Retention
from tests.hub.conftest import HandClock, until
from tests.small_kit import NOW
from tests.stores import frame, values


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckdbStore]:
    store = DuckdbStore(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    days = (40, 31, 29, 0)
    store.append([frame(n, [NOW - n * DAY, NOW - n * DAY + 1], received_ns=NOW) for n in days])
    yield store
    store.close()


def test_what_is_older_than_allowed_goes(store: DuckdbStore) -> None:
    """A disk sized for a month of samples must hold a month of samples."""
    clock = HandClock()
    clock.now = NOW + 1
    assert Retention(store, 30, clock).once() == 2 * 3
    # The last of what was deleted stays: its value may still hold.
    assert [t for t, _ in values(store, "eeg.a")][:2] == [NOW - 31 * DAY + 1, NOW - 29 * DAY]
    assert Retention(store, 30, clock).once() == 0


def test_a_hub_whose_clock_is_years_ahead_deletes_no_more(store: DuckdbStore) -> None:
    """An empty battery that makes it the year 2200 must not cost a workshop its data."""
    clock = HandClock()
    clock.now = NOW + 200 * 365 * DAY
    assert Retention(store, 30, clock).once() == 2 * 3
    assert len(values(store, "eeg.a", NOW - 30 * DAY)) == 4


class Tired(DuckdbStore):
    """A store that cannot the first time."""

    calls = 0

    def apply_retention(self, before_ns: int) -> int:
        self.calls += 1
        if self.calls == 1:
            raise StoreUnavailable("no space left")
        return super().apply_retention(before_ns)


async def test_the_job_goes_on_after_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One full disk in the night must not end the job for good, nor the hub."""
    store = Tired(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    store.append([frame(1, [NOW - 40 * DAY, NOW - 40 * DAY + 1, NOW])])
    clock = HandClock()
    clock.now = NOW
    async with asyncio.timeout(20), Retention(store, 30, clock, every_s=0).running():
        await until(lambda: store.facts().samples_from_ns is not None)
    assert "no space left" in caplog.text
    assert len(values(store, "eeg.a")) == 2
    store.close()
