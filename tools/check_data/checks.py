"""Implausible values: wrong units, dead channels, zeros for missing data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import h5py
import numpy as np

import Dataset_B_sensor_distillation as script_b
from common.files import shorten
from tools.check_data.layout import LOADED_BW, Layout, Part
from tools.plausibility import (
    Trial,
    check_accelerometers,
    check_gyroscopes,
    check_held,
    check_outliers,
    check_sentinels,
    percentile,
    summarize_trial,
)

# Of a loaded foot; 0.85 to 0.95 in level walking, with double support.
MEDIAN_LOAD_BW = (0.6, 1.2)
MOMENT_RANGES = {"BW·BH": (0.005, 0.5), "%BW·BH": (0.3, 30.0)}  # 99th percentile of the magnitude
TALLEST_M = 3.0


def check_subject(layout: Layout, parts: Sequence[Part]) -> Iterator[str]:
    """Yield a message for each implausible finding in the data of one subject."""
    script = layout.script
    for part in parts:
        yield from _check_trial_starts(part.activity, part.table)
        if part.activity and not len(part.trial):
            yield f"{part.activity}: no samples"
    columns, samples = (
        {name: np.concatenate([p[name] for p in of_parts]) for name in of_parts[0]}
        for of_parts in ([part.columns for part in parts], [part.samples for part in parts])
    )
    if not len(samples["targets"]):
        yield "no samples"
        return
    for group, names in script.COLUMNS.items():
        yield from check_sentinels(names, columns[group])
    yield from _check_channels(layout, samples)
    yield from check_accelerometers(script.SENSORS, samples["acc"])
    gyr_unit = script.UNITS["gyr"]
    imus = samples["acc"], samples["gyr"]
    yield from check_gyroscopes(script.SENSORS, *imus, gyr_unit)
    yield from check_outliers(script.SENSORS, *imus, gyr_unit)
    for part in parts:
        imus = part.samples["acc"], part.samples["gyr"]
        where = partial(_locate, part, script.RATE_HZ)
        for problem in check_held(script.SENSORS, *imus, script.RATE_HZ, where):
            yield f"{part.activity}: {problem}" if part.activity else problem
    if layout.vertical is not None:
        yield from _check_forces(layout, samples["targets"])
    if layout.stance_moment is not None:
        for part in parts:
            yield from _check_zero_forces(layout, part)
    yield from _check_moments(layout, samples["targets"])
    if script.UNITS.get("emg") == "1":
        yield from _check_envelopes(samples["emg"])
    if layout.is_b:
        height_m = np.fmax.reduce(columns["body height"], axis=None)
        if height_m > TALLEST_M:
            yield f"body height: {height_m:g} m; in cm?"
        yield from _check_joints(columns["video"])


def _check_trial_starts(activity: str, table: h5py.Dataset) -> Iterator[str]:
    starts = table.attrs.get("trial_starts", []) if activity else []
    outside = [int(start) for start in starts if not 0 <= start < len(table)]
    if outside:
        yield (
            f"{activity}: `trial_starts` has {shorten(outside, 40)}, but the table has "
            f"{len(table):,} samples; were they counted at another sampling rate?"
        )


def _check_channels(layout: Layout, samples: Mapping[str, np.ndarray]) -> Iterator[str]:
    channels = {modality: layout.script.COLUMNS[modality] for modality in layout.script.UNITS}
    channels["targets"] = [target.name for target in layout.script.TARGETS]
    for modality, names in channels.items():
        values = samples[modality]
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        for name, least, largest in zip(names, low, high, strict=True):
            if np.isnan(least):
                yield f"{name}: nothing but NaN"
            elif np.isinf(least) or np.isinf(largest):
                yield f"{name}: infinite values, divided by 0"
            elif least == largest and name not in layout.zero_channels:
                yield f"{name}: constant, {least + 0.0:g}"


def _locate(part: Part, rate_hz: float, sample: int) -> str:
    """Return the time of a sample within its trial or step."""
    first = int(np.searchsorted(part.trial, part.trial[sample]))
    unit, number = ("trial", 0) if part.activity else ("step", 1)  # steps are counted from 1
    return f"{(sample - first) / rate_hz:.3f} s of {unit} {part.trial[sample] + number}"


def summarize_trials(layout: Layout, subject: str, parts: Sequence[Part]) -> Iterator[Trial]:
    """Yield the trials of a subject for `compare_trials`; in Dataset B all steps as one."""
    script = layout.script
    units = [target.unit for target in script.TARGETS]
    for part in parts:
        starts = np.flatnonzero(np.diff(part.trial, prepend=-1)) if part.activity else [0]
        for start, stop in pairwise([*starts, len(part.trial)]):
            signals = [part.samples[name][start:stop] for name in ("acc", "gyr", "targets")]
            name = f"{part.activity}, trial {part.trial[start]}" if part.activity else "all steps"
            yield summarize_trial(subject, name, script.SENSORS, *signals, units)


def _check_forces(layout: Layout, targets: np.ndarray) -> Iterator[str]:
    names = [target.name for target in layout.script.TARGETS]
    forces = targets[:, layout.forces]
    is_loaded = np.linalg.norm(forces, axis=1) > LOADED_BW
    if not is_loaded.any():
        largest = percentile(np.linalg.norm(forces, axis=1), 100)
        yield (
            f"ground reaction: the foot is never loaded, at most {largest:.3g} BW; in kN, or "
            "divided by body weight twice?"
        )
        return
    medians = np.median(np.abs(forces[is_loaded]), axis=0)
    largest = layout.forces[int(np.argmax(medians))]
    median = float(np.median(targets[is_loaded, layout.vertical]))
    vertical = names[layout.vertical]
    if largest != layout.vertical:
        yield f"ground reaction: {names[largest]} is the largest, not {vertical}; axes swapped?"
    elif not MEDIAN_LOAD_BW[0] <= median <= MEDIAN_LOAD_BW[1]:
        yield f"{vertical}: median of the loaded foot {median:.3g}, far from a body weight"


def _check_zero_forces(layout: Layout, part: Part) -> Iterator[str]:
    """Yield the trials or steps with a moment of the stance phase but no force."""
    targets, (_, starts) = part.samples["targets"], np.unique(part.trial, return_index=True)
    if not len(targets):
        return
    moment = np.abs(targets[:, layout.stance_moment])
    largest_force = np.fmax.reduceat(np.abs(targets[:, layout.forces]).max(axis=1), starts)
    largest_moment = np.fmax.reduceat(moment, starts)
    is_bad = (largest_force == 0) & (largest_moment > layout.stance_moment_size)
    if is_bad.any():
        target = layout.script.TARGETS[layout.stance_moment]
        trials = part.trial[starts[is_bad]] + (0 if part.activity else 1)  # counted from 1
        where = f"{part.activity}, trial" if part.activity else "step"
        yield (
            f"ground reaction: exactly 0 in {where} {shorten(', '.join(map(str, trials)), 60)}, "
            f"although the {target.name} reaches {largest_moment[is_bad].max():.3g} {target.unit}"
        )


def _check_moments(layout: Layout, targets: np.ndarray) -> Iterator[str]:
    for k, target in enumerate(layout.script.TARGETS):
        size = percentile(np.abs(targets[:, k]), 99)
        low, high = MOMENT_RANGES.get(target.unit, (0, np.inf))
        if not np.isnan(size) and not low <= size <= high:
            yield (
                f"{target.name}: 99th percentile of its magnitude {size:.3g} {target.unit}, "
                f"expected {low:g} to {high:g}; divided by body weight x height?"
            )


def _check_envelopes(emg: np.ndarray) -> Iterator[str]:
    low, high = float(np.fmin.reduce(emg, axis=None)), float(np.fmax.reduce(emg, axis=None))
    if low < -0.01 or high > 1.01:
        yield (
            f"EMG: from {low:.3g} to {high:.3g}; an envelope divided by its maximum is from 0 to 1"
        )


def _check_joints(video: np.ndarray) -> Iterator[str]:
    """Yield the joints that pose estimation did not find: it then writes 0 as their coordinates."""
    joints = video.reshape(len(video), len(script_b.JOINTS), len(script_b.VIEWS))
    for joint, is_zero in zip(script_b.JOINTS, np.moveaxis(joints == 0, 1, 0), strict=True):
        if is_zero.any():
            affected = [script_b.VIEWS[i] for i in np.flatnonzero(is_zero.any(axis=0))]
            where = "all views" if affected == [*script_b.VIEWS] else ", ".join(affected)
            percent = 100 * is_zero.any(axis=1).mean()
            yield (
                f"video joint {joint}: exactly 0 in {where} in {percent:.3g} % of the samples; "
                "replace the coordinates of a joint that was not found with NaN"
            )
