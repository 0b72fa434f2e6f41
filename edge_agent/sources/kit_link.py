"""Source for a kit's own controller on a serial port (firmware_bridge/kit_link.py): hands on its telemetry as events.

Every telemetry group becomes one list of events that share a time, taken from the controller's milliseconds and led by
the times of arrival. Channels without a rate are handed on when they change. A silence of `stall_s`, in which not even
the controller's heartbeat comes, ends the readings.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import ClassVar, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.sample_clock import SampleClock
from edge_agent.serial_link import SerialSession
from edge_agent.source import BoundChannel, Event, Lost, Reading, SourceContext
from firmware_bridge import kit_link
from firmware_bridge.framing import Frame, FrameDecoder, encode
from firmware_bridge.ports import Chunk, check_port
from lab_contract.batch import GapReason
from lab_contract.kit import ValueKind

NO_VALUE = 0x808C_0000
"""OPC UA StatusCode BadSensorFailure: the controller reports the field, but has no value for it."""
MILLISECOND_NS = 1e6
RESTART_MS = 10_000
"""Controller time that goes back is late by no more than this; beyond it the controller has started anew."""
CLOCK_STEP_NS = 250_000_000
"""A jump of wall time against monotonic time beyond this is the computer's clock being set, not drift."""


class Settings(BaseModel):
    """Where the controller is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: str = Field(description="device path, COM port, usb:VID:PID[:SERIAL] or socket://host:port")
    baudrate: int = Field(default=kit_link.BAUDRATE, gt=0)
    answer_s: float = Field(default=3.0, gt=0, description="how long the controller may take to say who it is")
    stall_s: float = Field(default=3.0, gt=0, description="silence that counts as a lost controller")

    @field_validator("port")
    @classmethod
    def _is_port(cls, port: str) -> str:
        check_port(port)
        return port


class Address(BaseModel):
    """Where a channel is read: a telemetry group and a field of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message: str
    field: str

    @model_validator(mode="after")
    def _is_known(self) -> Address:
        group = kit_link.GROUPS.get(self.message)
        if group is None:
            raise ValueError(f"expected `message` to be one of {', '.join(kit_link.GROUPS)}, found {self.message!r}")
        if self.field not in group.fields:
            raise ValueError(f"expected `field` to be one of {', '.join(group.fields)}, found {self.field!r}")
        return self


class KitLinkSource:
    """Reads one controller."""

    Settings: ClassVar[type[BaseModel]] = Settings
    Address: ClassVar[type[BaseModel]] = Address

    def __init__(self, context: SourceContext) -> None:
        if context.streams:
            raise SourceMisconfigured(
                f"stream {context.streams[0].id}", "expected none: kit_link hands on events, not frames"
            )
        self._settings = cast(Settings, context.settings)
        self._clock = context.clock
        self._session: SerialSession | None = None
        self._bound: dict[str, list[tuple[str, BoundChannel]]] = {}
        for bound in context.channels:
            address = cast(Address, bound.address)
            self._bound.setdefault(address.message, []).append((address.field, bound))
        self.counters: dict[str, int] = {
            "frames": 0,
            "lost": 0,
            "bad_frames": 0,
            "garbage_bytes": 0,
            "malformed": 0,
            "unknown": 0,
            "overflow_bytes": 0,
            "bad_quality": 0,
            "restarts": 0,
            "stalls": 0,
            "clock_steps": 0,
        }
        self.facts: dict[str, str] = {}

    async def open(self) -> None:
        """Ask the controller who it is. Raises SourceUnavailable or SourceMisconfigured."""
        session = SerialSession(self._settings.port, baudrate=self._settings.baudrate, clock=self._clock)
        await session.open()
        self._session = session
        self._decoder = FrameDecoder()
        self._counted: dict[str, int] = {}
        self._latest: dict[str, float] = {}
        self._ms: int | None = None
        self._wall_ns = self._clock.time_ns() - self._clock.monotonic_ns()
        self._early: list[tuple[Chunk, list[Frame]]] = []
        await session.write(encode(Frame(*_head(kit_link.Hello()))))
        info = await self._info(session)
        if info.version != kit_link.VERSION:
            raise SourceMisconfigured(
                "port", f"expected a controller with kit_link version {kit_link.VERSION}, found version {info.version}"
            )
        self.facts.update(controller=info.text, device=session.link.device)

    async def _info(self, session: SerialSession) -> kit_link.Info:
        deadline = self._clock.monotonic_ns() + round(self._settings.answer_s * 1e9)
        while (left := deadline - self._clock.monotonic_ns()) > 0:
            for chunk in await session.read(left / 1e9):
                frames = self._decoder.feed(chunk.data)
                # Telemetry that came with the answer is the controller's whole state: it is read first.
                self._early.append((chunk, frames))
            for _, frames in self._early:
                for frame in frames:
                    if frame.type == kit_link.Type.INFO and isinstance(info := self._decode(frame), kit_link.Info):
                        return info
        raise SourceUnavailable(f"the controller did not say who it is within {self._settings.answer_s:g} s")

    async def readings(self) -> AsyncIterator[Reading]:
        """One list of events for each telemetry group that brings something new, Lost where packets are missing.

        Ends by SourceUnavailable.
        """
        session = self._session
        if session is None:
            raise SourceUnavailable("the source is not open")
        early, self._early = self._early, []
        for chunk, frames in early:
            for events in self._read(chunk, frames):
                yield events
        stall_ns = round(self._settings.stall_s * 1e9)
        heard = self._clock.monotonic_ns()
        while True:
            left = heard + stall_ns - self._clock.monotonic_ns()
            before = heard
            # Also when the time is over: what waits here may be old only because our reader was slow to take it.
            chunks = await session.read(max(0.0, left / 1e9))
            for chunk in chunks:
                frames = self._decoder.feed(chunk.data)
                if frames:
                    heard = chunk.t
                if self._decoder.counters["lost"] > self._counted.get("lost", 0):
                    self._count(session)
                    yield Lost(GapReason.COUNTER_JUMP)  # packets are counted, not the changes in them
                for events in self._read(chunk, frames):
                    yield events
            self._count(session)
            if not chunks or (left <= 0 and heard == before):
                self.counters["stalls"] += 1
                raise SourceUnavailable(f"nothing from the controller for {self._settings.stall_s:g} s")

    def _decode(self, frame: Frame) -> kit_link.Message | None:
        try:
            message = kit_link.decode(frame)
        except kit_link.MessageMalformed:
            self.counters["malformed"] += 1
            return None
        if message is None:
            self.counters["unknown"] += 1
        return message

    def _read(self, chunk: Chunk, frames: list[Frame]) -> list[list[Event]]:
        readings: list[list[Event]] = []
        for frame in frames:
            message = self._decode(frame)
            if isinstance(message, kit_link.Telemetry):
                events = self._events(message, chunk.t)
                if events:
                    readings.append(events)
        return readings

    def _events(self, telemetry: kit_link.Telemetry, arrival_monotonic: int) -> list[Event]:
        self._follow_wall_clock()
        receipt = arrival_monotonic + self._wall_ns
        t = self._time(telemetry.ms, receipt)
        events: list[Event] = []
        for field, bound in self._bound.get(telemetry.group, ()):
            channel, value = bound.channel, telemetry.values[field]
            if channel.rate_hz is None and self._is_same(channel.id, value):
                continue
            if not math.isfinite(value):
                self.counters["bad_quality"] += 1
                events.append(Event(channel.id, t, None, quality=NO_VALUE, t_receipt=receipt))
                continue
            text = channel.state_name(int(value)) if channel.kind is ValueKind.ENUM else None
            # What travelled as float32 deserves no more digits: 0.05, not 0.05000000074505806.
            events.append(Event(channel.id, t, round(float(value), 6), text, t_receipt=receipt))
        return events

    def _is_same(self, channel: str, value: float) -> bool:
        before = self._latest.get(channel)
        self._latest[channel] = value
        return before is not None and (before == value or (math.isnan(before) and math.isnan(value)))

    def _time(self, ms: int, receipt: int) -> int:
        wrap = kit_link.MILLISECONDS_WRAP
        step = 0 if self._ms is None else (ms - self._ms + wrap // 2) % wrap - wrap // 2
        if self._ms is None or step < -RESTART_MS:
            self.counters["restarts"] += self._ms is not None
            self._sample_clock = SampleClock(MILLISECOND_NS)
            self._ms, self._count_ms, self._t = ms, 0, 0
            step = 0
            self._sample_clock.observe(0, receipt)
            self._t = int(self._sample_clock.times(np.zeros(1, np.int64))[0])
        if step > 0:
            self._ms = ms
            self._count_ms += step
            self._sample_clock.observe(self._count_ms, receipt)
            self._t = int(self._sample_clock.times(np.array([self._count_ms]))[0])
        # Groups of the same millisecond share one time, and one that overtook another does not go back.
        return self._t

    def _follow_wall_clock(self) -> None:
        wall = self._clock.time_ns() - self._clock.monotonic_ns()
        step = wall - self._wall_ns
        if abs(step) > CLOCK_STEP_NS:
            self.counters["clock_steps"] += 1
            # Start the controller's time anew; each event carries its own time, so it may follow the clock back.
            self._ms = None
        self._wall_ns = wall

    def _count(self, session: SerialSession) -> None:
        found = {**self._decoder.counters, "overflow_bytes": session.link.counters["overflow_bytes"]}
        for name, number in found.items():
            self.counters[name] += number - self._counted.get(name, 0)
        self._counted = found

    async def close(self) -> None:
        """Let go of the port. Safe to call again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _head(message: kit_link.Message) -> tuple[int, int, bytes]:
    kind, payload = kit_link.encode(message)
    return kind, 0, payload
