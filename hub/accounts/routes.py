"""Beside the line: the session as JSON: sign in, who am I, sign out, own password, own language and time zone.

A script begins with `GET /api/v1/session`, which gives the CSRF token that signing in asks for.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hub.accounts.access import (
    Anyone,
    SignedIn,
    adopt,
    clear_session_cookie,
    csrf_token,
    session_token,
    set_session_cookie,
)
from hub.accounts.schemas import PasswordBody, PersonOut, ProfileBody, SessionOut, SignInBody
from hub.accounts.service import SignIn
from hub.parts import Parts

router = APIRouter(prefix="/api/v1/session", tags=["session"])


def address_of(request: Request) -> str:
    """Where the request came from, as far as attempts are counted by it."""
    return request.client.host if request.client else "unknown"


def agent_of(request: Request) -> str:
    """What the browser calls itself."""
    return request.headers.get("user-agent", "")


@router.get("")
def who_am_i(request: Request, person: Anyone) -> SessionOut:
    """The caller and their CSRF token."""
    return SessionOut(person=None if person is None else PersonOut.of(person), csrf=csrf_token(request))


@router.post("")
def sign_in(request: Request, response: Response, hub: Parts, body: SignInBody, person: Anyone) -> SessionOut:
    """Begins a session. Raises SignInRefused, TryLater."""
    begun = hub.accounts.sign_in(
        body.name,
        body.password,
        address=address_of(request),
        agent=agent_of(request),
        old_token=session_token(request),
    )
    return _begun(request, response, begun)


@router.delete("", status_code=204)
def sign_out(request: Request, response: Response, hub: Parts, person: Anyone) -> None:
    """Ends the session; no fault where there is none."""
    token = session_token(request)
    if token is not None:
        hub.accounts.sign_out(token)
    clear_session_cookie(response)


@router.put("/password")
def change_password(
    request: Request, response: Response, hub: Parts, body: PasswordBody, person: SignedIn
) -> SessionOut:
    """Gives the caller a password of their own; every other session of theirs ends. Raises InputRefused, TryLater."""
    begun = hub.accounts.change_password(
        person.id, current=body.current, new=body.new, address=address_of(request), agent=agent_of(request)
    )
    return _begun(request, response, begun)


@router.put("/profile")
def change_profile(hub: Parts, body: ProfileBody, person: SignedIn) -> PersonOut:
    """Sets the caller's language and time zone. Raises InputRefused."""
    return PersonOut.of(hub.accounts.change_profile(person.id, language=body.language, zone=body.zone))


def _begun(request: Request, response: Response, begun: SignIn) -> SessionOut:
    set_session_cookie(response, request, begun.token)
    adopt(request, begun.person, begun.token)
    return SessionOut(person=PersonOut.of(begun.person), csrf=csrf_token(request))
