"""How the sensors of a recording are mounted: other axes than in training, or sensors swapped.

The mean acceleration of a sensor and the covariance of its acceleration and angular velocity are
compared with those in training, in each of the 24 orientations of a cube. All of them are divided
by their size, so that walking speed hardly matters.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations, product
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import linear_sum_assignment

from tools.plausibility import GRAVITY_M_S2
from tools.trial_file import Source

# Found for 128 correctly mounted sensors, each compared with the same sensor of other people: the
# right orientation is the best for all of them, and clearly the best for 122
CLEAR = 0.8  # of the second smallest distance
CLEAR_DIFFERENCE = 0.5  # of the distance as mounted; found: 0.6, in single activities
LARGEST_DISTANCE = 1.0  # of a sensor that moves as in training
LARGEST_SPREAD = 0.3  # squared difference of the SDs from training (logarithm); found: 0.2
CLEAR_SWAP = 0.3  # of the distances in their own places; found: 0.38 (left and right shank)
CLEAR_ERROR = 0.4  # of the smallest distance in an orientation, to refuse that orientation
OBVIOUS_ERROR = 0.25  # the same, to warn about a sensor; found: 0.32
LEAST_ERROR = 0.3  # smallest distance of a sensor to warn about
MOST_TILT_DEGREES = 45.0  # found: 19
LEAST_MOVEMENT = 0.2  # times the SD of the angular velocity in training; found: 0.3
SIGNED_AXES = np.array(
    [
        np.diag(signs)[list(order)]
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
)  # (48, 3, 3), the identity first
IS_ROTATION = np.linalg.det(SIGNED_AXES) > 0
ORIENTATIONS = SIGNED_AXES[IS_ROTATION]  # (24, 3, 3)
BOTH = np.kron(np.eye(2), ORIENTATIONS)  # (24, 6, 6), of acceleration and angular velocity
# Axes reversed or exchanged, in one of the two or in both: no orientation of the sensor does that
ERRORS = np.array(
    [
        block_diag(acc, gyr)
        for acc, is_rotation in zip(SIGNED_AXES, IS_ROTATION, strict=True)
        for gyr in SIGNED_AXES
        if not (is_rotation and np.array_equal(acc, gyr))
    ]
)  # (2280, 6, 6)
FEWEST_SAMPLES = 100  # a stride
RESTS = "it hardly moves"


class Statistics(NamedTuple):
    """Mean `(6,)` and covariance `(6, 6)` of a sensor's acceleration and angular velocity."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """SD of the acceleration and of the angular velocity, over all axes."""
        return np.sqrt(self.covariance.diagonal().reshape(2, 3).sum(axis=1))


class Mounting(NamedTuple):
    """A sensor that is not mounted as in training.

    Attributes:
        sensor: the sensor as the network knows it.
        source: the sensor of the recording that is in its place.
        rotation: `(3, 3)` from the axes of `source` to those of `sensor` in training; None if it
            cannot be told.
        distance: the distance from the statistics in training; 0 is equal.
        second: the distance in the second best orientation.
        reason: why the rotation cannot be told; empty if it can.
    """

    sensor: str
    source: str
    rotation: np.ndarray | None
    distance: float
    second: float
    reason: str = ""


def measure(acc: np.ndarray, gyr: np.ndarray, sensors: Sequence[str]) -> dict[str, Statistics]:
    """Return the statistics of every sensor that has enough samples.

    Args:
        acc: `(samples, 3 * sensors)`; samples with NaN are left out.
        gyr: the same for the gyroscopes.
        sensors: names of the sensors.
    """
    found = {}
    for i, sensor in enumerate(sensors):
        values = np.hstack([acc[:, 3 * i : 3 * i + 3], gyr[:, 3 * i : 3 * i + 3]]).astype(float)
        values = values[np.isfinite(values).all(axis=1)]
        if len(values) < FEWEST_SAMPLES:
            continue
        found[sensor] = Statistics(values.mean(axis=0), np.cov(values.T, bias=True))
    return found


def in_training(description: Mapping[str, Any]) -> dict[str, Statistics]:
    """Return the statistics in the description of a checkpoint; empty if it has none."""
    try:
        found = {
            str(sensor): Statistics(
                np.array(values["mean"], float).reshape(6),
                np.array(values["covariance"], float).reshape(6, 6),
            )
            for sensor, values in description["sensor_statistics"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    is_valid = all(np.isfinite([*s.mean, *s.covariance.flat]).all() for s in found.values())
    return found if is_valid else {}


def detect(recorded: Mapping[str, Statistics], known: Mapping[str, Statistics]) -> list[Mounting]:
    """Return the sensors that are not mounted as in training, or of which it cannot be told.

    Args:
        recorded: statistics of the recording.
        known: statistics in training.
    """
    sensors = [sensor for sensor in known if sensor in recorded]
    resting = {
        one: all(_rests(recorded[one], known[other]) for other in sensors) for one in sensors
    }
    found = [
        Mounting(sensor, sensor, None, np.nan, np.nan, RESTS)
        for sensor in sensors
        if resting[sensor]
    ]
    sensors = [sensor for sensor in sensors if not resting[sensor]]
    distances = {
        (one, other): _distances(recorded[one], known[other])
        for one, other in product(sensors, repeat=2)
    }
    if not sensors:
        return found
    spreads = _spread_differences(sensors, recorded, known)
    sources, doubtful = _find_swaps(sensors, distances, spreads)
    for sensor, source in sources.items():
        values = distances[source, sensor]
        best, second = np.argsort(values)[:2]
        error = _distances(recorded[source], known[sensor], ERRORS).min()
        reason = ""
        if _rests(recorded[source], known[sensor]):
            reason = RESTS
        elif values[best] > LARGEST_DISTANCE:
            reason = "it moves as in training in no orientation"
        elif error < CLEAR_ERROR * values[best]:
            reason = "axes seem to be reversed or exchanged"
        elif values[best] > CLEAR * values[second]:
            reason = "two orientations are about as likely"
        elif spreads[source, sensor] > LARGEST_SPREAD:
            reason = "it moves more or less than in training, compared with the other sensors"
        elif sensor in doubtful:
            reason = f"{doubtful[sensor]} has about the same signals"
        is_different = values[best] < CLEAR_DIFFERENCE * values[0]
        is_different |= error < OBVIOUS_ERROR * values[best] and values[best] > LEAST_ERROR
        tilt = _tilt_degrees(recorded[source], known[sensor])
        if not is_different and tilt > MOST_TILT_DEGREES:
            is_different = True
            reason = reason or f"gravity is {tilt:.0f} degrees off, between two orientations"
        if source != sensor or is_different or reason == RESTS:
            rotation = None if reason else ORIENTATIONS[best]
            parts = rotation, float(values[best]), float(values[second]), reason
            found.append(Mounting(sensor, source, *parts))
    return found


def _tilt_degrees(recorded: Statistics, known: Statistics) -> float:
    """Return the angle between the mean accelerations; 0 without gravity."""
    one, other = recorded.mean[:3], known.mean[:3]
    sizes = np.linalg.norm(one), np.linalg.norm(other)
    if min(sizes) < 0.5 * GRAVITY_M_S2:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(one @ other / np.prod(sizes), -1, 1))))


def _rests(recorded: Statistics, known: Statistics) -> bool:
    return bool((recorded.sd <= LEAST_MOVEMENT * known.sd).any())


def _distances(
    recorded: Statistics, known: Statistics, orientations: np.ndarray = BOTH
) -> np.ndarray:
    """Return the squared distance between two sensors in each orientation, `(orientations,)`."""
    (mean, covariance), (known_mean, known_covariance) = map(_normalize, (recorded, known))
    means = orientations[:, :3, :3] @ mean - known_mean
    covariances = orientations @ covariance @ orientations.swapaxes(1, 2) - known_covariance
    return (means**2).sum(axis=1) + (covariances**2).sum(axis=(1, 2))


def _normalize(statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Return the direction of the mean acceleration, and the covariance for an SD of 1."""
    acc, sd = statistics.mean[:3], np.repeat(statistics.sd, 3)
    return acc / max(np.linalg.norm(acc), 1e-9), statistics.covariance / np.outer(sd, sd)


def _spread_differences(
    sensors: Sequence[str], recorded: Mapping[str, Statistics], known: Mapping[str, Statistics]
) -> dict[tuple[str, str], float]:
    """Return how much the SDs of two sensors differ, apart from that of most sensors."""
    sizes = {s: np.log([recorded[s].sd, known[s].sd]) for s in sensors}
    common = np.median([size[0] - size[1] for size in sizes.values()]) if sizes else 0.0
    return {
        (one, other): float(((sizes[one][0] - sizes[other][1] - common) ** 2).sum())
        for one, other in product(sensors, repeat=2)
    }


def _find_swaps(
    sensors: Sequence[str],
    distances: Mapping[tuple[str, str], np.ndarray],
    spreads: Mapping[tuple[str, str], float],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return sensor -> the sensor of the recording in its place, and places that are doubtful."""
    costs = {pair: float(distances[pair].min()) + spreads[pair] for pair in distances}
    table = np.array([[costs[one, other] for other in sensors] for one in sensors])
    places = dict(
        zip(sensors, (sensors[k] for k in linear_sum_assignment(table.T)[1]), strict=True)
    )
    sources, doubtful = dict(zip(sensors, sensors, strict=True)), {}
    for sensor in sensors:
        cycle = [sensor]
        while (source := places[cycle[-1]]) != sensor:
            cycle.append(source)
        moved = sum(costs[places[s], s] for s in cycle)
        if moved <= CLEAR_SWAP * sum(costs[s, s] for s in cycle):
            sources |= {s: places[s] for s in cycle}
    for one, other in combinations(sensors, 2):
        here, there = sources[one], sources[other]
        if costs[here, one] + costs[there, other] > CLEAR * (
            costs[there, one] + costs[here, other]
        ):
            doubtful |= {one: there, other: here}
    return sources, doubtful


def compare_subjects(measured: Mapping[str, Sequence[Mapping[str, Statistics]]]) -> Iterator[str]:
    """Yield the sensors of each subject that are not mounted as those of the other subjects.

    Args:
        measured: subject -> its trials, sensor -> statistics each.
    """
    typical = {subject: _median(trials) for subject, trials in measured.items()}
    for subject, recorded in typical.items():
        is_pair = len(typical) == 2  # of more, the median is not moved by one that is turned
        known = _median([s for name, s in typical.items() if name != subject or not is_pair])
        for mounting in detect(recorded, known):
            if mounting.reason != RESTS:
                yield f"subject {subject}: {describe(mounting, 'in the other subjects')}"


def _median(parts: Sequence[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Return the median of the statistics of several trials or subjects, per sensor and entry."""
    of_sensor: dict[str, list[Statistics]] = {}
    for imus in parts:
        for sensor, one in imus.items():
            of_sensor.setdefault(sensor, []).append(one)
    return {
        sensor: Statistics(*(np.median(entries, axis=0) for entries in zip(*found, strict=True)))
        for sensor, found in of_sensor.items()
    }


# Messages and corrections -------------------------------------------------------------------------


def describe(mounting: Mounting, reference: str = "in training") -> str:
    """Return the warning about a sensor, compared with training or another reference."""
    sensor, source, rotation = mounting[:3]
    if rotation is None:
        return f"{sensor}: cannot tell whether it is mounted as {reference}: {mounting.reason}"
    parts, found = [], axes(rotation)
    if source != sensor:
        parts.append(f"swapped, {source} has its signals")
    if found != [*"XYZ"]:
        text = ", ".join(f"{name} is your {axis}" for name, axis in zip("XYZ", found, strict=True))
        parts.append(f"not mounted as {reference}; there, {text}")
    times = mounting.second / max(mounting.distance, 1e-9)
    certainty = f"the next best of 24 orientations is {times:.1f} times as far off"
    return f"{sensor}: {'; '.join(parts)} ({certainty})"


def axes(rotation: np.ndarray) -> list[str]:
    """Return the axis of the recording that each axis in training equals: `-Z`."""
    numbers = np.abs(rotation).argmax(axis=1)
    signs = rotation[range(3), numbers]
    return [f"{'-' if sign < 0 else ''}{'XYZ'[k]}" for k, sign in zip(numbers, signs, strict=True)]


def column_pairs(
    mounting: Mounting,
    columns: Callable[[str], Sequence[str]],
    yours: Callable[[str], Source],
) -> Iterator[str]:
    """Yield the arguments of `--columns` that correct a sensor, ready for a shell.

    Args:
        mounting: the sensor; its rotation is known.
        columns: returns the six columns of a sensor, accelerometer and gyroscope.
        yours: returns the column of the file, and its sign, for a column of the script.
    """
    for first in (0, 3):
        for axis, row in enumerate(mounting.rotation):
            k = int(np.abs(row).argmax())
            source = yours(columns(mounting.source)[first + k])
            minus = "-" if source.sign * row[k] < 0 else ""
            yield shlex.quote(f"{columns(mounting.sensor)[first + axis]}={minus}{source.name}")


def correct(
    values: Mapping[str, np.ndarray], sensors: Sequence[str], mountings: Sequence[Mounting]
) -> dict[str, np.ndarray]:
    """Return accelerometers and gyroscopes `(samples, 3 * sensors)` in the axes of training.

    Args:
        values: the two modalities, `acc` and `gyr`.
        sensors: names of all sensors, in the order of the columns.
        mountings: the sensors to correct; their rotations are known.
    """
    corrected = {name: values[name].copy() for name in ("acc", "gyr")}
    for mounting in mountings:
        here, there = (
            slice(3 * i, 3 * i + 3)
            for i in (sensors.index(mounting.sensor), sensors.index(mounting.source))
        )
        for name, array in corrected.items():
            array[:, here] = values[name][:, there] @ mounting.rotation.T
    return corrected
