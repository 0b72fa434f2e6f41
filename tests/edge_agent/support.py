"""What the tests of the edge share: a clock that stands still, a wait for a condition, batches, a hub that answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from edge_agent.batcher import Encoded
from edge_agent.clock_offset import Moment
from edge_agent.source import Frame, Reading, SourceContext
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import EVENT_STREAM, Gap, GapReason, Shape, digest, unpack
from lab_contract.messages import Ack, EdgeStatus, Quarantined, Time, dump, load_probe, load_status
from lab_contract.topics import Kind, every_edge, parse, topic
from tests.small_kit import KIT, NOW, SECOND, event_bytes, frame_bytes


class FakeClock:
    """Moves only when told."""

    def __init__(self, utc_ns: int = NOW) -> None:
        self.utc_ns = utc_ns
        self.passed_ns = SECOND

    def time_ns(self) -> int:
        return self.utc_ns

    def monotonic_ns(self) -> int:
        return self.passed_ns

    def now(self) -> Moment:
        return Moment(self.utc_ns, self.passed_ns)

    def set_s(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.utc_ns += round(seconds * SECOND)

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


def an_event(epoch: int, seq: int, n: int | None = None) -> Encoded:
    """The same as the batcher hands it on, with the time of the `n`-th event."""
    t = NOW + (seq if n is None else n)
    data = event_bytes(seq, [(t, "line.pressure", float(seq))], edge="edge-1", epoch=epoch)
    return Encoded(seq, data, KIT, EVENT_STREAM, Shape.EVENT, 1, t, t)


FRAME_SAMPLES = 5
FRAME_NS = FRAME_SAMPLES * 4_000_000


def a_frame(epoch: int, seq: int, n: int) -> Encoded:
    """The `n`-th frame of a stream at 250 Hz."""
    t = [NOW + n * FRAME_NS + i * 4_000_000 for i in range(FRAME_SAMPLES)]
    return Encoded(seq, frame_bytes(seq, t, epoch=epoch), KIT, "eeg", Shape.FRAME, FRAME_SAMPLES, t[0], t[-1])


def frame(first: int, n: int, lost: int = 0) -> Frame:
    """Samples number `first` to `first + n - 1` of that stream."""
    t = NOW + np.arange(first, first + n, dtype=np.int64) * 4_000_000
    return Frame("eeg", t, np.zeros((2, n), np.float32), lost)


def gaps_in(data: bytes) -> list[Gap]:
    """The gaps of a gap batch."""
    batch = unpack(data)
    assert batch.header.shape is Shape.GAP
    rows = pa.ipc.open_stream(batch.payload).read_all().to_pylist()
    return [Gap(r["stream"], r["t_from"], r["t_to"], GapReason(r["reason"]), r["count"]) for r in rows]


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
        self.clock: Callable[[], int] | None = None
        """UTC ns; None: probes are not answered."""
        self.connected = False
        self.link = MqttLink(
            url, client_id="small-hub", on_message=self._heard, on_connection=self._changed, rng=random.Random(1)
        )
        for kind in (Kind.UP, Kind.STATUS, Kind.PROBE):
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
        if where.kind is Kind.PROBE:
            if self.clock is not None:
                now = self.clock()
                answer = Time(id=load_probe(payload).id, received_ns=now, answered_ns=now)
                self.link.publish(topic(where.edge, Kind.TIME), dump(answer))
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
