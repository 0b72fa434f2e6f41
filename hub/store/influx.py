"""The InfluxDB store, a server of 1.6 to 3.x: receives decoded batches from ingest, answers the pages' questions.

The store's id is a point of the database, so a hub that is turned to another database is another store to the edges.
What a server cannot keep stands in a sidecar, a SQLite file in the hub's data folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from hub.store import influx_append, influx_copy, influx_database, influx_questions
from hub.store.base import (
    SECOND,
    ClockFact,
    DecodedBatch,
    ExportFormat,
    Latest,
    Outcome,
    Overview,
    Quarantine,
    QuarantinedBatch,
    Record,
    Result,
    State,
    Statistics,
    StoreFacts,
    StoreHealth,
    StoreStats,
    StoreUnavailable,
)
from hub.store.export import write_file
from hub.store.influx_client import Server
from hub.store.influx_lines import identity_line, result_line, retention_line
from hub.store.influx_session import Session
from hub.store.options import StoreOptions
from lab_contract.batch import Gap

QUIET_S = 5.0
"""A server that has not answered for so long is asked before it is said to be well."""


class InfluxStore:
    """A TelemetryStore in one database of an InfluxDB server.

    Opening it succeeds also where the server is away: the hub runs then, its health says so, and every edge keeps what
    it has. Raises StoreMisconfigured for a URL or options that cannot serve.
    """

    def __init__(
        self,
        url: str,
        options: StoreOptions,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._session = Session(url, options, monotonic_ns, time_ns)

    @property
    def store_id(self) -> str:
        """The random id made with the database; empty where it has never been reached."""
        return self._session.store_id

    # Writing.

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        """See TelemetryStore.append."""
        return influx_append.append(self._session, batches)

    def put_results(self, results: Sequence[Result]) -> None:
        """See TelemetryStore.put_results."""
        for result in results:
            result.check()
        if not results:
            return
        with self._session.writer():
            for result in results:
                for former in influx_questions.results(self._session.server, result.kit, result.t, result.t + 1):
                    if former.task == result.task and former != result:
                        influx_database.delete_result(self._session.server, result.kit, result.task, result.t)
            self._session.server.write("".join(result_line(result) for result in results).encode())

    def apply_retention(self, before_ns: int) -> int:
        """See TelemetryStore.apply_retention. Raises StoreUnavailable also where the server cannot delete samples.

        Nobody waits for it: a channel at a time, beside whatever is written meanwhile.
        """
        session = self._session
        before = before_ns // SECOND * SECOND
        session.connect()
        if not influx_database.can_delete(session.server):
            raise StoreUnavailable("InfluxDB 3 deletes by its database's own retention period; set it there")
        if before > (session.samples_from or 0) and session.latest:
            # The mark first: from then on readers take the roll-up for what is being deleted.
            with session.writer():
                session.server.write(retention_line(before).encode())
                session.samples_from = before
        deleted = 0
        for kit, channels in tuple(session.latest.items()):
            for channel in channels:
                count = self._delete(kit, channel, before)
                if count:
                    self._forget(count)
                deleted += count
        session.ledger().drop_marks(before)
        session.asked(lambda server: influx_database.delete_marks(server, session.options.org, before))
        return deleted

    def _forget(self, count: int) -> None:
        with self._session.writing:
            ledger = self._session.ledger()
            ledger.put("other_samples", str(int(ledger.get("other_samples") or 0) - count))
            self._session.held = replace(self._session.held, samples=self._session.held.samples - count)

    def _delete(self, kit: str, channel: str, before: int) -> int:
        mine = influx_questions.of(kit, [channel])
        query = f'SELECT "v", "q", "s" FROM "sample" WHERE {mine} AND time < {before} ORDER BY time DESC LIMIT 1'  # noqa: S608
        kept = self._session.asked(lambda server: influx_questions.rows_of(server, query))
        if not kept:
            return 0
        older = f"{mine} AND time < {kept[0][0]}"
        count = self._session.asked(lambda server: sum(n for *_, n in influx_questions.counted(server, older, '"kit"')))
        if count:
            org = self._session.options.org
            self._session.asked(lambda server: influx_database.delete_samples(server, org, kit, channel, kept[0][0]))
        return count

    def quarantine(self, items: Sequence[Quarantine]) -> None:
        """See TelemetryStore.quarantine; the bytes stay in the sidecar, so the server may be away."""
        with self._session.writing:
            if self._session.closed:
                raise StoreUnavailable("the store is closed")
            if self._session.sidecar is None:
                self._session.connect()
            self._session.ledger().keep(items)

    # Questions.

    def channels(self, kit: str) -> list[str]:
        """See TelemetryStore.channels."""
        return sorted(self._session.latest.get(kit, {}))

    def latest(self, kit: str) -> dict[str, Latest]:
        """See TelemetryStore.latest."""
        return dict(self._session.latest.get(kit, {}))

    def overview(
        self, kit: str, channels: Sequence[str], t0: int, t1: int, buckets: int, *, from_rollup: bool | None = None
    ) -> Overview:
        """See TelemetryStore.overview."""
        return self._session.asked(
            lambda server: influx_questions.overview(
                server, kit, channels, t0, t1, buckets, from_rollup, self._session.samples_from
            )
        )

    def raw(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
        """See TelemetryStore.raw."""
        return self._session.asked(lambda server: influx_questions.raw(server, kit, channels, t0, t1))

    def states(self, kit: str, channel: str, t0: int, t1: int) -> list[State]:
        """See TelemetryStore.states."""
        return self._session.asked(lambda server: influx_questions.states(server, kit, channel, t0, t1))

    def statistics(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> dict[str, Statistics]:
        """See TelemetryStore.statistics."""
        return self._session.asked(
            lambda server: influx_questions.statistics(server, kit, channels, t0, t1, self._session.samples_from)
        )

    def gaps(self, kit: str, t0: int, t1: int) -> list[Gap]:
        """See TelemetryStore.gaps."""
        return self._session.asked(lambda server: influx_questions.gaps(server, kit, t0, t1))

    def clock(self, kit: str, t0: int, t1: int) -> list[ClockFact]:
        """See TelemetryStore.clock."""
        return self._session.asked(lambda server: influx_questions.clock(server, kit, t0, t1))

    def missing(self, edge: str, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
        """See TelemetryStore.missing."""
        self._session.connect()
        return self._session.ledger().missing(edge, epoch, first, last)

    def audit(self) -> int:
        """See TelemetryStore.audit."""
        self._session.audit()
        return self._session.forgotten

    def results(self, kit: str, t0: int, t1: int) -> list[Result]:
        """See TelemetryStore.results."""
        return self._session.asked(lambda server: influx_questions.results(server, kit, t0, t1))

    def export(self, kit: str, channels: Sequence[str], t0: int, t1: int, kind: ExportFormat, destination: Path) -> int:
        """See TelemetryStore.export."""
        return write_file(self.raw(kit, channels, t0, t1), kind, destination)

    def kits(self) -> list[str]:
        """See TelemetryStore.kits."""
        return self._session.asked(lambda server: sorted({*influx_copy.kits(server), *self._session.ledger().kits()}))

    def days(self, record: Record, kit: str) -> dict[int, int]:
        """See TelemetryStore.days."""
        return self._session.asked(lambda server: influx_copy.days(server, self._session.ledger(), record, kit))

    def copy_out(self, record: Record, kit: str, t0: int, t1: int) -> pa.RecordBatchReader:
        """See TelemetryStore.copy_out."""
        return self._session.asked(
            lambda server: influx_copy.copy_out(server, self._session.ledger(), record, kit, t0, t1)
        )

    def copy_in(self, record: Record, kit: str, part: str, rows: pa.RecordBatchReader) -> bool:
        """See TelemetryStore.copy_in."""
        with self._session.writer():
            if self._session.ledger().has_part(part):
                return False
            influx_copy.copy_in(
                self._session.server,
                self._session.ledger(),
                self._session.book,
                record,
                kit,
                part,
                rows,
                self._session.write_no,
            )
            self._session.load()
            return True

    def has_part(self, part: str) -> bool:
        """See TelemetryStore.has_part."""
        self._session.connect()
        return self._session.ledger().has_part(part)

    def adopt(self, store_id: str) -> None:
        """See TelemetryStore.adopt."""
        with self._session.writer():
            self._session.server.write(identity_line(store_id).encode())
            self._session.ledger().put("store_id", store_id)
            self._session.store_id = store_id

    # Itself.

    def stats(self) -> StoreStats:
        """See TelemetryStore.stats; what the ledger adds up to, so the server may be away."""
        if self._session.closed:
            raise StoreUnavailable("the store is closed")
        held = self._session.held
        first = held.first_ns
        if first is not None and self._session.samples_from is not None:
            first = max(first, self._session.samples_from)
        series = sum(len(channels) for channels in self._session.latest.values())
        return StoreStats(held.samples, series, held.batches, first, held.last_ns, self._session.bytes_on_disk)

    def facts(self) -> StoreFacts:
        """See TelemetryStore.facts."""
        facts = self._session.asked(lambda server: influx_database.found(server, self._session.book.collapsed))
        self._session.bytes_on_disk = self._session.asked(influx_database.bytes_on_disk)
        return replace(facts, samples_from_ns=self._session.samples_from)

    def quarantined(self, limit: int = 100) -> list[QuarantinedBatch]:
        """See TelemetryStore.quarantined."""
        return self._session.sidecar.kept(limit) if self._session.sidecar is not None else []

    def quarantine_counts(self) -> dict[str, int]:
        """See TelemetryStore.quarantine_counts."""
        return self._session.sidecar.kept_counts() if self._session.sidecar is not None else {}

    def health(self) -> StoreHealth:
        """See TelemetryStore.health; asks the server where it has not answered for a while."""
        quiet = self._session.monotonic_ns() - self._session.heard_ns > QUIET_S * SECOND
        if quiet and not self._session.closed and not self._session.trouble:
            with contextlib.suppress(StoreUnavailable):
                self._session.asked(Server.ping)
        detail = self._session.trouble or self._session.away
        return StoreHealth(
            not detail,
            detail,
            self._session.store_id,
            self._session.commits,
            self._session.samples,
            self._session.failures,
        )

    def close(self) -> None:
        """See TelemetryStore.close."""
        self._session.close()
