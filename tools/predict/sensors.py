"""Doubts about the sensors of a recording: faulty channels, wrong units, sensors or axes.

Faults are looked for in the channels as recorded. The other checks compare the recording with the
mean and the variance of each channel in training, which the norm of the network's inputs holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from tools.plausibility import (
    FROZEN_S,
    GRAVITY_M_S2,
    check_accelerometers,
    check_gyroscopes,
    check_sentinels,
    longest_constant_run,
)
from tools.predict.recording import Samples, input_columns
from tools.trained import Trained

CLIPPED_SHARE = 0.005  # of the samples at an extreme value ...
CLIPPED_RATIO = 5.0  # ... times as many as at a value next to it
FEWEST_LEVELS = 20  # a channel with fewer values is noise of the last bit
ACC_LIMITS_M_S2 = (4.0, 40.0)  # of the median norm: wide, since a recording may be all running
# Ratios to the training. `found` is the range over one subject against the others, any activity and
# 3 s or more, in synthetic data (21 subjects of A, 18 of B) and the measured example of Dataset B.
MEAN_RATIO = (0.5, 2.0)  # of the mean acceleration; found: 0.8 to 1.3, in fast walking 1.5
MOST_TILT_DEGREES = 45.0  # found: 19
SPREAD_RATIO = (0.25, 4.0)  # of the SD of a sensor, relative to the others; found: 0.29 to 2.4
MOVEMENT_RATIO = (0.1, 6.0)  # of the SD of most sensors; found: 0.3 to 1.7
AXIS_GAIN = 0.3  # of the cosine between the SDs of the axes, by exchanging axes; found: 0.21
RMS_RATIO = (0.1, 10.0)  # of EMG and video
NEGLIGIBLE = 1e-3  # SD of a channel that is constant in training, up to rounding


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, `(C,)`."""

    mean: np.ndarray
    sd: np.ndarray


def find_doubts(trained: Trained, samples: Samples) -> list[str]:
    """Return the doubts about the recording of a network's inputs, one line each."""
    inputs = torch.cat(trained.inputs(samples.values), dim=-1).numpy()
    names = input_columns(trained)[: inputs.shape[1]]  # the others are not channels
    imu_channels = 6 * len(trained.sensor_set.sensors)
    in_training = training_statistics(trained, len(names))
    is_constant = in_training.sd < NEGLIGIBLE if in_training else np.zeros(len(names), bool)
    recorded = samples.recorded[:, : len(names)]
    doubts, faulty = [], set()
    for i, name in enumerate(names):
        for doubt in check_sentinels([name], recorded[:, i : i + 1]):
            faulty.add(i)
            doubts.append(doubt)
    checked = [i for i in range(len(names)) if i not in faulty and not is_constant[i]]
    for channels, fault in _faults(recorded, samples.recorded_hz, checked, imu_channels):
        faulty.update(channels)
        sd = f" (SD {in_training.sd[channels[0]]:.3g} in training)" if in_training else ""
        listed = ", ".join(names[i] for i in channels)
        doubts.append(f"{listed}{sd if len(channels) == 1 else ''}: {fault}")
    inputs = inputs[samples.stretch >= 0].astype(np.float64)
    return doubts + list(_differences(trained, names, inputs, in_training, faulty))


def training_statistics(trained: Trained, channels: int) -> Statistics | None:
    """Return the statistics of the training, or None if the network does not hold them.

    The norm starts at mean 0 and variance 1, and moves towards each batch by a tenth; that start is
    removed, which matters after a few batches only.
    """
    means, variances = [], []
    for norm in trained.network.modules():
        if not isinstance(norm, nn.BatchNorm1d) or norm.affine or len(means) == channels:
            continue
        start = (1 - norm.momentum) ** int(norm.num_batches_tracked)
        if start == 1:  # not trained
            return None
        means += (norm.running_mean.double() / (1 - start)).tolist()
        variances += ((norm.running_var.double() - start) / (1 - start)).tolist()
    if len(means) != channels:  # a norm of handcrafted features
        return None
    return Statistics(np.array(means), np.sqrt(np.maximum(variances, 0)))


# Faults of channels -------------------------------------------------------------------------------


def _faults(
    values: np.ndarray, rate_hz: float, checked: Sequence[int], imu_channels: int
) -> Iterator[tuple[list[int], str]]:
    """Yield channels and their common fault.

    Args:
        values: `(samples, C)`, as recorded.
        rate_hz: their rate.
        checked: numbers of the channels to check.
        imu_channels: number of the channels, from the first one on, that belong to IMUs.
    """
    constant: dict[tuple[int, int], list[int]] = {}
    for i in checked:
        start, length = longest_constant_run(values[:, [i]])
        if length == len(values) or (i < imu_channels and length >= FROZEN_S * rate_hz):
            constant.setdefault((start, length), []).append(i)
    for (start, length), channels in constant.items():
        levels = ", ".join(f"{value:g}" for value in values[start, channels])
        is_whole = length == len(values)
        when = "throughout" if is_whole else f"for {length / rate_hz:.3g} s from sample {start}"
        yield channels, f"constant ({levels}) {when}; dead or frozen?"
    frozen = {i for channels in constant.values() for i in channels}
    for i in checked:
        extremes, share = _clipping(values[:, i]) if i < imu_channels else ([], 0.0)
        if extremes and i not in frozen:
            levels = " and ".join(f"{value:g}" for value in extremes)
            fault = f"clipped at {levels}, {100 * share:.2g} % of the samples; set a larger range"
            yield [i], fault


def _clipping(channel: np.ndarray) -> tuple[list[float], float]:
    """Return the extreme values at which samples pile up, and the share of samples there."""
    levels, counts = np.unique(channel[np.isfinite(channel)], return_counts=True)
    if len(levels) < FEWEST_LEVELS:
        return [], 0.0
    clipped = [
        extreme
        for extreme, next_to_it in ((0, slice(1, 11)), (-1, slice(-11, -1)))
        if counts[extreme] >= max(5, CLIPPED_SHARE * len(channel))
        and counts[extreme] >= CLIPPED_RATIO * counts[next_to_it].mean()
    ]
    return levels[clipped].tolist(), float(counts[clipped].sum() / len(channel))


# Differences from the training --------------------------------------------------------------------


def _differences(
    trained: Trained,
    names: Sequence[str],
    inputs: np.ndarray,
    in_training: Statistics | None,
    faulty: set[int],
) -> Iterator[str]:
    """Yield what is implausible in the inputs `(samples, C)`, or unlike the training."""
    sensors = trained.sensor_set.sensors
    count = len(sensors)
    gyr_unit = trained.script.UNITS["gyr"]
    acc, gyr = np.split(inputs[:, : 6 * count], 2, axis=1)
    implausible = set(faulty)
    for k, sensor in enumerate(sensors):
        axes = acc[:, 3 * k : 3 * k + 3]
        for doubt in check_accelerometers([sensor], axes, ACC_LIMITS_M_S2):
            implausible.add(3 * k)
            median = np.median(np.linalg.norm(axes, axis=1))
            has_gravity = np.linalg.norm(axes.mean(axis=0)) > 0.5 * median
            yield f"{doubt}; {'see --acc-unit' if has_gravity else 'gravity removed?'}"
    for doubt in check_gyroscopes(sensors, gyr, gyr_unit):
        implausible.update(range(3 * count, 6 * count))
        yield f"{doubt}; see --gyr-unit"
    if in_training is None:
        return
    compared = []
    for first in range(0, 6 * count, 3):  # three axes each: the accelerometers, the gyroscopes
        channels = slice(first, first + 3)
        if implausible.isdisjoint(range(first, first + 3)):
            doubt = "" if first >= 3 * count else _compare_means(inputs, in_training, channels)
            if doubt:
                yield f"{', '.join(names[channels])}: {doubt}"
            else:
                compared.append(first)
    for first, doubt in _compare_spreads(inputs, in_training, compared, sensors, gyr_unit):
        yield f"{', '.join(names[first : first + 3])}: {doubt}"
    for i in range(6 * count, len(names)):
        seen = float(np.sqrt(np.mean(inputs[:, i] ** 2)))
        known = float(np.hypot(in_training.mean[i], in_training.sd[i]))
        if known > NEGLIGIBLE and i not in faulty and not _is_within(seen / known, RMS_RATIO):
            yield f"{names[i]}: RMS {seen:.3g}, but {known:.3g} in training; another unit?"


def _compare_means(inputs: np.ndarray, in_training: Statistics, channels: slice) -> str:
    """Return how the mean of an accelerometer, mostly gravity, differs from the training."""
    mean, known = inputs[:, channels].mean(axis=0), in_training.mean[channels]
    seen, expected = np.linalg.norm(mean), np.linalg.norm(known)
    if expected < 0.5 * GRAVITY_M_S2:  # trained without gravity
        return ""
    if not _is_within(seen / expected, MEAN_RATIO):
        cause = "gravity removed?" if seen < expected else "another range or unit?"
        return f"mean acceleration {seen:.2g} m/s², but {expected:.3g} in training; {cause}"
    tilt = np.degrees(np.arccos(np.clip(mean @ known / (seen * expected), -1, 1)))
    if tilt > MOST_TILT_DEGREES:
        return (
            f"mean {_list(mean)} m/s², but {_list(known)} in training, {tilt:.0f} degrees apart; "
            "axes swapped or reversed, or sensor turned?"
        )
    return ""


def _compare_spreads(
    inputs: np.ndarray,
    in_training: Statistics,
    compared: Sequence[int],
    sensors: Sequence[str],
    gyr_unit: str,
) -> Iterator[tuple[int, str]]:
    """Yield the first channel of a sensor and how its spread differs from the training.

    Slow and fast movements change the spread of all sensors; a sensor stands out if its spread has
    changed otherwise than that of the others.
    """
    axes = inputs[:, : 6 * len(sensors)].std(axis=0).reshape(-1, 3)
    known_axes = in_training.sd[: 6 * len(sensors)].reshape(-1, 3)
    spreads, known = (
        np.maximum(np.linalg.norm(sd, axis=1), NEGLIGIBLE) for sd in (axes, known_axes)
    )
    ratios = spreads / known
    numbers = [first // 3 for first in compared]
    typical = float(np.median(ratios[numbers])) if numbers else 1.0
    if not _is_within(typical, MOVEMENT_RATIO):
        doubt = f"SD {typical:.2g} times that in training; another movement, or another unit?"
        yield compared[0], doubt
        return
    for i in numbers:
        unit = "m/s²" if i < len(sensors) else gyr_unit
        others = [k for k in numbers if k != i]
        relative = ratios[i] / (np.median(ratios[others]) if others else 1.0)
        farthest = max(numbers, key=lambda k: abs(np.log(ratios[k])))
        if not _is_within(relative, SPREAD_RATIO) and (len(numbers) > 2 or i == farthest):
            same_kind = range(len(sensors)) if i < len(sensors) else range(len(sensors), len(known))
            nearest = min(same_kind, key=lambda k: abs(np.log(spreads[i] / known[k])))
            is_like = nearest != i and 0.67 < spreads[i] / known[nearest] < 1.5
            cause = f"like {sensors[nearest % len(sensors)]}: sensors swapped?"
            cause = cause if is_like else "another sensor, unit or range?"
            yield 3 * i, f"SD {spreads[i]:.3g} {unit}, but {known[i]:.3g} in training; {cause}"
            continue
        cosines = [
            axes[i][list(order)] @ known_axes[i] / (spreads[i] * known[i])
            for order in permutations(range(3))
        ]
        if max(cosines) - cosines[0] > AXIS_GAIN:
            seen, expected = _list(axes[i]), _list(known_axes[i])
            yield 3 * i, f"SD {seen} {unit}, but {expected} in training; axes swapped?"


def _is_within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
