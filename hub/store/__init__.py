"""The stores by URL scheme. A new engine is one file and one line here; it is imported only where it is used."""

from __future__ import annotations

from importlib import import_module

from hub.store.base import StoreMisconfigured, TelemetryStore

STORES = {
    "duckdb": "hub.store.duckdb:DuckdbStore",
}


def open_store(url: str) -> TelemetryStore:
    """The store at `url`, e.g. `duckdb:///telemetry.duckdb` (four slashes: an absolute path).

    Raises StoreMisconfigured for an unknown scheme, StoreUnavailable where it cannot be opened.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in STORES:
        raise StoreMisconfigured(f"store {scheme!r}: expected one of {', '.join(f'{s}://' for s in STORES)}")
    module, _, name = STORES[scheme].partition(":")
    store: TelemetryStore = getattr(import_module(module), name)(url)
    return store
