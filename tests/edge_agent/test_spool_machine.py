"""What a user would lose where this fails: the promise of the spool, in whatever order things happen to it."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.batcher import Encoded
from edge_agent.gaps import SETTLED_NS, Loss
from edge_agent.spool import FILE, Spool, Spooled
from lab_contract.batch import Gap, GapReason, unpack
from tests.edge_agent.support import FRAME_NS, FakeClock, a_frame, an_event, gaps_in
from tests.small_kit import KIT, NOW, SECOND

EVERYTHING = 2**62
PAGE = 4096
TABLES = 12
"""Pages of an empty spool. A file cut off within them tells nothing any more, not even what it has lost."""
Key = tuple[int, int]


class SpoolMachine(RuleBasedStateMachine):
    """Any order of append, acknowledge, overflow, replay, restart, and a file torn by the disk.

    Nothing committed is lost unless a gap says so, and nothing acknowledged comes back unless it was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.given: dict[Key, Encoded] = {}
        """Everything that was ever committed, but gap records, which the spool makes by itself."""
        self.acknowledged: set[Key] = set()
        self.aside: set[Key] = set()
        self.torn = False
        self.made = 0
        self.store: str | None = None
        self.gaps: list[Gap] = []
        """Those that the hub has acknowledged: they are at the hub."""

    @initialize(frames=st.integers(8, 60), keep_hours=st.sampled_from([0, 1, 24]))
    def start(self, frames: int, keep_hours: float) -> None:
        self.limit = frames * len(a_frame(2**60, 1, 1).data) + 20_000
        self.reserved = 16_000 / self.limit
        self.keep_hours = keep_hours
        self.reopen()

    def reopen(self) -> None:
        self.spool = Spool(
            self.folder,
            edge="edge-1",
            clock=self.clock,
            limit_bytes=self.limit,
            reserved=self.reserved,
            keep_hours=self.keep_hours,
            random_bits=random.Random(7).getrandbits,
        )
        self.loop.run_until_complete(self.spool.open())

    @rule(count=st.integers(1, 8), frames=st.booleans())
    def append(self, count: int, frames: bool) -> None:
        batches: list[Encoded] = []
        for _ in range(count):
            seq = self.spool.take_seq()
            # No two batches are of the same time: by their times those that are gone are told apart.
            self.made += 1
            make = a_frame if frames else an_event
            batches.append(make(self.spool.epoch, seq, self.made))
        for batch in batches:
            key = self.spool.epoch, batch.seq
            assert key not in self.given, "an id was used twice"
            self.given[key] = batch
        ends = {(KIT, "eeg"): NOW + self.made * FRAME_NS, (KIT, "events/plc"): self.clock.utc_ns}
        appended = self.loop.run_until_complete(self.spool.append(batches, ends=ends))
        assert {one.seq for one in appended.spooled} <= {batch.seq for batch in batches}

    @rule(n=st.integers(1, 20))
    def lose(self, n: int) -> None:
        """The equipment's own counter jumps: that is said with the data."""
        loss = Loss(KIT, "eeg", NOW + self.made * SECOND, NOW + (self.made + n) * SECOND, GapReason.COUNTER_JUMP, n)
        self.loop.run_until_complete(self.spool.append([], [loss]))

    @rule(data=st.data(), store=st.sampled_from(["a", "a", "b"]), aside=st.booleans())
    def acknowledge(self, data: st.DataObject, store: str, aside: bool) -> None:
        waiting = {(one.epoch, one.seq): one.data for one in self.waiting()}
        if not waiting:
            return
        keys = data.draw(st.lists(st.sampled_from(list(waiting)), min_size=1, max_size=10, unique=True))
        taken = self.spool.acknowledge(store, [] if aside else keys, keys if aside else [])
        self.store = self.store or store
        assert taken == (store == self.store)
        if taken:
            (self.aside if aside else self.acknowledged).update(keys)
            for found in map(waiting.__getitem__, keys):
                if unpack(found).header.stream == "gaps":
                    self.gaps += gaps_in(found)

    @rule(data=st.data(), store=st.sampled_from(["a", "a", "b"]))
    def replay(self, data: st.DataObject, store: str) -> None:
        if not self.acknowledged:
            return
        epoch, seq = data.draw(st.sampled_from(sorted(self.acknowledged)))
        before = self.spool.kept
        places = self.loop.run_until_complete(self.spool.replay(store, epoch, [(seq, seq + 5)]))
        if store != self.store:
            assert places == []
            return
        asked = {(epoch, seq + i) for i in range(6)}
        back = {(one.epoch, one.seq) for one in self.waiting() if one.place in places}
        assert back <= asked & self.acknowledged
        assert not back or any(kept.epoch == epoch for kept in before)
        self.acknowledged -= back

    @rule(seconds=st.floats(-3600, 7200))
    def wait(self, seconds: float) -> None:
        """The wall clock may be set meanwhile."""
        self.clock.set_s(seconds - 5)
        self.clock.pass_s(5)
        self.loop.run_until_complete(self.spool.append([]))

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.spool.close())
        self.reopen()

    @precondition(lambda self: len(self.given) > 20)
    @rule(where=st.floats(0, 1), tail=st.booleans())
    def tear(self, where: float, tail: bool) -> None:
        """The disk loses the end of the file, or a page in it, while the agent does not run."""
        self.loop.run_until_complete(self.spool.close())
        file = self.folder / FILE
        content = bytearray(file.read_bytes())
        page = max(TABLES if tail else 1, int(where * (len(content) // PAGE - 1)))
        if page * PAGE >= len(content):
            self.reopen()
            return
        if tail:
            del content[page * PAGE :]
        else:
            content[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
        file.write_bytes(content)
        self.torn = True
        self.reopen()

    def waiting(self) -> list[Spooled]:
        return self.loop.run_until_complete(self.spool.pending(0, EVERYTHING, 100_000)).batches

    @invariant()
    def nothing_is_lost_in_silence(self) -> None:
        waiting = self.waiting()
        found = {(one.epoch, one.seq): one for one in waiting}
        assert len(found) == len(waiting)
        assert [one.place for one in waiting] == sorted(one.place for one in waiting)
        ours = {key for key in found if key in self.given}
        assert all(found[key].data == self.given[key].data for key in ours)
        back = ours & (self.acknowledged | self.aside)
        # A torn file may forget what was acknowledged: once more is no loss and no second copy at the hub.
        assert not back or self.torn
        said = self.said(waiting)
        for key in self.given.keys() - found.keys() - self.acknowledged - self.aside:
            batch = self.given[key]
            assert any(
                gap.stream == batch.stream and gap.t_from <= batch.t_first and batch.t_last <= gap.t_to for gap in said
            ), f"{key} of {batch.stream} is gone and no gap says so"

    @invariant()
    def holds_no_more_than_it_may(self) -> None:
        waiting = self.waiting()
        counts = self.spool.counts
        assert counts.bytes + counts.kept_bytes <= self.limit or counts.batches == 1
        assert counts.kept_bytes <= self.limit / 2
        assert counts.bytes == sum(len(one.data) for one in waiting)

    def said(self, waiting: list[Spooled]) -> list[Gap]:
        """Gaps at the hub, on their way, and those that are durable and wait to be said."""
        gaps = list(self.gaps)
        for one in waiting:
            if unpack(one.data).header.stream == "gaps":
                gaps += gaps_in(one.data)
        losses = self.loop.run_until_complete(
            self.spool._call(lambda rows, _: [entry.loss for entry in rows.losses.due(2**62)])
        )
        return gaps + [loss.gap() for loss in losses]

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.clock.pass_s(SETTLED_NS / SECOND)
            self.loop.run_until_complete(self.spool.close())
        self.loop.close()
        shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestSpoolMachine = pytest.mark.timeout(300)(SpoolMachine.TestCase)
