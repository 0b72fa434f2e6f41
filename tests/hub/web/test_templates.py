"""Every page in every language, with no data, little and too much; and catalogues that hold every text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from hub.accounts.access import Visit
from hub.accounts.person import Person, Role
from hub.broker.base import BrokerHealth, Refusals
from hub.catalog import kit_facts, panel
from hub.catalog.pages import kit_context, workshop_context
from hub.catalog.service import Kit, Workshop
from hub.errors import HubError, NotFound, TryLater
from hub.health.pages import EdgeFacts
from hub.ingest.decode import KitEntry
from hub.live.edges import EdgeRegistry, EdgeState
from hub.live.feed import LiveFeed
from hub.live.state import KitView
from hub.store.base import QuarantinedBatch, StoreFacts, StoreStats
from hub.web import build_assets, catalogues
from hub.web.formats import LANGUAGES, zone_names
from hub.web.render import Crumb, error_page, language, page
from lab_contract.kit import Label, Severity, builtin_kit_models
from lab_contract.messages import ConnectionStatus, EdgeStatus, KitStatus
from tests.browser.feeder import Feeder

NS = 1_000_000_000
NOW = 1_760_000_000 * NS
FILLS = ("none", "little", "much")
PLACEHOLDER = re.compile(r"\{\w+\}|%\(\w+\)[sd]")
NASTY = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build_assets.build()


def models() -> dict[str, Any]:
    return builtin_kit_models()


def workshop(fill: str) -> Workshop:
    label = Label(en="Tashkent workshop", zh="塔什干工坊", ru="Ташкентская мастерская")
    if fill == "none":
        return Workshop("tashkent", label, label, "Asia/Tashkent", ())
    count = 1 if fill == "little" else 20
    kits = tuple(
        Kit(f"{model.id.replace('_', '-')}-{i}", "tashkent", "edge-1", model, model.label)
        for i in range(count)
        for model in models().values()
    )
    return Workshop("tashkent", label, label, "Asia/Tashkent", kits)


def views(shop: Workshop, fill: str) -> dict[str, KitView]:
    """The kits of a workshop as the hub sees them: never heard of, well, or with everything wrong at once."""
    clock = SimpleNamespace(time_ns=lambda: NOW, monotonic_ns=lambda: NOW)
    edges = EdgeRegistry(clock)
    entries = {kit.id: KitEntry(kit.id, kit.edge, kit.model, kit.workshop) for kit in shop.kits}
    feed = LiveFeed(clock=clock, edges=edges, kits=lambda: entries, known=lambda _kit: {})
    store = SimpleNamespace(append=lambda _batches: [])
    feeder = Feeder(SimpleNamespace(store=store, live=feed, edges=edges), entries, "edge-1")  # type: ignore[arg-type]
    if fill == "much":
        for kit in shop.kits:
            for channel in kit.model.channels:
                if channel.limits is not None:
                    feeder.instead[kit.id, channel.id] = (channel.max or 1e6) * 2
    feeder.report(NOW)
    feed.publish(feeder.piece(NOW - NS, NOW - NS // 4))
    return {view.id: view for view in feed.views(shop.id)}


def nothing_known(kit: Kit) -> KitView:
    clock = SimpleNamespace(time_ns=lambda: NOW, monotonic_ns=lambda: NOW)
    entry = KitEntry(kit.id, kit.edge, kit.model, kit.workshop)
    feed = LiveFeed(clock=clock, edges=EdgeRegistry(clock), kits=lambda: {kit.id: entry}, known=lambda _kit: {})
    view = feed.view(kit.id)
    assert view is not None
    return view


def person(code: str, role: Role = Role.ADMINISTRATOR, *, issued: bool = False) -> Person:
    return Person(1, "reader", "A Reader " * 8 if issued else "Reader", role, code, "Asia/Shanghai", issued)


def request_of(path: str, who: Person | None) -> Request:
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"accept-language", b"ru;q=0.5, zh-CN")],
            "scheme": "http",
            "server": ("127.0.0.1", 80),
        }
    )
    request.state.visit = Visit(who, "a token of no session")
    return request


class Check(HTMLParser):
    """Looks for what the content security policy or a screen reader would stumble over."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "col"})

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.language: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "html":
            self.language = found.get("lang")
        self.faults += [f"{tag} {name}" for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found and found.get("type") != "application/json"):
            self.faults.append(f"inline {tag}")
        identity = found.get("id")
        if identity is not None:
            if identity in self.ids:
                self.faults.append(f"id {identity} twice")
            self.ids.add(identity)
        for name in ("src", "href"):
            if re.match(r"https?:|//", found.get(name) or ""):
                self.faults.append(f"foreign {name}: {found[name]}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID or tag == "option":
            return
        while self.open and self.open[-1] == "option":
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"unexpected </{tag}>")


def checked(text: str) -> str:
    check = Check()
    check.feed(text)
    check.close()
    assert check.faults == []
    assert "StrictUndefined" not in text
    return text


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("fill", FILLS)
def test_the_workshop_page_renders(code: str, fill: str) -> None:
    """An empty workshop, or one with sixty kits in alarm, would answer with an error page."""
    shop, who = workshop(fill), person(code, issued=fill == "much")
    request = request_of("/workshops/tashkent", who)
    context = workshop_context(shop, views(shop, fill), who, NOW)
    text = checked(bytes(page(request, "workshop.html", now_ns=NOW, path=[Crumb("x")], **context).body).decode())
    assert text.count("data-kit=") == len(shop.kits)
    if fill == "much":
        assert language(code).words["state"]["alarm"] in text


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("model", ["plc_line", "robot_cell", "bci_platform"])
def test_the_kit_page_renders(code: str, fill: str, model: str) -> None:
    """A kit that has never sent anything, or that has everything wrong at once, could not be looked at."""
    shop, who = workshop("little"), person(code)
    kit = next(kit for kit in shop.kits if kit.model.id == model)
    view = nothing_known(kit) if fill == "none" else views(shop, fill)[kit.id]
    context = kit_context(kit, shop, view, who, "csrf")
    text = checked(bytes(page(request_of("/kits/x", who), "kit.html", now_ns=NOW, **context).body).decode())
    drawn = {name for stream in kit_facts.strips(kit.model) for name in stream.channels}
    for channel in kit.model.channels:
        assert (f'data-channel="{channel.id}"' in text) == (channel.id not in drawn), channel.id
        assert channel.label.text(code) in text or f'data-channel="{channel.id}"' in text


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("fill", FILLS)
def test_the_health_page_renders(code: str, fill: str) -> None:
    """Who mends the hub would see nothing just when there is something to mend."""
    shop, who = workshop("little"), person(code, Role.TECHNICIAN)
    ok = fill != "much"
    detail = "" if ok else NASTY
    line = SimpleNamespace(
        accounts_fault=detail,
        broker=BrokerHealth(
            kind="nats" if ok else "mosquitto",
            running=ok,
            detail=detail,
            restarts=0 if ok else 7,
            missing=() if ok else (NASTY,),
            refusals=Refusals(0, 0, 0, 0) if ok else Refusals(sign_ins=7, last=NASTY),
        ),
        ingest=SimpleNamespace(
            ok=ok,
            detail=detail,
            waiting_bytes=1,
            counters={} if fill == "none" else {"batches": 1},
            store_trouble="" if ok else f"no space {NASTY}",
        ),
        store=SimpleNamespace(ok=ok, detail=detail, commits=12_345_678, failures=0),
    )
    links = tuple(
        ConnectionStatus(
            id=f"link{i}",
            protocol="opcua",
            state=state,
            since_ns=NOW,
            detail=detail,
            counters={"lost": 1},
            facts={"banner": NASTY},
        )
        for i, state in enumerate(("connecting", "running", "waiting", "stopped", "another"))
    )
    kits = tuple(
        KitStatus(id=name, model="plc_line", model_version="1.0.0", digest="0" * 16, connections=links)
        for name in (shop.kits[0].id, "unknown-kit")
    )
    status = EdgeStatus(edge="edge-1", online=ok, software="epip-edge 0.1.0", kits=kits, counters={"batches": 5})
    edges = [EdgeFacts("edge-2", None, online=False, state=None)]
    if fill != "none":
        edges.append(EdgeFacts("edge-1", "Tashkent", online=ok, state=EdgeState(status, NOW - 30 * 3600 * NS)))
    kept = [QuarantinedBatch("edge-1", "checksum", NASTY, NOW, NOW, 3, 100, b"")] * (50 if fill == "much" else 0)
    context = {
        "line": line,
        "stats": StoreStats(10**9, 140, 10**6, None, None, 10**9),
        "store_facts": None if fill == "none" else StoreFacts("InfluxDB", "1.6.7", NASTY, "read", NASTY),
        "kept_aside": kept,
        "kept_counts": {"checksum": len(kept)} if kept else {},
        "edges": edges if fill != "none" else [],
        "kit_names": {kit.id: (kit.name.text(code), {"link0": "A link"}) for kit in shop.kits},
        "catalog_fault": None if ok else NASTY,
    }
    for template in ("health.html", "health_part.html"):
        text = bytes(page(request_of("/health", who), template, now_ns=NOW, **context).body).decode()
        assert NASTY not in text
        if template == "health.html":
            checked(text)


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_other_pages_render(code: str) -> None:
    """Nobody could sign in, see their account, or read why something was refused."""
    who = person(code, issued=True)
    problems = dict.fromkeys(("language", "zone", "current", "new", "again", "form"), NASTY)
    account = {"done": "", "problems": problems, "chosen_zone": NASTY, "zones": zone_names()}
    text = bytes(page(request_of("/account", who), "account.html", now_ns=NOW, **account).body).decode()
    assert NASTY not in checked(text)
    sign_in = {"next": "/kits/a?x=1&y=2", "name": NASTY, "refusal": NASTY, "signed_out": False}
    text = bytes(page(request_of("/sign-in", None), "sign_in.html", now_ns=NOW, **sign_in).body).decode()
    assert NASTY not in checked(text)
    for shops in ([], [{**panel.workshop_facts(workshop("none"), code), "kits": 3, "worst": "stale"}] * 30):
        checked(bytes(page(request_of("/", who), "workshops.html", now_ns=NOW, workshops=shops).body).decode())
    for error in (HubError(), NotFound(), TryLater(7)):
        answer = error_page(request_of("/x", who), error, NOW)
        assert answer.status_code == error.status
        checked(bytes(answer.body).decode())


def test_a_visitor_gets_the_language_of_their_browser() -> None:
    """A Chinese browser would be answered in English."""
    context = {"next": "/", "name": "", "refusal": None, "signed_out": True}
    response = page(request_of("/sign-in", None), "sign_in.html", now_ns=NOW, **context)
    assert response.headers["content-language"] == "zh-Hans"
    assert '<html lang="zh-Hans">' in bytes(response.body).decode()


def test_text_from_equipment_cannot_become_markup() -> None:
    """A program name on a robot could run a script in the instructor's browser."""
    shop, who = workshop("little"), person("en")
    kit = next(kit for kit in shop.kits if kit.model.id == "robot_cell")
    view = views(shop, "little")[kit.id]
    name = "robot.program_name"
    view = replace(view, values={**view.values, name: replace(view.values[name], text=NASTY)})
    context = kit_context(kit, shop, view, who, "csrf")
    text = bytes(page(request_of("/kits/x", who), "kit.html", now_ns=NOW, **context).body).decode()
    assert NASTY not in checked(text)
    assert "<img" not in text


@pytest.mark.parametrize("code", LANGUAGES)
def test_catalogues_are_complete(code: str) -> None:
    """A page would show English in the middle of Russian, or a text that nobody has looked at."""
    file = catalogues.catalogue_file(code)
    catalogue = catalogues.load(code)
    wanted = catalogues.written(catalogues.update(code, catalogues.template()))
    assert file.read_bytes() == wanted, "texts have changed: run python -m hub.web.catalogues, then translate"
    assert not list(catalogue.obsolete)
    for message in catalogue:
        if not message.id:
            continue
        assert message.string, f"{code}: no translation of {message.id!r}"
        assert not message.fuzzy, f"{code}: {message.id!r} is fuzzy"
        assert isinstance(message.id, str)
        assert isinstance(message.string, str)
        assert set(PLACEHOLDER.findall(message.id)) == set(PLACEHOLDER.findall(message.string)), message.id
        assert message.id[-1:] != "." or message.string[-1:] in ".。", message.id


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_code_has_a_word(code: str) -> None:
    """A state, a severity or a connection would stand on the page as a code, or stop it from rendering."""
    words = language(code).words
    assert set(panel.STATES) == set(words["state"])
    assert {severity.value for severity in Severity} == set(words["severity"])
    assert set(kit_facts.LIMITS) == set(words["limit"])
    assert {role.value for role in Role} == set(words["role"])
    for names in words.values():
        assert all(names.values())
