"""What people and programs get when something is wrong, and how it is packed for a slow link."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import brotli
import pytest
from starlette.responses import StreamingResponse
from starlette.types import Message

from hub.accounts.person import Role
from hub.compression import Compression, accepted_packer
from hub.parts import HubParts
from hub.settings import HubSettings
from hub.setup import open_hub
from lab_contract.kit import Label
from tests.hub.conftest import Browser, IdleLine, until

Open = Callable[[], Awaitable[Browser]]
SignedIn = Callable[[Role], Awaitable[Browser]]
HTML = {"Accept": "text/html"}


async def test_a_person_gets_an_error_as_a_page_in_their_language(signed_in: SignedIn) -> None:
    opened = await signed_in(Role.TRAINEE)
    await opened.send("PUT", "/api/v1/session/profile", json={"language": "ru", "zone": "UTC"})
    answer = await opened.http.get("/nowhere", headers=HTML)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert '<html lang="ru"' in answer.text


async def test_a_program_gets_an_error_as_problem_json(browser: Open) -> None:
    opened = await browser()
    answer = await opened.http.get("/api/v1/nowhere")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not found",
        "status": 404,
        "code": "not_found",
        "detail": "There is nothing at this address.",
    }
    answer = await opened.http.put("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (405, "request_refused")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("br, gzip", "br"),
        ("gzip, br;q=0.5", "br"),
        ("gzip;q=0.8, br;q=0", "gzip"),
        ("gzip;q=0.000", None),
        ("deflate", None),
        ("", None),
        ("*", None),
    ],
)
def test_a_browser_gets_no_coding_that_it_does_not_take(header: str, coding: str | None) -> None:
    found = accepted_packer(header)
    assert (found[0] if found else None) == coding


async def test_pages_are_packed_and_small_answers_are_not(browser: Open) -> None:
    opened = await browser()
    plain = await opened.http.get("/sign-in", headers={**HTML, "Accept-Encoding": "identity"})
    async with opened.http.stream("GET", "/sign-in", headers={**HTML, "Accept-Encoding": "br"}) as answer:
        packed = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "br"
    assert "Accept-Encoding" in answer.headers["vary"]
    assert int(answer.headers.get("content-length", len(packed))) == len(packed)
    assert len(packed) < len(plain.content) / 2
    assert len(brotli.decompress(packed)) == pytest.approx(len(plain.content), abs=200)
    small = await opened.http.get("/healthz", headers={"Accept-Encoding": "br"})
    assert "content-encoding" not in small.headers


@pytest.mark.parametrize(("coding", "unpack"), [("br", brotli.decompress), ("gzip", gzip.decompress)])
async def test_a_stream_is_packed_piece_by_piece_and_never_held_back(
    coding: str, unpack: Callable[[bytes], bytes]
) -> None:
    """A long CSV starts to arrive at once, and the hub never holds it whole."""
    rows = [f"2026-01-01T00:00:0{n}Z,line.state,{n}\n" * 40 for n in range(3)]
    sent: list[Message] = []
    arrived_before: list[int] = []

    async def pieces() -> AsyncIterator[str]:
        for row in rows:
            arrived_before.append(sum(1 for message in sent if message.get("body")))
            yield row

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    stream = StreamingResponse(pieces(), media_type="text/csv")
    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", coding.encode())], "asgi": {}}
    await Compression(stream)(scope, receive, send)
    assert (b"content-encoding", coding.encode()) in sent[0]["headers"]
    assert arrived_before == [0, 1, 2]
    assert unpack(b"".join(message["body"] for message in sent[1:])).decode() == "".join(rows)


async def test_a_catalog_that_cannot_be_taken_over_is_shown_and_the_hub_goes_on(
    signed_in: SignedIn, parts: HubParts, settings: HubSettings, line: IdleLine
) -> None:
    opened = await signed_in(Role.TECHNICIAN)
    label = Label(en="Tashkent", zh="塔什干", ru="Ташкент")
    with open_hub(settings) as beside:
        beside.catalog.models = {**beside.catalog.models, "toaster": beside.catalog.models["plc_line"]}
        beside.catalog.add_workshop("tas", name=label, city=label, zone="Asia/Tashkent")
        beside.catalog.add_edge("tas-1", workshop="tas")
        beside.catalog.add_kit("kit-1", workshop="tas", model="toaster", edge="tas-1")
    await until(lambda: parts.catalog_fault is not None)
    health = (await opened.http.get("/api/v1/health")).json()
    assert health["ready"] is True
    assert health["catalog_fault"].startswith("catalog: kit kit-1: model: expected one of ")
    assert parts.ready
