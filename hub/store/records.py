"""Beside the seam of the store: the columns in which records are copied from one store to another.

`TelemetryStore.copy_out` hands them on and `copy_in` receives them; an export folder holds them as Parquet. A store
that does not keep what a nullable column tells gives nulls.
"""

from __future__ import annotations

import pyarrow as pa

from hub.store.base import Record

REQUIRED = False

RAW = pa.schema(
    [
        ("t", pa.int64()),
        ("channel", pa.string()),
        ("value", pa.float64()),
        ("text", pa.string()),
        ("quality", pa.uint32()),
    ]
)
"""What `TelemetryStore.raw` hands on."""
SCHEMAS: dict[Record, pa.Schema] = {
    Record.SAMPLES: pa.schema(
        [
            pa.field("channel", pa.string(), REQUIRED),
            pa.field("t", pa.int64(), REQUIRED),
            pa.field("value", pa.float64()),
            pa.field("text", pa.string()),
            pa.field("quality", pa.uint32(), REQUIRED),
            pa.field("t_server", pa.int64()),
            pa.field("t_receipt", pa.int64()),
        ]
    ),
    Record.ROLLUP: pa.schema(
        [
            pa.field("channel", pa.string(), REQUIRED),
            pa.field("t", pa.int64(), REQUIRED),
            pa.field("n", pa.int64(), REQUIRED),
            pa.field("lo", pa.float64(), REQUIRED),
            pa.field("hi", pa.float64(), REQUIRED),
            pa.field("total", pa.float64(), REQUIRED),
        ]
    ),
    Record.GAPS: pa.schema(
        [
            pa.field("stream", pa.string(), REQUIRED),
            pa.field("t_from", pa.int64(), REQUIRED),
            pa.field("t_to", pa.int64(), REQUIRED),
            pa.field("reason", pa.string(), REQUIRED),
            pa.field("count", pa.int64()),
        ]
    ),
    Record.CLOCK: pa.schema(
        [
            pa.field("t", pa.int64(), REQUIRED),
            pa.field("offset_ns", pa.int64(), REQUIRED),
            pa.field("uncertainty_ns", pa.int64(), REQUIRED),
        ]
    ),
    Record.RESULTS: pa.schema(
        [
            pa.field("workshop", pa.string(), REQUIRED),
            pa.field("task", pa.string(), REQUIRED),
            pa.field("kit_model", pa.string(), REQUIRED),
            pa.field("t", pa.int64(), REQUIRED),
            pa.field("score", pa.float64(), REQUIRED),
            pa.field("passed", pa.bool_(), REQUIRED),
            pa.field("duration_s", pa.float64(), REQUIRED),
            pa.field("measures", pa.string(), REQUIRED),  # a JSON object of numbers
        ]
    ),
    Record.LEDGER: pa.schema(
        [
            pa.field("edge", pa.string(), REQUIRED),
            pa.field("epoch", pa.uint64(), REQUIRED),
            pa.field("seq", pa.uint64(), REQUIRED),
            pa.field("crc", pa.uint32(), REQUIRED),
            pa.field("stream", pa.string(), REQUIRED),
            pa.field("row_count", pa.int32(), REQUIRED),
            pa.field("received_ns", pa.int64(), REQUIRED),
            pa.field("clock_offset_ns", pa.int64()),
            pa.field("clock_uncertainty_ns", pa.int64()),
        ]
    ),
}
TIMES: dict[Record, str] = {
    Record.SAMPLES: "t",
    Record.ROLLUP: "t",
    Record.GAPS: "t_from",
    Record.CLOCK: "t",
    Record.RESULTS: "t",
    Record.LEDGER: "received_ns",
}
"""The column by which a row belongs to a day."""
