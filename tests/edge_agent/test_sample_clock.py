"""Without these EEG would bear the time at which the USB driver woke up, not the time at which it was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.sample_clock import SECOND, SampleClock, SampleCounter

PERIOD = 4_000_000
START = 1_700_000_000 * SECOND


def run(
    clock: SampleClock, arrivals: NDArray[np.int64], chunk: int, first: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times and counts of samples that came in chunks, each chunk when its last sample had arrived."""
    times: list[NDArray[np.int64]] = []
    counts = first + np.arange(len(arrivals))
    for begin in range(0, len(arrivals), chunk):
        n = counts[begin : begin + chunk]
        clock.observe(int(n[-1]), int(arrivals[begin : begin + chunk][-1]))
        times.append(clock.times(n))
    return np.concatenate(times), counts


@settings(max_examples=30, deadline=None)
@example(0.0, [54_555_467, 0, 54_555_467, 822, 0], 1, 0)
@example(0.0, [44_000_128, 0, 36_666_752, 0, 0], 1, 0)
@given(
    st.floats(-200, 200),
    st.lists(st.integers(0, 60_000_000), min_size=5, max_size=5),
    st.integers(1, 30),
    st.integers(0, 2**20),
)
def test_time_never_runs_backwards_and_never_jumps(ppm: float, jitter: list[int], chunk: int, first: int) -> None:
    """Whatever the delays and the crystal: strictly rising, and neighbours 4 ms apart within the slew."""
    true = START + np.arange(4000) * PERIOD * (1 + ppm * 1e-6)
    late = np.resize(np.array(jitter), 4000)
    t, _ = run(SampleClock(PERIOD), (true + late).astype(np.int64), chunk, first)
    steps = np.diff(t)
    assert steps.min() > 0.9 * PERIOD
    assert steps.max() < 1.1 * PERIOD


@pytest.mark.parametrize("ppm", [-100.0, 0.0, 100.0])
def test_a_crystal_off_by_100_ppm_is_followed_for_an_hour(ppm: float) -> None:
    """Unfollowed, 100 ppm would be 360 ms after an hour."""
    rng = np.random.default_rng(3)
    n = 250 * 3600
    true = START + np.arange(n) * (PERIOD * (1 + ppm * 1e-6))
    clock = SampleClock(PERIOD)
    t, _ = run(clock, (true + 1_000_000 + rng.exponential(4e6, n)).astype(np.int64), 50)
    error_ms = (t - true)[250 * 120 :] / 1e6
    assert abs(error_ms).max() < 5.0
    assert clock.drift_ppm == pytest.approx(ppm, abs=25)


def test_bursts_do_not_show_in_the_times() -> None:
    """A PC that is busy for a while hands half a second over at once; the samples were taken evenly all the same."""
    n = 250 * 120
    true = START + np.arange(n) * PERIOD
    arrival = true + 2_000_000
    busy = (np.arange(n) // 125) % 10 == 9
    arrival = np.where(busy, true[np.minimum((np.arange(n) // 125 + 1) * 125, n - 1)] + 3_000_000, arrival)
    t, _ = run(SampleClock(PERIOD), arrival, 5)
    error_ms = (t - true)[250 * 20 :] / 1e6
    assert error_ms.max() - error_ms.min() < 2.0
    assert abs(error_ms).max() < 6.0


def test_a_clock_that_is_set_forward_is_followed_at_once() -> None:
    clock = SampleClock(PERIOD)
    true = START + np.arange(5000) * PERIOD
    run(clock, true[:2500], 5)
    clock.shift(3600 * SECOND)
    t, _ = run(clock, true[2500:] + 3600 * SECOND, 5, first=2500)
    assert abs(t - true[2500:] - 3600 * SECOND).max() < 1_000_000


def place(
    counter: SampleCounter, clock: SampleClock, first: int, count: int, arrival: int, drained: bool = True
) -> int:
    """Hands over samples whose true counts are known; the losses found."""
    numbers = (np.arange(first, first + count) % 256).astype(np.uint8)
    counts, lost = counter.place(numbers, arrival, drained)
    clock.observe(int(counts[-1]), arrival)
    return int(lost.sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1500), st.integers(0, 2**16), st.integers(0, 20_000_000))
def test_losses_are_counted_across_whole_wraps(gap: int, first: int, late: int) -> None:
    """256 lost samples leave the numbers as they were; only the time tells them from none."""
    clock = SampleClock(PERIOD)
    counter = SampleCounter(clock)
    lost = 0
    for begin in range(first, first + 2000, 5):
        lost += place(counter, clock, begin, 5, START + (begin + 4 - first) * PERIOD + late)
    assert lost == 0
    begin = first + 2000 + gap
    lost += place(counter, clock, begin, 5, START + (begin + 4 - first) * PERIOD + late)
    assert lost == gap


def test_a_stalled_computer_that_lost_nothing_counts_nothing_lost() -> None:
    """Two seconds of silence and then everything at once is late, not lost."""
    clock = SampleClock(PERIOD)
    counter = SampleCounter(clock)
    for begin in range(0, 2000, 5):
        assert place(counter, clock, begin, 5, START + (begin + 4) * PERIOD) == 0
    resumed = START + 2500 * PERIOD
    lost = [place(counter, clock, begin, 100, resumed, drained=begin == 2400) for begin in range(2000, 2500, 100)]
    assert lost == [0, 0, 0, 0, 0]


def test_a_buffer_that_overflowed_counts_what_fell_out_of_it() -> None:
    clock = SampleClock(PERIOD)
    counter = SampleCounter(clock)
    for begin in range(0, 2000, 5):
        place(counter, clock, begin, 5, START + (begin + 4) * PERIOD)
    resumed = START + 2800 * PERIOD
    lost = place(counter, clock, 2000, 124, resumed, drained=False)
    lost += place(counter, clock, 2795, 5, resumed, drained=True)
    assert lost == 2795 - 2124


def test_asking_for_times_before_anything_arrived_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="observe"):
        SampleClock(PERIOD).times(np.array([1]))
