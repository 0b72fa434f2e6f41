"""A kit as it is now: receives committed batches and edge statuses, hands on `KitView` for pages and WebSockets.

All times here are the hub's: those of a batch with the clock offset added that its edge had measured.
Stale is never shown as live: every view carries the age of its data and whether that is fresh, and a view whose data is
stale has the state `stale` (or `offline`), whatever its last values say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hub.live.alarms import ActiveAlarm, KitAlarms
from hub.live.edges import EdgeRegistry
from hub.store.base import SECOND, DecodedBatch, DecodedEvents, DecodedFrame, DecodedGaps, Latest
from lab_contract.batch import CLOCK_UNKNOWN
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
    """Newest values and alarms of one kit. Changed on the event loop only; `view` may be called from any thread.

    `known` are the newest values from before, in the hub's time.
    """

    def __init__(self, entry: KitEntry, known: Mapping[str, Latest]) -> None:
        self.entry = entry
        self.latest: dict[str, Latest] = {}
        self.alarms = KitAlarms(entry.model)
        self._newest: dict[str, int] = {}
        self._offset_ns = 0
        self.data_ns = max((sample.t for sample in known.values()), default=0)
        model = entry.model
        self.streamed = frozenset(channel for stream in model.streams for channel in stream.channels)
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
        self.alarms.advance(self.data_ns)

    def apply(self, batches: Sequence[DecodedBatch]) -> list[str]:
        """Take over committed batches, as they were stored; the channels that have a newer value now."""
        changed: dict[str, None] = {}
        for _, group in groupby(batches, key=lambda batch: (batch.header.shape, batch.header.stream)):
            together = list(group)
            first = together[0]
            if isinstance(first, DecodedFrame):
                changed |= dict.fromkeys(self._frames([b for b in together if isinstance(b, DecodedFrame)]))
            elif isinstance(first, DecodedEvents):
                changed |= dict.fromkeys(self._events([b for b in together if isinstance(b, DecodedEvents)]))
        # Only now: delays and standstills run out by the newest of all.
        self.alarms.advance(self.data_ns)
        return list(changed)

    def offset(self, batch: DecodedBatch) -> int:
        """To be added to the batch's times to have the hub's; the last known where its edge had not measured yet."""
        if batch.header.clock_uncertainty_ns != CLOCK_UNKNOWN:
            self._offset_ns = batch.header.clock_offset_ns
        return self._offset_ns

    def window(self, batch: DecodedBatch) -> tuple[int, int]:
        """The first and the last instant of a batch in the hub's time."""
        offset = self.offset(batch)
        if isinstance(batch, DecodedGaps):
            return min(gap.t_from for gap in batch.gaps) + offset, max(gap.t_to for gap in batch.gaps) + offset
        return int(batch.t[0]) + offset, int(batch.t[-1]) + offset

    def _frames(self, batches: list[DecodedFrame]) -> Iterator[str]:
        """Frames of one stream, as one where they follow each other: what a look costs depends little on its length."""
        times = [batch.t + self.offset(batch) for batch in batches]
        if len(batches) > 1 and all(a[-1] < b[0] for a, b in pairwise(times)):
            yield from self._frame(
                batches[-1], np.concatenate(times), np.concatenate([b.values for b in batches], axis=1)
            )
        else:
            for batch, t in zip(batches, times, strict=True):
                yield from self._frame(batch, t, batch.values)

    def _frame(self, batch: DecodedFrame, t: NDArray[np.int64], values: NDArray[np.float32]) -> Iterator[str]:
        last = int(t[-1])
        self.data_ns = max(self.data_ns, last)
        self.alarms.frames(batch.channels, t, values)
        for channel, number in zip(batch.channels, values[:, -1].tolist(), strict=True):
            value = None if number != number else number
            if self._take(channel, Latest(last, value, None, 0), batch.received_ns):
                yield channel

    def _events(self, batches: list[DecodedEvents]) -> Iterator[str]:
        times = [batch.t + self.offset(batch) for batch in batches]
        if len(batches) > 1 and all(a[-1] <= b[0] for a, b in pairwise(times)):
            yield from self._changes(batches, np.concatenate(times))
        else:
            for batch, t in zip(batches, times, strict=True):
                yield from self._changes([batch], t)

    def _changes(self, batches: list[DecodedEvents], t: NDArray[np.int64]) -> Iterator[str]:
        self.data_ns = max(self.data_ns, int(t[-1]))
        places: dict[str, int] = {}
        of_batch = [np.array([places.setdefault(c, len(places)) for c in b.channels], np.int32) for b in batches]
        index = np.concatenate([place[b.index] for place, b in zip(of_batch, batches, strict=True)])
        values = np.concatenate([batch.values for batch in batches])
        quality = np.concatenate([batch.quality for batch in batches])
        text: list[str | None] = []
        for batch in batches:
            none = batch.text.null_count == len(batch.text)
            text += [None] * len(batch.text) if none else batch.text.to_pylist()
        channels = tuple(places)
        self.alarms.events(channels, index, t, values, text)
        newest = np.zeros(len(channels), dtype=np.int64)
        newest[index] = np.arange(len(t))  # Of several rows of a channel the last stays.
        for channel, row in zip(channels, newest.tolist(), strict=True):
            number = float(values[row])
            value = None if number != number else number
            sample = Latest(int(t[row]), value, text[row], int(quality[row]))
            if self._take(channel, sample, batches[-1].received_ns):
                yield channel

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
