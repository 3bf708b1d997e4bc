"""Checks of signals that several commands share; each returns or yields one message per problem.

A message states what was found, where, and how certain it is: `almost certainly` for values that no
sensor can give, `probably` for an unlikely one, a question mark for a guess.

IMU signals are `(samples, C)` arrays with three channels per sensor; NaN is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.files import plural, shorten
from tools.signals import TO_RAD_S, find_runs

GRAVITY_M_S2 = 9.8
ANY_NORM_M_S2 = (4.0, 40.0)  # of a recording that may be all running
# In walking, the median norm of an accelerometer is 9.8 (trunk) to 12.5 m/s² (shank).
RESTING_NORM_M_S2 = (7.0, 16.0)
# A foot in swing turns at 5 to 10 rad/s, 300 to 600 deg/s: these limits tell the two units apart.
FASTEST_RAD_S, SLOWEST_DEG_S = 25.0, 30.0
RESTING_RANGE = 0.1  # of the norm of an accelerometer, 10 % to 90 %, relative to its median
FROZEN_S = 1.0  # from which constant channels are a fault, even at rest
HELD_SAMPLES, HELD_S = 5, 0.1  # equal in all channels, each of which has noise of its own
LOST = "almost certainly zeros in place of lost samples"
REPEATED_SHARE = 0.25  # of the samples that equal the one before
SENTINELS = (999.0, 9999.0, 99999.0)  # common codes for missing values, with either sign
LARGEST_M_S2, LARGEST_RAD_S = 20_000.0, 350.0  # ten times the range of sensors for impacts
OUTLIER_SHARE = 0.05  # of the samples, at most; more is another unit
SENTINEL_GAP = 0.9  # all other values of the column are below this fraction of a sentinel
COUNTER_BITS = (8, 16, 32)  # of a counter that starts again at 0
FEWEST_COUNTED, COUNTING_SHARE = 10, 0.8  # numbers, and share of equal steps, of a counter
COPIED_SHARE = 0.9  # of the samples of a trial that another trial has, too
FEWEST_COPIED = 20  # samples
# Ratio of a trial's size to that in the other subjects. Gyroscopes are compared relative to the
# accelerometers, since both are small at rest: 0.3 to 3 in recorded and synthetic walking.
UNLIKE_RATIO = {"gyroscope": 10.0, "accelerometer": 3.0, "forces": 4.0, "targets": 20.0}
FACTORS = {  # between units that are easily mistaken for each other
    "gyroscope": {57.3: "rad/s and deg/s", 1000.0: "thousandths"},
    "accelerometer": {9.81: "g and m/s²", 1000.0: "thousandths, as mg", 102.0: "mg and m/s²"},
    "forces": {
        700.0: "N, and kN or body weights",
        65.0: "N and N/kg",
        9.8: "N and kgf, or body weights and mass",
    },
    "targets": {
        1200.0: "N·m, and divided by body weight",
        80.0: "N·m and N·m/kg, or fractions and percent",
    },
}  # fmt: skip
SAME_FACTOR = 2.5  # ratio of a measured factor to that of a unit

Where = Callable[[int], str]
"""Returns the position of a sample, such as `1.2 s`."""


def check_samples(
    values: np.ndarray,
    names: Sequence[str],
    rate_hz: float,
    sensors: Sequence[str],
    gyr_unit: str,
    where: Where | None = None,
) -> list[str]:
    """Return a message for each implausible finding in consecutive samples of one recording.

    One second is enough. It looks for wrong units, codes for missing values, and zeros or held
    values in place of lost samples.

    Args:
        values: `(samples, C)`: three axes of every accelerometer in m/s², then of every gyroscope
            in `gyr_unit`, in the order of `sensors`, then other channels.
        names: names of the channels.
        rate_hz: their sampling rate.
        sensors: names of the IMUs.
        gyr_unit: `rad/s` or `deg/s`.
        where: position of a sample; None for its time from the first one on.
    """
    acc, gyr, _ = np.split(values, [3 * len(sensors), 6 * len(sensors)], axis=1)
    return [
        *check_accelerometers(sensors, acc, ANY_NORM_M_S2),
        *check_gyroscopes(sensors, acc, gyr, gyr_unit),
        *check_held(sensors, acc, gyr, rate_hz, where),
        *check_outliers(sensors, acc, gyr, gyr_unit),
        *check_sentinels(names, values),
    ]


def _is_moving(sensors: Sequence[str], acc: np.ndarray) -> bool:
    norms = _norms(sensors, acc)
    low, median, high = (np.array([percentile(n, p) for n in norms]) for p in (10, 50, 90))
    return bool((high - low > RESTING_RANGE * median).any())


def check_accelerometers(
    sensors: Sequence[str], acc: np.ndarray, limits_m_s2: tuple[float, float] = RESTING_NORM_M_S2
) -> Iterator[str]:
    """Yield a message for each accelerometer whose median norm is far from gravity.

    Args:
        sensors: names of the sensors.
        acc: `(samples, 3 * sensors)` in m/s².
        limits_m_s2: smallest and largest plausible median norm.
    """
    for sensor, norm in zip(sensors, _norms(sensors, acc), strict=True):
        median = percentile(norm, 50)
        if not limits_m_s2[0] <= median <= limits_m_s2[1] and not np.isnan(median):
            hint = "; in g?" if 0.7 <= median <= 1.6 else ""
            hint = "; in mg?" if 700 <= median <= 1600 else hint
            yield (
                f"accelerometer {sensor}: median norm {median:.3g} m/s², far from "
                f"{GRAVITY_M_S2}{hint}"
            )


def check_gyroscopes(
    sensors: Sequence[str], acc: np.ndarray, gyr: np.ndarray, unit: str
) -> Iterator[str]:
    """Yield a message for each gyroscope that is too fast, or one if all are too slow.

    Args:
        sensors: names of the sensors.
        acc: `(samples, 3 * sensors)`, which shows whether they move.
        gyr: the same samples of the gyroscopes, in `unit`.
        unit: `rad/s` or `deg/s`.
    """
    fast = [percentile(norm, 99) for norm in _norms(sensors, gyr)]
    largest = np.nanmax([*fast, 0.0])
    if unit == "rad/s":
        for sensor, speed in zip(sensors, fast, strict=True):
            if speed > FASTEST_RAD_S:
                yield f"gyroscope {sensor}: 99th percentile {speed:.3g} rad/s; in deg/s?"
    if largest * TO_RAD_S[unit] < TO_RAD_S["deg/s"] * SLOWEST_DEG_S and _is_moving(sensors, acc):
        hint = "in rad/s?" if unit == "deg/s" else "rad/s taken as deg/s?"
        yield f"gyroscopes: 99th percentile at most {largest:.3g} {unit}; {hint}"


# Lost samples -------------------------------------------------------------------------------------


def check_held(
    sensors: Sequence[str],
    acc: np.ndarray,
    gyr: np.ndarray,
    rate_hz: float,
    where: Where | None = None,
) -> Iterator[str]:
    """Yield a message for IMUs whose samples are zeros or repeat the one before.

    Each channel has noise of its own: all channels of an IMU never stay equal while it moves, and
    an accelerometer is never exactly 0.

    Args:
        sensors: names of the sensors.
        acc: consecutive samples `(samples, 3 * sensors)`.
        gyr: the same samples of the gyroscopes.
        rate_hz: sampling rate.
        where: position of a sample; None for its time from the first one on.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for i, sensor in enumerate(sensors):
        axes = slice(3 * i, 3 * i + 3)
        parts = {
            "all six channels": np.hstack([acc[:, axes], gyr[:, axes]]),
            "accelerometer": acc[:, axes],
            "gyroscope": gyr[:, axes],
        }
        for part, values in parts.items():
            is_whole = part == "all six channels"
            if text := _held(values, rate_hz, where, is_whole, part == "gyroscope"):
                found.setdefault((part, text), []).append(sensor)
                if is_whole:
                    break
    for (part, text), names in found.items():
        yield f"{', '.join(names)}: {part} {text}"


def _held(
    values: np.ndarray, rate_hz: float, where: Where | None, is_whole: bool, may_be_zero: bool
) -> str:
    """Return what was found in the channels `(samples, C)` of a sensor; empty for nothing."""
    is_zero = ~values.any(axis=1)
    if is_zero.any() and not may_be_zero:
        starts, lengths = _runs(is_zero)
        return f"exactly 0 {_describe(starts, lengths, len(values), rate_hz, where)}; {LOST}"
    is_same = (values[1:] == values[:-1]).all(axis=1)
    starts, lengths = _runs(is_same)
    lengths += 1
    steps = np.linalg.norm(np.diff(values, axis=0), axis=1)
    usual = percentile(steps[steps > 0], 50)
    after = np.minimum(starts + lengths - 1, len(steps) - 1)
    is_jump = steps[after] >= usual  # False at the end, where no step follows
    shortest = HELD_SAMPLES if is_whole else max(HELD_SAMPLES, HELD_S * rate_hz)
    is_certain = is_jump & (lengths >= shortest)
    is_long = lengths >= max(HELD_SAMPLES, (HELD_S if is_whole else FROZEN_S) * rate_hz)
    is_held = is_certain | is_long
    if len(lengths) and lengths[0] == len(values) and is_held[0]:
        return "unchanged throughout: dead, or not connected"
    if is_held.any():
        text = _describe(starts[is_held], lengths[is_held], len(values), rate_hz, where)
        certainty = "almost certainly" if is_certain.any() else "probably"
        return f"unchanged {text}; {certainty} lost samples filled with the last value"
    if is_whole and len(is_same) and is_same.mean() > REPEATED_SHARE:
        percent = 100 * is_same.mean()
        return (
            f"unchanged from one sample to the next in {percent:.0f} % of the samples; probably "
            "recorded at a lower rate and filled by repeating samples"
        )
    return ""


def _describe(
    starts: np.ndarray, lengths: np.ndarray, samples: int, rate_hz: float, where: Where | None
) -> str:
    """Describe runs of samples: the longest one, and the share of all."""
    if lengths[0] == samples:
        return "throughout"
    longest = int(np.argmax(lengths))
    start = int(starts[longest])
    place = where(start) if where else f"{start / rate_hz:.3f} s"
    duration = f"{lengths[longest] / rate_hz:.3g} s"
    percent = f"{100 * lengths.sum() / samples:.3g} % of the samples"
    if len(starts) == 1:
        return f"for {duration} from {place} on, {percent}"
    return f"in {len(starts):,} places, {percent}; the longest, {duration}, from {place} on"


def _runs(is_true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and lengths of the runs of True."""
    starts, stops = find_runs(is_true).T
    return starts, stops - starts


def longest_constant_run(values: np.ndarray) -> tuple[int, int]:
    """Return the first sample and the length of the longest run of equal samples `(samples, C)`."""
    starts, lengths = _runs((values[1:] == values[:-1]).all(axis=1))
    if not len(lengths):
        return 0, 1
    longest = int(np.argmax(lengths))
    return int(starts[longest]), int(lengths[longest]) + 1


def check_outliers(
    sensors: Sequence[str], acc: np.ndarray, gyr: np.ndarray, unit: str
) -> Iterator[str]:
    """Yield a message for each sensor with a few values that no sensor can measure.

    Codes for missing values are left to `check_sentinels`.

    Args:
        sensors: names of the sensors.
        acc: `(samples, 3 * sensors)` in m/s².
        gyr: the same samples of the gyroscopes, in `unit`.
        unit: `rad/s` or `deg/s`.
    """
    largest_speed = LARGEST_RAD_S / TO_RAD_S[unit]
    for kind, values, limit, of in (
        ("accelerometer", acc, LARGEST_M_S2, "m/s²"),
        ("gyroscope", gyr, largest_speed, unit),
    ):
        measured = np.where(np.isin(np.abs(values), SENTINELS), np.nan, values)
        for sensor, norm in zip(sensors, _norms(sensors, measured), strict=True):
            share = (norm > limit).mean()
            if 0 < share <= OUTLIER_SHARE:
                yield (
                    f"{kind} {sensor}: up to {np.fmax.reduce(norm):.3g} {of} in {100 * share:.3g} "
                    "% of the samples, almost certainly damaged: no sensor measures that"
                )


def check_sentinels(names: Sequence[str], values: np.ndarray) -> Iterator[str]:
    """Yield a message for each column that seems to code missing values as a number such as -9999.

    The number counts only if all other values of the column are clearly smaller, because a
    coordinate in pixels may happen to be 999.

    Args:
        names: names of the columns.
        values: `(samples, len(names))`.
    """
    magnitudes = np.abs(values)
    is_large = (magnitudes >= SENTINELS[0]).any(axis=0)
    for i in np.flatnonzero(is_large):
        is_sentinel = np.isin(magnitudes[:, i], SENTINELS)
        found = np.unique(values[is_sentinel, i])
        largest = np.fmax.reduce(magnitudes[~is_sentinel, i], initial=0.0)
        found = [f"{value:g}" for value in found if largest < SENTINEL_GAP * abs(value)]
        if found:
            percent = 100 * is_sentinel.mean()
            yield (
                f"{names[i]}: {' and '.join(found)} in {percent:.3g} % of the samples; if "
                "it marks missing values, replace it with NaN"
            )


# Counters and clocks ------------------------------------------------------------------------------


def find_period(
    values: np.ndarray, periods: Sequence[float], longest: float, is_within: bool = True
) -> float | None:
    """Return the period at which increasing values start again; None if none explains all falls.

    Args:
        values: `(samples,)`.
        periods: possible periods.
        longest: longest step forward that a fall may stand for.
        is_within: whether all values must be within one period.
    """
    steps = np.diff(values)
    falls = steps[steps < 0]
    for period in sorted(periods):
        forward = falls + period
        is_one = np.ptp(values) < period or not is_within
        if len(falls) and is_one and 0 < forward.min() <= forward.max() <= longest:
            return period
    return None


def unwrap(values: np.ndarray, period: float) -> np.ndarray:
    """Return values that start again after each period as increasing values `(samples,)`."""
    return values + period * np.cumsum(np.diff(values, prepend=values[:1]) < 0)


def unwrap_counter(counts: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return a counter that increases, and the period at which it started again, if any.

    Args:
        counts: `(samples,)` whole numbers.
    """
    steps = np.diff(counts)
    usual = float(np.median(steps)) if len(steps) else 1.0
    falls = steps[steps < 0]
    if len(falls) > 1 and np.ptp(falls) == 0:  # any period, but not a single restart
        return unwrap(counts, usual - falls[0]), int(usual - falls[0])
    periods = [*(2**bits for bits in range(7, 33)), *(10**digits for digits in range(2, 10))]
    period = find_period(counts, periods, usual)  # no sample was lost there
    for bits in COUNTER_BITS:
        period = period or find_period(counts, [2**bits], 2 ** (bits - 3))  # some were lost
    return (unwrap(counts, period) if period else counts), period


def check_counter(name: str, counts: np.ndarray, where: Where) -> Iterator[str]:
    """Yield a message if a column that counts samples shows that some were lost.

    A column that does not count, one number or a fixed step per sample, yields none.

    Args:
        name: name of the column.
        counts: `(samples,)` as recorded; NaN where the cell is empty.
        where: position of a sample.
    """
    is_known = np.isfinite(counts)
    known = counts[is_known]
    if len(known) < FEWEST_COUNTED or (known % 1).any():
        return
    steps = np.diff(unwrap_counter(known)[0])
    usual = float(np.median(steps))
    if usual < 1 or (steps == usual).mean() < COUNTING_SHARE:
        return
    jumps = np.flatnonzero(steps > usual)
    if len(jumps):
        lost = int((steps[jumps] / usual - 1).sum())
        longest = int(jumps[np.argmax(steps[jumps])])
        first = where(int(np.flatnonzero(is_known)[longest]))
        yield (
            f"{name} counts on by {steps[longest]:g} instead of {usual:g} after {first}"
            + (f", and jumps in {len(jumps)} places" if len(jumps) > 1 else "")
            + f": almost certainly {plural(lost, 'sample')} lost"
        )
    elif (steps <= 0).any():
        first = where(int(np.flatnonzero(is_known)[np.argmax(steps <= 0)]))
        yield f"{name} does not count on after {first}; probably restarted, or lines out of order"


# Trials compared with each other ------------------------------------------------------------------


class Trial(NamedTuple):
    """What `compare_trials` compares.

    Attributes:
        subject: subject id.
        name: name of the trial in messages, such as `level, trial 2`.
        hashes: `(samples,)` hash of the IMU channels of each sample that is not held or NaN.
        sizes: quantity -> its size; kind, a colon and a name, such as `gyroscope: foot`.
    """

    subject: str
    name: str
    hashes: np.ndarray
    sizes: dict[str, float]


def summarize_trial(
    subject: str,
    name: str,
    sensors: Sequence[str],
    acc: np.ndarray,
    gyr: np.ndarray,
    targets: np.ndarray,
    units: Sequence[str],
) -> Trial:
    """Return what is needed to compare a trial with the others.

    Args:
        subject: subject id.
        name: name of the trial.
        sensors: names of the IMUs.
        acc: `(samples, 3 * sensors)` in the unit of the dataset.
        gyr: the same samples of the gyroscopes.
        targets: `(samples, K)` in the units of the dataset.
        units: unit of each target; those with the same unit are compared together.
    """
    imus = np.ascontiguousarray(np.hstack([acc, gyr]), np.float32)
    is_new = np.isfinite(imus).all(axis=1)
    is_new[1:] &= (imus[1:] != imus[:-1]).any(axis=1)
    hashes = pd.util.hash_pandas_object(pd.DataFrame(imus[is_new]), index=False).to_numpy()
    sizes = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        speeds = [percentile(norm, 75) for norm in _norms(sensors, gyr)]
        for sensor, speed, norm in zip(sensors, speeds, _norms(sensors, acc), strict=True):
            low, median, high = (percentile(norm, percent) for percent in (10, 50, 90))
            sizes[f"accelerometer: {sensor}"] = median
            sizes[f"gyroscope: {sensor}"] = speed * median / (high - low)
    for unit in dict.fromkeys(units):
        columns = [k for k, other in enumerate(units) if other == unit]
        largest = [percentile(np.abs(targets[:, k]), 99) for k in columns]
        sizes[f"{'forces' if unit == 'BW' else 'targets'}: {unit}"] = float(np.fmax.reduce(largest))
    return Trial(subject, name, hashes, {k: v for k, v in sizes.items() if 0 < v < np.inf})


def compare_trials(trials: Sequence[Trial]) -> list[str]:
    """Return a message for each pair of copies, and for each subject or trial in another unit."""
    return [*_check_copies(trials), *_check_sizes(trials)]


def _check_copies(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the pairs of trials with the same samples."""
    counts = [len(trial.hashes) for trial in trials]
    table = pd.DataFrame(
        {
            "hash": np.concatenate([np.empty(0, np.uint64), *(t.hashes for t in trials)]),
            "trial": np.repeat(np.arange(len(trials)), counts),
        }
    ).drop_duplicates()
    table = table[table["hash"].duplicated(keep=False)].sort_values(["hash", "trial"])
    is_same = table["hash"].to_numpy()[1:] == table["hash"].to_numpy()[:-1]
    number = table["trial"].to_numpy()
    pairs, shared = np.unique(
        np.column_stack([number[:-1][is_same], number[1:][is_same]]), axis=0, return_counts=True
    )
    for (i, k), count in zip(pairs.tolist(), shared.tolist(), strict=True):
        share = count / min(counts[i], counts[k])
        if share < COPIED_SHARE or count < FEWEST_COPIED:
            continue
        one, two = trials[i], trials[k]
        same = f"{100 * share:.0f} % of the samples are equal, almost certainly a copy"
        if one.subject == two.subject:
            yield f"subject {one.subject}: {one.name} and {two.name}: {same}; remove one"
        else:
            yield (
                f"subject {one.subject}, {one.name} and subject {two.subject}, {two.name}: {same}; "
                "a held-out subject would be trained on. Correct the subject, or remove one"
            )


def _check_sizes(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the subjects, or single trials, whose quantities are far from those of the others."""
    table = pd.DataFrame([trial.sizes for trial in trials])
    subjects = pd.Series([trial.subject for trial in trials], dtype=object)
    if len(trials) < 2 or table.empty:
        return
    logs = np.log(table)
    typical = logs.groupby(subjects).median()
    found: dict[tuple[str, str, bool], list[tuple[int, str, float]]] = {}
    for quantity in table:
        kind, _, name = quantity.partition(": ")
        for subject, rows in logs.groupby(subjects, sort=False):
            reference = typical[quantity]  # of three or more, one may be wrong
            reference = (reference if len(reference) > 2 else reference.drop(subject)).dropna()
            for i, own in rows[quantity].dropna().items():
                if len(typical) == 1:
                    reference = rows[quantity].drop(i).dropna()
                ratio = own - reference.median()  # NaN without a reference
                if abs(ratio) > np.log(UNLIKE_RATIO[kind]):
                    found.setdefault((kind, subject, ratio > 0), []).append((i, name, ratio))
    yield from _describe_sizes(trials, found)


def _describe_sizes(
    trials: Sequence[Trial], found: Mapping[tuple[str, str, bool], list[tuple[int, str, float]]]
) -> Iterator[str]:
    """Yield one message per kind of quantity, subject and direction.

    Args:
        trials: the trials.
        found: kind, subject, and whether it is larger -> trial, name of the quantity, log of ratio.
    """
    totals = pd.Series([trial.subject for trial in trials]).value_counts()
    others = f"other {'trials' if len(totals) == 1 else 'subject' + 's' * (len(totals) > 2)}"
    is_described = set()
    for (kind, subject, is_larger), ratios in found.items():
        places = dict.fromkeys(i for i, _, _ in ratios)
        is_whole = len(places) == totals[subject]
        if (len(totals) == 2 and is_whole) or len(trials) == 2:  # either may be wrong
            if kind in is_described:
                continue
            is_described.add(kind)
        factor = float(np.exp(np.median([abs(ratio) for _, _, ratio in ratios])))
        text = f"{factor:,.0f}" if factor > 100 else f"{factor:.3g}"
        size = f"{text} times" if is_larger else f"1/{text} of"
        hints = [
            text for f, text in FACTORS[kind].items() if 1 / SAME_FACTOR < factor / f < SAME_FACTOR
        ]
        cause = f"; probably {hints[0]} mixed up" if hints else "; another unit, or a fault?"
        where = shorten(", ".join(trials[i].name for i in places), 100)
        link = " " if kind in ("gyroscope", "accelerometer") else " in "
        names = shorten(", ".join(dict.fromkeys(name for _, name, _ in ratios)), 60)
        yield (
            f"subject {subject}{'' if is_whole and len(totals) > 1 else f': {where}'}: "
            f"{kind}{link}{names}: {size} those of the {others}{cause}"
        )


def percentile(values: np.ndarray, percent: float) -> float:
    """Return a percentile of the finite values, NaN if there are none."""
    values = values[np.isfinite(values)]
    return float(np.percentile(values, percent)) if len(values) else np.nan


def _norms(sensors: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return the norm of each sensor's vector, `(sensors, samples)`."""
    return np.linalg.norm(values.reshape(len(values), len(sensors), 3), axis=2).T
