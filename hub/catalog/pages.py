"""Beside the line: workshops and kits as pages; receives the catalog and the live view, hands on HTML.

A page shows what the hub knows at the moment of asking, so that it reads without JavaScript; its island takes over from
there through the WebSocket.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from hub.accounts.access import SignedIn, Staff, csrf_token
from hub.accounts.person import Person
from hub.catalog import kit_facts, panel
from hub.catalog.panel import Panel
from hub.catalog.service import Kit, Workshop
from hub.errors import N_, NotFound
from hub.live.state import KitView
from hub.parts import HubParts, Parts
from hub.web.formats import LANGUAGES
from hub.web.render import Crumb, json_block, language, page

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

CARD_WORDS = ("age", "card", "connection", "link", "severity", "state", "value", "wrong")
KIT_WORDS = (*CARD_WORDS, "alarms", "bool", "gap", "strip", "trend")


@router.get("/")
def workshops(request: Request, hub: Parts, person: SignedIn) -> Response:
    """The workshops; with only one there is nothing to choose."""
    found = hub.catalog.workshops()
    if len(found) == 1:
        return RedirectResponse(f"/workshops/{found[0].id}", 303)
    code, now_ns = _language(person), hub.clock.time_ns()
    entries = [
        {
            **panel.workshop_facts(workshop, code),
            "kits": len(workshop.kits),
            "worst": panel.worst_state(panel.shown_state(_view(hub, kit)) for kit in workshop.kits),
        }
        for workshop in found
    ]
    return page(request, "workshops.html", now_ns=now_ns, workshops=entries)


@router.get("/workshops/{workshop_id}")
def workshop_page(request: Request, hub: Parts, person: SignedIn, workshop_id: str) -> HTMLResponse:
    """One workshop at a glance. Raises NotFound."""
    workshop, now_ns = hub.catalog.workshop(workshop_id), hub.clock.time_ns()
    views = {kit.id: _view(hub, kit) for kit in workshop.kits}
    return page(
        request,
        "workshop.html",
        now_ns=now_ns,
        path=[Crumb(workshop.name.text(_language(person)))],
        **workshop_context(workshop, views, person, now_ns),
    )


@router.get("/kits/{kit_id}")
def kit_page(request: Request, hub: Parts, person: SignedIn, kit_id: str) -> HTMLResponse:
    """One kit as its kit model describes it. Raises NotFound."""
    kit, now_ns = hub.catalog.kit(kit_id), hub.clock.time_ns()
    workshop, code = hub.catalog.workshop(kit.workshop), _language(person)
    path = [
        Crumb(workshop.name.text(code), f"/workshops/{workshop.id}"),
        Crumb(kit.name.text(code)),
    ]
    context = kit_context(kit, workshop, _view(hub, kit), person, csrf_token(request))
    return page(request, "kit.html", now_ns=now_ns, path=path, **context)


@router.post("/kits/{kit_id}/alarms/clear")
async def clear_alarm(
    hub: Parts,
    person: Staff,
    kit_id: str,
    channel: Annotated[str, Form(max_length=64)],
    alarm: Annotated[str, Form(max_length=64)],
) -> Response:
    """Lets go of a latched alarm whose cause has gone; no fault where somebody else was quicker. Raises NotFound."""
    kit = hub.catalog.kit(kit_id)
    hub.line.live.clear_alarm(kit.id, channel, alarm)
    return RedirectResponse(f"/kits/{kit.id}", 303)


def _view(hub: HubParts, kit: Kit) -> KitView:
    view = hub.line.live.view(kit.id)
    if view is None:
        raise NotFound(N_("There is no kit %(id)s."), id=kit.id)
    return view


def _language(person: Person) -> str:
    return person.language if person.language in LANGUAGES else "en"


def workshop_context(workshop: Workshop, views: dict[str, KitView], person: Person, now_ns: int) -> dict[str, Any]:
    """What the workshop's template needs."""
    code = _language(person)
    words = language(code).words
    cards = [Panel(kit, views[kit.id], code, words).card() for kit in workshop.kits]
    kits = {
        kit.id: {
            "states": kit_facts.state_labels(kit.model.channel_by_id[kit.model.state_channel], code),
            "alarms": kit_facts.alarm_labels(kit.model, code, words),
            "links": kit_facts.links_data(kit.model, code),
        }
        for kit in workshop.kits
    }
    data = {
        **_link_data(f"/live/workshops/{workshop.id}", workshop, person, now_ns),
        "words": {name: words[name] for name in CARD_WORDS},
        "kits": kits,
    }
    return {
        "workshop": panel.workshop_facts(workshop, code),
        "cards": cards,
        "data": Markup(json_block(data)),  # noqa: S704 - json_block escapes what could end the element
    }


def kit_context(kit: Kit, workshop: Workshop, view: KitView, person: Person, csrf: str) -> dict[str, Any]:
    """What the kit's template needs."""
    code = _language(person)
    words = language(code).words
    shown = Panel(kit, view, code, words)
    data = {
        **_link_data(f"/live/kits/{kit.id}", workshop, person, view.now_ns),
        "kit": kit.id,
        "csrf": csrf if person.is_staff else None,
        "words": {name: words[name] for name in KIT_WORDS},
        "channels": kit_facts.channel_data(kit.model, code),
        "alarms": kit_facts.alarm_labels(kit.model, code, words),
        "links": kit_facts.links_data(kit.model, code),
        "streams": kit_facts.stream_data(kit.model, code),
        "chosen": kit_facts.first_trends(kit.model),
        "values": [
            [name, latest.t / 1e6, latest.value, latest.text, latest.quality] for name, latest in view.values.items()
        ],
    }
    return {
        "workshop": panel.workshop_facts(workshop, code),
        "kit": shown.card(),
        "states": shown.states(),
        "stations": shown.stations(),
        "matrices": shown.matrices(),
        "streams": kit_facts.strip_charts(kit.model, code),
        "trend_choice": kit_facts.trend_choice(kit.model, code),
        "data": Markup(json_block(data)),  # noqa: S704 - json_block escapes what could end the element
    }


def _link_data(live: str, workshop: Workshop, person: Person, now_ns: int) -> dict[str, Any]:
    code = _language(person)
    return {
        "live": live,
        "now_ms": now_ns // 1_000_000,
        "language": code,
        "zone": person.zone,
        "workshop_zone": workshop.zone,
        "mine": language(code).words["card"]["mine"],
    }
