"""MQTT topics between edge and hub; built and parsed here only.

`lab/v1/<edge>/up` batches, `down/ack` acknowledgements, `down/cmd` commands, `up/reply` answers to commands,
`status` the edge's own state, `up/probe` and `down/time` the comparison of clocks, `down/replay` what a restored hub
lacks. Identity is in the payload too, never in the topic alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from lab_contract.errors import TopicInvalid

ROOT = "lab/v1"
IDENTIFIER = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?\Z")
"""An edge, kit or stream id: 1 to 32 lower-case ASCII letters, digits, `-` or `_`; safe in topics and file names."""


class Kind(StrEnum):
    """What travels on a topic."""

    UP = "up"
    ACK = "down/ack"
    COMMAND = "down/cmd"
    REPLY = "up/reply"
    STATUS = "status"
    PROBE = "up/probe"
    TIME = "down/time"
    REPLAY = "down/replay"


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic: whose it is and what travels on it."""

    edge: str
    kind: Kind

    def __str__(self) -> str:
        return f"{ROOT}/{self.edge}/{self.kind.value}"


def topic(edge: str, kind: Kind) -> str:
    """The topic of one edge. Raises TopicInvalid where the edge id could not stand in a topic."""
    if not IDENTIFIER.match(edge):
        raise TopicInvalid(f"edge id {edge!r}: expected 1 to 32 of a-z, 0-9, '-', '_'")
    return str(Topic(edge, kind))


def every_edge(kind: Kind) -> str:
    """The subscription that hears `kind` from all edges."""
    return f"{ROOT}/+/{kind.value}"


def parse(name: str) -> Topic:
    """The parts of a topic. Raises TopicInvalid for any topic that is none of ours."""
    prefix = f"{ROOT}/"
    if not name.startswith(prefix):
        raise TopicInvalid(f"topic {name[:80]!r}: expected it to start with {prefix!r}")
    edge, _, rest = name[len(prefix) :].partition("/")
    if not IDENTIFIER.match(edge):
        raise TopicInvalid(f"topic {name[:80]!r}: no edge id in third place")
    try:
        return Topic(edge, Kind(rest))
    except ValueError:
        raise TopicInvalid(f"topic {name[:80]!r}: expected one of {', '.join(Kind)} after the edge id") from None
