"""An acknowledgement read wrongly would delete data that nobody stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab_contract.errors import MessageInvalid
from lab_contract.messages import Ack, EdgeStatus, Quarantined, dump, load_ack, load_status

U64 = st.integers(0, 2**63 - 1)


@given(epoch=U64, stored=st.lists(U64), quarantined=st.lists(U64))
def test_an_acknowledgement_comes_out_as_it_went_in(epoch: int, stored: list[int], quarantined: list[int]) -> None:
    ack = Ack(
        store_id="s",
        epoch=epoch,
        stored=tuple(stored),
        quarantined=tuple(Quarantined(digest=one, reason="checksum") for one in quarantined),
    )
    assert load_ack(dump(ack)) == ack


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[]", b'{"store_id":"s","epoch":"x"}', b"\xff\xfe", b'{"store_id":1}']
)
def test_what_is_no_acknowledgement_is_refused(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        load_ack(data)


def test_a_newer_writer_may_add_keys_during_an_update() -> None:
    assert load_status(b'{"edge":"e1","online":true,"colour":"green"}') == EdgeStatus(edge="e1", online=True)


@given(st.binary(max_size=60))
def test_foreign_bytes_are_no_status(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        load_status(data)
