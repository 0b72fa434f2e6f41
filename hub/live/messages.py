"""What is said over the live WebSockets and the reading API: receives views and values, hands on JSON-ready objects.

Texts: `snapshot`, `values`, `alarms`, `kit`, `late` and `tick` on `/live/kits/{kit}`, `cards` on
`/live/workshops/{workshop}`.
Each carries `now_ms`, the hub's clock, so that a page can tell ages without trusting its own. Times are ms since 1970
UTC. Ids, never labels: the page has the labels in its reader's language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hub.live.alarms import ActiveAlarm
from hub.live.state import KitView
from hub.store.base import Latest

NS_PER_MS = 1_000_000


def text(kind: str, now_ns: int, **parts: Any) -> str:
    """One message as sent."""
    return json.dumps({"kind": kind, "now_ms": now_ns // NS_PER_MS, **parts}, separators=(",", ":"), allow_nan=False)


def storing(it_does: bool) -> dict[str, bool]:
    """Part of each text: whether the store takes what comes; left out while it does."""
    return {} if it_does else {"storing": False}


def values(latest: Mapping[str, Latest]) -> list[list[Any]]:
    """`[channel, t_ms, value, text, quality]` each."""
    return [[name, ms(one.t), one.value, one.text, one.quality] for name, one in latest.items()]


def alarms(active: Iterable[ActiveAlarm]) -> list[dict[str, Any]]:
    """Active alarms, worst first; `holds` is False for a latched one whose cause has gone."""
    return [
        {"channel": a.channel, "id": a.id, "severity": a.severity.value, "since_ms": ms(a.since_ns), "holds": a.holds}
        for a in active
    ]


def kit(view: KitView) -> dict[str, Any]:
    """The kit at a glance, without its values."""
    return {
        "id": view.id,
        "online": view.online,
        "state": view.state,
        "state_value": view.state_value,
        "state_text": view.state_text,
        "data_t_ms": ms(view.data_t),
        "age_ms": ms(view.age_ns),
        "fresh": view.fresh,
        "stale_channels": sorted(view.stale_channels),
        "connections": [
            {"id": c.id, "state": c.state, "detail": c.detail, "data_t_ms": ms(c.data_t), "fresh": c.fresh}
            for c in view.connections
        ],
        "wrong": [
            {
                "severity": w.severity.value,
                "kind": w.kind,
                "subject": w.subject,
                "code": w.code,
                "detail": w.detail,
                "since_ms": ms(w.since_ns),
            }
            for w in view.wrong
        ],
    }


def card(view: KitView) -> dict[str, Any]:
    """The kit on the page of its workshop."""
    return {**kit(view), "alarms": alarms(view.alarms)}


def ms(ns: int | None) -> float | None:
    """Nanoseconds as ms; a whole number where it is one."""
    return None if ns is None else ns // NS_PER_MS if ns % NS_PER_MS == 0 else ns / NS_PER_MS
