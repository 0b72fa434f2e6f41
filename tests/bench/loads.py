"""Prepared batches of twenty edges, each with a BCI platform and a PLC line, for `hub.py` and `publishers.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lab_contract.batch import EVENT_STREAM, Header, Shape, encode_events, encode_frame
from lab_contract.kit import Channel, KitModel, ValueKind, builtin_kit_models

SECOND = 1_000_000_000
EDGES = tuple(f"edge-{number}" for number in range(1, 21))
RATE_HZ = 250
CHANNELS = 8
BATCHES_A_ROUND = 1_000_000
"""Numbers set aside for each round, so that no two rounds share an id."""


@dataclass(frozen=True)
class Load:
    """One kind of traffic: `per_batch` rows a batch, `batches` an edge and round; `samples` of all edges in a round."""

    name: str
    rows: int
    batches: int
    frames: bool

    @property
    def samples(self) -> int:
        """Each channel's value counts."""
        return len(EDGES) * self.batches * self.rows * (CHANNELS if self.frames else 1)


LOADS = {
    load.name: load
    for load in (
        Load("eeg-1s", RATE_HZ, 100, frames=True),
        Load("eeg-250ms", RATE_HZ // 4, 200, frames=True),
        Load("plc", 500, 100, frames=False),
        # An edge that was cut off for four minutes and a half, twenty times: ten million samples and some.
        Load("backlog", RATE_HZ, 260, frames=True),
    )
}


def kits_of(edge: str) -> dict[str, str]:
    """The kits that hang on an edge, with their kit models."""
    return {f"{edge}-bci": "bci_platform", f"{edge}-plc": "plc_line"}


def prepared(load: Load, edge: str, number: int) -> list[bytes]:
    """The batches of an edge in the round of that number, in order of time; the last is of a minute ago."""
    make = _frames if load.frames else _changes
    return make(load, edge, number)


@lru_cache
def _models() -> dict[str, KitModel]:
    return builtin_kit_models()


def _header(edge: str, kit: str, stream: str, shape: Shape, number: int, i: int) -> Header:
    seq = (number + 1) * BATCHES_A_ROUND + i
    return Header(edge, 1, seq, f"{edge}-{kit}", stream, shape, clock_offset_ns=1_500_000, clock_uncertainty_ns=400_000)


def _frames(load: Load, edge: str, number: int) -> list[bytes]:
    stream = _models()["bci_platform"].stream_by_id["eeg"]
    rng = np.random.default_rng([EDGES.index(edge), number])
    # Twenty seconds of noise again and again: nobody looks at the values, and the publishers' memory is not measured.
    noise = rng.normal(0, 20, (CHANNELS, 20 * RATE_HZ)).astype(np.float32)
    period = SECOND // RATE_HZ
    first = time.time_ns() // SECOND * SECOND - 60 * SECOND - load.batches * load.rows * period
    made: list[bytes] = []
    for i in range(load.batches):
        t = first + (i * load.rows + np.arange(load.rows, dtype=np.int64)) * period
        at = i * load.rows % (noise.shape[1] - load.rows + 1)
        header = _header(edge, "bci", stream.id, Shape.FRAME, number, i)
        made.append(encode_frame(header, t, stream.channels, noise[:, at : at + load.rows]))
    return made


def _changes(load: Load, edge: str, number: int) -> list[bytes]:
    """Changes of the numbers that move while a PLC line runs, 2,000 a second, and now and then one of a sensor."""
    channels = [c for c in _models()["plc_line"].channels if c.kind is not ValueKind.TEXT and c.connection != "agent"]
    numbers = [c for c in channels if c.rate_hz]
    sensors = [c for c in channels if c.kind is ValueKind.BOOL and not c.alarms]
    period = SECOND // 2000
    first = time.time_ns() // SECOND * SECOND - 60 * SECOND - load.batches * load.rows * period
    made: list[bytes] = []
    for i in range(load.batches):
        count = range(i * load.rows, (i + 1) * load.rows)
        t = [first + n * period for n in count]
        chosen = [sensors[n // 50 % len(sensors)] if n % 50 == 0 else numbers[n % len(numbers)] for n in count]
        values = [_value(channel, n) for channel, n in zip(chosen, count, strict=True)]
        nothing, server = [None] * load.rows, [at + 1_000_000 for at in t]
        receipt = [at + 3_000_000 for at in t]
        header = _header(edge, "plc", EVENT_STREAM, Shape.EVENT, number, i)
        names = [channel.id for channel in chosen]
        made.append(encode_events(header, t, names, values, nothing, [0] * load.rows, server, receipt))
    return made


def _value(channel: Channel, n: int) -> float:
    if channel.kind is ValueKind.BOOL:
        return float(n // 100 % 2)
    if channel.kind is ValueKind.INT:
        return float(n // 100)
    limits = channel.limits
    low, high = channel.min or 0.0, channel.max if channel.max is not None else 100.0
    if limits is not None:
        low = max([low, *(limit for limit in (limits.lo_lo, limits.lo) if limit is not None)])
        high = min([high, *(limit for limit in (limits.hi, limits.hi_hi) if limit is not None)])
    return low + (high - low) * (0.5 + 0.3 * float(np.sin(n / 50)))
