"""Runs the app on a socket of this machine until Ctrl-C, SIGTERM or, if asked, until its stdin ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from hub.app import create_app
from hub.errors import CannotListen
from hub.parts import HubParts
from hub.settings import HubSettings

GRACE_S = 2
"""How long open requests and WebSockets may take to leave; what is then left is cut, so that the hub ends in 5 s."""

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Uvicorn that ends with an exit code of ours instead of raising the signal again, and says when it is stopping."""

    parts: HubParts

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: see `serve`."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets WebSockets leave by themselves before they are cut."""
        self.parts.stopping.set()
        await super().shutdown(sockets)


def run(settings: HubSettings, *, exit_with_parent: bool = False) -> int:
    """Serves until told to stop; 0 after a clean stop, 1 where the hub could not run. Raises CannotListen."""
    listener = _listen(settings.http.host, settings.http.port)
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201 - for whoever started us
    return asyncio.run(_serve(settings, listener, exit_with_parent=exit_with_parent))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    if os.name != "nt":
        # On Windows the option would let a second hub take the port of the first.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1" if host == "localhost" else host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CannotListen(f"http.port: expected a free port on {host}, found {port}: {error.strerror}") from error
    return listener


async def _serve(settings: HubSettings, listener: socket.socket, *, exit_with_parent: bool) -> int:
    def stop() -> None:
        server.should_exit = True

    app = create_app(settings, on_fault=stop)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Deflating binary frames doubles the CPU of a live page and saves little.
            ws_per_message_deflate=False,
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            timeout_graceful_shutdown=GRACE_S,
            lifespan="on",
        )
    )
    server.parts = app.state.parts
    _on_signals(stop)
    if exit_with_parent and sys.stdin is not None:
        _on_end_of_stdin(stop)
    await server.serve(sockets=[listener])
    return 1 if server.parts.fault is not None or not server.started else 0


def _on_signals(stop: Callable[[], None]) -> None:
    def caught(number: int, _frame: FrameType | None) -> None:
        stop()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, caught)


def _on_end_of_stdin(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        # Below the buffered reader: a thread that waits inside it would stop the interpreter from leaving.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        # A loop that has closed meanwhile needs no stop any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="waits for the parent to leave", daemon=True).start()
