"""What is lost where these fail: readings after the first fault of a source, and the truth about its state."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.health import Health
from edge_agent.runner import BACKOFF_MOST_S, MISCONFIGURED_RETRY_S, SourceRunner
from edge_agent.settings import SourcePlan
from edge_agent.source import Event, Frame, Reading, SourceContext
from tests.edge_agent.support import FakeClock, ReplaySettings, Script, replay_class, until
from tests.small_kit import NOW, model

EVENTS: list[Event] = [Event("line.pressure", NOW, 0.5), Event("line.good", NOW, 3.0)]
FRAME = Frame("eeg", np.array([NOW], dtype=np.int64), np.zeros((2, 1), dtype=np.float32), lost=3)


class Line:
    """One runner over a scripted source; `pauses` are the waits it asked for, each ended by `proceed`."""

    def __init__(self, connection: str = "plc", stall_s: float = 5.0) -> None:
        self.script = Script()
        self.clock = FakeClock()
        self.health = Health(self.clock)
        self.delivered: list[Reading] = []
        self.changes = 0
        self.pauses: list[float] = []
        self.proceed = asyncio.Semaphore(0)
        source = replay_class(self.script)
        kit = model()
        streams = tuple(stream for stream in kit.streams if stream.connection == connection)
        self.plan = SourcePlan(
            "kit-1", kit, kit.connection_by_id[connection], source, ReplaySettings(port="x"), (), streams
        )
        context = SourceContext(
            "kit-1", kit, self.plan.connection, self.plan.settings, (), streams, self.clock, Path(), self.health
        )
        self.runner = SourceRunner(
            self.plan,
            make=lambda: source(context),
            deliver=self.delivered.append,
            on_change=self.change,
            health=self.health,
            clock=self.clock,
            rng=random.Random(1),
            sleep=self.sleep,
            stall_s=stall_s,
        )

    def change(self) -> None:
        self.changes += 1

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.proceed.acquire()

    @property
    def state(self) -> str:
        return self.runner.status().state


@asynccontextmanager
async def running(line: Line) -> AsyncIterator[Line]:
    task = asyncio.create_task(line.runner.run())
    try:
        yield line
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_readings_are_delivered_counted_and_the_source_is_closed_at_the_end() -> None:
    async with running(Line("amp")) as line:
        line.script.readings.put_nowait(EVENTS)
        line.script.readings.put_nowait(FRAME)
        line.script.readings.put_nowait([])
        await until(lambda: line.script.readings.empty() and len(line.delivered) == 2)
        status = line.runner.status()
        assert (status.state, status.protocol, status.facts) == ("running", "cyton", {"firmware": "replay"})
        assert status.counters["events"] == 2
        assert status.counters["samples"] == 1
        assert status.counters["lost_samples"] == 3
        assert status.counters["readings"] == 2
    assert line.script.opened == line.script.closed == 1


async def test_a_source_that_fails_is_tried_again_with_growing_pauses_and_counted_as_one_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with running(Line()) as line:
        line.script.open_errors += [SourceUnavailable("no route to the PLC")] * 8
        for attempt in range(1, 9):
            await until(lambda attempt=attempt: len(line.pauses) == attempt)
            assert (line.state, line.runner.status().detail) == ("waiting", "no route to the PLC")
            line.proceed.release()
        await until(lambda: line.state == "running")
        line.script.readings.put_nowait(EVENTS)
        await until(lambda: line.delivered)
        for pause, bound in zip(line.pauses, [0.5, 1, 2, 4, 8, BACKOFF_MOST_S, BACKOFF_MOST_S], strict=False):
            assert bound / 2 <= pause <= bound
        assert len({pause / bound for pause, bound in zip(line.pauses, [0.5, 1, 2, 4, 8], strict=False)}) == 5
        line.script.readings.put_nowait(SourceUnavailable("connection reset"))
        await until(lambda: len(line.pauses) == 9)
        assert line.pauses[-1] <= 0.5
        assert line.runner.status().counters["failures"] == 9
        assert line.runner.status().counters["seen"] == 1
    messages = [record.message for record in caplog.records if record.name == "edge_agent.runner"]
    assert messages == ["kit-1.plc: no route to the PLC", "kit-1.plc: data again", "kit-1.plc: connection reset"]
    assert line.script.opened == line.script.closed == 9


async def test_a_misconfigured_source_stops_says_why_and_is_looked_at_rarely() -> None:
    async with running(Line()) as line:
        line.script.open_errors += [SourceMisconfigured("addresses.line.state", "expected a node, the server has none")]
        await until(lambda: line.pauses)
        status = line.runner.status()
        assert status.state == "stopped"
        assert status.detail == "addresses.line.state: expected a node, the server has none"
        assert MISCONFIGURED_RETRY_S / 2 <= line.pauses[0] <= MISCONFIGURED_RETRY_S
        line.proceed.release()
        await until(lambda: line.state == "running")


async def test_a_source_that_falls_silent_is_opened_anew() -> None:
    async with running(Line("amp", stall_s=0.03)) as line:
        await until(lambda: line.pauses)
        assert line.runner.status().detail == "connected, but silent for 0.03 s"
        assert line.script.closed == 1
        line.proceed.release()
        await until(lambda: line.script.opened == 2)


async def test_a_connection_without_streams_may_be_silent() -> None:
    async with running(Line("plc", stall_s=0.0)) as line:
        await until(lambda: line.state == "running")
        line.script.readings.put_nowait(EVENTS)
        await until(lambda: line.delivered)
        assert not line.pauses


async def test_a_fault_in_a_source_is_shown_and_survived() -> None:
    async with running(Line()) as line:
        line.script.readings.put_nowait(ZeroDivisionError("a bug"))
        await until(lambda: line.pauses)
        status = line.runner.status()
        assert (status.state, status.detail) == ("waiting", "unexpected ZeroDivisionError: a bug")
        assert status.counters["crashes"] == 1
        line.proceed.release()
        line.script.readings.put_nowait(EVENTS)
        await until(lambda: line.delivered)


async def test_the_age_of_the_data_is_that_of_the_most_silent_connection() -> None:
    line = Line()
    line.health.watch("kit-1", "amp")
    async with running(line):
        line.clock.pass_s(7)
        assert line.health.data_age_s("kit-1") == 7
        line.script.readings.put_nowait([])
        line.health.heard("kit-1", "amp")
        await until(lambda: line.health.data_age_s("kit-1") == 0)
        assert line.health.data_age_s("kit-2") is None


async def test_each_change_of_state_is_told_once() -> None:
    async with running(Line()) as line:
        await until(lambda: line.state == "running")
        assert line.changes == 1
        line.clock.pass_s(3)
        line.script.readings.put_nowait(SourceUnavailable("gone"))
        await until(lambda: line.state == "waiting")
        assert line.changes == 2
        assert line.runner.status().since_ns == line.clock.utc_ns
