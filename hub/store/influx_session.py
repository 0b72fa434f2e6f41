"""Beneath the InfluxDB store: one database, its sidecar, and what is known of both without asking.

Connects when it is first needed and whenever the database was gone; sees to it that the ledger belongs to the very
database by the store's id in it, that the database is not older than the ledger by the number of the last write, and
that it has every write by its marks.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hub.store import influx_database, influx_marks, influx_questions
from hub.store.base import ClockFact, Latest, StoreRefused, StoreUnavailable
from hub.store.influx_client import DatabaseMissing, Server
from hub.store.influx_database import kept_from
from hub.store.influx_lines import identity_line
from hub.store.influx_points import Book
from hub.store.influx_sidecar import Held, Sidecar
from hub.store.options import StoreOptions

T = TypeVar("T")

log = logging.getLogger(__name__)


class Session:
    """What the store's parts share. Making it succeeds also where the server is away.

    Raises StoreMisconfigured for a URL or options that cannot serve.
    """

    def __init__(
        self, url: str, options: StoreOptions, monotonic_ns: Callable[[], int], time_ns: Callable[[], int]
    ) -> None:
        self.server = Server(url, options, monotonic_ns)
        self.options = options
        self.monotonic_ns = monotonic_ns
        self._time_ns = time_ns
        self.writing = threading.RLock()
        """Held by whoever writes."""
        self._connected = self.closed = False
        self._doubtful = True
        """The server may have been started anew since its marks were compared."""
        self.forgotten = 0
        """Batches whose samples the database has lost, since this was made."""
        self.book = Book()
        # By kit and channel.
        self.latest: dict[str, dict[str, Latest]] = {}
        self.clock: dict[str, ClockFact] = {}
        self.sidecar: Sidecar | None = None
        self.store_id = ""
        self.write_no = 0
        self.samples_from: int | None = None
        self.held = Held(0, 0, None, None)
        self.bytes_on_disk = 0
        """As last asked."""
        self.commits = self.samples = self.failures = 0
        self.trouble = ""
        """Why the last write failed, empty where it did not."""
        self.away = ""
        """Why the last question failed, empty where it did not."""
        self.heard_ns = 0
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.server.database)
        self.path = options.data / f"influx-{name}.sqlite"
        if self.path.exists():
            self._open_sidecar()
        with contextlib.suppress(StoreUnavailable):
            self.connect()

    def connect(self) -> None:
        """See to it that the database is there and that what is known of it is of this very database."""
        if self.closed:
            raise StoreUnavailable("the store is closed")
        if self._connected:
            return
        # Not while somebody writes: half of an append would stand in one database, its ledger beside another.
        with self.writing, self._answering():
            if self._connected:
                return
            self.server.ping()
            influx_database.ensure(self.server, self.options.org, self.options.retention_days)
            store_id, write_no, samples_from = self._meta()
            if not store_id:
                store_id = secrets.token_hex(16)
                self.server.write(identity_line(store_id).encode())
            self._belong_to(store_id, write_no)
            self.samples_from = samples_from
            self.write_no = write_no
            self.load()
            self._compare()
            self._connected = True

    def audit(self) -> None:
        """Look whether the database still has what was written; forget the batches of which it has not all."""
        with self.writing:
            self.connect()
            with self._answering():
                self._compare()

    def _compare(self) -> None:
        """Ledger and database, by the number of the last write and by the marks of all."""
        store_id, write_no, _ = self._meta()
        if store_id != self.store_id:
            self._connected = False
            self.connect()
            return
        ledger = self.ledger()
        count = 0
        if int(ledger.get("write") or 0) > write_no:
            count = ledger.forget_after(write_no)
            self.write_no = write_no
        lost = influx_marks.lost_writes(
            self.server, ledger, whole=self._doubtful, kept_from=lambda: kept_from(self.server, self._time_ns())
        )
        if lost:
            count += ledger.forget_writes(lost)
        if count:
            log.error("InfluxDB lacks what it had confirmed: %d batches are forgotten, edges are asked for them", count)
            self.forgotten += count
            self.latest = {}
            self.load()
        self._doubtful = False

    def _meta(self) -> tuple[str, int, int | None]:
        rows = influx_questions.rows_of(self.server, influx_database.META)
        if not rows:
            return "", 0, None
        _, store_id, write_no, samples_from = rows[0]
        return store_id or "", int(write_no or 0), samples_from

    def _belong_to(self, store_id: str, write_no: int) -> None:
        if self.sidecar is not None and self.store_id != store_id:
            log.warning("the database is another than before: its ledger begins anew, the former one is kept aside")
            self.sidecar.set_aside(f"{self.path.stem}.{self.store_id[:16]}.sqlite")
            self.sidecar = None
            self.latest = {}
        if self.sidecar is None:
            aside = self.path.with_name(f"{self.path.stem}.{store_id[:16]}.sqlite")
            if aside.exists():
                aside.replace(self.path)
            self._open_sidecar()
        sidecar = self.ledger()
        new = sidecar.get("store_id") is None
        if new:
            sidecar.put("store_id", store_id)
        self.store_id = store_id
        if new and write_no:
            # The ledger is lost, not the samples.
            count = sum(n for _, _, n in influx_questions.counted(self.server, "time > 0", '"kit"'))
            sidecar.put("other_samples", str(count))

    def _open_sidecar(self) -> None:
        self.sidecar = Sidecar(self.path)
        self.store_id = self.sidecar.get("store_id") or ""
        self.held = self.sidecar.held()
        for (kit, channel), latest in self.sidecar.latest().items():
            self.know(kit, channel, latest)

    def ledger(self) -> Sidecar:
        """The sidecar. Raises StoreUnavailable where there is none yet."""
        if self.sidecar is None:
            raise StoreUnavailable(self.away or "the database was never reached")
        return self.sidecar

    def load(self) -> None:
        """Learn what the database has."""
        self.book = Book(self.book.collapsed)
        for kit, channel, latest in influx_questions.newest(self.server):
            self.book.reach(self.book.number(kit, channel), latest.t)
            self.know(kit, channel, latest)
        self.clock = influx_questions.newest_clock(self.server)
        self.held = self.ledger().held()
        self.bytes_on_disk = influx_database.bytes_on_disk(self.server)

    def know(self, kit: str, channel: str, latest: Latest) -> None:
        """A sample that may be the channel's newest."""
        known = self.latest.get(kit, {}).get(channel)
        if known is None or latest.t >= known.t:
            # A new mapping each time, so that a reader's copy is never half old and half new.
            self.latest[kit] = {**self.latest.get(kit, {}), channel: latest}

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Notes whether the server answers."""
        try:
            yield
        except DatabaseMissing as error:
            # Look for it, or make it, before the next call.
            self._connected = False
            self._doubtful = True
            self.away = str(error)
            raise
        except StoreUnavailable as error:
            self._doubtful = True
            self.away = str(error)
            raise
        except StoreRefused:
            self._heard()
            raise
        self._heard()

    def _heard(self) -> None:
        self.away = ""
        self.heard_ns = self.monotonic_ns()

    def asked(self, question: Callable[[Server], T]) -> T:
        """The server's answer. Raises StoreUnavailable."""
        self.connect()
        with self._answering():
            return question(self.server)

    @contextmanager
    def writer(self) -> Iterator[None]:
        """One writing call at a time; a failure is the store's health until the next that succeeds."""
        with self.writing:
            try:
                self.connect()
                with self._answering():
                    if self._doubtful:
                        self._compare()
                    yield
            except StoreUnavailable as error:
                self.failures += 1
                self.trouble = str(error)
                raise
            except StoreRefused:
                self.failures += 1
                raise
            self.commits += 1
            self.trouble = ""

    def close(self) -> None:
        """Let go of server and sidecar. Idempotent."""
        with self.writing:
            self.closed = True
            self._connected = False
            self.server.close()
            if self.sidecar is not None:
                self.sidecar.close()
