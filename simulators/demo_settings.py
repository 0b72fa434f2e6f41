"""What the simulated workshop consists of and where: ports, files, and the settings of hub and edge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

WORKSHOP = "tashkent"
EDGE = "tashkent-1"
ROBOT = "robot-1"
KITS = {"plc-1": "plc_line", ROBOT: "robot_cell", "bci-1": "bci_platform"}
"""Kit to its kit model."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen on 127.0.0.1 in this run; `eeg` and `drive` are what the edge opens as serial ports."""

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
    def lock(self) -> Path:
        """Held while a simulated workshop runs on the folder."""
        return self.folder / "demo.lock"

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
    def broker(self) -> Path:
        """What the hub keeps of its broker."""
        return self.folder / "hub" / "broker"

    @property
    def logs(self) -> Path:
        """One log a program."""
        return self.folder / "logs"


def robot_prefix() -> str:
    """The topic below which the robot cell publishes: its own part of the hub's broker."""
    return f"equipment/{ROBOT}"


def write_settings(files: Files, ports: Ports) -> None:
    """Write the settings of hub and edge; they hold no secret."""
    files.hub.write_text(_hub(ports), "utf-8")
    files.edge.write_text(_edge(files, ports), "utf-8")


def _hub(ports: Ports) -> str:
    return f"""\
# Written by epip-demo at each start.
data = "hub"

[http]
port = {ports.http}

[broker]
port = {ports.broker}
"""


def _edge(files: Files, ports: Ports) -> str:
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
port = {_quoted(ports.eeg)}

[kits.connections.drive]
port = {_quoted(ports.drive)}
"""


def _quoted(text: str) -> str:
    # A JSON string is a TOML string too; a folder's name may hold quotes of either kind.
    return json.dumps(text, ensure_ascii=False)
