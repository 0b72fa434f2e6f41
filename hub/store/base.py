"""The store: stands behind ingest, receives decoded batches, hands on what live pages, results and exports ask for.

`TelemetryStore` is the one seam to a time-series engine; every question is pushed down into it. One contract suite
(`tests/hub/store/`) runs against every implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lab_contract.batch import Gap, Header

if TYPE_CHECKING:
    # Only named here: the web side imports this module and must not wait for Arrow at the start.
    import pyarrow as pa

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


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


@dataclass(frozen=True, slots=True)
class DecodedGaps:
    """Checked gap records of one kit: what was lost before it could be spooled."""

    header: Header
    received_ns: int
    raw: bytes
    gaps: tuple[Gap, ...]


DecodedBatch = DecodedFrame | DecodedEvents | DecodedGaps


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
class State:
    """A channel held this value from `t_from` until before `t_to` (UTC ns); `value` None: there was none to read."""

    t_from: int
    t_to: int
    value: float | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of a channel in a window: `n` of them, least, greatest, mean, and the first and last by time.

    Samples without a number do not count. `first` and `last` are None where retention left nothing but the roll-up.
    """

    n: int
    lo: float
    hi: float
    mean: float
    first: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class ClockFact:
    """From the raw edge time `t` on, `offset_ns` added to the edge's time gives the hub's, +- `uncertainty_ns`.

    `uncertainty_ns` is CLOCK_UNKNOWN (-1) where the offset was not measured.
    """

    t: int
    offset_ns: int
    uncertainty_ns: int


@dataclass(frozen=True, slots=True)
class Result:
    """How a task at a kit went: ended at `t` (UTC ns), `score` 0 to 1, `measures` by name in the task's own units."""

    kit: str
    workshop: str
    task: str
    kit_model: str
    t: int
    score: float
    passed: bool
    duration_s: float
    measures: Mapping[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Raises StoreRefused for a score, duration or measure that is no finite number."""
        for name, number in {"score": self.score, "duration_s": self.duration_s, **self.measures}.items():
            if not math.isfinite(number):
                raise StoreRefused(f"result of task {self.task!r}: {name} is {number}, expected a number")


class ExportFormat(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"


class Record(StrEnum):
    """What can be copied from one store to another; `hub/store/records.py` has the columns of each."""

    SAMPLES = "samples"
    ROLLUP = "rollup"
    """One row a channel and second with a number in it: it outlives the samples, so it is copied beside them."""
    GAPS = "gaps"
    CLOCK = "clock"
    RESULTS = "results"
    LEDGER = "ledger"


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What was found of the engine, for people: each a short text, `detail` empty where there is nothing to add.

    `write_path` is where writes go (a file, an HTTP path), `permissions` what may be done there, `retention` what is
    deleted after which time. `samples_from_ns`: samples before it have been deleted by `apply_retention`, None: none.
    """

    engine: str
    version: str
    write_path: str
    permissions: str
    retention: str
    detail: str = ""
    samples_from_ns: int | None = None


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
    """Where telemetry is kept. All calls block: async callers use a thread. Any thread may call; the store itself lets
    one writing call in after the other.

    Every call raises StoreUnavailable where the engine cannot answer now. Times are UTC ns as the edge's clock gave
    them; windows are half open, t0 <= t < t1.
    """

    @property
    def store_id(self) -> str:
        """A random id made once with the store: an edge deletes only what the store it knows has acknowledged."""
        ...

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        """Store the batches in one transaction; durable when it returns. One outcome a batch, in the same order.

        Frames, events and gaps alike have a row in the ledger, by which a duplicate is known.

        Raises StoreRefused where the engine cannot hold a value of one of them; nothing is stored then.
        """
        ...

    def channels(self, kit: str) -> list[str]:
        """Ids of the kit's channels that have ever had a sample."""
        ...

    def latest(self, kit: str) -> dict[str, Latest]:
        """The newest sample of each channel of the kit; answered from memory."""
        ...

    def overview(
        self, kit: str, channels: Sequence[str], t0: int, t1: int, buckets: int, *, from_rollup: bool | None = None
    ) -> Overview:
        """Min and max of each channel in at most `buckets` + 1 equal buckets that cover t0 to t1 (UTC ns).

        Left to the store, buckets of a second and more are whole seconds on whole seconds and come from the roll-up,
        as does a window whose samples retention has deleted; `from_rollup` decides it otherwise. Buckets know nothing
        of gaps: ask `gaps` beside it. Raises ValueError unless t0 < t1 and buckets > 0.
        """
        ...

    def raw(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
        """Samples with t0 <= t < t1 in order of t: columns t, channel, value, text, quality; read as one goes."""
        ...

    def states(self, kit: str, channel: str, t0: int, t1: int) -> list[State]:
        """The runs of one value and text of a channel sampled on change, clipped to the window, in order of time.

        What held before t0 counts from t0, the last holds to t1; where there was nothing yet, the first begins late.
        """
        ...

    def statistics(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> dict[str, Statistics]:
        """Of each channel with a number in the window; from the roll-up where it serves, exact to the nanosecond.

        Where retention has deleted the samples the window is widened to whole seconds.
        """
        ...

    def gaps(self, kit: str, t0: int, t1: int) -> list[Gap]:
        """What was lost and overlaps the window, in order of `t_from`: t_from < t1 and t_to >= t0, not clipped."""
        ...

    def clock(self, kit: str, t0: int, t1: int) -> list[ClockFact]:
        """The clock offsets that the kit's batches carried, where they change, in order of time.

        The first is the one in force at t0 with its own, earlier `t`, where there is one.
        """
        ...

    def missing(self, edge: str, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
        """The numbers from `first` to `last` (both inclusive) that no batch was stored under, as inclusive ranges."""
        ...

    def audit(self) -> int:
        """Look whether the engine still has what it has confirmed; how many batches it has lost since the store was
        opened.

        Those are taken out of the ledger, so that `missing` names them and they are stored when they come again.
        """
        ...

    def put_results(self, results: Sequence[Result]) -> None:
        """Keep results; durable when it returns. One of the same kit, task and t replaces the former."""
        ...

    def results(self, kit: str, t0: int, t1: int) -> list[Result]:
        """Results of the kit that ended in the window, in order of t."""
        ...

    def export(self, kit: str, channels: Sequence[str], t0: int, t1: int, kind: ExportFormat, destination: Path) -> int:
        """Write the samples of `raw` to a file, in bounded memory; the number of rows.

        Parquet has the columns of `raw`, CSV (RFC 4180) the UTC time to the nanosecond in place of t. The file appears
        under its name when it is whole. Raises OSError where the destination does not take it.
        """
        ...

    def apply_retention(self, before_ns: int) -> int:
        """Delete samples from before the second of `before_ns`; how many there were.

        The last of each channel among them stays, as its value may still hold. Roll-up, newest values, gaps, clock
        facts, results and ledger stay too.
        """
        ...

    def stats(self) -> StoreStats:
        """How much is held."""
        ...

    def facts(self) -> StoreFacts:
        """What the engine is, asked anew."""
        ...

    def kits(self) -> list[str]:
        """Ids of the kits of which anything is held."""
        ...

    def days(self, record: Record, kit: str) -> dict[int, int]:
        """How many rows of this record the kit has per UTC day, by the day's first ns, days without any left out.

        The time of a row is its `t`; of a gap `t_from`, of a ledger row `received_ns`.
        """
        ...

    def copy_out(self, record: Record, kit: str, t0: int, t1: int) -> pa.RecordBatchReader:
        """The rows of this record with their time in the window, to be copied; read as one goes.

        Columns as in `hub/store/records.py`; samples in order of channel, then t.
        """
        ...

    def copy_in(self, record: Record, kit: str, part: str, rows: pa.RecordBatchReader) -> bool:
        """Take rows that another store's `copy_out` gave, all or none; durable when it returns.

        A `part` (an id of the caller's) that was taken before is left alone and answered by False. Of ledger rows and
        results that are there already the store keeps its own. Samples bring no roll-up: that is copied by itself.
        """
        ...

    def has_part(self, part: str) -> bool:
        """Whether `copy_in` has taken this part."""
        ...

    def adopt(self, store_id: str) -> None:
        """Take another store's id, after everything was copied from it: edges go on with this store in its place."""
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
