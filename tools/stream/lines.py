"""From lines of text, as they arrive, to samples without gaps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from common.files import InputError, shorten
from tools.signals import ROUNDING_S
from tools.trial_file import DELIMITERS, LONGEST_GAP, Source

CHECKED_INTERVALS = 20  # from which the sampling rate is determined
RATE_TOLERANCE = 0.05  # clocks are inexact


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


class LineReader:
    """Reads the time and the values from the lines of a CSV.

    Args:
        header: the line of column names.
        sources: the wanted columns of the dataset, in order -> their columns in the CSV.
        time_column: name of the time column; None for `time`, if there is one.
        unit_s: unit of the time, in s.
        rate_hz: sampling rate, for the time of lines without one.

    Attributes:
        has_time: whether there is a time column.

    Raises:
        InputError: A column is missing.
    """

    def __init__(
        self,
        header: str,
        sources: Mapping[str, Source],
        time_column: str | None,
        unit_s: float,
        rate_hz: float,
    ) -> None:
        self.delimiter = max(DELIMITERS, key=header.count)
        self.names = [cell.strip() for cell in self._split(header)]
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
        self.has_time = bool(time_column) or "time" in self.names
        self.time_column, self.unit_s, self.rate_hz = time_column or "time", unit_s, rate_hz
        self.columns = [source.name for source in sources.values()]
        self.signs = np.array([source.sign for source in sources.values()])
        self.lines = 0

    def read(self, line: str, number: int) -> tuple[float, np.ndarray]:
        """Return the time in s and the values `(C,)` of a line, NaN where a cell is empty.

        Args:
            line: the line.
            number: its number, for errors.

        Raises:
            InputError: The line is malformed.
        """
        cells = self._split(line)
        if len(cells) != len(self.names):
            raise InputError(
                f"standard input, line {number}: {len(cells)} cells, but {len(self.names)} column "
                "names; check the program that writes the lines"
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
        return time_s, self.signs * values

    def _split(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self.delimiter), [])

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
        return value


class GapFiller:
    """Turns lines, some of which are lost or incomplete, into samples at a regular rate.

    Lost samples are interpolated as soon as the next complete line arrives. A gap that is longer
    than `max_gap_s` and than two sampling intervals is not filled.

    Args:
        rate_hz: sampling rate that the network expects.
        max_gap_s: longest time between two complete lines that is interpolated.

    Attributes:
        filled: number of samples that were interpolated.
    """

    def __init__(self, rate_hz: float, max_gap_s: float) -> None:
        self.rate_hz, self.max_gap_s = rate_hz, max(max_gap_s, LONGEST_GAP / rate_hz)
        self.last: Sample | None = None
        self.times_s: list[float] = []  # of the first lines, to check the rate, and of the last one
        self.filled = 0

    def add(self, time_s: float, values: np.ndarray, number: int) -> list[Sample]:
        """Return the samples that a line completes; none for an incomplete line.

        Args:
            time_s: time of the line.
            values: `(C,)`, NaN where there is no value.
            number: number of the line, for errors.

        Raises:
            InputError: The time does not increase, or the sampling rate is not the network's.
        """
        self._check_time(time_s, number)
        if np.isnan(values).any():
            return []
        before, self.last = self.last, Sample(time_s, values)
        if before is None:
            return [self.last]
        gap_s = time_s - before.time_s
        if gap_s > self.max_gap_s + ROUNDING_S:
            return [Sample(time_s, values, gap_s)]
        steps = max(1, round(gap_s * self.rate_hz))
        self.filled += steps - 1
        return [
            Sample(before.time_s + w * gap_s, (1 - w) * before.values + w * values)
            for w in np.arange(1, steps + 1) / steps
        ]

    def _check_time(self, time_s: float, number: int) -> None:
        if self.times_s and time_s <= self.times_s[-1]:
            raise InputError(
                f"standard input, line {number}: the time does not increase; every line needs the "
                "time of its measurement"
            )
        if len(self.times_s) > CHECKED_INTERVALS:
            self.times_s[-1] = time_s
            return
        self.times_s.append(time_s)
        if len(self.times_s) <= CHECKED_INTERVALS:
            return
        intervals_s = np.diff(self.times_s)
        rate_hz = 1 / intervals_s[intervals_s < 1.5 * np.median(intervals_s)].mean()
        if abs(rate_hz / self.rate_hz - 1) > RATE_TOLERANCE:
            raise InputError(
                f"standard input, line {number}: {rate_hz:.3g} samples per second, but the network "
                f"reads {self.rate_hz:g}, and a live stream is not resampled; set your device to "
                f"{self.rate_hz:g} Hz, or correct --time-unit"
            )
