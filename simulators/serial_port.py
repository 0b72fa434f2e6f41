"""The far end of a serial line for simulators: a pseudo-terminal (Linux, macOS) or TCP on 127.0.0.1 (also Windows).

What the host sends goes to `on_data`; what a simulator writes while nobody listens is lost, as on a real line.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

HOST = "127.0.0.1"
READ_BYTES = 4096
UNSENT_BYTES = 65536
"""What may wait for a slow reader over TCP; a pseudo-terminal keeps about 4 kB."""


class Port(Protocol):
    """One end of a serial line that can be unplugged and plugged in again."""

    on_data: Callable[[bytes], None]
    dropped_bytes: int

    @property
    def url(self) -> str:
        """What the host opens."""
        ...

    async def plug(self) -> None:
        """Make the port appear. Raises OSError."""
        ...

    async def unplug(self) -> None:
        """Make it vanish under whoever has it open. Safe to call again."""
        ...

    def write(self, data: bytes) -> None:
        """Send to the host; what does not fit is dropped and counted."""
        ...


def _ignore(_data: bytes) -> None:
    """Nobody has been told where to send the host's bytes yet."""


class PtyPort:
    """A pseudo-terminal under a symbolic link `path`, or under its own changing name where no path is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.on_data: Callable[[bytes], None] = _ignore
        self.dropped_bytes = 0
        self._path = path
        self._master: int | None = None
        self._slave = -1
        self._name = ""

    @property
    def url(self) -> str:
        """The symbolic link, or the terminal's name."""
        return str(self._path) if self._path is not None else self._name

    async def plug(self) -> None:
        """Open a new terminal, which may have another name than the last, and point the link at it."""
        import pty  # not on Windows
        import tty

        self._master, self._slave = pty.openpty()
        # Without echo and line editing, or what we send before a host has set the line up would come back to us. The
        # second end stays open here, so that the first does not fail while no host has the port open.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._name = os.ttyname(self._slave)
        if self._path is not None:
            self._link(self._path)
        asyncio.get_running_loop().add_reader(self._master, self._readable)

    def _link(self, path: Path) -> None:
        if path.exists() and not path.is_symlink():
            raise FileExistsError(f"{path}: expected no file or a symbolic link of an earlier run")
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        beside.symlink_to(self._name)
        beside.replace(path)

    async def unplug(self) -> None:
        """Close the terminal and take the link away."""
        if self._master is None:
            return
        asyncio.get_running_loop().remove_reader(self._master)
        if self._path is not None and self._path.is_symlink() and str(self._path.readlink()) == self._name:
            self._path.unlink()
        os.close(self._master)
        os.close(self._slave)
        self._master = None

    def write(self, data: bytes) -> None:
        """Send; a terminal that nobody reads is full after some kilobytes, and then data is dropped."""
        if self._master is None:
            self.dropped_bytes += len(data)
            return
        try:
            written = os.write(self._master, data)
        except BlockingIOError:
            written = 0
        self.dropped_bytes += len(data) - written

    def _readable(self) -> None:
        if self._master is not None:
            self.on_data(os.read(self._master, READ_BYTES))


class TcpPort:
    """A serial line over TCP, for one host at a time; `number` 0 takes a free port."""

    def __init__(self, number: int = 0) -> None:
        self.on_data: Callable[[bytes], None] = _ignore
        self.dropped_bytes = 0
        self._number = number
        self._server: asyncio.Server | None = None
        self._client: asyncio.Transport | None = None

    @property
    def url(self) -> str:
        """`socket://127.0.0.1:port`."""
        return f"socket://{HOST}:{self._number}"

    async def plug(self) -> None:
        """Listen; the same port again after an unplug."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Host(self), HOST, self._number)
        self._number = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Cut the host off and stop listening."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._client is not None:
            self._client.abort()
            self._client = None
        await server.wait_closed()

    def write(self, data: bytes) -> None:
        """Send; a host that does not read loses what does not fit."""
        client = self._client
        if client is None or client.is_closing() or client.get_write_buffer_size() > UNSENT_BYTES:
            self.dropped_bytes += len(data)
            return
        client.write(data)

    def connected(self, client: asyncio.Transport) -> None:
        """A host is there; a second one is turned away, as from a port that is taken."""
        if self._client is not None and not self._client.is_closing():
            client.abort()
            return
        self._client = client

    def disconnected(self, client: asyncio.Transport) -> None:
        """A host is gone."""
        if self._client is client:
            self._client = None


class _Host(asyncio.Protocol):
    def __init__(self, port: TcpPort) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server gives
        self._transport = transport
        self._port.connected(transport)

    def data_received(self, data: bytes) -> None:
        self._port.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._port.disconnected(self._transport)
