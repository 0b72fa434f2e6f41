"""A kit as it is now: receives committed batches and edge statuses, hands on `KitView` for pages and WebSockets.

Stale is never shown as live: every view carries the age of its data and whether that is fresh, and a view whose data is
stale has the state `stale` (or `offline`), whatever its last values say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hub.live.alarms import ActiveAlarm, KitAlarms
from hub.live.edges import EdgeRegistry
from hub.store.base import SECOND, DecodedBatch, DecodedEvents, DecodedFrame, Latest
from lab_contract.kit import Channel, KitModel, Severity

if TYPE_CHECKING:
    from hub.ingest.decode import KitEntry

STALE_NS = 5 * SECOND
"""A kit of which nothing newer has come is stale."""
CHANNEL_STALE_NS = 2 * SECOND
"""No channel is stale sooner, however fast it is: batches and slow links need their time."""
AGENT = "agent"
"""The protocol of the edge's own figures: they go on while the equipment is silent, and so prove nothing about it."""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A link to the equipment: `state` is what its edge says (connecting, running, waiting, stopped), `unknown` while
    the edge is silent; `data_t` the newest sample over it (UTC ns); `fresh` whether that is young enough.
    """

    id: str
    state: str
    detail: str
    data_t: int | None
    fresh: bool


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong with a kit. `kind` is edge_offline, connection, stale, model_differs or alarm; `subject`
    the edge, connection or channel; `code` the connection's state or the alarm's id.
    """

    severity: Severity
    kind: str
    subject: str
    code: str
    detail: str
    since_ns: int | None


@dataclass(frozen=True, slots=True)
class KitView:
    """A kit at one moment. `state` is offline, stale, alarm, warning or ready; `state_value` and `state_text` are those
    of the kit model's state channel. `data_t` is the newest sample of the equipment (UTC ns), `age_ns` its age, None
    where there never was one. `stale_channels` are those whose value must not be shown as live. `wrong` is sorted by
    severity, worst first.
    """

    id: str
    edge: str
    workshop: str
    now_ns: int
    online: bool
    state: str
    state_value: float | None
    state_text: str | None
    data_t: int | None
    age_ns: int | None
    fresh: bool
    values: Mapping[str, Latest]
    stale_channels: frozenset[str]
    connections: tuple[ConnectionView, ...]
    alarms: tuple[ActiveAlarm, ...]
    wrong: tuple[Wrong, ...]


class KitState:
    """Newest values and alarms of one kit. Changed on the event loop only; `view` may be called from any thread."""

    def __init__(self, entry: KitEntry, known: Mapping[str, Latest]) -> None:
        self.entry = entry
        self.latest: dict[str, Latest] = {}
        self.alarms = KitAlarms(entry.model)
        self._newest: dict[str, int] = {}
        model = entry.model
        self._periodic: dict[str, float] = {}
        rates = [(channel.connection, channel.rate_hz) for channel in model.channels if channel.rate_hz is not None]
        rates += [(stream.connection, stream.rate_hz) for stream in model.streams]
        for connection, rate in rates:
            self._periodic[connection] = max(rate, self._periodic.get(connection, 0.0))
        # What the store last knew stands, with its true age, until something newer comes.
        for channel, sample in sorted(known.items(), key=lambda item: item[1].t):
            if channel in model.channel_by_id:
                self._take(channel, sample, sample.t)
                self.alarms.sample(channel, sample.t, sample.value, sample.text)
        self.alarms.advance(max((sample.t for sample in known.values()), default=0))

    def apply(self, batch: DecodedBatch) -> list[str]:
        """Take over a committed batch; the channels that have a newer value now."""
        changed = self._frame(batch) if isinstance(batch, DecodedFrame) else self._events(batch)
        self.alarms.advance(int(batch.t[-1]))
        return changed

    def _frame(self, batch: DecodedFrame) -> list[str]:
        changed: list[str] = []
        last = int(batch.t[-1])
        for channel, row in zip(batch.channels, batch.values, strict=True):
            self.alarms.frame(channel, batch.t, row)
            value = None if np.isnan(row[-1]) else float(row[-1])
            if self._take(channel, Latest(last, value, None, 0), batch.received_ns):
                changed.append(channel)
        return changed

    def _events(self, batch: DecodedEvents) -> list[str]:
        changed: dict[str, None] = {}
        columns = (batch.index.tolist(), batch.t.tolist(), batch.values.tolist(), batch.quality.tolist())
        for (index, t, number, quality), text in zip(zip(*columns, strict=True), batch.text.to_pylist(), strict=True):
            channel = batch.channels[index]
            value = None if number != number else number
            self.alarms.sample(channel, t, value, text)
            if self._take(channel, Latest(t, value, text, quality), batch.received_ns):
                changed[channel] = None
        return list(changed)

    def _take(self, channel: str, sample: Latest, received_ns: int) -> bool:
        known = self.latest.get(channel)
        if known is not None and sample.t < known.t:
            return False
        self.latest[channel] = sample
        connection = self.entry.model.channel_by_id[channel].connection
        # A clock that runs ahead must not make old data look young for hours.
        self._newest[connection] = max(self._newest.get(connection, 0), min(sample.t, received_ns))
        return True

    def view(self, edges: EdgeRegistry, now_ns: int) -> KitView:
        """The kit at `now_ns` (UTC ns)."""
        entry, model = self.entry, self.entry.model
        online = edges.online(entry.edge)
        connections = tuple(self._connection(name, edges, online, now_ns) for name in model.connection_by_id)
        equipment = [self._newest[c.id] for c in model.connections if c.protocol != AGENT and c.id in self._newest]
        data_t = max(equipment, default=None)
        age = None if data_t is None else max(0, now_ns - data_t)
        fresh = age is not None and age <= STALE_NS
        values = dict(self.latest)
        fresh_links = {connection.id for connection in connections if connection.fresh}
        alarms = self.alarms.active()
        wrong = self._wrong(edges, online, connections, fresh, alarms)
        at_a_glance = values.get(model.state_channel)
        return KitView(
            id=entry.id,
            edge=entry.edge,
            workshop=entry.workshop,
            now_ns=now_ns,
            online=online,
            state=_state(online, fresh, wrong),
            state_value=at_a_glance.value if at_a_glance else None,
            state_text=at_a_glance.text if at_a_glance else None,
            data_t=data_t,
            age_ns=age,
            fresh=fresh and online,
            values=values,
            stale_channels=frozenset(
                name
                for name, sample in values.items()
                if not online or _is_stale(model, model.channel_by_id[name], sample, fresh_links, now_ns)
            ),
            connections=connections,
            alarms=alarms,
            wrong=wrong,
        )

    def _connection(self, name: str, edges: EdgeRegistry, online: bool, now_ns: int) -> ConnectionView:
        status = edges.connection(self.entry.edge, self.entry.id, name) if online else None
        newest = self._newest.get(name)
        rate = self._periodic.get(name)
        if rate is None:
            # All its channels speak on change only: silence is normal, and the edge knows whether the link is up.
            fresh = status is not None and status.state == "running"
        else:
            fresh = newest is not None and now_ns - newest <= max(STALE_NS, round(2 * SECOND / rate))
        return ConnectionView(
            name, status.state if status else "unknown", status.detail if status else "", newest, fresh
        )

    def _wrong(
        self,
        edges: EdgeRegistry,
        online: bool,
        connections: tuple[ConnectionView, ...],
        fresh: bool,
        alarms: tuple[ActiveAlarm, ...],
    ) -> tuple[Wrong, ...]:
        entry = self.entry
        found: list[Wrong] = []
        if not online:
            state = edges.get(entry.edge)
            found.append(Wrong(Severity.HIGH, "edge_offline", entry.edge, "", "", state.received_ns if state else None))
        else:
            kit = edges.kit(entry.edge, entry.id)
            if kit is not None and kit.digest != entry.model.digest:
                detail = f"{kit.model} {kit.model_version} at the edge, {entry.model.version} at the hub"
                found.append(Wrong(Severity.WARNING, "model_differs", entry.id, "", detail, None))
            stale = 0
            for connection in connections:
                if connection.state != "running":
                    severity = Severity.HIGH if connection.state == "stopped" else Severity.WARNING
                    found.append(
                        Wrong(severity, "connection", connection.id, connection.state, connection.detail, None)
                    )
                elif not connection.fresh:
                    stale += 1
                    found.append(Wrong(Severity.WARNING, "stale", connection.id, "", "", connection.data_t))
            if not fresh and not stale:
                found.append(Wrong(Severity.WARNING, "stale", entry.id, "", "", None))
        found += [Wrong(a.severity, "alarm", a.channel, a.id, "", a.since_ns) for a in alarms]
        # Stable: within one severity what explains the rest (edge, then connection) stays before the alarms.
        order = list(Severity)
        return tuple(sorted(found, key=lambda wrong: order.index(wrong.severity)))


def _state(online: bool, fresh: bool, wrong: tuple[Wrong, ...]) -> str:
    if not online:
        return "offline"
    if not fresh:
        return "stale"
    if any(one.kind == "alarm" and one.severity is not Severity.WARNING for one in wrong):
        return "alarm"
    return "warning" if wrong else "ready"


def _is_stale(model: KitModel, channel: Channel, sample: Latest, fresh_links: set[str], now_ns: int) -> bool:
    if channel.connection not in fresh_links:
        return True
    period_s = model.period_s(channel)
    if period_s is None:
        return False
    return now_ns - sample.t > max(CHANNEL_STALE_NS, round(2 * SECOND * period_s))
