"""Units told from the values, where the sources disagree."""

from __future__ import annotations

import numpy as np

from tools.raw import UnusableError

GRAVITY_M_S2 = 9.80665  # the standard value: what one g of an accelerometer is


def told_apart(
    size: float, ranges: dict[str, tuple[float, float]], quantity: str, place: str
) -> str:
    """Return the unit whose range holds `size`.

    Raises:
        UnusableError: None does.
    """
    for unit, (low, high) in ranges.items():
        if low <= size <= high:
            return unit
    expected = " or ".join(f"{low:g} to {high:g} {u}" for u, (low, high) in ranges.items())
    raise UnusableError(
        "unit cannot be told", f"{place}: {quantity} {size:.3g}, expected {expected}"
    )


def _percentile_of_norm(vectors: np.ndarray, percent: float) -> float:
    """Return a percentile of the norms of `(n, 3)`, NaN left out; NaN if nothing else is there."""
    norms = np.linalg.norm(vectors, axis=1)
    norms = norms[np.isfinite(norms)]
    return float(np.percentile(norms, percent)) if len(norms) else np.nan


def accelerometer_unit(acceleration: np.ndarray, place: str) -> str:
    """Return `g` or `m/s²` for `(n, 3)`: over a few strides the median norm is near gravity."""
    norm = _percentile_of_norm(acceleration, 50)
    ranges = {"g": (0.7, 1.6), "m/s²": (7.0, 16.0)}
    return told_apart(norm, ranges, "accelerometer, median norm", place)


def gyroscope_unit(rate: np.ndarray, place: str) -> str:
    """Return `rad/s` or `deg/s` for `(n, 3)` of the foot.

    In swing a foot turns at 5 to 10 rad/s, 300 to 600 deg/s.
    """
    fastest = _percentile_of_norm(rate, 99)
    ranges = {"rad/s": (0.5, 25.0), "deg/s": (60.0, 1500.0)}
    return told_apart(fastest, ranges, "gyroscope of the foot, 99th percentile", place)


def pressure_unit(center: np.ndarray, place: str) -> str:
    """Return `mm` or `m` for the centre of pressure `(n, 3)` of loaded samples, in a room."""
    farthest = _percentile_of_norm(center, 95)
    ranges = {"m": (0.02, 15.0), "mm": (50.0, 20000.0)}
    return told_apart(farthest, ranges, "centre of pressure, 95th percentile", place)


TO_M_S2 = {"g": GRAVITY_M_S2, "m/s²": 1.0}
TO_RAD_S = {"rad/s": 1.0, "deg/s": np.pi / 180.0}
TO_M = {"m": 1.0, "mm": 0.001}
