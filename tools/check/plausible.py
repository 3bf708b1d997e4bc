"""What cannot be right in a subject: wrong units, dead channels, turned axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tools.check.layout import Layout, Part
from tools.check.summary import Amount

GRAVITY_M_S2 = 9.8
# In walking the median norm of an accelerometer is 9.8 (trunk) to 12.5 m/s² (shank).
REST_M_S2 = (7.0, 16.0)
# A foot in swing turns at 5 to 10 rad/s, 300 to 600 deg/s: one limit parts the two units.
FASTEST_RAD_S, SLOWEST_DEG_S = 25.0, 30.0
LOADED_BW = 0.05  # vertical force from which a foot is on the ground
# Of a loaded foot; 0.85 to 0.95 in level walking, with double support.
MEDIAN_LOAD_BW = (0.6, 1.2)
TURNED_DEGREES = 45.0


def problems(layout: Layout, parts: Sequence[Part]) -> Iterator[str]:
    """Give what is not plausible of one subject, in a line each."""
    samples = {
        name: np.concatenate([part.samples[name] for part in parts]) for name in parts[0].samples
    }
    if not len(samples["targets"]):
        yield "no row"
        return
    yield from _channels(layout, samples)
    yield from accelerometers(layout.sensors, samples["acc"])
    yield from gyroscopes(layout.sensors, layout.gyroscope_unit, samples["gyr"])
    yield from _forces(layout, samples["targets"])
    yield from _moments(layout, samples["targets"])
    if "emg" in samples:
        yield from _envelopes(samples["emg"])


def few_windows(layout: Layout, amount: Amount) -> Iterator[str]:
    """Give the protocols under which a subject has not one window."""
    for protocol, count in amount.windows.items():
        if count == 0:
            yield f"no full window of {layout.study.window} rows under --protocol {protocol}"


def _channels(layout: Layout, samples: Mapping[str, np.ndarray]) -> Iterator[str]:
    names = {**layout.channels, "targets": [target.name for target in layout.targets]}
    for modality, values in samples.items():
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        for name, least, largest in zip(names[modality], low, high, strict=True):
            if np.isnan(least):
                yield f"{name}: nothing but NaN"
            elif np.isinf(least) or np.isinf(largest):
                yield f"{name}: infinite values, divided by 0"
            elif least == largest and name not in layout.still:
                yield f"{name}: constant, {least + 0.0:g}"


def _norms(sensors: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return `(rows, sensors)` the size of each sensor's vector `(rows, 3 * sensors)`."""
    return np.linalg.norm(values.reshape(len(values), len(sensors), 3), axis=2)


def accelerometers(
    sensors: Sequence[str], acc: np.ndarray, limits: tuple[float, float] = REST_M_S2
) -> Iterator[str]:
    """Give the sensors of `(rows, 3 * sensors)`, in m/s², whose median norm is not in `limits`."""
    for sensor, norm in zip(sensors, _norms(sensors, acc).T, strict=True):
        median = _percentile(norm, 50)
        if not limits[0] <= median <= limits[1] and not np.isnan(median):
            hint = "; in g?" if 0.7 <= median <= 1.6 else ""
            yield (
                f"accelerometer {sensor}: median norm {median:.3g} m/s², far from "
                f"{GRAVITY_M_S2}{hint}"
            )


def gyroscopes(sensors: Sequence[str], unit: str, gyr: np.ndarray) -> Iterator[str]:
    """Give what is not plausible of `(rows, 3 * sensors)` in `unit`, rad/s or deg/s."""
    fast = [_percentile(norm, 99) for norm in _norms(sensors, gyr).T]
    if unit == "rad/s":
        for sensor, speed in zip(sensors, fast, strict=True):
            if speed > FASTEST_RAD_S:
                yield f"gyroscope {sensor}: 99th percentile {speed:.3g} rad/s; in deg/s?"
    elif np.nanmax([*fast, 0.0]) < SLOWEST_DEG_S:
        yield f"gyroscopes: 99th percentile at most {np.nanmax([*fast, 0.0]):.3g} deg/s; in rad/s?"


def _forces(layout: Layout, targets: np.ndarray) -> Iterator[str]:
    forces = targets[:, layout.forces]
    vertical = layout.targets[layout.vertical].name
    loaded = np.linalg.norm(forces, axis=1) > LOADED_BW
    if not loaded.any():
        yield "ground reaction: the foot is never loaded"
        return
    sizes = np.median(np.abs(forces[loaded]), axis=0)
    largest = layout.targets[layout.forces[int(np.argmax(sizes))]].name
    if largest != vertical:
        yield f"ground reaction: {largest} is the largest, not {vertical}; axes swapped?"
        return
    median = float(np.median(targets[loaded, layout.vertical]))
    if not MEDIAN_LOAD_BW[0] <= median <= MEDIAN_LOAD_BW[1]:
        yield f"{vertical}: median of the loaded foot {median:.3g}, far from a body weight"


def _moments(layout: Layout, targets: np.ndarray) -> Iterator[str]:
    low, high = layout.moment_range
    for k, target in enumerate(layout.targets):
        size = _percentile(np.abs(targets[:, k]), 99)
        if k not in layout.forces and not np.isnan(size) and not low <= size <= high:
            yield (
                f"{target.name}: 99th percentile of its size {size:.3g} {target.unit}, expected "
                f"{low:g} to {high:g}; over body weight x height?"
            )


def _envelopes(emg: np.ndarray) -> Iterator[str]:
    low, high = float(np.fmin.reduce(emg, axis=None)), float(np.fmax.reduce(emg, axis=None))
    if low < -0.01 or high > 1.01:
        yield f"EMG: from {low:.3g} to {high:.3g}; an envelope over its maximum is from 0 to 1"


def _percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile of the finite values, NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if len(values) else np.nan


def gravity(layout: Layout, parts: Sequence[Part]) -> np.ndarray:
    """Return `(sensors, 3)` the direction of a subject's mean acceleration in every sensor."""
    acc = np.concatenate([part.samples["acc"] for part in parts])
    acc = acc[np.isfinite(acc).all(axis=1)]
    mean = acc.reshape(len(acc), len(layout.sensors), 3).mean(axis=0, dtype=float)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def turned_sensors(layout: Layout, directions: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Give the sensors that hold gravity elsewhere than those of the other subjects.

    Args:
        directions: Subject to what `gravity` returns.
    """
    middle = np.median(np.stack(list(directions.values())), axis=0)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    for subject, own in directions.items():
        cosine = (own * middle).sum(axis=1)
        for i in np.flatnonzero(cosine < np.cos(np.radians(TURNED_DEGREES))):
            angle = np.degrees(np.arccos(np.clip(cosine[i], -1, 1)))
            yield (
                f"subject {subject}: accelerometer {layout.sensors[i]}: gravity {angle:.0f} "
                "degrees away from where the other subjects have it; axes swapped?"
            )
