"""Between ingest and the pages: bounded, in order, what comes late is told, and a hub that cannot store says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI

from hub.accounts.person import Role
from hub.live import messages
from hub.live.edges import EdgeRegistry
from hub.live.feed import LiveFeed
from hub.live.handover import Handover
from hub.parts import HubParts
from hub.store.base import DecodedBatch
from lab_contract.batch import Gap, GapReason
from lab_contract.messages import EdgeStatus
from tests.hub.conftest import Browser, HandClock, IdleLine, until
from tests.hub.support import events, frame, gaps, kits
from tests.small_kit import EDGE, KIT, NOW, SECOND


class Loop:
    """What a handover has called, taken up when the test says so."""

    def __init__(self, handover_wait_s: float, most: int = 2) -> None:
        self.published: list[Sequence[DecodedBatch]] = []
        self.statuses: list[tuple[str, int]] = []
        self.loop = asyncio.get_running_loop()
        self.handover = Handover(
            self.loop,
            self.published.append,
            lambda status, _t: self.statuses.append((status.edge, status.epoch)),
            most=most,
            wait_s=handover_wait_s,
        )


def burst(seq: int) -> list[DecodedBatch]:
    return [events(seq, [(NOW + seq, "line.good", float(seq))])]


async def test_a_loop_that_lags_holds_up_the_writer_and_nothing_piles_up() -> None:
    """A backlog of hours would fill the hub's memory faster than its pages can look at it."""
    box = Loop(handover_wait_s=60)
    done = threading.Event()

    def write() -> None:
        for seq in range(6):
            box.handover.committed(burst(seq))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    # The loop is busy: this thread does not give it back until the writer waits.
    while box.handover._room._value:
        pass
    assert not done.is_set()
    await until(lambda: len(box.published) == 6)
    writer.join()
    assert [batches[0].header.seq for batches in box.published] == list(range(6))
    assert box.handover.counters["unpublished"] == 0


async def test_a_loop_that_hangs_does_not_stop_storing() -> None:
    box = Loop(handover_wait_s=0.01, most=1)
    box.handover.committed(burst(1))
    box.handover.committed(burst(2))
    assert box.handover.counters["unpublished"] == 1
    await until(lambda: len(box.published) == 1)
    box.handover.committed(burst(3))
    await until(lambda: len(box.published) == 2)


async def test_a_burst_that_fails_gives_its_room_back() -> None:
    """After a few faults nothing would reach the pages any more."""
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))

    def publish(_batches: object) -> None:
        raise ValueError("a fault")

    handover = Handover(loop, publish, lambda *_: None, most=1, wait_s=0.01)
    for seq in range(3):
        handover.committed(burst(seq))
        await until(lambda seq=seq: len(faults) == seq + 1)  # type: ignore[misc]
    assert handover.counters["unpublished"] == 0


async def test_only_the_newest_status_of_an_edge_waits() -> None:
    """An edge that reports without end would fill the memory too."""
    box = Loop(handover_wait_s=1)
    for epoch in range(1000):
        box.handover.status(EdgeStatus(edge=EDGE, online=True, epoch=epoch), NOW)
    box.handover.status(EdgeStatus(edge="edge-2", online=True, epoch=7), NOW)
    await until(lambda: bool(box.statuses))
    assert box.statuses == [(EDGE, 999), ("edge-2", 7)]


def room() -> LiveFeed:
    clock = HandClock()
    clock.now = NOW
    return LiveFeed(clock=clock, edges=EdgeRegistry(clock), kits=kits, known=lambda _kit: {})


async def test_what_comes_late_is_told_so_that_trends_show_it() -> None:
    """A backlog would stay invisible until somebody moves the chart."""
    feed = room()
    with feed.watch(KIT) as viewer:
        feed.publish(burst(1))
        assert viewer.take_late() is None
        feed.publish([events(2, [(NOW - 600 * SECOND, "line.good", 1.0)])])
        feed.publish([frame(3, NOW - 500 * SECOND + np.arange(250) * 4_000_000)])
        assert viewer.take_late() == (NOW - 600 * SECOND, NOW - 500 * SECOND + 249 * 4_000_000)
        assert viewer.take_late() is None


async def test_a_gap_that_is_known_later_is_told_too() -> None:
    feed = room()
    with feed.watch(KIT) as viewer:
        feed.publish(burst(1))
        feed.publish([gaps(2, [Gap("eeg", NOW - 60 * SECOND, NOW - 30 * SECOND, GapReason.STOPPED)])])
        assert viewer.take_late() == (NOW - 60 * SECOND, NOW - 30 * SECOND)


async def test_backlog_and_live_in_one_burst_keep_the_newest() -> None:
    """Frames of one stream are looked at together: old ones behind new ones must not count as the newest."""
    feed = room()
    live = frame(1, NOW + np.arange(250) * 4_000_000, np.full((2, 250), 5.0), now=NOW + SECOND)
    old = [
        frame(2 + i, NOW - (60 - i) * SECOND + np.arange(250) * 4_000_000, np.full((2, 250), 1.0 + i)) for i in range(3)
    ]
    feed.publish([live, *old])
    view = feed.view(KIT)
    assert view is not None
    assert view.values["eeg.a"].value == 5.0
    assert feed.counters["late_frames"] == 3


async def test_many_batches_at_once_give_what_one_by_one_give() -> None:
    """What a page shows must not depend on how busy the hub is."""
    batches = [
        frame(i, NOW + i * SECOND + np.arange(250) * 4_000_000, np.full((2, 250), float(i)), now=NOW + 60 * SECOND)
        for i in range(5)
    ]
    batches += [
        events(10 + i, [(NOW + i * SECOND, "line.good", float(i)), (NOW + i * SECOND, "line.program", None, f"p{i}")])
        for i in range(5)
    ]
    together, single = room(), room()
    together.publish(batches)
    for batch in batches:
        single.publish([batch])
    one, other = together.view(KIT), single.view(KIT)
    assert one is not None
    assert other is not None
    assert (one.values, one.alarms, one.data_t) == (other.values, other.alarms, other.data_t)
    assert one.values["line.program"].text == "p4"


def test_texts_say_when_nothing_is_stored() -> None:
    assert messages.storing(True) == {}
    assert messages.storing(False) == {"storing": False}


@pytest.fixture
async def reader(signed_in: Callable[[Role], Awaitable[Browser]]) -> Browser:
    return await signed_in(Role.TRAINEE)


async def test_every_page_says_that_nothing_is_stored(
    reader: Browser, line: IdleLine, parts: HubParts, app: FastAPI, tmp_path: Path
) -> None:
    """People would go on with a lesson that leaves no trace."""
    html = {"Accept": "text/html"}
    for path in ("/", "/account", "/nowhere"):
        page = (await reader.http.get(path, headers=html)).text
        assert 'id="not-storing" role="status" hidden>' in page, path
    line.store_trouble = "no space left on device"
    for path in ("/", "/account", "/nowhere"):
        page = (await reader.http.get(path, headers=html)).text
        assert 'id="not-storing" role="status">' in page, path
        assert "no space left" not in page
    assert (await reader.http.get("/healthz")).status_code == 200
