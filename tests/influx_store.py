"""The InfluxDB store for tests: in a database of its own, on a clock of the test, opened again."""

from __future__ import annotations

from pathlib import Path

from hub.store.influx import InfluxStore
from hub.store.options import StoreOptions
from tests.influx import fresh_database
from tests.small_kit import KIT


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def opened(url: str, data: Path, clock: Clock | None = None, **options: object) -> InfluxStore:
    """A store in a database of its own."""
    place = f"influx+{url}/{options.pop('database', None) or fresh_database()}"
    made = StoreOptions(data=data, timeout_s=1.0, **options)  # type: ignore[arg-type]
    return InfluxStore(place, made, clock or Clock())


def reopened(store: InfluxStore, data: Path) -> InfluxStore:
    database = store._session.server.database
    store.close()
    return opened(store._session.server.host, data, database=database)


def rows(store: InfluxStore) -> list[str]:
    return sorted(map(str, store.raw(KIT, store.channels(KIT), 0, 2**62).read_all().to_pylist()))
