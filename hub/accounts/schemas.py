"""Beside the line: JSON bodies of the session routes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hub.accounts.person import Person


class SignInBody(BaseModel):
    """Name and password."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=64)
    password: str = Field(max_length=200, repr=False)


class PasswordBody(BaseModel):
    """The current password and the one to come."""

    model_config = ConfigDict(extra="forbid")
    current: str = Field(max_length=200, repr=False)
    new: str = Field(max_length=400, repr=False)


class ProfileBody(BaseModel):
    """Language and IANA time zone."""

    model_config = ConfigDict(extra="forbid")
    language: str = Field(max_length=8)
    zone: str = Field(max_length=64)


class PersonOut(BaseModel):
    """A person as shown to themselves."""

    id: int
    name: str
    display_name: str
    role: str
    language: str
    zone: str
    issued: bool

    @classmethod
    def of(cls, person: Person) -> PersonOut:
        """The person in JSON."""
        return cls(
            id=person.id,
            name=person.name,
            display_name=person.display_name,
            role=person.role.value,
            language=person.language,
            zone=person.zone,
            issued=person.issued,
        )


class SessionOut(BaseModel):
    """Who is signed in (null: nobody) and the token that every unsafe request carries as X-CSRF-Token."""

    person: PersonOut | None
    csrf: str
