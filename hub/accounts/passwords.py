"""Beside the line: passwords of people: the rules for a new one, their argon2id hashes, random ones to hand out."""

from __future__ import annotations

import secrets
import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from hub.errors import N_, InputRefused

LEAST_CHARACTERS = 10
MOST_CHARACTERS = 200
READABLE = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that are not mistaken for each other on a printed slip."""

_hasher = PasswordHasher()
"""argon2id with the parameters of RFC 9106, section 4 (second recommendation): 64 MiB and three passes."""
_at_once = threading.BoundedSemaphore(2)
"""Each hash takes 64 MiB: a class that signs in together must not take all the memory of a small machine."""


def _prepared(password: str) -> str:
    # The same letters can reach us as different code points from different keyboards.
    return unicodedata.normalize("NFKC", password)


def check_rules(password: str, name: str) -> None:
    """Raises InputRefused where the password is too short, too long or the person's own name."""
    prepared = _prepared(password)
    if len(prepared) < LEAST_CHARACTERS:
        text = N_("A password has at least %(least)d characters.")
        raise InputRefused(text, fields={"password": text}, least=LEAST_CHARACTERS)
    if len(prepared) > MOST_CHARACTERS:
        text = N_("A password has at most %(most)d characters.")
        raise InputRefused(text, fields={"password": text}, most=MOST_CHARACTERS)
    if prepared.casefold().strip() == name.casefold():
        text = N_("A password is not your own name.")
        raise InputRefused(text, fields={"password": text})


def hash_password(password: str) -> str:
    """The argon2id hash to keep. Takes tens of milliseconds: call it in a worker thread."""
    with _at_once:
        return _hasher.hash(_prepared(password))


def is_password(password: str, password_hash: str | None) -> bool:
    """Whether it is the password. For an unknown name give None: it takes as long, so that time tells nothing."""
    if len(password) > MOST_CHARACTERS:
        return False
    with _at_once:
        try:
            return _hasher.verify(password_hash or _nobody(), _prepared(password)) and password_hash is not None
        except VerifyMismatchError:
            return False
        except InvalidHashError:
            raise ValueError("the database holds a password hash that is none") from None


def needs_new_hash(password_hash: str) -> bool:
    """Whether the hash was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)


_nobody_hash: str | None = None


def _nobody() -> str:
    global _nobody_hash
    if _nobody_hash is None:
        _nobody_hash = _hasher.hash(secrets.token_urlsafe(32))
    return _nobody_hash


def random_password() -> str:
    """A password to hand out once: three groups of five, 74 bits."""
    return "-".join("".join(secrets.choice(READABLE) for _ in range(5)) for _ in range(3))
