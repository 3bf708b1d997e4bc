"""Checks of IMU signals that several commands share; each yields one message per problem.

Signals are `(samples, C)` arrays with three channels per sensor; NaN is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAVITY_M_S2 = 9.8
# In walking, the median norm of an accelerometer is 9.8 (trunk) to 12.5 m/s² (shank).
RESTING_NORM_M_S2 = (7.0, 16.0)
# A foot in swing turns at 5 to 10 rad/s, 300 to 600 deg/s: these limits tell the two units apart.
FASTEST_RAD_S, SLOWEST_DEG_S = 25.0, 30.0
FROZEN_S = 1.0
SENTINELS = (999.0, 9999.0, 99999.0)  # common codes for missing values, with either sign
SENTINEL_GAP = 0.9  # all other values of the column are below this fraction of a sentinel


def check_accelerometers(
    sensors: Sequence[str], acc: np.ndarray, limits_m_s2: tuple[float, float] = RESTING_NORM_M_S2
) -> Iterator[str]:
    """Yield a message for each accelerometer whose median norm is far from gravity.

    Args:
        sensors: names of the sensors.
        acc: `(samples, 3 * sensors)` in m/s².
        limits_m_s2: smallest and largest plausible median norm.
    """
    for sensor, norm in zip(sensors, _norms(sensors, acc), strict=True):
        median = percentile(norm, 50)
        if not limits_m_s2[0] <= median <= limits_m_s2[1] and not np.isnan(median):
            hint = "; in g?" if 0.7 <= median <= 1.6 else ""
            yield (
                f"accelerometer {sensor}: median norm {median:.3g} m/s², far from "
                f"{GRAVITY_M_S2}{hint}"
            )


def check_gyroscopes(sensors: Sequence[str], gyr: np.ndarray, unit: str) -> Iterator[str]:
    """Yield a message for each gyroscope too fast for rad/s, or one if all are too slow for deg/s.

    Args:
        sensors: names of the sensors.
        gyr: `(samples, 3 * sensors)` in `unit`.
        unit: `rad/s` or `deg/s`.
    """
    fast = [percentile(norm, 99) for norm in _norms(sensors, gyr)]
    if unit == "rad/s":
        for sensor, speed in zip(sensors, fast, strict=True):
            if speed > FASTEST_RAD_S:
                yield f"gyroscope {sensor}: 99th percentile {speed:.3g} rad/s; in deg/s?"
    elif np.nanmax([*fast, 0.0]) < SLOWEST_DEG_S:
        yield f"gyroscopes: 99th percentile at most {np.nanmax([*fast, 0.0]):.3g} deg/s; in rad/s?"


def check_frozen(
    sensors: Sequence[str], acc: np.ndarray, gyr: np.ndarray, rate_hz: float
) -> Iterator[str]:
    """Yield one message that names the IMUs with all six channels frozen for a second or more.

    Args:
        sensors: names of the sensors.
        acc: consecutive samples `(samples, 3 * sensors)`.
        gyr: the same samples of the gyroscopes.
        rate_hz: sampling rate.
    """
    frozen = []
    for i, sensor in enumerate(sensors):
        axes = slice(3 * i, 3 * i + 3)
        start, length = longest_constant_run(np.hstack([acc[:, axes], gyr[:, axes]]))
        if length >= FROZEN_S * rate_hz:
            frozen.append(f"{sensor} ({length / rate_hz:.3g} s from sample {start})")
    if frozen:
        yield f"frozen IMU, all six channels constant: {', '.join(frozen)}"


def longest_constant_run(values: np.ndarray) -> tuple[int, int]:
    """Return the first sample and the length of the longest run of equal samples `(samples, C)`."""
    is_same = (values[1:] == values[:-1]).all(axis=1)
    edges = np.flatnonzero(np.diff(is_same, prepend=False, append=False))
    starts, lengths = edges[::2], edges[1::2] - edges[::2] + 1
    if not len(lengths):
        return 0, 1
    longest = int(np.argmax(lengths))
    return int(starts[longest]), int(lengths[longest])


def check_sentinels(names: Sequence[str], values: np.ndarray) -> Iterator[str]:
    """Yield a message for each column that seems to code missing values as a number such as -9999.

    The number counts only if all other values of the column are clearly smaller, because a
    coordinate in pixels may happen to be 999.

    Args:
        names: names of the columns.
        values: `(samples, len(names))`.
    """
    magnitudes = np.abs(values)
    is_large = (magnitudes >= SENTINELS[0]).any(axis=0)
    for i in np.flatnonzero(is_large):
        is_sentinel = np.isin(magnitudes[:, i], SENTINELS)
        found = np.unique(values[is_sentinel, i])
        largest = np.fmax.reduce(magnitudes[~is_sentinel, i], initial=0.0)
        found = [f"{value:g}" for value in found if largest < SENTINEL_GAP * abs(value)]
        if found:
            percent = 100 * is_sentinel.mean()
            yield (
                f"{names[i]}: {' and '.join(found)} in {percent:.3g} % of the samples; if "
                "it marks missing values, replace it with NaN"
            )


def percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile of the finite values, NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if len(values) else np.nan


def _norms(sensors: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return the norm of each sensor's vector, `(sensors, samples)`."""
    return np.linalg.norm(values.reshape(len(values), len(sensors), 3), axis=2).T
