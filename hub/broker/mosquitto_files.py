"""Mosquitto without a plugin as the broker: the plain way, by an ACL file and a password file that the hub writes.

Receives accounts, hands on the two files in a folder that the broker reads, and the address for the hub's own link. The
broker reads them anew at SIGHUP: sent by the hub where it knows the process and may, else by the administrator.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hub.broker.base import BrokerHealth, BrokerUnavailable, HubAccess
from hub.broker.config import BrokerAccount, hub_account
from hub.broker.mosquitto_config import LOG_TOPIC, acl_text, passwords_text
from hub.broker.orphan import command_line
from hub.broker.passwords import mosquitto_hash
from hub.broker.refusals import MosquittoLog, Tail

log = logging.getLogger(__name__)

ACL_FILE = "acl"
HASHES_FILE = "passwords"
CONNECT_S = 10.0


class MosquittoFiles:
    """The accounts in `folder`, for a Mosquitto whose `acl_file` and `password_file` stand there.

    `access` is the hub's own account, written into the files like every other. `pid_file` is the broker's.
    """

    def __init__(
        self, access: HubAccess, folder: Path, *, pid_file: Path | None = None, log_file: Path | None = None
    ) -> None:
        self._access = access
        self._folder = folder
        self._pid_file = pid_file
        self._log = MosquittoLog()
        self._tail = None if log_file is None else Tail(log_file, self._log)
        self._hub = hub_account("", access.user, mosquitto_hash(access.password))
        self._missing: tuple[str, ...] = ()
        self._fault = ""
        self._detail = "not connected yet"
        self._changed = threading.Condition()
        feed = self._log.feed if log_file is None else lambda _line: None
        self._link = access.link(
            "epip-watch", lambda _topic, payload: feed(payload.decode("utf-8", "replace")), self._connection
        )
        self._link.subscribe(LOG_TOPIC)

    @property
    def access(self) -> HubAccess:
        """The hub's own sign-in."""
        return self._access

    def start(self, accounts: Sequence[BrokerAccount]) -> None:
        """Write the files and connect. Raises BrokerUnavailable, ValueError for a bad account."""
        if self._tail is not None:
            self._tail.start()
        self.reload(accounts)
        self._link.start()
        with self._changed:
            # A refusal may be one of the moment: the broker may be about to read the files.
            if not self._changed.wait_for(lambda: self._link.connected, CONNECT_S):
                raise BrokerUnavailable(
                    f"no connection to the broker at {self._access.url}: {self._detail}. Expected one that reads "
                    f"{ACL_FILE} and {HASHES_FILE} in {self._folder}"
                )

    def reload(self, accounts: Sequence[BrokerAccount]) -> None:
        """Write the files and have them read. Raises BrokerUnavailable, ValueError for a bad account."""
        everyone = [self._hub, *accounts]
        acl, passwords = acl_text(everyone, self._access.user), passwords_text(everyone)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            changed = self._write(ACL_FILE, acl)
            changed = self._write(HASHES_FILE, passwords) or changed
        except OSError as error:
            raise BrokerUnavailable(f"broker.accounts_folder: {self._folder}: {error.strerror}") from error
        self._missing = tuple(account.user for account in accounts if account.mosquitto_hash is None)
        if changed:
            self._tell()

    def revive(self) -> None:
        """Nothing: an administrator runs it. The health page says that no heartbeat comes back."""

    def stop(self) -> None:
        """Disconnect; the files stay. Idempotent."""
        self._link.stop()
        if self._tail is not None:
            self._tail.stop()

    def health(self) -> BrokerHealth:
        """Whether the hub is connected, and what was refused."""
        connected = self._link.connected
        detail = self._fault or ("" if connected else self._detail) or (self._tail.fault if self._tail else "")
        return BrokerHealth(
            "mosquitto",
            connected,
            detail,
            self._link.counters["disconnects"],
            missing=self._missing,
            refusals=self._log.refusals(),
        )

    def _connection(self, up: bool, why: str) -> None:
        if up and self._fault:
            # It may have been away when it was to be told. Not here: this thread carries the link.
            threading.Thread(target=self._tell, name="broker accounts", daemon=True).start()
        with self._changed:
            self._detail = why
            self._changed.notify_all()

    def _write(self, name: str, text: str) -> bool:
        """True where that changed the file. For its owner, and for the group that the folder hands down."""
        file = self._folder / name
        if file.exists() and file.read_text("utf-8") == text:
            return False
        part = self._folder / f"{name}.part"
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w", encoding="utf-8") as out:  # noqa: PTH123
            out.write(text)
        part.replace(file)
        return True

    def _tell(self) -> None:
        """The process in `pid_file` if it is a Mosquitto: numbers are used again, and SIGHUP ends most programs."""
        if self._pid_file is None:
            return
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is None:
            self._fault = "broker.pid_file: this system has no SIGHUP: leave it out, and have the broker read its files"
            return
        try:
            pid = int(self._pid_file.read_text("ascii"))
            if "mosquitto" not in command_line(pid):
                raise ProcessLookupError(0, f"process {pid} is no mosquitto")
            _wait_until_it_listens(pid)
            os.kill(pid, hangup)
        except (OSError, ValueError) as error:
            self._fault = f"broker.pid_file: {self._pid_file}: {getattr(error, 'strerror', None) or error}"
            log.error("the broker is not told to read its accounts anew: %s", self._fault)
        else:
            self._fault = ""


def _wait_until_it_listens(pid: int) -> None:
    """Mosquitto has read its files and opened its port before it minds SIGHUP, which would end it until then.

    Only Linux tells; elsewhere nothing is waited for. Raises ProcessLookupError where it ends or takes longer.
    """
    status = Path(f"/proc/{pid}/status")
    if not Path("/proc/self/status").exists():
        return
    deadline = time.monotonic() + CONNECT_S
    while time.monotonic() < deadline:
        try:
            caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status.read_text("ascii", "replace"), re.MULTILINE)
        except OSError:
            break
        if caught is None or int(caught[1], 16) & 1 << (signal.SIGHUP - 1):
            return
        time.sleep(0.02)
    raise ProcessLookupError(0, f"process {pid} does not mind SIGHUP")
