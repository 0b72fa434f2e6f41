"""Last stage of the line on the edge: sends spooled batches to the hub's broker and takes its acknowledgements.

A window of batches waits for acknowledgement; one is sent again after three seconds without progress and at each
reconnect. Live batches go first, straight from memory; what does not fit there is left in the spool and read back
behind them at a limited rate. PUBACK means nothing here: only an acknowledgement of the hub lets a batch go.

The same link carries the comparison of clocks, and what a hub asks for again whose store was restored from a backup.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from edge_agent.clock import Clock
from edge_agent.clock_offset import ClockOffset, Moment, moment
from edge_agent.errors import SpoolUnavailable
from edge_agent.health import Health
from edge_agent.spool import Appended, Spool, Spooled
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import digest
from lab_contract.errors import MessageInvalid
from lab_contract.messages import Ack, EdgeStatus, KitStatus, Replay, dump, load_ack, load_replay, load_time
from lab_contract.topics import Kind, topic

log = logging.getLogger(__name__)

RESEND_FIRST_NS = 3_000_000_000
RESEND_MOST_NS = 30_000_000_000
"""Each time nothing at all is acknowledged the wait doubles, so that a hub that is down is not shouted at."""
STATUS_S = 5.0
STATUS_LEAST_S = 0.2
"""A flapping connection sends no more statuses than this."""
TICK_S = 0.1
IDLE_TICK_S = 0.5
LIVE_MOST = 256
LIVE_MOST_BYTES = 4 * 2**20
"""Live batches kept in memory; older ones are read back from the spool."""
WINDOW_MOST_BYTES = 8 * 2**20
BACKLOG_WINDOW_BYTES = 2**19
"""Of a backlog on the way at once: a hub that stores 0.4 M samples a second takes a quarter of a second for it."""
BACKLOG_READ = 64
BACKLOG_AHEAD_BYTES = 2**19
"""The backlog is read ahead while less than this stands in memory, at most a piece of the spool's more."""
BACKLOG_BURST_S = 0.25
REPLAYS_MOST = 16
"""Requests that wait; the hub asks again for what it still lacks."""
OTHERS_INFLIGHT = 64
"""Statuses that wait for the broker's PUBACK beside the window."""
SILENT_S = 60.0
"""A broker that says nothing for so long while clocks are compared every ten seconds passes nothing on."""


@cache
def software() -> str:
    """Name and version of this program; a source tree that is not installed has no version."""
    try:
        return f"epip-lab {version('epip-lab')}"
    except PackageNotFoundError:
        return "epip-lab"


@dataclass(slots=True)
class _Sent:
    batch: Spooled
    at_ns: int
    times: int = 1


class Uplink:
    """Sends for one edge. Everything but the two callbacks of the link runs in the event loop.

    `make_link` is MqttLink with address and sign-in already given. `kits` and `counters` are asked for each status.
    """

    def __init__(
        self,
        *,
        edge: str,
        spool: Spool,
        kits: Callable[[], tuple[KitStatus, ...]],
        counters: Callable[[], dict[str, int]],
        health: Health,
        clock: Clock,
        offset: ClockOffset,
        make_link: Callable[..., MqttLink],
        window: int = 256,
        backlog_bytes_s: int = 4 * 2**20,
    ) -> None:
        self._edge = edge
        self._spool = spool
        self._kits = kits
        self._more_counters = counters
        self._health = health
        self._clock = clock
        self._offset = offset
        self._window = window
        self._backlog_bytes_s = backlog_bytes_s
        self._up = topic(edge, Kind.UP)
        self._status = topic(edge, Kind.STATUS)
        self._probe = topic(edge, Kind.PROBE)
        self._hears = {
            topic(edge, Kind.ACK): self._acknowledged,
            topic(edge, Kind.TIME): self._told_time,
            topic(edge, Kind.REPLAY): self._asked_again,
        }
        self._inflight: dict[tuple[int, int], _Sent] = {}
        self._inflight_bytes = 0
        self._live: deque[Spooled] = deque()
        self._live_bytes = 0
        self._backlog: deque[Spooled] = deque()
        self._backlog_bytes = 0
        self._replays: deque[Replay] = deque(maxlen=REPLAYS_MOST)
        self._read_to = 0
        """Place in the spool up to which everything was read back or sent live."""
        self._tokens = 0.0
        self._filled_ns = clock.monotonic_ns()
        self._progress_ns = clock.monotonic_ns()
        self._resend_after_ns = RESEND_FIRST_NS
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._status_due = True
        self._status_sent_ns: int | None = None
        self._link = make_link(
            client_id=f"edge-{edge}-{secrets.token_hex(6)}",
            will=(self._status, dump(EdgeStatus(edge=edge, online=False, epoch=spool.epoch))),
            on_message=self._message_from_link,
            on_connection=self._connection_from_link,
            silent_s=SILENT_S,
            max_inflight=window + OTHERS_INFLIGHT,
        )
        self._cut_because = ""
        self.connected = False
        self.counters = {"sent": 0, "resent": 0, "acknowledged": 0, "backlog_sent": 0, "bad_messages": 0}

    async def run(self) -> None:
        """Send for ever. On cancellation says good-bye to the hub and disconnects."""
        self._loop = asyncio.get_running_loop()
        for name in self._hears:
            self._link.subscribe(name)
        self._link.start()
        try:
            while True:
                await self._replay()
                await self._read_backlog()
                self._pump()
                self._send_probe_if_due()
                self._send_status_if_due()
                try:
                    async with asyncio.timeout(self._tick_s()):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            self._link.publish(self._status, dump(EdgeStatus(edge=self._edge, online=False, epoch=self._spool.epoch)))
            await asyncio.to_thread(self._link.stop)

    def appended(self, appended: Appended) -> None:
        """Batches that have just become durable, in order of their places, and those that had to go for them."""
        if appended.dropped:
            self._forget(set(appended.dropped))
        self.offer(appended.spooled)

    def offer(self, batches: Sequence[Spooled]) -> None:
        """Batches that have just become durable, in order of their places."""
        self._live.extend(batches)
        self._live_bytes += sum(len(batch.data) for batch in batches)
        while len(self._live) > LIVE_MOST or self._live_bytes > LIVE_MOST_BYTES:
            self._live_bytes -= len(self._live.popleft().data)
        self._pump()

    def status_changed(self) -> None:
        """The state of a connection is another one: tell the hub soon."""
        self._status_due = True
        self._wake.set()

    # On the threads of the link: hand over to the loop and nothing else.

    def _message_from_link(self, name: str, payload: bytes) -> None:
        hear = self._hears.get(name)
        if hear is not None:
            # The time is taken here: how long the loop is busy says nothing about the way.
            self._hand_over(self._heard, hear, payload, moment(self._clock))

    def _connection_from_link(self, connected: bool, why: str) -> None:
        self._hand_over(self._connection_changed, connected, why)

    def _hand_over(self, call: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call, *arguments)

    # In the event loop.

    def _connection_changed(self, connected: bool, why: str) -> None:
        if not connected:
            if self.connected:
                self._health.cut_off()
            self.connected = False
            if why != self._cut_because:
                # Once for each reason, not once for each attempt.
                log.warning("hub: not connected: %s", why)
                self._cut_because = why
            return
        self.connected = True
        self._cut_because = ""
        log.info("hub: connected")
        self._resend_after_ns = RESEND_FIRST_NS
        self._status_due = True
        for sent in self._inflight.values():
            self._send_again(sent)
        self._pump()
        self._wake.set()

    def _heard(self, hear: Callable[[bytes, Moment], None], payload: bytes, at: Moment) -> None:
        try:
            hear(payload, at)
        except MessageInvalid as error:
            self.counters["bad_messages"] += 1
            log.warning("hub: %s", error)

    def _told_time(self, payload: bytes, at: Moment) -> None:
        self._offset.answered(load_time(payload), at)
        self._wake.set()

    def _asked_again(self, payload: bytes, _at: Moment) -> None:
        self._replays.append(load_replay(payload))
        self._wake.set()

    def _acknowledged(self, payload: bytes, _at: Moment) -> None:
        ack = load_ack(payload)
        aside = self._kept_aside(ack)
        if not self._spool.acknowledge(ack.store_id, [(ack.epoch, seq) for seq in ack.stored], aside):
            self._foreign(ack)
            return
        for (epoch, seq), reason in aside.items():
            log.warning("hub: batch %d of epoch %d was kept aside: %s", seq, epoch, reason)
        now = self._clock.monotonic_ns()
        for batch_id in (*((ack.epoch, seq) for seq in ack.stored), *aside):
            sent = self._inflight.pop(batch_id, None)
            if sent is None:
                continue
            self._inflight_bytes -= len(sent.batch.data)
            self.counters["acknowledged"] += 1
            self._progress_ns = now
            self._resend_after_ns = RESEND_FIRST_NS
            if sent.times == 1:
                # After a repetition nobody knows which of the two was acknowledged.
                self._health.acknowledged_after(now - sent.at_ns)
        self._pump()
        if self._backlog_may_follow():
            self._wake.set()

    def _kept_aside(self, ack: Ack) -> dict[tuple[int, int], str]:
        """Ids of the batches in flight whose bytes the hub names, with its reasons; others it may name are not ours."""
        if not ack.quarantined:
            return {}
        ids = {digest(sent.batch.data): batch_id for batch_id, sent in self._inflight.items()}
        return {ids[one.digest]: one.reason for one in ack.quarantined if one.digest in ids}

    def _foreign(self, ack: Ack) -> None:
        if self._spool.counters["foreign_acks"] == 1:
            log.error(
                "hub: the store %s is not the store %s that this edge is enrolled with: nothing is let go",
                ack.store_id, self._spool.store_id,
            )  # fmt: skip

    def _tick_s(self) -> float:
        return TICK_S if self._live or self._backlog or self._backlog_may_follow() else IDLE_TICK_S

    def _backlog_end(self) -> int:
        """Batches from this place on are in the memory for live ones, or will be offered."""
        return self._live[0].place if self._live else self._spool.next_place

    def _backlog_may_follow(self) -> bool:
        return self._read_to < self._backlog_end() - 1

    def _pump(self) -> None:
        """Send what the window lets through: live first, then the backlog as far as its rate allows."""
        if not self.connected:
            return
        now = self._clock.monotonic_ns()
        self._resend(now)
        while self._live and self._has_room(self._window):
            if not self._send(self._live[0], now):
                return
            batch = self._live.popleft()
            self._live_bytes -= len(batch.data)
            if self._read_to == batch.place - 1:
                self._read_to = batch.place
        self._fill_tokens(now)
        # Half of the window stays free for live batches, which wait at the hub for what was sent before them.
        half = max(1, self._window // 2)
        while self._backlog and self._tokens > 0 and self._has_room(half, BACKLOG_WINDOW_BYTES):
            if not self._send(self._backlog[0], now):
                return
            size = len(self._backlog.popleft().data)
            self._backlog_bytes -= size
            self._tokens -= size
            self.counters["backlog_sent"] += 1

    def _has_room(self, window: int, most_bytes: int = WINDOW_MOST_BYTES) -> bool:
        return len(self._inflight) < window and self._inflight_bytes < most_bytes

    def _send(self, batch: Spooled, now: int) -> bool:
        if (batch.epoch, batch.seq) in self._inflight:
            return True
        if not self._link.publish(self._up, batch.data):
            return False
        if not self._inflight:
            self._progress_ns = now
        self._inflight[batch.epoch, batch.seq] = _Sent(batch, now)
        self._inflight_bytes += len(batch.data)
        self.counters["sent"] += 1
        return True

    def _resend(self, now: int) -> None:
        """Without any progress the whole window again; one batch that others have overtaken after a longer wait."""
        if not self._inflight:
            return
        stuck = now - self._progress_ns >= self._resend_after_ns
        wait = self._resend_after_ns if stuck else 4 * RESEND_FIRST_NS
        late = [sent for sent in self._inflight.values() if now - sent.at_ns >= wait]
        for sent in late:
            if not self._send_again(sent):
                return
        if late and stuck:
            self._resend_after_ns = min(RESEND_MOST_NS, 2 * self._resend_after_ns)

    def _send_again(self, sent: _Sent) -> bool:
        if not self._link.publish(self._up, sent.batch.data):
            return False
        sent.at_ns = self._clock.monotonic_ns()
        sent.times += 1
        self.counters["resent"] += 1
        return True

    def _fill_tokens(self, now: int) -> None:
        most = self._backlog_bytes_s * BACKLOG_BURST_S
        self._tokens = min(most, self._tokens + (now - self._filled_ns) / 1e9 * self._backlog_bytes_s)
        self._filled_ns = now

    async def _read_backlog(self) -> None:
        if not self.connected or self._backlog_bytes >= BACKLOG_AHEAD_BYTES or len(self._backlog) >= BACKLOG_READ:
            return
        if not self._backlog_may_follow():
            return
        try:
            found = await self._spool.pending(self._read_to, self._backlog_end(), BACKLOG_READ)
        except SpoolUnavailable:
            return  # the spool counts its faults and says what is wrong; the next tick tries again
        # What is in flight was sent live before its place was read.
        new = [batch for batch in found.batches if (batch.epoch, batch.seq) not in self._inflight]
        self._backlog.extend(new)
        self._backlog_bytes += sum(len(batch.data) for batch in new)
        self._read_to = max(self._read_to, found.read_to)

    async def _replay(self) -> None:
        """What the hub asks for again waits again: read back from the first of it on, behind the live batches."""
        while self._replays:
            asked = self._replays[0]
            try:
                places = await self._spool.replay(asked.store_id, asked.epoch, asked.ranges)
            except SpoolUnavailable:
                return
            self._replays.popleft()
            if places:
                log.info("hub: asks for %d batches of epoch %d again", len(places), asked.epoch)
                self._backlog.clear()
                self._backlog_bytes = 0
                self._read_to = min(self._read_to, min(places) - 1)

    def _forget(self, places: set[int]) -> None:
        """Batches that the spool had no room for: their gap has been told, so they must not come after all."""
        self._live = deque(batch for batch in self._live if batch.place not in places)
        self._live_bytes = sum(len(batch.data) for batch in self._live)
        self._backlog = deque(batch for batch in self._backlog if batch.place not in places)
        self._backlog_bytes = sum(len(batch.data) for batch in self._backlog)
        self._inflight = {key: sent for key, sent in self._inflight.items() if sent.batch.place not in places}
        self._inflight_bytes = sum(len(sent.batch.data) for sent in self._inflight.values())

    def _send_probe_if_due(self) -> None:
        if self.connected and (probe := self._offset.next_probe()) is not None:
            self._link.publish(self._probe, dump(probe), qos=0)

    def _send_status_if_due(self) -> None:
        if not self.connected:
            return
        now = self._clock.monotonic_ns()
        since_s = STATUS_S if self._status_sent_ns is None else (now - self._status_sent_ns) / 1e9
        if since_s < (STATUS_LEAST_S if self._status_due else STATUS_S):
            return
        offset = self._offset.offset()
        status = EdgeStatus(
            edge=self._edge,
            online=True,
            epoch=self._spool.epoch,
            software=software(),
            sent_ns=self._clock.time_ns(),
            kits=self._kits(),
            kept=self._spool.kept,
            clock_offset_ns=offset.ns,
            clock_uncertainty_ns=offset.uncertainty_ns,
            counters=self._all_counters(),
        )
        if self._link.publish(self._status, dump(status)):
            self._status_due = False
            self._status_sent_ns = now

    def _all_counters(self) -> dict[str, int]:
        counters = {
            **self.counters,
            **self._spool.counters,
            **self._offset.counters,
            **self._more_counters(),
            **{f"link_{name}": count for name, count in self._link.counters.items()},
        }
        held = self._spool.counts
        state = {"spool_batches": held.batches, "spool_bytes": held.bytes, "waiting": len(self._inflight)}
        state |= {"kept_batches": held.kept_batches, "kept_bytes": held.kept_bytes}
        return state | {name: count for name, count in counters.items() if count}
