"""What is lost where these fail: room for what matters most, and the word that something had to go."""

from __future__ import annotations

import logging
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge_agent.gaps import OPEN_NS, SETTLED_NS, Loss
from edge_agent.spool import FILE, Spool, Spooled
from lab_contract.batch import Gap, GapReason, unpack
from lab_contract.messages import Kept
from tests.edge_agent.support import FRAME_NS, FakeClock, a_frame, an_event, gaps_in
from tests.small_kit import KIT, NOW, SECOND

EVERYTHING = 2**62
EVENT_BYTES = len(an_event(2**60, 1).data)
FRAME_BYTES = len(a_frame(2**60, 1, 1).data)
SETTLED_S = SETTLED_NS / SECOND


class Kept24(Spool):
    """A spool with a clock that stands still, which keeps for a day."""

    def __init__(self, folder: Path, limit_bytes: int = 10**9, **changes: Any) -> None:
        self.clock = changes.pop("clock", None) or FakeClock()
        changes.setdefault("keep_hours", 24)
        bits = random.Random(7).getrandbits
        super().__init__(folder, edge="edge-1", clock=self.clock, limit_bytes=limit_bytes, random_bits=bits, **changes)

    async def events(self, count: int) -> list[int]:
        batches = [an_event(self.epoch, self.take_seq()) for _ in range(count)]
        await self.append(batches)
        return [batch.seq for batch in batches]

    async def frames(self, first: int, count: int) -> list[int]:
        batches = [a_frame(self.epoch, self.take_seq(), first + i) for i in range(count)]
        await self.append(batches)
        return [batch.seq for batch in batches]

    async def waiting(self) -> list[Spooled]:
        return (await self.pending(0, EVERYTHING, 10_000)).batches

    async def seqs(self, stream: str) -> list[int]:
        found = [unpack(one.data).header for one in await self.waiting()]
        return [header.seq for header in found if header.stream == stream]

    async def settle(self, seconds: float = SETTLED_S) -> list[Gap]:
        """Let the losses settle; every gap that waits to be sent."""
        self.clock.pass_s(seconds)
        await self.append([])
        return [gap for one in await self.waiting() for gap in maybe_gaps(one.data)]


def maybe_gaps(data: bytes) -> list[Gap]:
    return gaps_in(data) if unpack(data).header.stream == "gaps" else []


async def test_raw_data_goes_before_events_and_each_is_told(tmp_path: Path) -> None:
    data = 4 * FRAME_BYTES + 4 * EVENT_BYTES
    spool = Kept24(tmp_path, limit_bytes=2 * data, reserved=0.5)
    await spool.open()
    events = await spool.events(4)
    frames = await spool.frames(0, 4)
    assert not spool.counters["spool_dropped"]
    events += await spool.events(1)
    assert await spool.seqs("events") == events
    assert await spool.seqs("eeg") == frames[-(4 - -(-EVENT_BYTES // FRAME_BYTES)) :]
    gone = spool.counters["spool_dropped"]
    assert gone
    await spool.events(20)
    assert await spool.seqs("eeg") == []
    assert spool.counts.bytes <= data
    by_stream = {gap.stream: gap for gap in await spool.settle()}
    last = NOW + 4 * FRAME_NS - 4_000_000
    assert by_stream["eeg"] == Gap("eeg", NOW, last, GapReason.SPOOL_FULL, 20)
    dropped_events = spool.counters["spool_dropped"] - 4
    assert by_stream["events"].count == dropped_events
    assert (by_stream["events"].t_from, by_stream["events"].reason) == (NOW, GapReason.SPOOL_FULL)
    await spool.close()


async def test_a_new_frame_may_be_the_one_that_has_to_go_and_is_not_sent_after_all(tmp_path: Path) -> None:
    spool = Kept24(tmp_path, limit_bytes=6 * EVENT_BYTES, reserved=0.0)
    await spool.open()
    await spool.events(6)
    appended = await spool.append([a_frame(spool.epoch, spool.take_seq(), 0)])
    assert appended.spooled == []
    assert len(appended.dropped) == 1
    await spool.close()


async def test_gap_records_have_room_that_data_cannot_take(tmp_path: Path) -> None:
    """A spool that is full of data could otherwise never say what it has lost."""
    limit = 40 * FRAME_BYTES
    spool = Kept24(tmp_path, limit_bytes=limit, reserved=0.1)
    await spool.open()
    await spool.frames(0, 60)
    assert spool.counts.bytes <= 0.9 * limit
    (gap,) = await spool.settle()
    data = spool.counts.data_bytes
    assert gap.count == 5 * spool.counters["spool_dropped"]
    assert data <= 0.9 * limit < data + FRAME_BYTES
    assert spool.counts.bytes > data
    await spool.close()


async def test_where_there_is_no_room_for_a_gap_record_it_is_said_later_and_costs_no_data(tmp_path: Path) -> None:
    spool = Kept24(tmp_path, limit_bytes=10 * FRAME_BYTES, reserved=0.05)
    await spool.open()
    await spool.frames(0, 20)
    dropped = spool.counters["spool_dropped"]
    for _ in range(5):
        assert await spool.settle() == []
    assert spool.counters["spool_dropped"] == dropped
    left = await spool.waiting()
    spool.acknowledge("store-a", [(one.epoch, one.seq) for one in left[:3]])
    assert [gap.count for gap in await spool.settle()] == [5 * dropped]
    await spool.close()


async def test_a_spool_that_stays_full_makes_one_gap_a_stream_and_not_thousands(tmp_path: Path) -> None:
    spool = Kept24(tmp_path, limit_bytes=10 * FRAME_BYTES, reserved=0.3)
    await spool.open()
    for first in range(0, 3000, 10):
        await spool.frames(first, 10)
        spool.clock.pass_s(0.5)
    assert [gap async for gap in all_gaps(spool)] == []
    (gap,) = await spool.settle()
    assert gap == Gap("eeg", NOW, gap.t_to, GapReason.SPOOL_FULL, 5 * spool.counters["spool_dropped"])
    assert spool.counters["spool_dropped"] > 2900
    assert spool.counters["gaps_spool_full"] == 1
    await spool.close()


async def all_gaps(spool: Kept24) -> Any:
    for one in await spool.waiting():
        for gap in maybe_gaps(one.data):
            yield gap


async def test_a_gap_that_grows_on_is_said_all_the_same(tmp_path: Path) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    for i in range(int(OPEN_NS / SECOND) + 2):
        spool.clock.pass_s(1)
        loss = Loss(KIT, "eeg", NOW + i * SECOND, NOW + (i + 1) * SECOND, GapReason.SPOOL_FULL, 250)
        await spool.append([], [loss])
    gaps = [gap async for gap in all_gaps(spool)]
    assert len(gaps) == 1
    assert gaps[0].count == 250 * OPEN_NS // SECOND + 250
    await spool.close()


async def test_a_loss_survives_kill_and_is_said_by_the_next_run(tmp_path: Path) -> None:
    """The transaction that drops data holds the word of it, so no crash can come between the two."""
    spool = Kept24(tmp_path, limit_bytes=10 * FRAME_BYTES, reserved=0.1)
    await spool.open()
    await spool.frames(0, 20)
    await spool.close()
    again = Kept24(tmp_path, clock=spool.clock)
    await again.open()
    (gap,) = await again.settle()
    assert gap.count == 5 * spool.counters["spool_dropped"]
    assert await again.settle() == [gap]
    await again.close()


async def test_what_a_gap_says_after_the_disk_rotted_is_the_stretch_of_that_batch(tmp_path: Path) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.frames(0, 5)
    await spool.close()
    db = sqlite3.connect(tmp_path / FILE)
    rotten = bytearray(a_frame(spool.epoch, 2, 2).data)
    rotten[200] ^= 1
    db.execute("UPDATE batches SET data = ? WHERE seq = 2", (bytes(rotten),))
    db.commit()
    db.close()
    again = Kept24(tmp_path)
    await again.open()
    assert len(await again.waiting()) == 4
    first = NOW + 2 * FRAME_NS
    assert await again.settle() == [Gap("eeg", first, first + FRAME_NS - 4_000_000, GapReason.UNREADABLE, 5)]
    await again.close()


async def test_a_spool_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """An update of the agent would otherwise lose what waits, or not know what it may drop first."""
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.events(2)
    await spool.frames(0, 3)
    found = await spool.waiting()
    spool.acknowledge("store-a", [])
    await spool.close()
    db = sqlite3.connect(tmp_path / FILE)
    for table in ("waiting", "kept", "losses", "ends"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version = 0")
    db.commit()
    db.close()
    again = Kept24(tmp_path, limit_bytes=2 * (2 * EVENT_BYTES + FRAME_BYTES), reserved=0.5)
    await again.open()
    assert await again.waiting() == found
    assert again.store_id == "store-a"
    assert again.epoch > spool.epoch
    await again.append([])
    assert await again.seqs("events") == [0, 1]
    assert [gap.count for gap in await again.settle()] == [10]
    await again.close()


# Acknowledged batches.


async def test_what_is_acknowledged_is_kept_told_and_comes_back_only_when_asked_for(tmp_path: Path) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.events(10)
    spool.acknowledge("store-a", [(spool.epoch, seq) for seq in range(7)], [(spool.epoch, 7)])
    assert await spool.seqs("events") == [8, 9]
    assert spool.kept == (Kept(epoch=spool.epoch, first=0, last=6),)
    await spool.close()
    again = Kept24(tmp_path, clock=spool.clock)
    await again.open()
    await again.events(1)
    assert again.kept == spool.kept
    assert again.counts.kept_batches == 7
    places = await again.replay("store-a", spool.epoch, [(2, 3), (6, 100)])
    assert [one.seq for one in await again.waiting() if one.epoch == spool.epoch] == [2, 3, 6, 8, 9]
    assert places == [one.place for one in await again.waiting() if one.seq in (2, 3, 6)]
    assert again.counters["replayed"] == 3
    assert again.kept == (Kept(epoch=spool.epoch, first=0, last=5),)
    again.acknowledge("store-a", [(spool.epoch, 2)])
    await again.append([])
    assert [one.seq for one in await again.waiting() if one.epoch == spool.epoch] == [3, 6, 8, 9]
    await again.close()


async def test_another_store_than_the_enrolled_one_gets_nothing_again(tmp_path: Path) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.events(3)
    spool.acknowledge("store-a", [(spool.epoch, 0)])
    assert await spool.replay("store-b", spool.epoch, [(0, 10)]) == []
    assert await spool.seqs("events") == [1, 2]
    assert spool.counters["foreign_replays"] == 1
    await spool.close()


@pytest.mark.parametrize("numbers", [(-5, 2**70), (2**64, 2**65), (7, 3)])
async def test_absurd_numbers_of_a_hub_do_no_harm(tmp_path: Path, numbers: tuple[int, int]) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.events(3)
    spool.acknowledge("store-a", [(2**70, 1), (spool.epoch, -(2**65)), (spool.epoch, 0)])
    places = await spool.replay("store-a", spool.epoch, [numbers])
    assert len(places) == (numbers == (-5, 2**70))
    assert await spool.replay("store-a", 2**80, [numbers]) == []
    await spool.close()


async def test_what_is_kept_makes_room_first_and_never_takes_more_than_half(tmp_path: Path) -> None:
    limit = 20 * EVENT_BYTES
    spool = Kept24(tmp_path, limit_bytes=limit, reserved=0.05)
    await spool.open()
    await spool.events(16)
    spool.acknowledge("store-a", [(spool.epoch, seq) for seq in range(16)])
    await spool.events(1)
    assert spool.counts.kept_batches == 10
    assert spool.kept == (Kept(epoch=spool.epoch, first=6, last=15),)
    await spool.events(16)
    assert spool.counts.kept_bytes + spool.counts.bytes <= limit
    assert spool.counts.batches == 17
    assert spool.counters["spool_dropped"] == 0
    assert spool.kept == (Kept(epoch=spool.epoch, first=13, last=15),)
    await spool.close()


async def test_what_is_kept_goes_when_its_time_is_over(tmp_path: Path) -> None:
    spool = Kept24(tmp_path, keep_hours=2)
    await spool.open()
    await spool.events(4)
    spool.acknowledge("store-a", [(spool.epoch, 0), (spool.epoch, 1)])
    await spool.append([])
    spool.clock.pass_s(3600)
    spool.acknowledge("store-a", [(spool.epoch, 2)])
    await spool.append([])
    assert spool.counts.kept_batches == 3
    spool.clock.pass_s(3601)
    await spool.append([])
    assert spool.kept == (Kept(epoch=spool.epoch, first=2, last=2),)
    spool.clock.pass_s(3600)
    await spool.append([])
    assert (spool.kept, spool.counts.kept_bytes) == ((), 0)
    assert await spool.seqs("events") == [3]
    await spool.close()


async def test_where_nothing_is_to_be_kept_an_acknowledgement_deletes(tmp_path: Path) -> None:
    spool = Kept24(tmp_path, keep_hours=0)
    await spool.open()
    await spool.events(2)
    spool.acknowledge("store-a", [(spool.epoch, 0)])
    await spool.append([])
    assert (spool.kept, spool.counts.kept_batches, spool.counts.batches) == ((), 0, 1)
    await spool.close()


async def test_the_ends_of_a_run_are_there_at_the_next_start(tmp_path: Path) -> None:
    spool = Kept24(tmp_path)
    await spool.open()
    await spool.append([], ends={(KIT, "eeg"): 5, (KIT, "events/plc"): 6})
    await spool.append([], ends={(KIT, "eeg"): 9})
    assert spool.ends == {}
    await spool.close()
    again = Kept24(tmp_path)
    await again.open()
    assert again.ends == {(KIT, "eeg"): 9, (KIT, "events/plc"): 6}
    await again.close()


async def test_a_full_spool_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    spool = Kept24(tmp_path, limit_bytes=10 * FRAME_BYTES)
    await spool.open()
    for i in range(5):
        await spool.frames(10 * i, 10)
    assert sum("the spool is full" in record.message for record in caplog.records) == 1
    await spool.close()
