"""How many samples a second the hub makes durable, beside what its store alone takes of the same batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hub.ingest.decode import KitEntry, decode
from hub.ingest.inbox import BURST_BYTES
from hub.store import open_store
from hub.store.base import DecodedBatch, Outcome, TelemetryStore
from lab_contract.kit import builtin_kit_models
from tests.bench.figures import Figure, figure, median
from tests.bench.programs import WORKSHOP, Program, Site, make_site
from tests.bench.publishers import EDGES, FRAMES, ROUNDS, frames

SAMPLES = len(EDGES) * FRAMES * 250 * 8
"""Of one round: each channel's value counts."""
REST_S = 1.0
"""Lets the hub finish what it does behind the last acknowledgement, so that the two do not disturb each other."""


def measure() -> list[Figure]:
    """Rounds through broker, ingest and store, each followed by the same batches into a bare store."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        site = make_site(folder, {edge: {edge: "bci_platform"} for edge in EDGES})
        with site.hub() as hub:
            site.wait_ready(hub)
            return _rounds(site, hub, open_store(f"duckdb:///{folder / 'bare.duckdb'}"))


def _rounds(site: Site, hub: Program, store: TelemetryStore) -> list[Figure]:
    whole: list[float] = []
    bare: list[float] = []
    arguments = ("-m", "tests.bench.publishers", site.broker, str(site.folder))
    with Program(site.folder, "publishers", *arguments) as publishers:
        publishers.line("ready")
        for number in range(ROUNDS):
            publishers.say(str(number))
            begin, end = (int(part) for part in publishers.line("done", within_s=60).split()[1:])
            whole.append(SAMPLES / (end - begin) * 1e9)
            time.sleep(REST_S)
            bare.append(SAMPLES / _append_s(store, number))
    store.close()
    ratios = [line / alone for line, alone in zip(whole, bare, strict=True)]
    return [
        figure("hub: durable through broker, ingest and store", median(whole), "samples/s"),
        figure("hub: the bare store, same batches", median(bare), "samples/s"),
        figure("hub: the line beside the bare store", median(ratios), "ratio"),
        figure("hub: peak RSS of the hub process", _peak_rss(hub) / 1e6, "MB"),
    ]


def _append_s(store: TelemetryStore, number: int) -> float:
    model = builtin_kit_models()["bci_platform"]
    kits = {edge: KitEntry(edge, edge, model, WORKSHOP) for edge in EDGES}
    now = time.time_ns()
    by_edge = [[decode(data, edge, kits, now) for data in frames(edge, number)] for edge in EDGES]
    bursts = list(_bursts([batch for together in zip(*by_edge, strict=True) for batch in together]))
    begin = time.monotonic()
    outcomes = [outcome for burst in bursts for outcome in store.append(burst)]
    seconds = time.monotonic() - begin
    if set(outcomes) != {Outcome.STORED}:
        raise RuntimeError(f"expected every batch stored, found {set(outcomes)}")
    return seconds


def _bursts(batches: list[DecodedBatch]) -> Iterator[list[DecodedBatch]]:
    """As large as ingest makes them at most."""
    burst: list[DecodedBatch] = []
    size = 0
    for batch in batches:
        burst.append(batch)
        size += len(batch.raw)
        if size >= BURST_BYTES:
            yield burst
            burst, size = [], 0
    if burst:
        yield burst


def _peak_rss(program: Program) -> int:
    """Bytes. Linux keeps the peak itself; elsewhere it is what stands now."""
    status = Path(f"/proc/{program.facts.pid}/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return int(program.facts.memory_info().rss)
