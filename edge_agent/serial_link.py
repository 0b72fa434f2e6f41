"""The serial link session of firmware_bridge for async code: bytes read on a thread, awaited here by the sources."""

from __future__ import annotations

import asyncio

from edge_agent.clock import Clock
from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from firmware_bridge.ports import Chunk, LinkUnavailable, PortInvalid, SerialLink


class SerialSession:
    """One opening of one port. A session that has ended is not opened again; make a new one."""

    def __init__(self, port: str, *, baudrate: int, clock: Clock) -> None:
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self.link = SerialLink(
                port, baudrate=baudrate, monotonic_ns=clock.monotonic_ns, notify=self._notify_from_reader
            )
        except PortInvalid as error:
            raise SourceMisconfigured("port", str(error)) from None

    def _notify_from_reader(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def open(self) -> None:
        """Raises SourceUnavailable (not there, busy) or SourceMisconfigured (names no port, or more than one)."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self.link.open)
        except LinkUnavailable as error:
            raise SourceUnavailable(str(error)) from None
        except PortInvalid as error:
            raise SourceMisconfigured("port", str(error)) from None
        except asyncio.CancelledError:
            # The thread goes on opening; told to close, it lets go of the port by itself.
            await self.close()
            raise

    async def read(self, timeout_s: float) -> list[Chunk]:
        """What has come since the last call, waiting for it at most `timeout_s`; empty after that time.

        Raises SourceUnavailable once the port is gone and everything read before is taken.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._arrived.clear()
                    ended = self.link.ended
                    chunks = self.link.take()
                    if chunks:
                        return chunks
                    if ended is not None:
                        raise SourceUnavailable(str(ended))
                    await self._arrived.wait()
        except TimeoutError:
            return []

    async def write(self, data: bytes) -> None:
        """Raises SourceUnavailable."""
        try:
            await asyncio.to_thread(self.link.write, data)
        except LinkUnavailable as error:
            raise SourceUnavailable(str(error)) from None

    async def close(self) -> None:
        """Safe to call again, and while `open` still runs in its thread."""
        await asyncio.to_thread(self.link.close)
