"""The edge agent: builds the line from the settings and keeps all of it running in one task group.

equipment ─▶ source ─▶ batch ─▶ spool ─▶ uplink ═MQTT═▶ hub
             runner   batcher  outbox
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter

from edge_agent.batcher import Batcher
from edge_agent.clock import Clock, SystemClock
from edge_agent.clock_offset import ClockOffset
from edge_agent.gaps import ConnectionWatch
from edge_agent.health import Health
from edge_agent.outbox import Outbox
from edge_agent.runner import SourceRunner
from edge_agent.settings import EdgeSettings, KitPlan, SourcePlan, source_context
from edge_agent.source import Event, Frame
from edge_agent.spool import Spool
from edge_agent.uplink import Uplink
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import Shape
from lab_contract.messages import KitStatus

REMEMBER_S = 5.0
"""How often the spool is told that quiet connections live: a gap after a stop begins no earlier before it than this."""


class KitLine:
    """One kit's batcher with the timer that empties it into the outbox. `watches` are those of its connections."""

    def __init__(self, kit: str, batcher: Batcher, outbox: Outbox, clock: Clock) -> None:
        self._kit = kit
        self._batcher = batcher
        self._outbox = outbox
        self._clock = clock
        self._told: dict[tuple[str, str], int] = {}
        self.watches: list[ConnectionWatch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0

    def deliver(self, reading: list[Event] | Frame) -> None:
        """A reading with data of any of the kit's connections."""
        now = self._clock.monotonic_ns()
        self._batcher.add(reading, now, self._clock.time_ns())
        self._set_timer(now)

    def flush(self) -> None:
        """At the end: hand on everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hand_on(None)

    def remember(self) -> None:
        """Tell the spool when each connection was last heard, unless events of before are still on their way."""
        if self._batcher.has_events:
            return
        heard = {(self._kit, watch.name): watch.heard_ns for watch in self.watches}
        new = {key: t for key, t in heard.items() if t is not None and self._told.get(key) != t}
        self._told |= new
        self._outbox.remember(new)

    def _hand_on(self, now: int | None) -> None:
        batches = self._batcher.take(now)
        self._outbox.put(batches)
        frames = {(self._kit, batch.stream): batch.t_last for batch in batches if batch.shape is Shape.FRAME}
        if frames:
            self._outbox.remember(frames)
        if len(frames) < len(batches) or now is None:
            self.remember()

    def _set_timer(self, now: int) -> None:
        due = self._batcher.due_ns()
        if due is None or (self._timer is not None and self._timer_due_ns <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_ns = due
        self._timer = asyncio.get_running_loop().call_later(max(0, due - now) / 1e9, self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        now = self._clock.monotonic_ns()
        self._hand_on(now)
        self._set_timer(now)


class Agent:
    """One edge agent. `run` it once; cancel it to stop."""

    def __init__(self, settings: EdgeSettings, *, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._health = Health(self._clock)
        self._offset = ClockOffset(self._clock)
        self._spool = Spool(
            settings.data,
            edge=settings.edge,
            clock=self._clock,
            limit_bytes=settings.spool.limit_mb * 2**20,
            reserved=settings.spool.reserved_percent / 100,
            keep_hours=settings.spool.keep_acknowledged_hours,
            offset=self._offset.offset,
        )
        self._runners: dict[str, list[SourceRunner]] = {}
        self._lines: list[KitLine] = []
        self._counted: list[dict[str, int]] = []

    async def run(self) -> None:
        """Read, spool and send until cancelled; then what was read is made durable before this returns.

        Raises DataFolderInUse and SpoolUnavailable at the start.
        """
        await self._spool.open()
        uplink = self._uplink()
        outbox = Outbox(self._spool, uplink.appended, clock=self._clock)
        self._counted.append(outbox.counters)
        for kit in self._settings.kits:
            self._build(kit, outbox, uplink)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(outbox.run(), name="outbox")
                group.create_task(uplink.run(), name="uplink")
                group.create_task(self._remember(), name="remember")
                for kit, runners in self._runners.items():
                    for i, runner in enumerate(runners):
                        group.create_task(runner.run(), name=f"runner {kit} {i}")
        finally:
            for line in self._lines:
                line.flush()
            await outbox.drain()
            await self._spool.close()

    async def _remember(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_S)
            for line in self._lines:
                line.remember()

    def _uplink(self) -> Uplink:
        hub = self._settings.hub
        return Uplink(
            edge=self._settings.edge,
            spool=self._spool,
            kits=self._kits,
            counters=self._counters,
            health=self._health,
            clock=self._clock,
            offset=self._offset,
            window=hub.window,
            backlog_bytes_s=hub.backlog_kb_s * 1024,
            make_link=functools.partial(
                MqttLink,
                hub.url,
                user=hub.user,
                password=self._settings.password,
                ca_file=self._settings.base / hub.ca_file if hub.ca_file else None,
                rng=self._rng,
            ),
        )

    def _build(self, kit: KitPlan, outbox: Outbox, uplink: Uplink) -> None:
        batcher = Batcher(
            edge=self._settings.edge,
            kit=kit.id,
            epoch=self._spool.epoch,
            streams=kit.model.streams,
            take_seq=self._spool.take_seq,
            batch_ms=self._settings.batch_ms,
            offset=self._offset.offset,
        )
        line = KitLine(kit.id, batcher, outbox, self._clock)
        self._lines.append(line)
        self._counted.append(batcher.counters)
        self._runners[kit.id] = [
            SourceRunner(
                plan,
                make=functools.partial(plan.source, source_context(plan, self._settings, self._clock, self._health)),
                deliver=line.deliver,
                watch=self._watch(plan, line, outbox),
                on_change=uplink.status_changed,
                health=self._health,
                clock=self._clock,
                rng=self._rng,
            )
            for plan in kit.sources
        ]

    def _watch(self, plan: SourcePlan, line: KitLine, outbox: Outbox) -> ConnectionWatch | None:
        if plan.connection.protocol == "agent":
            return None  # its own figures stop with the agent, and the equipment's connections tell of that
        streamed = {channel for stream in plan.streams for channel in stream.channels}
        watch = ConnectionWatch(
            kit=plan.kit,
            connection=plan.connection.id,
            streams=plan.streams,
            changes=any(bound.channel.id not in streamed for bound in plan.channels),
            ends=self._spool.ends,
            lose=outbox.lose,
            clock=self._clock,
        )
        line.watches.append(watch)
        return watch

    def _kits(self) -> tuple[KitStatus, ...]:
        return tuple(
            KitStatus(
                id=kit.id,
                model=kit.model.id,
                model_version=kit.model.version,
                digest=kit.model.digest,
                connections=tuple(runner.status() for runner in self._runners[kit.id]),
            )
            for kit in self._settings.kits
        )

    def _counters(self) -> dict[str, int]:
        counters: Counter[str] = Counter()
        for counted in self._counted:
            counters.update(counted)
        return dict(counters)
