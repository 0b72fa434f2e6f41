"""Small JSON messages beside the batches: the hub's acknowledgement and the edge's status."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab_contract.errors import MessageInvalid

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


class EdgeStatus(_Message):
    """Edge to hub, every few seconds, and as `online=False` by the broker when the edge is gone (last will)."""

    edge: Id
    online: bool
    epoch: int = 0
    software: str = ""
    sent_ns: int = 0
    kits: tuple[KitStatus, ...] = ()
    counters: dict[str, int] = Field(default_factory=dict)


def dump(message: BaseModel) -> bytes:
    """The message as sent."""
    return message.model_dump_json(exclude_defaults=True).encode()


def load_ack(data: bytes) -> Ack:
    """An acknowledgement. Raises MessageInvalid."""
    try:
        return Ack.model_validate_json(data)
    except ValidationError as error:
        raise MessageInvalid(
            f"acknowledgement: {error.error_count()} faults, first: {error.errors()[0]['msg']}"
        ) from None


def load_status(data: bytes) -> EdgeStatus:
    """An edge's status. Raises MessageInvalid."""
    try:
        return EdgeStatus.model_validate_json(data)
    except ValidationError as error:
        raise MessageInvalid(f"status: {error.error_count()} faults, first: {error.errors()[0]['msg']}") from None
