"""`epip-demo`: a simulated workshop on this machine: three simulators, an edge agent and the hub with its broker.

Every part is a process of its own, as it would be beside real equipment. Nothing listens beyond 127.0.0.1. What is
heavy to import is imported while the simulators start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hub.errors import CannotRun, HubError
from simulators.demo_settings import ROBOT, Files, Ports, robot_prefix
from simulators.supervisor import Child, ChildFailed, Supervisor

if TYPE_CHECKING:
    from hub.accounts.service import IssuedSignIn

READY_POLL_S = 0.1
SLOW_S = 15.0
"""After so long, and again and again, it is said what the start still waits for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the simulated workshop until Ctrl-C; the exit code is 0 after an orderly end, 1 where it could not run."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 0
    except (ChildFailed, HubError, CannotRun, OSError) as error:
        print(f"epip-demo: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="epip-demo", description="A simulated workshop, from equipment to browser.")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="the pages' port on 127.0.0.1 (8000)")
    parser.add_argument("--data", type=Path, default=Path("demo-data"), metavar="DIR", help="kept (demo-data)")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="what the simulated kits do (1)")
    parser.add_argument(
        "--exit-after", type=_seconds, metavar="SECONDS", help="end by itself so long after it is ready"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line with address and sign-ins when ready")
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 (any free one) to 65535, found {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < 1e9:
            return seconds
    raise argparse.ArgumentTypeError(f"expected seconds from 0, found {text!r}")


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    files = Files(options.data.resolve())
    voice = _Voice(options.json)
    with _only_one(files):
        ports = _ports(options.port, files.folder)
        files.logs.mkdir(exist_ok=True)
        voice.line(f"data folder: {files.folder}")
        voice.line("starting three simulators, an edge agent and the hub with its broker ...")
        async with _prepared(files, ports) as preparing, Supervisor(voice.line) as supervisor:
            workshop = _Workshop(supervisor, files, ports, options.seed, voice)
            stopped = (stop.wait, supervisor.wait_failed)
            try:
                await _first_of(workshop.start(preparing), workshop.tell_what_is_slow(), *(wait() for wait in stopped))
                if not stop.is_set():
                    voice.ready(f"http://127.0.0.1:{ports.http}", files.folder, preparing.result())
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(options.exit_after):
                            await _first_of(*(wait() for wait in stopped))
            finally:
                voice.line("ending")
    voice.line(f"ended; the data folder is kept: {files.folder}")


@contextlib.asynccontextmanager
async def _prepared(files: Files, ports: Ports) -> AsyncIterator[asyncio.Task[list[IssuedSignIn]]]:
    """The task that fills the catalog and gives the sign-ins. When left, nobody works in the folder any more."""

    def prepare() -> list[IssuedSignIn]:
        from simulators import demo_catalog

        return demo_catalog.prepare(files, ports)

    def end_broker() -> None:
        from hub.broker.orphan import end_orphan

        # Only a hub that was killed leaves one; the lock on the folder keeps a second demo from starting its own.
        end_orphan(files.broker / "broker.pid", files.broker / "broker.conf")

    preparing = asyncio.create_task(asyncio.to_thread(prepare), name="prepare")
    try:
        yield preparing
    finally:
        # A thread cannot be cancelled: the folder is in use until it has ended.
        await asyncio.wait({preparing})
        # Where we were asked to stop meanwhile, nobody needs its result.
        preparing.exception()
        await asyncio.to_thread(end_broker)


class _Workshop:
    """The parts and their order."""

    def __init__(self, supervisor: Supervisor, files: Files, ports: Ports, seed: int, voice: _Voice) -> None:
        self._supervisor = supervisor
        self._files = files
        self._ports = ports
        self._seed = ("--seed", str(seed))
        self._voice = voice
        self._awaited: list[Child] = []

    async def start(self, preparing: asyncio.Task[list[IssuedSignIn]]) -> None:
        """Until every simulator and the hub are ready. Raises what `preparing` raises."""
        self._start_simulators()
        await asyncio.wait({preparing})
        preparing.result()
        hub = self._child("hub", "-m", "hub.cli", "run", str(self._files.hub))
        self._awaited.append(hub)
        # The edge is not waited for: it is in no order with the rest, and what it cannot reach is on the pages.
        self._child("edge", "-m", "edge_agent.cli", "run", str(self._files.edge))
        self._simulator(
            "robot-cell",
            *("--broker", f"mqtt://127.0.0.1:{self._ports.broker}", "--prefix", robot_prefix()),
            *("--user", f"equipment-{ROBOT}", "--password-file", str(self._files.robot_password)),
        )
        while not await asyncio.to_thread(_is_ready, self._ports.http):  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(READY_POLL_S)
        hub.ready.set()
        for child in self._awaited:
            await child.ready.wait()

    def _start_simulators(self) -> None:
        """Those that need nothing of the hub."""
        ports = self._ports
        self._simulator("plc-line", "--port", str(ports.plc))
        if os.name == "posix":
            self._simulator("bci-platform", "--eeg-port", ports.eeg, "--drive-port", ports.drive)
        else:
            tcp = (port.rpartition(":")[2] for port in (ports.eeg, ports.drive))
            self._simulator("bci-platform", "--tcp", *tcp)

    def _simulator(self, kit: str, *arguments: str) -> None:
        self._awaited.append(self._child(kit, "-m", "simulators.cli", kit, *arguments, *self._seed))

    def _child(self, name: str, *arguments: str) -> Child:
        log = self._files.logs / f"{name}.log"
        return self._supervisor.start(name, [*arguments, "--exit-with-parent"], log)

    async def tell_what_is_slow(self) -> None:
        """For ever: says what the start still waits for."""
        while True:
            await asyncio.sleep(SLOW_S)
            waiting = [child.name for child in self._awaited if not child.ready.is_set()]
            self._voice.line(f"still waiting for {', '.join(waiting) or 'the data folder'}; see {self._files.logs}")


def _is_ready(port: int) -> bool:
    # Not urllib, which would ask a proxy of the environment for the way to this machine.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Until one of them has ended; the others are cancelled. Raises its error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    if os.name == "posix":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup epip-demo` goes on when the terminal is closed.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop.set)
    else:
        for name in ("SIGINT", "SIGBREAK"):
            signal.signal(getattr(signal, name), lambda *_: loop.call_soon_threadsafe(stop.set))


@contextlib.contextmanager
def _only_one(files: Files) -> Iterator[None]:
    """Refuse to run twice on one data folder; the system lets go of the lock however we end."""
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.lock.open("a+b") as file:
        try:
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):
            taken = f"a simulated workshop already runs on {files.folder}; choose another folder with --data DIR"
            raise OSError(taken) from None
        yield


def _ports(wanted: int, folder: Path) -> Ports:
    with contextlib.ExitStack() as held:
        try:
            pages = _bind(held, wanted)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise OSError(f"port {wanted} {why}: choose another with --port N") from None
        broker, plc, eeg, drive = (_bind(held, 0) for _ in range(4))
    if os.name == "posix":
        return Ports(pages, broker, plc, str(folder / "eeg.port"), str(folder / "drive.port"))
    return Ports(pages, broker, plc, f"socket://127.0.0.1:{eeg}", f"socket://127.0.0.1:{drive}")


def _bind(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket())
    if os.name == "posix":
        # As servers do: a port in TIME_WAIT from the run before is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return int(listener.getsockname()[1])


class _Voice:
    """What is said to the person, or, for a script, one JSON line on standard output and the rest on standard error."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def line(self, text: str) -> None:
        """One line to read."""
        self._print(text, sys.stderr if self._json else sys.stdout)

    def ready(self, address: str, folder: Path, sign_ins: list[IssuedSignIn]) -> None:
        """Where to go and how to sign in."""
        if self._json:
            people = [{"role": s.person.role.value, "user": s.person.name, "password": s.password} for s in sign_ins]
            self._print(json.dumps({"address": address, "data": str(folder), "sign_ins": people}), sys.stdout)
            return
        self.line(f"\n  open {address}\n")
        for sign_in in sign_ins:
            password = sign_in.password or "(the password chosen earlier)"
            self.line(f"  {sign_in.person.role.value:<14} {sign_in.person.name:<11} {password}")
        self.line("\n  These passwords are shown once and replaced at the next start. Ctrl-C ends everything.\n")

    def _print(self, text: str, stream: TextIO) -> None:
        try:
            print(text, file=stream, flush=True)
        except OSError:
            # Whoever read has gone, perhaps by closing the terminal; the parts are still to be ended in order.
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
