"""How many samples a second the InfluxDB store makes durable, beside what posting the very same lines directly takes.

Debian's InfluxDB; 1 s EEG frames and PLC events of twenty edges. The lines are those that the store has just written,
kept as they were, so both have the same roll-up and are cut into the same bodies. In pairs, the first of each pair in
turn.
"""

from __future__ import annotations

import http.client
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hub.ingest.decode import KitEntry, decode
from hub.store.base import DecodedBatch, Outcome
from hub.store.influx import InfluxStore
from hub.store.options import StoreOptions
from lab_contract.kit import builtin_kit_models
from tests.bench.figures import Figure, figure, median
from tests.bench.loads import EDGES, LOADS, Load, kits_of, prepared
from tests.bench.programs import WORKSHOP
from tests.influx import Influx, fresh_database, influxd

PAIRS = 4
BATCHES = {"eeg-1s": 12, "plc": 40}
"""Of each edge and round: about 400,000 samples."""
BURST = {"eeg-1s": 6, "plc": 20}
"""Of each edge in one append: about 200,000 samples."""
WORDS = {"eeg-1s": "1 s EEG frames", "plc": "PLC events"}


def measure() -> list[Figure]:
    """Pairs of rounds, each in fresh databases of one server."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, influxd(Path(scratch)) as server:
        return [one for name in WORDS for one in _measure(server, Path(scratch), LOADS[name])]


def _measure(server: Influx, scratch: Path, load: Load) -> list[Figure]:
    through: list[float] = []
    direct: list[float] = []
    for number in range(PAIRS):
        bursts = _bursts(load, number)
        samples = sum(batch.values.size for burst in bursts for batch in burst)
        bodies = _recorded(server, scratch / f"{load.name}-{number}-recorded", bursts)
        data = scratch / f"{load.name}-{number}"
        ways: list[tuple[list[float], Callable[[], float]]] = [
            (through, lambda bursts=bursts, data=data: _append_s(server, data, bursts)),
            (direct, lambda bodies=bodies: _post_s(server, bodies)),
        ]
        for rates, way in ways if number % 2 else reversed(ways):
            rates.append(samples / way())
    ratios = [store / post for store, post in zip(through, direct, strict=True)]
    return [
        figure(f"influx: durable through the store, {WORDS[load.name]}", median(through), "samples/s"),
        figure("influx:   posting the same lines directly", median(direct), "samples/s"),
        figure("influx:   the store beside posting directly", median(ratios), "ratio", ">= 0.9"),
    ]


def _bursts(load: Load, number: int) -> list[list[DecodedBatch]]:
    models = builtin_kit_models()
    kits = {kit: KitEntry(kit, edge, models[model], WORKSHOP) for edge in EDGES for kit, model in kits_of(edge).items()}
    now = time.time_ns()
    count, burst = BATCHES[load.name], BURST[load.name]
    by_edge = [[decode(data, edge, kits, now) for data in prepared(load, edge, number)[:count]] for edge in EDGES]
    return [[one for edge in by_edge for one in edge[first : first + burst]] for first in range(0, count, burst)]


def _store(server: Influx, data: Path) -> InfluxStore:
    return InfluxStore(f"influx+{server.url}/{fresh_database()}", StoreOptions(data=data))


def _recorded(server: Influx, data: Path, bursts: list[list[DecodedBatch]]) -> list[bytes]:
    """What the store writes for these bursts."""
    store = _store(server, data)
    bodies: list[bytes] = []
    write = store._session.server.write

    def keep(body: bytes) -> None:
        bodies.append(body)
        write(body)

    store._session.server.write = keep  # type: ignore[method-assign]
    for burst in bursts:
        store.append(burst)
    store.close()
    return bodies


def _append_s(server: Influx, data: Path, bursts: list[list[DecodedBatch]]) -> float:
    store = _store(server, data)
    begin = time.monotonic()
    outcomes = {outcome for burst in bursts for outcome in store.append(burst)}
    seconds = time.monotonic() - begin
    store.close()
    if outcomes != {Outcome.STORED}:
        raise RuntimeError(f"expected every batch stored, found {outcomes}")
    return seconds


def _post_s(server: Influx, bodies: list[bytes]) -> float:
    database = fresh_database()
    server.ask(f'CREATE DATABASE "{database}"')
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    begin = time.monotonic()
    for body in bodies:
        connection.request("POST", f"/write?db={database}&precision=ns", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.NO_CONTENT:
            raise RuntimeError(f"HTTP {answer.status}")
    seconds = time.monotonic() - begin
    connection.close()
    return seconds
