"""The store: stands behind ingest, receives decoded batches, hands on what live pages, results and exports ask for.

`TelemetryStore` is the one seam to a time-series engine; every question is pushed down into it. One contract suite
(`tests/hub/store/test_store_contract.py`) runs against every implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lab_contract.batch import Header

if TYPE_CHECKING:
    # Only named here: the web side imports this module and must not wait for Arrow at the start.
    import pyarrow as pa

SECOND = 1_000_000_000


class StoreError(Exception):
    """Base of everything a store raises."""


class StoreUnavailable(StoreError):
    """Retry later with the same batches: nothing of this call was stored. The message is the engine's own."""


class StoreRefused(StoreError):
    """Offer the batches one by one, and quarantine the one that is refused alone: the engine cannot hold its values."""


class StoreMisconfigured(StoreError):
    """Mend the setting `store` and start again; the message names the expected form."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A checked frame: `t` int64 (n,) UTC ns, `values` float32 (channels, n) in the channels' units, NaN: no value."""

    header: Header
    received_ns: int
    raw: bytes
    channels: tuple[str, ...]
    t: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodedEvents:
    """Checked events, one row a change, in order of `t`.

    `channels` are the distinct ids and `index` int32 (n,) points into them; `values` float64 (n,), NaN: no value;
    `quality` uint32 (n,); `text` string and `t_server`, `t_receipt` int64 Arrow arrays with nulls.
    """

    header: Header
    received_ns: int
    raw: bytes
    channels: tuple[str, ...]
    index: NDArray[np.int32]
    t: NDArray[np.int64]
    values: NDArray[np.float64]
    quality: NDArray[np.uint32]
    text: pa.Array
    t_server: pa.Array
    t_receipt: pa.Array


DecodedBatch = DecodedFrame | DecodedEvents


class Outcome(StrEnum):
    """What became of one batch: `stored`, `duplicate` (stored before, same content) or `conflict` (other content)."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample of a channel by its own time `t` (UTC ns). `value` is None where there was none to read."""

    t: int
    value: float | None
    text: str | None
    quality: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Least and greatest value per bucket: `t` int64 (buckets,) the bucket starts in UTC ns, `width_ns` their width;
    `channels` maps a channel to (min, max), each float64 (buckets,) in its unit, NaN where the bucket is empty.
    """

    t: NDArray[np.int64]
    width_ns: int
    channels: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    from_rollup: bool


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Bytes to keep aside: from which edge's topic, why (`reason` a stable code, `detail` a sentence), since when."""

    edge: str
    reason: str
    detail: str
    raw: bytes
    received_ns: int


@dataclass(frozen=True, slots=True)
class QuarantinedBatch:
    """Bytes kept aside, as listed; `repeats` says how often the same came, `raw` is None past the size limit."""

    edge: str
    reason: str
    detail: str
    first_ns: int
    last_ns: int
    repeats: int
    size: int
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`ok` is false from a failed transaction until the next that succeeds; `detail` is then the engine's message."""

    ok: bool
    detail: str
    store_id: str
    commits: int
    samples: int
    failures: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What the store holds in all."""

    samples: int
    series: int
    batches: int
    first_ns: int | None
    last_ns: int | None
    bytes_on_disk: int


class TelemetryStore(Protocol):
    """Where telemetry is kept. All calls block: async callers use a thread. Any number of readers, one writer thread.

    Every call raises StoreUnavailable where the engine cannot answer now.
    """

    @property
    def store_id(self) -> str:
        """A random id made once with the store: an edge deletes only what the store it knows has acknowledged."""
        ...

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        """Store the batches in one transaction; durable when it returns. One outcome a batch, in the same order.

        Raises StoreRefused where the engine cannot hold a value of one of them; nothing is stored then.
        """
        ...

    def channels(self, kit: str) -> list[str]:
        """Ids of the kit's channels that have ever had a sample."""
        ...

    def latest(self, kit: str) -> dict[str, Latest]:
        """The newest sample of each channel of the kit; answered from memory."""
        ...

    def overview(self, kit: str, channels: Sequence[str], t0: int, t1: int, buckets: int) -> Overview:
        """Min and max of each channel in at most `buckets` + 1 equal buckets that cover t0 to t1 (UTC ns).

        Buckets of a second and more are whole seconds on whole seconds and come from the roll-up. Raises ValueError
        unless t0 < t1 and buckets > 0.
        """
        ...

    def raw(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
        """Samples with t0 <= t < t1 in order of t: columns t, channel, value, text, quality; read as one goes."""
        ...

    def stats(self) -> StoreStats:
        """How much is held."""
        ...

    def quarantine(self, items: Sequence[Quarantine]) -> None:
        """Keep bytes aside; durable when it returns. The same bytes for the same reason are kept once and counted."""
        ...

    def quarantined(self, limit: int = 100) -> list[QuarantinedBatch]:
        """What is kept aside, newest first."""
        ...

    def quarantine_counts(self) -> dict[str, int]:
        """How many batches came per reason, repeats included."""
        ...

    def health(self) -> StoreHealth:
        """Whether the last transaction succeeded."""
        ...

    def close(self) -> None:
        """Write everything out and let go of the files. Idempotent."""
        ...
