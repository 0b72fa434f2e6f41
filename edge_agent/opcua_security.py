"""Beside the line: how an OPC UA link proves who is at each end; used by `sources/opcua.py`.

The server's endpoints are asked for first, over an open channel, and checked against the settings. So a wrong policy, a
missing user or another server's certificate is named in one line, where the handshake itself would only break off.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256, SecurityPolicyNone
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_pem_key
from pydantic import BaseModel, ConfigDict, model_validator

from edge_agent.errors import SourceMisconfigured
from edge_agent.passwords import read_password

POLICIES = {"None": SecurityPolicyNone, "Basic256Sha256": SecurityPolicyBasic256Sha256}


ACTIONS = {
    ua.StatusCodes.BadUserAccessDenied: ("user", "expected a user and password that the server knows"),
    ua.StatusCodes.BadIdentityTokenRejected: ("user", "expected a user and password that the server knows"),
    ua.StatusCodes.BadIdentityTokenInvalid: ("user", "expected a kind of sign-in that the server takes"),
    ua.StatusCodes.BadSecurityPolicyRejected: ("policy", "expected a policy that the server takes"),
    ua.StatusCodes.BadSecurityModeRejected: ("mode", "expected a mode that the server takes"),
    ua.StatusCodes.BadSecurityChecksFailed: ("certificate", "trust this edge's certificate on the server"),
    ua.StatusCodes.BadCertificateUntrusted: ("certificate", "trust this edge's certificate on the server"),
    ua.StatusCodes.BadCertificateTimeInvalid: ("certificate", "expected one valid today, and right clocks"),
    ua.StatusCodes.BadCertificateInvalid: ("certificate", "expected one that the server can read"),
    ua.StatusCodes.BadCertificateUriInvalid: ("certificate", "expected one with the application's URI"),
    ua.StatusCodes.BadCertificateUseNotAllowed: ("certificate", "expected one for client authentication"),
}
"""What a person must do where the server refuses the edge; every other refusal may pass by itself."""


class SecuritySettings(BaseModel):
    """Who the edge is for the server and whom it trusts. Files are relative to the settings file; PEM or DER.

    `server_certificate` is the certificate of the server itself, or of the authority that issued it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["None", "Basic256Sha256"] = "None"
    mode: Literal["Sign", "SignAndEncrypt"] | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    server_certificate: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    password_env: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        files = ("certificate", "private_key", "server_certificate")
        if self.policy == "None":
            given = [name for name in ("mode", *files) if getattr(self, name) is not None]
            if given:
                raise ValueError(f"expected policy Basic256Sha256 with {', '.join(given)}")
            if self.user is not None:
                raise ValueError("expected policy Basic256Sha256 with a user, as the password would travel readable")
        elif missing := [name for name in files if getattr(self, name) is None]:
            raise ValueError(f"expected {', '.join(missing)} with policy {self.policy}")
        if (self.user is None) != (self.password_file is None and self.password_env is None):
            raise ValueError("expected user and one of password_file and password_env together")
        return self

    @property
    def message_mode(self) -> ua.MessageSecurityMode:
        """The mode as OPC UA numbers it."""
        if self.policy == "None":
            return ua.MessageSecurityMode.None_
        return ua.MessageSecurityMode[self.mode or "SignAndEncrypt"]

    def __str__(self) -> str:
        channel = "none" if self.policy == "None" else f"{self.policy} {self.message_mode.name}"
        return channel if self.user is None else f"{channel}, user"


@dataclass(frozen=True)
class Credentials:
    """What the files of the settings hold. Made once at each connect, so that a renewed file is taken up."""

    certificate: x509.Certificate | None = None
    private_key: bytes = b""
    """DER or PEM, as in its file."""
    trusted: x509.Certificate | None = None
    password: str | None = None

    @property
    def application_uri(self) -> str | None:
        """The URI that the certificate was issued for; OPC UA demands the application to bear it."""
        if self.certificate is None:
            return None
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return None
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        return uris[0] if uris else None


def read_credentials(settings: SecuritySettings, base: Path) -> Credentials:
    """The files of the settings, read and checked against each other. Raises SourceMisconfigured."""
    password = read_password(settings, base)
    if settings.certificate is None or settings.private_key is None or settings.server_certificate is None:
        return Credentials(password=password)
    certificate = _certificate("certificate", base / settings.certificate)
    key = _content("private_key", base / settings.private_key)
    try:
        loaded = load_pem_key(key, None) if _is_pem(key) else load_der_private_key(key, None)
    except (ValueError, TypeError):
        raise SourceMisconfigured("private_key", "expected a private key in PEM or DER without a password") from None
    own = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != own:
        raise SourceMisconfigured("private_key", "expected the key that belongs to `certificate`")
    trusted = _certificate("server_certificate", base / settings.server_certificate)
    found = Credentials(certificate, key, trusted, password)
    if found.application_uri is None:
        raise SourceMisconfigured("certificate", "expected a subject alternative name with the application's URI")
    return found


async def secure(client: Client, settings: SecuritySettings, credentials: Credentials) -> str:
    """Prepare `client` so that `connect` uses these settings; returns one line on the server's certificate.

    Raises SourceMisconfigured where the server offers something else or is not the trusted one; what asyncua raises
    where it does not answer.
    """
    endpoints = await client.connect_and_get_server_endpoints()
    endpoint = _choose(endpoints, settings)
    _check_user(endpoint, settings)
    if settings.user is not None and credentials.password is not None:
        client.set_user(settings.user)
        client.set_password(credentials.password)
    if credentials.certificate is None or credentials.trusted is None:
        return "none"
    server = _first_certificate(endpoint.ServerCertificate)
    _check_server(server, credentials.trusted)
    client.application_uri = credentials.application_uri
    await client.set_security(
        POLICIES[settings.policy],
        certificate=CertProperties(credentials.certificate.public_bytes(Encoding.DER), "der"),
        private_key=CertProperties(credentials.private_key, "pem" if _is_pem(credentials.private_key) else "der"),
        server_certificate=CertProperties(server.public_bytes(Encoding.DER), "der"),
        mode=settings.message_mode,
    )
    expired = " (expired)" if server.not_valid_after_utc < datetime.now(UTC) else ""
    return f"sha256 {server.fingerprint(SHA256()).hex()[:16]}, until {server.not_valid_after_utc:%Y-%m-%d}{expired}"


def _choose(endpoints: list[ua.EndpointDescription], settings: SecuritySettings) -> ua.EndpointDescription:
    wanted = POLICIES[settings.policy].URI
    for endpoint in endpoints:
        if endpoint.SecurityPolicyUri == wanted and endpoint.SecurityMode == settings.message_mode:
            return endpoint
    offered = sorted(
        {
            f"{str(endpoint.SecurityPolicyUri).rpartition('#')[2]} {endpoint.SecurityMode.name.strip('_')}"
            for endpoint in endpoints
        }
    )
    raise SourceMisconfigured("policy", f"expected what the server offers ({', '.join(offered)}), found {settings}")


def _check_user(endpoint: ua.EndpointDescription, settings: SecuritySettings) -> None:
    tokens = {token.TokenType: token for token in endpoint.UserIdentityTokens or []}
    if settings.user is None:
        if ua.UserTokenType.Anonymous not in tokens:
            raise SourceMisconfigured("user", "expected a user and its password, the server takes nobody without")
        return
    token = tokens.get(ua.UserTokenType.UserName)
    if token is None:
        raise SourceMisconfigured("user", "expected no user, the server takes none on this endpoint")
    plain = token.SecurityPolicyUri == SecurityPolicyNone.URI
    if plain and settings.message_mode != ua.MessageSecurityMode.SignAndEncrypt:
        raise SourceMisconfigured("mode", "expected SignAndEncrypt, as this server takes the password unencrypted")


def _check_server(server: x509.Certificate, trusted: x509.Certificate) -> None:
    if server == trusted:
        # Pinned by a person: an expired certificate of a machine is a matter for the status page, not a refusal.
        return
    try:
        server.verify_directly_issued_by(trusted)
        constraints = trusted.extensions.get_extension_for_class(x509.BasicConstraints).value
        now = datetime.now(UTC)
        if constraints.ca and server.not_valid_before_utc <= now <= server.not_valid_after_utc:
            return
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        # Not issued by it: told below, together with an expired one.
        pass
    raise SourceMisconfigured(
        "server_certificate",
        "expected the certificate of this server or of its authority; the server shows "
        f"sha256 {server.fingerprint(SHA256()).hex()} of {server.subject.rfc4514_string()!r}",
    )


def _first_certificate(der: bytes) -> x509.Certificate:
    # Servers may send the chain behind their certificate; the length is in the outer SEQUENCE (bytes 2 and 3).
    try:
        return x509.load_der_x509_certificate(der[: int.from_bytes(der[2:4], "big") + 4])
    except (ValueError, TypeError):
        raise SourceMisconfigured("policy", "expected a server that shows a certificate, found none") from None


def _certificate(place: str, path: Path) -> x509.Certificate:
    content = _content(place, path)
    try:
        return (x509.load_pem_x509_certificate if _is_pem(content) else x509.load_der_x509_certificate)(content)
    except ValueError:
        raise SourceMisconfigured(place, f"expected a certificate in PEM or DER in {str(path)!r}") from None


def _content(place: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceMisconfigured(place, f"expected a readable file, found {str(path)!r}: {error.strerror}") from None


def _is_pem(content: bytes) -> bool:
    return b"-----BEGIN" in content
