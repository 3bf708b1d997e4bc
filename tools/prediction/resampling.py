"""Samples at any times become samples at the model's rate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline

from tools.raw.signals import ALIAS_ORDER, zero_phase

# A cut-off of 80 Hz for 200 Hz, as in `tools.raw.signals`: a hundredth is left of what would fold
# back below 73 Hz.
ALIAS_CUTOFF = 0.4  # of the model's rate
HIGHER = 1.02  # times the model's rate, from which a recording is low-passed; a clock may be off
LONGEST_GAP = 2.0  # sampling intervals that are no gap yet, however slow the recording
ROUNDING = 1e-6  # of a sampling interval, in the last time of a grid


def rate_of(time_s: np.ndarray) -> float:
    """Return the rate in Hz that rising times `(n,)` in s were most often taken at."""
    return 1.0 / float(np.median(np.diff(time_s)))


def stretches(time_s: np.ndarray, max_gap_s: float) -> list[slice]:
    """Split rising times where there is none for longer than `max_gap_s`, or two intervals.

    A single sample between two gaps is left out, since nothing can be interpolated from it.
    """
    longest_s = max(max_gap_s, LONGEST_GAP / rate_of(time_s))
    gaps = np.flatnonzero(np.diff(time_s) > longest_s) + 1
    bounds = [0, *gaps.tolist(), len(time_s)]
    return [slice(start, stop) for start, stop in pairwise(bounds) if stop - start > 1]


def resampled(
    time_s: np.ndarray, values: np.ndarray, own_hz: float, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return times `(m,)` in s, `rate_hz` apart from the first one on, and the values there.

    Values are interpolated by a cubic spline, which takes a sample that lies on a time as it is.
    Those of a higher rate go to regular times of that rate first, and are low-passed without a
    shift in time, so that nothing folds back.

    Args:
        time_s: `(n,)` rising, at least two, without a gap. values: `(n, c)` without NaN.
        own_hz: Rate of the recording. rate_hz: The wanted one.
    """
    grid_s = _regular(time_s, rate_hz)
    if own_hz > HIGHER * rate_hz:
        count = max(round((time_s[-1] - time_s[0]) * own_hz) + 1, 2)
        own_s = np.linspace(time_s[0], time_s[-1], count)
        values = CubicSpline(time_s, values)(own_s)
        values = zero_phase(values, own_hz, ALIAS_CUTOFF * rate_hz, ALIAS_ORDER)
        time_s = own_s
    return grid_s, CubicSpline(time_s, values)(grid_s)


def _regular(time_s: np.ndarray, rate_hz: float) -> np.ndarray:
    count = int((time_s[-1] - time_s[0]) * rate_hz + ROUNDING) + 1
    return time_s[0] + np.arange(count) / rate_hz
