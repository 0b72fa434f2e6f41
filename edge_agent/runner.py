"""Around the first stage of the line: keeps one source read for ever, and hands its readings on.

Retry with back-off and jitter, the watchdog for a source that falls silent, counting and the state that people see are
here and in no source. Nothing a source does ends the agent or disturbs another source.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from edge_agent.clock import Clock
from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.gaps import ConnectionWatch
from edge_agent.health import Health
from edge_agent.settings import SourcePlan
from edge_agent.source import Event, Frame, Lost, Reading, Source
from lab_contract.messages import ConnectionStatus

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 10.0
MISCONFIGURED_RETRY_S = 60.0
"""Someone may have mended the equipment's side meanwhile; the settings themselves are read at the start only."""
STALL_S = 15.0
"""A connection with streams that is silent this long is opened anew: an unplugged board gives no error at all. Sources
that know their equipment better notice it sooner."""
OPEN_S = 30.0
CLOSE_S = 5.0


class SourceRunner:
    """Reads one connection. `make` gives a new source for each attempt, `deliver` takes the readings with data.

    `watch`, where there is one, sees every reading first and says what is missing. `on_change` is called whenever
    `status` has another state. `rng` and `sleep` are for tests.
    """

    def __init__(
        self,
        plan: SourcePlan,
        *,
        make: Callable[[], Source],
        deliver: Callable[[list[Event] | Frame], None],
        on_change: Callable[[], None],
        health: Health,
        clock: Clock,
        rng: random.Random,
        watch: ConnectionWatch | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stall_s: float = STALL_S,
    ) -> None:
        self._plan = plan
        self._make = make
        self._deliver = deliver
        self._on_change = on_change
        self._health = health
        self._clock = clock
        self._rng = rng
        self._watch = watch
        self._sleep = sleep
        self._stall_s = stall_s if plan.streams else None
        # The agent's own figures are no sign of the equipment.
        self._is_equipment = plan.connection.protocol != "agent"
        self._name = f"{plan.kit}.{plan.connection.id}"
        self._source: Source | None = None
        self._past: Counter[str] = Counter()
        self._counters = {"readings": 0, "events": 0, "samples": 0, "lost_samples": 0}
        self._counters |= {"losses": 0, "failures": 0, "crashes": 0}
        self._facts: dict[str, str] = {}
        self._state = "connecting"
        self._detail = ""
        self._since_ns = clock.time_ns()
        self._failed_with: str | None = None
        self._attempt = 0
        if self._is_equipment:
            health.watch(plan.kit, plan.connection.id)

    def status(self) -> ConnectionStatus:
        """How the connection is, with the counters of all its sources so far and the facts of the latest."""
        counters = self._past + Counter(self._source.counters if self._source else {})
        return ConnectionStatus(
            id=self._plan.connection.id,
            protocol=self._plan.connection.protocol,
            state=self._state,
            since_ns=self._since_ns,
            detail=self._detail,
            counters={name: count for name, count in {**counters, **self._counters}.items() if count},
            facts=dict(self._source.facts if self._source else self._facts),
        )

    async def run(self) -> None:
        """Read for ever. Ends by cancellation only; the source is closed then too."""
        while True:
            try:
                await self._read()
            except SourceMisconfigured as error:
                self._failed("stopped", str(error))
                pause = MISCONFIGURED_RETRY_S
            except SourceUnavailable as error:
                self._failed("waiting", str(error) or type(error).__name__)
                pause = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**self._attempt)
            except Exception as error:
                # A fault in one source, or in a library below it, must not end the reading of the other kits.
                self._counters["crashes"] += 1
                log.exception("%s: unexpected fault of the source", self._name)
                self._failed("waiting", f"unexpected {type(error).__name__}: {error}")
                pause = BACKOFF_MOST_S
            self._attempt += 1
            await self._sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _read(self) -> None:
        source = self._make()
        self._source = source
        try:
            if self._state == "waiting":
                self._become("connecting", self._detail)
            await self._open(source)
            if self._watch is not None:
                self._watch.opened()
            self._become("running", "")
            readings = source.readings()
            try:
                await self._follow(readings)
            finally:
                if isinstance(readings, AsyncGenerator):
                    # Left to the garbage collector it would run its own clean-up after the source is closed.
                    await readings.aclose()
            raise SourceUnavailable("the source ended without a reason")
        finally:
            await self._close(source)

    async def _open(self, source: Source) -> None:
        try:
            async with asyncio.timeout(OPEN_S) as limit:
                await source.open()
        except TimeoutError:
            if not limit.expired():
                raise
            raise SourceUnavailable(f"no connection within {OPEN_S:g} s") from None

    async def _follow(self, readings: AsyncIterator[Reading]) -> None:
        try:
            async with asyncio.timeout(self._stall_s) as limit:
                async for reading in readings:
                    if self._stall_s is not None:
                        limit.reschedule(asyncio.get_running_loop().time() + self._stall_s)
                    self._take(reading)
        except TimeoutError:
            if not limit.expired():
                raise
            raise SourceUnavailable(f"connected, but silent for {self._stall_s:g} s") from None

    def _take(self, reading: Reading) -> None:
        if self._failed_with is not None:
            log.info("%s: data again", self._name)
            self._failed_with = None
        self._attempt = 0
        if self._is_equipment:
            self._health.heard(self._plan.kit, self._plan.connection.id)
        if self._watch is not None:
            self._watch.take(reading)
        if isinstance(reading, Frame):
            self._counters["samples"] += len(reading.t)
            self._counters["lost_samples"] += reading.lost
        elif isinstance(reading, Lost):
            self._counters["losses"] += 1
            return
        elif not reading:
            return
        else:
            self._counters["events"] += len(reading)
        self._counters["readings"] += 1
        self._deliver(reading)

    async def _close(self, source: Source) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await source.close()
        except Exception:
            # The link is being given up anyway; what counts is that the next attempt comes.
            self._counters["crashes"] += 1
            log.exception("%s: unexpected fault while closing the source", self._name)
        self._past.update(source.counters)
        self._facts = dict(source.facts)
        self._source = None

    def _failed(self, state: str, detail: str) -> None:
        self._counters["failures"] += 1
        if self._failed_with != detail:
            # Once for each reason: a PLC that is switched off for the night must not fill the log.
            log.warning("%s: %s", self._name, detail)
            self._failed_with = detail
        self._become(state, detail)

    def _become(self, state: str, detail: str) -> None:
        if (state, detail) != (self._state, self._detail):
            if state != self._state:
                self._since_ns = self._clock.time_ns()
            self._state, self._detail = state, detail
            self._on_change()
