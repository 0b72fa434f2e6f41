"""Runs the programs of the simulated workshop as separate processes and ends every one of them.

The standard input of each child is a pipe of ours: when this process ends in whatever way, even killed, the pipe closes
and the child leaves (`--exit-with-parent`). A child that ends unasked is started again after a pause; one that keeps
failing from the start ends the whole workshop with the last lines of its log, so that the real cause is on screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

FAILURES_AT_START = 3
"""Ends in a row, each before its ready line and before it ran steadily, after which a child is given up."""
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 16 * 1024
CHUNK = 64 * 1024


class ChildFailed(Exception):
    """A child keeps failing from the start: show the message and end."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits, in seconds."""

    first_pause_s: float = 0.5
    """Before a child is started again; doubles with each end until it has once run steadily."""
    most_pause_s: float = 20.0
    steady_s: float = 20.0
    """A child that ran so long has started, whether or not it says that it is ready."""
    grace_s: float = 6.0
    """For an orderly end after the pipe is closed."""
    force_s: float = 1.0
    """Between asking by signal and killing."""


@dataclass
class Child:
    """One program: what to run, and where its output goes. `ready` is set at its first line `ready ...` of each run."""

    name: str
    arguments: list[str]
    log: Path
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0


class Supervisor:
    """Starts children, watches them and stops them. Use as an async context manager inside one event loop."""

    def __init__(self, say: Callable[[str], None], patience: Patience | None = None) -> None:
        self._say = say
        self._patience = patience or Patience()
        self._children: list[Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._given_up = asyncio.Event()

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self, name: str, arguments: list[str], log: Path) -> Child:
        """Run `python arguments...` as a child; its output is appended to `log`."""
        child = Child(name, arguments, log)
        keeper = asyncio.get_running_loop().create_task(self._keep_running(child), name=name)
        keeper.add_done_callback(self._note_end)
        self._children.append(child)
        self._keepers.append(keeper)
        return child

    async def wait_failed(self) -> None:
        """Until a child is given up, and then raises ChildFailed, or OSError where it could not be run at all.

        For ever while all goes well.
        """
        await self._given_up.wait()
        for keeper in self._keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()

    def _note_end(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception() is not None:
            self._given_up.set()

    async def stop(self) -> None:
        """End every child, all at the same time: in order where it obeys, by force where it does not."""
        self._stopping.set()
        await asyncio.gather(*(self._end(child) for child in self._children))
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=self._patience.force_s)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _end(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        if os.name == "posix" and not child.ready.is_set():
            # What is still being loaded does not read the pipe yet. Every part takes the signal as it takes the pipe.
            process.terminate()
        elif process.stdin is not None:
            process.stdin.close()
        if await _ends_within(process, self._patience.grace_s):
            return
        self._say(f"{child.name} does not end by itself; ending it")
        await _signal_group(process, signal.SIGTERM)
        await _ends_within(process, self._patience.force_s)
        # Also where the child has gone: what it had started may have stayed.
        await _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        await _ends_within(process, self._patience.force_s)

    async def _keep_running(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        pause, failures = self._patience.first_pause_s, 0
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run_once(child)
            if self._stopping.is_set():
                return
            steady = loop.time() - began >= self._patience.steady_s
            failures = 0 if steady or child.ready.is_set() else failures + 1
            if failures >= FAILURES_AT_START:
                raise ChildFailed(
                    f"{child.name} ends at its start (exit code {code}).\n{child.log} says:\n{_tail(child.log)}"
                )
            if steady:
                pause = self._patience.first_pause_s
            child.ready.clear()
            child.restarts += 1
            self._say(f"{child.name} ended (exit code {code}), starting it again; see {child.log}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(self._patience.most_pause_s, pause * 2)

    async def _run_once(self, child: Child) -> int:
        with child.log.open("ab", buffering=0) as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *child.arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C reaches the whole foreground group at once: a group of its own lets us end in order.
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            child.process = process
            if self._stopping.is_set():
                # `stop` did not see it yet; a program in its first moment has nothing to bring in order.
                process.kill()
            await asyncio.gather(_copy(child, process.stdout, log), process.wait())
            return await process.wait()


async def _copy(child: Child, stdout: asyncio.StreamReader | None, log: BinaryIO) -> None:
    """Append what the child says to its log, and note that it is ready."""
    begun = b""
    while stdout is not None and (chunk := await stdout.read(CHUNK)):
        log.write(chunk)
        *lines, begun = (begun + chunk).split(b"\n")
        # Of a line without end its beginning is enough.
        begun = begun[:CHUNK]
        if any(line.startswith(b"ready") for line in lines):
            child.ready.set()


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True


async def _signal_group(process: asyncio.subprocess.Process, number: int) -> None:
    if os.name == "posix":
        # The child leads a session of its own, so what it has started is in its group, unless it says otherwise.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        return
    end_tree = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
    await asyncio.to_thread(subprocess.run, end_tree, capture_output=True, check=False)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
