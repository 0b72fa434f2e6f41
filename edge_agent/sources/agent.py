"""First stage of the line, protocol `agent`: the agent's own figures as channels of the kit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.source import Event, Reading, SourceContext


class AgentSettings(BaseModel):
    """How often the figures are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    period_s: float = Field(default=5.0, ge=0.1, le=3600)


class AgentAddress(BaseModel):
    """`link_rtt`: from publish to acknowledgement, ms. `data_age`: since the equipment was last heard, s."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fact: Literal["link_rtt", "data_age"]


class AgentSource:
    """Reads the agent itself; it has nothing to connect to. A figure that is not known yet is left out."""

    Settings: ClassVar[type[BaseModel]] = AgentSettings
    Address: ClassVar[type[BaseModel]] = AgentAddress

    def __init__(self, context: SourceContext, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._context = context
        self._sleep = sleep
        self._period_s = cast(AgentSettings, context.settings).period_s
        self.counters: dict[str, int] = {}
        self.facts: dict[str, str] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def readings(self) -> AsyncIterator[Reading]:
        """The known figures, once a period."""
        while True:
            await self._sleep(self._period_s)
            if events := self._events():
                yield events

    def _events(self) -> list[Event]:
        agent, now = self._context.agent, self._context.clock.time_ns()
        figures = {"link_rtt": agent.link_rtt_ms(), "data_age": agent.data_age_s(self._context.kit)}
        return [
            Event(bound.channel.id, now, figure, t_receipt=now)
            for bound in self._context.channels
            if (figure := figures[cast(AgentAddress, bound.address).fact]) is not None
        ]

    async def close(self) -> None:
        """Nothing to disconnect from."""
