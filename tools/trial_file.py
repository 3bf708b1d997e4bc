"""Read a recording with named columns, CSV, MATLAB or OpenSim, and resample it to a script's rate.

In a text file, encoding, delimiter, decimal commas, lines above the column names, a line of units
below them, dates and times of day are recognized. In a MATLAB file, a vector is a column with the
name of its variable, a matrix `acc` has the columns `acc_1`, `acc_2` and so on, and fields of a
structure are named `trial.acc`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from common.cli import ArgumentParser, positive_float
from common.files import InputError, printable, read_problem, shorten
from tools import opensim
from tools.clock import count_to_time, increase, parse_times
from tools.events import align_sensors, sort_events
from tools.matlab_file import read_matlab
from tools.plausibility import check_counter
from tools.signals import ROUNDING_S, TO_M_S2, TO_RAD_S, anti_alias, interpolate
from tools.text_file import find_unit, read_text, to_numbers

if TYPE_CHECKING:
    from common.data import SensorSet

ACC_UNITS = {"m/s2": TO_M_S2["m/s²"], "g": TO_M_S2["g"]}  # in m/s²
GYR_UNITS = TO_RAD_S  # in rad/s
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
TIME = "time (s)"  # column of the results
TIME_DIGITS = 6  # in s
MAX_GAP_S = 0.03
SLOWEST, FASTEST = 0.1, 500.0  # times the script's rate; beyond, the unit of time must be wrong
LOWER, HIGHER = 0.98, 1.02  # times the script's rate: clocks are inexact
BURSTS = 1.1  # ratio of the rates from the median interval and from the number of samples
LONGEST_GAP = 2.0  # sampling intervals: a shorter one is never a gap, however slow the recording
ROUNDING = 1e-6  # of a sampling interval, in the last time of a grid

MATLAB_SUFFIX = ".mat"


class Clock(NamedTuple):
    """How to find the time of each sample.

    Attributes:
        column: name of the time column; empty to count the lines.
        unit: a key of `SECONDS`; None for the unit that the file states, or else s.
        max_gap_s: the longest gap that is interpolated, in s.
        rate_hz: the rate of a file without times, whose time column, if any, counts samples; None
            to read the times.
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

    def factors(self, script: ModuleType) -> dict[str, float]:
        """Return, per modality, the factor to the unit of the script."""
        script_unit = script.UNITS["gyr"]
        gyr_factor = GYR_UNITS[self.gyr or script_unit] / GYR_UNITS[script_unit]
        return {"acc": ACC_UNITS[self.acc or "m/s2"], "gyr": gyr_factor}


class Source(NamedTuple):
    """The column of the file that a column of the script is read from.

    Attributes:
        name: its name.
        sign: 1, or -1 for the opposite sign.
        unit: its unit as the user states it; empty for that of the file.
    """

    name: str
    sign: float = 1.0
    unit: str = ""


class Stretch(NamedTuple):
    """A part of a trial without a gap.

    Attributes:
        time_s: `(samples,)` times at the script's rate, relative to the first line of the file.
        values: `(samples, columns)` at the script's rate; NaN where a target was not measured.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
        recorded_s: `(recorded samples,)` their times.
    """

    time_s: np.ndarray
    values: np.ndarray
    recorded: np.ndarray
    recorded_s: np.ndarray


class Trial(NamedTuple):
    """A trial, resampled to the rate of a script.

    Attributes:
        names: the columns: those of the inputs, of the targets if they were read, and others.
        stretches: the parts without a gap.
        own_hz: rate of the recording.
        start_s: time of its first line, 0 for a date.
        units: its units; None where neither the user nor the file states one.
        target_units: target -> its unit as stated by the user or the file.
        notes: facts about its times.
        notices: warnings about its times.
        gaps: descriptions of the gaps at which it was split.
    """

    names: list[str]
    stretches: list[Stretch]
    own_hz: float
    start_s: float
    units: Units
    target_units: dict[str, str]
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
        help="names of the columns in a CSV or MATLAB file: a FILE with the columns yours,ours, "
        "then pairs that replace its entries, or only one of these (default: the names of the "
        "dataset)",
    )
    add("--time-column", metavar="NAME", help="time column of a CSV or MATLAB file (default: time)")
    add(
        "--time-unit",
        choices=SECONDS,
        help="unit of the time column (default: that in the line of units, or s)",
    )
    add(
        "--recorded-hz",
        type=positive_float,
        metavar="HZ",
        help="sampling rate of a CSV or MATLAB file without times; with --time-column, that column "
        "counts samples, and missing numbers are gaps",
    )
    add(
        "--max-gap",
        type=positive_float,
        metavar="SECONDS",
        help="longest gap that is interpolated, at least two sampling intervals; a longer gap "
        f"splits the recording (default: {MAX_GAP_S})",
    )
    add(
        "--acc-unit",
        choices=ACC_UNITS,
        help="unit of the accelerometers (default: that in the line of units, or m/s2)",
    )
    add(
        "--gyr-unit",
        choices=GYR_UNITS,
        help="unit of the gyroscopes (default: that in the line of units, or that of the script: "
        "rad/s in A, deg/s in B)",
    )


def parse_clock(args: argparse.Namespace) -> Clock:
    """Return how to find the times, from the flags.

    Raises:
        InputError: The flags contradict each other.
    """
    if args.recorded_hz and args.time_unit:
        raise InputError("--recorded-hz is for a file without times; omit one of the flags")
    column = args.time_column or ("" if args.recorded_hz else "time")
    return Clock(column, args.time_unit, args.max_gap or MAX_GAP_S, args.recorded_hz)


def read_trial(
    path: Path,
    script: ModuleType,
    sensor_set: SensorSet,
    clock: Clock,
    units: Units,
    mapping: Mapping[str, Source],
    needs_targets: bool = False,
    others: Sequence[str] = (),
    read: Reader | None = None,
) -> Trial:
    """Read a file, and resample every stretch without a gap to the script's rate.

    A line with an empty cell in a column of the inputs counts as a gap. The targets may have empty
    cells; unless they are needed, they are read only if the file has the columns of all of them.

    Args:
        path: the file.
        script: the script.
        sensor_set: the sensors and modalities to read.
        clock: how to find the times.
        units: the units that the user has stated.
        mapping: column of the script -> column of the file, for those with another name.
        needs_targets: whether the file must have the targets.
        others: further columns of the file, which may have empty cells.
        read: reads the file; None for `read_columns`.

    Raises:
        InputError: The file cannot be used; the message says where, and how to fix it.
    """
    from tools.trained import channel_names, input_columns, target_columns  # imports PyTorch

    inputs, targets = input_columns(script, sensor_set), target_columns(script)
    sources = {name: mapping.get(name, Source(name)) for name in [*inputs, *targets]}
    sources |= {name: Source(name) for name in others}
    file = (read or read_columns)(path, [clock.column], [s.name for s in sources.values()])
    file.units.update({source.name: source.unit for source in sources.values() if source.unit})
    needed = [*inputs, *targets] if needs_targets else inputs
    _check_names(file, {name: sources[name] for name in [*needed, *others]})
    clock = file.own_clock(clock)
    if clock.column not in file.names and (clock.column or not clock.rate_hz):
        raise InputError(
            f"{path}: no time column {clock.column}; name it with --time-column, one of "
            f"{shorten(', '.join(file.names))}, or state {file.rate_flag}"
        )
    channels = channel_names(script, sensor_set)
    yours = {kind: [sources[name].name for name in channels[kind]] for kind in ("acc", "gyr")}
    units = Units(
        _unit(file, "--acc-unit", ACC_UNITS, units.acc, yours["acc"]),
        _unit(file, "--gyr-unit", GYR_UNITS, units.gyr, yours["gyr"]),
    )
    notes: list[str] = []
    notices = [*file.notices]
    if clock.rate_hz and not clock.column:
        all_s, start_s = np.arange(len(file.table)) / clock.rate_hz, 0.0
    else:
        table = file.table.dropna(how="all")  # spreadsheets write empty lines
        table = sort_events(table, clock.column, [sources[name].name for name in inputs])
        file = file._replace(table=table)
        all_s, start_s = read_time(file, clock, notes, notices)
        start_s = 0.0 if notes else start_s  # as the note says of dates and times of day
    if len(parts_s := np.diff(all_s)) and parts_s.max() < 1.5 * np.median(parts_s):
        notices += _check_counters(file)
    has_targets = {sources[name].name for name in targets} <= set(file.names)
    names = [*inputs, *(targets if has_targets else ()), *others]
    used = {name: sources[name] for name in names}
    columns = {name: s.sign * column_numbers(file, s.name) for name, s in used.items()}
    values, c = np.column_stack([*columns.values()]), len(inputs)
    lines, values = align_sensors(all_s, values, c, clock.max_gap_s)
    if len(lines) < len(all_s):
        notices.append("sensors have lines of their own; they were interpolated at the same times")
        file, all_s = file._replace(table=file.table.iloc[lines]), all_s[lines]
    kept = np.flatnonzero(np.isfinite(values[:, :c]).all(axis=1))
    if len(kept) < 2:
        empty = [sources[name].name for name in inputs if np.isnan(columns[name]).all()]
        hint = f"add {shorten(', '.join(empty))}" if empty else "provide a longer recording"
        if not empty and len(lines) < len(columns[inputs[0]]):
            hint = "record all sensors at the same time"
        raise InputError(
            f"{path}: fewer than two lines have a number in every column that the network reads; "
            f"{hint}"
        )
    time_s = all_s[kept]
    parts = split_at_gaps(time_s, clock.max_gap_s)
    part_times = [time_s[part] for part in parts] or [time_s]
    own_hz = sum(len(part) - 1 for part in part_times) / sum(np.ptp(part) for part in part_times)
    notices += check_rate(path, own_hz, script.RATE_HZ, time_s, notes)
    stretches = []
    for part in parts:
        signals, measured = np.split(values[kept[part]], [c], axis=1)
        new_time_s, resampled = resample(time_s[part], signals, own_hz, script.RATE_HZ)
        measured = resample_with_nan(time_s[part], measured, own_hz, script.RATE_HZ, new_time_s)
        joined = np.hstack([resampled, measured])
        stretches.append(Stretch(new_time_s, joined, signals, time_s[part]))
    gaps = []
    for one, two in pairwise(parts):
        before, after = kept[one.stop - 1], kept[two.start]
        is_empty = np.isnan(values[before + 1 : after, :c]).any(axis=0)
        empty = [sources[inputs[i]].name for i in np.flatnonzero(is_empty)]
        text = f"gap of {all_s[after] - all_s[before]:.3g} s after {file.place(before)}"
        gaps.append(f"{text}, no {shorten(', '.join(empty), 100)}" if empty else text)
    target_units = {name: file.units.get(sources[name].name, "") for name in targets}
    return Trial(names, stretches, own_hz, start_s, units, target_units, notes, notices, gaps)


def _check_counters(file: NamedColumns) -> Iterator[str]:
    """Yield a message for each column that counts samples and shows that some were lost."""
    if file.counters is not None:
        counters = file.counters.loc[file.table.index]
        for name in counters:
            counts = to_numbers(counters[name], file.decimal).to_numpy()
            for message in check_counter(name, counts, file.place):
                yield f"{message}; see --time-column with --recorded-hz"


# Column names -------------------------------------------------------------------------------------


def parse_mapping(arguments: Sequence[str], script: ModuleType) -> dict[str, Source]:
    """Return column of the script -> column of the file, from the arguments of `--columns`.

    Args:
        arguments: pairs `ours=[-]yours`, or a CSV with the columns `yours`, `ours` and optionally
            `unit` (a line without `ours` is ignored), or both: pairs replace entries of the CSV.
        script: the script, whose columns are known.

    Raises:
        InputError: A pair is malformed or names an unknown column, or there is no such file.
    """
    entries: list[list[str]] = []
    if arguments and "=" not in arguments[0]:
        path, *arguments = Path(arguments[0]), *arguments[1:]
        if problem := read_problem(path):
            raise InputError(
                f"--columns {path}: {problem}; pass a CSV with the columns yours,ours, or pairs "
                "such as foot_Accel_X=-Acc_Y"
            )
        table = read_table(path, ["ours", "yours"], ["unit"])
        entries = [[cell.strip() for cell in entry] for entry in table.values.tolist()]
    units = {yours.removeprefix("-").strip(): unit for _, yours, unit in entries}
    entries = [entry for entry in entries if entry[0]]
    pairs = [[cell.strip() for cell in argument.partition("=")[::2]] for argument in arguments]
    if not all(yours.strip(" -") for _, yours in pairs):
        raise InputError(
            "--columns: pass one FILE, pairs such as foot_Accel_X=-Acc_Y, or a FILE, then pairs"
        )
    replaced = {ours for ours, _ in pairs}
    entries = [entry for entry in entries if entry[0] not in replaced]
    entries += [[*pair, units.get(pair[1].removeprefix("-").strip(), "")] for pair in pairs]
    known = [name for names in script.COLUMNS.values() for name in names]
    mapping = {}
    for ours, yours, unit in entries:
        if ours not in known:
            from tools.trained import dataset_name  # imports PyTorch

            raise InputError(
                f"--columns: {shorten(ours) or 'empty name'}: not a column of Dataset "
                f"{dataset_name(script)} such as {known[0]}; write {known[0]}=YOURS, or "
                f"{known[0]}=-YOURS for the opposite sign"
            )
        if ours in mapping:
            raise InputError(f"--columns: {ours} is mapped twice; remove one of the entries")
        name = yours.removeprefix("-").strip()
        if name:
            mapping[ours] = Source(name, -1.0 if yours.startswith("-") else 1.0, unit)
    return mapping


class MissingColumnsError(InputError):
    """A file lacks columns; `template` is a mapping to fill in."""

    def __init__(self, message: str, template: str) -> None:
        super().__init__(message, template)  # both, so that the exception can be pickled
        self.template = template

    def __str__(self) -> str:
        return self.args[0]


def _check_names(file: NamedColumns, sources: Mapping[str, Source]) -> None:
    """Check that the file has all columns.

    Raises:
        MissingColumnsError: A column is missing.
    """
    missing = [ours for ours, source in sources.items() if source.name not in file.names]
    if not missing:
        return
    signed = {ours: f"{'-' if sign < 0 else ''}{name}" for ours, (name, sign, _) in sources.items()}
    yours = ["" if ours in missing else signed[ours] for ours in sources]
    names = ", ".join(
        ours if sources[ours].name == ours else f"{sources[ours].name} (for {ours})"
        for ours in missing
    )
    raise MissingColumnsError(
        f"{file.path}: no column {shorten(names, 500)}, which the network reads; name yours with "
        f"--columns, among {shorten(', '.join(filter(None, file.names)), 500)}; or use a smaller "
        "sensor set",
        pd.DataFrame({"yours": yours, "ours": [*sources]}).to_csv(index=False, lineterminator="\n"),
    )


@contextmanager
def print_template() -> Iterator[None]:
    """If columns are missing, print a template of a mapping before the error."""
    try:
        yield
    except MissingColumnsError as error:
        print(
            "Template for --columns FILE; fill in your names, with a minus sign where your axis "
            f"points the other way:\n{printable(error.template)}",
            end="",
        )
        raise


# Units --------------------------------------------------------------------------------------------


def _unit(
    file: NamedColumns, flag: str, known: Iterable[str], stated: str | None, columns: Sequence[str]
) -> str | None:
    """Return the common unit of columns, as the user or else the file states it.

    Raises:
        InputError: The units contradict each other, or one is unknown.
    """
    found = stated
    for column in columns:
        if not (written := file.units.get(column)):
            continue
        place = f"{file.path}: {column}: unit {shorten(written, 40)}"
        unit = find_unit(written)
        if unit not in known:
            raise InputError(
                f"{place}, but {flag} knows {', '.join(known)}; convert the values and correct the "
                "unit"
            )
        if found not in (None, unit):
            other = f"{flag} {stated}" if stated else "that of another column"
            raise InputError(
                f"{place}, which contradicts {other}; omit {flag}, or correct the line of units"
            )
        found = unit
    return found


# Time ---------------------------------------------------------------------------------------------


def split_at_gaps(time_s: np.ndarray, max_gap_s: float) -> list[slice]:
    """Split increasing times where an interval is longer than `max_gap_s` and than two intervals.

    A single sample between two gaps is dropped, since nothing can be interpolated from it.
    """
    intervals_s = np.diff(time_s)
    longest_s = max(max_gap_s, LONGEST_GAP * float(np.median(intervals_s)))
    gaps = np.flatnonzero(intervals_s > longest_s + ROUNDING_S) + 1
    bounds = [0, *gaps.tolist(), len(time_s)]
    return [slice(start, stop) for start, stop in pairwise(bounds) if stop - start > 1]


def resample(
    time_s: np.ndarray,
    values: np.ndarray,
    own_hz: float,
    rate_hz: float,
    new_time_s: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a stretch with a cubic spline, which passes through all samples.

    A higher rate is first interpolated to regular times and low-passed without a delay, so that
    nothing is aliased.

    Args:
        time_s: increasing times `(n,)`, at least two, without a gap.
        values: `(n, c)` without NaN.
        own_hz: rate of the recording.
        rate_hz: rate to resample to.
        new_time_s: times at this rate; None for those from the first one on.

    Returns:
        The new times `(m,)` in s and the values `(m, c)`.
    """
    from scipy.interpolate import CubicSpline  # slow to import

    duration_s = time_s[-1] - time_s[0]
    if new_time_s is None:
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


def read_time(
    file: NamedColumns, clock: Clock, notes: list[str], notices: list[str] | None = None
) -> tuple[np.ndarray, float]:
    """Return the times in s relative to the first line, and the time of the first line in s.

    The difference is taken first: float64 does not hold microseconds of the seconds since 1970.
    For dates, the time of the first line is that since 1970; for times of day, since midnight.
    """
    column, place = file.table[clock.column], f"{file.path}: {clock.column}"
    notices = [] if notices is None else notices
    if column.isna().all():
        raise InputError(f"{place}: empty; choose another --time-column, or state {file.rate_flag}")
    if clock.rate_hz:
        counts = column_numbers(file, clock.column)
        return count_to_time(counts, clock.rate_hz, file.place, place, notices), 0.0
    is_date, unit = False, "s"
    if to_numbers(column, file.decimal).notna().any():
        ticks = column_numbers(file, clock.column)
        unit = _unit(file, "--time-unit", SECONDS, clock.unit, [clock.column]) or "s"
        time_s, start_s = (ticks - ticks[0]) * SECONDS[unit], ticks[0] * SECONDS[unit]
    elif clock.unit:
        raise InputError(f"{place}: dates or times of day, not numbers; omit --time-unit")
    else:
        text = column.str.replace(file.decimal, ".", regex=False).str.strip()
        times = parse_times(text, notices)
        if (is_wrong := times.isna() & column.notna()).any():
            row = int(np.argmax(is_wrong))
            raise InputError(
                f"{place}, {file.place(row)}: {shorten(column.iloc[row])} is neither a number nor "
                "a date or time; correct it, or choose another --time-column"
            )
        time_s = (times - times.iloc[0]).dt.total_seconds().to_numpy()
        is_date = isinstance(times.iloc[0], pd.Timestamp)
        start_s = times.iloc[0].timestamp() if is_date else times.iloc[0].total_seconds()
        notes.append(f"Time 0 is {shorten(column.iloc[0])}")
    time_s = increase(time_s, SECONDS[unit], is_date, file.place, place, notices)
    return time_s, float(start_s)


def check_rate(
    path: Path, own_hz: float, rate_hz: float, time_s: np.ndarray, notes: list[str]
) -> list[str]:
    """Check the sampling rate, add a note about it, and return warnings about it.

    Raises:
        InputError: The rate is far too low or too high.
    """
    if not SLOWEST * rate_hz <= own_hz <= FASTEST * rate_hz:
        raise InputError(
            f"{path}: {own_hz:.3g} samples per second, but the network reads {rate_hz:g}; check "
            "--time-unit and --time-column, add --recorded-hz if that column counts samples, or "
            "record at a higher rate"
        )
    text = f"Recorded at {own_hz:.4g} Hz, resampled to the network's {rate_hz:g} Hz"
    if own_hz < LOWER * rate_hz:
        text += f"; it lacks frequencies above {own_hz / 2:.3g} Hz, which the training data have"
    notes.append(text)
    median_hz = 1 / float(np.median(np.diff(time_s)))
    if 1 / BURSTS <= median_hz / own_hz <= BURSTS:
        return []
    return [
        f"the median interval is that of {median_hz:.4g} Hz: samples arrive in bursts, or some are "
        "lost. The times are used unchanged; if they are times of arrival, replace them with "
        "times of measurement."
    ]


# Files --------------------------------------------------------------------------------------------


class NamedColumns(NamedTuple):
    """Columns of a file.

    Attributes:
        path: the file.
        names: the names of all its columns.
        table: the wanted columns that the file has; the index counts its lines of numbers from 0.
        units: column name -> unit as written; empty without a line of units.
        decimal: the decimal sign in a text file.
        position: format of the position of a line.
        clock: its time column in s, if the format determines it.
        notices: facts that a user should know.
        counters: further columns that seem to count samples, with the index of the table.
        stated_hz: the sampling rate that the file states above the names.
    """

    path: Path
    names: list[str]
    table: pd.DataFrame
    units: dict[str, str]
    decimal: str
    position: str
    clock: str = ""
    notices: Sequence[str] = ()
    counters: pd.DataFrame | None = None
    stated_hz: float | None = None

    def place(self, row: int) -> str:
        """Return the position in the file of a row of the table."""
        return self.position.format(self.table.index[row] + 1)

    @property
    def rate_flag(self) -> str:
        """The flag for a file without times, with the rate if the file states it."""
        stated = f" {self.stated_hz:g}, as the file states" if self.stated_hz else ""
        return f"--recorded-hz{stated}"

    def own_clock(self, clock: Clock) -> Clock:
        """Return how to find the times of this file."""
        return clock._replace(column=self.clock, unit=None, rate_hz=None) if self.clock else clock


Reader = Callable[[Path, Sequence[str], Sequence[str]], NamedColumns]  # as `read_columns`


def read_table(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read columns of a text file as text; an empty cell is empty text, empty lines are dropped.

    Optional columns that the file lacks are empty.

    Raises:
        InputError: The file cannot be read or lacks a column.
    """
    file = read_columns(path, [*wanted, *optional], dtype=str, keep_default_na=False)
    missing = [name for name in wanted if name not in file.names]
    if missing:
        raise InputError(
            f"{path}: no column {' and no column '.join(missing)}; its first line must name "
            f"{','.join(wanted)}"
        )
    table = file.table.reindex(columns=[*wanted, *optional], fill_value="")
    table = table.apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)]


def read_columns(
    path: Path,
    wanted: Sequence[str],
    measured: Sequence[str] = (),
    **options: Any,  # noqa: ANN401
) -> NamedColumns:
    """Read columns of a MATLAB file, or of a text file after recognizing its format.

    Args:
        path: the file.
        wanted: names of columns.
        measured: names of further columns, with numbers; a first line of text states their units.
        options: options of `pandas.read_csv`.

    Raises:
        InputError: The file cannot be read.
    """
    if path.suffix.lower() == MATLAB_SUFFIX and path.is_file():
        table = read_matlab(path)
        return NamedColumns(path, [*table], table, {}, ".", "row {}")
    if path.suffix.lower() in opensim.SUFFIXES and path.is_file():
        names, table, units, notices = opensim.read_opensim(path, measured)
        position = "line {} below the names"
        return NamedColumns(path, names, table, units, ".", position, opensim.TIME, notices)
    text = read_text(path, wanted, measured, **options)
    return NamedColumns(
        path,
        text.names,
        text.table,
        text.units,
        text.decimal,
        "line {} below the names",
        notices=text.notices,
        counters=text.counters,
        stated_hz=text.stated_hz,
    )


def column_numbers(file: NamedColumns, name: str) -> np.ndarray:
    """Return a column as float64, NaN where the cell is empty.

    Raises:
        InputError: A cell is not a number.
    """
    column = file.table[name]
    numbers = to_numbers(column, file.decimal)
    is_wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise InputError(
            f"{file.path}: {name}, {file.place(row)}: {shorten(column.iloc[row])} is not a number; "
            "correct it, or leave the cell empty if nothing was measured"
        )
    return numbers.to_numpy()
