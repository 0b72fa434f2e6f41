"""The seam of the broker: what the line asks of it, whichever one passes the messages on.

Receives accounts, hands on an address for the hub's own link and how the broker is. All calls block; async callers use
a thread. `choose.make_broker` gives the one that the settings name.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import BrokerAccount
from hub.errors import CannotRun


class BrokerUnavailable(CannotRun):
    """Mend what the message names (port in use, missing program, wrong password), then start again."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the hub's own link signs in. Over TLS the broker shows a certificate trusted by `ca_file`, or `certificate`
    itself; both None: one that the system trusts.
    """

    url: str
    user: str
    password: str = field(repr=False)
    ca_file: Path | None = None
    certificate: Path | None = None

    def link(
        self, name: str, on_message: Callable[[str, bytes], None], on_connection: Callable[[bool, str], None]
    ) -> MqttLink:
        """A link with this sign-in, not started yet; `name` and random digits make its client id."""
        return MqttLink(
            self.url,
            client_id=f"{name}-{secrets.token_hex(6)}",
            user=self.user,
            password=self.password,
            ca_file=self.ca_file,
            certificate=self.certificate,
            on_message=on_message,
            on_connection=on_connection,
        )


@dataclass(frozen=True, slots=True)
class Refusals:
    """What the broker has turned away since the hub started; None where this broker lets nobody count it.

    `take_overs` counts sign-ins under a client id that was connected: an edge whose link broke does so once, two
    agents with one id do so again and again. `last` says what the newest refusal was.
    """

    sign_ins: int | None = None
    publishes: int | None = None
    subscriptions: int | None = None
    take_overs: int | None = None
    last: str = ""


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """`detail` says what is wrong; `restarts` counts how often the broker was lost since the hub started.

    `pid` is that of an embedded broker. `missing` are users of the catalog whom the broker does not know and the hub
    cannot make known, as it keeps no password: renew these.
    """

    kind: str
    running: bool
    detail: str
    restarts: int
    pid: int | None = None
    missing: tuple[str, ...] = ()
    refusals: Refusals = Refusals()

    @property
    def ok(self) -> bool:
        """Whether nothing about it must be mended."""
        return self.running and not self.detail and not self.missing


class Broker(Protocol):
    """An MQTT broker with the hub's accounts, from `start` to `stop`. A dumb pipe: nothing depends on its memory."""

    @property
    def access(self) -> HubAccess:
        """The hub's own sign-in; complete once started."""
        ...

    def start(self, accounts: Sequence[BrokerAccount]) -> None:
        """Bring it up with these accounts and no others of the hub's. Raises BrokerUnavailable, ValueError."""
        ...

    def reload(self, accounts: Sequence[BrokerAccount]) -> None:
        """Take over changed accounts: who is gone or has a new password is cut off, nobody else.

        A broker that is away takes them over when it is back. Raises BrokerUnavailable where it refuses them and
        ValueError for a bad account: then the former ones are in force.
        """
        ...

    def revive(self) -> None:
        """Nothing has come through for long although nobody ended it: start it anew, where it is the hub's to start."""
        ...

    def stop(self) -> None:
        """End what `start` began. Idempotent; a start under way is given up first."""
        ...

    def health(self) -> BrokerHealth:
        """How it is; does not block."""
        ...
