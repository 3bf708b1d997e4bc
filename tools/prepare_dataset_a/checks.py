"""Checks of the tables: evenly sampled time axes that overlap, and values in a known unit."""

from __future__ import annotations

import numpy as np

from tools.plausibility import percentile
from tools.prepare_dataset_a.download import UnusableError
from tools.signals import ROUNDING_S

RATE_HZ = 200.0  # of the HDF5 file

_RATE_TOLERANCE = 0.01
_LONGEST_STEP = 1.5  # sampling intervals; a longer step is a gap


def measure_rate_hz(header_s: np.ndarray, expected_hz: float, place: str) -> float:
    """Return the sampling rate of a table.

    Args:
        header_s: its column `Header`, the times `(n,)`.
        expected_hz: the rate that it should have.
        place: its name in messages.

    Raises:
        UnusableError: The times do not increase, have a gap, or have another rate.
    """
    if len(header_s) < 2:
        raise UnusableError("empty table", f"{place}: {len(header_s)} rows")
    steps_s = np.diff(header_s)
    if not np.isfinite(header_s).all() or (steps_s <= 0).any():
        row = int(np.flatnonzero(~(steps_s > 0))[0]) + 1
        raise UnusableError("non-monotonic Header", f"{place}: time does not increase at row {row}")
    rate_hz = 1.0 / float(np.median(steps_s))
    if abs(rate_hz / expected_hz - 1.0) > _RATE_TOLERANCE:
        found = f"{rate_hz:g} Hz instead of {expected_hz:g} Hz"
        raise UnusableError("wrong sampling rate", f"{place}: {found}")
    if (steps_s > _LONGEST_STEP / rate_hz).any():
        row = int(np.argmax(steps_s))
        raise UnusableError("gap in Header", f"{place}: {steps_s[row]:g} s after row {row}")
    return rate_hz


def find_common_times(headers_s: dict[str, np.ndarray], anchor: str, place: str) -> np.ndarray:
    """Return the times `(n,)` of a 200 Hz sensor at which all others were recording.

    Args:
        headers_s: times per sensor.
        anchor: the sensor whose times are returned.
        place: name of the trial in messages.

    Raises:
        UnusableError: The sensors were recording together for less than a second.
    """
    start_s = max(header_s[0] for header_s in headers_s.values()) - ROUNDING_S
    stop_s = min(header_s[-1] for header_s in headers_s.values()) + ROUNDING_S
    time_s = headers_s[anchor]
    time_s = time_s[(time_s >= start_s) & (time_s <= stop_s)]
    if len(time_s) < RATE_HZ:
        detail = f"{place}: all recorded at the same time for {len(time_s) / RATE_HZ:g} s only"
        raise UnusableError("sensors do not overlap", detail)
    return time_s


def identify_accelerometer_unit(acceleration: np.ndarray, place: str) -> str:
    """Return `g` or `m/s²` for `(n, 3)`: over a few strides the median norm is about gravity."""
    ranges = {"g": (0.7, 1.6), "m/s²": (7.0, 16.0)}
    return _identify_unit(acceleration, 50, ranges, "accelerometer, median norm", place)


def identify_gyroscope_unit(foot_rate: np.ndarray, place: str) -> str:
    """Return `rad/s` or `deg/s` for `(n, 3)`: a swinging foot reaches 5 to 10 rad/s (300-600)."""
    ranges = {"rad/s": (0.5, 25.0), "deg/s": (60.0, 1500.0)}
    return _identify_unit(foot_rate, 99, ranges, "gyroscope of the foot, 99th percentile", place)


def identify_cop_unit(center: np.ndarray, place: str) -> str:
    """Return `mm` or `m` for centers of pressure `(n, 3)` under load, somewhere in a room."""
    ranges = {"m": (0.02, 15.0), "mm": (50.0, 20000.0)}
    return _identify_unit(center, 95, ranges, "center of pressure, 95th percentile", place)


def _identify_unit(
    vectors: np.ndarray,
    percent: float,
    ranges: dict[str, tuple[float, float]],
    quantity: str,
    place: str,
) -> str:
    """Return the unit whose range contains the percentile of the norms, ignoring NaN."""
    size = percentile(np.linalg.norm(vectors, axis=1), percent)
    for unit, (low, high) in ranges.items():
        if low <= size <= high:
            return unit
    expected = " or ".join(f"{low:g} to {high:g} {unit}" for unit, (low, high) in ranges.items())
    raise UnusableError("unknown unit", f"{place}: {quantity} {size:.3g}, expected {expected}")
