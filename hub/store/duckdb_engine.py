"""Beneath the embedded store: opens the DuckDB file, hands on transactions to its writer and cursors to its readers.

A fatal error (a full disk among them) invalidates the whole database object: every connection is closed then, and the
next caller opens the file anew. One process only: the file is locked.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from hub.store.base import StoreRefused, StoreUnavailable

T = TypeVar("T")
Work = Callable[[duckdb.DuckDBPyConnection], tuple[T, Callable[[], None]]]
"""What runs in a transaction: the answer, and what is to be done once it is committed."""

log = logging.getLogger(__name__)

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "checkpoint_threshold": "64MB",
    # Nothing may be fetched from a network behind our back.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
LET_GO_S = 10.0
REFUSALS = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
"""Errors of the data itself. Any other (no space, no memory, lost file) passes, and the batches must be kept for it."""


class Engine:
    """One DuckDB file. Writers come in one after the other, each reader thread has a cursor of its own.

    `opened(connection)` is called whenever the file has been opened, before anybody else sees it; what it keeps in
    memory is then as the file has it. Raises StoreUnavailable where the file cannot be opened.
    """

    def __init__(self, path: Path, opened: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        self.path = path
        self._opened = opened
        self._writing = threading.RLock()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._asking = 0
        self._letting_go = False
        self._local = threading.local()
        self._generation = 0
        self._root: duckdb.DuckDBPyConnection | None = None
        self._writer: duckdb.DuckDBPyConnection | None = None
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._answers: weakref.WeakSet[pa.RecordBatchReader] = weakref.WeakSet()
        self._left: list[duckdb.DuckDBPyConnection] = []
        self._closed = False
        self.commits = self.failures = 0
        self.trouble = ""
        """The engine's message from a failed transaction until the next that succeeds."""
        with self._lock:
            self._ensure_open()

    def transaction(self, work: Work[T]) -> T:
        """Run `work` in a transaction, and what it returns second once that is committed."""
        with self._writing:
            try:
                con = self._write_connection()
                con.begin()
                result, committed = work(con)
                con.commit()
            except duckdb.Error as error:
                self.failures += 1
                if not isinstance(error, REFUSALS):
                    # Before letting go of the file: readers who lose it are told why.
                    self.trouble = first_line(error)
                self._roll_back()
                if isinstance(error, REFUSALS):
                    raise StoreRefused(str(error)) from error
                raise StoreUnavailable(self.trouble) from error
            except StoreUnavailable as error:
                self.failures += 1
                self.trouble = str(error)
                self._roll_back()
                raise
            except BaseException:
                self._roll_back()
                raise
            committed()
            self.commits += 1
            self.trouble = ""
            return result

    def ask(self, question: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Answer a question on the calling thread's own cursor: one shared by threads would mix their answers."""
        with self._lock:
            root = self._ensure_open()
            if getattr(self._local, "generation", None) != self._generation:
                with engine_errors():
                    self._local.cursor, self._local.generation = root.cursor(), self._generation
                self._cursors.add(self._local.cursor)
        with self._in_use(self._local.generation):
            return question(self._local.cursor)

    def stream(self, query: str, parameters: dict[str, Any], schema: pa.Schema, rows: int) -> pa.RecordBatchReader:
        """An answer that is read as one goes, in batches of this many rows, on a cursor of its own."""
        with self._lock:
            root = self._ensure_open()
            generation = self._generation
            with engine_errors():
                cursor = root.cursor()
            self._cursors.add(cursor)
        with self._in_use(generation):
            answer = cursor.sql(query, params=parameters).to_arrow_reader(rows)
            self._answers.add(answer)
        return pa.RecordBatchReader.from_batches(schema, self._read(cursor, generation, answer, schema))

    def _read(
        self, cursor: duckdb.DuckDBPyConnection, generation: int, answer: pa.RecordBatchReader, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                with self._in_use(generation):
                    try:
                        batch = answer.read_next_batch()
                    except StopIteration:
                        return
                columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        finally:
            # Its transaction would keep the room of deleted samples from being used again.
            answer.close()
            cursor.close()

    def checkpoint(self) -> bool:
        """Move what is committed into the file and make the room of what was deleted free for use again.

        False where readers were at work, for whom the engine keeps it; its next checkpoint of its own does it then.
        """
        with self._writing:
            try:
                self._write_connection().execute("CHECKPOINT")
            except duckdb.TransactionException:
                return False
            except duckdb.Error as error:
                self.failures += 1
                self.trouble = first_line(error)
                self._roll_back()
                raise StoreUnavailable(self.trouble) from error
            return True

    def close(self) -> None:
        """Write everything out and let go of the file. Idempotent."""
        with self._writing, self._lock:
            self._closed = True
            self._let_go()

    @contextmanager
    def _in_use(self, generation: int) -> Iterator[None]:
        """While a cursor of this generation works: the file is not let go of meanwhile."""
        with self._lock:
            if self._letting_go or generation != self._generation:
                raise StoreUnavailable(self.trouble or "the store is closed")
            self._asking += 1
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # Where the file is being let go of, the engine only says that it was interrupted.
            raise StoreUnavailable((self._letting_go and self.trouble) or first_line(error)) from error
        finally:
            with self._lock:
                self._asking -= 1
                self._idle.notify_all()

    def _roll_back(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            writer.rollback()
        except duckdb.Error:
            # Also where there is no transaction any more: a failed commit may have ended it and the database with it.
            with self._lock:
                self._let_go()

    def _let_go(self) -> None:
        """Close every connection; the lock is held, and let go of only while readers leave."""
        self._left += [one for one in (*self._cursors, self._writer, self._root) if one is not None]
        self._letting_go = True
        for cursor in self._cursors:
            # A stream that was read to its end has closed its own.
            with suppress(duckdb.ConnectionException):
                cursor.interrupt()
        self._idle.wait_for(lambda: not self._asking, LET_GO_S)
        self._generation += 1
        self._cursors.clear()
        self._writer = self._root = None
        self._letting_go = False
        self._close_left()

    def _close_left(self) -> bool:
        """Whether nothing is left of the file as it was opened before.

        While a cursor or an answer half read is, the engine would give the same broken database again, or wait for it
        to go for ever. One that is at work refuses to be closed.
        """
        if self._asking:
            log.error("%d questions go on although they were interrupted", self._asking)
            return False
        for answer in self._answers:
            answer.close()
        self._answers.clear()
        for connection in self._left:
            _close(connection)
        self._left.clear()
        return True

    def _write_connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            self._ensure_open()
            writer = self._writer
        if writer is None:
            raise StoreUnavailable("the store is not open")
        return writer

    def _ensure_open(self) -> duckdb.DuckDBPyConnection:
        # Readers open the file anew too: where nobody can write, what is stored can still be looked at.
        if self._closed or self._letting_go:
            raise StoreUnavailable("the store is closed" if self._closed else self.trouble)
        if self._root is None:
            if not self._close_left():
                raise StoreUnavailable(self.trouble)
            with engine_errors():
                root = self._open()
                self._root, self._writer = root, root.cursor()
        return self._root

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{self.path.parent}: {error.strerror}") from error
        root = duckdb.connect(self.path, config=CONFIG)
        try:
            self._opened(root)
        except BaseException:
            _close(root)
            raise
        return root


def _close(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.close()
    except duckdb.Error as error:
        # Closing writes what is committed into the file, which a full disk refuses; the log beside the file keeps it.
        log.error("closing the store: %s", first_line(error))


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns the engine's errors into StoreUnavailable."""
    try:
        yield
    except duckdb.Error as error:
        raise StoreUnavailable(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What the engine says first; the rest is where in the statement."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def row(con: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
    """The one row of an answer."""
    # Fetched whole: an answer left half read keeps its transaction open, and with it what should be freed.
    (found,) = con.execute(query, parameters or {}).fetchall()
    return tuple(found)
