"""`epip-demo`: a simulated workshop on this machine: three simulators, an edge agent and the hub with its broker.

Every part is a process of its own, as it would be beside real equipment. Nothing listens beyond 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hub.accounts.service import IssuedSignIn
from hub.errors import HubError
from simulators.demo_catalog import ROBOT, Files, Ports, prepare, robot_prefix
from simulators.supervisor import ChildFailed, Supervisor

READY_POLL_S = 0.1


def main(arguments: list[str] | None = None) -> int:
    """Run the simulated workshop until Ctrl-C; the exit code is 0 after an orderly end."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 0
    except (ChildFailed, HubError, OSError) as error:
        print(f"epip-demo: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="epip-demo", description="A simulated workshop, from equipment to browser.")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="the pages' port on 127.0.0.1 (8000)")
    parser.add_argument("--data", type=Path, default=Path("demo-data"), metavar="DIR", help="kept (demo-data)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what the simulated kits do (1)")
    parser.add_argument("--exit-after", type=float, metavar="SECONDS", help="end by itself")
    parser.add_argument("--json", action="store_true", help="one JSON line with address and sign-ins when ready")
    return parser


async def _run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    files = Files(options.data.resolve())
    say = _Voice(options.json)
    say.line(f"data folder: {files.folder}")
    with _only_one(files.folder):
        ports = _ports(options.port, files.folder)
        sign_ins = await asyncio.to_thread(prepare, files, ports)
        async with Supervisor(say.line) as supervisor:
            started = asyncio.create_task(_start(supervisor, files, ports, options.seed))
            failed = asyncio.create_task(supervisor.wait_failed())
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({started, failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not stopped.done():
                    # Raises where a part could not start; a part that fails later is started again.
                    await (started if started.done() else failed)
                    say.ready(f"http://127.0.0.1:{ports.http}", files.folder, sign_ins)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(options.exit_after):
                            await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if failed.done():
                        await failed
            finally:
                for task in (started, failed, stopped):
                    task.cancel()
                say.line("ending")
    say.line(f"ended; the data folder is kept: {files.folder}")
    return 0


async def _start(supervisor: Supervisor, files: Files, ports: Ports, seed: int) -> None:
    def child(name: str, *arguments: str) -> str:
        children[name] = supervisor.start(name, [*arguments, "--exit-with-parent"], files.logs / f"{name}.log")
        return name

    children = {}
    simulator = ("-m", "simulators.cli")
    seeded = ("--seed", str(seed))
    child("hub", "-m", "hub.cli", "run", str(files.hub))
    child("plc-line", *simulator, "plc-line", "--port", str(ports.plc), *seeded)
    if os.name == "posix":
        serial = ("--eeg-port", ports.eeg, "--drive-port", ports.drive)
    else:
        serial = ("--tcp", *(port.rpartition(":")[2] for port in (ports.eeg, ports.drive)))
    child("bci-platform", *simulator, "bci-platform", *serial, *seeded)
    child(
        "robot-cell",
        *(*simulator, "robot-cell", "--broker", f"mqtt://127.0.0.1:{ports.broker}", "--prefix", robot_prefix()),
        *("--user", f"equipment-{ROBOT}", "--password-file", str(files.robot_password), *seeded),
    )
    child("edge", "-m", "edge_agent.cli", "run", str(files.edge))
    await asyncio.gather(*(supervisor.wait_ready(children[name]) for name in children if name not in ("hub", "edge")))
    while not await asyncio.to_thread(_is_ready, f"http://127.0.0.1:{ports.http}/healthz"):  # noqa: ASYNC110 - another process is asked
        await asyncio.sleep(READY_POLL_S)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - an address of our own, on loopback
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    if os.name == "posix":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
    else:
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop.set))


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse to run twice on one data folder; the system lets go of the lock however we end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "demo.lock").open("a+b") as file:
        try:
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise OSError(f"a simulated workshop already runs on {folder}; choose another folder with --data") from None
        yield


def _ports(http: int, folder: Path) -> Ports:
    with contextlib.ExitStack() as held:
        chosen = [_bind(held, 0) for _ in range(4)]
        try:
            chosen.append(_bind(held, http))
        except OSError:
            raise OSError(f"port {http} is in use: end what uses it, or choose another with --port N") from None
    broker, plc, eeg, drive, http = chosen
    if os.name == "posix":
        return Ports(http, broker, plc, str(folder / "eeg.port"), str(folder / "drive.port"))
    return Ports(http, broker, plc, f"socket://127.0.0.1:{eeg}", f"socket://127.0.0.1:{drive}")


def _bind(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket())
    if os.name == "posix":
        # As servers do: a port in TIME_WAIT from the run before is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener.getsockname()[1]


class _Voice:
    """What is said to the person, or, for a script, one JSON line on standard output and the rest on standard error."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def line(self, text: str) -> None:
        print(text, file=sys.stderr if self._json else sys.stdout, flush=True)

    def ready(self, address: str, folder: Path, sign_ins: list[IssuedSignIn]) -> None:
        if self._json:
            people = [{"role": s.person.role.value, "user": s.person.name, "password": s.password} for s in sign_ins]
            print(json.dumps({"address": address, "data": str(folder), "sign_ins": people}), flush=True)
            return
        self.line(f"\n  open {address}\n")
        for sign_in in sign_ins:
            password = sign_in.password or "(the password chosen earlier)"
            self.line(f"  {sign_in.person.role.value:<14} {sign_in.person.name:<11} {password}")
        self.line("\n  These passwords are shown once and replaced at the next start. Ctrl-C ends everything.\n")


if __name__ == "__main__":
    sys.exit(main())
