"""Recordings with a line per sensor: each sensor has lines, and often a rate, of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

COMPLETE_SHARE = 0.5  # of the lines of the slowest sensor that have all others, too


def sort_events(table: pd.DataFrame, time: str, inputs: Sequence[str]) -> pd.DataFrame:
    """Sort the lines of sensors that were logged one after the other, and join equal times.

    Only if no line has all inputs, times are numbers, and those of each input increase.

    Args:
        table: the columns of the file.
        time: name of the time column.
        inputs: names of the columns of the sensors.
    """
    is_present = table[[*inputs]].notna().to_numpy()
    times = table[time]
    if is_present.all(axis=1).any() or not pd.api.types.is_numeric_dtype(times):
        return table
    for column in is_present.T:
        if not (np.diff(times[column]) > 0).all():
            return table
    table = table[times.notna()].sort_values(time, kind="stable")
    if not table[time].duplicated().any():
        return table
    first = table.index[~table[time].duplicated().to_numpy()]
    return table.groupby(time).first().reset_index()[[*table]].set_index(first)


def align_sensors(
    time_s: np.ndarray, values: np.ndarray, inputs: int, max_gap_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate sensors that have lines of their own at the times of the fastest one.

    Args:
        time_s: `(n,)` increasing times.
        values: `(n, c)`, NaN in the lines of other sensors.
        inputs: number of the first columns that belong to sensors; the others are interpolated
            linearly instead of with a cubic spline.
        max_gap_s: longest interval that is interpolated, at least two of a sensor's own.

    Returns:
        The lines to use `(m,)` and the values there `(m, c)`; all lines and the same values if most
        lines have all sensors.
    """
    from scipy.interpolate import CubicSpline  # slow to import

    is_present = np.isfinite(values)
    counts = is_present[:, :inputs].sum(axis=0)
    complete = is_present[:, :inputs].all(axis=1).sum()
    if counts.min() < 2 or complete >= COMPLETE_SHARE * counts.min():
        return np.arange(len(values)), values
    lines = np.flatnonzero(is_present[:, int(np.argmax(counts))])
    aligned = values[lines]
    for k in range(values.shape[1]):
        own = np.flatnonzero(is_present[:, k])
        if len(own) < 2 or is_present[lines, k].all():
            continue
        own_s, new_s = time_s[own], time_s[lines]
        if k < inputs:
            aligned[:, k] = CubicSpline(own_s, values[own, k])(new_s)
        else:
            aligned[:, k] = np.interp(new_s, own_s, values[own, k])
        intervals_s = np.diff(own_s)
        after = np.clip(np.searchsorted(own_s, new_s), 1, len(intervals_s))
        is_gap = intervals_s[after - 1] > max(max_gap_s, 2 * float(np.median(intervals_s)))
        is_exact = is_present[lines, k]
        is_outside = (new_s < own_s[0]) | (new_s > own_s[-1])
        aligned[(is_gap & ~is_exact) | is_outside, k] = np.nan
    return lines, aligned
