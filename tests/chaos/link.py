"""The link between edge and broker: a TCP proxy that can be cut, stalled, half closed, and that listens to what passes.

What it hears is the outside's view of the line: the ids of batches that the edge has sent, those that the hub has
acknowledged as stored or kept aside, and the edge's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from lab_contract.batch import HEADER, HEADER_BYTES, MAGIC
from lab_contract.errors import MessageInvalid, TopicInvalid
from lab_contract.messages import EdgeStatus, load_ack, load_status
from lab_contract.topics import Kind, parse

BatchId = tuple[int, int]
"""Epoch and number."""
PUBLISH = 3
CHUNK = 65536


class Trouble(StrEnum):
    """What can be wrong with the link."""

    CUT = "cut"
    """Connections are reset in the midst of what they carry, new ones at once."""
    STALL = "stall"
    """Connections stand and carry nothing; afterwards they carry on."""
    DEAF = "deaf"
    """What the hub says is swallowed, what the edge says arrives: stored, and never acknowledged."""
    HALF_CLOSED_HUB = "half_closed_hub"
    """The broker is told that the edge has nothing more to say; what the edge says all the same is swallowed."""
    HALF_CLOSED_EDGE = "half_closed_edge"
    """The edge is told that the broker has nothing more to say; what it says arrives."""


@dataclass
class Heard:
    """What has passed, by id; times are those of the event loop."""

    sent: dict[BatchId, int] = field(default_factory=dict[BatchId, int])
    """How often each batch was sent."""
    first_sent: dict[BatchId, float] = field(default_factory=dict[BatchId, float])
    stored: set[BatchId] = field(default_factory=set[BatchId])
    """Acknowledged as stored, whether the edge came to hear it or not."""
    aside: dict[str, int] = field(default_factory=dict[str, int])
    """How many were acknowledged as kept aside, by reason."""
    newest_stored: float = 0.0
    """The latest first sending of a batch whose acknowledgement has reached the edge."""
    status: EdgeStatus | None = None
    statuses: int = 0

    @property
    def redeliveries(self) -> int:
        """Sendings of batches beyond the first of each."""
        return sum(self.sent.values()) - len(self.sent)


class Link:
    """Listens on a port of its own for the edge and connects it to the broker's; `trouble` for a while."""

    def __init__(self, broker_port: int, rng: random.Random) -> None:
        self._broker_port = broker_port
        self._rng = rng
        self._trouble: Trouble | None = None
        self._passes = asyncio.Event()
        self._passes.set()
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.heard = Heard()
        self.port = 0

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        # Not cancelled: what is reset ends by itself, and asyncio's streams make a noise about cancelled ones.
        self._passes.set()
        self._reset()
        await asyncio.gather(*self._tasks)

    async def trouble(self, kind: Trouble, seconds: float) -> None:
        """The link is so for so long."""
        self._trouble = kind
        match kind:
            case Trouble.CUT:
                for pair in list(self._pairs):
                    pair.is_torn = True
            case Trouble.STALL:
                self._passes.clear()
            case Trouble.HALF_CLOSED_HUB | Trouble.HALF_CLOSED_EDGE:
                for pair in self._pairs:
                    pair.close_half(kind)
            case Trouble.DEAF:
                pass
        try:
            await asyncio.sleep(seconds)
        finally:
            self._trouble = None
            self._passes.set()
            if kind is not Trouble.STALL:
                # What was swallowed leaves a hole in the byte stream: nobody could go on with it.
                self._reset()

    async def wait(self, condition: Callable[[Heard], bool], seconds: float) -> bool:
        """Until what was heard is so; False where it is not within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: condition(self.heard))
        return condition(self.heard)

    def _reset(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._trouble is Trouble.CUT:
            writer.transport.abort()
            return
        try:
            to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair((reader, writer), to_broker)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(pair, up=True))
                group.create_task(self._carry(pair, up=False))
        finally:
            pair.reset()
            self._pairs.discard(pair)

    async def _carry(self, pair: _Pair, *, up: bool) -> None:
        reader, writer = (pair.edge[0], pair.broker[1]) if up else (pair.broker[0], pair.edge[1])
        packets = Packets()
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passes.wait()
                swallowed = self._swallows(up)
                if pair.is_torn:
                    writer.write(data[: self._rng.randrange(len(data))])
                    break
                for topic, payload in packets.feed(data):
                    await self._hear(topic, payload, arrives=not (swallowed or pair.is_reset))
                if swallowed:
                    continue
                if pair.is_reset:
                    break
                writer.write(data)
                await writer.drain()
        if self._trouble in (Trouble.HALF_CLOSED_HUB, Trouble.HALF_CLOSED_EDGE) and not pair.is_reset:
            return  # the other direction lives on until the trouble ends
        pair.reset()

    def _swallows(self, up: bool) -> bool:
        if up:
            return self._trouble is Trouble.HALF_CLOSED_HUB
        return self._trouble in (Trouble.DEAF, Trouble.HALF_CLOSED_EDGE)

    async def _hear(self, topic: str, payload: bytes, *, arrives: bool) -> None:
        heard = self.heard
        now = asyncio.get_running_loop().time()
        try:
            kind = parse(topic).kind
            if kind is Kind.UP and payload[:4] == MAGIC and len(payload) >= HEADER_BYTES:
                fields = HEADER.unpack_from(payload)
                batch_id = (fields[8], fields[9])
                heard.sent[batch_id] = heard.sent.get(batch_id, 0) + 1
                heard.first_sent.setdefault(batch_id, now)
            elif kind is Kind.STATUS:
                heard.status = load_status(payload)
                heard.statuses += 1
            elif kind is Kind.ACK:
                ack = load_ack(payload)
                for batch_id in ((ack.epoch, seq) for seq in ack.stored):
                    heard.stored.add(batch_id)
                    if arrives:
                        heard.newest_stored = max(heard.newest_stored, heard.first_sent.get(batch_id, 0.0))
                for one in ack.quarantined:
                    heard.aside[one.reason] = heard.aside.get(one.reason, 0) + 1
        except (MessageInvalid, TopicInvalid):
            return  # not for us to judge: the programs count it
        async with self._changed:
            self._changed.notify_all()


class _Pair:
    """One connection of the edge and the one to the broker that carries it on."""

    def __init__(
        self,
        edge: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.edge = edge
        self.broker = broker
        self.is_reset = False
        self.is_torn = False
        """The next words, of whichever side, break off in the middle and are the last."""

    def reset(self) -> None:
        """Both ends are gone at once; what waits to be written is lost."""
        self.is_reset = True
        for _, writer in (self.edge, self.broker):
            writer.transport.abort()

    def close_half(self, kind: Trouble) -> None:
        """The end of what one side says, told to the other."""
        writer = self.broker[1] if kind is Trouble.HALF_CLOSED_HUB else self.edge[1]
        with contextlib.suppress(OSError):
            if writer.can_write_eof() and not writer.transport.is_closing():
                writer.write_eof()


class Packets:
    """Takes the bytes of one direction of an MQTT 3.1.1 connection apart, as far as a message is published."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Topic and payload of each message that is whole now."""
        self._buffer += data
        while (found := self._head()) is not None:
            begin, end = found
            if len(self._buffer) < end:
                return
            kind, qos = self._buffer[0] >> 4, (self._buffer[0] >> 1) & 3
            body = bytes(self._buffer[begin:end])
            del self._buffer[:end]
            if kind == PUBLISH:
                size = int.from_bytes(body[:2], "big")
                yield body[2 : 2 + size].decode("utf-8", "replace"), body[2 + size + (2 if qos else 0) :]

    def _head(self) -> tuple[int, int] | None:
        """Where the body of the first packet begins and ends; None while its length is not there yet."""
        length = 0
        for place, byte in enumerate(self._buffer[1:5]):
            length |= (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                return place + 2, place + 2 + length
        return None
