"""How many samples a second the hub makes durable, beside what its store alone takes of the same batches.

Twenty edges publish prepared batches from a process of their own, each with an edge's window; the hub runs as it does
in a workshop: broker, decoding, ledger, roll-up, commit, acknowledgement, live view. What is acknowledged is stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hub.ingest.decode import KitEntry, decode
from hub.ingest.inbox import BURST_SAMPLES
from hub.store import open_store
from hub.store.base import DecodedBatch, DecodedGaps, Outcome, TelemetryStore
from lab_contract.kit import builtin_kit_models
from tests.bench.figures import Figure, figure, median
from tests.bench.loads import EDGES, LOADS, Load, kits_of, prepared
from tests.bench.programs import WORKSHOP, Program, Site, make_site

GOALS = {"eeg-1s": 2.5e6, "eeg-250ms": 1.1e6, "plc": 0.8e6}
WORDS = {"eeg-1s": "1 s EEG frames", "eeg-250ms": "250 ms EEG frames", "plc": "PLC events"}
ROUNDS = 3
REST_S = 1.0
"""Lets the hub finish what it does behind the last acknowledgement, so that the two do not disturb each other."""
WITHIN_S = 120.0


def measure() -> list[Figure]:
    """Rounds through broker, ingest and store, each followed by the same batches into a bare store."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        site = make_site(folder, {edge: kits_of(edge) for edge in EDGES})
        with site.hub() as hub:
            site.wait_ready(hub)
            store = open_store(f"duckdb:///{folder / 'bare.duckdb'}")
            try:
                return _figures(site, hub, store)
            finally:
                store.close()


def _figures(site: Site, hub: Program, store: TelemetryStore) -> list[Figure]:
    figures: list[Figure] = []
    number = 0
    arguments = ("-m", "tests.bench.publishers", site.broker, str(site.folder))
    with Program(site.folder, "publishers", *arguments) as publishers:
        publishers.line("ready")
        for name, goal in GOALS.items():
            load = LOADS[name]
            whole: list[float] = []
            bare: list[float] = []
            for _ in range(ROUNDS):
                seconds, _, _ = _play(publishers, load, number, 0)
                whole.append(load.samples / seconds)
                time.sleep(REST_S)
                bare.append(load.samples / _append_s(store, load, number))
                number += 1
            _, p50, p99 = _play(publishers, load, number, goal / 2)
            number += 1
            ratios = [line / alone for line, alone in zip(whole, bare, strict=True)]
            figures += [
                figure(f"hub: durable, {WORDS[name]}", median(whole), "samples/s", f">= {goal:.0f}"),
                figure("hub:   the bare store, same batches", median(bare), "samples/s"),
                figure("hub:   the line beside the bare store", median(ratios), "ratio"),
                figure(f"hub:   acknowledged at {goal / 2e6:.2f} M/s, p50", p50, "ms"),
                figure(f"hub:   acknowledged at {goal / 2e6:.2f} M/s, p99", p99, "ms", "<= 500"),
            ]
        figures.append(figure("hub: peak RSS until then", _peak_rss(hub) / 1e6, "MB", "<= 800"))
        seconds, _, _ = _play(publishers, LOADS["backlog"], number, 0)
        samples = LOADS["backlog"].samples
        figures.append(figure(f"hub: a backlog of {samples / 1e6:.1f} M samples", samples / seconds, "samples/s"))
        figures.append(figure("hub:   peak RSS with it", _peak_rss(hub) / 1e6, "MB", "<= 800"))
    return figures


def _play(publishers: Program, load: Load, number: int, rate: float) -> tuple[float, float, float]:
    """Seconds until all was acknowledged, p50 and p99 in ms."""
    publishers.say(f"{load.name} {number} {rate}")
    _, seconds, p50, p99 = publishers.line("done", within_s=WITHIN_S).split()
    return float(seconds), float(p50), float(p99)


def _append_s(store: TelemetryStore, load: Load, number: int) -> float:
    models = builtin_kit_models()
    kits = {kit: KitEntry(kit, edge, models[model], WORKSHOP) for edge in EDGES for kit, model in kits_of(edge).items()}
    now = time.time_ns()
    by_edge = [[decode(data, edge, kits, now) for data in prepared(load, edge, number)] for edge in EDGES]
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
        size += 0 if isinstance(batch, DecodedGaps) else batch.values.size
        if size >= BURST_SAMPLES:
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
