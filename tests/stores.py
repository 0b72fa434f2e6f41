"""The stores that the contract suite runs on, and batches to put into them.

A further implementation adds a line to `PLACES`: how a fresh store is made in a folder, and how it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex

import numpy as np

from hub.ingest.decode import decode
from hub.store import open_store
from hub.store.base import DecodedBatch, DecodedGaps, TelemetryStore
from lab_contract.batch import GAP_STREAM, Gap, Header, Shape, encode_gaps, unpack
from tests import influx
from tests.hub.support import kits
from tests.small_kit import EDGE, KIT, NOW, Row, event_bytes, frame_bytes


@dataclass(frozen=True)
class Place:
    """Where one store is. `options` are what opening it needs beside the URL; `spec` is all of it as one argument."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        return json.dumps(asdict(self))

    def open(self) -> TelemetryStore:
        return open_store(self.url, **self.options)

    def empty(self) -> Place:
        """Where another, fresh store is."""
        return replace(self, url=f"{self.url}-{token_hex(4)}")


def open_spec(spec: str) -> TelemetryStore:
    """The store that another process has described."""
    return Place(**json.loads(spec)).open()


def _influx(folder: Path) -> Place:
    url, options = influx.shared()
    return Place(f"influx+{url}/{influx.fresh_database()}", {**options, "data": str(folder)})


PLACES: dict[str, Callable[[Path], Place]] = {
    "duckdb": lambda folder: Place(f"duckdb:///{folder / 'telemetry.duckdb'}"),
    "influx": _influx,
}


def frame(
    seq: int,
    t: Sequence[int] | np.ndarray,
    values: np.ndarray | None = None,
    *,
    kit: str = KIT,
    epoch: int = 1,
    clock: tuple[int, int] | None = None,
    received_ns: int = NOW,
) -> DecodedBatch:
    """EEG of the small kit, zero where no values are given; `clock` is the offset and uncertainty in the header."""
    raw = frame_bytes(seq, t, values, kit=kit, epoch=epoch)
    return _with_clock(decode(raw, EDGE, kits(kit=kit), received_ns), clock)


def events(
    seq: int,
    rows: Sequence[Row],
    *,
    kit: str = KIT,
    epoch: int = 1,
    clock: tuple[int, int] | None = None,
    received_ns: int = NOW,
) -> DecodedBatch:
    """Changes of the small kit."""
    raw = event_bytes(seq, rows, kit=kit, epoch=epoch)
    return _with_clock(decode(raw, EDGE, kits(kit=kit), received_ns), clock)


def gaps(seq: int, *lost: Gap, kit: str = KIT, epoch: int = 1) -> DecodedBatch:
    """Gap records of the small kit."""
    raw = encode_gaps(Header(EDGE, epoch, seq, kit, GAP_STREAM, Shape.GAP), lost)
    return DecodedGaps(unpack(raw).header, NOW, raw, lost)


def values(
    store: TelemetryStore, channel: str, t0: int = 0, t1: int = 2**62, *, kit: str = KIT
) -> list[tuple[int, float | None]]:
    """What a channel has, as (t, value)."""
    table = store.raw(kit, [channel], t0, t1).read_all()
    return list(zip(table["t"].to_pylist(), table["value"].to_pylist(), strict=True))


def _with_clock(batch: DecodedBatch, clock: tuple[int, int] | None) -> DecodedBatch:
    if clock is None:
        return batch
    return replace(batch, header=replace(batch.header, clock_offset_ns=clock[0], clock_uncertainty_ns=clock[1]))
