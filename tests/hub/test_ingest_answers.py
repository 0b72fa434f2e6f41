"""What ingest says to edges besides acknowledgements: what time it is, and which batches a restored store lacks."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.ingest.probes import NS_PER_PROBE, PROBES_AT_ONCE, Probes
from hub.ingest.replays import ASK_AGAIN_NS, AUDIT_NS, MOST_ASKED, Replays
from hub.store import open_store
from hub.store.base import TelemetryStore
from lab_contract.errors import MessageInvalid
from lab_contract.messages import EdgeStatus, Kept, Probe, Replay, dump, load_replay, load_time
from lab_contract.topics import Kind, topic
from tests.hub.conftest import HandClock
from tests.hub.ingest_line import Line, acknowledged, until
from tests.hub.support import events
from tests.small_kit import EDGE, KIT, NOW, SECOND, event_bytes


def probe(number: int) -> bytes:
    return dump(Probe(id=number, sent_ns=NOW))


def test_a_probe_is_answered_with_the_hubs_times() -> None:
    clock = HandClock()
    answered = Probes(clock).answer(EDGE, probe(7), clock.now - 5)
    assert answered is not None
    told = load_time(answered)
    assert (told.id, told.received_ns, told.answered_ns) == (7, clock.now - 5, clock.now)


def test_an_edge_that_asks_without_end_is_answered_two_times_a_second() -> None:
    """One mad edge would keep the network thread from everybody's batches."""
    clock = HandClock()
    probes = Probes(clock)
    answers = [probes.answer(EDGE, probe(i), clock.now) for i in range(100)]
    assert sum(answer is not None for answer in answers) == PROBES_AT_ONCE
    assert probes.answer("edge-2", probe(1), clock.now) is not None
    clock.now += NS_PER_PROBE
    assert probes.answer(EDGE, probe(1), clock.now) is not None
    assert probes.answer(EDGE, probe(1), clock.now) is None


@pytest.mark.parametrize("payload", [b"", b"{", b'{"id": "x", "sent_ns": 1}', b'{"id": 1}' + b" " * 2000])
def test_what_is_no_probe_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageInvalid):
        Probes(HandClock()).answer(EDGE, payload, NOW)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path)
    yield line
    line.stop()


def heard(line: Line, kind: Kind) -> list[bytes]:
    return [payload for name, payload in line.heard if name == topic(EDGE, kind)]


@pytest.mark.real
def test_a_probe_comes_back_through_the_broker(line: Line) -> None:
    """Without the answer no edge would know how wrong its clock is."""
    line.send(probe(3), "up/probe")
    line.send(b"what time is it?", "up/probe")
    until(lambda: bool(heard(line, Kind.TIME)))
    told = load_time(heard(line, Kind.TIME)[0])
    assert told.id == 3
    assert told.received_ns <= told.answered_ns
    until(lambda: (line.count("probes"), line.count("refused_probes")) == (1, 1))


@pytest.mark.real
def test_a_store_put_back_to_a_backup_gets_again_what_it_has_lost(tmp_path: Path) -> None:
    """Everything between the backup and the crash would be gone although the edges still have it."""
    sent = {seq: event_bytes(seq, [(NOW + seq * SECOND, "line.good", float(seq))]) for seq in range(1, 11)}
    file, backup = tmp_path / "telemetry.duckdb", tmp_path / "backup.duckdb"
    before = Line(tmp_path)
    for seq in range(1, 5):
        before.send(sent[seq])
    until(lambda: acknowledged(before) == set(range(1, 5)))
    before.stop()
    shutil.copy(file, backup)
    after = Line(tmp_path)
    for seq in range(5, 11):
        after.send(sent[seq])
    until(lambda: acknowledged(after) == set(range(5, 11)))
    after.stop()
    shutil.copy(backup, file)

    restored = Line(tmp_path)
    try:
        kept = Kept(epoch=1, first=3, last=10)
        for _ in range(3):
            restored.send(dump(EdgeStatus(edge=EDGE, online=True, epoch=1, kept=(kept,))), "status")
        until(lambda: bool(heard(restored, Kind.REPLAY)))
        asked = load_replay(heard(restored, Kind.REPLAY)[0])
        assert asked == Replay(store_id=restored.store.store_id, epoch=1, ranges=((5, 10),))  # type: ignore[attr-defined]
        for first, last in asked.ranges:
            for seq in range(first, last + 1):
                restored.send(sent[seq])
        until(lambda: acknowledged(restored) == set(range(5, 11)))
        until(lambda: len(restored.statuses) == 3)
        rows = restored.store.raw(KIT, ["line.good"], NOW, NOW + 60 * SECOND).read_all()  # type: ignore[operator]
        assert rows["value"].to_pylist() == [float(seq) for seq in range(1, 11)]
        assert restored.count("replays") == len(heard(restored, Kind.REPLAY)) == 1
    finally:
        restored.stop()


class Asking:
    """Replays beside a real store that holds the numbers 1, 2, 3, 7 and 8 of epoch 1."""

    def __init__(self, folder: Path) -> None:
        self.store: TelemetryStore = open_store(f"duckdb:///{folder / 'telemetry.duckdb'}")
        self.store.append([events(seq, [(NOW + seq, "line.good", 1.0)]) for seq in (1, 2, 3, 7, 8)])
        self.clock = HandClock()
        self.said: list[Replay] = []
        self.replays = Replays(self.store, self.clock, self._say, Counter())

    def _say(self, name: str, payload: bytes) -> bool:
        assert name == topic(EDGE, Kind.REPLAY)
        self.said.append(load_replay(payload))
        return True

    def status(self, *kept: tuple[int, int, int], epoch: int = 5) -> None:
        told = tuple(Kept(epoch=e, first=first, last=last) for e, first, last in kept)
        self.replays.heard(EdgeStatus(edge=EDGE, online=True, epoch=epoch, kept=told))

    def ranges(self) -> list[tuple[tuple[int, int], ...]]:
        self.replays.ask_due()
        told = [replay.ranges for replay in self.said]
        self.said.clear()
        return told


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    asking = Asking(tmp_path)
    yield asking
    asking.store.close()


def test_only_what_is_missing_is_asked_for(asking: Asking) -> None:
    """A whole day sent again for one lost minute would hold up what is live."""
    asking.status((1, 2, 9))
    assert asking.ranges() == [((4, 6), (9, 9))]
    asking.status((1, 2, 3), epoch=6)
    assert asking.ranges() == []


def test_the_same_is_asked_for_a_few_times_and_then_no_more(asking: Asking) -> None:
    """Numbers that were never used would be asked for as long as the hub runs."""
    asking.status((1, 1, 5))
    times = 0
    for _ in range(20):
        times += len(asking.ranges())
        assert asking.ranges() == []  # nothing more within the same minute
        asking.clock.now += ASK_AGAIN_NS
        asking.status((1, 1, 5))
    assert times == MOST_ASKED


def test_what_the_store_loses_by_itself_is_asked_for_without_anybody_starting_anything(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database server that threw away what it had confirmed says nothing of it, and edges keep batches for hours."""
    lost = 0
    monkeypatch.setattr(asking.store, "audit", lambda: lost)
    asking.status((1, 1, 3))
    asking.clock.now += AUDIT_NS
    assert asking.ranges() == []
    asking.status((1, 1, 8))
    assert asking.ranges() == []
    lost = 3
    asking.clock.now += AUDIT_NS
    asking.ranges()
    asking.status((1, 1, 8))
    assert asking.ranges() == [((4, 6),)]


def test_an_edge_that_starts_again_is_looked_at_again(asking: Asking) -> None:
    asking.status((1, 1, 4), epoch=5)
    assert asking.ranges() == [((4, 4),)]
    asking.status((1, 1, 4), epoch=6)
    assert asking.ranges() == [((4, 4),)]


def test_senseless_ranges_are_left_out(asking: Asking) -> None:
    """An edge that counts to the end of the world must not stop the writer."""
    asking.status((1, 9, 2), (-1, 1, 5), (1, 1, 2**70), (2**70, 1, 2))
    assert asking.ranges() == []
    asking.status((1, 0, 2**62), epoch=6)
    assert asking.ranges() == [((0, 0), (4, 6), (9, 2**62))]
