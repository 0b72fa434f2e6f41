"""Beside the line: what was lost on the way to the hub, said as gaps; every gap of the edge agent is made here.

A `ConnectionWatch` sees the readings of one connection and finds what is missing between them. Outbox and spool tell of
batches that they had to drop. All of it gathers as `Loss` in `OpenLosses`, merged, until the spool makes gap batches of
it, which travel like data.

Gaps of a stream are in the time of its samples: from the last sample before to the first after. Gaps of `events` are in
the edge's own time, as changes come whenever they like: from the last sign of life of the connection to the next. They
say that changes of one connection of the kit may be missing; its other connections may have gone on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from edge_agent.clock import EARLIEST_NS, LATEST_NS, Clock
from edge_agent.source import Frame, Lost, Reading
from lab_contract.batch import EVENT_STREAM, Gap, GapReason
from lab_contract.kit import Stream

SECOND = 1_000_000_000
TOGETHER_NS = 5 * SECOND
"""Whole batches that are dropped within this of each other are one gap: a spool that stays full drops them in turn."""
OPEN_MOST = 64
"""Gaps of one stream and reason that wait; from then on they are joined, so that a bad line does not make thousands."""
SETTLED_NS = 3 * SECOND
OPEN_NS = 600 * SECOND
"""A gap is said when it has not grown for SETTLED_NS, and one that grows on after OPEN_NS."""
WHOLE_BATCHES = frozenset({GapReason.SPOOL_FULL, GapReason.DISK, GapReason.UNREADABLE})
REASONS = tuple(GapReason)


@dataclass(frozen=True, slots=True)
class Loss:
    """`count` samples or changes of a kit's stream were lost from `t_from` to `t_to` (UTC ns); None: nobody knows."""

    kit: str
    stream: str
    t_from: int
    t_to: int
    reason: GapReason
    count: int | None = None

    def gap(self) -> Gap:
        """As the hub is told."""
        return Gap(self.stream, self.t_from, self.t_to, self.reason, self.count)

    def joined(self, other: Loss) -> Loss:
        """One loss in place of two of one stream and reason."""
        count = None if self.count is None or other.count is None else self.count + other.count
        begin, end = min(self.t_from, other.t_from), max(self.t_to, other.t_to)
        return replace(self, t_from=begin, t_to=end, count=count)

    def touches(self, other: Loss) -> bool:
        """Whether both are one gap to whoever looks at a chart."""
        near = TOGETHER_NS if self.reason in WHOLE_BATCHES else 0
        return other.t_from <= self.t_to + near and self.t_from <= other.t_to + near


def told(loss: Loss) -> Loss | None:
    """The loss with times that can be said; None where its clock was never set.

    Where the clock was set back meanwhile, nobody can say how long it was: it stands at its end then, without length.
    """
    if not EARLIEST_NS <= loss.t_to < LATEST_NS:
        return None
    if not EARLIEST_NS <= loss.t_from <= loss.t_to:
        return replace(loss, t_from=loss.t_to)
    return loss


@dataclass(slots=True)
class Open:
    """A loss that waits to be said. Times are monotonic ns."""

    loss: Loss
    id: int
    opened_ns: int
    grown_ns: int


class OpenLosses:
    """Losses that wait to be said, joined where they touch."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, GapReason], list[Open]] = {}
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def add(self, loss: Loss, now_ns: int) -> Open:
        """Note a loss; the entry that holds it now."""
        entries = self._open.setdefault((loss.kit, loss.stream, loss.reason), [])
        for entry in reversed(entries):
            if entry.loss.touches(loss) or len(entries) >= OPEN_MOST:
                entry.loss = entry.loss.joined(loss)
                entry.grown_ns = now_ns
                return entry
        entry = Open(loss, next(self._ids), now_ns, now_ns)
        entries.append(entry)
        return entry

    def restore(self, id_: int, loss: Loss, now_ns: int) -> None:
        """An entry of before, with its number."""
        self._ids = itertools.count(max(id_ + 1, next(self._ids)))
        self._open.setdefault((loss.kit, loss.stream, loss.reason), []).append(Open(loss, id_, now_ns, now_ns))

    def due(self, now_ns: int) -> list[Open]:
        """What is to be said now."""
        return [
            entry
            for entries in self._open.values()
            for entry in entries
            if now_ns - entry.grown_ns >= SETTLED_NS or now_ns - entry.opened_ns >= OPEN_NS
        ]

    def said(self, entries: Iterable[Open]) -> None:
        """These have become gap batches."""
        for entry in entries:
            loss = entry.loss
            key = loss.kit, loss.stream, loss.reason
            left = [one for one in self._open[key] if one is not entry]
            if left:
                self._open[key] = left
            else:
                del self._open[key]

    def take(self) -> list[Loss]:
        """Everything, leaving nothing."""
        losses = [entry.loss for entries in self._open.values() for entry in entries]
        self._open.clear()
        return losses


class ConnectionWatch:
    """Finds what is missing between the readings of one connection.

    `ends` are the ends that the spool remembers of the runs before, by kit and name: the last sample of each stream and
    the last sign of life of each connection. `lose` takes each loss. `changes` is whether the connection has channels
    that come as events.
    """

    def __init__(
        self,
        *,
        kit: str,
        connection: str,
        streams: Iterable[Stream],
        changes: bool,
        ends: Mapping[tuple[str, str], int],
        lose: Callable[[Loss], None],
        clock: Clock,
    ) -> None:
        self._kit = kit
        self._lose = lose
        self._clock = clock
        self._changes = changes
        self.name = sign_of_life(connection)
        self._period_ns = {stream.id: SECOND / stream.rate_hz for stream in streams}
        self._last = {stream: ends[kit, stream] for stream in self._period_ns if (kit, stream) in ends}
        """The last sample of each stream."""
        self.heard_ns = ends.get((kit, self.name))
        """The last sign of life, by the edge's clock; None: never."""
        self._read: set[str] = set()
        """What has been read in this run: before, a gap is one of the agent, then one of the connection."""
        self._new: set[str] = set()
        """What has not come yet since the connection was opened."""
        self.opened()

    def opened(self) -> None:
        """The connection is there, for the first time or again: what comes next may not be next."""
        self._new = {*self._period_ns, *((EVENT_STREAM,) if self._changes else ())}

    def take(self, reading: Reading) -> None:
        """A reading, an empty one too; call it before the reading goes further on."""
        now = self._clock.time_ns()
        if isinstance(reading, Frame):
            self._frame(reading)
        elif isinstance(reading, Lost):
            self._say(EVENT_STREAM, self._since(now), now, reading.reason, reading.count)
        if EVENT_STREAM in self._new and self.heard_ns is not None:
            self._say(EVENT_STREAM, self.heard_ns, now, self._reason(EVENT_STREAM), None)
        self._seen(EVENT_STREAM)
        self.heard_ns = now

    def _since(self, now: int) -> int:
        return now if self.heard_ns is None else self.heard_ns

    def _frame(self, frame: Frame) -> None:
        stream = frame.stream
        period = self._period_ns.get(stream)
        if period is None or not len(frame.t):
            return  # the batcher counts it
        first = int(frame.t[0])
        before = self._last.get(stream)
        self._last[stream] = int(frame.t[-1])
        if frame.lost:
            begin = first - round(frame.lost * period) if before is None or before >= first else before
            self._say(stream, begin, first, GapReason.COUNTER_JUMP, frame.lost)
        elif stream in self._new and before is not None and not 0 < first - before <= 1.5 * period:
            self._say(stream, before, first, self._reason(stream), None)
        self._seen(stream)

    def _reason(self, name: str) -> GapReason:
        return GapReason.DISCONNECTED if name in self._read else GapReason.STOPPED

    def _seen(self, name: str) -> None:
        if name in self._new:
            self._new.discard(name)
            self._read.add(name)

    def _say(self, stream: str, begin: int, end: int, reason: GapReason, count: int | None) -> None:
        self._lose(Loss(self._kit, stream, begin, end, reason, count))


def sign_of_life(connection: str) -> str:
    """The name under which the spool remembers when a connection was last heard; a stream has no such id."""
    return f"{EVENT_STREAM}/{connection}"
