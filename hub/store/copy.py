"""Beside the line: copies all telemetry from a store into a folder and from a folder into a store.

The folder holds one Parquet file a record, kit and UTC day (more where a day is large) and, once it is whole,
`manifest.json` with the digest and the number of rows of each. Both ways can be cut off at any point and go on where
they were: a file appears under its name when it is whole, and a store takes each part once.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from hub.store.base import DAY, SECOND, Record, StoreError, TelemetryStore
from hub.store.records import SCHEMAS

FORMAT = "epip-store/1"
MANIFEST = "manifest.json"
BEGUN = "export.json"
PART_ROWS = 4_000_000
"""A larger day is cut into more parts: what is cut off is done again from the beginning of its part."""
BATCH_ROWS = 131_072
ONCE = (Record.SAMPLES, Record.ROLLUP, Record.GAPS, Record.CLOCK)
"""Would be there twice if they were copied onto themselves. The store tells results and ledger rows apart itself."""

Told = Callable[[Record, int], None]
"""Is told how many further rows of a record are done."""


class CopyRefused(StoreError):
    """Do what the text says; nothing was copied by this call."""


class CopyIncomplete(StoreError):
    """Run it again; where the text stays the same, keep both stores and look into it: rows are missing."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the folder: `rows` of one record and kit, of the UTC day that begins at `day` (ns)."""

    file: str
    record: str
    kit: str
    day: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the folder holds. `id` was made at random when the export began."""

    id: str
    store_id: str
    engine: str
    samples_from_ns: int | None
    parts: tuple[Part, ...]
    format: str = FORMAT

    def rows(self) -> dict[Record, int]:
        """How many rows of each record."""
        return {record: sum(part.rows for part in self.parts if part.record == record) for record in Record}


def total_rows(store: TelemetryStore) -> int:
    """How many rows an export has to bring."""
    return sum(sum(store.days(record, kit).values()) for kit in store.kits() for record in Record)


def export_to(store: TelemetryStore, folder: Path, told: Told) -> Manifest:
    """Copy everything into the folder; what a former, cut off call has brought is kept.

    Raises CopyRefused where the folder holds something else, CopyIncomplete where the store changed meanwhile, OSError
    where the folder cannot be written.
    """
    begun = _begin(store, folder)
    parts: list[Part] = []
    for kit in store.kits():
        for record in Record:
            for day, rows in store.days(record, kit).items():
                parts += _export_day(store, folder, record, kit, day, rows, told)
    facts = store.facts()
    manifest = Manifest(begun, store.store_id, facts.engine, facts.samples_from_ns, tuple(parts))
    _write(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def _begin(store: TelemetryStore, folder: Path) -> str:
    if (folder / MANIFEST).exists():
        raise CopyRefused(f"{folder} holds a finished export: choose another folder to export anew")
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / BEGUN
    if not begun.exists():
        if any(folder.iterdir()):
            raise CopyRefused(f"{folder}: expected an empty folder, or one in which an export was begun")
        _write(begun, json.dumps({"id": secrets.token_hex(16), "store_id": store.store_id}).encode())
    found = json.loads(begun.read_text("utf-8"))
    if found["store_id"] != store.store_id:
        raise CopyRefused(f"{folder}: an export of another store was begun in it")
    return str(found["id"])


def _export_day(
    store: TelemetryStore, folder: Path, record: Record, kit: str, day: int, rows: int, told: Told
) -> list[Part]:
    slices = -(-rows // PART_ROWS)
    date = _date(day)
    parts: list[Part] = []
    for number in range(slices):
        t0, t1 = day + number * DAY // slices, day + (number + 1) * DAY // slices
        name = date if slices == 1 else f"{date}.{number + 1}of{slices}"
        file = folder / record / kit / f"{name}.parquet"
        if file.exists():
            told(record, pyarrow.parquet.read_metadata(file).num_rows)
        else:
            _export_part(file, store.copy_out(record, kit, t0, t1), lambda n: told(record, n))
        found = pyarrow.parquet.read_metadata(file).num_rows
        parts.append(Part(file.relative_to(folder).as_posix(), record.value, kit, day, found, _digest(file)))
    brought = sum(part.rows for part in parts)
    if brought != rows:
        # What was brought by a call that was cut off is of another time: the next call brings this day anew.
        for part in parts:
            (folder / part.file).unlink()
        raise CopyIncomplete(
            f"{record} of {kit} on {date}: {brought} rows brought, {rows} in the store; it changed meanwhile. Stop the "
            "hub and run this again"
        )
    return parts


def _export_part(file: Path, rows: pa.RecordBatchReader, told: Callable[[int], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.part")
    with partial.open("wb") as out, rows:
        with pyarrow.parquet.ParquetWriter(out, rows.schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(batch)
                told(batch.num_rows)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def read_manifest(folder: Path) -> Manifest:
    """What the folder holds. Raises CopyRefused where it is no finished export."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        if found.get("format") != FORMAT:
            raise CopyRefused(f"{folder / MANIFEST}: expected format {FORMAT}, found {found.get('format')!r}")
        return Manifest(**{**found, "parts": tuple(Part(**part) for part in found["parts"])})
    except FileNotFoundError:
        unfinished = "its export was cut off: run it again" if (folder / BEGUN).exists() else "expected an export"
        raise CopyRefused(f"{folder}: {unfinished}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CopyRefused(f"{folder / MANIFEST}: {error}") from error


def import_from(store: TelemetryStore, folder: Path, manifest: Manifest, told: Told) -> None:
    """Copy everything from the folder into the store; parts that a former call has brought are passed over.

    The ledger comes last: as long as samples are missing, a batch that an edge sends again is stored, not taken for a
    duplicate. Raises CopyRefused where the store has samples of the same kit and day already or a file was changed,
    CopyIncomplete where fewer rows are there in the end.
    """
    if not store.has_part(f"{manifest.id}/begun"):
        _refuse_twice(store, manifest)
        alone = store.stats().samples == 0
        for mark in ["alone"] * alone + ["begun"]:
            store.copy_in(Record.GAPS, "-", f"{manifest.id}/{mark}", SCHEMAS[Record.GAPS].empty_table().to_reader())
    for record in Record:
        parts = [part for part in manifest.parts if part.record == record]
        for part in parts:
            _import_part(store, folder, manifest, part)
            told(record, part.rows)
        _verify(store, record, parts)
    if manifest.samples_from_ns is not None and store.has_part(f"{manifest.id}/alone"):
        # What is older is in the roll-up alone; readers must know.
        store.apply_retention(manifest.samples_from_ns)


def take_over(store: TelemetryStore, manifest: Manifest) -> None:
    """Let edges go on with this store in place of the one that was exported, whose id it takes.

    Raises CopyRefused where the store had data of its own: edges may know it by its own id.
    """
    if not store.has_part(f"{manifest.id}/alone"):
        raise CopyRefused("the store had data before the import: only an empty one can take over for another")
    store.adopt(manifest.store_id)


def _refuse_twice(store: TelemetryStore, manifest: Manifest) -> None:
    for record in ONCE:
        for kit in sorted({part.kit for part in manifest.parts if part.record == record}):
            there = store.days(record, kit)
            for part in manifest.parts:
                if (part.record, part.kit) == (record, kit) and part.day in there:
                    raise CopyRefused(
                        f"the store has {record} of {kit} on {_date(part.day)} already: they would be there twice. "
                        "Import into an empty store"
                    )


def _import_part(store: TelemetryStore, folder: Path, manifest: Manifest, part: Part) -> None:
    name = f"{manifest.id}/{part.file}"
    if store.has_part(name):
        return
    file = folder / part.file
    try:
        changed = _digest(file) != part.sha256
    except FileNotFoundError:
        raise CopyRefused(f"{file}: expected the file that the manifest names") from None
    if changed:
        raise CopyRefused(f"{file}: changed since the export, or not copied whole")
    record = Record(part.record)
    with pyarrow.parquet.ParquetFile(file) as parquet:
        batches = _batches(parquet, SCHEMAS[record])
        store.copy_in(record, part.kit, name, pa.RecordBatchReader.from_batches(SCHEMAS[record], batches))


def _batches(parquet: pyarrow.parquet.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in parquet.iter_batches(BATCH_ROWS):
        yield batch.select(schema.names).cast(schema)


def _verify(store: TelemetryStore, record: Record, parts: list[Part]) -> None:
    for kit in sorted({part.kit for part in parts}):
        wanted: dict[int, int] = {}
        for part in parts:
            if part.kit == kit:
                wanted[part.day] = wanted.get(part.day, 0) + part.rows
        there = store.days(record, kit)
        for day, rows in wanted.items():
            # More is no fault: the hub may have gone on with this store since.
            if there.get(day, 0) < rows:
                raise CopyIncomplete(
                    f"{record} of {kit} on {_date(day)}: {there.get(day, 0)} of {rows} rows are in the store"
                )


def _date(day: int) -> str:
    return datetime.fromtimestamp(day // SECOND, UTC).date().isoformat()


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _write(file: Path, data: bytes) -> None:
    partial = file.with_name(f"{file.name}.part")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
