"""Source for an OpenBCI Cyton on a serial port: hands on frames of raw EEG, and as events what is computed from it.

The serial reader thread only queues bytes; decoding, timing and measuring happen in the event loop. EEG time comes from
the board's sample counter, led by the times of arrival (sample_clock.py). The board cannot tell that it was unplugged
or switched off, so a silence of `stall_s` ends the readings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import ClassVar, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_agent.eeg_measures import EegMeter, Measured
from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.sample_clock import SampleClock, SampleCounter
from edge_agent.serial_link import SerialSession
from edge_agent.source import Event, Frame, Reading, SourceContext
from firmware_bridge import cyton
from firmware_bridge.ports import Chunk, check_port
from lab_contract.kit import Stream

BANNER_S = 6.0
"""The longest that a board takes from the soft reset to the end of its banner, through the dongle."""
ANSWER_S = 2.0
PERIOD_NS = 1e9 / cyton.RATE_HZ
CLOCK_STEP_NS = 250_000_000
"""A jump of wall time against monotonic time beyond this is the computer's clock being set, not drift."""

Gain = Literal[1, 2, 4, 6, 8, 12, 24]
HEAD_MEASURES = ("line_noise", "lost_samples")


class Settings(BaseModel):
    """Where the board is and how it is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: str = Field(description="device path, COM port, usb:VID:PID[:SERIAL] or socket://host:port")
    baudrate: int = Field(default=cyton.BAUDRATE, gt=0)
    gain: Gain | tuple[Gain, Gain, Gain, Gain, Gain, Gain, Gain, Gain] = Field(
        default=24, description="of all channels, or of each of the eight"
    )
    line_hz: Literal[50, 60] = Field(default=50, description="mains frequency on site")
    stall_s: float = Field(default=2.0, gt=0, description="silence that counts as a lost board")

    @field_validator("port")
    @classmethod
    def _is_port(cls, port: str) -> str:
        check_port(port)
        return port

    @property
    def gains(self) -> tuple[int, ...]:
        """Of channels 1 to 8."""
        return self.gain if isinstance(self.gain, tuple) else (self.gain,) * cyton.CHANNELS


class Address(BaseModel):
    """What a channel is: the raw EEG of a board channel (`index` alone), a measure of it, or one of the whole head.

    `thinkgear` names what only a ThinkGear head reports; a Cyton never fills it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int | None = Field(default=None, ge=0, lt=cyton.CHANNELS)
    measure: Literal["delta", "theta", "alpha", "beta", "gamma", "quality", "line_noise", "lost_samples"] | None = None
    thinkgear: Literal["poor_signal", "attention", "meditation"] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Address:
        if self.thinkgear is not None:
            if self.index is not None or self.measure is not None:
                raise ValueError("expected `thinkgear` alone")
        elif self.measure in HEAD_MEASURES:
            if self.index is not None:
                raise ValueError(f"expected no `index` beside measure {self.measure}, it is of the whole head")
        elif self.index is None:
            raise ValueError("expected `index`, the channel of the board from 0 to 7")
        return self


class CytonSource:
    """Reads one board. `facts` tell what it is, `counters` what went wrong on the way."""

    Settings: ClassVar[type[BaseModel]] = Settings
    Address: ClassVar[type[BaseModel]] = Address

    def __init__(self, context: SourceContext) -> None:
        self._settings = cast(Settings, context.settings)
        self._clock = context.clock
        self._session: SerialSession | None = None
        self._measured: dict[tuple[str, int | None], str] = {}
        raw: dict[str, int] = {}
        for bound in context.channels:
            address = cast(Address, bound.address)
            if address.measure is not None:
                self._measured[address.measure, address.index] = bound.channel.id
            elif address.index is not None:
                raw[bound.channel.id] = address.index
        self._streams: list[tuple[Stream, list[int]]] = []
        for stream in context.streams:
            strange = [channel for channel in stream.channels if channel not in raw]
            if strange:
                raise SourceMisconfigured(f"stream {stream.id}", f"expected raw EEG channels only, found {strange[0]}")
            self._streams.append((stream, [raw[channel] for channel in stream.channels]))
        self.counters: dict[str, int] = {
            "packets": 0,
            "lost": 0,
            "resyncs": 0,
            "garbage_bytes": 0,
            "overflow_bytes": 0,
            "stalls": 0,
            "clock_steps": 0,
            "unsaid_stops": 0,
        }
        self.facts: dict[str, str] = {}

    async def open(self) -> None:
        """Reset the board, check who it is, set it and start it. Raises SourceUnavailable or SourceMisconfigured."""
        session = SerialSession(self._settings.port, baudrate=self._settings.baudrate, clock=self._clock)
        await session.open()
        self._session = session
        # A board left streaming by a process that died would answer in the middle of its packets.
        await session.write(cyton.STOP)
        banner = await self._reset(session)
        await self._ask(session, cyton.DEFAULTS, "")
        for channel, gain in enumerate(self._settings.gains, start=1):
            if gain != cyton.DEFAULT_GAIN:
                await self._ask(session, cyton.ChannelSettings(channel, gain).command(), "Success")
        self.facts.update(
            board=banner.board, firmware=banner.firmware, device=session.link.device, rate_hz=f"{cyton.RATE_HZ:g}"
        )
        self._decoder = cyton.CytonDecoder(self._settings.gains)
        self._sample_clock = SampleClock(PERIOD_NS)
        self._counter = SampleCounter(self._sample_clock)
        self._meter = EegMeter(cyton.RATE_HZ, self._settings.line_hz, cyton.CHANNELS)
        self._wall_ns = self._clock.time_ns() - self._clock.monotonic_ns()
        self._counted: dict[str, int] = {}
        self._last_t = 0
        await session.write(cyton.START)

    async def _reset(self, session: SerialSession) -> cyton.Banner:
        reply = await self._ask(session, cyton.SOFT_RESET, "OpenBCI", BANNER_S)
        banner = cyton.parse_banner(reply)
        if banner is None:
            raise SourceMisconfigured("port", f"expected the banner of an OpenBCI Cyton, found {reply.strip()!r:.80}")
        return banner

    async def _ask(self, session: SerialSession, command: bytes, expected: str, within_s: float = ANSWER_S) -> str:
        """The first answer with `expected` in it; others may still be on the way from before."""
        await session.write(command)
        replies = cyton.ReplyReader()
        deadline = self._clock.monotonic_ns() + round(within_s * 1e9)
        seen = ""
        while (left := deadline - self._clock.monotonic_ns()) > 0:
            for chunk in await session.read(left / 1e9):
                for reply in replies.feed(chunk.data):
                    if cyton.is_failure(reply):
                        raise SourceUnavailable(f"the dongle answers, the board does not: {reply.strip():.80}")
                    if expected in reply:
                        return reply
                    seen = reply.strip()
        found = f"found {seen!r:.80}" if seen else "the board does not answer"
        raise SourceUnavailable(f"{command.decode()!r}: expected an answer within {within_s:g} s, {found}")

    async def readings(self) -> AsyncIterator[Reading]:
        """Frames of the streams and events of the derived channels. Ends by SourceUnavailable."""
        session = self._session
        if session is None:
            raise SourceUnavailable("the source is not open")
        stall_ns = round(self._settings.stall_s * 1e9)
        heard = self._clock.monotonic_ns()
        while True:
            left = heard + stall_ns - self._clock.monotonic_ns()
            before = heard
            # Also when the time is over: what waits here may be old only because our reader was slow to take it.
            chunks = await session.read(max(0.0, left / 1e9))
            for chunk in chunks:
                block = self._decoder.feed(chunk.data)
                if len(block):
                    heard = chunk.t
                    for reading in self._read(block, chunk):
                        yield reading
            self._count(session)
            if not chunks or (left <= 0 and heard == before):
                self.counters["stalls"] += 1
                raise SourceUnavailable(f"no sample for {self._settings.stall_s:g} s: the board is off or out of reach")

    def _read(self, block: cyton.CytonBlock, chunk: Chunk) -> list[Reading]:
        self._follow_wall_clock()
        arrival = chunk.t + self._wall_ns
        counts, lost = self._counter.place(block.numbers, arrival, chunk.drained)
        self.counters["lost"] += int(lost.sum())
        self._sample_clock.observe(int(counts[-1]), arrival)
        t = self._sample_clock.times(counts)
        self._last_t = int(t[-1])
        readings: list[Reading] = []
        measured: list[Measured] = []
        # A gap may only stand in front of a frame.
        edges = [0, *(int(i) for i in np.flatnonzero(lost) if i), len(t)]
        for begin, end in pairwise(edges):
            eeg, times, gap = block.eeg[:, begin:end], t[begin:end], int(lost[begin])
            frames = (Frame(stream.id, times, eeg[rows].astype(np.float32), gap) for stream, rows in self._streams)
            readings.extend(frames)
            measured += self._meter.feed(times, eeg, gap)
        events = self._events(measured)
        if events:
            readings.append(events)
            self.facts["drift_ppm"] = f"{self._sample_clock.drift_ppm:.0f}"
        return readings

    def _events(self, measured: list[Measured]) -> list[Event]:
        wanted = ((self._measured.get((m.measure, m.index)), m) for m in measured)
        return [Event(channel, m.t, round(m.value, 4)) for channel, m in wanted if channel is not None]

    def _follow_wall_clock(self) -> None:
        """Keep samples on UTC when somebody sets this computer's clock."""
        wall = self._clock.time_ns() - self._clock.monotonic_ns()
        step = wall - self._wall_ns
        if abs(step) > CLOCK_STEP_NS:
            self.counters["clock_steps"] += 1
            if step < 0:
                # Time must not run backwards within one run of samples: end it, the next one starts on the new time.
                raise SourceUnavailable(f"the clock of this computer was set back by {-step / 1e9:.1f} s")
            self._sample_clock.shift(step)
        self._wall_ns = wall

    def _count(self, session: SerialSession) -> None:
        found = {
            **{name: self._decoder.counters[name] for name in ("packets", "resyncs", "garbage_bytes")},
            "overflow_bytes": session.link.counters["overflow_bytes"],
        }
        for name, number in found.items():
            self.counters[name] += number - self._counted.get(name, 0)
        self._counted = found

    async def close(self) -> None:
        """Stop the board and let go of the port. Safe to call again."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            await session.write(cyton.STOP)
        except SourceUnavailable:
            # The port is gone, which is mostly why we close; the next opening stops the board first.
            self.counters["unsaid_stops"] += 1
        finally:
            await session.close()
