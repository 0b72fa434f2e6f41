"""Whoever sets the broker up learns in one line what does not go together, and never listens on a network unasked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.broker.base import BrokerUnavailable
from hub.broker.certificate import CertificateUnusable, read_certificate
from hub.broker.choose import edge_url, make_broker, problems
from hub.broker.config import server_text
from hub.broker.mosquitto import MosquittoBroker
from hub.broker.mosquitto_files import MosquittoFiles
from hub.broker.nats import NatsBroker
from hub.errors import SettingsInvalid
from hub.settings import HubSettings, parse_settings
from tests.certificates import Authority

MOSQUITTO = 'kind = "mosquitto"\nurl = "mqtts://broker.example"\nuser = "epip-admin"\npassword_file = "p"\n'
TLS = 'certificate_file = "hub.pem"\nkey_file = "hub.key"\n'


def parsed(text: str, folder: Path = Path()) -> HubSettings:
    return parse_settings(f"[broker]\n{text}", folder / "hub.toml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "10.0.0.1", "fe80::1"])  # noqa: S104
def test_the_hub_does_not_listen_on_a_network_without_tls(host: str) -> None:
    """Passwords and telemetry in the clear, on whatever network the machine happens to be in."""
    with pytest.raises(
        SettingsInvalid, match=r"broker: expected certificate_file and key_file: the hub listens beyond"
    ):
        parsed(f'host = "{host}"')
    with pytest.raises(ValueError, match="expected a certificate and its key"):
        server_text(Path(), 1883, host=host)
    assert parsed(f'host = "{host}"\n{TLS}').broker.host == host


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('host = "hub.example"', "broker.host: expected an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
        ('certificate_file = "hub.pem"', "broker: expected certificate_file and key_file together, found one"),
        ('url = "mqtts://broker.example"', 'broker: expected url with kind = "mosquitto" only'),
        ('kind = "mosquitto"', 'broker: expected url, as kind is "mosquitto"'),
        ('kind = "rabbit"', "broker.kind: input should be 'nats' or 'mosquitto', found 'rabbit'"),
        (f"{MOSQUITTO}port = 1884", 'broker: expected port with kind = "nats" only'),
        (f'{MOSQUITTO}pid_file = "pid"', "broker: expected pid_file together with accounts_folder only"),
        (MOSQUITTO.replace("mqtts", "mqtt"), "broker.url: expected mqtts://, as passwords travel beyond this machine"),
        (MOSQUITTO.replace("epip-admin", "epip-hub"), "broker: expected another user than epip-hub"),
        ('edge_url = "mqtt://192.0.2.7"', "broker.edge_url: expected mqtts://, as passwords travel"),
        ('edge_url = "hub.example"', "broker.edge_url: expected mqtt://host:port or mqtts://host:port"),
        (f"{MOSQUITTO}password = 'x'", "broker.password: expected no such key; known here: kind, host"),
    ],
)
def test_what_does_not_go_together_is_one_line(text: str, line: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parsed(text)
    assert str(caught.value).startswith(f"hub.toml: {line}")
    assert "\n" not in str(caught.value)


def test_the_broker_is_the_one_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("secret\n")
    assert isinstance(make_broker(parsed("", tmp_path)), NatsBroker)
    plugin = make_broker(parsed(MOSQUITTO, tmp_path))
    assert isinstance(plugin, MosquittoBroker)
    assert plugin.access.user == "epip-hub"
    files = make_broker(parsed(f'{MOSQUITTO}accounts_folder = "a"', tmp_path))
    assert isinstance(files, MosquittoFiles)
    assert (files.access.user, files.access.password) == ("epip-admin", "secret")


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("0.0.0.0", ("hub.example", "192.0.2.7"), "mqtts://hub.example:1883"),  # noqa: S104
        ("192.0.2.7", ("hub.example", "192.0.2.7"), "mqtts://192.0.2.7:1883"),
        ("192.0.2.8", ("*.example", "hub.example"), "mqtts://hub.example:1883"),
        ("127.0.0.1", ("127.0.0.1",), "mqtts://127.0.0.1:1883"),
    ],
)
def test_edges_are_told_a_name_that_the_certificate_bears(
    host: str, names: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    """Any other name and every edge refuses the hub."""
    Authority(tmp_path).issue("hub", *names)
    assert edge_url(parsed(f'host = "{host}"\n{TLS}', tmp_path)) == expected


def test_without_tls_edges_are_told_the_listener(tmp_path: Path) -> None:
    assert edge_url(parsed("port = 1884", tmp_path)) == "mqtt://127.0.0.1:1884"
    assert edge_url(parsed('host = "::1"', tmp_path)) == "mqtt://[::1]:1883"
    assert edge_url(parsed(MOSQUITTO, tmp_path)) == "mqtts://broker.example"


def test_a_certificate_is_read_as_a_client_would_see_it(tmp_path: Path) -> None:
    certificate = read_certificate(*Authority(tmp_path).issue("hub", "hub.example", "192.0.2.7", "2001:db8::7"))
    assert certificate.names[:2] == ("hub.example", "192.0.2.7")
    assert len(certificate.names) == 3


def foreign_key(folder: Path) -> None:
    authority = Authority(folder)
    authority.issue("hub", "hub.example")
    authority.issue("other", "hub.example")[1].replace(folder / "hub.key")


def too_old(folder: Path) -> None:
    Authority(folder).issue("hub", "hub.example", age_days=30)


def not_pem(folder: Path) -> None:
    Authority(folder).issue("hub", "hub.example")
    (folder / "hub.pem").write_text("a letter to my mother")


def missing(folder: Path) -> None:
    Authority(folder).issue("hub", "hub.example")[1].unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (foreign_key, "expected a PEM certificate and its key without a password: KEY_VALUES_MISMATCH"),
        (too_old, "a client would refuse the certificate: certificate has expired"),
        (not_pem, "expected a PEM certificate and its key without a password: "),
        (missing, "expected readable files: No such file or directory"),
    ],
)
def test_a_certificate_that_no_edge_would_take_is_found_before_the_hub_starts(
    spoil: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    """Otherwise every edge is away, and each says something else."""
    spoil(tmp_path)
    settings = parsed(TLS, tmp_path)
    (problem,) = problems(settings)
    assert problem.line("hub.toml").startswith(f"hub.toml: broker.certificate_file: {why}")
    with pytest.raises(BrokerUnavailable, match=r"broker\.certificate_file: "):
        make_broker(settings)
    with pytest.raises(CertificateUnusable):
        read_certificate(tmp_path / "hub.pem", tmp_path / "hub.key")


def test_a_certificate_without_a_name_is_found(tmp_path: Path) -> None:
    Authority(tmp_path).issue("hub")
    (problem,) = problems(parsed(TLS, tmp_path))
    assert problem.expected == "expected a certificate with a DNS name or an address (SAN), found none"


def test_a_password_that_is_not_there_is_found(tmp_path: Path) -> None:
    (problem,) = problems(parsed(MOSQUITTO, tmp_path))
    assert problem.line("hub.toml").startswith("hub.toml: broker.password_file: expected a file with the password: ")
    (tmp_path / "p").write_text("\n")
    (problem,) = problems(parsed(MOSQUITTO, tmp_path))
    assert problem.expected.endswith("expected a password, found none")
    (tmp_path / "p").write_text("secret")
    assert problems(parsed(MOSQUITTO, tmp_path)) == []
    (problem,) = problems(parsed(f'{MOSQUITTO}ca_file = "none.pem"', tmp_path))
    assert problem.line("").endswith(f"expected a readable file, found {os.fspath(tmp_path / 'none.pem')!r}")
