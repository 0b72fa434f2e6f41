"""How long a change of the equipment takes until a browser has it: every part a process of its own, the client ours."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.figures import Figure, figure, percentile
from tests.bench.programs import (
    INSTRUCTOR,
    PLC_KIT,
    RATE_HZ,
    VARIABLES,
    NotReady,
    Site,
    make_site,
    opcua_server,
    plc_kit,
)

WARM_UP_S = 5.0
MEASURE_S = 20.0
EDGE = "bench-1"


def measure() -> list[Figure]:
    """200 OPC UA variables at 10 Hz, as one viewer of their kit sees them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch, "live")
        site = make_site(folder, {EDGE: {PLC_KIT: "counters"}})
        with site.hub() as hub, opcua_server(folder) as server, site.edge(EDGE, plc_kit(server)):
            site.wait_ready(hub)
            delays = asyncio.run(_watch(site))
    return [
        figure("live: OPC UA source time to WebSocket frame, p50", percentile(delays, 0.5), "ms"),
        figure("live: OPC UA source time to WebSocket frame, p99", percentile(delays, 0.99), "ms", "<= 200"),
    ]


async def _watch(site: Site) -> list[float]:
    cookie = await _sign_in(site)
    address = f"{site.address.replace('http', 'ws', 1)}/live/kits/{PLC_KIT}"
    headers = {"Cookie": cookie, "Origin": site.address}
    async with connect(address, additional_headers=headers, compression=None) as websocket:
        return await _delays(websocket)


async def _sign_in(site: Site) -> str:
    """Over HTTP, as a page does; the session's cookie."""
    async with httpx.AsyncClient(base_url=site.address) as browser:
        csrf = (await browser.get("/api/v1/session")).json()["csrf"]
        body = {"name": INSTRUCTOR, "password": site.password}
        answer = await browser.post("/api/v1/session", json=body, headers={"X-CSRF-Token": csrf})
        answer.raise_for_status()
        return f"epip_session={browser.cookies['epip_session']}"


async def _delays(websocket: ClientConnection) -> list[float]:
    """The delay (ms) of each change that reached us in MEASURE_S, after WARM_UP_S with values.

    Of a channel's changes that wait for the same frame only the newest is sent. The others were seen no sooner than it:
    they count with its delay and the periods by which they are older.
    """
    newest: dict[str, float] = {}
    delays: list[float] = []
    begin: float | None = None
    while begin is None or time.monotonic() < begin + MEASURE_S:
        try:
            async with asyncio.timeout(30):
                text = await websocket.recv()
        except TimeoutError:
            raise NotReady("the hub says nothing more") from None
        now_ms = time.time_ns() / 1e6
        message = json.loads(text)
        if message["kind"] != "values":
            continue
        if begin is None:
            begin = time.monotonic() + WARM_UP_S
        for channel, t_ms, value, _text, _quality in message["values"]:
            missed = int(value - newest.get(channel, value - 1)) - 1
            newest[channel] = value
            if time.monotonic() >= begin:
                delays += [now_ms - t_ms + older * 1000 / RATE_HZ for older in range(missed + 1)]
    if len(newest) < VARIABLES:
        raise NotReady(f"expected changes of {VARIABLES} channels, found {len(newest)}")
    return delays
