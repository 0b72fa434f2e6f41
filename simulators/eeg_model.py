"""The EEG of a person in front of four flickering targets: a pure function of seed, sample number and scene, in uV.

Modelled: 1/f background, alpha at 10.2 Hz over the back of the head that grows with eyes closed, steady-state responses
(SSVEP) at the chosen target and its second harmonic, strongest at Oz, blinks on Fp1, mains noise, and electrodes that
have lost their contact. In test mode each channel is an exact sine instead.

Not modelled: the same background in neighbouring channels (they are independent), eye movements and muscle noise,
electrode drift and offset, fatigue, motor imagery. The background repeats after 65.536 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.cyton import CHANNELS, RATE_HZ

ELECTRODES = ("fp1", "c3", "cz", "c4", "o1", "oz", "o2", "pz")
FP1 = 0
DEFAULT_TARGETS_HZ = (6.7, 10.0, 12.0, 15.0)
TEST_HZ = 10.0

BACKGROUND_SAMPLES = 2**14
BACKGROUND_UV = 8.0
"""Root mean square of the background from 1 to 45 Hz."""
FLOOR_UV2_HZ = 0.02
LINE_HZ = 50.0
LINE_UV = 0.8
LINE_LOST_UV = 60.0
ALPHA_HZ = 10.2
ALPHA_UV = np.array([2.0, 3.5, 4.0, 3.5, 11.0, 12.0, 11.0, 8.0])
ALPHA_OPEN = 0.25
"""Share of the alpha amplitude that is left with eyes open."""
SSVEP_UV = np.array([0.2, 0.5, 0.8, 0.5, 3.6, 4.5, 3.6, 2.0])
HARMONIC = 0.45
RAMP_SAMPLES = 100
BLINK_UV = np.array([90.0, 8.0, 8.0, 8.0, 2.0, 2.0, 2.0, 3.0])
BLINK_SAMPLES = 75
BLINK_SLOT = 1000
"""One blink falls into each 4 s with open eyes, at a random place."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the person does from sample `start` on: `target` is the place of the target looked at, None for none."""

    start: int
    eyes_closed: bool = False
    target: int | None = None


class EegModel:
    """`targets_hz` may be changed at any time; `lost` holds the indices of electrodes without contact."""

    def __init__(self, seed: int, test_amplitudes_uv: Sequence[float] | None = None) -> None:
        self._seed = seed
        self._test = None if test_amplitudes_uv is None else np.array(test_amplitudes_uv, np.float64)[:, None]
        self.targets_hz: tuple[float, ...] = DEFAULT_TARGETS_HZ
        self.lost: set[int] = set()
        rng = np.random.default_rng([seed, 0])
        self._background = _one_over_f(rng)
        self._phases = rng.uniform(0, 2 * np.pi, (CHANNELS, 1))
        self._blink: tuple[int, int] = (-1, 0)

    def samples(self, first: int, count: int, now: Scene, before: Scene) -> NDArray[np.float64]:
        """EEG (8, count) in uV from sample number `first`; `now` began at or before it and followed `before`."""
        n = np.arange(first, first + count)
        t = n / RATE_HZ
        if self._test is not None:
            return self._test * np.sin(2 * np.pi * TEST_HZ * t)
        eeg = self._background[:, n % BACKGROUND_SAMPLES].copy()
        # From one scene to the next within 0.4 s.
        share = np.clip((n - now.start + 1) / RAMP_SAMPLES, 0.0, 1.0)
        for scene, weight in ((before, 1 - share), (now, share)):
            if weight.any():
                eeg += weight * self._activity(scene, t)
        if not now.eyes_closed:
            eeg += BLINK_UV[:, None] * self._blinks(n)
        line = np.full((CHANNELS, 1), LINE_UV)
        for index in self.lost:
            # An electrode in the air: nothing of the brain, much of the mains, a slow drift.
            eeg[index] = 20 * np.sin(2 * np.pi * 0.3 * t)
            line[index] = LINE_LOST_UV
        eeg += line * np.sin(2 * np.pi * LINE_HZ * t + self._phases)
        return eeg

    def _activity(self, scene: Scene, t: NDArray[np.float64]) -> NDArray[np.float64]:
        swell = 0.75 + 0.25 * np.sin(2 * np.pi * 0.23 * t)
        alpha = ALPHA_UV[:, None] * swell * np.sin(2 * np.pi * ALPHA_HZ * t + 0.3 * self._phases)
        activity = alpha if scene.eyes_closed else ALPHA_OPEN * alpha
        if scene.target is not None and not scene.eyes_closed:
            angle = 2 * np.pi * self.targets_hz[scene.target] * t
            activity = activity + SSVEP_UV[:, None] * (np.sin(angle) + HARMONIC * np.sin(2 * angle))
        return activity

    def _blinks(self, n: NDArray[np.int64]) -> NDArray[np.float64]:
        wave = np.zeros(len(n))
        for slot in {int(n[0]) // BLINK_SLOT, int(n[-1]) // BLINK_SLOT}:
            if self._blink[0] != slot:
                rng = np.random.default_rng([self._seed, 1, slot])
                self._blink = slot, slot * BLINK_SLOT + int(rng.integers(0, BLINK_SLOT - BLINK_SAMPLES))
            into = (n - self._blink[1]) / BLINK_SAMPLES
            wave += np.where((into >= 0) & (into < 1), np.sin(np.pi * np.clip(into, 0, 1)) ** 2, 0.0)
        return wave


def _one_over_f(rng: np.random.Generator) -> NDArray[np.float64]:
    """(8, BACKGROUND_SAMPLES) of noise whose power falls with 1/f above 1 Hz, over a white floor."""
    n = BACKGROUND_SAMPLES
    frequencies = np.fft.rfftfreq(n, 1 / RATE_HZ)
    level = BACKGROUND_UV**2 / np.log(45.0)
    density = level / np.maximum(frequencies, 1.0) + FLOOR_UV2_HZ
    density[0] = 0.0
    # A one-sided density P gives Fourier coefficients of mean square P * rate * n / 2.
    size = np.sqrt(density * RATE_HZ * n / 4)
    shape = (CHANNELS, len(frequencies))
    coefficients = size * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    noise: NDArray[np.float64] = np.fft.irfft(coefficients, n, axis=1)
    return noise
