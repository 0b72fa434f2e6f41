"""What is computed from raw EEG at the edge: band powers, signal quality, mains noise and lost samples. No I/O.

All spectra are of the last 2 s: mean removed, Hann window w, one segment of N samples at rate f (Welch's method with a
single segment). One-sided power spectral density in uV^2/Hz: P[k] = 2 |FFT(w x)[k]|^2 / (f * sum(w^2)), without the
factor 2 at 0 Hz and at f/2; bins are f/N = 0.5 Hz apart.

* Band power in uV^2: sum of P[k] * f/N over lo <= frequency < hi. A sine of amplitude A gives A^2/2 in its band.
* Mains noise: mean P within 0.5 Hz of the mains frequency over the mean P of the rest of +/-5 Hz, leaving out 1 Hz on
  either side; the median of all channels that carry a signal, at most 10. White noise gives 1.
* Quality in %: 100 * (1 - share of samples beyond +/-150 uV of the mean) * B / (B + L), with B the power 1 to 40 Hz and
  L the power within 1 Hz of the mains frequency; 0 where the channel stays within 0.5 uV (no contact, a short).
* Lost samples in %: 100 * lost / (lost + received) over the last 10 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

BANDS: Mapping[str, tuple[float, float]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}
ARTEFACT_UV = 150.0
FLAT_UV = 0.5
LINE_RATIO_MOST = 10.0
WINDOW_S = 2.0
LOST_OVER_S = 10
FILL_MOST = 25
"""Lost samples (0.1 s) that are bridged by a straight line for the spectra; a longer gap starts a new window."""


def spectrum(window: NDArray[np.floating], rate_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies (m,) in Hz and power spectral density (channels, m) in uV^2/Hz of a window (channels, n) in uV."""
    n = window.shape[1]
    taper = np.hanning(n + 1)[:-1]
    centred = window - window.mean(axis=1, keepdims=True)
    density = np.abs(np.fft.rfft(centred * taper, axis=1)) ** 2 / (rate_hz * np.sum(taper**2))
    density[:, 1 : (n + 1) // 2] *= 2
    return np.fft.rfftfreq(n, 1 / rate_hz), density


def power_between(
    frequencies: NDArray[np.float64], density: NDArray[np.float64], low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """Power (channels,) in uV^2 from `low_hz` up to, not including, `high_hz`."""
    inside = (frequencies >= low_hz) & (frequencies < high_hz)
    total: NDArray[np.float64] = density[:, inside].sum(axis=1) * (frequencies[1] - frequencies[0])
    return total


def is_flat(window: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which channels (channels,) stay within FLAT_UV."""
    flat: NDArray[np.bool_] = np.ptp(window, axis=1) < FLAT_UV
    return flat


def line_ratio(
    frequencies: NDArray[np.float64], density: NDArray[np.float64], flat: NDArray[np.bool_], line_hz: float
) -> float | None:
    """Mains noise of the head; None where no channel carries a signal."""
    apart = np.abs(frequencies - line_hz)
    line = density[:, apart <= 0.5].mean(axis=1)
    beside = density[:, (apart > 1.0) & (apart <= 5.0)].mean(axis=1)
    useful = ~flat & (beside > 0)
    if not useful.any():
        return None
    # Not np.median: it imports numpy.ma, which is a tenth of the memory of the whole edge.
    return min(LINE_RATIO_MOST, median((line[useful] / beside[useful]).tolist()))


def quality(
    window: NDArray[np.floating], frequencies: NDArray[np.float64], density: NDArray[np.float64], line_hz: float
) -> NDArray[np.float64]:
    """Signal quality (channels,) in %."""
    brain = power_between(frequencies, density, 1.0, 40.0)
    line = power_between(frequencies, density, line_hz - 1.0, line_hz + 1.25)
    total = brain + line
    clean = np.divide(brain, total, out=np.zeros_like(brain), where=total > 0)
    beyond = (np.abs(window - window.mean(axis=1, keepdims=True)) > ARTEFACT_UV).mean(axis=1)
    score: NDArray[np.float64] = 100.0 * (1.0 - beyond) * clean
    score[is_flat(window)] = 0.0
    return score


@dataclass(frozen=True, slots=True)
class Measured:
    """One derived value at the time `t` (UTC ns) of the newest sample in it; `index` is None for the whole head."""

    t: int
    measure: str
    index: int | None
    value: float


class EegMeter:
    """Takes the samples as they come and gives the derived values: bands twice a second, the rest once.

    The measures keep pace with the samples, not with a clock: a stalled head gives no values.
    """

    def __init__(self, rate_hz: float, line_hz: float, channels: int) -> None:
        self._rate_hz = rate_hz
        self._line_hz = line_hz
        self._window = np.zeros((channels, round(WINDOW_S * rate_hz)), np.float64)
        self._filled = 0
        self._half = round(rate_hz / 2)
        self._since = 0
        self._halves = 0
        self._received = 0
        self._lost = 0
        self._seconds: deque[tuple[int, int]] = deque(maxlen=LOST_OVER_S)

    def feed(self, t: NDArray[np.int64], values: NDArray[np.float64], lost: int) -> list[Measured]:
        """`values` (channels, n) in uV at `t` (n,), with `lost` samples missing just before them."""
        out: list[Measured] = []
        self._bridge(values, lost)
        self._lost += lost
        at = 0
        while at < len(t):
            take = min(len(t) - at, self._half - self._since)
            self._push(values[:, at : at + take])
            self._received += take
            self._since += take
            at += take
            if self._since == self._half:
                self._since = 0
                self._halves += 1
                out += self._measure(int(t[at - 1]))
        return out

    def _bridge(self, values: NDArray[np.float64], lost: int) -> None:
        if not lost or not self._filled:
            return
        if lost > FILL_MOST:
            self._filled = 0
            return
        share = np.arange(1, lost + 1) / (lost + 1)
        before = self._window[:, -1:]
        self._push(before + (values[:, :1] - before) * share)

    def _push(self, values: NDArray[np.float64]) -> None:
        size = self._window.shape[1]
        values = values[:, -size:]
        n = values.shape[1]
        self._window[:, : size - n] = self._window[:, n:].copy()
        self._window[:, size - n :] = values
        self._filled = min(size, self._filled + n)

    def _measure(self, t: int) -> list[Measured]:
        out: list[Measured] = []
        full = self._filled == self._window.shape[1]
        frequencies, density = spectrum(self._window, self._rate_hz) if full else (np.zeros(0), np.zeros((0, 0)))
        if full:
            for band, (low, high) in BANDS.items():
                powers = power_between(frequencies, density, low, high)
                out += [Measured(t, band, i, float(power)) for i, power in enumerate(powers)]
        if self._halves % 2:
            return out
        self._seconds.append((self._received, self._lost))
        self._received = self._lost = 0
        lost = sum(second[1] for second in self._seconds)
        out.append(Measured(t, "lost_samples", None, 100.0 * lost / (lost + sum(s[0] for s in self._seconds))))
        if full:
            scores = quality(self._window, frequencies, density, self._line_hz)
            out += [Measured(t, "quality", i, float(score)) for i, score in enumerate(scores)]
            ratio = line_ratio(frequencies, density, is_flat(self._window), self._line_hz)
            if ratio is not None:
                out.append(Measured(t, "line_noise", None, ratio))
        return out
