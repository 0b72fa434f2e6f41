"""A session holds for the person who signed in, as long as it should, and for nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI

from hub.accounts.models import SessionRow
from hub.accounts.person import Person, Role
from hub.accounts.service import ABSOLUTE_NS, IDLE_NS, Accounts, NewPerson
from hub.database import Database
from hub.errors import NotFound
from hub.parts import HubParts
from tests.hub.conftest import HERE, NS, PASSWORD, Browser, HandClock

Open = Callable[[], Awaitable[Browser]]
SignedIn = Callable[[Role], Awaitable[Browser]]
HOUR = 3600


@pytest.fixture
def teacher(accounts: Accounts) -> Person:
    return accounts.add_person(NewPerson("teacher", "Teacher", Role.INSTRUCTOR), PASSWORD)


def test_a_copy_of_the_database_lets_nobody_in(accounts: Accounts, teacher: Person, database: Database) -> None:
    token = accounts.sign_in("teacher", PASSWORD, address="a").token
    with database.reading() as session:
        row = session.query(SessionRow).one()
    assert token not in (row.token_hash, row.address, row.agent)
    assert accounts.find_session(row.token_hash) is None
    assert accounts.find_session(token) == teacher


@pytest.mark.usefixtures("teacher")
def test_a_session_that_nobody_uses_ends_after_12_hours(accounts: Accounts, clock: HandClock) -> None:
    token = accounts.sign_in("teacher", PASSWORD, address="a").token
    for _ in range(3):
        clock.forward(11 * HOUR)
        assert accounts.find_session(token) is not None
    clock.forward(12 * HOUR)
    assert accounts.find_session(token) is None


@pytest.mark.usefixtures("teacher")
def test_looking_without_touching_does_not_keep_a_session_alive(accounts: Accounts, clock: HandClock) -> None:
    token = accounts.sign_in("teacher", PASSWORD, address="a").token
    clock.forward(11 * HOUR)
    assert accounts.find_session(token, touch=False) is not None
    clock.forward(1 * HOUR)
    assert accounts.find_session(token) is None


@pytest.mark.usefixtures("teacher")
def test_a_session_in_daily_use_ends_after_14_days(accounts: Accounts, clock: HandClock, database: Database) -> None:
    token = accounts.sign_in("teacher", PASSWORD, address="a").token
    for _ in range(ABSOLUTE_NS // IDLE_NS * 12 - 1):
        clock.forward(HOUR)
        assert accounts.find_session(token) is not None
    clock.forward(HOUR)
    assert accounts.find_session(token) is None
    accounts.remove_ended_sessions()
    with database.reading() as session:
        assert session.query(SessionRow).count() == 0


def test_sessions_are_listed_and_ended_one_by_one(accounts: Accounts, teacher: Person, clock: HandClock) -> None:
    here = accounts.sign_in("teacher", PASSWORD, address="here", agent="Browser A").token
    clock.forward(1)
    there = accounts.sign_in("teacher", PASSWORD, address="there", agent="Browser B").token
    listed = accounts.sessions_of(teacher.id, here)
    assert [(s.address, s.agent, s.current) for s in listed] == [
        ("there", "Browser B", False),
        ("here", "Browser A", True),
    ]
    accounts.end_session(teacher.id, listed[0].id)
    assert accounts.find_session(there) is None
    assert accounts.find_session(here) is not None
    with pytest.raises(NotFound):
        accounts.end_session(teacher.id + 1, listed[1].id)
    assert accounts.find_session(here) is not None


async def test_signing_in_gives_a_new_token_that_scripts_cannot_read(
    browser: Open, person: Callable[[Role], Person]
) -> None:
    person(Role.TRAINEE)
    opened = await browser()
    await opened.look()
    first = await opened.sign_in("trainee", PASSWORD)
    cookie = next(c for c in first.headers.get_list("set-cookie") if c.startswith("epip_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    old = opened.cookie
    await opened.sign_in("trainee", PASSWORD)
    assert opened.cookie != old
    stale = await browser()
    stale.http.cookies.set("epip_session", old or "")
    assert (await stale.look())["person"] is None


async def test_a_token_set_by_somebody_else_does_not_become_a_session(
    browser: Open, person: Callable[[Role], Person]
) -> None:
    """Session fixation: the attacker knows the cookie that the victim signs in with."""
    person(Role.TRAINEE)
    victim = await browser()
    victim.http.cookies.set("epip_session", "chosen-by-the-attacker")
    await victim.sign_in("trainee", PASSWORD)
    attacker = await browser()
    attacker.http.cookies.set("epip_session", "chosen-by-the-attacker")
    assert (await attacker.look())["person"] is None


async def test_who_signs_out_is_out(signed_in: SignedIn) -> None:
    opened = await signed_in(Role.TRAINEE)
    token = opened.cookie
    assert (await opened.look())["person"]["role"] == "trainee"
    assert (await opened.send("DELETE", "/api/v1/session")).status_code == 204
    assert opened.cookie is None
    opened.http.cookies.set("epip_session", token or "")
    assert (await opened.look())["person"] is None


async def test_changing_the_password_ends_every_other_session(signed_in: SignedIn, browser: Open) -> None:
    here = await signed_in(Role.TRAINEE)
    there = await browser()
    await there.sign_in("trainee", PASSWORD)
    body = {"current": PASSWORD, "new": "another long password"}
    assert (await here.send("PUT", "/api/v1/session/password", json=body)).status_code == 200
    assert (await here.look())["person"]["name"] == "trainee"
    assert (await there.look())["person"] is None


async def test_language_and_zone_are_the_persons_own(signed_in: SignedIn) -> None:
    opened = await signed_in(Role.TRAINEE)
    answer = await opened.send("PUT", "/api/v1/session/profile", json={"language": "zh", "zone": "Asia/Shanghai"})
    assert answer.status_code == 200
    me = (await opened.look())["person"]
    assert (me["language"], me["zone"]) == ("zh", "Asia/Shanghai")
    answer = await opened.send("PUT", "/api/v1/session/profile", json={"language": "zh", "zone": "China"})
    assert answer.status_code == 422
    assert list(answer.json()["fields"]) == ["zone"]


@pytest.mark.parametrize("csrf", ["", "00", "zz", "00" * 32, None])
async def test_another_site_cannot_act_for_who_is_signed_in(signed_in: SignedIn, csrf: str | None) -> None:
    opened = await signed_in(Role.TRAINEE)
    headers = {} if csrf is None else {"X-CSRF-Token": csrf}
    answer = await opened.http.put("/api/v1/session/profile", json={"language": "zh", "zone": "UTC"}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["code"] == "form_stale"


async def test_a_csrf_token_is_of_one_session_and_masked_anew_each_time(signed_in: SignedIn, browser: Open) -> None:
    opened = await signed_in(Role.TRAINEE)
    before = opened.csrf
    await opened.look()
    assert opened.csrf != before
    other = await browser()
    await other.look()
    opened.csrf = other.csrf
    answer = await opened.send("PUT", "/api/v1/session/profile", json={"language": "zh", "zone": "UTC"})
    assert answer.json()["code"] == "form_stale"
    opened.csrf = before
    answer = await opened.send("PUT", "/api/v1/session/profile", json={"language": "zh", "zone": "UTC"})
    assert answer.status_code == 200


async def test_nobody_can_be_signed_in_under_a_foreign_name_by_another_site(
    browser: Open, person: Callable[[Role], Person]
) -> None:
    """Sign-in CSRF: signing in asks for a token too, and for our own origin."""
    person(Role.TRAINEE)
    opened = await browser()
    body = {"name": "trainee", "password": PASSWORD}
    assert (await opened.http.post("/api/v1/session", json=body)).json()["code"] == "form_stale"
    await opened.look()
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = await opened.send("POST", "/api/v1/session", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    answer = await opened.send("POST", "/api/v1/session", json=body, headers={"Origin": HERE})
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", "", "[::2]:80"])
async def test_a_foreign_name_for_this_address_is_not_served(browser: Open, host: str) -> None:
    """DNS rebinding: a site points its own name at 127.0.0.1 and reads our pages as its own."""
    opened = await browser()
    answer = await opened.http.get("/api/v1/session", headers={"Host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000"])
async def test_every_loopback_name_is_served(browser: Open, host: str) -> None:
    opened = await browser()
    assert (await opened.http.get("/api/v1/session", headers={"Host": host})).status_code == 200


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(browser: Open) -> None:
    opened = await browser()
    await opened.look()
    answer = await opened.send("POST", "/api/v1/session", content=b"x" * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(20):
            yield b"x" * 100_000

    answer = await opened.send("POST", "/api/v1/session", content=pieces())
    assert answer.status_code == 413


async def test_every_answer_carries_the_security_headers(browser: Open, app: FastAPI) -> None:
    opened = await browser()
    wrong = {"Host": "evil.example"}
    answers = [
        await opened.http.get("/healthz"),
        await opened.http.get("/nowhere"),
        await opened.http.get("/api/v1/workshops"),
        await opened.http.get("/healthz", headers=wrong),
        await opened.http.post("/api/v1/session"),
    ]

    @app.get("/broken-on-purpose")
    def broken() -> None:
        raise ZeroDivisionError

    quiet = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=quiet, base_url=HERE) as http:
        answers.append(await http.get("/broken-on-purpose"))
    assert [answer.status_code for answer in answers] == [200, 404, 401, 421, 403, 500]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert answers[-1].json() == {
        "type": "about:blank",
        "title": "Something went wrong here",
        "status": 500,
        "code": "internal",
        "detail": "The hub could not answer. The cause is in its log.",
    }


async def test_the_clock_of_the_hub_decides_when_a_session_of_a_browser_ends(
    signed_in: SignedIn, clock: HandClock, parts: HubParts
) -> None:
    opened = await signed_in(Role.INSTRUCTOR)
    clock.forward(IDLE_NS / NS)
    assert (await opened.http.get("/api/v1/workshops")).status_code == 401
    assert parts.accounts.people()[0].name == "instructor"
