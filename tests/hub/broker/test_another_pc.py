"""Whoever follows the paper of the edge on another PC to the letter sees data of a kit there arrive over TLS.

The PCs are two network namespaces with a cable between them. Where this machine may not make one, the other PC is this
one and the hub listens on a second loopback address: all is the same but the cable.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import free_port
from tests.docs.papers import FENCE, read, section

PAPER = read("how-to/edge-on-another-pc.md")
PATIENCE_S = 90
PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class OtherPc:
    """Where the hub is reached, and what must stand before a command for it to run on the other PC."""

    hub_address: str
    prefix: tuple[str, ...]


@pytest.fixture
def other_pc() -> Iterator[OtherPc]:
    name = f"epip-{secrets.token_hex(4)}"
    cable = f"ep{secrets.token_hex(4)}"
    # From the range for measurements between networks, which no real network uses.
    network = f"198.18.{secrets.randbelow(256)}."
    block = secrets.randbelow(64) * 4
    here, there = f"{network}{block + 1}", f"{network}{block + 2}"
    steps = (
        f"netns add {name}",
        f"link add {cable}h type veth peer name {cable}e netns {name}",
        f"addr add {here}/30 dev {cable}h",
        f"link set {cable}h up",
        f"-n {name} addr add {there}/30 dev {cable}e",
        f"-n {name} link set {cable}e up",
        f"-n {name} link set lo up",
        f"netns exec {name} true",
    )
    try:
        try:
            for step in steps:
                subprocess.run(["ip", *step.split()], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no network namespace on this machine ({error}): a second loopback address stands for the cable")
            yield OtherPc("127.0.0.2", ())
        else:
            yield OtherPc(here, ("ip", "netns", "exec", name))
    finally:
        # The cable goes with the namespace; both are left over only where a step failed.
        for command in (["netns", "delete", name], ["link", "delete", f"{cable}h"]):
            subprocess.run(["ip", *command], check=False, capture_output=True)


def snippets(heading: str, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(section(PAPER, heading)) if found == language]


def follow(folder: Path, *commands: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*prefix, "bash", "-e", "-c", "".join(commands)],
        cwd=folder,
        env={**os.environ, "PATH": PROGRAMS},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@asynccontextmanager
async def running(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> AsyncIterator[Path]:
    """A program in the background until the end of the context; gives its log."""
    log = folder / f"{arguments[1].partition('.')[0]}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, *arguments, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            yield log
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(10):
                await process.wait()


async def signed_in(http: httpx.AsyncClient, password: str) -> None:
    while True:
        try:
            if (await http.get("/healthz")).status_code == 200:
                break
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    csrf = (await http.get("/api/v1/session")).json()["csrf"]
    person = {"name": "admin", "password": password}
    (await http.post("/api/v1/session", json=person, headers={"X-CSRF-Token": csrf})).raise_for_status()


async def test_data_of_a_kit_on_another_pc_arrives_until_its_edge_is_revoked(other_pc: OtherPc, tmp_path: Path) -> None:
    hub, edge = tmp_path / "hub", tmp_path / "edge"
    hub.mkdir()
    edge.mkdir()
    ports = {name: free_port() for name in ("http", "mqtt", "plc")}

    # The hub's machine.
    (settings,) = snippets("The hub's settings", "toml")
    settings = settings.replace('"0.0.0.0"', f'"{other_pc.hub_address}"').replace("8883", str(ports["mqtt"]))
    (hub / "hub.toml").write_text(f"{settings}\n[http]\nport = {ports['http']}\n")
    (certificate,) = snippets("A certificate for the hub", "sh")
    names = "DNS:hub.example,IP:192.0.2.7"
    assert names in certificate
    follow(hub, certificate.replace(names, f"IP:{other_pc.hub_address}"))
    said = follow(hub, *snippets("The hub's settings", "sh"))
    assert said.stdout == "hub.toml: no faults\n"
    password = said.stderr.split()[-1]
    admin = follow(hub, "epip-hub user add hub.toml admin --role administrator").stdout.strip()

    # The other PC.
    (kits,) = snippets("On the edge's PC", "toml")
    written = (hub / "edge.toml").read_text()
    assert password not in written
    (edge / "edge.toml").write_text(written + kits.replace("4840", str(ports["plc"])))
    (edge / "edge.password").write_text(password)
    (edge / "edge.password").chmod(0o600)
    (edge / "hub-ca.pem").write_bytes((hub / "hub-ca.pem").read_bytes())
    said = follow(edge, *snippets("On the edge's PC", "sh"), prefix=other_pc.prefix)
    assert "no fault" in said.stdout

    plc = ("-m", "simulators.cli", "plc-line", "--port", str(ports["plc"]))
    async with (
        running(hub, "-m", "hub.cli", "run", "hub.toml"),
        running(edge, *plc, prefix=other_pc.prefix),
        running(edge, "-m", "edge_agent.cli", "run", "edge.toml", prefix=other_pc.prefix) as edge_log,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['http']}", timeout=PATIENCE_S) as http,
        asyncio.timeout(PATIENCE_S),
    ):
        await signed_in(http, admin)
        values: dict[str, Any] = {}
        while "line.state" not in values:
            values = (await http.get("/api/v1/kits/plc-1/latest")).json().get("values", {})
            await asyncio.sleep(0.1)

        (revoke,) = re.findall(r"^    (epip-hub edge revoke .*)$", PAPER, re.MULTILINE)
        await asyncio.to_thread(follow, hub, revoke)
        while "Not authorized" not in edge_log.read_text():  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.1)
        health: dict[str, Any] = {}
        while not health.get("refusals", {}).get("sign_ins"):
            health = (await http.get("/api/v1/health")).json()["line"]["broker"]
            await asyncio.sleep(0.1)
