"""Beside the line: the program `epip-edge`.

epip-edge check SETTINGS                       every fault on one line of its own, without touching the network
epip-edge run SETTINGS [--exit-with-parent]    the same check, then the agent until SIGINT or SIGTERM
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge_agent.errors import EdgeError, SettingsInvalid
from edge_agent.settings import EdgeSettings, load_settings

log = logging.getLogger("edge_agent")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns 0, or 1 where something is to be mended first."""
    parser = argparse.ArgumentParser(prog="epip-edge", description="Reads training kits and sends to the hub.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="look for faults in settings and kit models, without the network")
    run = commands.add_parser("run", help="run the agent")
    for command in (check, run):
        command.add_argument("settings", type=Path, help="settings file (TOML)")
    run.add_argument("--exit-with-parent", action="store_true", help="leave when standard input ends")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
    except SettingsInvalid as error:
        print(error, file=sys.stderr)
        return 1
    for warning in settings.warnings:
        print(warning, file=sys.stderr)
    if options.command == "check":
        sources = sum(len(kit.sources) for kit in settings.kits)
        print(f"{options.settings}: edge {settings.edge}, {len(settings.kits)} kits, {sources} connections: no fault")
        return 0
    _set_up_logging()
    try:
        asyncio.run(_run(settings, options.exit_with_parent))
    except EdgeError as error:
        print(f"{options.settings}: {error}", file=sys.stderr)
        return 1
    return 0


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    # asyncua tells of each reconnect with a traceback; the runner says the same in one line.
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)


async def _run(settings: EdgeSettings, exit_with_parent: bool) -> None:
    # Imported late: `check` needs neither the spool nor the link.
    from edge_agent.agent import Agent

    _give_back_memory()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(Agent(settings).run())
    log.info("edge %s: %d kits, hub %s", settings.edge, len(settings.kits), settings.hub.url)
    if exit_with_parent:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, task.cancel), daemon=True).start()
    with _stopping(loop, task.cancel), contextlib.suppress(asyncio.CancelledError):
        await task
    log.info("edge %s: stopped", settings.edge)


def _give_back_memory() -> None:
    """Hand what importing and reading settings needed for a moment back to the system: 4 MB on an old PC.

    Source: malloc_trim(3) of glibc; other C libraries have no such call.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def _stopping(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` in the loop at SIGINT and SIGTERM, on Windows at Ctrl-C and Ctrl-Break."""

    def on_signal(*_: object) -> None:
        loop.call_soon_threadsafe(stop)

    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    before = {number: signal.signal(number, on_signal) for name in names if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
    # Not sys.stdin: a thread that waits in its buffer holds a lock that the end of the interpreter needs.
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop)


if __name__ == "__main__":
    sys.exit(main())
