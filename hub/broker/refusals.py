"""Counts what a broker turns away: receives its log, from a file or line by line, hands on numbers for the health.

Both brokers drop a forbidden message in silence, as MQTT 3.1.1 has no answer for it: the log is the only trace.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Protocol

from hub.broker.base import Refusals

log = logging.getLogger(__name__)

POLL_S = 0.25
MOST_AT_ONCE = 4 * 1024 * 1024
LAST_CHARS = 200


class BrokerLog(Protocol):
    """Understands the log of one make of broker."""

    def feed(self, line: str) -> None:
        """Take a line, without its end."""
        ...

    def refusals(self) -> Refusals:
        """What was counted so far."""
        ...


class NatsLog:
    """The log of a NATS server, which tells of every refusal at its usual level."""

    _sign_in = re.compile(r'\[ERR\] \S+ - mid:\d+ - ".*" - authentication error(?: - User ".*")?$')
    _publish = re.compile(r'\[ERR\] \S+ - mid:\d+ - ".*" - Publish Violation - (?:User ".*", )?Subject ".*"')
    _subscribe = re.compile(r'\[ERR\] \S+ - mid:\d+ - ".*" - Subscription Violation - (?:User ".*", )?Subject ".*"')
    _take_over = re.compile(r'\[WRN\] \S+ - mid:\d+ - ".*" - Replacing old client ')

    def __init__(self) -> None:
        self._sign_ins = self._publishes = self._subscriptions = self._take_overs = 0
        self._last = ""

    def feed(self, line: str) -> None:
        """Take a line, without its end."""
        if self._sign_in.search(line):
            self._sign_ins += 1
        elif self._publish.search(line):
            self._publishes += 1
        elif self._subscribe.search(line):
            self._subscriptions += 1
        else:
            self._take_overs += bool(self._take_over.search(line))
            return
        self._last = _shown(line)

    def refusals(self) -> Refusals:
        """What was counted so far."""
        return Refusals(self._sign_ins, self._publishes, self._subscriptions, self._take_overs, self._last)


class MosquittoLog:
    """The log of Mosquitto, as far as its administrator lets it speak.

    Refused sign-ins are notices. Forbidden messages and subscriptions are told with `log_type debug` alone, and never
    on `$SYS/broker/log`: they stay None until a line shows that this log has them. A refused subscription has no line
    of its own; it is one that is asked for and not granted before the answer (with an ACL file all are granted, and
    nothing is delivered).
    """

    _sign_in = re.compile(r"Client .* disconnected, not authorised\.$")
    _denied = re.compile(r"Denied PUBLISH from ")
    _take_over = re.compile(r"Client .* already connected, closing old connection\.$")
    _debug = re.compile(r"(?:Sending|Received) [A-Z]+ (?:to|from) ")
    _asks = re.compile(r"Received SUBSCRIBE from (.*)$")
    _asked = re.compile(r": \t.* \(QoS \d+\)$")
    _answers = re.compile(r"Sending SUBACK to ")

    def __init__(self) -> None:
        self._counts = self._debugs = False
        self._sign_ins = self._publishes = self._subscriptions = self._take_overs = 0
        self._asking: str | None = None
        self._open = 0
        self._last = ""

    def feed(self, line: str) -> None:
        """Take a line, without its end."""
        self._counts = True
        if self._debug.search(line):
            self._debugs = True
        if self._sign_in.search(line):
            self._sign_ins += 1
            self._last = _shown(line)
        elif self._denied.search(line):
            self._publishes += 1
            self._last = _shown(line)
        elif self._take_over.search(line):
            self._take_overs += 1
        else:
            self._subscription(line)

    def _subscription(self, line: str) -> None:
        asks = self._asks.search(line)
        if asks is not None:
            self._asking, self._open = asks[1], 0
        elif self._asking is None:
            return
        elif self._asked.search(line):
            self._open += 1
        elif re.search(rf": {re.escape(self._asking)} \d \S", line):
            self._open -= 1
        elif self._answers.search(line):
            if self._open > 0:
                self._subscriptions += self._open
                self._last = _shown(f"subscription of {self._asking} refused")
            self._asking = None

    def refusals(self) -> Refusals:
        """What was counted so far."""
        if not self._counts:
            return Refusals()
        publishes, subscriptions = (self._publishes, self._subscriptions) if self._debugs else (None, None)
        return Refusals(self._sign_ins, publishes, subscriptions, self._take_overs, self._last)


class Tail:
    """Follows a log file on a thread of its own, from where it ends now, and through its renaming when it is full."""

    def __init__(self, file: Path, reader: BrokerLog) -> None:
        self._file = file
        self._reader = reader
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker log", daemon=True)
        self._inode, self._place = 0, 0
        self._rest = b""
        self.fault = ""

    def start(self) -> None:
        """Begin at the present end of the file; one that is not there yet is read whole."""
        try:
            found = self._file.stat()
            self._inode, self._place = found.st_ino, found.st_size
        except FileNotFoundError:
            pass
        except OSError as error:
            self.fault = f"{self._file}: {error.strerror}"
        self._thread.start()

    def stop(self) -> None:
        """Read what is there and end. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while True:
            ending = self._stopping.wait(POLL_S)
            try:
                while self._read():
                    pass
                self.fault = ""
            except OSError as error:
                if not self.fault:
                    log.warning("the broker's log cannot be read, refusals are not counted: %s", error)
                self.fault = f"{self._file}: {error.strerror}"
            if ending:
                return

    def _read(self) -> bool:
        """Hand on what has been added; True where there is more."""
        try:
            file = self._file.open("rb")
        except FileNotFoundError:
            return False
        # Opened anew each time: Windows lets nobody rename a file that is held open.
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._place:
                self._finish_renamed()
                self._inode, self._place = found.st_ino, 0
            file.seek(self._place)
            data = file.read(MOST_AT_ONCE)
        self._place += len(data)
        self._take(data)
        return len(data) == MOST_AT_ONCE

    def _finish_renamed(self) -> None:
        for old in self._file.parent.glob(f"{self._file.name}.*"):
            with old.open("rb") as file:
                if self._inode and os.fstat(file.fileno()).st_ino == self._inode:
                    file.seek(self._place)
                    self._take(file.read())

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._reader.feed(line.decode("utf-8", "replace").rstrip("\r"))
        self._rest = self._rest[-MOST_AT_ONCE:]


def _shown(line: str) -> str:
    # Client ids and user names are the stranger's choice: nothing of them may steer a terminal or a page.
    return "".join(c if c.isprintable() else "?" for c in line)[:LAST_CHARS]
