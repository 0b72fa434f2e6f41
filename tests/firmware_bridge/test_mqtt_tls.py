"""The MQTT link over TLS: whom it trusts, and what it does while it can trust nobody."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.mqtt_link import MqttLink
from tests.brokers import Broker, mosquitto_with_files
from tests.certificates import Authority

pytestmark = pytest.mark.real

WAIT_S = 15.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Broker]:
    """Its certificate bears a name by which nobody here reaches it; nobody may sign in."""
    tls = authority.issue("hub", "hub.example")
    with mosquitto_with_files(tmp_path, tmp_path / "accounts", pid_file=tmp_path / "pid", tls=tls) as running:
        yield running


class Client:
    """A link without an account, and why its connections ended. Where TLS succeeds, the broker refuses the sign-in."""

    def __init__(self, url: str, *, ca_file: Path | None = None, certificate: Path | None = None) -> None:
        self.whys: list[str] = []
        self.link = MqttLink(
            url,
            client_id=f"test-{secrets.token_hex(6)}",
            user="nobody",
            password="nothing",
            ca_file=ca_file,
            certificate=certificate,
            on_message=lambda *_: None,
            on_connection=lambda _up, why: self.whys.append(why),
        )
        self.link.start()


@pytest.fixture
def client(broker: Broker) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def connect(**trusts: Path) -> Client:
        made.append(Client(broker.url, **trusts))
        return made[-1]

    yield connect
    for one in made:
        one.link.stop()


def test_a_certificate_that_is_known_itself_is_trusted_under_any_name(
    client: Callable[..., Client], tmp_path: Path
) -> None:
    """The hub reaches its own broker by an address that is in no certificate."""
    known = client(certificate=tmp_path / "hub.pem")
    until(lambda: known.link.refusal)


def test_another_certificate_of_the_same_authority_is_not(
    client: Callable[..., Client], authority: Authority, tmp_path: Path
) -> None:
    other, _ = authority.issue("other", "127.0.0.1")
    stranger, unnamed = client(certificate=other), client(ca_file=tmp_path / "ca.pem")
    until(lambda: len(stranger.whys) > 1 and len(unnamed.whys) > 1)
    assert all("certificate verify failed" in why for why in (*stranger.whys, *unnamed.whys))
    assert stranger.link.refusal is unnamed.link.refusal is None


def test_a_certificate_file_that_is_not_there_is_waited_for(client: Callable[..., Client], tmp_path: Path) -> None:
    """A file that an update replaces must not silence an edge until somebody starts it again."""
    early = client(certificate=tmp_path / "later.pem")
    until(lambda: early.whys)
    assert "No such file" in early.whys[0]
    (tmp_path / "later.pem").write_bytes((tmp_path / "hub.pem").read_bytes())
    until(lambda: early.link.refusal)
