"""`epip-demo` as a program, for tests: started as a person starts it, with what it says, its processes and its ports.

demo = Demo(tmp_path, data, "--json")  # the program runs from here on
demo.ready()                           # the JSON line, once it is there
demo.ctrl_c(); demo.ended()            # the exit code
demo.leave()                           # at the end of the test, however it went: nothing stays behind
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

READY_S = 120.0
ENDED_S = 60.0


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Returns as soon as the condition holds; fails after so many seconds with what it waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody on this machine answers at the port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Part:
    """A process of the demo as it was seen running; `listening` are its addresses."""

    pid: int
    name: str
    command: str
    environment: str
    listening: tuple[tuple[str, int], ...]

    @property
    def alive(self) -> bool:
        """Whether it still runs. Process numbers are used again: the command tells."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()) == self.command
        except psutil.NoSuchProcess:
            return False


class Demo:
    """The program, running on `data` on a port of its own unless one is given."""

    def __init__(self, folder: Path, data: Path, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.data = data
        self._out = folder / "out.txt"
        self._err = folder / "err.txt"
        self.parts: list[Part] = []
        command = [sys.executable, "-m", "simulators.workshop", "--port", str(self.port), "--data", str(data)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            # A session of its own, as in a terminal of its own: Ctrl-C goes to its group.
            self.process = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text("utf-8")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = READY_S) -> None:
        """Until the condition holds; fails at once where the program ends before."""

        def holds() -> bool:
            code = self.process.poll()
            assert code is None or condition(), f"epip-demo ended with {code} before {what}:\n{self.out}{self.err}"
            return condition()

        until(holds, seconds, what)

    def ready(self) -> dict[str, Any]:
        """What the JSON line says, as soon as it is there (`--json`)."""
        self.wait(lambda: self.out.endswith("\n"), "it was ready")
        self.look()
        said: dict[str, Any] = json.loads(self.out)
        return said

    def runs(self, name: str) -> bool:
        """Whether a part runs whose command holds this name; all are remembered then."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            found = any(name in word for child in children for word in child.cmdline())
        except psutil.NoSuchProcess:
            return False
        return found and bool(self.look())

    def look(self) -> list[Part]:
        """The processes of the demo at this moment; whatever is seen once is remembered in `parts`."""
        found: list[Part] = []
        main = psutil.Process(self.process.pid)
        for process in (main, *main.children(recursive=True)):
            try:
                listening = tuple(
                    (c.laddr.ip, c.laddr.port)
                    for c in process.net_connections("inet")
                    if c.status == psutil.CONN_LISTEN
                )
                environment = "\n".join(f"{key}={value}" for key, value in process.environ().items())
                command = " ".join(process.cmdline())
                found.append(Part(process.pid, process.name(), command, environment, listening))
            except psutil.NoSuchProcess:
                continue
        known = {part.pid: part for part in (*self.parts, *found)}
        self.parts = list(known.values())
        return found

    def ctrl_c(self) -> None:
        """What the terminal does at Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """The exit code, as soon as the program has ended."""
        return self.process.wait(ENDED_S)

    def left(self) -> list[str]:
        """Processes seen before that still run, and ports that still answer."""
        alive = [f"process {part.pid}: {part.command}" for part in self.parts if part.alive]
        ports = {port for part in self.parts for _, port in part.listening} | {self.port}
        return alive + [f"port {port}" for port in sorted(ports) if listens(port)]

    def leave(self) -> None:
        """Ends whatever of it still runs."""
        if self.process.poll() is None:
            self.look()
            self.process.terminate()
            try:
                self.process.wait(ENDED_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for part in self.parts:
            if part.alive:
                os.kill(part.pid, signal.SIGKILL)
