"""Who reads the paper of the store must find every call, table and record that there is."""

from __future__ import annotations

import re

from hub.store import quarantine_table
from hub.store.base import Record, TelemetryStore
from hub.store.copy import BEGUN, MANIFEST
from hub.store.duckdb_append import SCHEMA
from tests.docs.papers import code, read, rows, section


def test_every_call_of_the_store_stands_in_its_paper() -> None:
    calls = {name for name in vars(TelemetryStore) if not name.startswith("_")}
    assert rows(section(read("reference/store.md"), "Calls"), "Call").keys() == calls


def test_every_table_of_duckdb_stands_in_its_paper() -> None:
    made = re.findall(r"CREATE (?:TABLE|VIEW) IF NOT EXISTS (\w+)", SCHEMA + quarantine_table.SCHEMA)
    assert rows(section(read("reference/store.md"), "Tables of DuckDB"), "Table").keys() == set(made)


def test_what_a_copy_consists_of_stands_in_its_paper() -> None:
    assert {*Record, MANIFEST, BEGUN} <= code(section(read("reference/store.md"), "Copies"))
