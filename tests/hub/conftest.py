"""A hub in this process: real database, real app, a clock that is set by hand, and people who sign in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from hub.accounts import passwords
from hub.accounts.person import Person, Role
from hub.accounts.service import Accounts, NewPerson
from hub.app import create_app
from hub.catalog import kit_models
from hub.catalog.kit_models import load_kit_models
from hub.catalog.service import Catalog
from hub.database import Database, open_database
from hub.parts import HubParts
from hub.settings import HubSettings, parse_settings
from lab_contract.kit import builtin_kit_models

NS = 1_000_000_000
HERE = "http://127.0.0.1"
PASSWORD = "a good long password"


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_760_000_000 * NS

    def time_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * NS)


class IdleLine:
    """Stands in for broker, store and ingest where a test is about people: those have tests of their own."""

    store_trouble = ""

    def __init__(self) -> None:
        self.reloads = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def reload_accounts(self) -> None:
        self.reloads += 1

    def health(self) -> dict[str, Any]:
        return {"quarantine": {"checksum": 2}}


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Returns as soon as the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.01)


class Browser:
    """A browser of one person: cookies, and the CSRF token with each unsafe request."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.csrf = ""

    async def look(self) -> dict[str, Any]:
        answer = await self.http.get("/api/v1/session")
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        self.csrf = body["csrf"]
        return body

    async def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"X-CSRF-Token": self.csrf} | content.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **content)

    async def sign_in(self, name: str, password: str) -> httpx.Response:
        if not self.csrf:
            await self.look()
        answer = await self.send("POST", "/api/v1/session", json={"name": name, "password": password})
        if answer.status_code == 200:
            self.csrf = answer.json()["csrf"]
        return answer

    @property
    def cookie(self) -> str | None:
        return self.http.cookies.get("epip_session")


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap password hashes, and kit models parsed once, unless a test asks for `real_hashes`."""
    monkeypatch.setattr(kit_models, "builtin_kit_models", lambda: dict(_builtin()))
    if "real_hashes" not in request.fixturenames:
        monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        monkeypatch.setattr(passwords, "_nobody_hash", None)


_builtin = cache(builtin_kit_models)


@pytest.fixture
def real_hashes() -> None:
    """Password hashes as in use."""


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    return parse_settings("", tmp_path / "hub.toml")


@pytest.fixture
def database(settings: HubSettings) -> Iterator[Database]:
    with open_database(settings.database_file) as database:
        yield database


@pytest.fixture
def accounts(database: Database, clock: HandClock) -> Accounts:
    return Accounts(database, clock)


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database, load_kit_models(None))


@pytest.fixture
def line() -> IdleLine:
    return IdleLine()


@pytest.fixture
async def app(settings: HubSettings, clock: HandClock, line: IdleLine) -> AsyncIterator[FastAPI]:
    """A hub that is ready."""
    app = create_app(settings, clock, make_line=lambda _parts: line)  # type: ignore[arg-type, return-value]
    async with app.router.lifespan_context(app):
        parts: HubParts = app.state.parts
        await until(lambda: parts.ready or parts.fault is not None)
        assert parts.fault is None
        yield app


@pytest.fixture
def parts(app: FastAPI) -> HubParts:
    parts: HubParts = app.state.parts
    return parts


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[Callable[[], Awaitable[Browser]]]:
    """Opens browsers that nobody has signed in with."""
    async with AsyncExitStack() as stack:

        async def open_browser() -> Browser:
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
            http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=HERE))
            return Browser(http)

        yield open_browser


@pytest.fixture
def person(parts: HubParts) -> Callable[[Role], Person]:
    """Adds a person with this role, whose name is the role's, and whose password is PASSWORD."""

    def add(role: Role) -> Person:
        return parts.accounts.add_person(NewPerson(role.value, role.value.title(), role), PASSWORD)

    return add


@pytest.fixture
def signed_in(
    browser: Callable[[], Awaitable[Browser]], person: Callable[[Role], Person]
) -> Callable[[Role], Awaitable[Browser]]:
    """A browser with which a new person of this role has signed in."""

    async def sign_in(role: Role) -> Browser:
        opened = await browser()
        answer = await opened.sign_in(person(role).name, PASSWORD)
        assert answer.status_code == 200
        return opened

    return sign_in
