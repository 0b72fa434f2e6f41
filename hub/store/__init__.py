"""The stores by URL scheme. A new engine is one file and one line here; it is imported only where it is used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from hub.store.base import StoreMisconfigured, TelemetryStore
from hub.store.options import StoreOptions

STORES = {
    "duckdb": "hub.store.duckdb:DuckdbStore",
    "influx+http": "hub.store.influx:InfluxStore",
    "influx+https": "hub.store.influx:InfluxStore",
}
FILES = {"data", "password_file", "token_file", "ca_file"}


def open_store(url: str, **options: Any) -> TelemetryStore:
    """The store at `url`, e.g. `duckdb:///telemetry.duckdb` (four slashes: an absolute path).

    `options` are those of StoreOptions, paths also as text; `data` is required where the store is a server. Raises
    StoreMisconfigured for an unknown scheme, StoreUnavailable where it cannot be opened.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in STORES:
        raise StoreMisconfigured(f"store {scheme!r}: expected one of {', '.join(f'{s}://' for s in STORES)}")
    module, _, name = STORES[scheme].partition(":")
    engine = getattr(import_module(module), name)
    store: TelemetryStore
    if scheme == "duckdb":
        store = engine(url)
    else:
        given = {key: Path(value) if key in FILES and value is not None else value for key, value in options.items()}
        store = engine(url, StoreOptions(**given))
    return store
