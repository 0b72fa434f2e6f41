"""Stands in for edge and equipment where a test is about pages: made-up but moving values of every built-in kit model.

It goes in where ingest hands on: batches are encoded as an edge does, decoded, stored and published. Everything after
that (store, live state, WebSockets, pages) is the hub's own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hub.ingest.decode import KitEntry, decode
from hub.line import Line
from hub.store.base import DecodedBatch
from lab_contract.batch import EVENT_STREAM, Header, Shape, encode_events, encode_frame
from lab_contract.kit import Channel, ValueKind
from lab_contract.messages import ConnectionStatus, EdgeStatus, KitStatus

SECOND = 1_000_000_000
PIECE_S = 0.25


def middle(channel: Channel, phase: float) -> float:
    """A value well inside the channel's limits that moves with `phase`."""
    limits = channel.limits
    low = [x for x in (channel.min, limits and limits.lo, limits and limits.lo_lo) if x is not None]
    high = [x for x in (channel.max, limits and limits.hi, limits and limits.hi_hi) if x is not None]
    bottom, top = max(low, default=0.0), min(high, default=100.0)
    return bottom + (top - bottom) * (0.5 + 0.2 * math.sin(phase))


MOST_PIECE_NS = 5 * SECOND


@dataclass
class Feeder:
    """Feeds the kits of one edge. `instead` holds values that a test wants to see, by kit and channel."""

    line: Line
    kits: Mapping[str, KitEntry]
    edge: str
    silent: set[str] = field(default_factory=set)
    offline: bool = False
    instead: dict[tuple[str, str], float] = field(default_factory=dict)
    _seq: int = 0

    def report(self, now_ns: int) -> None:
        """The edge's status."""
        kits = tuple(
            KitStatus(
                id=kit.id,
                model=kit.model.id,
                model_version=kit.model.version,
                digest=kit.model.digest,
                connections=tuple(
                    ConnectionStatus(
                        id=link.id,
                        protocol=link.protocol,
                        state="waiting" if kit.id in self.silent else "running",
                        detail="connection refused" if kit.id in self.silent else "",
                        since_ns=now_ns - 600 * SECOND,
                        counters={"lost": 0, "overflow": 0},
                        facts={"publishing_interval": "100 ms"},
                    )
                    for link in kit.model.connections
                ),
            )
            for kit in self.kits.values()
        )
        status = EdgeStatus(
            edge=self.edge,
            online=not self.offline,
            epoch=1,
            software="epip-edge 0.1.0",
            sent_ns=now_ns,
            kits=kits,
            counters={"batches": self._seq, "spooled": 0},
        )
        self.line.edges.update(status, now_ns)

    def piece(self, from_ns: int, to_ns: int) -> list[DecodedBatch]:
        """What all kits would have sent in this time."""
        batches: list[DecodedBatch] = []
        for kit in self.kits.values():
            if kit.id in self.silent:
                continue
            batches += [self._frame(kit, stream.id, from_ns, to_ns) for stream in kit.model.streams]
            batches.append(self._events(kit, to_ns))
        return batches

    async def feed(self, from_ns: int, to_ns: int) -> None:
        """Stores and publishes what would have been sent in this time."""
        batches = self.piece(from_ns, to_ns)
        if batches:
            await asyncio.to_thread(self.line.store.append, batches)
            self.line.live.publish(batches)

    async def run(self, clock_ns: int, leave: asyncio.Event) -> None:
        """Feeds in real time, four times a second, from `clock_ns` on until told to leave."""
        loop = asyncio.get_running_loop()
        started, done = loop.time(), clock_ns
        while not leave.is_set():
            now = clock_ns + int((loop.time() - started) * SECOND)
            self.report(now)
            # Other tests may have held this loop for minutes, and so long a stretch is no batch.
            await self.feed(max(done, now - MOST_PIECE_NS), now)
            done = now
            try:
                async with asyncio.timeout(PIECE_S):
                    await leave.wait()
            except TimeoutError:
                continue

    def _header(self, kit: KitEntry, stream: str) -> Header:
        self._seq += 1
        shape = Shape.EVENT if stream == EVENT_STREAM else Shape.FRAME
        return Header(self.edge, 1, self._seq, kit.id, stream, shape)

    def _value(self, kit: KitEntry, channel: Channel, phase: float) -> float:
        wanted = self.instead.get((kit.id, channel.id))
        if wanted is not None:
            return wanted
        if channel.kind is ValueKind.ENUM:
            return float(calm_state(channel))
        if channel.kind is ValueKind.BOOL:
            return float(calm_bool(channel))
        above = [float(alarm.condition.value) for alarm in channel.alarms if alarm.condition.op == "gt"]
        if any(alarm.condition.op == "unchanged" for alarm in channel.alarms):
            return float(int(phase * 10) % 100_000)
        if above or channel.kind is ValueKind.INT:
            return 0.2 * min(above) if above else float(round(0 if channel.alarms else middle(channel, phase)))
        return middle(channel, phase)

    def _frame(self, kit: KitEntry, stream_id: str, from_ns: int, to_ns: int) -> DecodedBatch:
        stream = kit.model.stream_by_id[stream_id]
        period = SECOND / stream.rate_hz
        t = (np.arange(math.ceil(from_ns / period), math.ceil(to_ns / period)) * period).astype(np.int64)
        if not len(t):
            t = np.array([to_ns], dtype=np.int64)
        seconds = (t % (1000 * SECOND)) / SECOND
        rows = []
        for i, name in enumerate(stream.channels):
            channel = kit.model.channel_by_id[name]
            if channel.unit == "uV":
                rows.append(20 * np.sin(2 * np.pi * (8 + i) * seconds) + 5 * np.sin(2 * np.pi * 50 * seconds))
            else:
                rows.append(np.array([self._value(kit, channel, s * 0.7 + i) for s in seconds]))
        data = encode_frame(self._header(kit, stream_id), t, stream.channels, np.array(rows, dtype=np.float32))
        return decode(data, self.edge, self.kits, to_ns)

    def _events(self, kit: KitEntry, now_ns: int) -> DecodedBatch:
        names: list[str] = []
        values: list[float | None] = []
        texts: list[str | None] = []
        for i, channel in enumerate(kit.model.channels):
            if channel.id in kit.model.stream_channels:
                continue
            names.append(channel.id)
            if channel.kind is ValueKind.TEXT:
                values.append(None)
                texts.append("pick_and_place_eight")
                continue
            number = self._value(kit, channel, now_ns / SECOND * 0.7 + i)
            values.append(number)
            texts.append(channel.state_name(int(number)) if channel.kind is ValueKind.ENUM else None)
        n = len(names)
        data = encode_events(
            self._header(kit, EVENT_STREAM), [now_ns] * n, names, values, texts, [0] * n, [None] * n, [now_ns] * n
        )
        return decode(data, self.edge, self.kits, now_ns)


def calm_state(channel: Channel) -> int:
    """A state of an enum that raises no alarm."""
    alarming = {str(alarm.condition.value) for alarm in channel.alarms}
    return next((v.value for v in channel.values if v.id not in alarming and str(v.value) not in alarming), 0)


def calm_bool(channel: Channel) -> bool:
    """The truth value of a channel that raises no alarm by itself."""
    return next((not alarm.condition.value for alarm in channel.alarms if alarm.condition.op == "eq"), True)
