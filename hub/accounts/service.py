"""Beside the line: what can be done with accounts: add people, sign in and out, change a password, issue sign-ins.

Everything here blocks (a password hash takes tens of milliseconds): plain `def` routes and worker threads only.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy.orm import Session

from hub.accounts import passwords, repository
from hub.accounts.attempts import Attempts
from hub.accounts.models import PersonRow, SessionRow
from hub.accounts.person import Person, Role
from hub.clock import NS, Clock, known_zone
from hub.database import Database
from hub.errors import N_, AlreadyThere, InputRefused, NotFound, SignInRefused
from lab_contract.kit import LANGUAGES

IDLE_NS = 12 * 3600 * NS
"""A session that nobody has used for so long has ended."""
ABSOLUTE_NS = 14 * 86_400 * NS
"""A session ends after so long, however much it is used."""
TOUCH_NS = 60 * NS
"""Last use is noted no more often, so that reading a page does not write to the database."""
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,30}[a-z0-9])\Z")


@dataclass(frozen=True, slots=True)
class NewPerson:
    """A person to add. `name` is what they sign in with: 2 to 32 of a-z, 0-9, dot, dash and underscore."""

    name: str
    display_name: str
    role: Role
    language: str = "en"
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class SignIn:
    """A session just begun. `token` goes into the cookie and nowhere else."""

    token: str
    person: Person


@dataclass(frozen=True, slots=True)
class IssuedSignIn:
    """A sign-in to hand out once. `password` is None where the person has chosen their own."""

    person: Person
    password: str | None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session in the list of a person's sessions; times are UTC ns."""

    id: int
    created_ns: int
    seen_ns: int
    address: str
    agent: str
    current: bool


def _hash_of(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _check_profile(language: str, zone: str, display_name: str) -> None:
    fields: dict[str, str] = {}
    if language not in LANGUAGES:
        fields["language"] = N_("Choose one of the languages listed.")
    if not known_zone(zone):
        fields["zone"] = N_("Give the IANA name of a time zone, such as Asia/Tashkent.")
    if not 1 <= len(display_name.strip()) <= 80:
        fields["display_name"] = N_("A name to show has 1 to 80 characters.")
    if fields:
        raise InputRefused(next(iter(fields.values())), fields=fields)


class Accounts:
    """People, their passwords and sessions."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._attempts = Attempts(clock)

    def add_person(self, new: NewPerson, password: str, *, issued: bool = False) -> Person:
        """Adds a person; `issued` says that somebody else knows the password.

        Raises InputRefused for a name, password, language or zone that will not do, AlreadyThere for a taken name.
        """
        passwords.check_rules(password, new.name)
        hashed = passwords.hash_password(password)
        with self._database.transaction() as session:
            return repository.person(self._insert(session, new, hashed, issued=issued))

    def _insert(self, session: Session, new: NewPerson, password_hash: str, *, issued: bool) -> PersonRow:
        if not NAME.match(new.name):
            text = N_("A name to sign in with has 2 to 32 of a-z, 0-9, dot, dash and underscore.")
            raise InputRefused(text, fields={"name": text})
        _check_profile(new.language, new.zone, new.display_name)
        if repository.person_by_name(session, new.name) is not None:
            raise AlreadyThere(N_("There is already a person with the name %(name)s."), name=new.name)
        row = PersonRow(
            name=new.name,
            display_name=new.display_name.strip(),
            role=new.role.value,
            language=new.language,
            zone=new.zone,
            password_hash=password_hash,
            issued=issued,
            created_ns=self._clock.time_ns(),
        )
        session.add(row)
        session.flush()
        return row

    def people(self) -> list[Person]:
        """Everybody, by name."""
        with self._database.reading() as session:
            return [repository.person(row) for row in repository.all_people(session)]

    def sign_in(
        self, name: str, password: str, *, address: str, agent: str = "", old_token: str | None = None
    ) -> SignIn:
        """Begins a session under a new token; the session of `old_token`, if any, ends.

        Raises SignInRefused where name or password is wrong, TryLater after too many attempts.
        """
        name = name.strip().lower()[:64]
        self._attempts.begin(name, address)
        with self._database.reading() as session:
            row = repository.person_by_name(session, name)
            found = None if row is None else (row.id, row.password_hash)
        if not passwords.is_password(password, None if found is None else found[1]) or found is None:
            raise SignInRefused()
        self._attempts.succeeded(name, address)
        rehashed = passwords.hash_password(password) if passwords.needs_new_hash(found[1]) else found[1]
        now = self._clock.time_ns()
        with self._database.transaction() as session:
            row = repository.person_by_id(session, found[0])
            if row is None or row.password_hash != found[1]:
                # The password was changed or the person removed while we compared.
                raise SignInRefused()
            row.password_hash = rehashed
            if old_token is not None:
                repository.delete_session(session, _hash_of(old_token))
            repository.delete_sessions_before(session, created_ns=now - ABSOLUTE_NS, seen_ns=now - IDLE_NS)
            token = self._begin_session(session, row.id, now, address, agent)
            return SignIn(token, repository.person(row))

    @staticmethod
    def _begin_session(session: Session, person_id: int, now: int, address: str, agent: str) -> str:
        token = secrets.token_urlsafe(32)
        session.add(
            SessionRow(
                person_id=person_id,
                token_hash=_hash_of(token),
                created_ns=now,
                seen_ns=now,
                address=address[:64],
                agent=agent[:200],
            )
        )
        return token

    def find_session(self, token: str, *, touch: bool = True) -> Person | None:
        """The person whose session this token opens, None where it has ended; `touch` notes that it was used."""
        now = self._clock.time_ns()
        with self._database.reading() as session:
            found = repository.session_by_token_hash(session, _hash_of(token))
            if found is None:
                return None
            row, person_row = found
            if now >= row.created_ns + ABSOLUTE_NS or now >= row.seen_ns + IDLE_NS:
                return None
            person, session_id, stale = repository.person(person_row), row.id, now >= row.seen_ns + TOUCH_NS
        if touch and stale:
            with self._database.transaction() as session:
                repository.touch_session(session, session_id, now)
        return person

    def sign_out(self, token: str) -> None:
        """Ends the session of this token; it is no fault if it has already ended."""
        with self._database.transaction() as session:
            repository.delete_session(session, _hash_of(token))

    def sessions_of(self, person_id: int, token: str | None = None) -> list[OpenSession]:
        """The person's sessions that still hold, last used first; `current` marks that of `token`."""
        now = self._clock.time_ns()
        current = None if token is None else _hash_of(token)
        with self._database.reading() as session:
            return [
                OpenSession(row.id, row.created_ns, row.seen_ns, row.address, row.agent, row.token_hash == current)
                for row in repository.sessions_of(session, person_id)
                if now < row.created_ns + ABSOLUTE_NS and now < row.seen_ns + IDLE_NS
            ]

    def end_session(self, person_id: int, session_id: int) -> None:
        """Ends one of the person's sessions. Raises NotFound where they have none with this id."""
        with self._database.transaction() as session:
            if not repository.delete_session_of(session, person_id, session_id):
                raise NotFound(N_("This session has already ended."))

    def change_password(self, person_id: int, *, current: str, new: str, address: str, agent: str = "") -> SignIn:
        """Gives the person a password of their own, ends all their sessions and begins a new one.

        Raises InputRefused where the current password is wrong or the new one will not do, TryLater after too many
        attempts at the current one, NotFound where the person is gone.
        """
        with self._database.reading() as session:
            row = self._known(session, person_id)
            name, password_hash = row.name, row.password_hash
        self._attempts.begin(name, address)
        if not passwords.is_password(current, password_hash):
            text = N_("This is not your current password.")
            raise InputRefused(text, fields={"current": text})
        self._attempts.succeeded(name, address)
        passwords.check_rules(new, name)
        hashed = passwords.hash_password(new)
        with self._database.transaction() as session:
            row = self._known(session, person_id)
            if row.password_hash != password_hash:
                text = N_("The password was changed meanwhile.")
                raise InputRefused(text, fields={"current": text})
            row.password_hash = hashed
            row.issued = False
            repository.delete_sessions_of(session, person_id)
            token = self._begin_session(session, person_id, self._clock.time_ns(), address, agent)
            return SignIn(token, repository.person(row))

    def change_profile(self, person_id: int, *, language: str, zone: str, display_name: str | None = None) -> Person:
        """Sets language and time zone, and the name to show where given. Raises InputRefused, NotFound."""
        with self._database.transaction() as session:
            row = self._known(session, person_id)
            shown = row.display_name if display_name is None else display_name.strip()
            _check_profile(language, zone, shown)
            row.language, row.zone, row.display_name = language, zone, shown
            return repository.person(row)

    @staticmethod
    def _known(session: Session, person_id: int) -> PersonRow:
        row = repository.person_by_id(session, person_id)
        if row is None:
            raise NotFound(N_("There is no such person."))
        return row

    def issue_sign_ins(self, people: Sequence[NewPerson]) -> list[IssuedSignIn]:
        """A sign-in for each of these people, in their order; who has no account yet gets one.

        A person who has not chosen a password of their own gets a new random one, which ends their sessions; it is
        returned here once and kept nowhere. Raises InputRefused for a name, language or zone that will not do.
        """
        issued: list[IssuedSignIn] = []
        for new in people:
            password = passwords.random_password()
            hashed = passwords.hash_password(password)
            with self._database.transaction() as session:
                row = repository.person_by_name(session, new.name)
                if row is None:
                    row = self._insert(session, new, hashed, issued=True)
                elif row.issued:
                    row.password_hash = hashed
                    repository.delete_sessions_of(session, row.id)
                issued.append(IssuedSignIn(repository.person(row), password if row.issued else None))
        return issued

    def remove_ended_sessions(self) -> None:
        """Removes what has ended from the table."""
        now = self._clock.time_ns()
        with self._database.transaction() as session:
            repository.delete_sessions_before(session, created_ns=now - ABSOLUTE_NS, seen_ns=now - IDLE_NS)
