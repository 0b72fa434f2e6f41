"""Source for equipment that publishes JSON over MQTT: subscribes below one prefix, hands on frames and events.

One message may carry many fields: a channel's address names the topic below the prefix and the field in the JSON
object, `position.0` for the first item of the list `position`. Channels of one stream stand in the same message, each
message gives one sample of them. Beside the fields a message may carry a sequence number, counted per topic, and the
time of the equipment in UTC ns; without them nothing is known to be lost and the time of receipt is used.

The network thread only queues; decoding happens in the event loop. What cannot be used is counted, and the latest
reason is in `facts`: a hostile message costs itself and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.json_values import BadValue, convert, pick
from edge_agent.passwords import read_password
from edge_agent.source import BoundChannel, Event, Frame, Lost, Reading, SourceContext
from firmware_bridge.mqtt_link import MqttLink, parse_url
from lab_contract.batch import GapReason
from lab_contract.kit import Stream, ValueKind

BAD = 0x8000_0000
"""OPC UA StatusCode Bad: the equipment says `null`, it has no value now."""
MAX_PAYLOAD = 64 * 1024
MAX_GAP = 100_000
"""A jump of the sequence number beyond this is a new count, not a loss."""
AT_ONCE = 200
"""Messages decoded before the event loop gets a turn."""
FRAME_MOST = float(np.finfo(np.float32).max)
STOP_S = 3.0
PASSING_REFUSAL = "Server unavailable"
"""The one refusal of a sign-in that passes by itself."""

TopicName = Annotated[str, Field(pattern=r"^[^/+#\s\x00](?:[^+#\s\x00]*[^/+#\s\x00])?$", max_length=200)]

Wanted = tuple[tuple[str, ...], BoundChannel]


class Settings(BaseModel):
    """Where the broker is and how messages are read; paths of files are relative to the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="mqtt://host:port or mqtts://host:port")
    prefix: TopicName = Field(description="every topic of the kit stands below this one")
    user: str | None = None
    password_file: Path | None = None
    password_env: str | None = Field(default=None, description="environment variable, in place of the file")
    ca_file: Path | None = None
    request_topic: TopicName | None = Field(default=None, description="a message here brings all states again")
    sequence_field: str | None = "seq"
    time_field: str | None = "t_ns"
    max_clock_error_s: float = Field(default=300, gt=0, description="further from our time, theirs is not believed")
    stale_after_s: float = Field(default=10, gt=0, description="silence that counts as a lost link")
    connect_within_s: float = Field(default=10, gt=0)
    max_queued: int = Field(default=2000, ge=1)

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parse_url(url)
        return url

    @model_validator(mode="after")
    def _password_has_user(self) -> Settings:
        if self.user is None and (self.password_file is not None or self.password_env is not None):
            raise ValueError("expected `user` beside the password")
        return self


class Address(BaseModel):
    """Where a channel is read: the topic below the prefix, and the field in its JSON (left out: the whole payload)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: TopicName
    field: str = Field(default="", pattern=r"^(?:[^.]+(?:\.[^.]+)*)?$", description="keys and list indices, by points")
    each: bool = Field(default=False, description="every new message counts, also with an equal value: a cycle time")


@dataclass
class _Topic:
    """What is known of one topic: who wants what of it, and how far it has counted."""

    name: str
    events: list[Wanted] = field(default_factory=list[Wanted])
    streams: list[tuple[Stream, list[Wanted]]] = field(default_factory=list[tuple[Stream, list[Wanted]]])
    seq: int | None = None
    t: int = 0


@dataclass(slots=True)
class _Rows:
    """Samples of a stream on their way into one frame."""

    t: list[int]
    values: list[list[float]]
    lost: int


class MqttSource:
    """Reads one kit's topics from a broker.

    Counters: `messages`; `lost` messages by sequence number, and `overflow` dropped here for want of time (these are
    lost too); `malformed` payloads; `bad_values` fields; `bad_times` not believed; `bad_quality` nulls; `repeated`
    messages; `recounts`, sequence numbers that began anew.
    """

    Settings: ClassVar[type[BaseModel]] = Settings
    Address: ClassVar[type[BaseModel]] = Address

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._settings = cast(Settings, context.settings)
        self._topics: dict[str, _Topic] = {}
        self._last: dict[str, float | str | None] = {}
        self._queue: deque[tuple[_Topic, bytes, int]] = deque()
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._link: MqttLink | None = None
        self._link_said: tuple[bool, str] | None = None
        self._misbound: SourceMisconfigured | None = None
        names = ("messages", "lost", "overflow", "malformed", "bad_values")
        self.counters: dict[str, int] = dict.fromkeys((*names, "bad_times", "bad_quality", "repeated", "recounts"), 0)
        self.facts: dict[str, str] = {"broker": self._settings.url, "prefix": self._settings.prefix}
        self._bind()

    def _bind(self) -> None:
        by_id = {bound.channel.id: bound for bound in self._context.channels}
        streamed: set[str] = set()
        for stream in self._context.streams:
            wanted = [self._wanted(by_id[channel]) for channel in stream.channels if channel in by_id]
            topics = {cast(Address, bound.address).topic for _, bound in wanted}
            if len(topics) != 1 or len(wanted) != len(stream.channels):
                self._misbound = SourceMisconfigured(
                    f"streams.{stream.id}", f"expected all its channels on one topic, found {sorted(topics)}"
                )
                continue
            streamed.update(stream.channels)
            self._topic(topics.pop()).streams.append((stream, wanted))
        for bound in self._context.channels:
            if bound.channel.id not in streamed:
                self._topic(cast(Address, bound.address).topic).events.append(self._wanted(bound))

    @staticmethod
    def _wanted(bound: BoundChannel) -> Wanted:
        path = cast(Address, bound.address).field
        return tuple(path.split(".")) if path else (), bound

    def _topic(self, name: str) -> _Topic:
        return self._topics.setdefault(f"{self._settings.prefix}/{name}", _Topic(name))

    async def open(self) -> None:
        """Connect and subscribe. Raises SourceUnavailable; SourceMisconfigured where the broker refuses the account."""
        if self._misbound is not None:
            raise self._misbound
        await self.close()
        settings, loop = self._settings, asyncio.get_running_loop()

        def on_connection(connected: bool, detail: str) -> None:
            loop.call_soon_threadsafe(self._on_connection, link, connected, detail)

        def on_message(topic: str, payload: bytes) -> None:
            if self._enqueue(topic, payload):
                loop.call_soon_threadsafe(self._wake.set)

        link = MqttLink(
            settings.url,
            client_id=f"edge-{self._context.kit}-{secrets.token_hex(6)}",
            user=settings.user,
            password=await asyncio.to_thread(read_password, settings, self._context.base),
            ca_file=self._context.base / settings.ca_file if settings.ca_file else None,
            on_message=on_message,
            on_connection=on_connection,
        )
        self._link, self._link_said = link, None
        self._last.clear()
        # One subscription, because NATS grants a session only as many as fit into 65,535 unacknowledged messages.
        link.subscribe(f"{settings.prefix}/#")
        link.start()
        try:
            async with asyncio.timeout(settings.connect_within_s):
                while self._link_said is None:
                    self._wake.clear()
                    await self._wake.wait()
            self._check_connected(link)
        except TimeoutError:
            await self.close()
            raise SourceUnavailable(f"{settings.url}: no answer within {settings.connect_within_s:g} s") from None
        except BaseException:
            await self.close()
            raise
        if settings.request_topic is not None:
            link.publish(f"{settings.prefix}/{settings.request_topic}", b"{}")
        self._wake.set()

    def _check_connected(self, link: MqttLink) -> None:
        connected, detail = self._link_said or (False, "")
        if not connected:
            if link.refusal is not None and link.refusal != PASSING_REFUSAL:
                raise SourceMisconfigured("user", f"expected an account that the broker accepts: {link.refusal}")
            raise SourceUnavailable(f"{self._settings.url}: {detail}")
        if link.counters["refused_subscriptions"]:
            raise SourceMisconfigured("prefix", f"expected topics that the account may hear: {self._settings.prefix}")

    def _on_connection(self, link: MqttLink, connected: bool, detail: str) -> None:
        if link is self._link:
            self._link_said = connected, detail or "connection lost"
            self._wake.set()

    def _enqueue(self, topic: str, payload: bytes) -> bool:
        """Queue a message on the network thread; True where the event loop must be woken for it."""
        known = self._topics.get(topic)
        if known is None:
            return False
        with self._lock:
            if len(self._queue) >= self._settings.max_queued:
                self._queue.popleft()
                self.counters["overflow"] += 1
            self._queue.append((known, payload, self._context.clock.time_ns()))
            return len(self._queue) == 1

    async def readings(self) -> AsyncIterator[Reading]:
        """Frames and events, for ever. Raises SourceUnavailable when the link is lost or silent for too long."""
        settings = self._settings
        while True:
            try:
                async with asyncio.timeout(settings.stale_after_s):
                    await self._wake.wait()
            except TimeoutError:
                raise SourceUnavailable(f"nothing below {settings.prefix} for {settings.stale_after_s:g} s") from None
            self._wake.clear()
            while messages := self._take():
                for reading in self._decode(messages):
                    yield reading
                await asyncio.sleep(0)
            if self._link_said is not None and not self._link_said[0]:
                raise SourceUnavailable(f"{settings.url}: {self._link_said[1]}")

    async def close(self) -> None:
        """Disconnect. Safe to call again."""
        link, self._link = self._link, None
        if link is not None:
            await asyncio.to_thread(link.stop, STOP_S)
        with self._lock:
            self._queue.clear()

    def _take(self) -> list[tuple[_Topic, bytes, int]]:
        with self._lock:
            return [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]

    def _decode(self, messages: list[tuple[_Topic, bytes, int]]) -> Iterator[Reading]:
        events: list[Event] = []
        pending: dict[str, _Rows] = {}
        for topic, payload, receipt in messages:
            self.counters["messages"] += 1
            body = self._parse(topic, payload)
            if body is None:
                continue
            t = self._time(topic, body, receipt)
            fresh, lost = self._count(topic, body, t)
            if lost and topic.events:
                yield Lost(GapReason.COUNTER_JUMP)  # messages are counted, not the changes in them
            self._events(topic, body, t, receipt, fresh, events)
            if not fresh:
                continue
            for stream, wanted in topic.streams:
                if lost and stream.id in pending:
                    yield _frame(stream.id, pending.pop(stream.id))
                rows = pending.setdefault(stream.id, _Rows([], [], lost))
                rows.t.append(t)
                rows.values.append([self._number(topic, body, path, bound) for path, bound in wanted])
        if events:
            yield events
        for stream_id, rows in pending.items():
            yield _frame(stream_id, rows)

    def _parse(self, topic: _Topic, payload: bytes) -> Any:
        if len(payload) > MAX_PAYLOAD:
            return self._fault("malformed", topic, f"{len(payload)} bytes, expected at most {MAX_PAYLOAD}")
        try:
            body = json.loads(payload, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            return self._fault("malformed", topic, f"expected JSON: {error}")
        if body is None:
            return self._fault("malformed", topic, "expected a value or an object, found null")
        return body

    def _fault(self, counter: str, topic: _Topic, reason: str) -> None:
        self.counters[counter] += 1
        self.facts["last_fault"] = f"{topic.name}: {reason}"[:200]

    def _time(self, topic: _Topic, body: Any, receipt: int) -> int:
        name = self._settings.time_field
        if name is None or not isinstance(body, dict) or name not in body:
            return receipt
        t: object = body[name]
        if isinstance(t, int) and not isinstance(t, bool):
            if abs(t - receipt) <= self._settings.max_clock_error_s * 1e9:
                return t
            ahead = (max(-(2**63), min(2**63, t)) - receipt) / 1e9
            self._fault("bad_times", topic, f"{name} is {ahead:.0f} s ahead of our clock; time of receipt used")
        else:
            self._fault("bad_times", topic, f"{name}: expected UTC ns, found {t!r:.40}; time of receipt used")
        return receipt

    def _count(self, topic: _Topic, body: Any, t: int) -> tuple[bool, int]:
        """(whether the message tells something new, messages lost just before it) by the sequence number."""
        name = self._settings.sequence_field
        if name is None or not isinstance(body, dict) or name not in body:
            return True, 0
        seq: object = body[name]
        if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
            self._fault("bad_values", topic, f"{name}: expected a whole number from 0, found {seq!r:.40}")
            return True, 0
        last, last_t = topic.seq, topic.t
        if last is not None and seq <= last and t <= last_t:
            self.counters["repeated"] += 1
            return False, 0
        topic.seq, topic.t = seq, t
        if last is None:
            return True, 0
        if seq == last:
            self.counters["repeated"] += 1
            return False, 0
        lost = seq - last - 1
        if lost < 0 or lost > MAX_GAP:
            self.counters["recounts"] += 1
            return True, 0
        self.counters["lost"] += lost
        return True, lost

    def _events(self, topic: _Topic, body: Any, t: int, receipt: int, fresh: bool, out: list[Event]) -> None:
        for path, bound in topic.events:
            channel = bound.channel
            try:
                value, text = convert(bound.channel, pick(body, path))
            except BadValue as error:
                self._fault("bad_values", topic, f"{'.'.join(path)}: {error}")
                continue
            quality = 0
            if value is None and text is None:
                self.counters["bad_quality"] += 1
                quality = BAD
            # A repeated state is looked at all the same: after a restart the equipment may count to the same number.
            always = fresh and (channel.rate_hz is not None or cast(Address, bound.address).each)
            now = text if channel.kind is ValueKind.TEXT else value
            if not always and channel.id in self._last and _same(self._last[channel.id], now, channel.deadband or 0.0):
                continue
            self._last[channel.id] = now
            out.append(Event(channel.id, t, value, text, quality, None, receipt))

    def _number(self, topic: _Topic, body: Any, path: tuple[str, ...], bound: BoundChannel) -> float:
        try:
            value, _ = convert(bound.channel, pick(body, path))
            if value is not None and abs(value) > FRAME_MOST:
                raise BadValue(f"expected a number that a frame can hold, found {value!r:.40}")
        except BadValue as error:
            self._fault("bad_values", topic, f"{'.'.join(path)}: {error}")
            return math.nan
        if value is None:
            self.counters["bad_quality"] += 1
            return math.nan
        return value


def _frame(stream: str, rows: _Rows) -> Frame:
    values = np.array(rows.values, dtype=np.float32).T
    return Frame(stream, np.array(rows.t, dtype=np.int64), np.ascontiguousarray(values), rows.lost)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _same(last: float | str | None, now: float | str | None, deadband: float) -> bool:
    if isinstance(last, float) and isinstance(now, float):
        return abs(now - last) <= deadband
    return last == now
