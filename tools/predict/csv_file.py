"""A recording from a CSV with column names and a time column, at any sampling rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from common.data import Columns
from common.files import InputError, shorten
from tools.predict.recording import TIME, Piece, columns_to_read, input_columns
from tools.signals import anti_alias, interpolate
from tools.trained import Trained

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SLOWEST, FASTEST = 0.1, 500.0  # times the network's rate; beyond, the unit of time must be wrong
HIGHER = 1.02  # times the network's rate: above, a recording is low-passed; clocks are inexact
LONGEST_GAP = 2.0  # sampling intervals: a shorter one is never a gap, however slow the recording
ROUNDING = 1e-6  # of a sampling interval, in the last time of a grid
TIME_DIGITS = 6  # of the times in the output, in s


class Clock(NamedTuple):
    """The time of a CSV.

    Attributes:
        column: name of its column.
        unit: a key of `SECONDS`.
        max_gap_s: the longest gap that is interpolated, in s.
    """

    column: str
    unit: str
    max_gap_s: float


def read_csv(path: Path, trained: Trained, clock: Clock) -> Iterator[Piece]:
    """Read a CSV, and resample every stretch without a gap to the network's rate.

    A line with an empty cell in a column that the network reads counts as a gap.

    Args:
        path: the file.
        trained: the network.
        clock: the time of the file.

    Yields:
        A piece per stretch.

    Raises:
        InputError: The file cannot be used; the message names the place and the remedy.
    """
    rate_hz = trained.script.RATE_HZ
    names = _read_names(path)
    inputs = input_columns(trained)
    read = columns_to_read(path, trained, names)
    if clock.column not in names:
        raise InputError(
            f"{path}: no time column {clock.column}; name it by --time-column, one of "
            f"{shorten(', '.join(names))}"
        )
    table = _read_numbers(path, names, [clock.column, *read])
    _check_increasing(path, clock.column, table[clock.column].to_numpy())
    start = table[clock.column].iloc[0]
    complete = table[table[inputs].notna().all(axis=1)]
    if len(complete) < 2:
        empty = [name for name in inputs if table[name].isna().all()]
        raise InputError(
            f"{path}: fewer than two lines have a number in every column that the network reads; "
            + (f"supply {shorten(', '.join(empty))}" if empty else "supply a longer recording")
        )
    # From the first line on: float64 does not hold microseconds of the seconds since 1970.
    time_s = (complete[clock.column].to_numpy() - start) * SECONDS[clock.unit]
    own_hz = sampling_rate(time_s)
    _check_rate(path, own_hz, rate_hz)
    print(_describe_rate(own_hz, rate_hz))
    targets = [name for name in read if name not in inputs]
    positions = {name: i for i, name in enumerate(read)}
    for number, part in enumerate(split_at_gaps(time_s, clock.max_gap_s)):
        new_time_s, values = resample(
            time_s[part], complete[inputs][part].to_numpy(), own_hz, rate_hz
        )
        measured = interpolate(complete[targets][part].to_numpy(), time_s[part], new_time_s)
        columns = Columns(path, "the table", positions, np.hstack([values, measured]))
        labels = {TIME: np.round(start * SECONDS[clock.unit] + new_time_s, TIME_DIGITS)}
        yield Piece(labels, columns, np.full(len(new_time_s), number))


# Time ---------------------------------------------------------------------------------------------


def sampling_rate(time_s: np.ndarray) -> float:
    """Return the sampling rate in Hz, from the median interval of increasing times `(n,)` in s."""
    return 1.0 / float(np.median(np.diff(time_s)))


def split_at_gaps(time_s: np.ndarray, max_gap_s: float) -> list[slice]:
    """Split increasing times where an interval is longer than `max_gap_s` and than two intervals.

    A single sample between two gaps is left out, since nothing can be interpolated from it.
    """
    longest_s = max(max_gap_s, LONGEST_GAP / sampling_rate(time_s))
    gaps = np.flatnonzero(np.diff(time_s) > longest_s) + 1
    bounds = [0, *gaps.tolist(), len(time_s)]
    return [slice(start, stop) for start, stop in pairwise(bounds) if stop - start > 1]


def resample(
    time_s: np.ndarray, values: np.ndarray, own_hz: float, rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a stretch by a cubic spline, which leaves a sample at one of the new times as it is.

    A higher rate is first interpolated to regular times and low-passed without a delay, so that
    nothing is aliased.

    Args:
        time_s: increasing times `(n,)`, at least two, without a gap.
        values: `(n, c)` without NaN.
        own_hz: rate of the recording.
        rate_hz: rate to resample to.

    Returns:
        The new times `(m,)` in s, from the first one on, and the values `(m, c)`.
    """
    duration_s = time_s[-1] - time_s[0]
    new_time_s = time_s[0] + np.arange(int(duration_s * rate_hz + ROUNDING) + 1) / rate_hz
    if own_hz > HIGHER * rate_hz:
        regular_s = np.linspace(time_s[0], time_s[-1], max(round(duration_s * own_hz) + 1, 2))
        values = anti_alias(CubicSpline(time_s, values)(regular_s), own_hz, rate_hz)
        time_s = regular_s
    return new_time_s, CubicSpline(time_s, values)(new_time_s)


def _check_increasing(path: Path, column: str, time: np.ndarray) -> None:
    is_wrong = ~(np.diff(time) > 0)  # true for NaN, too
    if is_wrong.any() or np.isnan(time).any():
        line = int(np.argmax(is_wrong)) + 2 if is_wrong.any() else 1
        raise InputError(
            f"{path}: {column}, line {line} below the names: the time does not increase there; "
            "sort the lines, drop repeated ones and give every line a time, or split the file"
        )


def _check_rate(path: Path, own_hz: float, rate_hz: float) -> None:
    if not SLOWEST * rate_hz <= own_hz <= FASTEST * rate_hz:
        raise InputError(
            f"{path}: {own_hz:.3g} samples per second, but the network reads {rate_hz:g}; check "
            "--time-unit and --time-column, or record at a higher rate"
        )


def _describe_rate(own_hz: float, rate_hz: float) -> str:
    text = f"Recorded at {own_hz:.4g} Hz, resampled to the network's {rate_hz:g} Hz"
    if own_hz < 0.98 * rate_hz:
        text += f"; it lacks the frequencies above {own_hz / 2:.3g} Hz that the network has seen"
    return text


# Text ---------------------------------------------------------------------------------------------


def _read_names(path: Path) -> list[str]:
    """Return the column names."""
    first = _parse(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [name.strip() for name in first.iloc[0]]
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise InputError(f"{path}: two columns are named {shorten(repeated[0])}; rename one")
    if len(names) == 1:
        raise InputError(
            f"{path}: one column, {shorten(names[0])}; save it with names in the first line and "
            "commas between columns"
        )
    return names


def _read_numbers(path: Path, names: Sequence[str], wanted: Sequence[str]) -> pd.DataFrame:
    """Return the wanted columns as float64; an empty cell is NaN."""
    positions = sorted({names.index(name) for name in wanted})
    table = _parse(
        path, header=None, skiprows=1, usecols=positions, index_col=False, low_memory=False
    )
    table.columns = [names[i] for i in positions]
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        is_wrong = (numbers.isna() & table[name].notna()) | np.isinf(numbers)
        if is_wrong.any():
            line = int(np.argmax(is_wrong))
            raise InputError(
                f"{path}: {name}, line {line + 1} below the names: {shorten(table[name][line])} "
                "is not a number; correct it, or leave the cell empty if nothing was measured"
            )
        table[name] = numbers
    return table


def _parse(path: Path, **options: Any) -> pd.DataFrame:  # noqa: ANN401
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except pd.errors.EmptyDataError as error:
        raise InputError(
            f"{path}: no lines; it must have names in the first line and numbers below"
        ) from error
    except (OSError, ValueError) as error:  # pandas' errors and wrong encodings are ValueErrors
        raise InputError(
            f"{path}: not a CSV ({shorten(error)}); save it in UTF-8 with commas between columns"
        ) from error
