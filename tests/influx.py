"""A real InfluxDB for tests: Debian's, with a scratch folder and free ports on loopback, or the one that is named.

EPIP_INFLUX_URL      http://host:port of a server to use in its place, 2.x or 3.x too
EPIP_INFLUX_TOKEN    its token; needs to make and delete databases
EPIP_INFLUX_ORG      its organisation (2.x)
EPIP_INFLUX_BUCKET   how the names of the databases that are made begin; default `epip`

with influxd(folder) as server:    # one process
    server.kill(); server.start()  # the same ports and the same folder again
    server.freeze(); server.thaw() # SIGSTOP, SIGCONT
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.brokers import free_port

START_S = 20.0
CONF = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
index-version = "tsi1"
wal-fsync-delay = "0s"
query-log-enabled = false
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{http}"
log-enabled = false
auth-enabled = {auth}
max-body-size = {max_body}
"""


@dataclass
class Influx:
    """An influxd process. `start` and `kill` may be called in turn; `kill` is SIGKILL."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start, and return when it answers."""
        log = self.folder / "influxd.log"
        command = [program(), "-config", str(self.folder / "influxdb.conf")]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"influxd did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == http.client.NO_CONTENT
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """It holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, query: str, **parameters: str) -> list[dict[str, object]]:
        """InfluxQL past everything of ours: the results of the one statement."""
        return ask(self.url, query, **parameters)


def program() -> str:
    """Debian's influxd."""
    found = shutil.which("influxd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin"]))
    assert found is not None, "influxd is missing: python tests/set_up.py"
    return found


@contextmanager
def influxd(folder: Path, *, auth: bool = False, max_body: int = 25_000_000) -> Iterator[Influx]:
    """A server with its files in `folder`."""
    server = made(folder, auth=auth, max_body=max_body)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def made(folder: Path, *, auth: bool = False, max_body: int = 25_000_000) -> Influx:
    """A server that does not run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {"rpc": free_port(), "http": port, "folder": folder.as_posix(), "max_body": max_body}
    (folder / "influxdb.conf").write_text(CONF.format(**settings, auth=str(auth).lower()))
    return Influx(folder, port)


def ask(url: str, query: str, **parameters: str) -> list[dict[str, object]]:
    """One InfluxQL statement by hand."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        text = urllib.parse.urlencode({"q": query, "epoch": "ns", **parameters})
        connection.request("POST", f"/query?{text}")
        (result,) = json.loads(connection.getresponse().read())["results"]
    finally:
        connection.close()
    assert "error" not in result, result["error"]
    found: list[dict[str, object]] = result.get("series", [])
    return found


@cache
def shared() -> tuple[str, dict[str, str]]:
    """`http://host:port` of the one server for all tests of this process, and the options to reach it with."""
    folder = Path(tempfile.mkdtemp(prefix="epip-influx-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    given = os.environ.get("EPIP_INFLUX_URL")
    if given is not None:
        options = {}
        if token := os.environ.get("EPIP_INFLUX_TOKEN"):
            file = folder / "token"
            file.touch(mode=0o600)
            file.write_text(token)
            options["token_file"] = str(file)
        if org := os.environ.get("EPIP_INFLUX_ORG"):
            options["org"] = org
        return given.rstrip("/"), options
    server = made(folder)
    server.start()
    atexit.register(server.kill)
    return server.url, {}


def fresh_database() -> str:
    """A name that no database has."""
    return f"{os.environ.get('EPIP_INFLUX_BUCKET', 'epip')}-{secrets.token_hex(6)}"
