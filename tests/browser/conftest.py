"""A hub with pages in this process, and a browser that may talk to nobody else.

`open_page` gives pages of signed-in people; `check_axe` reports what axe finds. Requests to foreign hosts are blocked,
and they, errors of scripts and refusals of the content security policy fail the test that caused them.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, BrowserContext, Page, Route, async_playwright

from hub.accounts.person import Role
from hub.accounts.service import NewPerson
from hub.app import create_app
from hub.clock import SystemClock
from hub.settings import HubSettings, parse_settings
from hub.setup import open_hub
from hub.web.build_assets import build
from lab_contract.kit import Label
from tests.browser.feeder import Feeder

HERE = Path(__file__).parent
AXE = HERE.parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOCALES = {"en": "en-GB", "zh": "zh-CN", "ru": "ru-RU"}
EDGE = "tashkent-1"
KITS = {"tas-plc-1": "plc_line", "tas-robot-1": "robot_cell", "tas-bci-1": "bci_platform"}

Theme = Literal["light", "dark"]


@dataclass
class RunningHub:
    """A hub that serves: its address, the passwords of its people, and the feeder of its three kits."""

    address: str
    passwords: dict[Role, str]
    feeder: Feeder
    app: FastAPI
    cookies: dict[Role, str] = field(default_factory=dict)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Returns as soon as the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.02)


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals belong to pytest."""


@asynccontextmanager
async def serving(app: FastAPI, port: int) -> AsyncIterator[str]:
    """Serves an app on loopback for as long as the context lasts; its address."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or task.done())
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.parts.stopping.set()
        server.should_exit = True
        await task


def set_up(settings: HubSettings) -> dict[Role, str]:
    """A workshop with three kits and a person of each role; their passwords."""
    with open_hub(settings) as hub:
        hub.catalog.add_workshop(
            "tashkent",
            name=Label(en="Tashkent workshop", zh="塔什干工坊", ru="Ташкентская мастерская"),
            city=Label(en="Tashkent", zh="塔什干", ru="Ташкент"),
            zone="Asia/Tashkent",
        )
        hub.catalog.add_edge(EDGE, workshop="tashkent")
        for kit, model in KITS.items():
            hub.catalog.add_kit(kit, workshop="tashkent", model=model, edge=EDGE)
        people = [NewPerson(role.value, role.value.title(), role, zone="Asia/Shanghai") for role in Role]
        issued = hub.accounts.issue_sign_ins(people)
        return {one.person.role: one.password or "" for one in issued}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningHub]:
    """A whole hub, fed with made-up values of three kits."""
    await asyncio.to_thread(build)
    folder = tmp_path_factory.mktemp("hub")
    settings = parse_settings(f"[broker]\nport = {free_port()}\n", folder / "hub.toml")
    passwords = await asyncio.to_thread(set_up, settings)
    app, leave = create_app(settings), asyncio.Event()
    async with serving(app, free_port()) as address:
        parts = app.state.parts
        await until(lambda: parts.ready or parts.fault is not None)
        assert parts.fault is None
        feeder = Feeder(parts.line, parts.catalog.kits(), EDGE)
        now = SystemClock().time_ns()
        await feeder.feed(now - 2_000_000_000, now)
        running = asyncio.create_task(feeder.run(now, leave))
        yield RunningHub(address, passwords, feeder, app)
        leave.set()
        await running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, or the one on the PATH."""
    program = shutil.which("/usr/bin/chromium") or shutil.which("chromium")
    assert program, "no Chromium: expected /usr/bin/chromium or `chromium` on the PATH (make test installs it)"
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        await chromium.close()


@dataclass
class Complaints:
    """What went wrong in the pages of one test."""

    address: str
    expected: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    async def guard(self, route: Route) -> None:
        """Lets requests to the hub through and no others."""
        if urlsplit(route.request.url).netloc == urlsplit(self.address).netloc:
            await route.continue_()
        else:
            self.found.append(f"request to a foreign host: {route.request.url}")
            await route.abort()

    def watch(self, page: Page) -> None:
        """Notes errors of a page's scripts, its console and its requests."""
        page.on("pageerror", lambda error: self.found.append(f"script: {error}"))
        page.on(
            "console",
            lambda message: self.found.append(f"console: {message.text}") if message.type == "error" else None,
        )
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure or ""))

    def _failed(self, url: str, reason: str) -> None:
        # A page that is left cuts its own open questions.
        if "ERR_ABORTED" not in reason:
            self.found.append(f"request failed: {url}: {reason}")

    def unexpected(self) -> list[str]:
        """The complaints that the test did not say it expects."""
        return [one for one in self.found if not any(part in one for part in self.expected)]


@pytest_asyncio.fixture(loop_scope="session")
async def complaints(hub: RunningHub) -> AsyncIterator[Complaints]:
    """Fails the test whose pages complained; a test adds what it expects to `complaints.expected`."""
    noted = Complaints(hub.address)
    yield noted
    assert noted.unexpected() == []


class OpenPage(Protocol):
    """Opens a page of the hub for a person of this role, None for nobody."""

    def __call__(
        self,
        path: str,
        role: Role | None = Role.INSTRUCTOR,
        *,
        width: int = 1280,
        theme: Theme = "light",
        language: str = "en",
        javascript: bool = True,
        touch: bool = False,
        prepare: Callable[[BrowserContext], Awaitable[None]] | None = None,
    ) -> Awaitable[Page]: ...


async def sign_in(page: Page, hub: RunningHub, role: Role) -> None:
    """Signs in as a person does."""
    await page.goto(f"{hub.address}/sign-in")
    await page.get_by_label("Account name").fill(role.value)
    await page.get_by_label("Password").fill(hub.passwords[role])
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(lambda url: "/sign-in" not in url)


async def _session(hub: RunningHub, browser: Browser, role: Role) -> str:
    """The session cookie of a person of this role; one sign-in each serves all tests, as attempts are limited."""
    if role not in hub.cookies:
        context = await browser.new_context(locale="en-GB")
        await sign_in(await context.new_page(), hub, role)
        hub.cookies[role] = next(c["value"] for c in await context.cookies() if c["name"] == "epip_session")
        await context.close()
    return hub.cookies[role]


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(hub: RunningHub, browser: Browser, complaints: Complaints) -> AsyncIterator[OpenPage]:
    """Pages that are closed after the test."""
    async with AsyncExitStack() as stack:

        async def new_context(**options: Any) -> BrowserContext:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            await context.route("**/*", complaints.guard)
            return context

        async def open_page(
            path: str,
            role: Role | None = Role.INSTRUCTOR,
            *,
            width: int = 1280,
            theme: Theme = "light",
            language: str = "en",
            javascript: bool = True,
            touch: bool = False,
            prepare: Callable[[BrowserContext], Awaitable[None]] | None = None,
        ) -> Page:
            context = await new_context(
                viewport={"width": width, "height": 900},
                color_scheme=theme,
                locale=LOCALES[language],
                java_script_enabled=javascript,
                has_touch=touch,
            )
            cookies = []
            if role is not None:
                cookies.append({"name": "epip_session", "value": await _session(hub, browser, role)})
                person = next(p for p in hub.app.state.parts.accounts.people() if p.role == role)
                if person.language != language:
                    await asyncio.to_thread(
                        hub.app.state.parts.accounts.change_profile, person.id, language=language, zone=person.zone
                    )
            await context.add_cookies([{**cookie, "url": hub.address} for cookie in cookies])
            if prepare is not None:
                await prepare(context)
            page = await context.new_page()
            complaints.watch(page)
            await page.goto(hub.address + path)
            return page

        yield open_page


async def check_axe(page: Page) -> None:
    """Fails with what axe finds against WCAG 2.2 AA."""
    await page.evaluate(AXE.read_text("utf-8"))
    result = await page.evaluate("(rules) => axe.run(document, {runOnly: rules})", AXE_RULES)
    found = [
        f"{violation['id']}: {node['html'][:160]} | {node.get('failureSummary', '')[:300]}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]
    assert found == []


async def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
