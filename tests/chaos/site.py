"""A whole site in a scratch folder: settings, catalog, passwords, small disks, and the parts that make up the line."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from hub.cli import main as hub_command
from hub.settings import HubSettings, load_settings
from hub.setup import open_hub
from lab_contract.kit import Label
from tests import influx
from tests.brokers import free_port, mosquitto_with_plugin, nats_server
from tests.chaos.disk import Disk, small_disk
from tests.chaos.made import KIT, MODEL, PREFIX, model
from tests.chaos.parts import Child, Part, python

Store = Literal["duckdb", "influx"]
Broker = Literal["nats", "mosquitto"]
EDGE = "chaos-1"
WORKSHOP = "chaos"
DATABASE = "chaos"
SPOOL_MB = 80
EDGE_DISK_MB = 128
HUB_DISK_MB = 256
INFLUX_DISK_MB = 256


@dataclass(frozen=True)
class Site:
    """Everything that runs, not yet started. `parts` in the order in which they are started."""

    folder: Path
    settings: HubSettings
    store: Store
    broker: Broker
    broker_port: int
    parts: dict[str, Part | Child]
    disks: dict[str, Disk]

    @property
    def spool(self) -> Path:
        """The edge's data folder."""
        return self.disks["edge"].folder

    @property
    def log(self) -> Path:
        """What the producer has made."""
        return self.folder / "made.log"

    @property
    def victims(self) -> tuple[str, ...]:
        """What may be killed; the equipment's own broker stands for a wire and is left alone."""
        return tuple(name for name in self.parts if name != "equipment")


@contextlib.contextmanager
def make_site(
    folder: Path, store: Store, broker: Broker, *, mount: bool, on_end: Callable[[str, int, str], None]
) -> Iterator[Site]:
    """The site in `folder`, which must not exist; its disks are gone when this is left."""
    folder.mkdir(parents=True)
    parts: dict[str, Part | Child] = {}

    def pids(part: str) -> Callable[[], list[int]]:
        return lambda: parts[part].pids if part in parts else []

    with contextlib.ExitStack() as stack:
        disks: dict[str, Disk] = {}
        sizes = {"edge": EDGE_DISK_MB, "hub": HUB_DISK_MB} | ({"influx": INFLUX_DISK_MB} if store == "influx" else {})
        for part, size in sizes.items():
            disks[part] = stack.enter_context(small_disk(folder / part, size, pids(part), mount=mount))

        def program(name: str, *command: str) -> Part:
            disk = disks.get(name)
            log = folder / f"{name}.log"
            limit = disk.limit if disk else lambda: None
            return Part(name, [*command], log, on_start=limit, on_end=on_end)

        parts["equipment"], equipment_url = _equipment(folder, program)
        lines = [f'data = "{disks["hub"].folder}"', 'kit_models = "models"']
        if store == "influx":
            database = influx.made(disks["influx"].folder)
            conf = str(database.folder / "influxdb.conf")
            parts["influx"] = program("influx", influx.program(), "-config", conf)
            lines.append(f'store = "influx+{database.url}/{DATABASE}"')
        lines.append(f"[http]\nport = {free_port()}")
        port = free_port()
        setting_up = stack.enter_context(contextlib.ExitStack())
        if broker == "mosquitto":
            # With its dynamic-security plugin, as an administrator would set it up; edges are enrolled while it runs.
            secret = secrets.token_urlsafe(24)
            _secret(folder / "mosquitto.password", secret)
            server = setting_up.enter_context(mosquitto_with_plugin(folder, admin=secret))
            parts["broker"], port = program("broker", *server.command), server.port
            lines.append(f'[broker]\nkind = "mosquitto"\nurl = "mqtt://127.0.0.1:{port}"\nuser = "admin"')
            lines.append('password_file = "mosquitto.password"')
        else:
            lines.append(f"[broker]\nport = {port}")
            parts["broker"] = Child(disks["hub"].folder / "broker" / "broker.pid", "nats-server")
        (folder / "hub.toml").write_text("\n".join(lines) + "\n", "utf-8")
        settings = _catalog(folder)
        setting_up.close()
        _edge_settings(folder, disks["edge"].folder, equipment_url)
        producer = python("-m", "tests.chaos.producer", equipment_url, str(folder / "made.log"))
        hub = python("-m", "hub.cli", "run", str(folder / "hub.toml"), "--exit-with-parent")
        edge = python("-m", "edge_agent.cli", "run", str(folder / "edge.toml"), "--exit-with-parent")
        parts["hub"] = program("hub", *hub)
        parts["edge"] = program("edge", *edge)
        parts["producer"] = program("producer", *producer)
        yield Site(folder, settings, store, broker, port, parts, disks)


def _equipment(folder: Path, program: Callable[..., Part]) -> tuple[Part, str]:
    """The broker that the equipment publishes to; it stands for the wire between equipment and edge."""
    port = free_port()
    conf = folder / "equipment.conf"
    conf.write_text(
        f'server_name: equipment\nlisten: "127.0.0.1:-1"\nmqtt {{ listen: "127.0.0.1:{port}" }}\n'
        f'jetstream {{ store_dir: "{(folder / "equipment").as_posix()}" }}\n',
        "utf-8",
    )
    return program("equipment", nats_server(), "-c", str(conf)), f"mqtt://127.0.0.1:{port}"


def _catalog(folder: Path) -> HubSettings:
    """The kit model and the hub's catalog."""
    models = folder / "models"
    models.mkdir()
    (models / f"{MODEL}.yaml").write_text(yaml.safe_dump(model()), "utf-8")
    settings = load_settings(folder / "hub.toml")
    name = Label(en="Chaos", zh="混沌", ru="Хаос")
    with open_hub(settings) as hub:
        hub.catalog.add_workshop(WORKSHOP, name=name, city=name, zone="UTC")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        failed = hub_command(["edge", "add", str(folder / "hub.toml"), EDGE, "--workshop", WORKSHOP, "--password-only"])
    if failed:
        raise RuntimeError("the edge could not be added: epip-hub says why on standard error")
    _secret(folder / "edge.password", said.getvalue().strip())
    with open_hub(settings) as hub:
        hub.catalog.add_kit(KIT, workshop=WORKSHOP, model=MODEL, edge=EDGE)
    return settings


def _edge_settings(folder: Path, data: Path, equipment_url: str) -> None:
    """All but the address of the hub, which `point_edge` fills in."""
    (folder / "edge.toml.part").write_text(
        f'edge = "{EDGE}"\ndata = "{data}"\n'
        f'[hub]\nurl = "mqtt://127.0.0.1:PORT"\nuser = "edge-{EDGE}"\npassword_file = "edge.password"\n'
        f"[spool]\nlimit_mb = {SPOOL_MB}\n"
        f'[[kits]]\nid = "{KIT}"\nmodel = "models/{MODEL}.yaml"\n'
        f'[kits.connections.cell]\nurl = "{equipment_url}"\nprefix = "{PREFIX}"\n',
        "utf-8",
    )


def point_edge(site: Site, port: int) -> None:
    """Let the edge reach its broker through this port."""
    text = (site.folder / "edge.toml.part").read_text("utf-8")
    (site.folder / "edge.toml").write_text(text.replace("PORT", str(port)), "utf-8")


def _secret(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text + "\n", "utf-8")
