"""What people watch: never stale as live, never another's data, never a slow browser that holds up the line."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import bcrypt
import numpy as np
import pytest
from fastapi import FastAPI

from firmware_bridge.mqtt_link import MqttLink
from hub.accounts.person import Role
from hub.app import create_app
from hub.broker.nats import NatsBroker
from hub.line import Line
from hub.live import routes
from hub.live.edges import EdgeRegistry
from hub.live.feed import QUEUE_FRAMES, LiveFeed
from hub.live.state import KitView
from hub.parts import HubParts
from hub.settings import HubSettings, parse_settings
from hub.store import open_store
from hub.store.base import DecodedBatch, StoreUnavailable
from lab_contract.batch import Gap, GapReason
from lab_contract.kit import Label
from lab_contract.messages import ConnectionStatus, EdgeStatus, KitStatus, dump, load_ack
from tests.hub.conftest import Browser, HandClock, until
from tests.hub.support import events, frame, kits
from tests.small_kit import EDGE, EEG, KIT, MODEL, NOW, SECOND, event_bytes, frame_bytes, gap_bytes, model


def status(online: bool = True, plc: str = "running", amp: str = "running", digest: str | None = None) -> EdgeStatus:
    links = tuple(
        ConnectionStatus(id=name, protocol="x", state=state, since_ns=NOW, detail="" if state == "running" else "why")
        for name, state in (("plc", plc), ("amp", amp))
    )
    kit = KitStatus(id=KIT, model="test_kit", model_version="1.0.0", digest=digest or model().digest, connections=links)
    return EdgeStatus(edge=EDGE, online=online, kits=(kit,))


class Room:
    """A live feed of one kit with a clock that is set by hand."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.clock.now = NOW
        self.edges = EdgeRegistry(self.clock)
        self.feed = LiveFeed(clock=self.clock, edges=self.edges, kits=kits, known=lambda _kit: {})
        self.edges.listen(self.feed.edge_changed)
        self.edges.update(status(), NOW)
        self.seq = 0

    def events(self, *rows: tuple[Any, ...]) -> None:
        self.seq += 1
        self.feed.publish([events(self.seq, rows, now=self.clock.now)])

    def eeg(self, t: int, n: int = 25, value: float = 0.0) -> DecodedBatch:
        self.seq += 1
        batch = frame(self.seq, t + np.arange(n) * 4_000_000, np.full((2, n), value), now=self.clock.now)
        self.feed.publish([batch])
        return batch

    def view(self) -> KitView:
        view = self.feed.view(KIT)
        assert view is not None
        return view


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_kit_that_runs_is_ready_and_fresh(room: Room) -> None:
    room.events((NOW, "line.state", 1, "Execute"))
    room.eeg(NOW)
    view = room.view()
    assert (view.state, view.state_text, view.fresh, view.wrong) == ("ready", "Execute", True, ())
    assert view.stale_channels == frozenset()


def test_a_kit_nothing_was_ever_heard_of_is_stale(room: Room) -> None:
    assert (room.view().state, room.view().age_ns, room.view().fresh) == ("stale", None, False)


def test_data_older_than_five_seconds_is_never_live(room: Room) -> None:
    """A picture that stands still must not look like a machine that stands still."""
    room.events((NOW, "line.pressure", 0.6))
    room.eeg(NOW - 100_000_000)
    room.clock.forward(4.9)
    assert room.view().state == "ready"
    assert "line.pressure" in room.view().stale_channels
    room.clock.forward(0.3)
    room.edges.update(status(), room.clock.now)
    view = room.view()
    assert (view.state, view.fresh, view.age_ns) == ("stale", False, 5_200_000_000)
    assert {wrong.kind for wrong in view.wrong} == {"stale"}


def test_backlog_is_not_taken_for_live_data(room: Room) -> None:
    """After a long break the old data comes in fast: it is history, not the present."""
    room.events((NOW - 3600 * SECOND, "line.pressure", 0.6))
    assert room.view().state == "stale"


def test_a_clock_that_runs_ahead_does_not_keep_data_young(room: Room) -> None:
    room.events((NOW + 3600 * SECOND, "line.pressure", 0.6))
    room.clock.forward(6)
    assert not room.view().fresh


def test_one_silent_connection_is_named_while_the_other_runs(room: Room) -> None:
    room.events((NOW, "line.pressure", 0.6))
    room.clock.forward(6)
    room.edges.update(status(), room.clock.now)
    room.eeg(room.clock.now)
    view = room.view()
    assert view.state == "warning"
    assert [(wrong.kind, wrong.subject) for wrong in view.wrong] == [("stale", "plc")]
    assert "line.pressure" in view.stale_channels
    assert "eeg.a" not in view.stale_channels


def test_a_broken_link_says_why(room: Room) -> None:
    room.eeg(NOW)
    room.edges.update(status(plc="stopped"), NOW)
    (wrong,) = room.view().wrong
    assert (wrong.kind, wrong.subject, wrong.code, wrong.detail) == ("connection", "plc", "stopped", "why")


def test_an_edge_that_is_gone_makes_the_kit_offline(room: Room) -> None:
    """By its last will at once, by its silence after 15 s."""
    room.eeg(NOW)
    room.edges.update(EdgeStatus(edge=EDGE, online=False), NOW)
    view = room.view()
    assert (view.state, view.fresh, view.wrong[0].kind) == ("offline", False, "edge_offline")
    assert {connection.state for connection in view.connections} == {"unknown"}
    assert view.stale_channels == set(EEG)
    room.edges.update(status(), NOW)
    room.clock.forward(15.1)
    assert room.view().state == "offline"


def test_another_kit_model_at_the_edge_is_noticed(room: Room) -> None:
    room.edges.update(status(digest="0" * 16), NOW)
    assert "model_differs" in {wrong.kind for wrong in room.view().wrong}


def test_what_is_wrong_is_sorted_worst_first(room: Room) -> None:
    room.events((NOW, "line.pressure", 0.4), (NOW, "line.estop", 1), (NOW, "line.state", 2, "Aborted"))
    room.edges.update(status(amp="waiting"), NOW)
    view = room.view()
    assert view.state == "alarm"
    assert [wrong.severity.value for wrong in view.wrong] == ["critical", "critical", "warning", "warning"]
    assert view.wrong[2].kind == "connection"


def test_what_the_store_knew_stands_with_its_true_age() -> None:
    """After a restart of the hub the pages must not be empty, nor pretend."""
    before = Room()
    before.events((NOW - 60 * SECOND, "line.state", 2, "Aborted"))
    known = dict(before.view().values)
    clock = HandClock()
    feed = LiveFeed(clock=clock, edges=EdgeRegistry(clock), kits=kits, known=lambda _kit: known)
    view = feed.view(KIT)
    assert view is not None
    assert (view.state_text, view.age_ns, view.fresh) == ("Aborted", 60 * SECOND, False)
    assert [alarm.id for alarm in view.alarms] == ["aborted"]
    assert feed.view("kit-9") is None


def header(data: bytes) -> tuple[int, int, int, int, float]:
    return struct.unpack_from("<IHBBd", data)


def test_frames_reach_a_viewer_as_they_were(room: Room) -> None:
    with room.feed.watch(KIT) as viewer:
        batch = room.eeg(NOW, n=3, value=2.5)
        data = viewer.next_frame()
        assert data is not None
        assert header(data) == (0, 3, 2, 0, NOW / 1e6)
        samples = np.frombuffer(data, dtype="<f4", offset=16).reshape(2, 3)
        np.testing.assert_array_equal(samples, batch.values)
        room.eeg(NOW + SECOND)
        assert header(viewer.next_frame() or b"")[0] == 1
        room.eeg(NOW)
        assert viewer.next_frame() is None
        assert room.feed.counters["late_frames"] == 1


def test_a_slow_viewer_loses_its_oldest_frames_and_can_see_that(room: Room) -> None:
    """Thirty browsers on a bad link must not fill the hub's memory."""
    with room.feed.watch(KIT) as slow, room.feed.watch(KIT) as quick:
        for second in range(QUEUE_FRAMES + 10):
            room.eeg(NOW + second * SECOND)
            assert header(quick.next_frame() or b"")[0] == second
        first = slow.next_frame()
        assert first is not None
        assert header(first)[0] == 10
        assert (slow.dropped, quick.dropped, room.feed.counters["dropped_frames"]) == (10, 0, 10)
    assert room.feed.counters["viewers"] == 0


def test_values_wait_as_the_newest_of_each_channel(room: Room) -> None:
    with room.feed.watch(KIT) as viewer:
        for step in range(100):
            room.events((NOW + step, "line.good", step), (NOW + step, "line.state", 1, "Execute"))
        waiting = viewer.take_values()
        assert {name: one.value for name, one in waiting.items()} == {"line.good": 99.0, "line.state": 1.0}
        assert viewer.take_values() == {}


# From here on with everything real: broker, store, app, and an edge's MQTT link.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "test_kit.yaml").write_text(MODEL, "utf-8")
    return parse_settings(f'kit_models = "models"\n[broker]\nport = {free_port()}\n', tmp_path / "hub.toml")


@pytest.fixture
async def app(settings: HubSettings, clock: HandClock) -> AsyncIterator[FastAPI]:
    clock.now = NOW
    app = create_app(settings, clock)
    if routes.router.routes[0] not in app.router.routes:
        app.include_router(routes.router)
    async with app.router.lifespan_context(app):
        parts: HubParts = app.state.parts
        await until(lambda: parts.ready or parts.fault is not None)
        assert parts.fault is None
        label = Label(en="W", zh="W", ru="W")
        catalog = parts.catalog
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        with parts.catalog._database.transaction() as session:
            from hub.catalog.models import EdgeRow, KitRow, WorkshopRow

            texts = {f"{part}_{code}": label.en for part in ("name", "city") for code in ("en", "zh", "ru")}
            session.add(WorkshopRow(id="workshop-1", zone="Asia/Tashkent", **texts))
            session.flush()
            session.add(EdgeRow(id=EDGE, workshop_id="workshop-1", password_hash=hashed))
            session.flush()
            session.add(KitRow(id=KIT, workshop_id="workshop-1", edge_id=EDGE, model="test_kit"))
        catalog.reload()
        await parts.line.reload_accounts()
        yield app


class Edge:
    """An edge's end of the line."""

    def __init__(self, line: Line, account: str) -> None:
        self.acknowledged: list[int] = []
        self.link = MqttLink(
            line._broker.url,
            client_id="edge-test",
            user=account,
            password="secret",
            on_message=lambda _t, payload: self.acknowledged.extend(load_ack(payload).stored),
            on_connection=lambda _up, _why: None,
        )
        self.link.subscribe(f"lab/v1/{EDGE}/down/#")
        self.link.start()

    def send(self, payload: bytes, kind: str = "up") -> None:
        assert self.link.publish(f"lab/v1/{EDGE}/{kind}", payload)


@pytest.fixture
async def edge(parts: HubParts) -> AsyncIterator[Edge]:
    (account,) = [a.user for a in parts.catalog.accounts() if f"lab/v1/{EDGE}/up" in a.publish]
    edge = Edge(parts.line, account)
    await until(lambda: edge.link.connected)
    edge.send(dump(status()), "status")
    await until(lambda: parts.line.edges.online(EDGE))
    yield edge
    await asyncio.to_thread(edge.link.stop)


class Socket:
    """The browser's end of a WebSocket, spoken to in ASGI."""

    def __init__(self, app: FastAPI, path: str, cookie: str | None, origin: str | None = None) -> None:
        headers = [(b"host", b"127.0.0.1")]
        if cookie:
            headers.append((b"cookie", f"epip_session={cookie}".encode()))
        if origin:
            headers.append((b"origin", origin.encode()))
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "subprotocols": [],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._take))

    async def _take(self, message: Any) -> None:
        self.sent.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.sent.get()

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next text message that is wanted."""
        while True:
            message = await self.next()
            if "text" in message and wanted(found := json.loads(message["text"])):
                return found

    async def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with asyncio.timeout(10):
            await self.task


SignIn = Callable[[Role], Awaitable[Browser]]


@pytest.mark.real
async def test_what_an_edge_sends_is_seen_in_a_browser(
    app: FastAPI, parts: HubParts, edge: Edge, signed_in: SignIn, clock: HandClock
) -> None:
    """The main job: equipment to browser, over every stage of the line."""
    browser = await signed_in(Role.INSTRUCTOR)
    watch = Socket(app, f"/live/kits/{KIT}", browser.cookie)
    assert (await watch.next())["type"] == "websocket.accept"
    first = await watch.until(lambda m: m["kind"] == "snapshot")
    assert (first["now_ms"], first["values"], first["kit"]["state"]) == (NOW // 1_000_000, [], "stale")
    edge.send(event_bytes(1, [(NOW, "line.state", 1, "Execute"), (NOW, "line.pressure", 0.4)]))
    got = await watch.until(lambda m: m["kind"] == "values")
    assert ["line.state", NOW // 1_000_000, 1.0, "Execute", 0] in got["values"]
    edge.send(frame_bytes(2, NOW + np.arange(25) * 4_000_000))
    while "bytes" not in (message := await watch.next()):
        pass
    assert header(message["bytes"])[:4] == (0, 25, 2, 0)
    clock.forward(1)
    edge.send(event_bytes(3, [(clock.now, "line.pressure", 0.3)]))
    rung = await watch.until(lambda m: m["kind"] == "alarms" and m["alarms"][0]["id"] == "lo_lo")
    assert rung["alarms"][0]["since_ms"] == clock.now // 1_000_000
    await until(lambda: sorted(edge.acknowledged) == [1, 2, 3])
    await watch.leave()
    assert parts.line.live.counters["viewers"] == 0
    health = await asyncio.to_thread(parts.line.health)
    assert health.ok


@pytest.mark.real
async def test_a_quiet_kit_still_speaks_and_grows_stale(
    app: FastAPI, edge: Edge, signed_in: SignIn, clock: HandClock
) -> None:
    """A page tells a quiet kit from a dead link by this."""
    browser = await signed_in(Role.TRAINEE)
    edge.send(frame_bytes(1, [NOW]))
    await until(lambda: edge.acknowledged == [1])
    watch = Socket(app, f"/live/kits/{KIT}", browser.cookie)
    first = await watch.until(lambda m: m["kind"] == "snapshot")
    assert first["kit"]["fresh"]
    clock.forward(1.5)
    await watch.until(lambda m: m["kind"] == "tick")
    clock.forward(4)
    gone = await watch.until(lambda m: m["kind"] == "kit")
    assert (gone["kit"]["state"], gone["kit"]["fresh"]) == ("stale", False)
    await watch.leave()


@pytest.mark.real
async def test_cards_of_a_workshop(app: FastAPI, edge: Edge, signed_in: SignIn) -> None:
    browser = await signed_in(Role.INSTRUCTOR)
    edge.send(event_bytes(1, [(NOW, "line.state", 2, "Aborted")]))
    await until(lambda: edge.acknowledged == [1])
    watch = Socket(app, "/live/workshops/workshop-1", browser.cookie)
    message = await watch.until(lambda m: m["kind"] == "cards" and m["kits"][0]["alarms"] != [])
    (card,) = message["kits"]
    assert (card["id"], card["state"], card["state_value"], card["fresh"]) == (KIT, "alarm", 2.0, True)
    assert card["alarms"][0] | {"since_ms": 0} == {
        "channel": "line.state",
        "id": "aborted",
        "severity": "critical",
        "since_ms": 0,
        "holds": True,
    }
    await watch.leave()


@pytest.mark.real
async def test_nobody_watches_without_a_session_or_from_another_site(app: FastAPI, signed_in: SignIn) -> None:
    """A page of another site in the same browser must not read a lesson."""
    browser = await signed_in(Role.INSTRUCTOR)
    for path in (f"/live/kits/{KIT}", "/live/workshops/workshop-1"):
        for cookie, origin in ((None, None), ("forged", None), (browser.cookie, "http://evil.example")):
            watch = Socket(app, path, cookie, origin)
            assert (await watch.next())["type"] == "websocket.close"
            await watch.task
    unknown = Socket(app, "/live/kits/kit-9", browser.cookie)
    assert (await unknown.next())["type"] == "websocket.close"
    await unknown.task


@pytest.mark.real
async def test_a_stopping_hub_lets_its_viewers_go(app: FastAPI, parts: HubParts, signed_in: SignIn) -> None:
    """Otherwise Ctrl-C would wait for every open browser."""
    browser = await signed_in(Role.INSTRUCTOR)
    watch = Socket(app, f"/live/kits/{KIT}", browser.cookie)
    await watch.until(lambda m: m["kind"] == "snapshot")
    parts.stopping.set()
    while (message := await watch.next())["type"] != "websocket.close":
        pass
    assert message["code"] == 1001
    await watch.task


@pytest.mark.real
async def test_reading_api(edge: Edge, signed_in: SignIn, browser: Callable[[], Awaitable[Browser]]) -> None:
    stranger = await browser()
    window = f"from_ms={NOW // 1_000_000}&to_ms={NOW // 1_000_000 + 3000}"
    paths = [
        f"/api/v1/kits/{KIT}",
        f"/api/v1/kits/{KIT}/latest",
        f"/api/v1/kits/{KIT}/overview?channels=line.good&{window}",
        f"/api/v1/kits/{KIT}/raw.csv?channels=line.good&{window}",
    ]
    for path in paths:
        assert (await stranger.http.get(path)).status_code == 401
    person = await signed_in(Role.TRAINEE)
    rows = [(NOW, "line.good", 1), (NOW + 2 * SECOND, "line.good", 3), (NOW + 5, "line.program", None, "=1+1")]
    edge.send(event_bytes(1, rows))
    await until(lambda: edge.acknowledged == [1])
    model_body = (await person.http.get(paths[0])).json()
    assert model_body["model"]["channels"][0]["label"]["ru"] == "Состояние"
    assert "address" not in model_body["model"]["channels"][0]
    await until(lambda: True)
    latest = (await person.http.get(paths[1])).json()
    assert latest["values"]["line.good"]["value"] == 3.0
    assert latest["values"]["line.good"]["fresh"]
    overview = (await person.http.get(paths[2] + "&buckets=3")).json()
    start = NOW // 1_000_000
    assert overview == {
        "t": [start, start + 1000, start + 2000],
        "width_ms": 1000,
        "channels": {"line.good": {"min": [1.0, None, 3.0], "max": [1.0, None, 3.0]}},
        "gaps": [],
    }
    lost = Gap("events", NOW + SECOND, NOW + 2 * SECOND, GapReason.DISCONNECTED, 4)
    edge.send(gap_bytes(2, [lost, Gap("eeg", NOW + 10 * SECOND, NOW + 11 * SECOND, GapReason.STOPPED)]))
    await until(lambda: edge.acknowledged == [1, 2])
    overview = (await person.http.get(paths[2] + "&buckets=3")).json()
    assert overview["gaps"] == [
        {"stream": "events", "from_ms": start + 1000, "to_ms": start + 2000, "reason": "disconnected", "count": 4}
    ]
    table = (await person.http.get(f"/api/v1/kits/{KIT}/raw.csv?channels=line.good,line.program&{window}")).text
    assert table.splitlines() == [
        "t,t_hub,channel,value,text,quality",
        "2025-10-09T08:53:20.000000000Z,2025-10-09T08:53:20.000000000Z,line.good,1.0,,0",
        "2025-10-09T08:53:20.000000005Z,2025-10-09T08:53:20.000000005Z,line.program,,'=1+1,0",
        "2025-10-09T08:53:22.000000000Z,2025-10-09T08:53:22.000000000Z,line.good,3.0,,0",
    ]


SENSELESS = [
    "channels=line.secret&from_ms=0&to_ms=1",
    "channels=&from_ms=0&to_ms=1",
    "channels=line.good&from_ms=5&to_ms=5",
    "channels=line.good&from_ms=nan&to_ms=5",
    "channels=line.good&from_ms=0&to_ms=1e300",
    "channels=line.good&from_ms=0&to_ms=1&buckets=0",
    "channels=line.good&from_ms=0&to_ms=1&buckets=1000000",
]


@pytest.mark.real
async def test_senseless_questions_are_refused(signed_in: SignIn) -> None:
    """Not one of them may reach the engine."""
    person = await signed_in(Role.TRAINEE)
    for query in SENSELESS:
        for name in ("overview", *(() if "buckets" in query else ("raw.csv",))):
            assert (await person.http.get(f"/api/v1/kits/{KIT}/{name}?{query}")).status_code == 422, query
        assert (await person.http.get(f"/api/v1/kits/kit-9/overview?{query}")).status_code in (404, 422)


@pytest.mark.real
async def test_staff_clears_a_latched_alarm(parts: HubParts, edge: Edge, signed_in: SignIn) -> None:
    edge.send(event_bytes(1, [(NOW, "line.estop", 1), (NOW + 1, "line.estop", 0)]))
    await until(lambda: [a.id for a in parts.line.live.views("workshop-1")[0].alarms] == ["estop"])
    path = f"/api/v1/kits/{KIT}/alarms/line.estop/estop/clear"
    trainee = await signed_in(Role.TRAINEE)
    assert (await trainee.send("POST", path)).status_code == 403
    instructor = await signed_in(Role.INSTRUCTOR)
    assert (await instructor.http.post(path)).status_code == 403
    assert (await instructor.send("POST", path)).status_code == 204
    assert (await instructor.send("POST", path)).status_code == 404
    assert parts.line.live.views("workshop-1")[0].alarms == ()


@pytest.mark.real
@pytest.mark.parametrize("held", ["store", "broker"])
async def test_a_start_that_is_called_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """Ctrl-C in the first second must not leave a broker on the port or a locked store."""
    reached, go_on = threading.Event(), threading.Event()
    opened: list[Any] = []

    def hold(work: Callable[..., Any]) -> Callable[..., Any]:
        def held_work(*arguments: Any) -> Any:
            reached.set()
            assert go_on.wait(10)
            opened.append(result := work(*arguments))
            return result

        return held_work

    if held == "store":
        monkeypatch.setattr("hub.line.open_store", hold(open_store))
    else:
        monkeypatch.setattr(NatsBroker, "_launch", hold(NatsBroker._launch))
    port, url = free_port(), f"duckdb:///{tmp_path / 'telemetry.duckdb'}"
    broker = NatsBroker(tmp_path / "broker", port)
    line = Line(store_url=url, broker=broker, accounts=list, kits=dict, clock=HandClock())
    start = asyncio.create_task(line.__aenter__())
    assert await asyncio.to_thread(reached.wait, 10)
    start.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not broker.health().running
    assert not (tmp_path / "broker" / "broker.pid").exists()
    if held == "store":
        with pytest.raises(StoreUnavailable):
            opened[0].stats()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


SECOND_HUB = """
import asyncio, sys
from pathlib import Path
from hub.broker.nats import NatsBroker
from hub.clock import SystemClock
from hub.errors import CannotRun
from hub.line import Line
broker = NatsBroker(Path(sys.argv[1]) / "broker", int(sys.argv[3]))
line = Line(store_url=sys.argv[2], broker=broker, accounts=list, kits=dict, clock=SystemClock())
try:
    asyncio.run(line.__aenter__())
except CannotRun as error:
    print(error)
"""


@pytest.mark.real
async def test_a_second_hub_leaves_the_first_ones_broker_alone(parts: HubParts, settings: HubSettings) -> None:
    """Started twice by mistake, the second must end with one clear line and not stop a lesson."""
    where = (str(settings.data_folder), settings.store_url, str(settings.broker.port))
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SECOND_HUB, *where, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await second.communicate()
    assert said.startswith(b"store: ")
    health = parts.line.health().broker
    assert (health.running, health.restarts) == (True, 0)
