"""A store's table of what is kept aside: receives bytes and reasons, hands on lists and counts.

The statements are those that DuckDB and SQLite both understand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hub.store.base import Quarantine, QuarantinedBatch

RAW_BYTES = 256 * 1024 * 1024
"""Raw bytes kept aside in all. Past it only reasons are listed and counted, so that no mad edge can fill the disk."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS quarantine (
    digest VARCHAR PRIMARY KEY, edge VARCHAR NOT NULL, reason VARCHAR NOT NULL, detail VARCHAR NOT NULL,
    first_ns BIGINT NOT NULL, last_ns BIGINT NOT NULL, repeats BIGINT NOT NULL, size BIGINT NOT NULL, raw BLOB);
"""


class Connection(Protocol):
    """A connection to DuckDB or SQLite."""

    def execute(self, query: str, parameters: Mapping[str, Any] = ..., /) -> Any:
        """Run one statement; what it answers is fetched from the answer."""
        ...


def keep(con: Connection, items: Sequence[Quarantine], kept: int) -> int:
    """Write the items within the caller's transaction; `kept` raw bytes are there already. The new number of them."""
    for item in items:
        digest = hashlib.sha256(f"{item.edge}\n{item.reason}\n".encode() + item.raw).hexdigest()
        raw = item.raw if kept + len(item.raw) <= RAW_BYTES else None
        written = con.execute(
            "INSERT INTO quarantine VALUES ($digest, $edge, $reason, $detail, $now, $now, 1, $size, $raw) "
            "ON CONFLICT (digest) DO UPDATE SET repeats = repeats + 1, last_ns = $now RETURNING repeats",
            {
                "digest": digest,
                "edge": item.edge,
                "reason": item.reason,
                "detail": item.detail,
                "now": item.received_ns,
                "size": len(item.raw),
                "raw": raw,
            },
        ).fetchall()
        if written == [(1,)] and raw is not None:
            kept += len(raw)
    return kept


def raw_bytes(con: Connection) -> int:
    """How many raw bytes are kept aside."""
    ((total,),) = con.execute(
        "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM quarantine WHERE raw IS NOT NULL"
    ).fetchall()
    return int(total)


def listed(con: Connection, limit: int) -> list[QuarantinedBatch]:
    """What is kept aside, newest first."""
    query = (
        "SELECT edge, reason, detail, first_ns, last_ns, repeats, size, raw FROM quarantine "
        "ORDER BY last_ns DESC, digest LIMIT $limit"
    )
    return [QuarantinedBatch(*row) for row in con.execute(query, {"limit": limit}).fetchall()]


def counts(con: Connection) -> dict[str, int]:
    """How many batches came per reason, repeats included."""
    query = "SELECT reason, CAST(sum(repeats) AS BIGINT) FROM quarantine GROUP BY reason ORDER BY reason"
    return dict(con.execute(query).fetchall())
