"""Behind the store: receives the samples of a window as they are read, hands on one CSV or Parquet file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hub.store.base import ExportFormat

CSV_SCHEMA = pa.schema(
    [
        ("time_utc", pa.string()),
        ("channel", pa.string()),
        ("value", pa.float64()),
        ("text", pa.string()),
        ("quality", pa.uint32()),
    ]
)
FORMULA = r"^[=+\-@\t\r]"
"""How a text begins that a spreadsheet would run."""


def write_file(samples: pa.RecordBatchReader, kind: ExportFormat, destination: Path) -> int:
    """Write the samples batch by batch; the number of rows. `destination` is made or replaced when all is written.

    Raises OSError where the folder does not take it.
    """
    partial = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}")
    rows = 0
    try:
        with samples, partial.open("xb") as file:
            with _writer(kind, file, samples.schema) as writer:
                for batch in samples:
                    writer.write_batch(_csv(batch) if kind is ExportFormat.CSV else batch)
                    rows += batch.num_rows
            file.flush()
            os.fsync(file.fileno())
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _writer(
    kind: ExportFormat, file: object, schema: pa.Schema
) -> pyarrow.csv.CSVWriter | pyarrow.parquet.ParquetWriter:
    if kind is ExportFormat.CSV:
        options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none", eol="\r\n")
        return pyarrow.csv.CSVWriter(file, CSV_SCHEMA, write_options=options)
    return pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")


def _csv(batch: pa.RecordBatch) -> pa.RecordBatch:
    t, channel, value, text, quality = batch.columns
    time = pc.binary_join_element_wise(pc.strftime(t.cast(pa.timestamp("ns")), "%Y-%m-%dT%H:%M:%S"), "Z", "")
    risky = pc.fill_null(pc.match_substring_regex(text, FORMULA), False)
    harmless = pc.if_else(risky, pc.binary_join_element_wise("'", text, ""), text)
    return pa.RecordBatch.from_arrays([time, channel, value, harmless, quality], schema=CSV_SCHEMA)
