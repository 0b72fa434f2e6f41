"""Every route of the hub says who may call it, and keeps to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute

from hub.accounts.access import AccessRule, OpenRule
from hub.accounts.person import STAFF, Role
from hub.accounts.service import ABSOLUTE_NS
from hub.app import ROUTERS, create_app
from hub.settings import HubSettings
from tests.hub.conftest import HERE, NS, Browser, HandClock, IdleLine

Open = Callable[[], Awaitable[Browser]]
SignedIn = Callable[[Role], Awaitable[Browser]]
HTML = {"Accept": "text/html,application/xhtml+xml"}


def rules(dependant: Dependant) -> Iterator[AccessRule]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, AccessRule):
            yield inner.call
        yield from rules(inner)


def routes() -> list[BaseRoute]:
    return [route for router in ROUTERS for route in router.routes]


def rule_of(route: BaseRoute) -> AccessRule | None:
    assert isinstance(route, APIRoute | APIWebSocketRoute), f"{route}: a mount, which no rule can guard"
    found = list(rules(route.dependant))
    assert len(found) <= 1, f"{route.path}: two rules"
    return found[0] if found else None


def name(route: Any) -> str:
    return f"{','.join(sorted(getattr(route, 'methods', None) or ['WS']))} {route.path}"


def address(route: Any) -> str:
    path: str = route.path
    for parameter in route.param_convertors:
        path = path.replace("{" + parameter + "}", "x")
    return path


async def knock(app: FastAPI, path: str, cookie: str | None = None, **headers: str) -> int:
    """Opens a WebSocket; the status it is refused with, 101 where it is accepted, 403 where it is closed at once."""
    sent: asyncio.Queue[Any] = asyncio.Queue()
    raw = {"host": "127.0.0.1", **headers} | ({"cookie": f"epip_session={cookie}"} if cookie else {})
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in raw.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    incoming = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "websocket.disconnect", "code": 1001}

    running = asyncio.create_task(app(scope, receive, sent.put))
    try:
        async with asyncio.timeout(10):
            first = await sent.get()
    finally:
        running.cancel()
        await asyncio.wait([running])
    if first["type"] == "websocket.http.response.start":
        return int(first["status"])
    return 101 if first["type"] == "websocket.accept" else 403


@pytest.mark.parametrize("route", routes(), ids=name)
def test_every_route_says_who_may_call_it(route: BaseRoute) -> None:
    assert rule_of(route) is not None


async def test_the_app_serves_no_route_beside_those(browser: Open, app: FastAPI) -> None:
    """Generated documentation pages would be open to anyone and load scripts from foreign hosts."""
    assert len(app.routes) == len(ROUTERS)
    opened = await browser()
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await opened.http.get(path)).status_code == 404


def test_only_what_must_be_is_open_without_looking_at_the_caller() -> None:
    unlooked = {getattr(route, "path", "") for route in routes() if isinstance(rule_of(route), OpenRule)}
    assert unlooked == {"/healthz", "/static/{name}"}


def test_only_signing_in_and_out_is_open_to_nobody() -> None:
    anyone = {
        getattr(route, "path", "")
        for route in routes()
        if (rule := rule_of(route)) is not None and rule.roles is None and not isinstance(rule, OpenRule)
    }
    assert anyone == {"/api/v1/session", "/sign-in", "/sign-out"}


async def test_nobody_gets_401_from_the_api_and_the_sign_in_page_from_a_page(browser: Open, app: FastAPI) -> None:
    opened = await browser()
    await opened.look()
    asked = 0
    for route in routes():
        rule = rule_of(route)
        if rule is None or rule.roles is None:
            continue
        asked += 1
        path = address(route)
        if isinstance(route, APIWebSocketRoute):
            assert await knock(app, path) == 401, path
            continue
        assert isinstance(route, APIRoute)
        for method in sorted(route.methods - {"HEAD"}):
            answer = await opened.send(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["content-type"] == "application/problem+json"
            answer = await opened.send(method, path, headers=HTML)
            if path.startswith("/api/"):
                assert answer.status_code == 401, path
            else:
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/sign-in"), path
    assert asked > 5


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_that_may_not_gets_403(signed_in: SignedIn, app: FastAPI, role: Role) -> None:
    opened = await signed_in(role)
    for route in routes():
        rule = rule_of(route)
        if rule is None or rule.roles is None or role in rule.roles:
            continue
        path = address(route)
        if isinstance(route, APIWebSocketRoute):
            assert await knock(app, path, opened.cookie) == 403, path
            continue
        assert isinstance(route, APIRoute)
        for method in sorted(route.methods - {"HEAD"}):
            assert (await opened.send(method, path)).status_code == 403, path
            answer = await opened.send(method, path, headers=HTML)
            assert answer.status_code == 403, path


async def test_a_trainee_sees_no_health_details_and_a_technician_does(signed_in: SignedIn) -> None:
    assert (await (await signed_in(Role.TRAINEE)).http.get("/api/v1/health")).json()["code"] == "not_allowed"
    assert (await (await signed_in(Role.INSTRUCTOR)).http.get("/api/v1/health")).status_code == 403
    answer = await (await signed_in(Role.TECHNICIAN)).http.get("/api/v1/health")
    assert answer.status_code == 200
    assert answer.json()["line"] == {"quarantine": {"checksum": 2}}


async def test_a_page_of_another_site_cannot_open_a_live_connection(signed_in: SignedIn, app: FastAPI) -> None:
    """A browser sends the session cookie with a WebSocket to anywhere: the origin is what tells ours from others'."""
    opened = await signed_in(Role.ADMINISTRATOR)
    for path in [address(route) for route in routes() if isinstance(route, APIWebSocketRoute)]:
        for foreign in ("http://evil.example", "http://127.0.0.1:9", "null"):
            assert await knock(app, path, opened.cookie, origin=foreign) == 403
        assert await knock(app, path, opened.cookie, host="evil.example") == 421


async def test_a_session_that_has_ended_opens_no_live_connection(
    signed_in: SignedIn, app: FastAPI, clock: HandClock
) -> None:
    opened = await signed_in(Role.INSTRUCTOR)
    clock.forward(ABSOLUTE_NS / NS)
    for route in routes():
        if isinstance(route, APIWebSocketRoute):
            assert await knock(app, address(route), opened.cookie) == 401


async def test_who_is_sent_to_sign_in_comes_back_to_where_they_wanted_to_go(browser: Open) -> None:
    opened = await browser()
    answer = await opened.http.get("/kits/x?trend=a%26b", headers=HTML)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=/kits/x%3Ftrend%3Da%2526b"
    answer = await opened.http.get("/kits/x", headers={**HTML, "HX-Request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/sign-in"


async def test_before_the_hub_is_ready_everything_but_health_says_so(settings: HubSettings, line: IdleLine) -> None:
    app = create_app(settings, make_line=lambda _parts: line)  # type: ignore[arg-type, return-value]
    # Without its lifespan the app never starts what is behind it.
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        answer = await http.get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"alive": True, "ready": False})
        answer = await http.get("/", headers=HTML)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "The hub is starting" in answer.text
        assert "Центральный сервер запускается" in answer.text
        answer = await http.get("/api/v1/workshops")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert await knock(app, "/live/kits/x") == 503


def test_staff_is_everybody_but_trainees() -> None:
    assert set(Role) - STAFF == {Role.TRAINEE}
