"""What is lost where these fail: batches that the edge has promised to keep."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.errors import DataFolderInUse, SpoolUnavailable
from edge_agent.spool import FILE, Spool, new_epoch
from tests.edge_agent.support import FakeClock, one_event

EVERYTHING = 2**62


def a_spool(folder: Path, limit_bytes: int = 10**9, clock: FakeClock | None = None) -> Spool:
    return Spool(folder, clock=clock or FakeClock(), limit_bytes=limit_bytes, random_bits=random.Random(7).getrandbits)


async def append(spool: Spool, count: int) -> list[tuple[int, bytes]]:
    batches = [(seq, one_event(spool.epoch, seq)) for seq in (spool.take_seq() for _ in range(count))]
    await spool.append(batches)
    return batches


async def ids(spool: Spool) -> list[tuple[int, int]]:
    return [(one.epoch, one.seq) for one in await spool.pending(0, EVERYTHING, 10_000)]


async def test_batches_of_an_earlier_run_are_still_there_with_their_old_ids(tmp_path: Path) -> None:
    first = a_spool(tmp_path)
    await first.open()
    sent = await append(first, 3)
    await first.close()
    again = a_spool(tmp_path)
    await again.open()
    await append(again, 1)
    assert again.epoch > first.epoch
    found = await again.pending(0, EVERYTHING, 100)
    assert [(one.epoch, one.seq, one.data) for one in found[:3]] == [(first.epoch, *batch) for batch in sent]
    assert (found[3].epoch, found[3].seq) == (again.epoch, 0)
    assert again.batches == 4
    assert again.bytes == sum(len(one.data) for one in found)
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
    spool = a_spool(tmp_path, limit_bytes=5 * size)
    await spool.open()
    await append(spool, 5)
    assert spool.counters["spool_dropped"] == 0
    await append(spool, 2)
    assert await ids(spool) == [(spool.epoch, seq) for seq in range(2, 7)]
    assert spool.counters["spool_dropped"] == 2
    assert spool.bytes == 5 * size
    await append(spool, 1)
    assert [record.message for record in caplog.records if "oldest" in record.message].__len__() == 1
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
    assert len(found) == again.batches == again.counters["spool_salvaged"]
    if damage == "a page":
        assert 50 < len(found) < 400
        assert again.store_id == "store-a"
        assert again.epoch > spool.epoch
    await append(again, 1)
    assert (await ids(again))[-1] == (again.epoch, 0)
    await again.close()


async def test_corruption_met_in_mid_run_costs_no_later_batch(tmp_path: Path) -> None:
    spool = a_spool(tmp_path)
    await spool.open()
    await append(spool, 3)

    def corrupt(_: sqlite3.Connection) -> None:
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
        await spool._call(lambda _: 1 / 0)
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
    assert [one.seq for one in found] == [0, 2]
    assert again.counters["spool_unreadable"] == 1
    assert again.batches == 4
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
from tests.edge_agent.support import one_event

async def main():
    spool = Spool(Path(sys.argv[1]), clock=SystemClock(), limit_bytes=10**9)
    await spool.open()
    while True:
        batches = [(seq, one_event(spool.epoch, seq)) for seq in (spool.take_seq() for _ in range(3))]
        await spool.append(batches)
        spool.acknowledge("store-1", [(spool.epoch, batches[0][0])])
        for seq, _ in batches[1:]:
            print(spool.epoch, seq, flush=True)

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


class SpoolMachine(RuleBasedStateMachine):
    """Any order of append, acknowledge, read, close and reopen against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.kept: dict[tuple[int, int], bytes] = {}
        self.given: set[tuple[int, int]] = set()
        self.store: str | None = None

    @initialize(limit=st.integers(3, 30))
    def start(self, limit: int) -> None:
        self.limit = limit * len(one_event(1, 1))
        self.reopen()

    def reopen(self) -> None:
        self.spool = a_spool(self.folder, self.limit, self.clock)
        self.loop.run_until_complete(self.spool.open())

    @rule(count=st.integers(1, 8))
    def append(self, count: int) -> None:
        for seq, data in self.loop.run_until_complete(append(self.spool, count)):
            key = (self.spool.epoch, seq)
            assert key not in self.given
            self.given.add(key)
            self.kept[key] = data
        while sum(map(len, self.kept.values())) > self.limit:
            del self.kept[next(iter(self.kept))]

    @rule(data=st.data(), store=st.sampled_from(["a", "a", "b"]))
    def acknowledge(self, data: st.DataObject, store: str) -> None:
        epoch, seq = data.draw(st.sampled_from(sorted(self.given) or [(1, 1)]))
        taken = self.spool.acknowledge(store, [(epoch, seq)])
        self.store = self.store or store
        assert taken == (store == self.store)
        if taken:
            self.kept.pop((epoch, seq), None)

    @rule(seconds=st.floats(-3600, 3600))
    def restart(self, seconds: float) -> None:
        self.loop.run_until_complete(self.spool.close())
        self.clock.pass_s(seconds)
        self.reopen()

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        found = self.loop.run_until_complete(self.spool.pending(0, EVERYTHING, 1000))
        assert [((one.epoch, one.seq), one.data) for one in found] == list(self.kept.items())
        assert (self.spool.batches, self.spool.bytes) == (len(self.kept), sum(map(len, self.kept.values())))

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.loop.run_until_complete(self.spool.close())
        self.loop.close()
        shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestSpoolMachine = SpoolMachine.TestCase
