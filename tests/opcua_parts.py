"""What the tests of the OPC UA vertical share: a source on an endpoint, counters as a kit model, certificates."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.clock import SystemClock
from edge_agent.health import Health
from edge_agent.opcua_tags import OpcuaAddress
from edge_agent.source import BoundChannel, Event, Lost, SourceContext
from edge_agent.sources.opcua import OpcuaSettings, OpcuaSource
from lab_contract.kit import KitModel, find_kit_model

LABEL = {"en": "a", "zh": "b", "ru": "c"}
PLC_LINE = find_kit_model("plc_line", Path())


def counters_model(paths: Iterable[str], **channel: object) -> KitModel:
    """A kit model with a channel `c.<path>` for each browse path; `channel` adds to or replaces its keys."""
    defaults = {"label": LABEL, "kind": "int", "connection": "plc"} | channel
    channels = [defaults | {"id": f"c.{path.lower()}", "address": {"node": path}} for path in paths]
    document = {
        "schema": "kit-model/1",
        "id": "counters",
        "family": "plc",
        "version": "1.0.0",
        "label": LABEL,
        "description": LABEL,
        "state_channel": channels[0]["id"],
        "stations": [{"id": "c", "label": LABEL}],
        "connections": [{"id": "plc", "protocol": "opcua", "label": LABEL}],
        "channels": channels,
        "safe_state": {"description": LABEL, "reached_within_s": 1, "actions": [LABEL], "triggers": [LABEL]},
        "heartbeat": {"safe_s": 3},
    }
    return KitModel.model_validate(document)


def opcua_source(
    endpoint: str,
    *,
    model: KitModel = PLC_LINE,
    base: Path = Path(),
    addresses: dict[str, dict[str, object]] | None = None,
    **settings: object,
) -> OpcuaSource:
    """A source for every channel of the model's connection `plc`, its addresses overridden by `addresses`."""
    connection = model.connection_by_id["plc"]
    clock = SystemClock()
    channels = tuple(
        BoundChannel(channel, OpcuaAddress.model_validate(channel.address | (addresses or {}).get(channel.id, {})))
        for channel in model.channels
        if channel.connection == "plc"
    )
    whole = OpcuaSettings.model_validate(connection.settings | {"endpoint": endpoint} | settings)
    return OpcuaSource(SourceContext("kit-1", model, connection, whole, channels, (), clock, base, Health(clock)))


@asynccontextmanager
async def opened(source: OpcuaSource) -> AsyncIterator[OpcuaSource]:
    """The source, open; closed afterwards."""
    await source.open()
    try:
        yield source
    finally:
        await source.close()


async def events_until(source: OpcuaSource, enough: Callable[[list[Event]], bool], within_s: float = 15) -> list[Event]:
    """Events read until `enough` of them is true; raises TimeoutError where it never is."""
    return (await events_and_losses(source, enough, within_s))[0]


async def events_and_losses(
    source: OpcuaSource, enough: Callable[[list[Event]], bool], within_s: float = 15
) -> tuple[list[Event], list[Lost]]:
    """The same, with what was said to be missing."""
    events: list[Event] = []
    losses: list[Lost] = []
    async with asyncio.timeout(within_s), aclosing(source.readings()) as readings:
        async for reading in readings:
            if isinstance(reading, Lost):
                losses.append(reading)
                continue
            assert isinstance(reading, list)
            events += reading
            if enough(events):
                break
    return events, losses


async def event_of(source: OpcuaSource, channel: str, like: Callable[[Event], bool] = lambda _: True) -> Event:
    """The next event of a channel that is `like` that."""
    events = await events_until(source, lambda seen: any(e.channel == channel and like(e) for e in seen))
    return next(e for e in events if e.channel == channel and like(e))


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    """Wait for a condition that has no event; raises TimeoutError where it does not come."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def make_certificate(folder: Path, name: str, uri: str) -> None:
    """`<name>.pem`, `<name>.der` and `<name>.key` in the folder: a self-signed application certificate for `uri`."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    ) | dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), True)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]), False
        )
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(**usage), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.der").write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
