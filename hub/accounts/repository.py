"""Beside the line: every query on people and sessions. Each function works inside the caller's unit of work."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from hub.accounts.models import PersonRow, SessionRow
from hub.accounts.person import Person, Role


def person(row: PersonRow) -> Person:
    """What the other parts of the hub know of this person."""
    return Person(row.id, row.name, row.display_name, Role(row.role), row.language, row.zone, row.issued)


def person_by_name(session: Session, name: str) -> PersonRow | None:
    """The person who signs in under this name."""
    return session.scalar(select(PersonRow).where(PersonRow.name == name))


def person_by_id(session: Session, person_id: int) -> PersonRow | None:
    """The person with this id."""
    return session.get(PersonRow, person_id)


def all_people(session: Session) -> Sequence[PersonRow]:
    """Everybody, by name."""
    return session.scalars(select(PersonRow).order_by(PersonRow.name)).all()


def session_by_token_hash(session: Session, token_hash: str) -> tuple[SessionRow, PersonRow] | None:
    """The session with this token and its person."""
    found = session.execute(
        select(SessionRow, PersonRow).join(PersonRow).where(SessionRow.token_hash == token_hash)
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def sessions_of(session: Session, person_id: int) -> Sequence[SessionRow]:
    """The person's sessions, last used first."""
    return session.scalars(
        select(SessionRow).where(SessionRow.person_id == person_id).order_by(SessionRow.seen_ns.desc())
    ).all()


def touch_session(session: Session, session_id: int, seen_ns: int) -> None:
    """Notes when the session was last used."""
    session.execute(update(SessionRow).where(SessionRow.id == session_id).values(seen_ns=seen_ns))


def delete_session(session: Session, token_hash: str) -> None:
    """Ends the session with this token."""
    session.execute(delete(SessionRow).where(SessionRow.token_hash == token_hash))


def delete_session_of(session: Session, person_id: int, session_id: int) -> bool:
    """Ends one session of a person; False where they have none with this id."""
    where = (SessionRow.id == session_id, SessionRow.person_id == person_id)
    return session.scalar(delete(SessionRow).where(*where).returning(SessionRow.id)) is not None


def delete_sessions_of(session: Session, person_id: int) -> None:
    """Ends every session of a person."""
    session.execute(delete(SessionRow).where(SessionRow.person_id == person_id))


def delete_sessions_before(session: Session, *, created_ns: int, seen_ns: int) -> None:
    """Removes the sessions that were begun or last used before these times."""
    session.execute(delete(SessionRow).where(or_(SessionRow.created_ns <= created_ns, SessionRow.seen_ns <= seen_ns)))
