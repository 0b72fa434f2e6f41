"""Reads the certificate with which the embedded broker listens, before it is used: names, end, whether the key fits."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from hub.clock import NS


class CertificateUnusable(Exception):
    """Mend the files that the text names: certificate and key do not fit each other, cannot be read, or are too old."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The names and addresses that it vouches for; until when (UTC ns)."""

    names: tuple[str, ...]
    ends_ns: int


def read_certificate(certificate: Path, key: Path) -> Certificate:
    """What a client would see. Raises CertificateUnusable.

    The standard library reads a certificate only where a handshake shows it: so one is held, in memory, and shows at
    the same time that the hub's own link will trust it.
    """
    try:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateUnusable(f"expected a PEM certificate and its key without a password: {_why(error)}") from None
    except OSError as error:
        raise CertificateUnusable(f"expected readable files: {error.strerror}") from None
    client_side = ssl.create_default_context(cafile=str(certificate))
    client_side.check_hostname = False
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            raise CertificateUnusable(f"a client would refuse the certificate: {_why(error)}") from None
    shown = client.getpeercert() or {}
    names = tuple(str(name[1]) for name in shown.get("subjectAltName", ()) if isinstance(name, tuple))
    return Certificate(names, int(ssl.cert_time_to_seconds(str(shown["notAfter"]))) * NS)


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal of whoever started the hub.
    return ""


def _why(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)
