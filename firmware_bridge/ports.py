"""The serial link session: finds the port of an instrument, reads it on a thread of its own and hands the bytes on.

A port is named in one of four ways, each resolved again at every opening, since an instrument that was plugged out and
in may come back under another device name:

* a path or device name: `/dev/serial/by-id/usb-FTDI_...`, `/dev/ttyUSB0`, `COM3`, or a symbolic link to one;
* `usb:VID:PID` or `usb:VID:PID:SERIAL`, hexadecimal, as in `usb:0403:6015`;
* `socket://host:port`, a serial line over TCP.

pyserial's traps are handled here and nowhere else: a read blocks at most 0.2 s; it is cancelled and its thread joined
before the port is closed (closing under a reader raises TypeError in it); `in_waiting` is only ever 0 or 1 on a socket,
so there the read is of a fixed size; a port that vanished shows as any of SerialException, OSError and TypeError.
"""

from __future__ import annotations

import errno
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import serial
from serial.tools import list_ports

READ_TIMEOUT_S = 0.2
READ_BYTES = 4096
SOCKET_READ_S = 0.02
"""On a socket a read of fixed size waits for all of it or for this long: the most that a byte is held back."""
WRITE_TIMEOUT_S = 1.0
HANDOVER_BYTES = 1 << 20
"""Bytes that may wait for whoever takes them; 2 minutes of a Cyton. Beyond it the oldest are dropped and counted."""

_USB = re.compile(r"usb:([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})(?::(\S+))?\Z")


def _gone() -> tuple[type[Exception], ...]:
    if sys.platform == "win32":
        return serial.SerialException, OSError, TypeError
    import termios  # not on Windows; its error is no OSError

    return serial.SerialException, OSError, TypeError, termios.error


_GONE = _gone()


class LinkUnavailable(Exception):
    """Retry later: the port is not there, was unplugged or does not take data."""


class PortBusy(LinkUnavailable):
    """Retry later, and tell people: another program holds the port."""


class PortInvalid(ValueError):
    """Mend the setting: it names no port, or more than one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that were read in one go and the monotonic time (ns) at which they were there.

    `drained`: nothing more was waiting, so that these bytes are as new as the time says.
    """

    data: bytes
    t: int
    drained: bool


def check_port(port: str) -> None:
    """Whether `port` has one of the four forms, without looking for it. Raises PortInvalid."""
    if port.startswith("usb:"):
        if not _USB.match(port):
            raise PortInvalid(f"expected usb:VID:PID or usb:VID:PID:SERIAL, found {port!r}")
        return
    if "://" in port:
        parts = urlsplit(port)
        try:
            known = parts.scheme == "socket" and parts.hostname and parts.port
        except ValueError:
            known = False
        if not known:
            raise PortInvalid(f"expected socket://host:port, found {port!r}")
        return
    if not port.strip():
        raise PortInvalid("expected a device path, a COM port, usb:VID:PID or socket://host:port")


def find_port(port: str) -> str:
    """What pyserial can open for `port` as it is plugged now. Raises PortInvalid or LinkUnavailable."""
    check_port(port)
    match = _USB.match(port)
    if match is None:
        return port
    vid, pid, number = int(match[1], 16), int(match[2], 16), match[3]
    every: list[Any] = list(list_ports.comports())
    found = [p for p in every if (p.vid, p.pid) == (vid, pid) and (number is None or p.serial_number == number)]
    if not found:
        raise LinkUnavailable(f"no serial port with the USB id {port[4:]}, found {_listed(every)}")
    if len(found) > 1:
        raise PortInvalid(f"expected the serial number behind {port!r}: {_listed(found)} all have this USB id")
    return str(found[0].device)


def _listed(ports: list[Any]) -> str:
    shown = (f"{p.device} (usb:{p.vid:04x}:{p.pid:04x}:{p.serial_number})" for p in ports if p.vid is not None)
    return ", ".join(shown) or "no USB serial port"


class SerialLink:
    """One open port. `notify` is called on the reader thread whenever there is something to take; it must be quick.

    `monotonic_ns` stamps what is read. `counters`: bytes_read, bytes_written, overflow_bytes (dropped unread).
    """

    def __init__(
        self,
        port: str,
        *,
        baudrate: int,
        monotonic_ns: Callable[[], int],
        notify: Callable[[], None],
        handover_bytes: int = HANDOVER_BYTES,
    ) -> None:
        check_port(port)
        self.port = port
        self.device = ""
        """What the port resolved to when it was opened."""
        self.counters = {"bytes_read": 0, "bytes_written": 0, "overflow_bytes": 0}
        self.ended: LinkUnavailable | None = None
        """Why nothing more will come; None while the link is up."""
        self._baudrate = baudrate
        self._monotonic_ns = monotonic_ns
        self._notify = notify
        self._handover_bytes = handover_bytes
        self._waiting: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._serial: Any = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Find and open the port and start reading; blocks. Raises LinkUnavailable, PortBusy or PortInvalid."""
        self.device = find_port(self.port)
        is_socket = "://" in self.device
        options: dict[str, Any] = {} if is_socket else {"exclusive": True}
        open_port: Any = serial.serial_for_url  # pyright: ignore[reportUnknownMemberType]
        try:
            opened: Any = open_port(
                self.device,
                baudrate=self._baudrate,
                timeout=SOCKET_READ_S if is_socket else READ_TIMEOUT_S,
                write_timeout=WRITE_TIMEOUT_S,
                **options,
            )
        except _GONE as error:
            raise _not_opened(self.port, self.device, error) from None
        with self._lock:
            if not self._stopping.is_set():
                read = self._read_socket if is_socket else self._read_device
                self._thread = threading.Thread(
                    target=self._read, args=(opened, read), name=f"serial {self.port}", daemon=True
                )
                self._thread.start()
                self._serial = opened
                return
        # Closed by another thread while the port was opening.
        opened.close()
        raise LinkUnavailable(f"{self.port}: the port is closed")

    def take(self) -> list[Chunk]:
        """Everything read since the last call, oldest first; empty where there is nothing."""
        with self._lock:
            chunks = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
        return chunks

    def write(self, data: bytes) -> None:
        """Send; blocks at most a second. Raises LinkUnavailable."""
        port = self._serial
        if port is None:
            raise LinkUnavailable(f"{self.port}: the port is closed")
        try:
            port.write(data)
        except _GONE as error:
            raise LinkUnavailable(f"{self.port}: cannot write: {error}") from None
        self.counters["bytes_written"] += len(data)

    def close(self) -> None:
        """Stop reading, then close; blocks until the reader thread has ended. Safe to call again."""
        self._stopping.set()
        with self._lock:
            port, self._serial = self._serial, None
            thread = self._thread
        if port is None or thread is None:
            return
        # A socket has no cancel_read; its read ends by itself within SOCKET_READ_S.
        cancel: Callable[[], None] | None = getattr(port, "cancel_read", None)
        if cancel is not None and thread.is_alive():
            cancel()
        thread.join()
        try:
            port.close()
        except _GONE as error:
            # The device is gone already; there is nothing left to close.
            self.ended = self.ended or LinkUnavailable(f"{self.port}: {error}")

    def _read(self, port: Any, read: Callable[[Any], tuple[bytes, bool]]) -> None:
        try:
            while not self._stopping.is_set():
                data, drained = read(port)
                if data:
                    self._hand_over(Chunk(data, self._monotonic_ns(), drained))
        except _GONE as error:
            if not self._stopping.is_set():
                self.ended = LinkUnavailable(f"{self.port}: the port is gone: {error}")
        self._notify()

    @staticmethod
    def _read_device(port: Any) -> tuple[bytes, bool]:
        data: bytes = port.read(1)
        # What came with the first byte goes along with it, so that one arrival is one hand-over.
        waiting: int = port.in_waiting if data else 0
        if waiting:
            data += port.read(min(waiting, READ_BYTES - 1))
        return data, waiting < READ_BYTES

    @staticmethod
    def _read_socket(port: Any) -> tuple[bytes, bool]:
        data: bytes = port.read(READ_BYTES)
        return data, len(data) < READ_BYTES

    def _hand_over(self, chunk: Chunk) -> None:
        with self._lock:
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk.data)
            self.counters["bytes_read"] += len(chunk.data)
            while self._waiting_bytes > self._handover_bytes and len(self._waiting) > 1:
                dropped = len(self._waiting.popleft().data)
                self._waiting_bytes -= dropped
                self.counters["overflow_bytes"] += dropped
        self._notify()


def _not_opened(port: str, device: str, error: Exception) -> LinkUnavailable:
    number = getattr(error, "errno", None)
    denied = number == errno.EACCES or "PermissionError" in str(error)
    locked = number in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error)
    if locked or (denied and sys.platform == "win32"):
        return PortBusy(f"{port}: another program has this port open; close it there")
    if denied:
        return LinkUnavailable(f"{port}: this account may not open {device}; on Linux add it to the group dialout")
    return LinkUnavailable(f"{port}: cannot open {device}: {error}")
