"""A recording from a text file with named columns and a time column, at any sampling rate.

Encoding, delimiter, decimal commas, lines above the names, a line of units below them and
date-times are recognized.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from common.data import Columns
from common.files import InputError, shorten
from common.runs import Script
from tools.predict.recording import (
    ACC_UNITS,
    GYR_UNITS,
    TIME,
    Piece,
    Units,
    columns_to_read,
    input_columns,
)
from tools.signals import anti_alias, interpolate
from tools.trained import Trained, script_columns

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SLOWEST, FASTEST = 0.1, 500.0  # times the network's rate; beyond, the unit of time must be wrong
HIGHER = 1.02  # times the network's rate: above, a recording is low-passed; clocks are inexact
BURSTS = 1.1  # ratio of the rates from the median interval and from the number of samples
LONGEST_GAP = 2.0  # sampling intervals: a shorter one is never a gap, however slow the recording
ROUNDING = 1e-6  # of a sampling interval, in the last time of a grid
TIME_DIGITS = 6  # of the times in the output, in s

HEAD_BYTES = 2**17  # from which the format of the file is recognized; the longest cell of `csv`
HEAD_LINES = 100
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
    """

    column: str
    unit: str | None
    max_gap_s: float


class Source(NamedTuple):
    """The column of the file that a column of the dataset is read from, and its sign."""

    name: str
    sign: float = 1.0


class TextFile(NamedTuple):
    """A text file and its format.

    Attributes:
        path: the file.
        encoding: its encoding.
        delimiter: the character between columns.
        names: the column names.
        names_line: number of lines above the names.
        units: column name -> unit as written; empty without a line of units.
    """

    path: Path
    encoding: str
    delimiter: str
    names: list[str]
    names_line: int
    units: dict[str, str]

    @property
    def first_line(self) -> int:
        """Number of the first line of numbers, counted from the names."""
        return 2 if self.units else 1


def read_csv(
    path: Path, trained: Trained, clock: Clock, units: Units, mapping: Mapping[str, Source]
) -> tuple[list[Piece], Units]:
    """Read a file, and resample every stretch without a gap to the network's rate.

    A line with an empty cell in a column that the network reads counts as a gap.

    Args:
        path: the file.
        trained: the network.
        clock: the time of the file.
        units: the units that the user has given.
        mapping: column of the dataset -> column of the file, for those with another name.

    Returns:
        A piece per stretch; and the units, those of the file where the user has given none.

    Raises:
        InputError: The file cannot be used; the message names the place and the remedy.
    """
    rate_hz = trained.script.RATE_HZ
    sources = {name: Source(name) for name in script_columns(trained.script)} | dict(mapping)
    file = _open(path, [clock.column], [source.name for source in sources.values()])
    inputs = input_columns(trained)
    _check_names(file, {name: sources[name] for name in inputs})
    present = [name for name, source in sources.items() if source.name in file.names]
    read = columns_to_read(path, trained, present)
    if clock.column not in file.names:
        raise InputError(
            f"{path}: no time column {clock.column}; name it by --time-column, one of "
            f"{shorten(', '.join(file.names))}"
        )
    count = 3 * len(trained.sensor_set.sensors)
    own = [sources[name].name for name in inputs]
    units = Units(
        _unit(file, "--acc-unit", ACC_UNITS, units.acc, own[:count]),
        _unit(file, "--gyr-unit", GYR_UNITS, units.gyr, own[count : 2 * count]),
    )
    table = _read_table(file, [clock.column, *(sources[name].name for name in read)])
    all_s, start_s = _read_time(file, clock, table[clock.column])
    numbers = {name: _numbers(file, table[sources[name].name]) for name in read}
    values = np.column_stack([sources[name].sign * numbers[name] for name in read])
    is_complete = np.isfinite(values[:, : len(inputs)]).all(axis=1)
    values, time_s = values[is_complete], all_s[is_complete]
    if len(values) < 2:
        empty = [sources[name].name for name in inputs if np.isnan(numbers[name]).all()]
        raise InputError(
            f"{path}: fewer than two lines have a number in every column that the network reads; "
            f"supply {shorten(', '.join(empty)) if empty else 'a longer recording'}"
        )
    stretches = split_at_gaps(time_s, clock.max_gap_s)
    parts = [time_s[part] for part in stretches] or [time_s]
    own_hz = sum(len(part) - 1 for part in parts) / sum(np.ptp(part) for part in parts)
    _check_rate(path, own_hz, rate_hz, time_s)
    if len(stretches) > 1:
        print(f"NOTICE: gaps split the recording into {len(stretches)} stretches; see --max-gap")
    positions = {name: i for i, name in enumerate(read)}
    pieces = []
    for number, part in enumerate(stretches):
        signals, targets = np.split(values[part], [len(inputs)], axis=1)
        new_time_s, resampled = resample(time_s[part], signals, own_hz, rate_hz)
        measured = interpolate(targets, time_s[part], new_time_s)
        columns = Columns(path, "the table", positions, np.hstack([resampled, measured]))
        labels = {TIME: np.round(start_s + new_time_s, TIME_DIGITS)}
        trial = np.full(len(new_time_s), number)
        pieces.append(Piece(labels, columns, trial, signals, own_hz))
    return pieces, units


# Column names -------------------------------------------------------------------------------------


def parse_mapping(arguments: Sequence[str], script: Script) -> dict[str, Source]:
    """Return column of the dataset -> column of the file, from the arguments of `--columns`.

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
                f"{script.DATASET.upper()} such as {known[0]}; write {known[0]}=YOURS, or "
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


def _check_names(file: TextFile, sources: Mapping[str, Source]) -> None:
    """Check that the file has the columns of the inputs; print a template of a mapping if not."""
    missing = [ours for ours, source in sources.items() if source.name not in file.names]
    if not missing:
        return
    print(
        "Template for --columns FILE; fill in your names, with a minus sign where your axis points "
        "the other way:"
    )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["yours", "ours"])
    for ours, (name, sign) in sources.items():
        writer.writerow(["" if ours in missing else f"{'-' if sign < 0 else ''}{name}", ours])
    names = ", ".join(
        ours if sources[ours].name == ours else f"{sources[ours].name} (for {ours})"
        for ours in missing
    )
    raise InputError(
        f"{file.path}: no column {shorten(names, 500)}, which the network reads; name yours by "
        f"--columns, among {shorten(', '.join(filter(None, file.names)), 500)}; or use the "
        "checkpoint of a smaller sensor set"
    )


# Units --------------------------------------------------------------------------------------------


def _unit(
    file: TextFile, flag: str, known: Iterable[str], given: str | None, columns: Sequence[str]
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


def _read_time(file: TextFile, clock: Clock, column: pd.Series) -> tuple[np.ndarray, float]:
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
        print(f"Time 0 is {shorten(column.iloc[0])}")
    is_wrong = ~(np.diff(time_s, prepend=-np.inf) > 0)  # true for NaN, too
    if is_wrong.any():
        line = file.first_line + int(np.argmax(is_wrong))
        raise InputError(
            f"{place}, line {line} below the names: the time does not increase there; sort the "
            "lines, drop repeated ones and give every line a time, or split the file"
        )
    return time_s, float(start_s)


def _date_times(file: TextFile, column: pd.Series) -> pd.Series:
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
        f"{file.path}: {column.name}, line {line + file.first_line} below the names: "
        f"{shorten(text[line])} is neither a number nor a date or time; correct it, or choose "
        "another --time-column"
    )


def _check_rate(path: Path, own_hz: float, rate_hz: float, time_s: np.ndarray) -> None:
    """Check the sampling rate and print it.

    Raises:
        InputError: It is far too low or too high.
    """
    if not SLOWEST * rate_hz <= own_hz <= FASTEST * rate_hz:
        raise InputError(
            f"{path}: {own_hz:.3g} samples per second, but the network reads {rate_hz:g}; check "
            "--time-unit and --time-column, or record at a higher rate"
        )
    text = f"Recorded at {own_hz:.4g} Hz, resampled to the network's {rate_hz:g} Hz"
    if own_hz < 0.98 * rate_hz:
        text += f"; it lacks the frequencies above {own_hz / 2:.3g} Hz that the network has seen"
    print(text)
    median_hz = 1 / float(np.median(np.diff(time_s)))
    if not 1 / BURSTS <= median_hz / own_hz <= BURSTS:
        print(
            f"NOTICE: the median interval is that of {median_hz:.4g} Hz: samples arrive in bursts, "
            "or some are lost. The times are used as they are; if they are times of arrival, "
            "replace them with times of measurement."
        )


# Text ---------------------------------------------------------------------------------------------


def _open(path: Path, wanted: Sequence[str], measured: Sequence[str] = ()) -> TextFile:
    """Recognize the format of a file from its first lines.

    The names are in the line with most of the wanted names; if there is none, in the first line
    with several cells.

    Args:
        path: the file.
        wanted: names of columns.
        measured: names of further columns, with numbers; a first line of text is one of units.

    Raises:
        InputError: It is not such a file.
    """
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
    return TextFile(path, encoding, delimiter, names, line, units if is_unit_line else {})


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


def _read_table(file: TextFile, wanted: Sequence[str], **options: Any) -> pd.DataFrame:  # noqa: ANN401
    """Return the wanted columns; an empty cell is NaN.

    Raises:
        InputError: They cannot be read.
    """
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


def _numbers(file: TextFile, column: pd.Series) -> np.ndarray:
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
            f"{file.path}: {column.name}, line {line + file.first_line} below the names: "
            f"{shorten(column[line])} is not a number; correct it, or leave the cell empty if "
            "nothing was measured"
        )
    return numbers.to_numpy()
