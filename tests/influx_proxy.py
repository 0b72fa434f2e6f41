"""A proxy in front of a real InfluxDB of 1.x that answers some requests itself, as an overloaded server would; or that
gives it the paths of a server of 2.x or 3.x.

What it does not model of those: their own limits, their own words for errors, buckets with an id of their own.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
import urllib.parse
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What is answered in place of the server, to one write. `passed_on`: after it was written all the same."""

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    passed_on: bool = False


@dataclass
class Proxy:
    """`next_writes` are answered so, one each; then the server answers. `seen` are paths and `Authorization`."""

    port: int
    next_writes: deque[Answer] = field(default_factory=deque)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    version: str = ""
    """Passed off as that: writes come on /api/v2/write, databases are made and deleted from as there."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def writes(self) -> int:
        return sum("/write" in path for path, _ in self.seen)


@contextmanager
def proxy(to_port: int, *, version: str = "") -> Iterator[Proxy]:
    """In front of the server on `to_port` of this machine."""

    def ask(query: str, database: str = "") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", to_port, timeout=20)
        connection.request("POST", "/query?" + urllib.parse.urlencode({"q": query, "db": database}))
        read = connection.getresponse().read()
        connection.close()
        return read

    def answer_newer(method: str, path: str, fields: dict[str, str], body: bytes) -> tuple[int, object] | None:
        """What a newer server has a path of its own for, done by the older one."""
        if path == "/api/v2/orgs":
            return 200, {"orgs": [{"id": "0", "name": "lab"}]}
        if path == "/api/v2/buckets" and method == "GET":
            there = f'"{fields["name"]}"'.encode() in ask("SHOW DATABASES")
            return 200, {"buckets": [{"id": fields["name"], "retentionRules": []}] if there else []}
        if path in ("/api/v2/buckets", "/api/v3/configure/database"):
            given = json.loads(body)
            name = given.get("name") or given["db"]
            ask(f'CREATE DATABASE "{name}"')
            return 201, {"id": name}
        if path == "/api/v2/dbrps":
            return 201, {}
        if path == "/api/v2/delete":
            given = json.loads(body)
            measurement, _, rest = given["predicate"].partition(" AND ")
            tags = (part.split("=") for part in rest.split(" AND ") if part)
            where = "".join(f"{name}='{value[1:-1]}' AND " for name, value in tags)
            name = measurement.split("=")[1]
            ask(f"DELETE FROM {name} WHERE {where}time < '{given['stop']}'", fields["bucket"])  # noqa: S608
            return 204, {}
        return None

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass()

        def do_POST(self) -> None:
            self._pass()

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.seen.append((self.path, self.headers.get("Authorization")))
            path = self.path
            if seen.version:
                split = urllib.parse.urlsplit(path)
                fields = dict(urllib.parse.parse_qsl(split.query))
                newer = answer_newer(self.command, split.path, fields, body)
                if newer is not None:
                    self._answer(newer[0], {}, json.dumps(newer[1]).encode())
                    return
                if split.path == "/api/v2/write":
                    path = "/write?" + urllib.parse.urlencode({"db": fields["bucket"], "precision": "ns"})
            instead = seen.next_writes.popleft() if "/write" in path and body and seen.next_writes else None
            if instead is not None and not instead.passed_on:
                self._answer(instead.status, instead.headers, instead.body)
                return
            connection = http.client.HTTPConnection("127.0.0.1", to_port, timeout=20)
            kept = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
            connection.request(self.command, path, body, kept)
            answer = connection.getresponse()
            read = answer.read()
            connection.close()
            if instead is not None:
                self._answer(instead.status, instead.headers, instead.body)
                return
            told = seen.version or answer.headers.get("X-Influxdb-Version") or ""
            self._answer(answer.status, {"X-Influxdb-Version": told}, read)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != http.client.NO_CONTENT:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != http.client.NO_CONTENT:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests say what went wrong."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen = Proxy(server.server_address[1], version=version)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
