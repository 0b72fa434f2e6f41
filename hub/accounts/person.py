"""Beside the line: what the other parts of the hub know of a person. No password and no session is in here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person is here for."""

    ADMINISTRATOR = "administrator"
    INSTRUCTOR = "instructor"
    TECHNICIAN = "technician"
    TRAINEE = "trainee"


STAFF = frozenset({Role.ADMINISTRATOR, Role.INSTRUCTOR, Role.TECHNICIAN})


@dataclass(frozen=True, slots=True)
class Person:
    """A person who has an account. `language` is en, zh or ru; `zone` is an IANA name such as Asia/Tashkent."""

    id: int
    name: str
    display_name: str
    role: Role
    language: str
    zone: str
    issued: bool = False
    """True until the person has chosen a password of their own."""

    @property
    def is_staff(self) -> bool:
        """True for everybody but trainees."""
        return self.role in STAFF
