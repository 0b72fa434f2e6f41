"""Beside the line: the outermost layer around every request and WebSocket.

Receives what the server hands over; refuses foreign hosts, foreign origins and bodies that are too large; hands the
rest on, and adds the security headers and pending cookies to each answer.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from hub.accounts.access import SAFE_METHODS
from hub.answers import answer, refuse
from hub.errors import ForeignOrigin, HubError, NotReady, TooLarge, WrongHost
from hub.parts import HubParts

MOST_BODY_BYTES = 1024 * 1024
SECURITY_HEADERS = {
    # A page loads files of this hub and nothing else, runs no script but its own files, and stands in no frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers belong to one person at one moment; files with a name of their own content say otherwise themselves.
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI layer: host, origin, body size, headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_on(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                for cookie in state.get("set_cookies", ()):
                    headers.append("set-cookie", cookie)
            await send(message)

        headers = Headers(scope=scope)
        refused: HubError | None = None
        if not _is_loopback(headers.get("host", "")):
            refused = WrongHost()
        elif (scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS) and _is_foreign(scope, headers):
            refused = ForeignOrigin()
        elif scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            whole = await _whole_body(headers, receive)
            if whole is None:
                refused = TooLarge()
            else:
                receive = whole
        if refused is not None:
            await _refuse(refused, scope, receive, send_on)
            return
        await self._app(scope, receive, send_on)


class ReadyGate:
    """ASGI layer: until the hub is ready, everything but `/healthz` and static files is answered with 503."""

    def __init__(self, app: ASGIApp, parts: HubParts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or WebSocket."""
        waits = scope["type"] in ("http", "websocket") and not self._parts.ready
        if waits and scope["path"] != "/healthz" and not scope["path"].startswith("/static/"):
            await _refuse(NotReady(), scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _refuse(error: HubError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await refuse(WebSocket(scope, receive, send), error)
        return
    await answer(Request(scope), error)(scope, receive, send)


def _is_loopback(host: str) -> bool:
    # A name of another site that resolves to 127.0.0.1 would let its scripts read our pages (DNS rebinding).
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    # Programs send neither header; every browser of today sends both.
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = headers.get("origin")
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return origin is not None and origin.lower() != f"{scheme}://{headers.get('host', '')}".lower()


async def _whole_body(headers: Headers, receive: Receive) -> Receive | None:
    """A `receive` that hands on the body already read, None where it is too large."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
        return None
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            break
        size += len(message.get("body", b""))
        if size > MOST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            break
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
