"""Reading ahead must give the same bytes as reading, or the MQTT link would lose its place in the stream."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.mqtt_socket import READ_BYTES, ReadAhead


class Pieces:
    """A socket that gives what it has in pieces as the network cut them; BlockingIOError where there is nothing now."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300) | st.just(READ_BYTES + 7), max_size=8),
    sizes=st.lists(st.sampled_from([1, 2, 300, 70_000, READ_BYTES]), min_size=1, max_size=5).map(lambda s: [*s, 5000]),
)
def test_the_same_bytes_come_out_whatever_is_asked_for(lengths: list[int], sizes: list[int]) -> None:
    pieces = [random.Random(place).randbytes(length) for place, length in enumerate(lengths)]
    whole = b"".join(pieces)
    ahead = ReadAhead(Pieces(list(pieces)))
    read = b""
    turn = 0
    while len(read) < len(whole):
        size = sizes[turn % len(sizes)]
        turn += 1
        piece = ahead.recv(size)
        assert 0 < len(piece) <= size
        read += piece
    assert read == whole
    assert ahead.pending() == 0
    with pytest.raises(BlockingIOError):
        ahead.recv(1)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_what_waits_is_told_so_that_nobody_waits_for_the_network(pair: tuple[socket.socket, socket.socket]) -> None:
    """`select` would sleep for a second beside a whole message, and every live value would be late."""
    one, other = pair
    ahead = ReadAhead(one)
    other.sendall(b"abcdef")
    assert ahead.recv(2) == b"ab"
    assert ahead.pending() == 4
    assert ahead.fileno() == one.fileno()
    assert ahead.recv(10) == b"cdef"
    assert ahead.pending() == 0
    other.close()
    assert ahead.recv(1) == b""
