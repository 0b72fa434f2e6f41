"""The broker that the settings name, and what an edge must know to reach it."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge.mqtt_link import parse_url
from hub.broker.base import Broker, BrokerUnavailable, HubAccess
from hub.broker.certificate import Certificate, CertificateUnusable, read_certificate
from hub.broker.mosquitto import MosquittoBroker
from hub.broker.mosquitto_files import MosquittoFiles
from hub.broker.nats import NatsBroker
from hub.settings import HubSettings
from lab_contract.errors import Problem


def make_broker(settings: HubSettings) -> Broker:
    """The broker, not yet started. Raises BrokerUnavailable for files that cannot be used. Blocks."""
    broker = settings.broker
    if broker.kind == "nats":
        tls = _tls(settings)
        if tls is not None:
            try:
                read_certificate(*tls)
            except CertificateUnusable as error:
                raise BrokerUnavailable(f"broker.certificate_file: {error}") from error
        return NatsBroker(settings.data_folder / "broker", broker.port, host=broker.host, tls=tls)
    access = hub_access(settings)
    log_file = _path(settings, broker.log_file)
    folder = _path(settings, broker.accounts_folder)
    if folder is not None:
        return MosquittoFiles(access, folder, pid_file=_path(settings, broker.pid_file), log_file=log_file)
    return MosquittoBroker(access, log_file=log_file)


def hub_access(settings: HubSettings) -> HubAccess:
    """The account that the settings name at a Mosquitto. Raises BrokerUnavailable where its password cannot be read."""
    broker = settings.broker
    if broker.url is None or broker.user is None or broker.password_file is None:
        raise ValueError("the settings name no broker of an administrator's")
    file = settings.path(broker.password_file)
    try:
        password = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BrokerUnavailable(f"broker.password_file: {file}: {reason}") from error
    if not password:
        raise BrokerUnavailable(f"broker.password_file: {file}: expected a password, found none")
    return HubAccess(broker.url, broker.user, password, _path(settings, broker.ca_file))


def enrols_by_plugin(settings: HubSettings) -> bool:
    """Whether an account is made at the broker itself, with its password in the clear."""
    return settings.broker.kind == "mosquitto" and settings.broker.accounts_folder is None


def edge_url(settings: HubSettings) -> str:
    """Where an edge reaches the broker: as set, else as derived from the listener and the names in its certificate."""
    broker = settings.broker
    if broker.edge_url is not None:
        return broker.edge_url
    if broker.url is not None:
        return broker.url
    tls = _tls(settings)
    if tls is None:
        return f"mqtt://{_in_url(broker.host)}:{broker.port}"
    try:
        names = read_certificate(*tls).names
    except CertificateUnusable as error:
        raise BrokerUnavailable(f"broker.certificate_file: {error}") from error
    # An edge compares the host of its URL with these names.
    plain = [name for name in names if "*" not in name]
    host = broker.host if broker.host in names or not plain else plain[0]
    return f"mqtts://{_in_url(host)}:{broker.port}"


def problems(settings: HubSettings) -> list[Problem]:
    """Files that the broker could not use; the network is not touched."""
    broker = settings.broker
    found: list[Problem] = []
    tls = _tls(settings)
    if tls is not None:
        try:
            found += _name_problems(read_certificate(*tls))
        except CertificateUnusable as error:
            found.append(Problem("broker.certificate_file", str(error)))
    if broker.kind == "mosquitto":
        try:
            hub_access(settings)
        except BrokerUnavailable as error:
            place, _, text = str(error).partition(": ")
            found.append(Problem(place, f"expected a file with the password: {text}"))
        if broker.ca_file is not None and not settings.path(broker.ca_file).is_file():
            file = settings.path(broker.ca_file)
            found.append(Problem("broker.ca_file", f"expected a readable file, found {str(file)!r}"))
    return found


def tls_is_used(settings: HubSettings) -> bool:
    """Whether edges reach the broker over TLS."""
    return parse_url(edge_url(settings)).tls


def _name_problems(certificate: Certificate) -> list[Problem]:
    if certificate.names:
        return []
    return [
        Problem("broker.certificate_file", "expected a certificate with a DNS name or an address (SAN), found none")
    ]


def _tls(settings: HubSettings) -> tuple[Path, Path] | None:
    certificate, key = settings.broker.certificate_file, settings.broker.key_file
    return None if certificate is None or key is None else (settings.path(certificate), settings.path(key))


def _path(settings: HubSettings, written: Path | None) -> Path | None:
    return None if written is None else settings.path(written)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
