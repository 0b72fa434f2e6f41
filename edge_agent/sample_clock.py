"""The time of samples: a board's own counter in, UTC times out, though the bytes arrive late, uneven and in bursts.

A sample number n was taken at `n * period + offset(n)`. Bytes are only ever late, never early, so the least delay seen
in each second is nearest to the truth. `offset` is a straight line through these minima over the last minute, which
follows a board whose crystal is off by some 100 ppm; jitter and bursts stay above the line and out of it. The offset in
use is led towards the line slowly, so that neighbouring samples keep their distance and time never runs backwards.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np
from numpy.typing import NDArray

SECOND = 1_000_000_000
MEMORY = 60
"""Minima (one a second of arrivals) that the line is drawn through."""
SETTLED = 10
"""Minima from which on a slope is believed; before, the nominal period is taken as true."""
SLOPE_MOST = 500e-6
"""No crystal is further off; what looks so is the delays of a bad minute."""
SLEW_AT_FIRST = 0.05
SLEW = 0.001
"""Share of the elapsed time by which the offset may move towards the line: 50 ms a second at first, then 1 ms."""
FAR_OFF = SECOND // 2
"""An error that is not led away slowly in the settled state: the first pace is used again."""


class SampleClock:
    """Times of the samples of one board; `period_ns` is the nominal time from one count to the next."""

    def __init__(self, period_ns: float) -> None:
        self._period = period_ns
        self._base: tuple[int, int] | None = None
        self._minima: deque[tuple[float, float]] = deque(maxlen=MEMORY)
        self._second = 0
        self._least: tuple[float, float] | None = None
        self._slope = 0.0
        self._level = 0.0
        self._offset = 0.0
        self._last = 0

    @property
    def drift_ppm(self) -> float:
        """How much longer than nominal the board's period is, by this computer's clock."""
        return self._slope * 1e6

    def observe(self, n: int, arrival_ns: int) -> None:
        """Sample `n`, the newest there is, was here at `arrival_ns` (UTC)."""
        if self._base is None:
            self._base = n, arrival_ns
            self._last = n - 1
        x, late = self._late(n, arrival_ns)
        second = (arrival_ns - self._base[1]) // SECOND
        if second != self._second:
            self._second = second
            if self._least is not None:
                self._minima.append(self._least)
            self._least = None
            self._draw_line()
        if self._least is None or late < self._least[1]:
            self._least = x, late
            # A second that has just begun may have seen nothing but late bytes: it only counts where it is low.
            if len(self._minima) < SETTLED:
                self._level = min([late, *(minimum for _, minimum in self._minima)])

    def expected(self, arrival_ns: int) -> float | None:
        """The count that should be newest at `arrival_ns`; None before the first sample."""
        if self._base is None:
            return None
        passed = arrival_ns - self._base[1]
        return self._base[0] + (passed - self._level - self._slope * passed) / self._period

    def shift(self, ns: int) -> None:
        """The clock of this computer was set forward by `ns`: follow at once."""
        if self._base is not None:
            self._base = self._base[0], self._base[1] + ns

    def times(self, n: NDArray[np.int64]) -> NDArray[np.int64]:
        """UTC ns of the samples `n` (rising, above all asked before). Call `observe` first."""
        if self._base is None:
            raise RuntimeError("times() before the first observe()")
        if len(n) == 0:
            return np.zeros(0, np.int64)
        x = (n - self._base[0]) * self._period
        passed = (int(n[-1]) - self._last) * self._period
        predicted = self._offset + self._slope * passed
        error = self._level + self._slope * float(x[-1]) - predicted
        settled = len(self._minima) >= SETTLED and abs(error) < FAR_OFF
        most = (SLEW if settled else SLEW_AT_FIRST) * passed
        offset = predicted + min(most, max(-most, error))
        share = (n - self._last) / (int(n[-1]) - self._last)
        led = self._offset + (offset - self._offset) * share
        self._offset = offset
        self._last = int(n[-1])
        return self._base[1] + np.rint(x + led).astype(np.int64)

    def _late(self, n: int, arrival_ns: int) -> tuple[float, float]:
        base_n, base_ns = self._base or (n, arrival_ns)
        x = (n - base_n) * self._period
        return x, arrival_ns - base_ns - x

    def _draw_line(self) -> None:
        if len(self._minima) < SETTLED:
            return
        x, late = np.array(self._minima).T
        slope, level = _line(x, late)
        above = late - (slope * x + level)
        # Once more through the lower half: a second in which everything was late says nothing about the board.
        low = above <= median(above.tolist())  # np.median would import numpy.ma: 7 MB
        self._slope, self._level = _line(x[low], late[low])


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope, of no more than SLOPE_MOST, and level of the straight line of least squares."""
    mean_x, mean_y = float(x.mean()), float(y.mean())
    spread = float(((x - mean_x) ** 2).sum())
    slope = float(((x - mean_x) * (y - mean_y)).sum()) / spread if spread else 0.0
    slope = min(SLOPE_MOST, max(-SLOPE_MOST, slope))
    return slope, mean_y - slope * mean_x


class SampleCounter:
    """Unwraps sample numbers 0..255 to a count that goes on for ever, whole wraps lost in between included.

    The numbers alone cannot tell 256 lost samples from none; the time can, once all bytes that waited are read.
    """

    def __init__(self, clock: SampleClock, modulus: int = 256) -> None:
        self._clock = clock
        self._modulus = modulus
        self._last: int | None = None
        self._number = 0

    def place(
        self, numbers: NDArray[np.uint8], arrival_ns: int, drained: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts (n,) of these samples and how many were lost just before each (n,); n is at least 1.

        `drained`: no byte was left waiting behind these, so that the last of them is as new as `arrival_ns`.
        """
        steps = np.ones(len(numbers), np.int64)
        modulus = self._modulus
        if self._last is not None:
            steps[0] = (int(numbers[0]) - self._number - 1) % modulus + 1
        steps[1:] = (np.diff(numbers.astype(np.int64)) - 1) % modulus + 1
        last = -1 if self._last is None else self._last
        expected = self._clock.expected(arrival_ns)
        if drained and expected is not None:
            behind = expected - (last + int(steps.sum()))
            # From three quarters of a wrap on it is nearer to a lost wrap than to anything a late byte explains.
            if behind > 0.75 * modulus:
                gap = int(np.flatnonzero(steps > 1)[-1]) if (steps > 1).any() else 0
                steps[gap] += modulus * round(behind / modulus)
        counts = last + np.cumsum(steps)
        self._last = int(counts[-1])
        self._number = int(numbers[-1])
        return counts, steps - 1
