"""Small JSON messages beside the batches: acknowledgement, status, clock probe and its answer, request for a replay."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab_contract.batch import CLOCK_UNKNOWN
from lab_contract.errors import MessageInvalid

M = TypeVar("M", bound=BaseModel)
Id = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?$")]


class _Message(BaseModel):
    # Extra keys are let through: an older reader must live with a newer writer during an update.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Quarantined(_Message):
    """A message that the hub keeps aside: `digest` is `batch.digest` of its bytes, `reason` a BatchRejected code.

    The id in the header would not do: of a batch that was changed on its way, or is of a newer version, it may be that
    of another batch, and the edge would let go of one that nobody has stored.
    """

    digest: int
    reason: str


class Ack(_Message):
    """Hub to edge: these batches are durable in the store `store_id`, or kept aside; the edge may let go of them.

    `epoch` is that of `stored`, and 0 where nothing is."""

    store_id: str
    epoch: int
    stored: tuple[int, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


class ConnectionStatus(_Message):
    """How a link to the equipment is. `state`: connecting, running, waiting (will retry) or stopped (misconfigured)."""

    id: str
    protocol: str
    state: str
    since_ns: int
    detail: str = ""
    counters: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)


class KitStatus(_Message):
    """A kit as its edge sees it; `digest` is that of the kit model in use there."""

    id: Id
    model: str
    model_version: str
    digest: str
    connections: tuple[ConnectionStatus, ...] = ()


class Kept(_Message):
    """Batches that the edge still has although the hub has acknowledged them: numbers of `epoch` from first to last.

    Not every number between them is one: some were never used, some were kept aside at the hub.
    """

    epoch: int
    first: int
    last: int


class Replay(_Message):
    """Hub to edge: the store `store_id` lacks these acknowledged numbers of `epoch`; send again those that are kept.

    `ranges` are (first, last), both inclusive.
    """

    store_id: str
    epoch: int
    ranges: tuple[tuple[int, int], ...]


class Probe(_Message):
    """Edge to hub: what time is it? `sent_ns` by the edge's clock; `id` is told again in the answer."""

    id: int
    sent_ns: int


class Time(_Message):
    """Hub to edge, the answer to a probe: when it came and when this was sent, by the hub's clock (UTC ns)."""

    id: int
    received_ns: int
    answered_ns: int


class EdgeStatus(_Message):
    """Edge to hub, every few seconds, and as `online=False` by the broker when the edge is gone (last will)."""

    edge: Id
    online: bool
    epoch: int = 0
    software: str = ""
    sent_ns: int = 0
    kits: tuple[KitStatus, ...] = ()
    kept: tuple[Kept, ...] = ()
    clock_offset_ns: int = 0
    clock_uncertainty_ns: int = CLOCK_UNKNOWN
    counters: dict[str, int] = Field(default_factory=dict)


def dump(message: BaseModel) -> bytes:
    """The message as sent."""
    return message.model_dump_json(exclude_defaults=True).encode()


def load_ack(data: bytes) -> Ack:
    """An acknowledgement. Raises MessageInvalid."""
    return _load(Ack, "acknowledgement", data)


def load_status(data: bytes) -> EdgeStatus:
    """An edge's status. Raises MessageInvalid."""
    return _load(EdgeStatus, "status", data)


def load_replay(data: bytes) -> Replay:
    """A request for a replay. Raises MessageInvalid."""
    return _load(Replay, "replay", data)


def load_probe(data: bytes) -> Probe:
    """A clock probe. Raises MessageInvalid."""
    return _load(Probe, "probe", data)


def load_time(data: bytes) -> Time:
    """The answer to a probe. Raises MessageInvalid."""
    return _load(Time, "time", data)


def _load(kind: type[M], name: str, data: bytes) -> M:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise MessageInvalid(f"{name}: {error.error_count()} faults, first: {error.errors()[0]['msg']}") from None
