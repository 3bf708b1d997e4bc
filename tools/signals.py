"""Signal processing that several commands share: units, zero-phase filters and interpolation."""

from __future__ import annotations

import numpy as np
from scipy import constants

TO_M_S2 = {"g": constants.g, "m/s²": 1.0}
TO_RAD_S = {"rad/s": 1.0, "deg/s": constants.degree}
BODY_WEIGHT_M_S2 = 9.8  # the paper's: body weight in N = 9.8 m/s² x mass in kg

ANTI_ALIASING_CUTOFF = 0.4  # of the new sampling rate: 80 Hz for 200 Hz
ANTI_ALIASING_ORDER = 8  # at 200 Hz, it leaves at most 1 % of what would alias to below 73 Hz

ROUNDING_S = 0.0005  # times are rounded to the millisecond or finer


def filter_zero_phase(
    values: np.ndarray,
    rate_hz: float,
    cutoff_hz: float | tuple[float, float],
    order: int = 4,
    padding: str = "odd",
) -> np.ndarray:
    """Apply a Butterworth filter forward and backward to every stretch without NaN.

    NaN stays where it is and does not affect its neighbors. The two passes together halve the
    amplitude at the cut-off.

    Args:
        values: samples `(n, c)`.
        rate_hz: their sampling rate.
        cutoff_hz: cut-off of a low-pass filter, or the two edges of a band-pass filter.
        order: order of the filter in each direction.
        padding: how a stretch is extended at its ends: `odd` (rotated about the last value) or
            `even` (mirrored; for signals that cannot be negative).
    """
    from scipy import signal  # slow to import

    values = np.asarray(values, dtype=float)
    kind = "bandpass" if isinstance(cutoff_hz, tuple) else "lowpass"
    sections = signal.butter(order, cutoff_hz, kind, fs=rate_hz, output="sos")
    longest_padding = 2 * int(np.ceil(rate_hz / np.min(cutoff_hz)))

    def apply(stretch: np.ndarray) -> np.ndarray:
        length = min(longest_padding, len(stretch) - 1)
        return signal.sosfiltfilt(sections, stretch, axis=0, padtype=padding, padlen=length)

    is_valid = np.isfinite(values)
    if is_valid.all():  # all columns at once
        return apply(values)
    result = np.full_like(values, np.nan)
    for column in range(values.shape[1]):
        for start, stop in find_runs(is_valid[:, column]):
            result[start:stop, column] = apply(values[start:stop, column : column + 1])[:, 0]
    return result


def find_runs(is_true: np.ndarray) -> np.ndarray:
    """Return the start and the stop `(runs, 2)` of each run of True in `(n,)`."""
    return np.flatnonzero(np.diff(is_true, prepend=False, append=False)).reshape(-1, 2)


def anti_alias(values: np.ndarray, rate_hz: float, new_rate_hz: float) -> np.ndarray:
    """Return `(n, c)` without the frequencies that a lower sampling rate cannot represent."""
    cutoff_hz = ANTI_ALIASING_CUTOFF * new_rate_hz
    return filter_zero_phase(values, rate_hz, cutoff_hz, ANTI_ALIASING_ORDER)


def interpolate(values: np.ndarray, time_s: np.ndarray, new_time_s: np.ndarray) -> np.ndarray:
    """Resample `values` at new times.

    If all new times coincide with samples, up to rounding, these samples are returned unchanged.
    Otherwise the values are interpolated linearly; they are NaN next to a NaN.

    Args:
        values: samples `(n, c)`.
        time_s: their increasing times `(n,)`.
        new_time_s: times `(m,)`.

    Returns:
        Array `(m, c)`.
    """
    after = np.clip(np.searchsorted(time_s, new_time_s), 1, len(time_s) - 1)
    is_nearer_before = new_time_s - time_s[after - 1] < time_s[after] - new_time_s
    nearest = after - is_nearer_before
    if np.abs(time_s[nearest] - new_time_s).max() <= ROUNDING_S:
        return values[nearest]
    weight = (new_time_s - time_s[after - 1]) / (time_s[after] - time_s[after - 1])
    weight = np.clip(weight, 0.0, 1.0)[:, None]
    return (1.0 - weight) * values[after - 1] + weight * values[after]
