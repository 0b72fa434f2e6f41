"""Beside the line: a tag of an OPC UA server, where it is and what its values mean; used by `sources/opcua.py`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, cast

from asyncua import ua
from pydantic import BaseModel, ConfigDict, Field, field_validator

from edge_agent.source import BoundChannel
from lab_contract.kit import ValueKind

QUEUE_S = 10.0
"""What the queue of an item holds: a workshop PC may be busy for longer than two publishing intervals."""
QUEUE_LEAST, QUEUE_MOST = 10, 500
"""The least for slow channels that change in bursts; the most for the memory of a small PLC."""

NODE_ID = re.compile(r"(?:nsu=(?P<uri>[^;]+);)?(?P<id>[isgb]=.+)\Z", re.DOTALL)


class OpcuaAddress(BaseModel):
    """A tag: `node` is a browse path (`Line.State`) or a NodeId (`s=...`, `i=...`, `nsu=<namespace URI>;s=...`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    sampling_interval_ms: float | None = Field(default=None, ge=0, description="0: at every change, where it can")
    queue_size: int | None = Field(default=None, ge=1, description="values kept in the server between two publishes")

    @field_validator("node")
    @classmethod
    def _names_a_node(cls, node: str) -> str:
        if re.match(r"ns=\d", node):
            raise ValueError("expected nsu=<namespace URI>;..., as the index changes when the server restarts")
        if not NODE_ID.match(node) and not all(node.split(".")):
            raise ValueError("expected a browse path such as Line.State, or a NodeId such as s=... or nsu=URI;s=...")
        return node


@dataclass(slots=True, eq=False)
class Tag:
    """A tag in the subscription. `problem` says why it is not read now; it is tried again then."""

    handle: int
    channel: str
    kind: ValueKind
    address: OpcuaAddress
    sampling_ms: float
    expected_ms: float
    names: dict[int, str] = field(default_factory=dict)
    deadband: float = 0.0
    last: float | None = None
    """The number handed on last; None where the next one is handed on whatever it is."""
    monitored: int | None = None
    problem: str | None = None
    queue: int = 0
    revised_ms: float = 0.0
    revised_queue: int = 0

    def moves(self, value: float | None, code: int) -> bool:
        """Whether a value is news: a change within the deadband is none, a change of quality always is one."""
        if not self.deadband:
            return True
        if code or value is None:
            self.last = None
            return True
        if self.last is not None and abs(value - self.last) <= self.deadband:
            return False
        self.last = value
        return True

    @property
    def is_slowed(self) -> bool:
        """The server samples it more slowly than asked or, asked for every change, than we fetch."""
        return self.revised_ms > self.expected_ms * 1.01


def tag_of(handle: int, bound: BoundChannel, publishing_ms: float) -> Tag:
    """The tag of a channel; `publishing_ms` is how often the server is asked to publish."""
    address = cast(OpcuaAddress, bound.address)
    channel = bound.channel
    sampling = address.sampling_interval_ms
    if sampling is None:
        # Twice the rate of the tag, as sampling at the rate itself would miss a change whenever the phase slips.
        sampling = 500 / channel.rate_hz if channel.rate_hz else 0.0
    names = {value.value: value.id for value in channel.values}
    expected = sampling or publishing_ms
    return Tag(handle, channel.id, channel.kind, address, sampling, expected, names, channel.deadband or 0.0)


def queue_size(publishing_ms: float, period_ms: float) -> int:
    """Values of QUEUE_S, within bounds; never fewer than two publishing intervals bring."""
    needed = 2 * math.ceil(publishing_ms / period_ms)
    wanted = math.ceil(QUEUE_S * 1000 / period_ms)
    return max(needed, min(max(wanted, QUEUE_LEAST), QUEUE_MOST))


def value_of(tag: Tag, raw: Any) -> tuple[float | None, str | None]:
    """Number and text of a value; both None where it is not of the channel's kind."""
    if tag.kind is ValueKind.TEXT:
        text = raw.Text if isinstance(raw, ua.LocalizedText) else raw
        return None, text if isinstance(text, str) else None
    if not isinstance(raw, int | float) or not math.isfinite(raw):
        return None, None
    return float(raw), tag.names.get(int(raw)) if tag.names else None
