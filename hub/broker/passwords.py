"""Broker passwords as each broker understands them: receives one in the clear, hands on its hashes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets

MOSQUITTO_ROUNDS = 1000
"""Few, because these passwords are 192 random bits that nobody can guess, and the broker waits while it hashes."""
BCRYPT_ROUNDS = 8
"""As few, for the same reasons."""
MOSQUITTO_HASH = re.compile(r"\$7\$\d+\$[A-Za-z0-9+/=]{16}\$[A-Za-z0-9+/=]{88}\Z")
BCRYPT_HASH = re.compile(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}\Z")


def new_password() -> str:
    """192 random bits in 32 characters."""
    return secrets.token_urlsafe(24)


def mosquitto_hash(password: str) -> str:
    """The password as Mosquitto's password file has it: PBKDF2 with SHA-512, `$7$rounds$salt$hash` in base64."""
    salt = os.urandom(12)
    hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, MOSQUITTO_ROUNDS, 64)
    return f"$7${MOSQUITTO_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}"


def bcrypt_hash(password: str, rounds: int = BCRYPT_ROUNDS) -> str:
    """The password as NATS has it in its users file."""
    import bcrypt

    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds, prefix=b"2a")).decode()
