"""What is lost where these fail: single readings between the equipment and the spool."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.batcher import EVENT_LINGER_MS, MOST_EVENTS, MOST_SAMPLES, Batcher, Encoded
from edge_agent.clock_offset import NO_OFFSET, Offset
from edge_agent.source import Event, Frame
from lab_contract.batch import CLOCK_UNKNOWN, MAX_BYTES, Shape, unpack
from tests.small_kit import NOW, SECOND, model

MS = 1_000_000


def a_batcher(**changes: Any) -> Batcher:
    count = itertools.count()
    streams = model().streams
    return Batcher(edge="edge-1", kit="kit-1", epoch=5, streams=streams, take_seq=lambda: next(count), **changes)


def rows(batches: Sequence[Encoded], shape: Shape) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for encoded in batches:
        batch = unpack(encoded.data)
        assert batch.header.seq == encoded.seq
        assert (batch.header.edge, batch.header.kit, batch.header.epoch) == ("edge-1", "kit-1", 5)
        assert (batch.header.stream, batch.header.shape, batch.header.rows) == (
            encoded.stream, encoded.shape, encoded.rows
        )  # fmt: skip
        t = pa.ipc.open_stream(batch.payload).read_all()["t"].to_numpy()
        assert (t.min(), t.max(), encoded.kit) == (encoded.t_first, encoded.t_last, "kit-1")
        if batch.header.shape is shape:
            found += pa.ipc.open_stream(batch.payload).read_all().to_pylist()
    return found


def event(i: int) -> Event:
    return Event("line.pressure", NOW + i, float(i))


def frame(start: int, n: int) -> Frame:
    t = NOW + np.arange(start, start + n, dtype=np.int64)
    return Frame("eeg", t, np.stack([t % 1000, t % 7]).astype(np.float32))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(0, 30)),
        st.tuples(st.just("frame"), st.integers(0, 90)),
        st.tuples(st.just("wait"), st.integers(1, 400)),
    ),
    max_size=40,
)


@given(steps=steps)
def test_every_reading_leaves_once_in_order_and_in_time(steps: list[tuple[str, int]]) -> None:
    batcher = a_batcher()
    now, events, samples = 0, 0, 0
    out: list[Encoded] = []
    waiting_since: dict[str, int] = {}

    def take() -> None:
        for encoded in batcher.take(now):
            out.append(encoded)
            waiting_since.pop("frame" if unpack(encoded.data).header.shape is Shape.FRAME else "events")

    for what, amount in steps:
        if what == "events":
            batcher.add([event(events + i) for i in range(amount)], now, NOW)
            events += amount
        elif what == "frame":
            batcher.add(frame(samples, amount), now, NOW)
            samples += amount
        else:
            for _ in range(amount):
                now += MS
                take()
        if amount and what != "wait":
            waiting_since.setdefault(what, now)
        for kind, since in waiting_since.items():
            assert now - since <= (EVENT_LINGER_MS if kind == "events" else 250) * MS
        assert (batcher.due_ns() is None) == (not waiting_since)
    out += batcher.take(None)
    assert batcher.due_ns() is None
    assert [row["t"] - NOW for row in rows(out, Shape.EVENT)] == list(range(events))
    found = rows(out, Shape.FRAME)
    assert [row["t"] - NOW for row in found] == list(range(samples))
    assert all(row["eeg.a"] == row["t"] % 1000 and row["eeg.b"] == row["t"] % 7 for row in found)
    assert [encoded.seq for encoded in out] == sorted(encoded.seq for encoded in out)


def test_what_a_server_publishes_in_one_burst_travels_in_one_batch() -> None:
    batcher = a_batcher()
    batcher.add([event(i) for i in range(150)], 0, NOW)
    batcher.add([event(i) for i in range(50)], 6 * MS, NOW)
    assert batcher.take((EVENT_LINGER_MS - 1) * MS) == []
    (batch,) = batcher.take(EVENT_LINGER_MS * MS)
    assert unpack(batch.data).header.rows == 200


def test_a_flood_is_split_and_no_batch_is_too_large() -> None:
    batcher = a_batcher()
    batcher.add([event(i) for i in range(2 * MOST_EVENTS + 1)], 0, NOW)
    batcher.add(frame(0, 2 * MOST_SAMPLES + 1), 0, NOW)
    out = batcher.take(0)
    assert [unpack(encoded.data).header.rows for encoded in out] == [
        MOST_EVENTS, MOST_EVENTS, 1, MOST_SAMPLES, MOST_SAMPLES, 1
    ]  # fmt: skip
    assert max(len(encoded.data) for encoded in out) < MAX_BYTES


BAD: list[Any] = [
    Event("line.pressure", NOW, "high"),  # type: ignore[arg-type]
    Event("line.pressure", NOW, 10**400),
    Event("line.pressure", NOW, 1.0, quality=-1),
    Event("line.pressure", NOW, 1.0, quality=2**32),
    Event("line.pressure", NOW, None, text="\ud800"),
    Event("line.pressure", NOW, 1.0, t_server=2**63),
    Event("line.pressure", NOW, 1.0, t_receipt="now"),  # type: ignore[arg-type]
    Event(7, NOW, 1.0),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_one_bad_event_costs_itself_alone(bad: Event) -> None:
    batcher = a_batcher()
    batcher.add([event(1), bad, event(2)], 0, NOW)
    assert [row["value"] for row in rows(batcher.take(None), Shape.EVENT)] == [1.0, 2.0]
    assert batcher.counters["bad_readings"] == 1
    batcher.add([bad], 0, NOW)
    assert batcher.take(None) == []


def test_an_event_from_a_controller_without_a_clock_is_dated_by_its_receipt() -> None:
    batcher = a_batcher()
    of_1601 = Event("line.good", -11_644_473_600 * SECOND // 1000, 1.0, t_receipt=NOW + 5)
    of_2500 = Event("line.good", 2**62 + 2**61, 2.0)
    batcher.add([of_1601, of_2500, event(3)], 0, NOW + 9)
    found = rows(batcher.take(None), Shape.EVENT)
    assert [row["t"] - NOW for row in found] == [5, 9, 3]
    assert batcher.counters == {"bad_readings": 0, "bad_times": 2}


@pytest.mark.parametrize(
    "bad",
    [
        Frame("other", np.array([NOW]), np.zeros((2, 1), dtype=np.float32)),
        Frame("eeg", np.array([NOW]), np.zeros((3, 1), dtype=np.float32)),
        Frame("eeg", np.array([NOW]), np.zeros((2, 2), dtype=np.float32)),
        Frame("eeg", np.array([1.0]), np.zeros((2, 1), dtype=np.float32)),  # type: ignore[arg-type]
        Frame("eeg", np.array([NOW]), np.zeros((2, 1), dtype=np.float64)),  # type: ignore[arg-type]
        Frame("eeg", np.array([5]), np.zeros((2, 1), dtype=np.float32)),
    ],
    ids=["stream", "channels", "samples", "time type", "value type", "time"],
)
def test_a_frame_that_fits_no_stream_is_counted_and_left_out(bad: Frame) -> None:
    batcher = a_batcher()
    batcher.add(bad, 0, NOW)
    batcher.add(frame(0, 2), 0, NOW)
    assert len(rows(batcher.take(None), Shape.FRAME)) == 2
    assert batcher.counters["bad_readings"] == 1


def test_nulls_texts_and_all_three_times_come_through() -> None:
    batcher = a_batcher()
    batcher.add([Event("line.state", NOW, None, "Aborted", 0x80340000, NOW + 1, NOW + 2)], 0, NOW)
    assert rows(batcher.take(None), Shape.EVENT) == [
        {
            "t": NOW,
            "channel": "line.state",
            "value": None,
            "text": "Aborted",
            "quality": 0x80340000,
            "t_server": NOW + 1,
            "t_receipt": NOW + 2,
        }
    ]


def test_each_batch_bears_the_clock_offset_and_no_time_is_changed() -> None:
    """Where it is missing nobody can tell afterwards how late a workshop's clock was."""
    offsets = [Offset(-3600 * SECOND, 5), NO_OFFSET]
    batcher = a_batcher(offset=lambda: offsets.pop(0))
    batcher.add([event(1)], 0, NOW)
    batcher.add(frame(0, 3), 0, NOW)
    first, second = batcher.take(None)
    header = unpack(first.data).header
    assert (header.clock_offset_ns, header.clock_uncertainty_ns) == (-3600 * SECOND, 5)
    assert unpack(second.data).header.clock_uncertainty_ns == CLOCK_UNKNOWN
    assert [row["t"] for row in rows([first], Shape.EVENT)] == [NOW + 1]
