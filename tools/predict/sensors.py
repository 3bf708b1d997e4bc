"""Warnings about the sensors of a recording: faulty channels, wrong units or sensors.

Faults are looked for in the channels as recorded. The other checks compare the recording with the
mean and the variance of each channel in training, which batch normalization of the inputs stores;
`tools.mounting` compares the axes of the sensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from tools.plausibility import (
    ANY_NORM_M_S2,
    FROZEN_S,
    GRAVITY_M_S2,
    check_accelerometers,
    check_gyroscopes,
    check_held,
    check_outliers,
    check_sentinels,
    longest_constant_run,
)
from tools.predict.recording import TIME, Samples
from tools.trained import Trained, channel_names

CLIPPED_SHARE = 0.005  # of the samples at an extreme value ...
CLIPPED_RATIO = 5.0  # ... times as many as at a value next to it
FEWEST_LEVELS = 20  # a channel with fewer values is noise of the last bit
# Ratios to the values in training. `found` is the range of one subject compared with the others, in
# any activity and over 3 s or more, in synthetic data (21 subjects of A, 18 of B) and the measured
# example of Dataset B.
MEAN_RATIO = (0.5, 2.0)  # of the mean acceleration; found: 0.8 to 1.3, in fast walking 1.5
SPREAD_RATIO = (0.25, 4.0)  # of the SD of a sensor, relative to the others; found: 0.29 to 2.4
MOVEMENT_RATIO = (0.1, 6.0)  # of the SD of most sensors; found: 0.3 to 1.7
RMS_RATIO = (0.1, 10.0)  # of EMG and video
NEGLIGIBLE = 1e-3  # SD of a channel that is constant in training, up to rounding


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, `(C,)`."""

    mean: np.ndarray
    sd: np.ndarray


def check_sensors(trained: Trained, samples: Samples) -> list[str]:
    """Return the warnings about the inputs of a network, one line each."""
    inputs = torch.cat(trained.inputs(samples.values), dim=-1).numpy()
    inputs = inputs[samples.stretch >= 0].astype(np.float64)
    by_modality = channel_names(trained.script, trained.sensor_set)
    names = [name for channels in by_modality.values() for name in channels]
    imu_channels = 6 * len(trained.sensor_set.sensors)
    in_training = training_statistics(trained, len(names))
    is_constant = in_training.sd < NEGLIGIBLE if in_training else np.zeros(len(names), bool)
    recorded = samples.recorded[:, : len(names)]
    warnings, faulty = [], set()
    for i, name in enumerate(names):
        for warning in check_sentinels([name], recorded[:, [i]]):
            faulty.add(i)
            warnings.append(warning)
    sensors, rate_hz = trained.sensor_set.sensors, samples.recorded_hz
    acc, gyr = np.split(recorded[:, :imu_channels], 2, axis=1)
    warnings += check_held(sensors, acc, gyr, rate_hz, partial(_locate, samples))
    acc, gyr = np.split(inputs[:, :imu_channels], 2, axis=1)
    warnings += check_outliers(sensors, acc, gyr, trained.script.UNITS["gyr"])
    is_measured = recorded[:, :imu_channels].any(axis=1)
    if is_measured.any():  # zeros, reported above, would look like other faults
        recorded, inputs = recorded[is_measured], inputs[inputs[:, :imu_channels].any(axis=1)]
    checked = [i for i in range(len(names)) if i not in faulty and not is_constant[i]]
    for channels, fault in _faults(recorded, rate_hz, checked, imu_channels):
        faulty.update(channels)
        axes = Counter(i // 3 for i in channels)  # all three of a sensor are reported above
        channels = [i for i in channels if i >= imu_channels or axes[i // 3] < 3]
        if not channels:
            continue
        sd = f" (SD {in_training.sd[channels[0]]:.3g} in training)" if in_training else ""
        listed = ", ".join(names[i] for i in channels)
        warnings.append(f"{listed}{sd if len(channels) == 1 else ''}: {fault}")
    return warnings + list(_differences(trained, names, inputs, in_training, faulty))


def _locate(samples: Samples, row: int) -> str:
    """Return the time, activity and trial of a recorded sample."""
    labels = samples.recorded_at.iloc[row].drop("subject", errors="ignore")
    time_s = f"{labels.pop(TIME):.3f} s"
    place = ", ".join(f"{name} {label}" for name, label in labels.items())
    return f"{time_s} of {place}" if place else time_s


def training_statistics(trained: Trained, channels: int) -> Statistics | None:
    """Return the statistics of the training data, or None if the network does not store them.

    Batch normalization starts at mean 0 and variance 1, and moves towards each batch by a tenth;
    that start is removed, which matters only after few batches.
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
    if len(means) != channels:  # handcrafted features are normalized instead
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
            fault = f"clipped at {levels}, {100 * share:.3g} % of the samples; set a larger range"
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


# Differences from training ------------------------------------------------------------------------


def _differences(
    trained: Trained,
    names: Sequence[str],
    inputs: np.ndarray,
    in_training: Statistics | None,
    faulty: set[int],
) -> Iterator[str]:
    """Yield what is implausible in the inputs `(samples, C)`, or differs from training.

    Sensors are numbered in the order of the channels, three axes each: accelerometers, gyroscopes.
    """
    sensors, gyr_unit = trained.sensor_set.sensors, trained.script.UNITS["gyr"]
    count = len(sensors)
    intact = set(range(2 * count)) - {i // 3 for i in faulty}
    for k, sensor in enumerate(sensors):
        axes = inputs[:, 3 * k : 3 * k + 3]
        for warning in check_accelerometers([sensor], axes, ANY_NORM_M_S2):
            intact.discard(k)
            median = np.median(np.linalg.norm(axes, axis=1))
            has_gravity = np.linalg.norm(axes.mean(axis=0)) > 0.5 * median
            yield f"{warning}; {'see --acc-unit' if has_gravity else 'gravity removed?'}"
    acc, gyr = np.split(inputs[:, : 6 * count], 2, axis=1)
    for warning in check_gyroscopes(sensors, acc, gyr, gyr_unit):
        intact -= set(range(count, 2 * count))
        yield f"{warning}; see --gyr-unit"
    if in_training is None:
        return
    mean, sd, known_mean, known_sd = (
        values[: 6 * count].reshape(-1, 3)
        for values in (inputs.mean(axis=0), inputs.std(axis=0), *in_training)
    )
    found = {k: _compare_means(mean[k], known_mean[k]) for k in sorted(intact) if k < count}
    found = {k: warning for k, warning in found.items() if warning}
    found |= _compare_spreads(sd, known_sd, sorted(intact - set(found)), count, gyr_unit)
    for k, warning in found.items():
        yield f"{', '.join(names[3 * k : 3 * k + 3])}: {warning}"
    for i in range(6 * count, len(names)):
        rms = float(np.sqrt(np.mean(inputs[:, i] ** 2)))
        known = float(np.hypot(in_training.mean[i], in_training.sd[i]))
        if known > NEGLIGIBLE and i not in faulty and not _is_within(rms / known, RMS_RATIO):
            yield f"{names[i]}: RMS {rms:.3g}, but {known:.3g} in training; another unit?"


def _compare_means(mean: np.ndarray, known: np.ndarray) -> str:
    """Return how the mean of an accelerometer, mostly gravity, differs from training."""
    size, expected = np.linalg.norm(mean), np.linalg.norm(known)
    if expected < 0.5 * GRAVITY_M_S2:  # trained without gravity
        return ""
    if _is_within(size / expected, MEAN_RATIO):
        return ""
    cause = "gravity removed?" if size < expected else "another range or unit?"
    return f"mean acceleration {size:.2g} m/s², but {expected:.3g} in training; {cause}"


def _compare_spreads(
    sd: np.ndarray,
    known_sd: np.ndarray,
    compared: Sequence[int],
    sensors: int,
    gyr_unit: str,
) -> dict[int, str]:
    """Return sensor number -> how its spread differs from training.

    Slow and fast movements change the spread of all sensors; a sensor stands out if its spread has
    changed differently from that of the others.

    Args:
        sd: `(2 * sensors, 3)` SD of the axes.
        known_sd: the same in training.
        compared: numbers of the sensors to compare.
        sensors: number of IMUs.
        gyr_unit: unit of the gyroscopes.
    """
    spreads, known = (np.maximum(np.linalg.norm(v, axis=1), NEGLIGIBLE) for v in (sd, known_sd))
    ratios = spreads / known
    typical = float(np.median(ratios[compared])) if compared else 1.0
    if not _is_within(typical, MOVEMENT_RATIO):
        text = f"SD {typical:.2g} times that in training; another movement, or another unit?"
        return {compared[0]: text}
    found = {}
    farthest = max(compared, key=lambda k: abs(np.log(ratios[k])), default=None)
    for i in compared:
        others = [k for k in compared if k != i]
        relative = ratios[i] / (np.median(ratios[others]) if others else 1.0)
        if not _is_within(relative, SPREAD_RATIO) and (others[1:] or i == farthest):
            unit = "m/s²" if i < sensors else gyr_unit
            text = f"SD {spreads[i]:.3g} {unit}, but {known[i]:.3g} in training"
            found[i] = f"{text}; another sensor, unit or range?"
    return found


def _is_within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
