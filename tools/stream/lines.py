"""From lines of text, as they arrive, to samples without gaps."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.files import InputError, plural, shorten
from tools.clock import WRAP_INTERVALS, clock_periods
from tools.plausibility import check_counter, find_period
from tools.signals import ROUNDING_S
from tools.text_file import COUNTER, DELIMITERS, to_numbers
from tools.trial_file import LONGEST_GAP, Source

LONGEST_LINE = 2**17  # bytes; more without a line end is no table
LONGEST_FILL_S = 10.0  # a longer gap would take long to fill, while new lines wait
SHORTEST_CLOCK_S = 3600.0  # after a shorter time, a clock that starts again was restarted
LARGEST = 1e30  # a larger value is no measurement; squares of float32 end at 1e38
# Number of intervals after which the rate is checked -> tolerance: clocks are inexact, and lost
# lines or jitter count for less in a longer time.
RATE_TOLERANCE = {20: 0.25, 100: 0.05}
SHORT_INTERVAL = 0.25  # of the expected one: such intervals come in bursts, or between equal times
MOST_SHORT = 0.2  # of the intervals
MOST_JITTER = 0.25  # of an interval; a clock that runs fast or slow looks like more and more
LINE_END = re.compile(rb"\r\n|\n\r|\r|\n")


class Sample(NamedTuple):
    """A sample for the network.

    Attributes:
        time_s: its time.
        values: `(C,)`, finite.
        gap_s: length of the gap before it; 0 if it follows the previous sample.
    """

    time_s: float
    values: np.ndarray
    gap_s: float = 0.0


def read_lines(read: Callable[[], bytes]) -> Iterator[str]:
    """Yield lines as soon as they are complete; they end with LF, CR LF, CR or LF CR.

    Args:
        read: returns the next bytes as they arrive, empty at the end of the input.

    Raises:
        InputError: A line does not end.
    """
    rest, end, number = b"", b"", 0
    while chunk := read():
        if end and chunk[:1] in b"\r\n" and chunk[:1] != end:
            chunk = chunk[1:]  # the second byte of a line end; the first one ended a line already
        end = chunk[-1:] if chunk.endswith((b"\r", b"\n")) else b""
        if chunk.endswith((b"\r\n", b"\n\r")):
            end = b""
        *lines, rest = LINE_END.split(rest + chunk)
        for line in lines:
            number += 1
            yield _decode(line, number)
        if len(rest) > LONGEST_LINE:
            raise InputError(
                f"standard input, line {number + 1}: longer than {LONGEST_LINE:,} bytes; end each "
                "sample with a line break"
            )
    if rest:
        yield _decode(rest, number + 1)


def _decode(line: bytes, number: int) -> str:
    return line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")


class LineReader:
    """Reads the time and the values from the lines of a CSV.

    Args:
        header: the line of column names.
        sources: the wanted columns of the dataset, in order -> their columns in the CSV.
        time_column: name of the time column; None for `time`, if there is one.
        unit_s: unit of the time, in s.
        rate_hz: sampling rate, for the time of lines without one.
        notify: called with facts about the lines that a user should know.

    Attributes:
        has_time: whether there is a time column.

    Raises:
        InputError: A column is missing, or two have the same name.
    """

    def __init__(
        self,
        header: str,
        sources: Mapping[str, Source],
        time_column: str | None,
        unit_s: float,
        rate_hz: float,
        notify: Callable[[str], None],
    ) -> None:
        if not header:
            raise InputError("standard input: empty; the first line must have the column names")
        self.delimiter = max(DELIMITERS, key=header.count)
        self.names = [cell.strip() for cell in self._split(header, 1)]
        missing = [
            ours if source.name == ours else f"{source.name} (for {ours})"
            for ours, source in sources.items()
            if source.name not in self.names
        ]
        if missing:
            raise InputError(
                f"standard input, line 1: no column {shorten(', '.join(missing), 500)}, which the "
                "network reads; the first line must have the column names; rename them with "
                "--columns"
            )
        if time_column and time_column not in self.names:
            raise InputError(
                f"standard input, line 1: no column {time_column}; correct --time-column"
            )
        used = {source.name for source in sources.values()} | {time_column or "time"}
        repeated = [name for name in used if self.names.count(name) > 1]
        if repeated:
            raise InputError(
                f"standard input, line 1: two columns are named {shorten(repeated[0])}; rename one"
            )
        self.has_time = bool(time_column) or "time" in self.names
        self.time_column, self.unit_s, self.rate_hz = time_column or "time", unit_s, rate_hz
        self.columns = [source.name for source in sources.values()]
        self.signs = np.array([source.sign for source in sources.values()])
        self.lines = 0
        self._notify = notify
        # Without times, only a counter shows that samples were lost.
        is_counter = (re.search(COUNTER, name) for name in self.names)
        counters = zip(self.names, is_counter, strict=True) if not self.has_time else ()
        self._counts = {name: [] for name, found in counters if found and name not in used}
        self._numbers: list[int] = []  # of the lines in `_counts`
        self._shift_s = 0.0  # of the times, after the clock started again
        self._last_s: float | None = None  # as written

    def read(self, line: str, number: int) -> tuple[float, np.ndarray]:
        """Return the time in s and the values `(C,)` of a line, NaN where a cell is empty.

        Args:
            line: the line.
            number: its number, for errors.

        Raises:
            InputError: The line is malformed.
        """
        cells = self._split(line, number)
        if len(cells) != len(self.names):
            raise InputError(
                f"standard input, line {number}: {plural(len(cells), 'cell')}, but "
                f"{len(self.names)} column names; check the program that writes the lines"
            )
        by_name = dict(zip(self.names, cells, strict=True))
        values = np.array([self._number(by_name, name, number) for name in self.columns])
        time_s = self.lines / self.rate_hz
        self.lines += 1
        if self.has_time:
            time_s = self.unit_s * self._number(by_name, self.time_column, number)
            if math.isnan(time_s):
                raise InputError(
                    f"standard input, line {number}: no time in {self.time_column}; every line "
                    "needs one"
                )
            time_s = self._unwrap(time_s, number)
        self._check_counters(by_name, number)
        return time_s, self.signs * values

    def _unwrap(self, time_s: float, number: int) -> float:
        """Return a time that increases, also if the clock started again as at midnight."""
        last_s, self._last_s = self._last_s, time_s
        if last_s is not None and time_s < last_s:
            periods = [p for p in clock_periods(self.unit_s) if p > SHORTEST_CLOCK_S]
            two = np.array([last_s, time_s])
            if period_s := find_period(two, periods, WRAP_INTERVALS / self.rate_hz):
                self._shift_s += period_s
                self._notify(
                    f"line {number}: the clock starts again after {period_s:.10g} s; the later "
                    "times are shifted"
                )
        return time_s + self._shift_s

    def _check_counters(self, cells: Mapping[str, str], number: int) -> None:
        """Report samples that a counter shows to be lost, second by second, once per counter."""
        if not self._counts:
            return
        for name, texts in self._counts.items():
            texts.append(cells[name].strip())
        self._numbers.append(number)
        if len(self._numbers) <= self.rate_hz:
            return
        for name, texts in [*self._counts.items()]:
            counts = to_numbers(pd.Series(texts), ".").to_numpy()
            problems = [*check_counter(name, counts, lambda i: f"line {self._numbers[i]}")]
            if problems:
                self._notify("; ".join(problems))
                del self._counts[name]
            else:
                del texts[:-1]
        del self._numbers[:-1]

    def _split(self, line: str, number: int) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=self.delimiter), [])
        except csv.Error as error:
            raise InputError(
                f"standard input, line {number}: not a line of a CSV ({error}); check the program "
                "that writes the lines"
            ) from error

    def _number(self, cells: Mapping[str, str], name: str, number: int) -> float:
        text = cells[name].strip()
        try:
            value = float((text if self.delimiter == "," else text.replace(",", ".")) or "nan")
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise InputError(
                f"standard input, line {number}: {name}: {shorten(text, 60)} is not a number; "
                "leave the cell empty if nothing was measured"
            )
        if name != self.time_column and abs(value) > LARGEST:
            raise InputError(
                f"standard input, line {number}: {name}: {shorten(text, 60)} is far too large; "
                "leave the cell empty if nothing was measured"
            )
        return value


class GapFiller:
    """Turns lines, some of which are lost or incomplete, into samples at a regular rate.

    Lost samples are interpolated as soon as the next complete line arrives. A gap that is longer
    than `max_gap_s` and than two sampling intervals is not filled. A line with the time of the line
    before is skipped.

    Args:
        rate_hz: sampling rate that the network expects.
        max_gap_s: longest time between two complete lines that is interpolated.

    Attributes:
        filled: number of samples that were interpolated.
        repeated: number of lines that were skipped.
    """

    def __init__(self, rate_hz: float, max_gap_s: float) -> None:
        self.rate_hz, self.max_gap_s = rate_hz, max(max_gap_s, LONGEST_GAP / rate_hz)
        self.last: Sample | None = None
        self.times_s: list[float] = []  # of the first lines, to check the rate, and of the last one
        self.filled = self.repeated = 0
        self._late = 0.0  # sampling intervals by which the last line was late, as times jitter

    def add(self, time_s: float, values: np.ndarray, number: int) -> list[Sample]:
        """Return the samples that a line completes; none for an incomplete line.

        Args:
            time_s: time of the line.
            values: `(C,)`, NaN where there is no value.
            number: number of the line, for errors.

        Raises:
            InputError: The time decreases, or the sampling rate is not the network's.
        """
        self._check_time(time_s, number)
        if self.last and time_s == self.last.time_s:
            self.repeated += 1
            return []
        if np.isnan(values).any():
            return []
        before, self.last = self.last, Sample(time_s, values)
        if before is None:
            return [self.last]
        gap_s = time_s - before.time_s
        if gap_s > self.max_gap_s + ROUNDING_S:
            self._late = 0.0
            return [Sample(time_s, values, gap_s)]
        expected = gap_s * self.rate_hz + self._late
        steps = max(1, round(expected))
        self._late = max(-MOST_JITTER, min(expected - steps, MOST_JITTER))
        self.filled += steps - 1
        return [
            Sample(before.time_s + w * gap_s, (1 - w) * before.values + w * values)
            for w in np.arange(1, steps + 1) / steps
        ]

    def _check_time(self, time_s: float, number: int) -> None:
        place = f"standard input, line {number}"
        if self.times_s and time_s < self.times_s[-1]:
            raise InputError(
                f"{place}: the time falls back by {self.times_s[-1] - time_s:.6g} s; the clock was "
                "set or restarted, or lines are out of order: start this command again"
            )
        if len(self.times_s) > max(RATE_TOLERANCE):
            self.times_s[-1] = time_s
            return
        self.times_s.append(time_s)
        tolerance = RATE_TOLERANCE.get(len(self.times_s) - 1)
        if tolerance is None:
            return
        intervals_s = np.diff(self.times_s)
        is_short = intervals_s < SHORT_INTERVAL / self.rate_hz
        is_slow = intervals_s.mean() > 0.5 / self.rate_hz  # or the unit is wrong
        if is_slow and is_short.mean() > MOST_SHORT:
            raise InputError(
                f"{place}: many lines have almost the same time, as if they arrived in bursts or "
                "their times were rounded; use the times of measurement, or leave the time column "
                "out"
            )
        intervals_s = intervals_s[intervals_s <= max(self.max_gap_s, 2 * np.median(intervals_s))]
        rate_hz = len(intervals_s) / intervals_s.sum() if intervals_s.any() else math.inf
        regular_s = intervals_s[intervals_s < 1.5 * np.median(intervals_s)]  # no line lost there
        rates_hz = rate_hz, 1 / regular_s.mean() if regular_s.any() else math.inf
        if min(abs(rate / self.rate_hz - 1) for rate in rates_hz) <= tolerance:
            return
        raise InputError(
            f"{place}: {rate_hz:.3g} samples per second, but the network reads {self.rate_hz:g}, "
            f"and a live stream is not resampled; set your device to {self.rate_hz:g} Hz, "
            "correct --time-unit, or leave the time column out if it has times of arrival"
        )
