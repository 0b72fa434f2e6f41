"""Beneath the InfluxDB store: speaks HTTP with a server of 1.6 to 3.x and turns its answers into the store's errors.

Receives bodies of line protocol and InfluxQL, hands on series. Requests go through influxdb-client's own `call_api`,
one at a time a call: its batching mode has no back-pressure and drops after its retries. There is one owner of
retries, and that is the caller of the store, so `WritesRetry` is passed with none; made anew for each request, as its
time limit runs from when it is made. Line protocol and InfluxQL: the InfluxDB 1.8 and 2.7 HTTP API references.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.retry import WritesRetry
from influxdb_client.rest import ApiException
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from hub.store.base import StoreMisconfigured, StoreRefused, StoreUnavailable
from hub.store.options import StoreOptions

V2_WRITE, V1_WRITE = "/api/v2/write", "/write"
TEXT = "text/plain; charset=utf-8"
CONNECT_S = 3.0
PING_S = 2.0
PATIENT_S = 600.0
"""For what goes through a whole database."""
LONGEST_WAIT_S = 300.0
"""However long a server asks us to wait, it is asked again after this."""
EXPECTED = "expected influx+http://HOST:PORT/DATABASE, credentials in [influx] of the hub's settings"
ROWS_A_CHUNK = 20_000
AHEAD = 4
"""Bodies that wait while one is written."""


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one series of an answer: `rows` have the columns of `columns`, time in UTC ns first."""

    tags: Mapping[str, str]
    columns: list[str]
    rows: list[list[Any]]


class DatabaseMissing(StoreUnavailable):
    """The server answers but has no such database: look whether one may be created, then try again."""


class Forbidden(StoreUnavailable):
    """The server refuses these credentials: mend them."""


class Server:
    """One database of an InfluxDB server. Any thread may call.

    Raises StoreMisconfigured for a URL or a file of credentials that cannot serve, StoreUnavailable where the server
    cannot answer now, StoreRefused where it will never take what was written.
    """

    def __init__(self, url: str, options: StoreOptions, monotonic_ns: Callable[[], int]) -> None:
        self.host, self.database = _parts(url)
        if (options.user is None) != (options.password_file is None):
            raise StoreMisconfigured("[influx] user and password_file: expected both or neither")
        if options.user is not None and options.token_file is not None:
            raise StoreMisconfigured("[influx] token_file, or user and password_file: expected not both")
        self._options = options
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._client: InfluxDBClient | None = None
        self._not_before_ns = 0
        self.write_path = V2_WRITE
        self.version = ""

    @property
    def major(self) -> int:
        """1, 2 or 3: how databases are made and points deleted. Of a server that does not tell, 1."""
        head = self.version.partition(".")[0]
        return int(head) if head in ("1", "2", "3") else 1

    @property
    def setting(self) -> str:
        """Where the credentials stand, for people."""
        if self._options.token_file is not None:
            return "[influx] token_file"
        return "[influx] user and password_file" if self._options.user is not None else "[influx] token_file or user"

    def ping(self) -> str:
        """The server's version."""
        response = self.call("GET", "/ping", within_s=PING_S)
        version = response.headers.get("X-Influxdb-Version") or response.headers.get("Version") or ""
        response.close()
        self.version = version.removeprefix("v")
        return self.version

    def write(self, body: bytes) -> None:
        """Write lines of line protocol; durable as far as the server makes it so before it answers.

        Without a line it tells whether one could be written.
        """
        wait_ns = self._not_before_ns - self._monotonic_ns()
        if wait_ns > 0:
            raise StoreUnavailable(f"InfluxDB asked to be left alone for another {wait_ns / 1e9:.0f} s")
        try:
            self._write(body)
        except _TooLarge as error:
            middle = body.rfind(b"\n", 0, len(body) // 2) + 1
            if middle in (0, len(body)):
                raise StoreRefused(str(error)) from error
            self.write(body[:middle])
            self.write(body[middle:])

    def write_all(self, bodies: Iterable[bytes]) -> None:
        """Write bodies one after the other, the next made ready meanwhile; all are written when it returns.

        Where one fails, of the others some may be.
        """
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, "influx writer") as writer:
            try:
                for body in bodies:
                    waiting.append(writer.submit(self.write, body))
                    if len(waiting) > AHEAD:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            finally:
                for one in waiting:
                    one.cancel()

    def _write(self, body: bytes) -> None:
        if self.write_path == V2_WRITE:
            query = {"bucket": self.database, "precision": "ns"}
            if self._options.org is not None:
                query["org"] = self._options.org
            try:
                self.call("POST", V2_WRITE, query, body).close()
            except _NoSuchPath:
                self.write_path = V1_WRITE
            else:
                return
        self.call("POST", V1_WRITE, {"db": self.database, "precision": "ns"}, body).close()

    def query(self, text: str, *, anywhere: bool = False, patient: bool = False) -> list[Series]:
        """All series of an answer to one InfluxQL statement; `anywhere`: it names no database, `patient`: it may take
        long.
        """
        return list(self.stream(text, anywhere=anywhere, patient=patient))

    def stream(self, text: str, *, anywhere: bool = False, patient: bool = False) -> Iterator[Series]:
        """The answer's series, in pieces of up to ROWS_A_CHUNK rows, as they come."""
        for document in self.documents(text, anywhere=anywhere, patient=patient):
            yield from self.series(document)

    def documents(self, text: str, *, anywhere: bool = False, patient: bool = False) -> Iterator[bytes]:
        """The answer as it comes, in whole JSON documents; `series` reads one."""
        query = {"q": text, "epoch": "ns", "chunked": "true", "chunk_size": str(ROWS_A_CHUNK)}
        if not anywhere:
            query["db"] = self.database
        response = self.call("POST", "/query", query, within_s=PATIENT_S if patient else None)
        whole = False
        try:
            yield from _lines(response)
            whole = True
        except HTTPError as error:
            raise StoreUnavailable(f"InfluxDB at {self.host}: the answer broke off: {_short(error)}") from error
        finally:
            if not whole:
                # Else the rest of the answer would be read as the beginning of the next one.
                response.close()
            response.release_conn()

    def series(self, document: bytes) -> list[Series]:
        """The series in a document. Raises StoreUnavailable where it is an error, or none."""
        try:
            read = json.loads(document)
        except ValueError as error:
            raise StoreUnavailable(f"InfluxDB at {self.host}: expected JSON: {_short(error)}") from error
        found: list[Series] = []
        for part in (read, *read.get("results", ())):
            if "error" in part:
                raise self._failed(part["error"])
            found += [
                Series(one.get("tags", {}), one["columns"], one.get("values", [])) for one in part.get("series", ())
            ]
        return found

    def _failed(self, message: str) -> StoreUnavailable:
        if "authoriz" in message or "not allowed" in message or "requires admin" in message:
            return Forbidden(f"InfluxDB at {self.host}: {message}; look at {self.setting}")
        if "not found" in message and ("database" in message or "bucket" in message or "dbrp" in message.lower()):
            return DatabaseMissing(f"InfluxDB at {self.host}: {message}")
        return StoreUnavailable(f"InfluxDB at {self.host}: {message}")

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | Mapping[str, object] = b"",
        within_s: float | None = None,
    ) -> HTTPResponse:
        """One request; a mapping is sent as JSON. The caller reads and closes the response.

        The answer, and each piece of it, may take `within_s` in place of what the options say.
        """
        most = within_s or self._options.timeout_s
        milliseconds = (int(min(CONNECT_S, most) * 1000), int(most * 1000))
        try:
            response: HTTPResponse = self._connected().api_client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={
                    "Content-Type": TEXT if isinstance(body, bytes) else "application/json",
                    "Accept": "application/json",
                },
                body=body if isinstance(body, bytes) else dict(body),
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=milliseconds,
                urlopen_kw={"retries": WritesRetry(total=0)},
            )
        except ApiException as error:
            raise self._refused(path, error) from error
        except HTTPError as error:
            raise StoreUnavailable(f"InfluxDB at {self.host} does not answer: {_short(error)}") from error
        return response

    def _connected(self) -> InfluxDBClient:
        with self._lock:
            if self._client is None:
                options = self._options
                token = None
                if options.token_file is not None:
                    token = _secret(options.token_file)
                elif options.user is not None and options.password_file is not None:
                    # Basic, not the client's own user and password, which open a session as only 2.x has it.
                    token = f"{options.user}:{_secret(options.password_file)}"
                self._client = InfluxDBClient(
                    self.host,
                    token=token,
                    org=options.org,
                    auth_basic=options.user is not None,
                    ssl_ca_cert=str(options.ca_file) if options.ca_file else None,
                )
            return self._client

    def _refused(self, path: str, error: ApiException) -> Exception:
        message = _message(error)
        what = f"InfluxDB at {self.host} answers HTTP {error.status}: {message}"
        if error.status in (401, 403):
            # The next request reads the file anew.
            self.close()
            return Forbidden(f"{what}; look at {self.setting}")
        if error.status == 404:
            if path == V2_WRITE and not _names_a_database(message):
                return _NoSuchPath(what)
            return DatabaseMissing(what)
        if error.status == 413:
            return _TooLarge(what)
        if error.status in (400, 422) and path in (V1_WRITE, V2_WRITE):
            return StoreRefused(what)
        if error.status in (429, 503):
            self._wait(error)
        return StoreUnavailable(what)

    def _wait(self, error: ApiException) -> None:
        after = (error.headers or {}).get("Retry-After")
        if not after:
            return
        try:
            seconds = Retry().parse_retry_after(after)
        except InvalidHeader:
            return  # asked for nothing that can be understood
        self._not_before_ns = self._monotonic_ns() + int(min(seconds, LONGEST_WAIT_S) * 1e9)

    def close(self) -> None:
        """Let go of the connections; the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


class _NoSuchPath(StoreUnavailable):
    """The server has no such path at all: an older one."""


class _TooLarge(StoreUnavailable):
    """The server takes no body of this size: send less at once."""


def _parts(url: str) -> tuple[str, str]:
    """`http://HOST:PORT` and the database in a store's URL."""
    try:
        split = urlsplit(url)
        port = split.port or 8086
    except ValueError:
        raise StoreMisconfigured(f"store: {EXPECTED}") from None
    database = unquote(split.path.removeprefix("/"))
    scheme = split.scheme.removeprefix("influx+")
    if split.username is not None or split.password is not None:
        # Not repeated: a password may stand in it.
        raise StoreMisconfigured(f"store: found credentials in the URL, {EXPECTED}")
    if scheme not in ("http", "https") or not split.hostname or not database or "/" in database or split.query:
        raise StoreMisconfigured(f"store {url!r}: {EXPECTED}")
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{scheme}://{host}:{port}", database


def _secret(file: Path) -> str:
    try:
        found = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StoreUnavailable(f"[influx]: cannot read {file}: {reason}") from None
    if not found:
        raise StoreUnavailable(f"[influx]: {file} is empty")
    return found


def _names_a_database(message: str) -> bool:
    return any(word in message.lower() for word in ("database", "bucket", "dbrp", "organization"))


def _message(error: ApiException) -> str:
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        body = str(document.get("error") or document.get("message") or body)
    return " ".join((body or error.reason or "no reason given").split())[:300]


def _short(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:300]


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    rest = b""
    for piece in response.stream(1 << 20):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest
