"""Filters and interpolation, on signals of known spectrum."""

from __future__ import annotations

import numpy as np
import pytest

from tools.signals import anti_alias, filter_zero_phase, interpolate

RATE_HZ = 1000.0
TIME_S = np.arange(4000) / RATE_HZ
MIDDLE = slice(1000, 3000)  # away from the ends
CUTOFF_HZ = 20.0


def tone(frequency_hz: float) -> np.ndarray:
    """Return a sine of amplitude 1, `(4000, 1)`."""
    return np.sin(2 * np.pi * frequency_hz * TIME_S)[:, None]


@pytest.mark.parametrize(
    ("frequency_hz", "expected"), [(2.0, 1.0), (10.0, 1.0), (20.0, 0.5), (60.0, 0.0)]
)
def test_low_pass_has_its_cut_off_and_no_delay(frequency_hz: float, expected: float) -> None:
    """Otherwise the peaks of the ground reaction are cut, or forces lag behind the sensors."""
    filtered = filter_zero_phase(tone(frequency_hz), RATE_HZ, CUTOFF_HZ)
    assert np.sqrt(2 * np.mean(filtered[MIDDLE] ** 2)) == pytest.approx(expected, abs=0.005)
    cosine = np.cos(2 * np.pi * frequency_hz * TIME_S)[:, None]
    assert abs(np.mean(filtered[MIDDLE] * cosine[MIDDLE])) < 1e-3  # no delay


def test_anti_aliasing_removes_high_frequencies_only() -> None:
    """Otherwise EMG above 100 Hz shows up as a slow wave, or goniometers lose frequencies."""
    for frequency_hz in (130.0, 170.0, 390.0):
        filtered = anti_alias(tone(frequency_hz), RATE_HZ, 200.0)[MIDDLE][::5]
        assert np.abs(tone(frequency_hz)[MIDDLE][::5]).max() > 0.5
        assert np.abs(filtered).max() < 0.01
    filtered = anti_alias(tone(60.0), RATE_HZ, 200.0)
    np.testing.assert_allclose(filtered[MIDDLE], tone(60.0)[MIDDLE], atol=0.02)


def test_nan_does_not_spread() -> None:
    """Otherwise one missing sample invalidates a second of its neighbors."""
    values = np.hstack([tone(2.0), tone(3.0)])
    values[1500:1510, 0] = np.nan
    filtered = filter_zero_phase(values, RATE_HZ, CUTOFF_HZ)
    np.testing.assert_array_equal(np.isnan(filtered), np.isnan(values))
    np.testing.assert_allclose(filtered[:1500, 0], tone(2.0)[:1500, 0], atol=0.01)
    np.testing.assert_allclose(filtered[1510:, 0], tone(2.0)[1510:, 0], atol=0.01)
    np.testing.assert_array_equal(filtered[:, 1:], filter_zero_phase(tone(3.0), RATE_HZ, CUTOFF_HZ))


def test_single_samples_can_be_filtered() -> None:
    """Otherwise a single valid sample between NaN stops the conversion."""
    values = np.full((50, 1), np.nan)
    values[[3, 10, 11]] = 1.0
    filtered = filter_zero_phase(values, RATE_HZ, CUTOFF_HZ)
    np.testing.assert_allclose(filtered, values, atol=1e-6)


def test_rounded_times_select_samples_and_others_are_interpolated() -> None:
    """Otherwise times of four decimals mix samples and NaN spreads, or a sensor is shifted."""
    values = np.arange(4000.0)[:, None]
    values[2000] = np.nan
    new_time_s = np.arange(100, 700) / 200.0
    selected = interpolate(values, np.round(TIME_S + 0.0003, 4), new_time_s)
    np.testing.assert_array_equal(selected, values[500:3500:5])
    time_s = np.arange(200) / 200.0
    between_s = time_s[5:100] + 0.002
    np.testing.assert_allclose(interpolate(time_s[:, None], time_s, between_s)[:, 0], between_s)
