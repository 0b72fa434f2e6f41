"""Without these the marks of task C1 (contact, alpha, lost samples) would rest on formulas nobody has checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.eeg_measures import BANDS, EegMeter, Measured, is_flat, line_ratio, power_between, quality, spectrum

RATE = 250.0
N = 500


def sine(hz: float, amplitude: float, n: int = N, first: int = 0) -> NDArray[np.float64]:
    t = (first + np.arange(n)) / RATE
    return np.tile(amplitude * np.sin(2 * np.pi * hz * t), (8, 1))


@settings(deadline=None)
@given(st.sampled_from(list(BANDS)), st.floats(0.5, 150), st.floats(0, 1))
def test_a_sine_gives_half_its_amplitude_squared_in_its_own_band_and_nothing_elsewhere(
    band: str, amplitude: float, where: float
) -> None:
    low, high = BANDS[band]
    hz = round(2 * (low + 1.5 + where * max(0.0, high - low - 3.0))) / 2
    frequencies, density = spectrum(sine(hz, amplitude), RATE)
    powers = {name: float(power_between(frequencies, density, *limits)[0]) for name, limits in BANDS.items()}
    assert powers.pop(band) == pytest.approx(amplitude**2 / 2, rel=1e-6)
    assert max(powers.values()) < 1e-6 * amplitude**2


def test_the_density_integrates_to_the_variance() -> None:
    """Parseval: no factor is missing, also over an electrode's offset of some mV."""
    window = np.random.default_rng(1).normal(5000, 10, (8, 250 * 40))
    frequencies, density = spectrum(window, RATE)
    assert power_between(frequencies, density, 0, 126).mean() == pytest.approx(100, rel=0.03)


def test_mains_noise_is_one_for_white_noise_and_large_on_a_loose_ground() -> None:
    noise = np.random.default_rng(2).normal(0, 5, (8, N))
    flat = np.zeros(8, bool)
    clean = line_ratio(*spectrum(noise, RATE), flat, 50)
    assert clean is not None
    assert 0.3 < clean < 2.5
    assert line_ratio(*spectrum(noise + sine(50, 20), RATE), flat, 50) == 10
    assert line_ratio(*spectrum(noise, RATE), np.ones(8, bool), 50) is None


def test_quality_tells_good_contact_from_bad() -> None:
    window = np.random.default_rng(3).normal(0, 8, (8, N))
    window[1] += sine(50, 60)[0]
    window[2] = 12.0
    window[3, ::2] = 400
    scores = quality(window, *spectrum(window, RATE), 50)
    assert scores[0] > 90
    assert scores[1] < 10
    assert scores[2] == 0
    assert scores[3] < 60
    assert list(is_flat(window)) == [False, False, True, False, False, False, False, False]
    assert ((scores >= 0) & (scores <= 100)).all()


def feed(meter: EegMeter, seconds: float, chunk: int = 5, lost_each: int = 0) -> list[Measured]:
    out: list[Measured] = []
    for first in range(0, round(seconds * RATE), chunk):
        t = 1_000_000_000 + (first + np.arange(chunk)) * 4_000_000
        out += meter.feed(t, sine(10, 20, chunk, first), lost_each)
    return out


@pytest.mark.parametrize("chunk", [1, 5, 125, 250])
def test_bands_come_twice_a_second_and_the_rest_once(chunk: int) -> None:
    measured = feed(EegMeter(RATE, 50, 8), 6, chunk)
    alpha = [m for m in measured if m.measure == "alpha" and m.index == 5]
    # The first values stand when the window of 2 s is full.
    assert len(alpha) == 9
    assert alpha[0].t == 1_000_000_000 + (N - 1) * 4_000_000
    assert np.diff([m.t for m in alpha]).tolist() == [500_000_000] * 8
    assert all(m.value == pytest.approx(200, rel=1e-6) for m in alpha)
    assert len([m for m in measured if m.measure == "quality" and m.index == 0]) == 5
    assert [m.value for m in measured if m.measure == "lost_samples"] == [0] * 6


def test_lost_samples_are_a_share_of_all_and_small_gaps_do_not_stop_the_measures() -> None:
    measured = feed(EegMeter(RATE, 50, 8), 12, chunk=9, lost_each=1)
    assert [m for m in measured if m.measure == "lost_samples"][-1].value == pytest.approx(10, abs=0.5)
    assert any(m.measure == "alpha" for m in measured)


def test_a_long_gap_starts_a_new_window() -> None:
    meter = EegMeter(RATE, 50, 8)
    feed(meter, 3)
    t = 10**12 + np.arange(125) * 4_000_000
    assert not any(m.measure == "alpha" for m in meter.feed(t, sine(10, 20, 125), 300))
