"""Somebody who follows the tutorial of the first kit to the letter ends with a kit on a page that is ready."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import free_port
from tests.docs.papers import ROOT, Snippet, snippets

PAPER = ROOT / "docs" / "tutorials" / "first-kit.md"
PATIENCE_S = 60

pytestmark = pytest.mark.timeout(150)  # nine programs start one after the other, each with all its imports


def of_paper(*languages: str) -> list[Snippet]:
    return [snippet for snippet in snippets(*languages) if snippet.paper == PAPER]


@dataclass(frozen=True)
class Followed:
    """The reader's folder with every file of the paper, after every command of the paper, and what these said."""

    folder: Path
    address: str
    said: str


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    folder = tmp_path_factory.mktemp("first-kit")
    ports = {"8000": str(free_port()), "1883": str(free_port())}
    for snippet in of_paper("yaml", "toml", "python"):
        assert snippet.file is not None, snippet
        text = snippet.text
        for port, free in ports.items():
            text = text.replace(port, free)
        (folder / snippet.file).parent.mkdir(exist_ok=True)
        (folder / snippet.file).write_text(text, "utf-8")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", "".join(snippet.text for snippet in of_paper("sh"))],
        cwd=folder,
        env={**os.environ, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return Followed(folder, f"http://127.0.0.1:{ports['8000']}", done.stdout)


def test_the_checks_say_what_the_tutorial_promises(reader: Followed) -> None:
    promised = re.findall(r"`(edge .+: no fault)`", PAPER.read_text("utf-8"))
    assert promised
    assert reader.said.splitlines() == ["hub.toml: no faults", *(f"edge.toml: {line}" for line in promised)]


@asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncIterator[None]:
    """A program of the paper in the background, until the end of the context; its output goes to a file."""
    with (folder / f"{arguments[-1]}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(10):
                await process.wait()


async def signed_in(http: httpx.AsyncClient, folder: Path) -> None:
    csrf = (await http.get("/api/v1/session")).json()["csrf"]
    person = {"name": "admin", "password": (folder / "admin.password").read_text().strip()}
    (await http.post("/api/v1/session", json=person, headers={"X-CSRF-Token": csrf})).raise_for_status()


@pytest.mark.real
async def test_whoever_follows_the_tutorial_sees_a_kit_that_is_ready(reader: Followed) -> None:
    folder = reader.folder
    async with (
        running(folder, "-m", "hub.cli", "run", "hub.toml"),
        running(folder, "-m", "edge_agent.cli", "run", "edge.toml"),
        running(folder, "thermometer.py"),
        httpx.AsyncClient(base_url=reader.address, timeout=PATIENCE_S) as http,
        asyncio.timeout(PATIENCE_S),
    ):
        while not await is_ready(http):  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.1)
        await signed_in(http, folder)
        latest: dict[str, Any] = {}
        while latest.get("kit", {}).get("state") != "ready":
            latest = (await http.get("/api/v1/kits/thermometer-1/latest")).json()
            await asyncio.sleep(0.1)
        assert latest["values"]["sensor.state"]["text"] == "measuring"
        assert 14 <= latest["values"]["sensor.temperature"]["value"] <= 30


async def is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/healthz")).status_code == 200
    except httpx.TransportError:
        return False
