"""What is lost where these fail: batches that the edge has promised to keep."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.batcher import Encoded
from edge_agent.errors import DataFolderInUse, SpoolUnavailable
from edge_agent.spool import FILE, Spool, Spooled, new_epoch
from edge_agent.spool_salvage import KNOWN
from lab_contract.batch import Gap, GapReason, Shape
from tests.edge_agent.support import FakeClock, an_event, gaps_in, one_event
from tests.small_kit import NOW, SECOND, frame_bytes

EVERYTHING = 2**62


def a_spool(folder: Path, limit_bytes: int = 10**9, **changes: Any) -> Spool:
    changes.setdefault("clock", FakeClock())
    changes.setdefault("random_bits", random.Random(7).getrandbits)
    return Spool(folder, edge="edge-1", limit_bytes=limit_bytes, **changes)


async def append(spool: Spool, count: int) -> list[Encoded]:
    batches = [an_event(spool.epoch, spool.take_seq()) for _ in range(count)]
    await spool.append(batches)
    return batches


async def waiting(spool: Spool) -> list[Spooled]:
    return (await spool.pending(0, EVERYTHING, 10_000)).batches


async def ids(spool: Spool) -> list[tuple[int, int]]:
    return [(one.epoch, one.seq) for one in await waiting(spool)]


async def test_batches_of_an_earlier_run_are_still_there_with_their_old_ids(tmp_path: Path) -> None:
    first = a_spool(tmp_path)
    await first.open()
    sent = await append(first, 3)
    await first.close()
    again = a_spool(tmp_path)
    await again.open()
    await append(again, 1)
    assert again.epoch > first.epoch
    found = await waiting(again)
    assert [(one.epoch, one.seq, one.data) for one in found[:3]] == [(first.epoch, b.seq, b.data) for b in sent]
    assert (found[3].epoch, found[3].seq) == (again.epoch, 0)
    assert again.counts.batches == 4
    assert again.counts.bytes == sum(len(one.data) for one in found)
    await again.close()


@given(
    now=st.integers(0, 2**62),
    last=st.integers(0, 2**62),
    bits=st.integers(0, 2**20 - 1),
    other=st.integers(0, 2**20 - 1),
)
def test_epochs_rise_even_when_the_clock_is_set_back_and_clones_differ(
    now: int, last: int, bits: int, other: int
) -> None:
    epoch = new_epoch(now, last, bits)
    assert last < epoch < 2**63
    assert (epoch == new_epoch(now, last, other)) == (bits == other) or now <= last


async def test_two_agents_never_share_a_folder(tmp_path: Path) -> None:
    first, second = a_spool(tmp_path), a_spool(tmp_path)
    await first.open()
    with pytest.raises(DataFolderInUse, match="another edge agent"):
        await second.open()
    await second.close()
    await append(first, 1)
    await first.close()


async def test_the_oldest_goes_when_the_limit_is_reached_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(one_event(1, 1))
    spool = a_spool(tmp_path, limit_bytes=5 * size, reserved=0.0)
    await spool.open()
    await append(spool, 5)
    assert spool.counters["spool_dropped"] == 0
    await append(spool, 2)
    assert await ids(spool) == [(spool.epoch, seq) for seq in range(2, 7)]
    assert spool.counters["spool_dropped"] == 2
    assert spool.counts.bytes == 5 * size
    await append(spool, 1)
    assert [record.message for record in caplog.records if "is full" in record.message].__len__() == 1
    await spool.close()


async def test_another_store_than_the_enrolled_one_deletes_nothing(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 3)
    assert spool.acknowledge("store-a", [(spool.epoch, 0)])
    assert not spool.acknowledge("store-b", [(spool.epoch, 1), (spool.epoch, 2)])
    assert await ids(spool) == [(spool.epoch, 1), (spool.epoch, 2)]
    assert spool.counters["foreign_acks"] == 1
    await spool.close()
    again = a_spool(tmp_path)
    await again.open()
    assert again.store_id == "store-a"
    assert not again.acknowledge("store-b", [(spool.epoch, 1), (spool.epoch, 2)])
    await again.close()


async def test_quarantined_batches_are_let_go_and_counted(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 3)
    spool.acknowledge("store-a", [(spool.epoch, 0)], [(spool.epoch, 2)])
    assert await ids(spool) == [(spool.epoch, 1)]
    assert spool.counters["quarantined"] == 1
    await spool.close()


async def test_a_cancelled_append_is_durable_all_the_same(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    task = asyncio.create_task(append(spool, 2))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(spool) == [(spool.epoch, 0), (spool.epoch, 1)]
    await spool.close()


@pytest.mark.parametrize("damage", ["not a database", "half of it", "a page"])
async def test_a_corrupt_spool_is_set_aside_and_what_can_be_read_is_kept(tmp_path: Path, damage: str) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 400)
    spool.acknowledge("store-a", [])
    await spool.close()
    file = tmp_path / FILE
    content = bytearray(file.read_bytes())
    if damage == "not a database":
        content[:100] = b"x" * 100
    elif damage == "half of it":
        del content[len(content) // 2 :]
    else:
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    again = a_spool(tmp_path)
    await again.open()
    assert again.counters["spool_set_aside"] == 1
    assert len(await asyncio.to_thread(lambda: list(tmp_path.glob("spool-corrupt-*.db")))) == 1
    found = await ids(again)
    assert len(found) == again.counts.batches == again.counters["spool_salvaged"]
    # A lost head costs nothing: batches are found in the bytes of the file as well.
    assert len(found) == 400 if damage == "not a database" else 150 < len(found) < 400
    assert again.store_id == "store-a"
    assert again.epoch > spool.epoch
    await append(again, 1)
    assert (await ids(again))[-1] == (again.epoch, 0)
    await again.close()


async def test_long_batches_are_found_in_the_bytes_of_a_file_that_tells_nothing(tmp_path: Path) -> None:
    """A batch above 4 kB lies in pages here and there; a day of EEG hangs on one bad page otherwise."""
    spool = a_spool(tmp_path)
    await spool.open()
    batches: list[Encoded] = []
    for samples in (1, 200, 230, 300, 1000, 5000):
        t = NOW + np.arange(samples, dtype=np.int64) + samples
        data = frame_bytes(spool.take_seq(), t, epoch=spool.epoch)
        batches.append(Encoded(len(batches), data, "kit-1", "eeg", Shape.FRAME, samples, int(t[0]), int(t[-1])))
        await append(spool, 3)
    await spool.append(batches)
    before = await waiting(spool)
    await spool.close()
    file = tmp_path / FILE
    file.write_bytes(bytes(4096) + file.read_bytes()[4096:])
    again = a_spool(tmp_path)
    await again.open()
    assert {one.data for one in await waiting(again)} >= {one.data for one in before}
    await again.close()


async def test_a_file_that_is_gone_for_good_is_told_as_a_gap_from_what_waited_on(tmp_path: Path) -> None:
    """Nobody could say otherwise that a night's data was lost with the disk's."""
    spool = a_spool(tmp_path)
    await spool.open()
    batches = [an_event(spool.epoch, spool.take_seq()) for _ in range(20)]
    await spool.append(batches, ends={("kit-1", "events/plc"): NOW + 50})
    spool.acknowledge("store-a", [(spool.epoch, seq) for seq in range(5)])
    await spool.append([])
    await spool.close()
    (tmp_path / FILE).write_bytes(b"nothing" * 5000)
    clock = FakeClock(NOW + 3600 * SECOND)
    again = a_spool(tmp_path, clock=clock)
    await again.open()
    assert again.store_id == "store-a"
    assert again.epoch > spool.epoch
    assert again.ends == {("kit-1", "events/plc"): NOW + 50}
    clock.pass_s(10)
    await again.append([])
    (found,) = await waiting(again)
    assert gaps_in(found.data) == [Gap("events", NOW + 5, NOW + 3600 * SECOND, GapReason.UNREADABLE)]
    await again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"epoch": 1}', b"\xff\xfe"])
async def test_what_is_noted_beside_the_file_may_be_damaged_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KNOWN).write_bytes(content)
    (tmp_path / FILE).write_bytes(b"nothing" * 5000)
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 1)
    assert await ids(spool) == [(spool.epoch, 0)]
    await spool.close()


async def test_corruption_met_in_mid_run_costs_no_later_batch(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 3)

    def corrupt(*_: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(SpoolUnavailable, match="malformed"):
        await spool._call(corrupt)
    await append(spool, 1)
    assert await ids(spool) == [(spool.epoch, seq) for seq in range(4)]
    assert spool.counters["spool_faults"] == 1
    await spool.close()


async def test_a_fault_of_the_spool_itself_ends_whoever_waits_for_it(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    with pytest.raises(ZeroDivisionError):
        await spool._call(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await append(spool, 1)
    await spool.close()


async def test_bytes_that_rotted_on_the_disk_do_not_block_the_line(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 5)
    await spool.close()
    db = sqlite3.connect(tmp_path / FILE)
    rotten = bytearray(one_event(spool.epoch, 1))
    rotten[200] ^= 1
    db.execute("UPDATE batches SET data = ? WHERE seq = 1", (bytes(rotten),))
    db.commit()
    db.close()
    again = a_spool(tmp_path)
    await again.open()
    found = await again.pending(0, EVERYTHING, 2)
    assert [one.seq for one in found.batches] == [0, 2]
    assert again.counters["spool_unreadable"] == 1
    assert again.counts.batches == 4
    await again.close()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = a_spool(tmp_path / "file")
    with pytest.raises(SpoolUnavailable, match="file"):
        await spool.open()
    await spool.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from edge_agent.clock import SystemClock
from edge_agent.spool import Spool
from tests.edge_agent.support import an_event

async def main():
    spool = Spool(Path(sys.argv[1]), edge="edge-1", clock=SystemClock(), limit_bytes=10**9)
    await spool.open()
    while True:
        batches = [an_event(spool.epoch, spool.take_seq()) for _ in range(3)]
        await spool.append(batches)
        spool.acknowledge("store-1", [(spool.epoch, batches[0].seq)])
        for batch in batches[1:]:
            print(spool.epoch, batch.seq, flush=True)

asyncio.run(main())
"""


def run_and_kill(folder: Path, lines: int) -> set[tuple[int, int]]:
    """Kill -9 after so many lines; the ids that the child had said to be durable."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = "".join(child.stdout.readline() for _ in range(lines))
    child.kill()
    said += child.stdout.read()
    child.stdout.close()
    child.wait()
    # The line that was cut short may be half a number.
    pairs = [line.split() for line in said.split("\n")[:-1]]
    return {(int(epoch), int(seq)) for epoch, seq in pairs}


async def test_no_committed_batch_is_lost_by_kill_9_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(3)
    committed: set[tuple[int, int]] = set()
    for _ in range(4):
        committed |= run_and_kill(tmp_path, lines=rng.randrange(1, 60))
        spool = a_spool(tmp_path)
        await spool.open()
        found = set(await ids(spool))
        assert committed <= found
        assert spool.counters["spool_set_aside"] == spool.counters["spool_unreadable"] == 0
        await spool.close()
