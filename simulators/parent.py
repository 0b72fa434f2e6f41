"""Ends a simulator together with the program that started it (`--exit-with-parent`), on every operating system.

The parent holds the other end of our standard input and writes nothing; when the parent is gone, however it went, we
read the end of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine

STDIN = 0


async def until_parent_ends(work: Coroutine[object, object, None]) -> None:
    """Carry out `work`, and cancel it when standard input reaches its end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def watch() -> None:
        # os.read, not sys.stdin: a thread inside a buffered reader blocks the interpreter's own shutdown.
        while os.read(STDIN, 1024):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended first: nobody is left to be told
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
    running = asyncio.ensure_future(work)
    parent = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({running, parent}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        parent.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
