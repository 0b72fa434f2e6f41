"""The seam between equipment and batch: what every source takes and what it hands on.

A source only reads. Retry, back-off, stall watchdog, batching and counting live in `runner.py` around it, once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from edge_agent.clock import Clock
from lab_contract.batch import GapReason
from lab_contract.kit import Channel, Connection, KitModel, Stream


@dataclass(slots=True)
class Event:
    """One change of one channel. `t`, `t_server` and `t_receipt` are UTC ns; `t` is the time of the source.

    `value` is None for text and wherever the equipment calls the value bad; `quality` is then the OPC UA StatusCode.
    """

    channel: str
    t: int
    value: float | None
    text: str | None = None
    quality: int = 0
    t_server: int | None = None
    t_receipt: int | None = None


@dataclass(slots=True)
class Frame:
    """Samples of one stream: `t` of shape (n,) in UTC ns, `values` of shape (channels, n) in the stream's order."""

    stream: str
    t: NDArray[np.int64]
    values: NDArray[np.float32]
    lost: int = 0
    """Samples known to be missing just before this frame."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Changes of this connection are missing between the reading before and the next; None: nobody knows how many."""

    reason: GapReason
    count: int | None = None


Reading = list[Event] | Frame | Lost


@dataclass(frozen=True)
class BoundChannel:
    """A channel and where it is read: the source's Address, kit model and settings of the kit merged and validated."""

    channel: Channel
    address: BaseModel


class AgentFacts(Protocol):
    """What the agent knows of itself, for the `agent` protocol (`health.py`)."""

    def link_rtt_ms(self) -> float | None:
        """Time from publishing a batch to the hub's acknowledgement; None before the first and while cut off."""
        ...

    def data_age_s(self, kit: str) -> float | None:
        """Time since the equipment of the kit was last heard, the most silent connection counting; None before."""
        ...


@dataclass(frozen=True)
class SourceContext:
    """Everything a source is made of."""

    kit: str
    model: KitModel
    connection: Connection
    settings: BaseModel
    """The source's Settings: the kit model's connection settings merged under the edge's."""
    channels: tuple[BoundChannel, ...]
    streams: tuple[Stream, ...]
    clock: Clock
    base: Path
    """Folder of the settings file; relative paths in settings start there."""
    agent: AgentFacts


class Source(Protocol):
    """One link to equipment. `counters` and `facts` are shown in the edge's status."""

    Settings: ClassVar[type[BaseModel]]
    Address: ClassVar[type[BaseModel]]
    counters: dict[str, int]
    facts: dict[str, str]

    def __init__(self, context: SourceContext) -> None: ...

    async def open(self) -> None:
        """Connect. Raises SourceUnavailable or SourceMisconfigured."""
        ...

    def readings(self) -> AsyncIterator[Reading]:
        """What the equipment says, for ever. Ends only by SourceUnavailable or cancellation.

        An empty list is a sign of life: nothing has changed, the equipment is there.
        """
        ...

    async def close(self) -> None:
        """Disconnect. Safe to call again."""
        ...
