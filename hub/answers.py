"""Beside the line: turns each error into an answer: problem JSON (RFC 9457) for programs, a page for people.

Nobody on a page is sent to the sign-in page and comes back to where they wanted to go.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.websockets import WebSocket, WebSocketState

from hub.accounts.access import look_at_caller
from hub.errors import HubError, NotFound, NotReady, RequestRefused, SignInNeeded
from hub.parts import parts_of
from hub.web.render import error_page

SIGN_IN_PAGE = "/sign-in"
API = "/api/"
STARTING = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1">'
    '<meta name="viewport" content="width=device-width"><title>The hub is starting</title></head><body><main>'
    "<h1>The hub is starting</h1>"
    '<p>This page loads again by itself.</p><p lang="zh-Hans">中心平台正在启动，本页面会自动刷新。</p>'
    '<p lang="ru">Центральный сервер запускается. Страница обновится сама.</p></main></body></html>'
)
"""Shown before anything is loaded that a real page needs, the catalogues of texts among them."""


def install(app: FastAPI) -> None:
    """Makes every error of the app an answer."""
    app.add_exception_handler(HubError, _hub_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected)


async def _hub_error(connection: Any, error: Any) -> Any:
    if isinstance(connection, WebSocket):
        await refuse(connection, error)
        return None
    return answer(connection, error)


async def _http_exception(request: Request, error: Any) -> Response:
    if wants_page(request):
        await look_at_caller(request)
    if error.status_code == 404:
        return answer(request, NotFound(), headers=error.headers)
    return answer(request, RequestRefused(error.status_code, str(error.detail)), headers=error.headers)


async def _validation_error(request: Request, error: Any) -> Response:
    # What was sent is not repeated: it may hold a password.
    faults = [
        {"place": ".".join(str(part) for part in fault["loc"]), "expected": fault["msg"]} for fault in error.errors()
    ]
    return JSONResponse(
        {
            "type": "about:blank",
            "title": "Please check what you sent",
            "status": 422,
            "code": "input_refused",
            "detail": "; ".join(f"{fault['place']}: {fault['expected']}" for fault in faults),
            "faults": faults,
        },
        422,
        media_type="application/problem+json",
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    from hub.security import SECURITY_HEADERS

    # The server logs the traceback. This answer is made outside the security layer, so it carries the headers itself.
    return answer(request, HubError(), headers=SECURITY_HEADERS)


def wants_page(connection: HTTPConnection) -> bool:
    """Whether the caller is a browser that shows what it gets."""
    return not connection.url.path.startswith(API) and "text/html" in connection.headers.get("accept", "")


def answer(connection: HTTPConnection, error: HubError, headers: Any = None) -> Response:
    """The error as an HTTP answer."""
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(error.retry_after_s)
    if not wants_page(connection):
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": error.title,
            "status": error.status,
            "code": error.code,
            "detail": error.detail,
        }
        if error.retry_after_s is not None:
            body["retry_after_s"] = error.retry_after_s
        fields: dict[str, str] = getattr(error, "fields", {})
        if fields:
            body["fields"] = {name: text % error.params if error.params else text for name, text in fields.items()}
        return JSONResponse(body, error.status, sent, media_type="application/problem+json")
    if isinstance(error, NotReady):
        return HTMLResponse(STARTING, error.status, sent)
    if isinstance(error, SignInNeeded):
        return _to_sign_in(connection)
    return _page(connection, error, sent)


def _to_sign_in(connection: HTTPConnection) -> Response:
    there = connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
    where = f"{SIGN_IN_PAGE}?next={quote(there, safe='/')}" if connection.scope.get("method") == "GET" else SIGN_IN_PAGE
    if "hx-request" in connection.headers:
        # A fragment must not be replaced by the sign-in page: the whole page goes there.
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN_PAGE})
    return RedirectResponse(where, 303)


def _page(connection: HTTPConnection, error: HubError, headers: dict[str, str]) -> Response:
    response = error_page(connection, error, parts_of(connection).clock.time_ns())
    response.headers.update(headers)
    return response


async def refuse(websocket: WebSocket, error: HubError) -> None:
    """The error as the answer to a WebSocket: an HTTP status before it is accepted, a close code after."""
    if websocket.application_state is not WebSocketState.CONNECTING:
        await websocket.close(1008, error.code)
    elif "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(answer(websocket, error))
    else:
        await websocket.close(1008, error.code)
