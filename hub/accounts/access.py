"""Beside the line: each route declares here who may call it, and what it then knows of the caller.

    def page(request: Request, hub: Parts, person: Staff) -> HTMLResponse: ...
    async def live(websocket: WebSocket, hub: Parts, person: SignedIn) -> None: ...

A rule reads the session cookie, puts the caller into `request.state.person` (None for nobody), and for every unsafe
method asks for the CSRF token: form field `csrf` or header `X-CSRF-Token`. A test fails for a route without a rule.
"""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a callable object as they stand.
import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response

from hub.accounts.person import STAFF, Person, Role
from hub.errors import FormStale, NotAllowed, SignInNeeded
from hub.parts import parts_of

__all__ = [
    "STAFF",
    "AccessRule",
    "Administrator",
    "Anyone",
    "Open",
    "Person",
    "Role",
    "SignedIn",
    "Staff",
    "Technical",
    "adopt",
    "clear_session_cookie",
    "csrf_token",
    "look_at_caller",
    "person_of",
    "session_token",
    "set_session_cookie",
    "still_signed_in",
]

SESSION_COOKIE = "epip_session"
BEFORE_COOKIE = "epip_before"
"""Carries the CSRF token's secret until somebody has signed in."""
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
SESSION_DAYS = 14
TOKEN_CHARACTERS = 200
"""No cookie of ours is longer; what is longer is not even hashed."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The caller of one request: the person, None for nobody, and the secret their CSRF token is made from."""

    person: Person | None
    token: str


class AccessRule:
    """Lets a caller in or raises: SignInNeeded for nobody, NotAllowed for another role, FormStale without token."""

    def __init__(self, name: str, roles: frozenset[Role] | None) -> None:
        self.name = name
        self.roles = roles

    async def __call__(self, connection: HTTPConnection) -> Person | None:
        """The caller; None only where the rule lets nobody in particular in."""
        visit = await look_at_caller(connection)
        if self.roles is not None:
            if visit.person is None:
                raise SignInNeeded()
            if visit.person.role not in self.roles:
                raise NotAllowed()
        if isinstance(connection, Request) and connection.method not in SAFE_METHODS:
            await _check_csrf(connection, visit.token)
        return visit.person


class OpenRule(AccessRule):
    """Lets everybody in and asks nothing: no database, no cookie. For what answers before the hub is ready."""

    async def __call__(self, connection: HTTPConnection) -> Person | None:
        """Nobody: the caller is not looked at."""
        return None


Open = Annotated[None, Depends(OpenRule("open", None))]
Anyone = Annotated[Person | None, Depends(AccessRule("anyone", None))]
SignedIn = Annotated[Person, Depends(AccessRule("signed in", frozenset(Role)))]
Staff = Annotated[Person, Depends(AccessRule("staff", STAFF))]
Technical = Annotated[Person, Depends(AccessRule("technical", frozenset({Role.ADMINISTRATOR, Role.TECHNICIAN})))]
Administrator = Annotated[Person, Depends(AccessRule("administrator", frozenset({Role.ADMINISTRATOR})))]


async def look_at_caller(connection: HTTPConnection) -> Visit:
    """Finds out who calls, once a request. Rules do; an error page does where no rule has run (an unknown address)."""
    known: Visit | None = getattr(connection.state, "visit", None)
    if known is not None:
        return known
    token = session_token(connection)
    person = None if token is None else await run_in_threadpool(parts_of(connection).accounts.find_session, token)
    if token is None or person is None:
        token = _before_token(connection)
    visit = Visit(person, token)
    connection.state.visit = visit
    connection.state.person = person
    return visit


def adopt(connection: HTTPConnection, person: Person, token: str) -> None:
    """Makes the session just begun that of this request, so that the answer carries its CSRF token."""
    connection.state.visit = Visit(person, token)
    connection.state.person = person


def session_token(connection: HTTPConnection) -> str | None:
    """The session token that came with the request, valid or not."""
    token = connection.cookies.get(SESSION_COOKIE)
    return token if token and len(token) <= TOKEN_CHARACTERS else None


def _before_token(connection: HTTPConnection) -> str:
    token = connection.cookies.get(BEFORE_COOKIE)
    if token and len(token) <= TOKEN_CHARACTERS:
        return token
    token = secrets.token_urlsafe(32)
    cookie = Response()
    cookie.set_cookie(
        BEFORE_COOKIE, token, httponly=True, samesite="lax", secure=connection.url.scheme in ("https", "wss")
    )
    # The security layer adds it to whatever answer the route gives.
    connection.state.set_cookies = [cookie.headers["set-cookie"]]
    return token


def person_of(connection: HTTPConnection) -> Person | None:
    """The caller as far as a rule has looked; None for nobody and where no rule has run (error pages)."""
    visit: Visit | None = getattr(connection.state, "visit", None)
    return None if visit is None else visit.person


def csrf_token(connection: HTTPConnection) -> str:
    """The CSRF token for a form or the header, masked anew each time; empty where no rule has run.

    The mask keeps a compressed page from giving the token away byte by byte (the BREACH attack).
    """
    visit: Visit | None = getattr(connection.state, "visit", None)
    if visit is None:
        return ""
    plain = _csrf(visit.token)
    mask = secrets.token_bytes(len(plain))
    return (mask + bytes(a ^ b for a, b in zip(mask, plain, strict=True))).hex()


def _csrf(token: str) -> bytes:
    return hmac.new(token.encode(), b"csrf", sha256).digest()[:16]


async def _check_csrf(request: Request, token: str) -> None:
    sent = request.headers.get(CSRF_HEADER)
    if sent is None and request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        field = (await request.form()).get(CSRF_FIELD)
        sent = field if isinstance(field, str) else None
    try:
        data = bytes.fromhex(sent or "")
    except ValueError:
        raise FormStale() from None
    mask, masked = data[:16], data[16:]
    if len(data) != 32 or not hmac.compare_digest(
        bytes(a ^ b for a, b in zip(mask, masked, strict=True)), _csrf(token)
    ):
        raise FormStale()


def set_session_cookie(response: Response, connection: HTTPConnection, token: str) -> None:
    """Hands the session token to the browser; scripts cannot read it, other sites cannot send it along."""
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=SESSION_DAYS * 86_400,
        httponly=True,
        samesite="lax",
        secure=connection.url.scheme == "https",
    )
    response.delete_cookie(BEFORE_COOKIE, httponly=True, samesite="lax")


def clear_session_cookie(response: Response) -> None:
    """Takes the session token away from the browser."""
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="lax")


async def still_signed_in(connection: HTTPConnection) -> bool:
    """Whether the session of a long connection still holds; a WebSocket asks every few seconds and leaves on False."""
    token = session_token(connection)
    if token is None:
        return False
    return await run_in_threadpool(parts_of(connection).accounts.find_session, token, touch=False) is not None
