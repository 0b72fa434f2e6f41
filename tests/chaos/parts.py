"""The parts of the line as processes: started, killed with SIGKILL, and started again as a service manager would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
AGAIN_S = 0.5
"""A service manager's pause before it starts again what has ended by itself."""
GRACE_S = 15.0
APPEARS_S = 60.0
TAIL = 600


class Stuck(RuntimeError):
    """The line has not done in time what it must do; the message tells what was waited for."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A part has ended that nobody killed. `full`: while a disk was full."""

    part: str
    code: int
    full: bool
    said: str


class Part:
    """One program. Its standard input is a pipe, which ends with us, and so does whatever leaves with its parent."""

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Path,
        *,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[str, int, str], None] = lambda _name, _code, _said: None,
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._on_start = on_start
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def pids(self) -> list[int]:
        """Its process, if it runs."""
        process = self._process
        return [process.pid] if process is not None and process.returncode is None else []

    async def start(self) -> None:
        """Run it, if it does not, until it is killed or ended; where it ends by itself it is started again."""
        async with self._starting:
            if not self.pids:
                await self._launch()
                self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def kill(self) -> None:
        """SIGKILL as soon as it runs; returns when it is gone."""
        await _until(lambda: bool(self.pids), APPEARS_S, f"{self.name} to run")
        self._stop_watching()
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def end(self) -> bool:
        """End it in order; False where only force helped."""
        self._stop_watching()
        process = self._process
        if process is None or process.returncode is not None:
            return True
        if process.stdin is not None:
            process.stdin.close()
        for force in (process.terminate, process.kill):
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
                    return force == process.terminate
            with suppress(ProcessLookupError):
                force()
        await process.wait()
        return False

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text("utf-8", "replace")[-TAIL:] if self._log.exists() else ""

    async def _launch(self) -> None:
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end everything in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._on_start()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def _watch(self) -> None:
        while (process := self._process) is not None:
            code = await process.wait()
            self._on_end(self.name, code, self.said())
            await asyncio.sleep(AGAIN_S)
            await self._launch()


class Child:
    """The broker that the hub runs as its own child: killed by its pid, started again by the hub."""

    name = "broker"

    def __init__(self, pid_file: Path, word: str) -> None:
        self._pid_file = pid_file
        self._word = word

    @property
    def pids(self) -> list[int]:
        """Its process, if it runs; process numbers are used again, so its command must hold the word and the folder."""
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(self._pid_file.read_text("ascii")))
            command = " ".join(process.cmdline())
            if self._word in command and str(self._pid_file.parent) in command:
                return [process.pid] if process.status() != psutil.STATUS_ZOMBIE else []
        return []

    async def start(self) -> None:
        """The hub does it."""

    async def kill(self) -> None:
        """SIGKILL as soon as it runs; returns when it is gone."""
        await _until(lambda: bool(self.pids), APPEARS_S, f"{self.name} to run")
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await _until(lambda pid=pid: pid not in self.pids, GRACE_S, f"{self.name} to be gone")

    async def end(self) -> bool:
        """The hub does it."""
        return True


def python(*arguments: str) -> list[str]:
    """A command of this Python."""
    return [sys.executable, *arguments]


def end_left_behind(folder: Path) -> list[str]:
    """Kill whatever still runs with this folder in its command; what it was."""
    left: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if process.pid != os.getpid() and f"{folder}/" in command:
                left.append(command)
                process.kill()
                process.wait(5)
    return left


async def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Another process is waited for, which tells nobody. Raises Stuck."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Stuck(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.02)
