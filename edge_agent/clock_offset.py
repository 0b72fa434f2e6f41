"""Beside the line: how far the edge's clock is from the hub's, by probes over the hub's broker. Pure: no I/O.

Eight probes every ten seconds, each answered by the hub with its time. With t0 and t3 the edge's times of sending and
hearing, t1 and t2 the hub's of hearing and answering, the offset to be added to the edge's clock is
((t1 - t0) + (t2 - t3)) / 2 and is wrong by half of the round trip at most, however unequal the two ways are (RFC 5905,
section 8). Of eight the one with the least round trip counts.

The offset is stored beside the data: no time of a sample is ever changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.clock import Clock
from lab_contract.batch import CLOCK_UNKNOWN
from lab_contract.messages import Probe, Time

SECOND = 1_000_000_000
PROBES = 8
ROUND_NS = 10 * SECOND
ANSWER_NS = SECOND // 2
"""The next probe of a round goes out when the one before was answered, or after this."""
STEP_NS = 20_000_000
STEP_RATE = 1e-3
"""Wall time that has moved against monotonic time by more than this, and this share of the time passed (a time server
may slew a clock by half of it), was set by somebody."""
DRIFT = 2e-4
AGED_NS = 60 * SECOND
"""Without the hub an offset grows old: each minute adds what two clocks of 100 ppm drift apart in it."""
READ_WITHIN_NS = 1_000_000
MOST_NS = 100 * 365 * 86_400 * SECOND
"""A hub that is further away than 100 years has no clock; no batch could even bear the number."""


@dataclass(frozen=True, slots=True)
class Offset:
    """`ns` is to be added to the edge's clock to have the hub's; the truth lies within +- `uncertainty_ns` of it.

    An uncertainty of CLOCK_UNKNOWN means that nothing is known.
    """

    ns: int = 0
    uncertainty_ns: int = CLOCK_UNKNOWN


NO_OFFSET = Offset()


def no_offset() -> Offset:
    """For whoever has no hub to compare with."""
    return NO_OFFSET


@dataclass(frozen=True, slots=True)
class Moment:
    """The edge's two clocks, read together."""

    wall_ns: int
    monotonic_ns: int

    @property
    def lead_ns(self) -> int:
        """Wall against monotonic time: only somebody who sets the clock changes it much."""
        return self.wall_ns - self.monotonic_ns


def moment(clock: Clock) -> Moment:
    """Now. A pause between the two readings must not look like a clock that was set."""
    for _ in range(10):
        before = clock.monotonic_ns()
        wall = clock.time_ns()
        if clock.monotonic_ns() - before < READ_WITHIN_NS:
            break
    return Moment(wall, before)


@dataclass(frozen=True, slots=True)
class _Measured:
    offset: Offset
    at: Moment


class ClockOffset:
    """Ask `next_probe` often, hand each answer to `answered`; `offset` is what is known now.

    `offset` may be asked from any thread, everything else from one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._measured: _Measured | None = None
        self._id = 0
        self._sent: dict[int, Moment] = {}
        """Probes of this round that have no answer yet."""
        self._left = 0
        self._best: _Measured | None = None
        self._round_ns: int | None = None
        self._next_ns = 0
        self.counters = {"clock_rounds": 0, "clock_steps": 0, "bad_clock_answers": 0}

    def offset(self) -> Offset:
        """What is known now; NO_OFFSET before the first round and from a step of the edge's clock on."""
        measured = self._measured
        if measured is None or self._has_stepped(measured.at, moment(self._clock)):
            return NO_OFFSET
        age = self._clock.monotonic_ns() - measured.at.monotonic_ns
        grown = round(age // AGED_NS * AGED_NS * DRIFT)
        if not grown:
            return measured.offset
        return Offset(measured.offset.ns, measured.offset.uncertainty_ns + grown)

    def next_probe(self) -> Probe | None:
        """The probe that is due now, to be sent at once."""
        now = moment(self._clock)
        self._look_for_a_step(now)
        if self._round_ns is None or now.monotonic_ns - self._round_ns >= ROUND_NS:
            self._begin(now)
        if now.monotonic_ns < self._next_ns:
            return None
        if not self._left:
            self._end()
            return None
        self._left -= 1
        self._id += 1
        self._next_ns = now.monotonic_ns + ANSWER_NS
        self._sent[self._id] = now
        return Probe(id=self._id, sent_ns=now.wall_ns)

    def answered(self, time: Time, heard: Moment) -> None:
        """An answer; `heard` is taken as early as can be."""
        sent = self._sent.pop(time.id, None)
        if sent is None:
            return  # of a former round, or twice
        self._next_ns = heard.monotonic_ns
        trip = heard.monotonic_ns - sent.monotonic_ns - (time.answered_ns - time.received_ns)
        ahead = (time.received_ns - sent.wall_ns) + (time.answered_ns - heard.wall_ns)
        if (
            time.answered_ns < time.received_ns
            or trip < 0
            or abs(ahead) > 2 * MOST_NS
            or self._has_stepped(sent, heard)
        ):
            self.counters["bad_clock_answers"] += 1
        else:
            # Rounded up, so that the truth stays inside.
            found = _Measured(Offset(ahead // 2, trip // 2 + 1), heard)
            if self._best is None or found.offset.uncertainty_ns < self._best.offset.uncertainty_ns:
                self._best = found
        if not self._left and not self._sent:
            self._end()

    def _begin(self, now: Moment) -> None:
        self._end()
        self._round_ns = self._next_ns = now.monotonic_ns
        self._left = PROBES
        self._sent.clear()

    def _end(self) -> None:
        """The best of a round counts; without any answer what was known grows old."""
        if self._best is not None:
            self.counters["clock_rounds"] += 1
            self._measured, self._best = self._best, None

    def _look_for_a_step(self, now: Moment) -> None:
        for known in (self._measured, self._best):
            if known is not None and self._has_stepped(known.at, now):
                break
        else:
            return
        # Not corrected by the step: a computer that has slept looks the same, and its monotonic clock stood still.
        self.counters["clock_steps"] += 1
        self._measured = self._best = None
        self._round_ns = None
        self._sent.clear()

    @staticmethod
    def _has_stepped(then: Moment, now: Moment) -> bool:
        passed = abs(now.monotonic_ns - then.monotonic_ns)
        return abs(now.lead_ns - then.lead_ns) > STEP_NS + STEP_RATE * passed
