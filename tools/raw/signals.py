"""Time axes, zero-phase filters and resampling; NaN stays where it is and reaches no neighbour."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import signal

from tools.raw import UnusableError

RATE_HZ = 200.0  # of the finished file

# Order of every Butterworth filter before it is run forth and back, which doubles the slope.
ORDER = 4
# 99 % of the power of the ground reaction of walking lies below 15 Hz (Antonsson and Mann 1985,
# J Biomech 18:39-47); the paper low-passes the forces and gives no cut-off.
FORCE_CUTOFF_HZ = 20.0
# The paper's band is 20-460 Hz; the download is band-passed to 20-400 Hz already.
EMG_BAND_HZ = (20.0, 400.0)
ENVELOPE_CUTOFF_HZ = 6.0  # the paper's
# Before a signal is thinned out to 200 Hz: a hundredth is left of what would fold back below 73 Hz.
ALIAS_CUTOFF_HZ = 80.0
ALIAS_ORDER = 8

RATE_TOLERANCE = 0.01
JITTER = 0.5  # of a sampling interval: a longer one is a gap
ROUNDING_S = 0.0005  # a `Header` is rounded to the millisecond or finer


def sampling_rate_hz(header_s: np.ndarray, expected_hz: float, place: str) -> float:
    """Return the rate of a table from its `Header`.

    Args:
        header_s: `(n,)` times in s. expected_hz: What it should be. place: The file, for errors.

    Raises:
        UnusableError: Times that are NaN, do not rise or leave a gap, or another rate.
    """
    if len(header_s) < 2:
        raise UnusableError("empty table", f"{place}: {len(header_s)} rows")
    steps_s = np.diff(header_s)
    if not np.isfinite(header_s).all() or (steps_s <= 0).any():
        row = int(np.flatnonzero(~(steps_s > 0))[0]) + 1
        raise UnusableError("non-monotonic Header", f"{place}: time does not rise at row {row}")
    rate_hz = 1.0 / float(np.median(steps_s))
    if abs(rate_hz / expected_hz - 1.0) > RATE_TOLERANCE:
        found = f"{rate_hz:g} Hz where {expected_hz:g} Hz belong"
        raise UnusableError("wrong sampling rate", f"{place}: {found}")
    if (steps_s > (1.0 + JITTER) / rate_hz).any():
        row = int(np.argmax(steps_s))
        raise UnusableError("gap in Header", f"{place}: {steps_s[row]:g} s after row {row}")
    return rate_hz


def common_grid(headers_s: dict[str, np.ndarray], anchor: str, place: str) -> np.ndarray:
    """Return the times `(n,)` in s, 200 Hz, at which all sensors have samples.

    Args:
        headers_s: Sensor to its times. anchor: The sensor at whose samples the grid lies.
        place: The trial, for errors.

    Raises:
        UnusableError: The sensors have less than a second in common.
    """
    start_s = max(header[0] for header in headers_s.values()) - ROUNDING_S
    stop_s = min(header[-1] for header in headers_s.values()) + ROUNDING_S
    grid_s = headers_s[anchor]
    grid_s = grid_s[(grid_s >= start_s) & (grid_s <= stop_s)]
    if len(grid_s) < RATE_HZ:
        detail = f"{place}: all are recorded at once for {len(grid_s) / RATE_HZ:g} s"
        raise UnusableError("sensors do not overlap", detail)
    return grid_s


def on_grid(values: np.ndarray, header_s: np.ndarray, grid_s: np.ndarray) -> np.ndarray:
    """Return `values` `(n, c)` at the times `grid_s` `(m,)`, as `(m, c)`.

    Samples that lie on the grid but for rounding are taken as they are, others are interpolated
    linearly; a time beside a NaN is NaN then.
    """
    after = np.clip(np.searchsorted(header_s, grid_s), 1, len(header_s) - 1)
    nearer_before = grid_s - header_s[after - 1] < header_s[after] - grid_s
    nearest = after - nearer_before
    if np.abs(header_s[nearest] - grid_s).max() <= ROUNDING_S:
        return values[nearest]
    weight = (grid_s - header_s[after - 1]) / (header_s[after] - header_s[after - 1])
    weight = np.clip(weight, 0.0, 1.0)[:, None]
    return (1.0 - weight) * values[after - 1] + weight * values[after]


def per_valid_stretch(
    values: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Apply `function` to every stretch without NaN of every column of `(n, c)`; NaN stays NaN."""
    values = np.asarray(values, dtype=float)
    result = np.full_like(values, np.nan)
    valid = np.isfinite(values)
    if valid.all():  # all columns at once
        return function(values)
    for column in range(values.shape[1]):
        bounds = np.flatnonzero(np.diff(valid[:, column], prepend=False, append=False))
        for start, stop in pairwise(bounds):
            if valid[start, column]:
                result[start:stop, column] = function(values[start:stop, column : column + 1])[:, 0]
    return result


def zero_phase(
    values: np.ndarray,
    rate_hz: float,
    cutoff_hz: float | tuple[float, float],
    order: int = ORDER,
    padding: str = "odd",
) -> np.ndarray:
    """Filter `(n, c)` forth and back with a Butterworth filter, each valid stretch by itself.

    Args:
        values: Samples; NaN splits a column into stretches. rate_hz: Their rate.
        cutoff_hz: Of a low-pass, or the two edges of a band-pass.
        order: Of the filter that is run twice; the two runs together leave half the amplitude at
            the cut-off.
        padding: How a stretch goes on beyond its ends while it is filtered: `odd`, turned about
            the last value, or `even`, mirrored, for what cannot be negative.
    """
    kind = "bandpass" if isinstance(cutoff_hz, tuple) else "lowpass"
    sections = signal.butter(order, cutoff_hz, kind, fs=rate_hz, output="sos")
    period = int(np.ceil(rate_hz / np.min(cutoff_hz)))  # the filter remembers about that long

    def run(stretch: np.ndarray) -> np.ndarray:
        length = min(2 * period, len(stretch) - 1)
        return signal.sosfiltfilt(sections, stretch, axis=0, padtype=padding, padlen=length)

    return per_valid_stretch(values, run)


def anti_aliased(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Take out of `(n, c)` what 200 Hz cannot hold."""
    return zero_phase(values, rate_hz, ALIAS_CUTOFF_HZ, ALIAS_ORDER)


def emg_envelope(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the envelope of raw EMG `(n, c)`: band-pass, rectify, low-pass; in its unit."""
    rectified = np.abs(zero_phase(values, rate_hz, EMG_BAND_HZ))
    smooth = zero_phase(rectified, rate_hz, ENVELOPE_CUTOFF_HZ, padding="even")
    return np.maximum(smooth, 0.0)
