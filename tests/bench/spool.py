"""What the durable spool costs, and how a backlog drains beside live data: a real edge, broker, store and disk."""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.batcher import Encoded
from edge_agent.clock import SystemClock
from edge_agent.spool import Spool
from hub.line import Line
from hub.store.base import DecodedBatch, DecodedFrame
from lab_contract.batch import EVENT_STREAM, Header, Shape, encode_events, encode_frame, pack, unpack
from lab_contract.kit import KitModel, ValueKind, builtin_kit_models
from tests.bench.edge import BCI, EDGE, Commits, running, until
from tests.bench.figures import Figure, figure, percentile
from tests.bench.programs import Program, Site, make_site

MB = 1e6
SECOND = 1_000_000_000
DEMO_RATE_HZ = 45
"""Transactions a second of the demo's edge: three kits' frames every 250 ms, events as they come."""
COMMITS = 400
HOUR_S = 3600
EVENT_BATCHES, EVENT_ROWS = 41_700, 18
"""Of the controller's telemetry in an hour, and changes in each, counted at the simulated platform."""
EEG_MS = 250
TEN_MILLION = 5000
"""Frames of 250 samples x 8 channels."""
DRAIN_WITHIN_S = 180.0
LIVE_FIRST_S = 5.0


Backlog = Callable[[Spool, KitModel], Iterator[Encoded]]


def measure() -> list[Figure]:
    """Commit times, then a backlog of an hour and one of ten million samples."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        return [
            *asyncio.run(_commits(Path(scratch, "commits"))),
            *asyncio.run(_drain(Path(scratch, "hour"), "1 h of one BCI kit", an_hour, "<= 60")),
            *asyncio.run(_drain(Path(scratch, "ten"), "10 M samples", ten_million, "")),
        ]


async def _commits(folder: Path) -> list[Figure]:
    """At the demo's pace, one batch a transaction and acknowledged at once: each waits for the disk."""
    spool = Spool(folder, edge=EDGE, clock=SystemClock(), limit_bytes=512 * 2**20, keep_hours=24)
    await spool.open()
    batches = list(itertools.islice(an_hour(spool, _model()), COMMITS))
    took: list[float] = []
    begin = time.monotonic()
    for i, batch in enumerate(batches):
        await asyncio.sleep(max(0.0, begin + i / DEMO_RATE_HZ - time.monotonic()))
        before = time.perf_counter()
        await spool.append([batch], ends={(BCI, "eeg"): batch.t_last})
        took.append((time.perf_counter() - before) * 1000)
        spool.acknowledge("bench", [(spool.epoch, batch.seq)])
    await spool.close()
    return [
        figure("spool: commit at the demo's load, p50", percentile(took, 0.5), "ms", "<= 4"),
        figure("spool: commit at the demo's load, p99", percentile(took, 0.99), "ms"),
    ]


def _model() -> KitModel:
    return builtin_kit_models()["bci_platform"]


class Moved:
    """Batches like a given one, at other times: encoding fifty thousand anew would take longer than they drain."""

    def __init__(self, spool: Spool, stream: str, shape: Shape, data: bytes, t: NDArray[np.int64]) -> None:
        batch = unpack(data)
        self._spool = spool
        self._header = batch.header
        self._kind = (BCI, stream, shape, batch.header.rows)
        self._payload = bytearray(batch.payload)
        self._t = t
        times = t.tobytes()
        begins = [found.start() for found in re.finditer(re.escape(times), bytes(batch.payload))]
        self._places = [slice(begin, begin + len(times)) for begin in begins]

    def at(self, moved_ns: int) -> Encoded:
        """So much later."""
        t = self._t + moved_ns
        for place in self._places:
            self._payload[place] = t.tobytes()
        seq = self._spool.take_seq()
        data = pack(replace(self._header, seq=seq), bytes(self._payload))
        return Encoded(seq, data, *self._kind, int(t[0]), int(t[-1]))


def _frames(spool: Spool, model: KitModel, begin: int, samples: int) -> Moved:
    stream = model.stream_by_id["eeg"]
    noise = np.random.default_rng(samples).normal(0, 20, (len(stream.channels), samples)).astype(np.float32)
    t = begin + np.arange(samples, dtype=np.int64) * (SECOND // 250)
    header = Header(EDGE, spool.epoch, 0, BCI, stream.id, Shape.FRAME)
    return Moved(spool, stream.id, Shape.FRAME, encode_frame(header, t, stream.channels, noise), t)


def _telemetry(spool: Spool, model: KitModel, begin: int) -> Moved:
    drive = [c for c in model.channels if c.connection == "drive" and c.kind is ValueKind.FLOAT and c.rate_hz]
    channels = drive[:EVENT_ROWS]
    n = len(channels)
    t = np.full(n, begin, np.int64)
    header = Header(EDGE, spool.epoch, 0, BCI, EVENT_STREAM, Shape.EVENT)
    names, values = [c.id for c in channels], [0.5 + i for i in range(n)]
    receipt = t.tolist()
    data = encode_events(header, receipt, names, values, [None] * n, [0] * n, [None] * n, receipt)
    return Moved(spool, EVENT_STREAM, Shape.EVENT, data, t)


def an_hour(spool: Spool, model: KitModel) -> Iterator[Encoded]:
    """What the edge makes of one BCI kit in an hour: frames of 250 ms, and the controller's telemetry."""
    begin = time.time_ns() - (HOUR_S + 300) * SECOND
    even, odd = (_frames(spool, model, begin, samples) for samples in (62, 63))
    telemetry = _telemetry(spool, model, begin)
    frames = HOUR_S * 1000 // EEG_MS
    for i in range(frames):
        for at in range(i * EVENT_BATCHES // frames, (i + 1) * EVENT_BATCHES // frames):
            yield telemetry.at(at * HOUR_S * SECOND // EVENT_BATCHES)
        # 62 or 63 samples: 250 ms at 250 Hz.
        yield (odd if i % 2 else even).at(i * EEG_MS * 1_000_000)


def ten_million(spool: Spool, model: KitModel) -> Iterator[Encoded]:
    """Frames of a second each: ten million samples."""
    whole = _frames(spool, model, time.time_ns() - (TEN_MILLION + 300) * SECOND, 250)
    for i in range(TEN_MILLION):
        yield whole.at(i * SECOND)


class Drained(Commits):
    """How late live frames are committed, and how much of the backlog is still to come."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.epoch = 0
        """That of the backlog."""
        self.left = 0
        self.late: list[tuple[int, float]] = []
        """When a live frame was committed (monotonic ns), and how many ms after its newest sample."""

    def note(self, batches: Sequence[DecodedBatch]) -> None:
        now, monotonic = time.time_ns(), time.monotonic_ns()
        for batch in batches:
            self.kits.add(batch.header.kit)
            if batch.header.epoch == self.epoch:
                self.left -= 1
            elif isinstance(batch, DecodedFrame):
                self.late.append((monotonic, (now - int(batch.t[-1])) / 1e6))
        self._publish(batches)


async def _drain(folder: Path, what: str, backlog: Backlog, goal: str) -> list[Figure]:
    site = make_site(folder, {EDGE: {BCI: "bci_platform"}})
    epoch, count, size = await _fill(site, backlog)
    ports = [folder / "eeg.port", folder / "drive.port"]
    bci = ("bci-platform", "--eeg-port", str(ports[0]), "--drive-port", str(ports[1]), "--exit-with-parent")
    kits = (
        f'[[kits]]\nid = "{BCI}"\nmodel = "bci_platform"\n[kits.connections.eeg]\nport = \'{ports[0]}\'\n'
        f"[kits.connections.drive]\nport = '{ports[1]}'\n"
    )
    async with running(site, Drained) as drained:
        drained.epoch, drained.left = epoch, count
        with Program(folder, "bci", "-m", "simulators.cli", *bci) as platform:
            platform.line("ready")
            with site.edge(EDGE, kits) as edge:
                await until(lambda: drained.left < count, edge)
                begin = time.monotonic_ns()
                await until(lambda: drained.left <= 0, edge, DRAIN_WITHIN_S)
                end = time.monotonic_ns()
                rss = edge.peak_rss()
    # The first frames wait for the board to be reset and for the spool to be opened.
    late = [ms for at, ms in drained.late if begin + LIVE_FIRST_S * SECOND <= at <= end]
    name = f"spool: backlog of {what}"
    figures = [
        figure(f"{name}, drained in", (end - begin) / 1e9, "s", goal),
        figure(f"{name}, its batches a second", count / ((end - begin) / 1e9), "batches/s"),
        figure(f"{name}, its size", size / MB, "MB"),
        figure(f"{name}, peak RSS of the edge", rss / MB, "MB", "<= 150"),
    ]
    if late:
        figures += [
            figure(f"{name}, live latency meanwhile, p50", percentile(late, 0.5), "ms"),
            figure(f"{name}, live latency meanwhile, p99", percentile(late, 0.99), "ms", "<= 500" if goal else ""),
        ]
    return figures


async def _fill(site: Site, backlog: Backlog) -> tuple[int, int, int]:
    """The edge's spool as a run without a hub leaves it: its epoch, batches and bytes."""
    spool = Spool(site.folder / EDGE, edge=EDGE, clock=SystemClock(), limit_bytes=512 * 2**20, keep_hours=24)
    await spool.open()
    waiting: list[Encoded] = []
    count = size = 0
    for batch in backlog(spool, _model()):
        waiting.append(batch)
        count += 1
        size += len(batch.data)
        if len(waiting) == 500:
            await spool.append(waiting)
            waiting = []
    await spool.append(waiting)
    assert spool.counters["spool_dropped"] == 0
    await spool.close()
    return spool.epoch, count, size
