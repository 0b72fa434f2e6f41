"""The hub as a process: it answers from the first moment, says when it is ready, and leaves when it is told to."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from hub.accounts.person import Role
from hub.accounts.service import NewPerson
from hub.database import open_database
from hub.settings import load_settings
from hub.setup import open_hub
from lab_contract.kit import Label
from tests.small_kit import MODEL

pytestmark = pytest.mark.real

STOP_S = 5
START_S = 30


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "hub.toml"
    file.write_text(f'kit_models = "kits"\n[http]\nport = 0\n[broker]\nport = {free_port()}\n')
    (tmp_path / "kits").mkdir()
    return file


class Running:
    """A hub process and where it answers."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    async def healthz(self) -> tuple[int, dict[str, bool]]:
        async with httpx.AsyncClient(base_url=self.address, timeout=START_S) as http:
            answer = await http.get("/healthz")
            return answer.status_code, answer.json()

    async def ready(self) -> None:
        async with asyncio.timeout(START_S):
            while (await self.healthz())[0] != 200:  # noqa: ASYNC110 - another process has no event of ours
                await asyncio.sleep(0.05)

    async def ended(self, seconds: float = STOP_S) -> tuple[int, str]:
        """Exit code and what was written to stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(seconds):
            text = (await self.process.stderr.read()).decode()
            return await self.process.wait(), text


@asynccontextmanager
async def hub(settings_file: Path) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub.cli",
        "run",
        str(settings_file),
        "--exit-with-parent",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            address = (await process.stdout.readline()).decode().strip()
        yield Running(process, address)
    finally:
        # In order first: a hub that is killed leaves its broker running.
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise


async def test_health_is_answered_before_the_database_can_be_opened(settings_file: Path) -> None:
    """Whoever supervises the hub sees a live process, not a refused connection, however long the start takes."""
    file = settings_file.parent / "hub-data" / "hub.sqlite"
    with open_database(file):
        pass
    with closing(sqlite3.connect(file, isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        async with hub(settings_file) as running:
            assert await running.healthz() == (503, {"alive": True, "ready": False})
            async with httpx.AsyncClient(base_url=running.address) as http:
                page = await http.get("/", headers={"Accept": "text/html"})
            assert page.status_code == 503
            assert "The hub is starting" in page.text
            busy.execute("ROLLBACK")
            await running.ready()
            assert await running.healthz() == (200, {"alive": True, "ready": True})


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda process: process.send_signal(signal.SIGINT), id="Ctrl-C"),
        pytest.param(lambda process: process.stdin.close(), id="the parent leaves"),
    ],
)
async def test_the_hub_leaves_within_five_seconds_though_a_page_is_watching(
    settings_file: Path, stop: Callable[[asyncio.subprocess.Process], None]
) -> None:
    with open_hub(load_settings(settings_file)) as beside:
        label = Label(en="Tashkent", zh="塔什干", ru="Ташкент")
        beside.catalog.add_workshop("tas", name=label, city=label, zone="Asia/Tashkent")
        (sign_in,) = beside.accounts.issue_sign_ins([NewPerson("teacher", "Teacher", Role.TECHNICIAN)])
    async with hub(settings_file) as running:
        await running.ready()
        async with httpx.AsyncClient(base_url=running.address, timeout=START_S) as http:
            csrf = (await http.get("/api/v1/session")).json()["csrf"]
            body = {"name": "teacher", "password": sign_in.password}
            signed_in = await http.post("/api/v1/session", json=body, headers={"X-CSRF-Token": csrf})
            assert signed_in.status_code == 200
            health = (await http.get("/api/v1/health")).json()
            assert health["line"]["ok"] is True
            assert health["line"]["quarantine"] == {}
            cookie = f"epip_session={http.cookies['epip_session']}"
        live = running.address.replace("http:", "ws:") + "/live/workshops/tas"
        async with connect(live, additional_headers={"Cookie": cookie}, origin=running.address) as watching:
            assert '"cards"' in await watching.recv()
            stop(running.process)
            code, text = await running.ended()
            await watching.wait_closed()
        assert watching.close_code in (1001, 1012)
        assert code == 0, text
        assert "Traceback" not in text
        with pytest.raises(httpx.ConnectError):
            await running.healthz()


async def test_a_hub_that_cannot_start_says_why_and_ends(settings_file: Path) -> None:
    (settings_file.parent / "kits" / "a.yaml").write_text(MODEL.replace("kind: enum", "kind: number"), "utf-8")
    async with hub(settings_file) as running:
        code, text = await running.ended(START_S)
    assert code == 1
    assert f"the hub cannot run: {settings_file.parent / 'kits' / 'a.yaml'}: channels[0].kind: " in text
    assert "Traceback" not in text


async def test_a_port_that_is_taken_is_named(settings_file: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings_file.write_text(f"[http]\nport = {port}\n")  # noqa: ASYNC240 - nothing else runs yet
        async with hub(settings_file) as running:
            code, text = await running.ended(START_S)
    assert code == 1
    assert text.startswith(f"http.port: expected a free port on 127.0.0.1, found {port}: ")
