"""Beside the store: says what is there where the settings point to, without making or changing anything.

For `epip-hub check --store`, also while a hub runs on the same store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub.store import FILES
from hub.store.base import StoreFacts, StoreUnavailable
from hub.store.options import StoreOptions


def look(url: str, options: Mapping[str, Any]) -> StoreFacts:
    """What the store at `url` is, opened with `options`; empty facts are not known.

    Raises StoreMisconfigured, and StoreUnavailable where the server does not answer or refuses the credentials.
    """
    if url.startswith("duckdb:///"):
        return _duckdb(Path(url.removeprefix("duckdb:///")))
    from hub.store.influx_database import look as look_at_influx

    given = {key: Path(value) if key in FILES and value is not None else value for key, value in options.items()}
    return look_at_influx(url, StoreOptions(**given))


def _duckdb(path: Path) -> StoreFacts:
    import duckdb

    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    detail = "is made at the first start"
    if path.exists():
        try:
            duckdb.connect(path, read_only=True, config={"autoload_known_extensions": False}).close()
            detail = f"{path.stat().st_size} bytes"
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise StoreUnavailable(str(error).splitlines()[0]) from error
            detail = "in use, by a hub that runs"
        except duckdb.Error as error:
            raise StoreUnavailable(str(error).splitlines()[0]) from error
    return StoreFacts(
        engine="DuckDB",
        version=duckdb.__version__,
        write_path=str(path),
        permissions="read and write" if writable else "read only",
        retention="by the hub alone",
        detail=detail,
    )
