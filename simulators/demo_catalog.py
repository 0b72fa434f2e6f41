"""What the simulated workshop consists of: fills the catalog, renews passwords, writes the settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hub.accounts.person import Role
from hub.accounts.service import Accounts, IssuedSignIn, NewPerson
from hub.catalog.service import Catalog
from hub.clock import SystemClock
from hub.database import open_database
from hub.errors import AlreadyThere
from lab_contract.kit import Label, builtin_kit_models

WORKSHOP = "tashkent"
ZONE = "Asia/Tashkent"
NAME = Label(en="Simulated workshop", zh="模拟工坊", ru="Имитация мастерской")
CITY = Label(en="Tashkent", zh="塔什干", ru="Ташкент")
EDGE = "tashkent-1"
ROBOT = "robot-1"
KITS = {"plc-1": "plc_line", ROBOT: "robot_cell", "bci-1": "bci_platform"}
PEOPLE = (
    NewPerson("admin", "Administrator", Role.ADMINISTRATOR, zone="UTC"),
    NewPerson("instructor", "Instructor", Role.INSTRUCTOR, zone="Asia/Shanghai"),
    NewPerson("technician", "Technician", Role.TECHNICIAN, zone=ZONE),
)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen on 127.0.0.1 in this run."""

    http: int
    broker: int
    plc: int
    eeg: str
    drive: str


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one data folder."""

    folder: Path

    @property
    def hub(self) -> Path:
        """The hub's settings."""
        return self.folder / "hub.toml"

    @property
    def edge(self) -> Path:
        """The edge's settings."""
        return self.folder / "edge.toml"

    @property
    def edge_password(self) -> Path:
        """The edge's broker password."""
        return self.folder / "edge.password"

    @property
    def robot_password(self) -> Path:
        """The robot cell's broker password."""
        return self.folder / "robot.password"

    @property
    def database(self) -> Path:
        """The hub's database."""
        return self.folder / "hub" / "hub.sqlite"

    @property
    def logs(self) -> Path:
        """One log a program."""
        return self.folder / "logs"


def prepare(files: Files, ports: Ports) -> list[IssuedSignIn]:
    """Write the settings, fill the catalog where it is empty, renew the passwords; returns the sign-ins to show.

    Raises HubError and OSError.
    """
    files.logs.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    with open_database(files.database) as database:
        catalog = Catalog(database, builtin_kit_models())
        catalog.reload()
        if not catalog.workshops():
            catalog.add_workshop(WORKSHOP, name=NAME, city=CITY, zone=ZONE)
        try:
            edge_password = catalog.add_edge(EDGE, workshop=WORKSHOP)
        except AlreadyThere:
            edge_password = catalog.renew_edge_password(EDGE)
        try:
            robot_password = catalog.add_equipment_account(ROBOT, workshop=WORKSHOP)
        except AlreadyThere:
            robot_password = catalog.renew_equipment_password(ROBOT)
        known = catalog.kits()
        for kit, model in KITS.items():
            if kit not in known:
                catalog.add_kit(kit, workshop=WORKSHOP, model=model, edge=EDGE)
        sign_ins = Accounts(database, clock).issue_sign_ins(PEOPLE)
    _write_secret(files.edge_password, edge_password)
    _write_secret(files.robot_password, robot_password)
    files.hub.write_text(_hub_settings(ports), "utf-8")
    files.edge.write_text(_edge_settings(files, ports), "utf-8")
    return sign_ins


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secret + "\n")


def _hub_settings(ports: Ports) -> str:
    return f"""\
# Written by epip-demo at each start.
data = "hub"

[http]
port = {ports.http}

[broker]
port = {ports.broker}
"""


def robot_prefix() -> str:
    """The topic below which the robot cell publishes: its own part of the hub's broker."""
    return f"equipment/{ROBOT}"


def _edge_settings(files: Files, ports: Ports) -> str:
    return f"""\
# Written by epip-demo at each start.
edge = "{EDGE}"
data = "edge"

[hub]
url = "mqtt://127.0.0.1:{ports.broker}"
user = "edge-{EDGE}"
password_file = "{files.edge_password.name}"

[[kits]]
id = "plc-1"
model = "plc_line"

[kits.connections.plc]
endpoint = "opc.tcp://127.0.0.1:{ports.plc}/"

[[kits]]
id = "{ROBOT}"
model = "robot_cell"

[kits.connections.cell]
url = "mqtt://127.0.0.1:{ports.broker}"
user = "edge-{EDGE}"
password_file = "{files.edge_password.name}"
prefix = "{robot_prefix()}"

[[kits]]
id = "bci-1"
model = "bci_platform"

[kits.connections.eeg]
port = '{ports.eeg}'

[kits.connections.drive]
port = '{ports.drive}'
"""
