"""A trial in a file of its own, with named columns, resampled to the rate of a script.

The file is a text file or a MATLAB file. In text, encoding, delimiter, decimal commas, lines above
the names, a line of units below them and date-times are recognized. In a MATLAB file, a vector is a
column with the name of its variable, and a matrix `acc` has the columns `acc_1`, `acc_2` and so on;
fields of a structure are named `trial.acc`.
"""

from __future__ import annotations

import argparse
import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import io as scipy_io
from scipy.interpolate import CubicSpline

from common.cli import ArgumentParser, positive_float
from common.data import SensorSet
from common.files import InputError, shorten
from common.runs import Script
from tools.signals import TO_M_S2, TO_RAD_S, anti_alias, interpolate
from tools.trained import dataset_name, script_columns, target_columns

ACC_UNITS = {"m/s2": TO_M_S2["m/s²"], "g": TO_M_S2["g"]}  # in m/s²
GYR_UNITS = TO_RAD_S  # in rad/s
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
MAX_GAP_S = 0.03
SLOWEST, FASTEST = 0.1, 500.0  # times the script's rate; beyond, the unit of time must be wrong
LOWER, HIGHER = 0.98, 1.02  # times the script's rate: clocks are inexact
BURSTS = 1.1  # ratio of the rates from the median interval and from the number of samples
LONGEST_GAP = 2.0  # sampling intervals: a shorter one is never a gap, however slow the recording
ROUNDING = 1e-6  # of a sampling interval, in the last time of a grid

HEAD_BYTES = 2**17  # from which the format of the file is recognized; the longest cell of `csv`
HEAD_LINES = 100
MATLAB_SUFFIX = ".mat"
DELIMITERS = ",;\t|"
COMMENTS = ("//", "#", "%", "sep=")
UNIT_SPELLINGS = {  # in a line of units, after `_unit`
    **dict.fromkeys(("m/s2", "m/s/s", "ms-2", "mps2"), "m/s2"),
    **dict.fromkeys(("g", "gn", "g0"), "g"),
    **dict.fromkeys(("rad/s", "rads-1", "rad/sec", "radps"), "rad/s"),
    **dict.fromkeys(("deg/s", "degs-1", "deg/sec", "degps", "dps"), "deg/s"),
    **dict.fromkeys(("s", "sec", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanoseconds"), "ns"),
}
PLAIN_LETTERS = str.maketrans(
    {
        **dict.fromkeys("[](){}^*·\"' ", ""),
        **{"²": "2", "⁻": "-", "¹": "1", "°": "deg", "µ": "u", "μ": "u"},
    }
)


class Clock(NamedTuple):
    """The time of a file.

    Attributes:
        column: name of its column.
        unit: a key of `SECONDS`; None for the unit that the file states, or else s.
        max_gap_s: the longest gap that is interpolated, in s.
        rate_hz: the rate of a file without a time column; None to read the column.
    """

    column: str = "time"
    unit: str | None = None
    max_gap_s: float = MAX_GAP_S
    rate_hz: float | None = None


class Units(NamedTuple):
    """Units of a recording; None for those of the script.

    Attributes:
        acc: a key of `ACC_UNITS`.
        gyr: a key of `GYR_UNITS`.
    """

    acc: str | None
    gyr: str | None

    def factors(self, script: Script) -> dict[str, float]:
        """Return, per modality, the factor to the unit of the script."""
        own_unit = script.UNITS["gyr"]
        gyr_factor = GYR_UNITS[self.gyr or own_unit] / GYR_UNITS[own_unit]
        return {"acc": ACC_UNITS[self.acc or "m/s2"], "gyr": gyr_factor}


class Source(NamedTuple):
    """The column of the file that a column of the script is read from, and its sign."""

    name: str
    sign: float = 1.0


class TrialFile(NamedTuple):
    """A file and its format.

    Attributes:
        path: the file.
        names: the column names.
        encoding: encoding of a text file.
        delimiter: the character between its columns.
        names_line: number of lines above its names.
        units: column name -> unit as written; empty without a line of units.
        arrays: the columns of a MATLAB file; None for a text file.
    """

    path: Path
    names: list[str]
    encoding: str = ""
    delimiter: str = ","
    names_line: int = 0
    units: Mapping[str, str] = {}
    arrays: pd.DataFrame | None = None

    @property
    def first_line(self) -> int:
        """Number of the first line of numbers, counted from the names."""
        return 2 if self.units else 1

    def place(self, sample: int) -> str:
        """Return where a sample, counted from 0, stands in the file."""
        if self.arrays is not None:
            return f"row {sample + 1}"
        return f"line {sample + self.first_line} below the names"


class Stretch(NamedTuple):
    """A part of a trial without a gap.

    Attributes:
        time_s: `(samples,)` times at the script's rate, from the first line of the file.
        values: `(samples, columns)` at the script's rate; NaN where a target was not measured.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
    """

    time_s: np.ndarray
    values: np.ndarray
    recorded: np.ndarray


class Trial(NamedTuple):
    """A trial, resampled to the rate of a script.

    Attributes:
        names: the columns: those of the inputs, then those of the targets if they were read.
        stretches: the parts without a gap.
        own_hz: rate of the recording.
        start_s: time of its first line, 0 for a date.
        units: its units, those of the file where the user has given none.
        notes: what was found out about its time.
        notices: what is doubtful in it.
        gaps: descriptions of the gaps at which it was split.
    """

    names: list[str]
    stretches: list[Stretch]
    own_hz: float
    start_s: float
    units: Units
    notes: list[str]
    notices: list[str]
    gaps: list[str]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that describe a file with named columns."""
    add = parser.add_argument
    add(
        "--columns",
        nargs="+",
        metavar="OURS=[-]YOURS",
        help="names of the columns in a CSV or MATLAB file, as pairs or as one FILE with the "
        "columns yours,ours (default: the names in the script)",
    )
    add("--time-column", metavar="NAME", help="name of its time column (default: time)")
    add(
        "--time-unit",
        choices=SECONDS,
        help="unit of its time (default: that in a line of units, or s)",
    )
    add(
        "--recorded-hz",
        type=positive_float,
        metavar="HZ",
        help="its sampling rate, if it has no time column",
    )
    add(
        "--max-gap",
        type=positive_float,
        metavar="SECONDS",
        help="its gaps are interpolated up to this length, or two sampling intervals if that is "
        f"longer; a longer gap splits the recording (default: {MAX_GAP_S})",
    )
    add(
        "--acc-unit",
        choices=ACC_UNITS,
        help="unit of the accelerometers (default: that in a line of units, or m/s2)",
    )
    add(
        "--gyr-unit",
        choices=GYR_UNITS,
        help="unit of the gyroscopes (default: that in a line of units, or that in the script: "
        "rad/s in A, deg/s in B)",
    )


def parse_clock(args: argparse.Namespace) -> Clock:
    """Return the time of a file from the flags.

    Raises:
        InputError: They contradict each other.
    """
    if args.recorded_hz and (args.time_column or args.time_unit):
        raise InputError("--recorded-hz is for a file without time; leave out one of the flags")
    return Clock(
        args.time_column or "time", args.time_unit, args.max_gap or MAX_GAP_S, args.recorded_hz
    )


def read_trial(
    path: Path,
    script: Script,
    sensor_set: SensorSet,
    clock: Clock,
    units: Units,
    mapping: Mapping[str, Source],
    needs_targets: bool = False,
) -> Trial:
    """Read a file, and resample every stretch without a gap to the script's rate.

    A line with an empty cell in a column of the inputs counts as a gap. The targets may have empty
    cells; unless they are needed, they are read only if the file has the columns of all of them.

    Args:
        path: the file.
        script: the script.
        sensor_set: the sensors and modalities to read.
        clock: the time of the file.
        units: the units that the user has given.
        mapping: column of the script -> column of the file, for those with another name.
        needs_targets: whether the file must have the targets.

    Raises:
        InputError: The file cannot be used; the message names the place and the remedy.
    """
    sources = {name: Source(name) for name in script_columns(script)} | dict(mapping)
    file = _open(path, [clock.column], [source.name for source in sources.values()])
    inputs, targets = script.column_names(sensor_set), target_columns(script)
    needed = [*inputs, *targets] if needs_targets else inputs
    _check_names(file, {name: sources[name] for name in needed})
    has_targets = {sources[name].name for name in targets} <= set(file.names)
    read = [*inputs, *targets] if has_targets else inputs
    time_columns = [] if clock.rate_hz else [clock.column]
    if not set(time_columns) <= set(file.names):
        raise InputError(
            f"{path}: no time column {clock.column}; name it by --time-column, one of "
            f"{shorten(', '.join(file.names))}, or give --recorded-hz"
        )
    count = 3 * len(sensor_set.sensors)
    own = [sources[name].name for name in inputs]
    units = Units(
        _unit(file, "--acc-unit", ACC_UNITS, units.acc, own[:count]),
        _unit(file, "--gyr-unit", GYR_UNITS, units.gyr, own[count : 2 * count]),
    )
    table = _read_table(file, [*time_columns, *(sources[name].name for name in read)])
    notes: list[str] = []
    if clock.rate_hz:
        all_s, start_s = np.arange(len(table)) / clock.rate_hz, 0.0
    else:
        all_s, start_s = _read_time(file, clock, table[clock.column], notes)
    numbers = {name: _numbers(file, table[sources[name].name]) for name in read}
    values = np.column_stack([sources[name].sign * numbers[name] for name in read])
    is_complete = np.isfinite(values[:, : len(inputs)]).all(axis=1)
    kept = np.flatnonzero(is_complete)
    if len(kept) < 2:
        empty = [sources[name].name for name in inputs if np.isnan(numbers[name]).all()]
        raise InputError(
            f"{path}: fewer than two lines have a number in every column that the network reads; "
            f"supply {shorten(', '.join(empty)) if empty else 'a longer recording'}"
        )
    time_s = all_s[kept]
    parts = split_at_gaps(time_s, clock.max_gap_s)
    its_times = [time_s[part] for part in parts] or [time_s]
    own_hz = sum(len(part) - 1 for part in its_times) / sum(np.ptp(part) for part in its_times)
    notices = _check_rate(path, own_hz, script.RATE_HZ, time_s, notes)
    stretches = []
    for part in parts:
        signals, measured = np.split(values[kept[part]], [len(inputs)], axis=1)
        new_time_s, resampled = resample(time_s[part], signals, own_hz, script.RATE_HZ)
        measured = resample_with_nan(time_s[part], measured, own_hz, script.RATE_HZ, new_time_s)
        stretches.append(Stretch(new_time_s, np.hstack([resampled, measured]), signals))
    gaps = [
        _describe_gap(file, all_s, values[:, : len(inputs)], own, kept[[one.stop - 1, two.start]])
        for one, two in pairwise(parts)
    ]
    return Trial(read, stretches, own_hz, start_s, units, notes, notices, gaps)


def _describe_gap(
    file: TrialFile, time_s: np.ndarray, inputs: np.ndarray, names: Sequence[str], ends: np.ndarray
) -> str:
    """Return where a gap is, how long, and which columns are empty in it.

    Args:
        file: the file.
        time_s: `(lines,)` times.
        inputs: `(lines, C)` the columns of the inputs.
        names: their names.
        ends: the lines before and after the gap.
    """
    before, after = ends.tolist()
    is_empty = np.isnan(inputs[before + 1 : after]).any(axis=0)
    empty = [name for name, is_missing in zip(names, is_empty, strict=True) if is_missing]
    text = f"gap of {time_s[after] - time_s[before]:.3g} s after {file.place(before)}"
    return f"{text}, no {shorten(', '.join(empty), 100)}" if empty else text


# Column names -------------------------------------------------------------------------------------


def parse_mapping(arguments: Sequence[str], script: Script) -> dict[str, Source]:
    """Return column of the script -> column of the file, from the arguments of `--columns`.

    Args:
        arguments: a CSV with the columns `yours` and `ours`, or pairs `ours=[-]yours`.
        script: the script, whose columns are known.

    Raises:
        InputError: They are not like that.
    """
    if len(arguments) == 1 and "=" not in arguments[0]:
        pairs = _read_mapping(Path(arguments[0]))
    else:
        pairs = [tuple(argument.partition("=")[::2]) for argument in arguments]
        if not all(yours.strip(" -") for _, yours in pairs):
            raise InputError("--columns: give one FILE, or pairs such as foot_Accel_X=-Acc_Y")
    known = script_columns(script)
    mapping = {}
    for ours, yours in ((ours.strip(), yours.strip()) for ours, yours in pairs):
        if ours not in known:
            raise InputError(
                f"--columns: {shorten(ours) or 'empty name'}: not a column of Dataset "
                f"{dataset_name(script)} such as {known[0]}; write {known[0]}=YOURS, or "
                f"{known[0]}=-YOURS for the opposite sign"
            )
        if ours in mapping:
            raise InputError(f"--columns: {ours} is mapped twice; leave one of them out")
        name = yours.removeprefix("-").strip()
        if name:
            mapping[ours] = Source(name, -1.0 if yours.startswith("-") else 1.0)
    return mapping


def _read_mapping(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise InputError(
            f"--columns {path}: no such file; give a CSV with the columns yours,ours, or pairs "
            "such as foot_Accel_X=-Acc_Y"
        )
    file = _open(path, ["yours", "ours"])
    if not {"yours", "ours"} <= set(file.names):
        raise InputError(f"--columns {path}: its first line must be yours,ours")
    table = _read_table(file, ["ours", "yours"], dtype=str, keep_default_na=False)
    return list(zip(table["ours"], table["yours"], strict=True))


class MissingColumnsError(InputError):
    """A file lacks columns; `template` is a mapping to fill in."""

    def __init__(self, message: str, template: str) -> None:
        super().__init__(message)
        self.template = template


def _check_names(file: TrialFile, sources: Mapping[str, Source]) -> None:
    """Check that the file has all columns.

    Raises:
        MissingColumnsError: It does not.
    """
    missing = [ours for ours, source in sources.items() if source.name not in file.names]
    if not missing:
        return
    template = io.StringIO()
    writer = csv.writer(template, lineterminator="\n")
    writer.writerow(["yours", "ours"])
    for ours, (name, sign) in sources.items():
        writer.writerow(["" if ours in missing else f"{'-' if sign < 0 else ''}{name}", ours])
    names = ", ".join(
        ours if sources[ours].name == ours else f"{sources[ours].name} (for {ours})"
        for ours in missing
    )
    raise MissingColumnsError(
        f"{file.path}: no column {shorten(names, 500)}, which the network reads; name yours by "
        f"--columns, among {shorten(', '.join(filter(None, file.names)), 500)}; or use a smaller "
        "sensor set",
        template.getvalue(),
    )


@contextmanager
def print_template() -> Iterator[None]:
    """If columns are missing, print a template of a mapping before the error."""
    try:
        yield
    except MissingColumnsError as error:
        print(
            "Template for --columns FILE; fill in your names, with a minus sign where your axis "
            f"points the other way:\n{error.template}",
            end="",
        )
        raise


# Units --------------------------------------------------------------------------------------------


def _unit(
    file: TrialFile, flag: str, known: Iterable[str], given: str | None, columns: Sequence[str]
) -> str | None:
    """Return the common unit of columns, which the user has given or else the file states.

    Raises:
        InputError: The units contradict each other, or one is unknown.
    """
    units = {given}
    for column in columns:
        stated = file.units.get(column)
        if not stated:
            continue
        place = f"{file.path}: {column}: unit {shorten(stated, 40)}"
        unit = UNIT_SPELLINGS.get(stated.translate(PLAIN_LETTERS).casefold())
        if unit not in known:
            raise InputError(
                f"{place}, but {flag} knows {', '.join(known)}; convert the values and correct the "
                "unit"
            )
        if units - {None, unit}:
            other = f"{flag} {given}" if given else "that of another column"
            raise InputError(
                f"{place}, which contradicts {other}; leave out {flag}, or correct the line of "
                "units"
            )
        units = {unit}
    return units.pop()


# Time ---------------------------------------------------------------------------------------------


def split_at_gaps(time_s: np.ndarray, max_gap_s: float) -> list[slice]:
    """Split increasing times where an interval is longer than `max_gap_s` and than two intervals.

    A single sample between two gaps is left out, since nothing can be interpolated from it.
    """
    intervals_s = np.diff(time_s)
    longest_s = max(max_gap_s, LONGEST_GAP * float(np.median(intervals_s)))
    gaps = np.flatnonzero(intervals_s > longest_s) + 1
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


def resample_with_nan(
    time_s: np.ndarray, values: np.ndarray, own_hz: float, rate_hz: float, new_time_s: np.ndarray
) -> np.ndarray:
    """Resample values `(n, c)` that may be NaN linearly; a higher rate is first low-passed."""
    if own_hz > HIGHER * rate_hz:
        regular_s = np.linspace(time_s[0], time_s[-1], len(time_s))
        values = anti_alias(interpolate(values, time_s, regular_s), own_hz, rate_hz)
        time_s = regular_s
    return interpolate(values, time_s, new_time_s)


def _read_time(
    file: TrialFile, clock: Clock, column: pd.Series, notes: list[str]
) -> tuple[np.ndarray, float]:
    """Return the times in s from the first line on, and the time of the first line in s.

    The difference is taken first: float64 does not hold microseconds of the seconds since 1970.
    The first line of date-times has the time 0.
    """
    place = f"{file.path}: {clock.column}"
    if pd.api.types.is_numeric_dtype(column) or _is_number(column.iloc[0], file.delimiter):
        ticks = _numbers(file, column)
        unit = _unit(file, "--time-unit", SECONDS, clock.unit, [clock.column]) or "s"
        time_s, start_s = (ticks - ticks[0]) * SECONDS[unit], ticks[0] * SECONDS[unit]
    elif clock.unit:
        raise InputError(f"{place}: dates or times of day, not numbers; leave out --time-unit")
    else:
        times = _date_times(file, column)
        time_s, start_s = (times - times.iloc[0]).dt.total_seconds().to_numpy(), 0.0
        notes.append(f"Time 0 is {shorten(column.iloc[0])}")
    is_wrong = ~(np.diff(time_s, prepend=-np.inf) > 0)  # true for NaN, too
    if is_wrong.any():
        raise InputError(
            f"{place}, {file.place(int(np.argmax(is_wrong)))}: the time does not increase there; "
            "sort the lines, drop repeated ones and give every line a time, or split the file"
        )
    return time_s, float(start_s)


def _date_times(file: TrialFile, column: pd.Series) -> pd.Series:
    """Return dates with times, or times of day."""
    text = _decimal_points(file.delimiter, column)
    for parse in (
        pd.to_timedelta,
        partial(pd.to_datetime, format="ISO8601", utc=True),
        partial(pd.to_datetime, format="mixed", utc=True),
    ):
        times = parse(text, errors="coerce")
        if not times.isna().any():
            return times
    line = int(np.argmax(times.isna()))
    raise InputError(
        f"{file.path}: {column.name}, {file.place(line)}: {shorten(text[line])} is neither a "
        "number nor a date or time; correct it, or choose another --time-column"
    )


def _check_rate(
    path: Path, own_hz: float, rate_hz: float, time_s: np.ndarray, notes: list[str]
) -> list[str]:
    """Check the sampling rate, add a note of it, and return doubts about it.

    Raises:
        InputError: It is far too low or too high.
    """
    if not SLOWEST * rate_hz <= own_hz <= FASTEST * rate_hz:
        raise InputError(
            f"{path}: {own_hz:.3g} samples per second, but the network reads {rate_hz:g}; check "
            "--time-unit and --time-column, or record at a higher rate"
        )
    text = f"Recorded at {own_hz:.4g} Hz, resampled to the network's {rate_hz:g} Hz"
    if own_hz < LOWER * rate_hz:
        text += f"; it lacks the frequencies above {own_hz / 2:.3g} Hz that the network has seen"
    notes.append(text)
    median_hz = 1 / float(np.median(np.diff(time_s)))
    if 1 / BURSTS <= median_hz / own_hz <= BURSTS:
        return []
    return [
        f"the median interval is that of {median_hz:.4g} Hz: samples arrive in bursts, or some are "
        "lost. The times are used as they are; if they are times of arrival, replace them with "
        "times of measurement."
    ]


# Files --------------------------------------------------------------------------------------------


def _open_matlab(path: Path) -> TrialFile:
    """Read the numeric arrays of a MATLAB file, as long as the longest axis of any of them.

    Raises:
        InputError: It is not such a file.
    """
    try:
        variables = scipy_io.loadmat(path, simplify_cells=True)
    except NotImplementedError as error:  # version 7.3 is HDF5
        raise InputError(f"{path}: saved with -v7.3; save it with -v7 in MATLAB") from error
    except Exception as error:  # of a damaged file: anything
        raise InputError(f"{path}: not a MATLAB file ({shorten(error)}); save it again") from error
    arrays = dict(_numeric_arrays("", variables))
    samples = max((length for array in arrays.values() for length in array.shape), default=0)
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1 and len(array) == samples:
            columns[name] = array
        elif array.ndim == 2 and samples in array.shape:
            array = array if len(array) == samples else array.T
            columns |= {f"{name}_{i}": column for i, column in enumerate(array.T, start=1)}
    if not columns:
        raise InputError(
            f"{path}: no numeric arrays; save vectors or matrices, for example table2array of a "
            "table"
        )
    return TrialFile(path, list(columns), arrays=pd.DataFrame(columns))


def _numeric_arrays(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and the arrays of variables and, below them, of the fields of structures."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _numeric_arrays(f"{prefix}{name}.", value)
        elif getattr(value, "ndim", 0) in (1, 2) and value.dtype.kind in "fiub":
            yield f"{prefix}{name}", value


def _open(path: Path, wanted: Sequence[str], measured: Sequence[str] = ()) -> TrialFile:
    """Read a MATLAB file, or recognize the format of a text file from its first lines.

    The names are in the line with most of the wanted names; if there is none, in the first line
    with several cells.

    Args:
        path: the file.
        wanted: names of columns.
        measured: names of further columns, with numbers; a first line of text is one of units.

    Raises:
        InputError: It is not such a file.
    """
    if path.suffix.lower() == MATLAB_SUFFIX and path.is_file():
        return _open_matlab(path)
    encoding, text = _read_head(path)
    lines = list(islice(io.StringIO(text, newline=None), HEAD_LINES))
    rows = [_split(line) for line in lines]
    found = [len({*cells} & {*wanted, *measured}) for _, cells in rows]
    if any(found):
        line = int(np.argmax(found))
    else:
        candidates = (
            i
            for i, (_, cells) in enumerate(rows)
            if len(cells) > 1 and not lines[i].lower().lstrip('"').startswith(COMMENTS)
        )
        line = next(candidates, None)
    if line is None:
        if not text.strip():
            raise InputError(f"{path}: empty; it must have column names and numbers below")
        raise InputError(
            f"{path}: one column, {shorten(lines[0], 60)}; save it with column names and a comma, "
            "semicolon or tab between columns"
        )
    delimiter, names = rows[line]
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise InputError(f"{path}: two columns are named {shorten(repeated[0])}; rename one")
    below = filter(None, csv.reader(lines[line + 1 :], delimiter=delimiter))
    first_row = [cell.strip() for cell in next(below, [])]
    units = dict(zip(names, first_row, strict=False))
    stated = [units[name] for name in measured if units.get(name)]
    is_unit_line = bool(stated) and not any(_is_number(cell, delimiter) for cell in stated)
    return TrialFile(path, names, encoding, delimiter, line, units if is_unit_line else {})


def _read_head(path: Path) -> tuple[str, str]:
    """Return the encoding of a file and the start of its text."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    is_utf_16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if is_utf_16 else ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)
            if "\0" not in text:
                return encoding, text
    raise InputError(f"{path}: not a text file; save it as CSV in UTF-8")


def _split(line: str) -> tuple[str, list[str]]:
    """Return the delimiter and the cells of a line."""
    try:
        delimiter = csv.Sniffer().sniff(line, DELIMITERS).delimiter
    except csv.Error:
        return ",", [line.strip()]
    return delimiter, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_number(cell: object, delimiter: str) -> bool:
    try:
        float(_decimal_points(delimiter, [cell])[0])
    except ValueError:
        return False
    return True


def _decimal_points(delimiter: str, cells: Iterable[object]) -> pd.Series:
    """Return cells as text, with points for decimal commas."""
    text = pd.Series(cells).astype(str).str.strip()
    return text if delimiter == "," else text.str.replace(",", ".")


def read_table(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """Read a text file with all of these columns, as text; an empty cell is empty text.

    Raises:
        InputError: It is not such a file.
    """
    file = _open(path, wanted)
    missing = [name for name in wanted if name not in file.names]
    if missing:
        raise InputError(
            f"{path}: no column {' and no column '.join(missing)}; its first line must name "
            f"{','.join(wanted)}"
        )
    table = _read_table(file, wanted, dtype=str, keep_default_na=False)
    table = pd.DataFrame({name: _decimal_points(file.delimiter, table[name]) for name in wanted})
    return table[(table != "").any(axis=1)]


def _read_table(file: TrialFile, wanted: Sequence[str], **options: Any) -> pd.DataFrame:  # noqa: ANN401
    """Return the wanted columns; an empty cell is NaN.

    Raises:
        InputError: They cannot be read.
    """
    if file.arrays is not None:
        return file.arrays[list(dict.fromkeys(wanted))]
    positions = sorted({file.names.index(name) for name in wanted})
    try:
        table = pd.read_csv(
            file.path,
            encoding=file.encoding,
            sep=file.delimiter,
            decimal="." if file.delimiter == "," else ",",  # points are accepted, too
            header=None,
            skiprows=file.names_line + file.first_line,
            usecols=positions,
            index_col=False,
            low_memory=False,
            skipinitialspace=True,
            **options,
        )
    except pd.errors.EmptyDataError as error:
        raise InputError(
            f"{file.path}: no lines below the column names; add the numbers"
        ) from error
    except (OSError, ValueError) as error:  # pandas' errors and wrong encodings are ValueErrors
        raise InputError(
            f"{file.path}: not a table ({shorten(error)}); save it as CSV in UTF-8, with as many "
            "cells in every line as there are names"
        ) from error
    table.columns = [file.names[i] for i in positions]
    return table


def _numbers(file: TrialFile, column: pd.Series) -> np.ndarray:
    """Return a column as float64, NaN where the cell is empty.

    Raises:
        InputError: A cell is not a number.
    """
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.astype(float)
    else:
        text = _decimal_points(file.delimiter, column)
        numbers = pd.to_numeric(text, errors="coerce").astype(float)
    is_wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if is_wrong.any():
        line = int(np.argmax(is_wrong))
        raise InputError(
            f"{file.path}: {column.name}, {file.place(line)}: {shorten(column[line])} is not a "
            "number; correct it, or leave the cell empty if nothing was measured"
        )
    return numbers.to_numpy()
