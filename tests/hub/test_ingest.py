"""Ingest behind a real broker: what is acknowledged is stored, what is hostile is kept aside, and the line goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.clock import SystemClock
from hub.ingest.decode import decode
from hub.ingest.inbox import Inbox, Message
from hub.ingest.service import SILENCE_NS
from hub.store.base import DecodedEvents, DecodedFrame
from lab_contract.batch import HEADER_BYTES, digest
from lab_contract.errors import BatchRejected, MessageInvalid
from lab_contract.messages import EdgeStatus, dump, load_ack, load_status
from tests.hostile_wire import ACKS, BATCHES, EVENTS, FRAME, STATUSES, Hostile, event_arrow, frame_arrow, sealed
from tests.hub.ingest_line import WAIT_S, Line, acknowledged, until
from tests.hub.support import kits
from tests.small_kit import EDGE, EEG, KIT, NOW, SECOND, event_bytes, frame_bytes


def names(case: Hostile) -> str:
    return case.name


@pytest.mark.parametrize("case", BATCHES, ids=names)
def test_hostile_batch_is_rejected_for_its_reason(case: Hostile) -> None:
    """What is let through here would be stored, charted and marked."""
    with pytest.raises(BatchRejected) as caught:
        decode(case.data, EDGE, kits(), NOW)
    assert caught.value.reason == case.reason
    assert len(caught.value.detail) < 700


@pytest.mark.parametrize("case", STATUSES, ids=names)
def test_hostile_status_is_refused(case: Hostile) -> None:
    with pytest.raises(MessageInvalid):
        load_status(case.data)


@pytest.mark.parametrize("case", ACKS, ids=names)
def test_hostile_acknowledgement_is_refused(case: Hostile) -> None:
    """An edge that took it for an acknowledgement would delete what nobody stored."""
    with pytest.raises(MessageInvalid):
        load_ack(case.data)


def test_good_batches_are_decoded_whole() -> None:
    decoded = decode(FRAME, EDGE, kits(), NOW)
    assert isinstance(decoded, DecodedFrame)
    assert decoded.channels == EEG
    changes = decode(EVENTS, EDGE, kits(), NOW)
    assert isinstance(changes, DecodedEvents)
    assert [changes.channels[i] for i in changes.index] == ["line.state", "line.program"]
    assert changes.text.to_pylist() == ["Execute", "part A"]


def test_numbers_that_are_none_become_missing() -> None:
    """NaN would be stored as the greatest value of its hour."""
    decoded = decode(frame_arrow(**{EEG[0]: [float("nan"), float("inf"), 1.0]}), EDGE, kits(), NOW)
    np.testing.assert_array_equal(decoded.values[0], [np.nan, np.nan, 1.0])
    decoded = decode(event_arrow(value=[float("-inf")]), EDGE, kits(), NOW)
    assert np.isnan(decoded.values).all()


def test_events_are_put_in_order_of_time() -> None:
    rows = [(NOW + 5, "line.good", 2.0), (NOW, "line.good", 1.0), (NOW + 5, "line.good", 3.0)]
    decoded = decode(event_bytes(1, rows), EDGE, kits(), NOW)
    assert isinstance(decoded, DecodedEvents)
    assert decoded.values.tolist() == [1.0, 2.0, 3.0]


def test_a_kit_of_another_edge_is_refused() -> None:
    with pytest.raises(BatchRejected, match="foreign_kit"):
        decode(FRAME, EDGE, kits(edge="edge-2"), NOW)


@settings(max_examples=400, deadline=None)
@given(
    whole=st.sampled_from([FRAME, EVENTS]),
    edits=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.none() | st.integers(0, 600),
)
def test_any_changed_bytes_are_decoded_or_rejected(whole: bytes, edits: list[tuple[int, int]], cut: int | None) -> None:
    """An exception of another kind would end the writer, a crash of the Arrow reader the whole hub."""
    data = bytearray(whole)
    for place, value in edits:
        data[HEADER_BYTES + place % (len(data) - HEADER_BYTES)] = value
    for candidate in (bytes(data), sealed(bytes(data))):
        with contextlib.suppress(BatchRejected):
            decode(candidate[:cut], EDGE, kits(), NOW)


def test_inbox_refuses_past_its_bound_and_gives_bursts() -> None:
    """Memory stays bounded while the store is away; the edge keeps what is refused."""
    inbox = Inbox(max_bytes=10)
    assert inbox.put(Message("e", b"12345", 0))
    assert inbox.put(Message("e", b"67890", 1))
    assert not inbox.put(Message("e", b"x", 2))
    assert [m.data for m in inbox.take(0)] == [b"12345", b"67890"]
    assert (inbox.bytes, inbox.take(0)) == (0, [])
    inbox.close()
    assert not inbox.put(Message("e", b"x", 2))


def test_a_lone_message_is_not_kept_waiting_and_a_flood_is_gathered() -> None:
    """Live values would come a tenth of a second later for nothing, or a busy hub would store in crumbs."""
    inbox = Inbox()
    inbox.put(Message("e", FRAME, 0))
    assert len(inbox.take(WAIT_S)) == 1
    flood = frame_bytes(1, NOW + np.arange(20_000) * 4_000_000)
    for _ in range(2):
        inbox.put(Message("e", flood, 0))
    assert len(inbox.take(WAIT_S)) == 2
    taken: list[list[Message]] = []
    # Busy now: whoever takes wakes for enough, not for the first.
    taker = threading.Thread(target=lambda: taken.append(inbox.take(WAIT_S)))
    with inbox._changed:
        taker.start()
        for _ in range(3):
            inbox.put(Message("e", flood, 0))
    taker.join()
    assert [len(burst) for burst in taken] == [3]
    assert (inbox.bytes, inbox._samples) == (0, 0)


def test_a_burst_ends_at_its_samples_and_at_its_bytes() -> None:
    """Ten seconds of backlog in one transaction would keep every edge waiting for its acknowledgement."""
    flood = frame_bytes(1, NOW + np.arange(20_000) * 4_000_000)
    inbox = Inbox()
    for _ in range(20):
        inbox.put(Message("e", flood, 0))
    assert [len(inbox.take(0)) for _ in range(5)] == [4] * 5
    for _ in range(5):
        inbox.put(Message("e", bytes(4 * 1024 * 1024), 0))
    assert [len(inbox.take(0)) for _ in range(2)] == [4, 1]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path)
    yield line
    line.stop()


@pytest.mark.real
def test_acknowledged_means_stored_and_seen(line: Line) -> None:
    """The edge deletes on this acknowledgement; the page shows what was handed on."""
    for seq in range(20):
        line.send(event_bytes(seq, [(NOW + seq * SECOND, "line.good", float(seq))]))
    until(lambda: acknowledged(line) == set(range(20)))
    assert {ack.store_id for ack in line.acks} == {line.store.store_id}  # type: ignore[attr-defined]
    stored = line.store.raw(KIT, ["line.good"], NOW, NOW + 60 * SECOND).read_all()  # type: ignore[operator]
    assert stored["value"].to_pylist() == [float(seq) for seq in range(20)]
    until(lambda: len(line.committed) == 20)
    line.send(event_bytes(3, [(NOW + 3 * SECOND, "line.good", 3.0)]))
    until(lambda: sum(seq == 3 for ack in line.acks for seq in ack.stored) == 2)
    until(lambda: line.count("duplicates") == 1)
    assert len(line.committed) == 20
    assert line.ingest.health().ok


@pytest.mark.real
def test_every_hostile_batch_is_kept_aside_and_the_line_goes_on(line: Line) -> None:
    """One mad device must not silence a workshop, and a person must be able to see why its data is missing."""
    sent = [case for case in BATCHES if case.reason not in {"too_long", "time_in_future"}]
    for case in sent:
        line.send(case.data)
    line.send(event_bytes(1000, [(NOW, "line.good", 1.0)]))
    until(lambda: 1000 in acknowledged(line))
    until(lambda: line.count("quarantined") == len(sent))
    counts = line.store.quarantine_counts()  # type: ignore[operator]
    assert sum(counts.values()) == len(sent)
    assert set(counts) == {case.reason for case in sent}
    assert line.count("forged") == 1
    kept = {item.raw for item in line.store.quarantined(1000)}  # type: ignore[operator]
    assert kept == {case.data for case in sent}
    # Each is acknowledged as kept aside by its bytes, so that no edge sends it for ever, whatever its header says.
    until(lambda: sum(len(ack.quarantined) for ack in line.acks) == len(sent))
    named = {q.digest: q.reason for ack in line.acks for q in ack.quarantined}
    assert named == {digest(case.data): case.reason for case in sent}


@pytest.mark.real
def test_same_id_with_other_content_is_kept_aside(line: Line) -> None:
    line.send(event_bytes(1, [(NOW, "line.good", 1.0)]))
    line.send(event_bytes(1, [(NOW, "line.good", 2.0)]))
    until(lambda: line.count("conflicts") == 1)
    until(lambda: any(q.reason == "conflict" for ack in line.acks for q in ack.quarantined))
    assert len(line.committed) == 1


@pytest.mark.real
def test_nothing_is_acknowledged_while_the_store_cannot_write(line: Line) -> None:
    """An acknowledgement now would make the edge delete the only copy."""
    line.store.broken = True
    line.send(event_bytes(1, [(NOW, "line.good", 1.0)]))
    until(lambda: line.store.failures >= 2)
    assert line.acks == []
    assert line.ingest.store_trouble == line.ingest.health().store_trouble == "no space left on device"
    assert line.committed == []
    line.store.broken = False
    until(lambda: acknowledged(line) == {1})
    assert line.count("store_retries") >= 2
    assert line.ingest.store_trouble == ""


@pytest.mark.real
def test_memory_stays_bounded_while_the_store_cannot_write(tmp_path: Path) -> None:
    """A hub with a full disk would grow until the system ends it, and everybody's pages with it."""
    line = Line(tmp_path, inbox_bytes=20_000)
    try:
        line.store.broken = True
        batches = {seq: event_bytes(seq, [(NOW + seq, "line.good", 1.0)] * 20) for seq in range(40)}
        for data in batches.values():
            line.send(data)
        until(lambda: line.count("refused_full") > 0)
        assert line.ingest.health().waiting_bytes <= 20_000
        line.store.broken = False
        while len(acknowledged(line)) < len(batches):
            seq = min(set(batches) - acknowledged(line))
            line.send(batches[seq])
            until(lambda seq=seq: seq in acknowledged(line))  # type: ignore[misc]
        assert line.store.stats().batches == len(batches)  # type: ignore[operator]
    finally:
        line.stop()


@pytest.mark.real
def test_statuses_come_through_and_bad_ones_are_counted(line: Line) -> None:
    for case in STATUSES:
        line.send(case.data, "status")
    line.send(dump(EdgeStatus(edge="edge-2", online=True)), "status")
    line.send(dump(EdgeStatus(edge=EDGE, online=True, epoch=7)), "status")
    until(lambda: bool(line.statuses))
    assert [status.epoch for status in line.statuses] == [7]
    assert line.count("bad_statuses") == len(STATUSES)
    assert line.count("forged") == 1


class PushedClock(SystemClock):
    """The system's clock, pushed forward."""

    ahead_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.ahead_ns


@pytest.mark.real
def test_a_broker_that_hangs_is_started_anew(tmp_path: Path) -> None:
    """A process that runs and passes nothing on would silence every workshop until somebody looks."""
    clock = PushedClock()
    line = Line(tmp_path, clock)
    try:
        hung = line.broker.health().pid
        assert hung is not None
        psutil.Process(hung).suspend()
        clock.ahead_ns = SILENCE_NS
        until(lambda: line.broker.health().restarts == 1)
        # Sent again until it is acknowledged, as an edge does: the link may not have noticed yet that it is cut.
        again = event_bytes(1, [(NOW, "line.good", 1.0)])
        until(lambda: line.link.publish(f"lab/v1/{EDGE}/up", again) and acknowledged(line) == {1})
        assert line.broker.health().pid != hung
    finally:
        line.stop()
