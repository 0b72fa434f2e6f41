"""A batch that is changed on its way must be noticed; one that is whole must come out as it went in."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab_contract.batch import (
    EVENT_SCHEMA_HASH,
    HEADER_BYTES,
    Header,
    Shape,
    encode_events,
    encode_frame,
    event_columns,
    frame_columns,
    pack,
    schema_hash,
    unpack,
)
from lab_contract.errors import BatchRejected

HEADER = Header("edge-1", epoch=7, seq=9, kit="kit-1", stream="eeg", shape=Shape.FRAME)
I64 = st.integers(-(2**63), 2**63 - 1)


def table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(unpack(data).payload).read_all()


@given(
    rows=st.integers(1, 300),
    channels=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_frame_comes_out_as_it_went_in(rows: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 2**62, rows)
    values = rng.standard_normal((channels, rows)).astype(np.float32)
    names = [f"eeg.c{i}" for i in range(channels)]
    data = encode_frame(HEADER, t, names, values)
    batch = unpack(data)
    out = table(data)
    assert batch.header.rows == rows
    assert batch.header.id == ("edge-1", 7, 9)
    assert batch.header.schema_hash == schema_hash(frame_columns(names))
    assert [(field.name, str(field.type)) for field in out.schema] == frame_columns(names)
    assert np.array_equal(out["t"].to_numpy(), t)
    for i, name in enumerate(names):
        assert np.array_equal(out[name].to_numpy(), values[i])


event_rows = st.lists(
    st.tuples(
        I64,
        st.sampled_from(["line.state", "line.estop", "robot.axis1.position"]),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(max_size=20),
        st.integers(0, 2**32 - 1),
        st.none() | I64,
        st.none() | I64,
    ),
    min_size=1,
    max_size=60,
)


@given(rows=event_rows)
def test_events_come_out_as_they_went_in_with_nulls_and_any_text(rows: list[tuple]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    data = encode_events(HEADER, *columns)
    out = table(data)
    assert unpack(data).header.schema_hash == EVENT_SCHEMA_HASH
    assert [(field.name, str(field.type)) for field in out.schema] == event_columns()
    assert [out[name].to_pylist() for name in out.column_names] == columns


def small_batch() -> bytes:
    return encode_events(HEADER, [1], ["line.state"], [2.0], ["Idle"], [0], [None], [3])


@pytest.mark.parametrize("bit", range(8))
def test_any_single_bit_changed_anywhere_is_refused(bit: int) -> None:
    data = small_batch()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        with pytest.raises(BatchRejected):
            unpack(bytes(changed))


def test_every_prefix_and_any_tail_is_refused() -> None:
    data = small_batch()
    for length in range(len(data)):
        with pytest.raises(BatchRejected):
            unpack(data[:length])
    with pytest.raises(BatchRejected):
        unpack(data + b"\0")


@given(st.binary(max_size=400))
def test_foreign_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(BatchRejected):
        unpack(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": 0}, "row_count"),
        ({"rows": 2_000_000}, "row_count"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_with_its_reason(change: dict[str, int], reason: str) -> None:
    from dataclasses import replace

    with pytest.raises(BatchRejected) as refused:
        unpack(pack(replace(HEADER, **change), b"x"))
    assert refused.value.reason == reason


@pytest.mark.parametrize("field", ["edge", "kit", "stream"])
@pytest.mark.parametrize("name", ["", "Upper", "a/b", "a" * 33, "-a", "я", "a\n"])
def test_an_id_that_could_not_stand_in_a_topic_is_never_packed(field: str, name: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=field):
        pack(replace(HEADER, **{field: name}, rows=1), b"")


def test_a_frame_whose_shapes_do_not_fit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_frame(HEADER, np.arange(3), ["a.b"], np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="length"):
        encode_events(HEADER, [1], ["a.b", "a.c"], [1.0], [None], [0], [None], [None])


def test_the_layout_of_the_header_does_not_change_unnoticed() -> None:
    data = small_batch()
    assert HEADER_BYTES == 176
    assert data[:6] == b"EPIB\x01\x02"
    rows, size, _, epoch, seq = struct.unpack_from("<IIIQQ", data, 12)
    assert (rows, size, epoch, seq) == (1, len(data) - 176, 7, 9)
    assert data[64:96].rstrip(b"\0") == b"edge-1"


def test_not_a_number_survives_the_wire_so_that_the_hub_decides() -> None:
    data = encode_frame(HEADER, np.arange(2), ["a.b"], np.array([[math.nan, 1.0]], np.float32))
    assert math.isnan(table(data)["a.b"].to_pylist()[0])
