"""What a user would lose where these fail: the one common time by which workshops can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.clock_offset import AGED_NS, MOST_NS, NO_OFFSET, PROBES, ROUND_NS, ClockOffset, Moment, Offset, moment
from lab_contract.messages import Probe, Time
from tests.edge_agent.support import FakeClock
from tests.small_kit import NOW, SECOND

MS = 1_000_000
HOUR = 3600 * SECOND
PPM = 1e-6


@dataclass
class World:
    """True time, an edge whose clock has an error and a drift, and a hub whose clock is true."""

    error_ns: int = 0
    drift: float = 0.0
    true_ns: int = 0
    set_ns: int = 0
    offset: ClockOffset = field(init=False)

    def __post_init__(self) -> None:
        self.offset = ClockOffset(self)

    def time_ns(self) -> int:
        return NOW + self.monotonic_ns() + self.error_ns + self.set_ns

    def monotonic_ns(self) -> int:
        return round(self.true_ns * (1 + self.drift))

    def hub_ns(self) -> int:
        return NOW + self.true_ns

    def pass_ns(self, ns: int) -> None:
        self.true_ns += ns

    def truth(self) -> int:
        """What is to be added to the edge's clock now."""
        return self.hub_ns() - self.time_ns()

    def answer(self, probe: Probe, there: int, busy: int, back: int) -> None:
        self.pass_ns(there)
        received = self.hub_ns()
        self.pass_ns(busy)
        answered = self.hub_ns()
        self.pass_ns(back)
        self.offset.answered(Time(id=probe.id, received_ns=received, answered_ns=answered), moment(self))

    def round(self, ways: list[tuple[int, int, int]]) -> None:
        for way in ways:
            probe = self.offset.next_probe()
            assert probe is not None
            self.answer(probe, *way)


delays = st.integers(0, 400 * MS)
rounds = st.lists(st.tuples(delays, st.integers(0, 20 * MS), delays), min_size=PROBES, max_size=PROBES)


@given(error=st.integers(-2 * HOUR, 2 * HOUR), drift=st.floats(-100 * PPM, 100 * PPM), ways=rounds)
def test_the_truth_lies_within_the_uncertainty_however_unequal_the_ways_are(
    error: int, drift: float, ways: list[tuple[int, int, int]]
) -> None:
    world = World(error, drift)
    world.round(ways)
    found = world.offset.offset()
    least = min(there + back for there, _, back in ways)
    # The edge's clock measures the trips, wrong by its drift; the offset was true when the best answer came.
    slack = round(sum(sum(way) for way in ways) * 100 * PPM) + 2
    assert abs(found.ns - world.truth()) <= found.uncertainty_ns + slack
    assert abs(found.uncertainty_ns - least / 2) <= slack


def test_an_hour_behind_is_found_to_a_millisecond() -> None:
    world = World(-HOUR)
    world.round([(MS, 0, MS)] * PROBES)
    assert world.offset.offset() == Offset(HOUR, MS + 1)


def test_eight_probes_every_ten_seconds() -> None:
    world = World()
    world.round([(MS, MS, MS)] * PROBES)
    assert world.offset.next_probe() is None
    world.pass_ns(ROUND_NS - 30 * MS)
    assert world.offset.next_probe() is None
    world.pass_ns(30 * MS)
    assert world.offset.next_probe() is not None


def test_a_lost_answer_is_not_waited_for() -> None:
    world = World(5 * MS)
    assert world.offset.next_probe() is not None
    assert world.offset.next_probe() is None
    world.pass_ns(SECOND)
    world.round([(MS, 0, MS)] * (PROBES - 1))
    assert world.offset.next_probe() is None
    assert world.offset.offset() == Offset(-5 * MS, MS + 1)


@given(step=st.one_of(st.integers(-2 * HOUR, -50 * MS), st.integers(50 * MS, 2 * HOUR)))
def test_a_step_of_the_clock_ends_the_old_value_at_once_and_a_new_one_is_found(step: int) -> None:
    """The curves after a correction of the PC's clock would be moved by an offset from before it."""
    world = World()
    world.round([(MS, 0, MS)] * PROBES)
    world.set_ns = step
    assert world.offset.offset() == NO_OFFSET
    world.pass_ns(MS)
    world.round([(MS, 0, MS)] * PROBES)
    assert world.offset.offset() == Offset(-step, MS + 1)
    assert world.offset.counters["clock_steps"] == 1


def test_a_step_between_probe_and_answer_spoils_that_probe_alone() -> None:
    world = World()
    probe = world.offset.next_probe()
    assert probe is not None
    world.set_ns = -HOUR
    world.answer(probe, MS, 0, MS)
    world.round([(2 * MS, 0, 2 * MS)] * (PROBES - 1))
    assert world.offset.offset() == Offset(HOUR, 2 * MS + 1)
    assert world.offset.counters["bad_clock_answers"] == 1


@given(drift=st.floats(-100 * PPM, 100 * PPM), minutes=st.integers(0, 600))
def test_an_offset_that_grows_old_without_the_hub_still_holds_the_truth(drift: float, minutes: int) -> None:
    world = World(7 * MS, drift)
    world.round([(8 * MS, 0, 8 * MS)] * PROBES)
    world.pass_ns(minutes * 60 * SECOND)
    found = world.offset.offset()
    aged = round(AGED_NS * 100 * PPM)  # it grows by the minute
    assert abs(found.ns - world.truth()) <= found.uncertainty_ns + aged
    assert found.uncertainty_ns <= 8 * MS + 2 * aged * (minutes + 1)


@given(received=st.integers(-(2**63), 2**63), answered=st.integers(-(2**63), 2**63), number=st.integers(-3, 2 * PROBES))
def test_answers_that_make_no_sense_are_left_out(received: int, answered: int, number: int) -> None:
    """A hostile or broken hub could shift every curve of the workshop."""
    clock = FakeClock()
    offset = ClockOffset(clock)
    probe = offset.next_probe()
    assert probe is not None
    clock.pass_s(0.001)
    offset.answered(Time(id=number, received_ns=received, answered_ns=answered), clock.now())
    clock.pass_s(20)
    offset.next_probe()
    found = offset.offset()
    sensible = number == probe.id and 0 <= answered - received <= MS and abs(received - NOW) < MOST_NS
    assert (found != NO_OFFSET) == sensible


def test_a_pause_between_the_two_readings_is_no_step() -> None:
    class Paused(FakeClock):
        pauses = 2

        def monotonic_ns(self) -> int:
            if self.pauses:
                self.pauses -= 1
                self.pass_s(0.4)
            return super().monotonic_ns()

    clock = Paused()
    assert moment(clock) == Moment(clock.utc_ns, clock.passed_ns)
