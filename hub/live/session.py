"""A live WebSocket from its acceptance to its end: receives what waits for one viewer, hands on texts and frames.

It ends when the browser leaves, when the person's session ends, or when the hub stops; whatever ends first ends the
others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from hub.accounts.access import still_signed_in
from hub.clock import Clock
from hub.live import messages
from hub.live.feed import LiveFeed, Viewer
from hub.live.state import KitView
from hub.store.base import SECOND

VALUES_EVERY_NS = SECOND // 20
"""Least time between two texts with values: more often nobody sees."""
SPEAK_EVERY_NS = SECOND
"""Something is said at least this often, so that a page can tell a quiet kit from a dead link."""
LATE_EVERY_NS = 2 * SECOND
"""A backlog comes in many batches; a page asks for its trends anew after each such text."""
SIGNED_IN_EVERY_S = 5.0
POLICY_VIOLATION, GOING_AWAY = 1008, 1001


class _Over(Exception):
    """Leave this WebSocket with `code`; None where the other side has left."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def hold(websocket: WebSocket, stopping: asyncio.Event, talk: Callable[[], Awaitable[None]]) -> None:
    """Accept, talk until one of both sides leaves, and close."""
    await websocket.accept()
    over: _Over | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_talk(talk))
            tasks.create_task(_listen(websocket))
            tasks.create_task(_until_stopping(stopping))
            tasks.create_task(_while_signed_in(websocket))
    except* _Over as group:
        over = next(error for error in group.exceptions if isinstance(error, _Over))
    if over is not None and over.code is not None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            # The browser may have left in the same moment; both then say so, in their own way.
            await websocket.close(over.code, over.reason)


async def _talk(talk: Callable[[], Awaitable[None]]) -> None:
    try:
        await talk()
    except WebSocketDisconnect:
        raise _Over() from None


async def _listen(websocket: WebSocket) -> None:
    # Nothing is expected from the page; reading is the only way to hear that it has left.
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    raise _Over()


async def _until_stopping(stopping: asyncio.Event) -> None:
    await stopping.wait()
    raise _Over(GOING_AWAY, "the hub is stopping")


async def _while_signed_in(websocket: WebSocket) -> None:
    # A session that has ended must reach the wire: a page left open would go on showing a person's lesson to anyone.
    while True:
        await asyncio.sleep(SIGNED_IN_EVERY_S)
        if not await still_signed_in(websocket):
            raise _Over(POLICY_VIOLATION, "sign_in_needed")


class KitTalk:
    """What is said to one viewer of a kit."""

    def __init__(
        self,
        websocket: WebSocket,
        feed: LiveFeed,
        viewer: Viewer,
        clock: Clock,
        storing: Callable[[], bool],
    ) -> None:
        self._websocket = websocket
        self._feed = feed
        self._viewer = viewer
        self._clock = clock
        self._storing = storing
        self._alarms: object = None
        self._glance: object = None
        self._spoke_ns = self._values_ns = self._late_ns = 0

    async def run(self) -> None:
        """A snapshot, then whatever is new; ends where the kit has left the catalog."""
        first = self._feed.view(self._viewer.kit)
        if first is None:
            return
        self._viewer.take_values()
        self._remember(first)
        await self._say(
            "snapshot",
            values=messages.values(first.values),
            alarms=messages.alarms(first.alarms),
            kit=messages.kit(first),
        )
        while (view := await self._next()) is not None:
            await self._news(view)

    async def _next(self) -> KitView | None:
        """Wait for something new, at most until something has to be said anyway."""
        viewer = self._viewer
        now = self._clock.monotonic_ns()
        due = self._spoke_ns + SPEAK_EVERY_NS
        if viewer.values:
            due = min(due, self._values_ns + VALUES_EVERY_NS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0, due - now) / SECOND):
                await viewer.changed.wait()
        viewer.changed.clear()
        return self._feed.view(viewer.kit)

    async def _news(self, view: KitView) -> None:
        while (frame := self._viewer.next_frame()) is not None:
            await self._websocket.send_bytes(frame)
        if view.alarms != self._alarms:
            await self._say("alarms", alarms=messages.alarms(view.alarms))
        if _glance(view) != self._glance:
            await self._say("kit", kit=messages.kit(view))
        self._remember(view)
        now = self._clock.monotonic_ns()
        if now - self._late_ns >= LATE_EVERY_NS and (late := self._viewer.take_late()) is not None:
            self._late_ns = now
            await self._say("late", from_ms=messages.ms(late[0]), to_ms=messages.ms(late[1]))
        if self._viewer.values and now - self._values_ns >= VALUES_EVERY_NS:
            self._values_ns = now
            await self._say("values", values=messages.values(self._viewer.take_values()))
        if now - self._spoke_ns >= SPEAK_EVERY_NS:
            await self._say("tick")

    def _remember(self, view: KitView) -> None:
        self._alarms, self._glance = view.alarms, _glance(view)

    async def _say(self, kind: str, **parts: object) -> None:
        self._spoke_ns = self._clock.monotonic_ns()
        parts |= messages.storing(self._storing())
        await self._websocket.send_text(messages.text(kind, self._clock.time_ns(), **parts))


def _glance(view: KitView) -> object:
    """What of a view is worth a message of its own: not its times, which change with every batch."""
    links = tuple((link.id, link.state, link.detail, link.fresh) for link in view.connections)
    wrong = tuple((one.kind, one.subject, one.code) for one in view.wrong)
    return view.state, view.state_value, view.online, view.fresh, view.stale_channels, links, wrong


async def talk_of_workshop(
    websocket: WebSocket, feed: LiveFeed, workshop: str, clock: Clock, storing: Callable[[], bool]
) -> None:
    """The cards of a workshop's kits, once a second."""
    while True:
        cards = [messages.card(view) for view in feed.views(workshop)]
        await websocket.send_text(messages.text("cards", clock.time_ns(), kits=cards, **messages.storing(storing())))
        await asyncio.sleep(SPEAK_EVERY_NS / SECOND)
