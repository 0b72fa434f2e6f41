"""The line's programs as processes of their own, and a hub's settings and catalog for them; all in a scratch folder."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil
import yaml

from hub.accounts.person import Role
from hub.accounts.service import NewPerson
from hub.settings import HubSettings, load_settings
from hub.setup import open_hub
from lab_contract.kit import Label
from tests.bench.opcua_server import NAMESPACE
from tests.brokers import free_port
from tests.opcua_parts import counters_model

ROOT = Path(__file__).resolve().parents[2]
READY_S = 30.0
GRACE_S = 8.0
"""Time for an orderly end; then terminate, and two seconds later kill."""
WORKSHOP = "bench"
INSTRUCTOR = "instructor"
PLC_KIT = "plc-1"
VARIABLES = 200
RATE_HZ = 10.0


class NotReady(RuntimeError):
    """Read the log that the message ends with: a program did not come up, so nothing can be measured."""


class Program:
    """`python ARGUMENTS...` for as long as the context lasts; its standard input is a pipe that ends with us.

    `ends_with_input` is for programs that leave when their input ends; others get SIGTERM.
    """

    def __init__(self, folder: Path, name: str, *arguments: str, ends_with_input: bool = True) -> None:
        self._name = name
        self._log = folder / f"{name}.log"
        self._ends_with_input = ends_with_input
        self._lines: queue.Queue[str | None] = queue.Queue()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.facts = psutil.Process(self._process.pid)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def line(self, begins: str = "", within_s: float = READY_S) -> str:
        """The next line of standard output that begins so. Raises NotReady where none comes in time."""
        until = time.monotonic() + within_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise NotReady(f"{self._name} did not say {begins!r}:\n{self.log_tail()}")
            if line.startswith(begins):
                return line.rstrip("\n")

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def log_tail(self) -> str:
        """The end of its log."""
        return self._log.read_text("utf-8", "replace")[-2000:]

    def peak_rss(self) -> int:
        """Bytes. Linux keeps the peak itself; elsewhere it is what stands now."""
        status = Path(f"/proc/{self.facts.pid}/status")
        if status.exists():
            line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        return int(self.facts.memory_info().rss)

    def end(self) -> None:
        """End it in order, by force where it does not, and then whatever it has started itself."""
        family = self.facts.children(recursive=True) if self._process.poll() is None else []
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self._ends_with_input:
            self._process.terminate()
        for force in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                force()
        self._process.wait()
        for left in family:
            # psutil compares start times too, so that a pid used again is not taken for ours.
            if left.is_running():
                left.kill()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)


@dataclass(frozen=True)
class Site:
    """A hub that is set up but does not run: one workshop, an edge or more, kits and an instructor."""

    folder: Path
    settings: HubSettings
    password: str
    """Of the instructor."""

    @property
    def broker(self) -> str:
        """Where the hub's broker will listen."""
        return f"mqtt://127.0.0.1:{self.settings.broker.port}"

    @property
    def address(self) -> str:
        """Where the hub will serve its pages."""
        return f"http://127.0.0.1:{self.settings.http.port}"

    def password_file(self, account: str) -> Path:
        """Holds the broker password of an edge or of equipment."""
        return self.folder / f"{account}.password"

    def hub(self) -> Program:
        """The hub as a program; wait for it with `wait_ready`."""
        return Program(self.folder, "hub", "-m", "hub.cli", "run", str(self.folder / "hub.toml"), "--exit-with-parent")

    def wait_ready(self, hub: Program) -> None:
        """Until /healthz says so. Raises NotReady."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.address}/healthz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        raise NotReady(f"the hub does not become ready:\n{hub.log_tail()}")

    def edge(self, edge: str, kits: str) -> Program:
        """The edge agent as a program; `kits` is the part of its settings that names them."""
        file = self.folder / f"{edge}.toml"
        file.write_text(
            f'edge = "{edge}"\ndata = "{edge}"\n\n[hub]\nurl = "{self.broker}"\nuser = "edge-{edge}"\n'
            f'password_file = "{edge}.password"\n\n{kits}',
            "utf-8",
        )
        return Program(self.folder, edge, "-m", "edge_agent.cli", "run", str(file), "--exit-with-parent")


def make_site(folder: Path, kits: Mapping[str, Mapping[str, str]], equipment: Iterable[str] = ()) -> Site:
    """Settings and catalog of a hub in `folder`. `kits`: edge id to kit ids and their kit models.

    Beside the built-in kit models there is `counters`, VARIABLES float channels that come at every change.
    """
    models = folder / "models"
    models.mkdir(parents=True)
    model = counters_model((f"V{i}" for i in range(VARIABLES)), kind="float")
    document = model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (models / "counters.yaml").write_text(yaml.safe_dump({"schema": "kit-model/1", **document}), "utf-8")
    toml = folder / "hub.toml"
    toml.write_text(
        f'data = "hub"\nkit_models = "models"\n[http]\nport = {free_port()}\n[broker]\nport = {free_port()}\n', "utf-8"
    )
    settings = load_settings(toml)
    passwords: dict[str, str] = {}
    name = Label(en="Bench", zh="测试台", ru="Измерения")
    with open_hub(settings) as hub:
        hub.catalog.add_workshop(WORKSHOP, name=name, city=name, zone="UTC")
        for edge, of_edge in kits.items():
            passwords[edge] = hub.catalog.add_edge(edge, workshop=WORKSHOP)
            for kit, kit_model in of_edge.items():
                hub.catalog.add_kit(kit, workshop=WORKSHOP, model=kit_model, edge=edge)
        for account in equipment:
            passwords[account] = hub.catalog.add_equipment_account(account, workshop=WORKSHOP)
        (sign_in,) = hub.accounts.issue_sign_ins([NewPerson(INSTRUCTOR, "Instructor", Role.INSTRUCTOR, zone="UTC")])
    site = Site(folder, settings, sign_in.password or "")
    for account, password in passwords.items():
        file = site.password_file(account)
        file.touch(mode=0o600)
        file.write_text(password + "\n", "utf-8")
    return site


def opcua_server(folder: Path) -> Program:
    """The OPC UA server with VARIABLES counters at RATE_HZ; `endpoint` waits for it."""
    return Program(folder, "opcua", "-m", "tests.bench.opcua_server", str(VARIABLES), str(RATE_HZ))


def plc_kit(server: Program) -> str:
    """The edge's settings for the counters of this server."""
    endpoint = server.line("ready").split()[1]
    return (
        f'[[kits]]\nid = "{PLC_KIT}"\nmodel = "models/counters.yaml"\n'
        f'[kits.connections.plc]\nendpoint = "{endpoint}"\nnamespace = "{NAMESPACE}"\nobject = "Bench"\n'
    )
