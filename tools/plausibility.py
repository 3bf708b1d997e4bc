"""Doubts about accelerometers and gyroscopes: wrong units, missing gravity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAVITY_M_S2 = 9.8
# In walking the median norm of an accelerometer is 9.8 (trunk) to 12.5 m/s² (shank).
ACC_LIMITS_M_S2 = (7.0, 16.0)
# A foot in swing rotates at 5 to 10 rad/s, 300 to 600 deg/s: one limit separates the two units.
FASTEST_RAD_S, SLOWEST_DEG_S = 25.0, 30.0


def accelerometers(
    sensors: Sequence[str], acc: np.ndarray, limits: tuple[float, float] = ACC_LIMITS_M_S2
) -> Iterator[str]:
    """Yield a line for each accelerometer whose median norm is far from gravity.

    Args:
        sensors: names of the sensors.
        acc: `(samples, 3 * sensors)` in m/s².
        limits: lowest and highest plausible median norm in m/s².
    """
    for sensor, norm in zip(sensors, _norms(sensors, acc).T, strict=True):
        median = _percentile(norm, 50)
        if not limits[0] <= median <= limits[1] and not np.isnan(median):
            hint = "; in g?" if 0.7 <= median <= 1.6 else ""
            yield (
                f"accelerometer {sensor}: median norm {median:.3g} m/s², far from "
                f"{GRAVITY_M_S2}{hint}"
            )


def gyroscopes(sensors: Sequence[str], unit: str, gyr: np.ndarray) -> Iterator[str]:
    """Yield a line for each doubt about the unit of gyroscopes.

    Args:
        sensors: names of the sensors.
        unit: `rad/s` or `deg/s`.
        gyr: `(samples, 3 * sensors)` in that unit.
    """
    speeds = [_percentile(norm, 99) for norm in _norms(sensors, gyr).T]
    if unit == "rad/s":
        for sensor, speed in zip(sensors, speeds, strict=True):
            if speed > FASTEST_RAD_S:
                yield f"gyroscope {sensor}: 99th percentile {speed:.3g} rad/s; in deg/s?"
    elif np.nanmax([*speeds, 0.0]) < SLOWEST_DEG_S:
        fastest = np.nanmax([*speeds, 0.0])
        yield f"gyroscopes: 99th percentile at most {fastest:.3g} deg/s; in rad/s?"


def _norms(sensors: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return the norms `(samples, sensors)` of the sensors' vectors."""
    return np.linalg.norm(values.reshape(len(values), len(sensors), 3), axis=2)


def _percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile of the finite values, NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if len(values) else np.nan
