"""Beside the line: sign in, sign out and one's own account as pages; receives forms, hands on HTML or an address."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from hub.accounts.access import (
    Anyone,
    SignedIn,
    adopt,
    clear_session_cookie,
    person_of,
    session_token,
    set_session_cookie,
)
from hub.accounts.routes import address_of, agent_of
from hub.errors import N_, HubError, InputRefused, SignInRefused, TryLater
from hub.parts import Parts
from hub.web.formats import LANGUAGES, zone_names
from hub.web.render import LANGUAGE_COOKIE, Crumb, language_for, page, translated

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

YEAR_S = 365 * 86_400
MOST_NEXT = 500

Field = Annotated[str, Form(max_length=400)]


def local_address(wanted: str) -> str:
    """An address of this hub to go on to after signing in, `/` for anything else.

    A link to the sign-in page must not be a way to send people to another site.
    """
    safe = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and len(wanted) <= MOST_NEXT
    return wanted if safe and wanted.isprintable() else "/"


@router.get("/sign-in")
def sign_in_page(
    request: Request,
    hub: Parts,
    person: Anyone,
    wanted: Annotated[str, Query(alias="next")] = "/",
    lang: str = "",
    left: bool = False,
) -> Response:
    """The form; `lang` chooses the language of all pages until somebody has signed in."""
    if person is not None:
        return RedirectResponse(local_address(wanted), 303)
    if lang in LANGUAGES:
        request.cookies[LANGUAGE_COOKIE] = lang
    response = _sign_in_form(request, hub, wanted=wanted, left=left)
    if lang in LANGUAGES:
        secure = request.url.scheme == "https"
        response.set_cookie(LANGUAGE_COOKIE, lang, max_age=YEAR_S, httponly=True, samesite="lax", secure=secure)
    return response


@router.post("/sign-in")
def sign_in(
    request: Request,
    hub: Parts,
    person: Anyone,
    name: Field = "",
    password: Field = "",
    wanted: Annotated[str, Form(alias="next", max_length=4000)] = "/",
) -> Response:
    """Begins a session and goes on to where the person wanted to go."""
    try:
        begun = hub.accounts.sign_in(
            name, password, address=address_of(request), agent=agent_of(request), old_token=session_token(request)
        )
    except (SignInRefused, TryLater) as error:
        return _sign_in_form(request, hub, wanted=wanted, name=name, error=error)
    response = RedirectResponse(local_address(wanted), 303)
    set_session_cookie(response, request, begun.token)
    return response


def _sign_in_form(
    request: Request, hub: Parts, *, wanted: str, name: str = "", error: HubError | None = None, left: bool = False
) -> HTMLResponse:
    code = language_for(request, None)
    response = page(
        request,
        "sign_in.html",
        now_ns=hub.clock.time_ns(),
        status=200 if error is None else error.status,
        next=local_address(wanted),
        name=name[:64],
        refusal=None if error is None else translated(code, error.message, error.params),
        signed_out=left,
    )
    if error is not None and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


@router.post("/sign-out")
def sign_out(request: Request, hub: Parts, person: Anyone) -> Response:
    """Ends the session; no fault where there is none."""
    token = session_token(request)
    if token is not None:
        hub.accounts.sign_out(token)
    response = RedirectResponse("/sign-in?left=1", 303)
    clear_session_cookie(response)
    return response


@router.get("/account")
def account(request: Request, hub: Parts, person: SignedIn, done: str = "") -> HTMLResponse:
    """One's own account."""
    return _account(request, hub, done=done if done in ("profile", "password") else "")


@router.post("/account")
def change_profile(request: Request, hub: Parts, person: SignedIn, language: Field = "", zone: Field = "") -> Response:
    """Sets language and time zone."""
    try:
        hub.accounts.change_profile(person.id, language=language, zone=zone.strip())
    except InputRefused as error:
        return _account(request, hub, error=error, zone=zone)
    return RedirectResponse("/account?done=profile", 303)


@router.post("/account/password")
def change_password(
    request: Request, hub: Parts, person: SignedIn, current: Field = "", new: Field = "", again: Field = ""
) -> Response:
    """Gives the person a password of their own and a new session; every other session of theirs ends."""
    try:
        if new != again:
            text = N_("The two new passwords differ.")
            raise InputRefused(text, fields={"again": text})
        begun = hub.accounts.change_password(
            person.id, current=current, new=new, address=address_of(request), agent=agent_of(request)
        )
    except (InputRefused, TryLater) as error:
        return _account(request, hub, error=error)
    response = RedirectResponse("/account?done=password", 303)
    set_session_cookie(response, request, begun.token)
    adopt(request, begun.person, begun.token)
    return response


def _account(
    request: Request, hub: Parts, *, done: str = "", error: HubError | None = None, zone: str | None = None
) -> HTMLResponse:
    person = person_of(request)
    code = language_for(request, person)
    problems = dict.fromkeys(("language", "zone", "current", "new", "again", "form"), "")
    if error is not None:
        fields: dict[str, str] = getattr(error, "fields", {})
        # The rules for passwords name the field `password`; here it stands twice.
        placed = {"new" if name == "password" else name: text for name, text in fields.items()}
        known = {name: text for name, text in placed.items() if name in problems}
        for name, text in (known or {"form": error.message}).items():
            problems[name] = translated(code, text, error.params)
    return page(
        request,
        "account.html",
        now_ns=hub.clock.time_ns(),
        path=[Crumb(translated(code, N_("My account")))],
        status=200 if error is None else error.status,
        done=done,
        problems=problems,
        chosen_zone=zone if zone is not None else person.zone if person is not None else "UTC",
        zones=zone_names(),
    )
