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

PAUSE_FIRST_S = 0.5
PAUSE_MOST_S = 20.0
FAILURES_AT_START = 3
"""Ends before its first ready line after which a child is given up."""
GRACE_S = 6.0
"""Time for an orderly end after the pipe is closed; then terminate, and a second later kill."""
LOG_TAIL_LINES = 15


class ChildFailed(Exception):
    """A child keeps failing from the start: show the message and end."""


@dataclass
class Child:
    """One program: what to run, and where its output goes. `ready` is set at its first line `ready ...`."""

    name: str
    arguments: list[str]
    log: Path
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    failed: str | None = None


class Supervisor:
    """Starts children, watches them and stops them. Use as an async context manager inside one event loop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._given_up = asyncio.Event()

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self, name: str, arguments: list[str], log: Path) -> Child:
        """Run `python arguments...` as a child; its output goes to `log`."""
        child = Child(name, arguments, log)
        self._children.append(child)
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep_running(child), name=name))
        return child

    async def wait_ready(self, child: Child) -> None:
        """Until the child has said that it is ready. Raises ChildFailed where any child is given up before that."""
        loop = asyncio.get_running_loop()
        waits = {loop.create_task(child.ready.wait()), loop.create_task(self._given_up.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._check()

    async def wait_failed(self) -> None:
        """Until a child is given up, and then raises ChildFailed; for ever while all goes well."""
        await self._given_up.wait()
        self._check()

    def _check(self) -> None:
        failed = next((child.failed for child in self._children if child.failed), None)
        if failed:
            raise ChildFailed(failed)

    async def stop(self) -> None:
        """End every child: in order where it obeys, by force where it does not."""
        self._stopping = True
        for child in self._children:
            if child.process is not None and child.process.stdin is not None:
                child.process.stdin.close()
        alive = [child for child in self._children if _running(child.process)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*(child.process.wait() for child in alive if child.process))
        for force in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            left = [child for child in alive if _running(child.process)]
            if not left:
                break
            for child in left:
                self._say(f"{child.name} did not end by itself; ending it")
                _end_group(child.process, force)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.gather(*(child.process.wait() for child in left if child.process))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, child: Child) -> None:
        pause = PAUSE_FIRST_S
        early = 0
        while not self._stopping:
            code = await self._run_once(child)
            if self._stopping:
                return
            early = 0 if child.ready.is_set() else early + 1
            if early >= FAILURES_AT_START:
                child.failed = (
                    f"{child.name} ends at its start (exit code {code}).\n{child.log} says:\n{_tail(child.log)}"
                )
                self._given_up.set()
                return
            child.restarts += 1
            self._say(f"{child.name} ended (exit code {code}), starting it again; see {child.log}")
            await asyncio.sleep(pause)
            pause = min(PAUSE_MOST_S, pause * 2)

    async def _run_once(self, child: Child) -> int:
        with child.log.open("ab") as log:
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
            if process.stdout is not None:
                async for line in process.stdout:
                    log.write(line)
                    log.flush()
                    if line.startswith(b"ready"):
                        child.ready.set()
            return await process.wait()


def _running(process: asyncio.subprocess.Process | None) -> bool:
    return process is not None and process.returncode is None


def _end_group(process: asyncio.subprocess.Process | None, force: int) -> None:
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            # The child leads a session of its own, so its group holds what it has started (the hub's broker).
            os.killpg(process.pid, force)
        else:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
