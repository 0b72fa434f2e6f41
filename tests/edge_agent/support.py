"""What the tests of the edge share: a clock that stands still, a wait for a condition, batches, a hub that answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from edge_agent.source import Reading, SourceContext
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import digest, unpack
from lab_contract.messages import Ack, EdgeStatus, Quarantined, dump, load_status
from lab_contract.topics import Kind, every_edge, parse, topic
from tests.small_kit import NOW, SECOND, event_bytes


class FakeClock:
    """Moves only when told."""

    def __init__(self, utc_ns: int = NOW) -> None:
        self.utc_ns = utc_ns
        self.passed_ns = SECOND

    def time_ns(self) -> int:
        return self.utc_ns

    def monotonic_ns(self) -> int:
        return self.passed_ns

    def pass_s(self, seconds: float) -> None:
        self.utc_ns += round(seconds * SECOND)
        self.passed_ns += round(seconds * SECOND)


async def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Return when the condition is true; fail where it never becomes so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of foreign threads and processes
            await asyncio.sleep(0.005)


def one_event(epoch: int, seq: int, edge: str = "edge-1") -> bytes:
    """A whole batch with this id."""
    return event_bytes(seq, [(NOW + seq, "line.pressure", float(seq))], edge=edge, epoch=epoch)


class ReplaySettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    port: str
    rate: int = 1
    password_file: Path | None = None
    password_env: str | None = None


class ReplayAddress(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item: str


@dataclass
class Script:
    """What the replay sources of one test say and how they ended."""

    readings: asyncio.Queue[Reading | Exception] = field(default_factory=asyncio.Queue)
    open_errors: list[Exception] = field(default_factory=list)
    opened: int = 0
    closed: int = 0


class ReplaySource:
    """A source whose readings a test puts into `script`."""

    Settings: ClassVar[type[BaseModel]] = ReplaySettings
    Address: ClassVar[type[BaseModel]] = ReplayAddress
    script: Script

    def __init__(self, context: SourceContext) -> None:
        self.context = context
        self.counters: dict[str, int] = {}
        self.facts: dict[str, str] = {"firmware": "replay"}

    async def open(self) -> None:
        self.script.opened += 1
        if self.script.open_errors:
            raise self.script.open_errors.pop(0)

    async def readings(self) -> AsyncIterator[Reading]:
        while True:
            reading = await self.script.readings.get()
            if isinstance(reading, Exception):
                raise reading
            self.counters["seen"] = self.counters.get("seen", 0) + 1
            yield reading

    async def close(self) -> None:
        self.script.closed += 1


def replay_class(script: Script) -> type[ReplaySource]:
    return type("Replay", (ReplaySource,), {"script": script})


class SmallHub:
    """The least hub: hears every edge on a real broker and acknowledges what it has heard, unless told otherwise."""

    def __init__(self, url: str, store_id: str = "store-1") -> None:
        self.store_id = store_id
        self.batches: dict[tuple[str, int, int], bytes] = {}
        self.order: list[tuple[str, int, int]] = []
        self.statuses: list[EdgeStatus] = []
        self.deaf_to: Callable[[int], bool] = lambda _seq: False
        """Batches that are not acknowledged, by the count of batches heard so far."""
        self.aside: set[int] = set()
        self.connected = False
        self.link = MqttLink(
            url, client_id="small-hub", on_message=self._heard, on_connection=self._changed, rng=random.Random(1)
        )
        for kind in (Kind.UP, Kind.STATUS):
            self.link.subscribe(every_edge(kind))

    def __enter__(self) -> SmallHub:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def _changed(self, connected: bool, _why: str) -> None:
        self.connected = connected

    def _heard(self, name: str, payload: bytes) -> None:
        where = parse(name)
        if where.kind is Kind.STATUS:
            self.statuses.append(load_status(payload))
            return
        header = unpack(payload).header
        self.order.append(header.id)
        self.batches[header.id] = payload
        if self.deaf_to(len(self.order)):
            return
        aside = header.seq in self.aside
        ack = Ack(
            store_id=self.store_id,
            epoch=header.epoch,
            stored=() if aside else (header.seq,),
            quarantined=(Quarantined(digest=digest(payload), reason="checksum"),) if aside else (),
        )
        self.link.publish(topic(where.edge, Kind.ACK), dump(ack))
