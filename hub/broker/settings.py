"""The part `[broker]` of hub.toml: which broker, where it listens or is reached, and with which account."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

HUB_USER = "epip-hub"
"""The hub's own account at a Mosquitto with its plugin, which it makes for itself."""
NATS_KEYS = ("host", "port", "certificate_file", "key_file")
MOSQUITTO_KEYS = ("url", "user", "password_file", "ca_file", "accounts_folder", "pid_file", "log_file")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host: an address or `localhost`; any other name may lead anywhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str) -> str:
    try:
        return host if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"expected an address of this machine, such as 127.0.0.1 or 0.0.0.0, found {host!r}") from None


def _broker_url(url: str) -> str:
    # Here and not above: settings are read before the socket is up, and paho takes long to import.
    from firmware_bridge.mqtt_link import parse_url

    address = parse_url(url)
    if not address.tls and not is_loopback(address.host):
        raise ValueError(f"expected mqtts://, as passwords travel beyond this machine, found {url!r}")
    return url


class BrokerSettings(BaseModel):
    """The broker: the hub's own NATS, or a Mosquitto that an administrator runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["nats", "mosquitto"] = "nats"
    host: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    port: int = Field(default=1883, ge=1, le=65535)
    certificate_file: Path | None = None
    key_file: Path | None = None
    url: Annotated[str, AfterValidator(_broker_url)] | None = None
    user: str | None = Field(default=None, min_length=1)
    password_file: Path | None = None
    ca_file: Path | None = None
    accounts_folder: Path | None = None
    pid_file: Path | None = None
    log_file: Path | None = None
    edge_url: Annotated[str, AfterValidator(_broker_url)] | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        foreign = MOSQUITTO_KEYS if self.kind == "nats" else NATS_KEYS
        for key in foreign:
            if key in self.model_fields_set:
                other = "mosquitto" if self.kind == "nats" else "nats"
                raise ValueError(f'expected {key} with kind = "{other}" only')
        if self.kind == "nats":
            if (self.certificate_file is None) != (self.key_file is None):
                raise ValueError("expected certificate_file and key_file together, found one")
            if self.certificate_file is None and not is_loopback(self.host):
                raise ValueError(
                    "expected certificate_file and key_file: the hub listens beyond this machine with TLS only, "
                    f"found host {self.host!r} without them"
                )
            return self
        for key in ("url", "user", "password_file"):
            if getattr(self, key) is None:
                raise ValueError(f'expected {key}, as kind is "mosquitto"')
        if self.pid_file is not None and self.accounts_folder is None:
            raise ValueError("expected pid_file together with accounts_folder only")
        if self.accounts_folder is None and self.user == HUB_USER:
            raise ValueError(f"expected another user than {HUB_USER}, which the hub makes for itself")
        return self
