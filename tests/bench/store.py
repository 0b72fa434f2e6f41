"""How long the embedded store takes to answer among 100 million samples, and how much room they need.

The samples are those of platforms with 8 EEG channels at 250 Hz, written by SQL straight into the file in the order in
which ingest writes: in stretches, series by series within one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from hub.store.base import SECOND, TelemetryStore
from hub.store.duckdb import DuckdbStore
from tests.bench.figures import Figure, figure, median

CHANNELS = tuple(f"eeg.{n}" for n in range(1, 9))
RATE_HZ = 250
KITS = 8
STRETCH_S = 1
"""What a transaction of ingest spans. The shorter, the more the kits lie between one another."""
STRETCHES_AT_ONCE = 125
BEGIN = 1_760_000_000 * SECOND
WANTED = 100_000_000
BYTES_NEEDED = 12
"""A sample on disk while the file is made, with room to spare."""
BUCKETS = 2000
ROUNDS = 15


def measure() -> list[Figure]:
    """Make the file once, then ask each question many times."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        room = shutil.disk_usage(folder).free // 2
        per_stretch = STRETCH_S * RATE_HZ * len(CHANNELS) * KITS
        stretches = min(-(-WANTED // per_stretch), room // (BYTES_NEEDED * per_stretch))
        begin = time.monotonic()
        _fill(folder / "telemetry.duckdb", stretches)
        made_s = time.monotonic() - begin
        store = DuckdbStore(f"duckdb:///{folder / 'telemetry.duckdb'}")
        try:
            return [*_ask(store, stretches * STRETCH_S), figure("store: making those samples", made_s, "s")]
        finally:
            store.close()


def _fill(file: Path, stretches: int) -> None:
    DuckdbStore(f"duckdb:///{file}").close()
    con = duckdb.connect(file, config={"memory_limit": "1GB"})
    for kit in range(KITS):
        for number, channel in enumerate(CHANNELS):
            con.execute("INSERT INTO series VALUES (?, ?, ?)", [kit * len(CHANNELS) + number, f"kit-{kit}", channel])
    rows, series = STRETCH_S * RATE_HZ, KITS * len(CHANNELS)
    for first in range(0, stretches, STRETCHES_AT_ONCE):
        last = min(stretches, first + STRETCHES_AT_ONCE)
        # Amplitudes as a converter gives them: whole steps of 0.022 uV around zero.
        con.execute(
            f"""
            INSERT INTO frames
            SELECT n % {series * rows} // {rows} AS series, {BEGIN} + i * {SECOND // RATE_HZ},
                (((hash(n) % 2048)::INTEGER - 1024) * 0.02235174179)::FLOAT
            FROM (SELECT n, n // {series * rows} * {rows} + n % {rows} AS i
                  FROM range({first * series * rows}, {last * series * rows}) r(n))"""  # noqa: S608 - numbers of ours
        )
    con.execute(
        f"INSERT INTO rollup_1s SELECT series, t // {SECOND} * {SECOND} AS t, count(*), min(value), max(value), "  # noqa: S608
        "sum(value::DOUBLE) FROM frames GROUP BY ALL ORDER BY t, series"
    )
    con.execute("INSERT INTO latest SELECT id, $t, 0, NULL, 0 FROM series", {"t": BEGIN})
    con.execute("CHECKPOINT")
    con.close()


def _ask(store: TelemetryStore, seconds: int) -> list[Figure]:
    stats = store.stats()
    among = f"among {stats.samples / 1e6:.0f} M samples"
    # An hour in the middle, where there is one.
    t0 = BEGIN + max(0, seconds - 3600) // 2 * SECOND
    t1 = t0 + 3600 * SECOND

    def overview(from_rollup: bool) -> Callable[[], object]:
        return lambda: store.overview("kit-3", CHANNELS, t0, t1, BUCKETS, from_rollup=from_rollup)

    def ten_seconds() -> object:
        return store.raw("kit-3", CHANNELS[:1], t0 + 1800 * SECOND, t0 + 1810 * SECOND).read_all()

    hour = f"1 h x {len(CHANNELS)} channels x {RATE_HZ} Hz in {BUCKETS:,} buckets"
    return [
        figure(f"store: {hour} {among}, roll-up", _median_ms(overview(True)), "ms", "<= 30"),
        figure(f"store: {hour} {among}, raw", _median_ms(overview(False)), "ms", "<= 250"),
        figure(f"store: 10 s of one channel {among}", _median_ms(ten_seconds), "ms", "<= 10"),
        figure(f"store: bytes a sample on disk {among}", stats.bytes_on_disk / stats.samples, "B", "<= 10"),
    ]


def _median_ms(question: Callable[[], object]) -> float:
    question()
    took: list[float] = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        question()
        took.append((time.perf_counter() - begin) * 1000)
    return median(took)
