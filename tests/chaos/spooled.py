"""What the edge has committed, read from the files of its spool while it does not run.

After a kill -9 the files are copied and the copy is opened: SQLite then gives exactly what the next start of the edge
will find, whatever becomes of it there. At the end the spool itself is read, acknowledged batches included.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from lab_contract.batch import Gap, GapReason, Shape, digest, unpack
from tests.chaos.link import BatchId
from tests.chaos.made import Value

FILE = "spool.db"


@dataclass
class Committed:
    """Every batch that was ever found in the spool, by id."""

    digests: dict[BatchId, int] = field(default_factory=dict[BatchId, int])
    samples: list[tuple[str, int, Value]] = field(default_factory=list[tuple[str, int, Value]])
    """Channel, time, value."""
    gaps: list[Gap] = field(default_factory=list[Gap])
    changed: list[BatchId] = field(default_factory=list[BatchId])
    """Ids under which other bytes were found later."""
    waiting: int = 0
    """Batches that waited for an acknowledgement when the spool was last read."""

    def read(self, folder: Path) -> None:
        """Take in what the spool in `folder` holds; nobody may write there meanwhile."""
        files = sorted(folder.glob("spool-corrupt-*.db"))
        if (folder / FILE).exists():
            files.append(folder / FILE)
        with TemporaryDirectory(prefix="epip-spool-") as copies:
            for file in files:
                for suffix in ("", "-wal"):
                    if (part := file.with_name(file.name + suffix)).exists():
                        shutil.copy(part, copies)
                self._read_file(Path(copies) / file.name)

    def _read_file(self, file: Path) -> None:
        db = sqlite3.connect(file)
        try:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "batches" not in tables:
                return  # killed before it was made
            waits = "waiting" if "waiting" in tables else "batches"
            self.waiting = db.execute(f"SELECT count(*) FROM {waits}").fetchone()[0]  # noqa: S608
            for epoch, seq, data in db.execute("SELECT epoch, seq, data FROM batches"):
                self._take((epoch, seq), data)
        finally:
            db.close()

    def _take(self, batch_id: BatchId, data: bytes) -> None:
        found = digest(data)
        if batch_id in self.digests:
            if self.digests[batch_id] != found:
                self.changed.append(batch_id)
            return
        self.digests[batch_id] = found
        batch = unpack(data)
        table = pa.ipc.open_stream(batch.payload).read_all()
        match batch.header.shape:
            case Shape.FRAME:
                self.samples += _of_frame(table)
            case Shape.EVENT:
                self.samples += _of_events(table)
            case Shape.GAP:
                self.gaps += _of_gaps(table)


def _of_frame(table: pa.Table) -> Iterator[tuple[str, int, Value]]:
    times = table["t"].to_pylist()
    for channel in table.column_names[1:]:
        for t, value in zip(times, table[channel].to_pylist(), strict=True):
            yield channel, t, (None if value is None or math.isnan(value) else value, None, 0)


def _of_events(table: pa.Table) -> Iterator[tuple[str, int, Value]]:
    columns = (table[name].to_pylist() for name in ("channel", "t", "value", "text", "quality"))
    for channel, t, value, text, quality in zip(*columns, strict=True):
        yield channel, t, (value, text, quality)


def _of_gaps(table: pa.Table) -> Iterator[Gap]:
    columns = (table[name].to_pylist() for name in ("stream", "t_from", "t_to", "reason", "count"))
    for stream, t_from, t_to, reason, count in zip(*columns, strict=True):
        yield Gap(stream, t_from, t_to, GapReason(reason), count)
