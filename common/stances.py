"""Stances: the contacts of a foot with the ground, found in its vertical ground reaction force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

CONTACT_BW = 0.05  # a foot with more vertical force is in contact
RELEASE_BW = 0.025  # a contact has ended once the force falls below it (hysteresis)
DURATION_S = (0.3, 1.5)  # of a stance, from its first to its last sample
POINTS = 101  # of a resampled stance, 0 to 100 %
MEASURES = ("maximum", "maximum_percent", "minimum", "minimum_percent", "impulse")
NO_VERTICAL_FORCE = (
    "No stance results: no entry of TARGETS has the unit BW and `vertical` in its name."
)


def vertical_force(targets: Sequence[tuple[str, str]]) -> int | None:
    """Return the index of the vertical force: the target in BW with "vertical" in its name.

    Args:
        targets: name and unit of each target.
    """
    found = (k for k, (name, unit) in enumerate(targets) if unit == "BW" and "vertical" in name)
    return next(found, None)


def find_stances(force_bw: np.ndarray, stretch: np.ndarray, rate_hz: float) -> np.ndarray:
    """Find the complete stances of 0.3 to 1.5 s.

    A stance lasts from the first to the last sample above 0.05 BW. Noise about this threshold does
    not split it: between two stances, the force falls below 0.025 BW. Stances that begin or end
    together with their stretch are cut off and do not count.

    Args:
        force_bw: measured vertical force `(samples,)` in body weights, without NaN. Every sample
            occurs once; of overlapping windows, those of `Windows.is_scored`.
        stretch: `(samples,)` number of the stretch.
        rate_hz: sampling rate.

    Returns:
        First sample of each stance, and the one after its last, `(stances, 2)`.
    """
    is_loaded = force_bw > RELEASE_BW
    is_new = (np.diff(stretch) != 0) | np.diff(is_loaded)
    bounds = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(force_bw)]
    shortest, longest = (seconds * rate_hz for seconds in DURATION_S)
    stances = []
    for start, stop in pairwise(bounds):
        is_whole = 0 < start < stop < len(force_bw)
        if is_whole and is_loaded[start] and stretch[start - 1] == stretch[stop]:
            contact = start + np.flatnonzero(force_bw[start:stop] > CONTACT_BW)
            if len(contact) and shortest <= contact[-1] - contact[0] <= longest:
                stances.append((contact[0], contact[-1] + 1))
    return np.array(stances, int).reshape(-1, 2)


class MeanCurves(NamedTuple):
    """Mean and SD over the stances of a row, 0 to 100 % of stance.

    Attributes:
        targets: name and unit of each target.
        truth: mean and SD of the true values, `(101, K)` each.
        estimates: mean and SD of the estimates, `(101, K)` each.
        count: number of stances; without any, the curves are NaN.
    """

    targets: Sequence[tuple[str, str]]
    truth: tuple[np.ndarray, np.ndarray]
    estimates: tuple[np.ndarray, np.ndarray]
    count: int


def find_in(
    arrays: Mapping[str, np.ndarray], targets: Sequence[tuple[str, str]], rate_hz: float
) -> np.ndarray:
    """Return the stances in the measured force of a file in `predictions/`, `(stances, 2)`.

    Args:
        arrays: `truth`, `(samples, K)`, and `stretch`, `(samples,)`.
        targets: name and unit of each target; without a vertical force, there are no stances.
        rate_hz: sampling rate.
    """
    vertical = vertical_force(targets)
    if vertical is None:
        return np.empty((0, 2), int)
    return find_stances(arrays["truth"][:, vertical], arrays["stretch"], rate_hz)


def in_stance(stances: np.ndarray, samples: int) -> np.ndarray:
    """Return a mask `(samples,)` of the samples in a stance `(stances, 2)`."""
    mask = np.zeros(samples, bool)
    for start, stop in stances:
        mask[start:stop] = True
    return mask


def resample(values: np.ndarray, stances: np.ndarray) -> np.ndarray:
    """Interpolate values `(samples, K)` linearly at 0, 1 ... 100 % of each stance.

    Returns:
        `(stances, 101, K)` float32.
    """
    curves = np.empty((len(stances), POINTS, values.shape[1]), np.float32)
    for curve, (start, stop) in zip(curves, stances, strict=True):
        place = np.linspace(start, stop - 1, POINTS)
        before = np.minimum(place.astype(int), stop - 2)
        weight = (place - before)[:, None]
        curve[:] = (1 - weight) * values[before] + weight * values[before + 1]
    return curves


def mean_curves(
    files: Iterable[Mapping[str, np.ndarray]],
    targets: Sequence[tuple[str, str]],
    rate_hz: float,
    activity: str | None = None,
) -> MeanCurves:
    """Return mean and SD over all stances of a row's test subjects.

    Args:
        files: arrays of each test subject, as in `predictions/`.
        targets: name and unit of each target.
        rate_hz: sampling rate.
        activity: only stances of this activity; None for all.
    """
    curves: dict[str, list[np.ndarray]] = {"truth": [], "prediction": []}
    for arrays in files:
        found = find_in(arrays, targets, rate_hz)
        if activity is not None:
            found = found[arrays["activity"][found[:, 0]] == activity]
        for kind, parts in curves.items():
            parts.append(resample(arrays[kind], found))
    truth, estimates = (np.concatenate(parts) for parts in curves.values())
    return MeanCurves(targets, mean_and_sd(truth), mean_and_sd(estimates), len(truth))


def mean_and_sd(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sample SD of curves `(stances, 101, K)`; the SD of a single one is 0."""
    if not len(curves):
        return tuple(np.full((2, *curves.shape[1:]), np.nan))
    return curves.mean(axis=0), curves.std(axis=0, ddof=min(1, len(curves) - 1))


def measure(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the `MEASURES` of one stance `(samples, K)`, not resampled.

    Maximum and minimum are in the unit of the target, their times in % of the stance. The impulse
    is the integral over the stance (trapezoidal rule), in the unit of the target times seconds.

    Returns:
        `(K, 5)`.
    """
    percent = 100 / (len(values) - 1)
    high, low = values.argmax(axis=0), values.argmin(axis=0)
    impulse = trapezoid(values, dx=1 / rate_hz, axis=0)
    found = values.max(axis=0), percent * high, values.min(axis=0), percent * low, impulse
    return np.stack(found, axis=-1)


def stance_table(
    arrays: Mapping[str, np.ndarray],
    stances: np.ndarray,
    targets: Sequence[tuple[str, str]],
    rate_hz: float,
) -> pd.DataFrame:
    """Return a line per stance and target.

    Args:
        arrays: `truth` and `prediction`, `(samples, K)`; `activity` and `stretch`, `(samples,)`.
        stances: the stances, as `find_stances` returns them.
        targets: name and unit of each target.
        rate_hz: sampling rate.

    Returns:
        Columns `activity`, `stance` (from 1), `stretch` (as in `arrays`), `start_s` (from the start
        of the stretch), `duration_s`, `target`, `unit`, and `measured_` and `estimated_` for each
        of `MEASURES`.
    """
    starts, stops = stances.T
    stretch = arrays["stretch"]
    places = {
        "activity": arrays["activity"][starts],
        "stance": np.arange(1, len(stances) + 1),
        "stretch": stretch[starts],
        "start_s": (starts - np.searchsorted(stretch, stretch[starts])) / rate_hz,
        "duration_s": (stops - 1 - starts) / rate_hz,
    }
    table = pd.DataFrame(places).loc[np.repeat(np.arange(len(stances)), len(targets))]
    table = table.reset_index(drop=True)
    for column, part in zip(("target", "unit"), zip(*targets, strict=True), strict=True):
        table[column] = np.tile(part, len(stances))
    for kind, name in (("measured", "truth"), ("estimated", "prediction")):
        values = arrays[name].astype(float)
        found = [measure(values[start:stop], rate_hz) for start, stop in stances]
        columns = [f"{kind}_{measure_name}" for measure_name in MEASURES]
        table[columns] = np.reshape(found, (-1, len(MEASURES)))
    return table
