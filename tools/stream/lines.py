"""From lines of text, as they arrive, to samples without gaps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.files import InputError, shorten
from tools.signals import ROUNDING_S
from tools.trial_file import DELIMITERS, LONGEST_GAP, Source

CHECKED_INTERVALS = 20  # from which the sampling rate is known
RATE_TOLERANCE = 0.05  # clocks are inexact


class Sample(NamedTuple):
    """A sample for the network.

    Attributes:
        time_s: its time.
        values: `(C,)`, finite.
        is_first: whether it is the first one, or the first after a gap.
    """

    time_s: float
    values: np.ndarray
    is_first: bool


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
                "network reads; the first line must have the column names; name yours by --columns"
            )
        if time_column and time_column not in self.names:
            raise InputError(
                f"standard input, line 1: no column {time_column}; correct --time-column"
            )
        self.has_time = bool(time_column) or "time" in self.names
        self.time_column, self.unit_s, self.rate_hz = time_column or "time", unit_s, rate_hz
        self.positions = [self.names.index(source.name) for source in sources.values()]
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
                "names; check what writes the lines"
            )
        values = np.array([self._number(cells, i, number) for i in self.positions])
        time_s = self.lines / self.rate_hz
        self.lines += 1
        if self.has_time:
            time_s = self.unit_s * self._number(cells, self.names.index(self.time_column), number)
            if math.isnan(time_s):
                raise InputError(
                    f"standard input, line {number}: no time in {self.time_column}; give every "
                    "line one"
                )
        return time_s, self.signs * values

    def _split(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self.delimiter), [])

    def _number(self, cells: Sequence[str], position: int, number: int) -> float:
        text = cells[position].strip()
        try:
            value = float((text if self.delimiter == "," else text.replace(",", ".")) or "nan")
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise InputError(
                f"standard input, line {number}: {self.names[position]}: {shorten(text, 60)} is "
                "not a number; leave the cell empty if nothing was measured"
            )
        return value


class GapFiller:
    """Turns lines, some of which are lost or incomplete, into samples at a regular rate.

    Lost samples are interpolated as soon as the next complete line is there. After a gap that is
    longer than `max_gap_s` and than two sampling intervals, a new stretch begins.

    Args:
        rate_hz: sampling rate that the network expects.
        max_gap_s: longest time between two complete lines that is interpolated.

    Attributes:
        gap_s: time between the last two complete lines.
        filled: number of samples that were interpolated.
    """

    def __init__(self, rate_hz: float, max_gap_s: float) -> None:
        self.rate_hz, self.max_gap_s = rate_hz, max(max_gap_s, LONGEST_GAP / rate_hz)
        self.last: Sample | None = None
        self.last_time_s, self.intervals_s = -math.inf, []
        self.gap_s, self.filled = 0.0, 0

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
        before, self.last = self.last, Sample(time_s, values, is_first=True)
        if before is None:
            return [self.last]
        self.gap_s = time_s - before.time_s
        if self.gap_s > self.max_gap_s + ROUNDING_S:
            return [self.last]
        steps = max(1, round(self.gap_s * self.rate_hz))
        self.filled += steps - 1
        return [
            Sample(
                before.time_s + weight * self.gap_s,
                (1 - weight) * before.values + weight * values,
                is_first=False,
            )
            for weight in np.arange(1, steps + 1) / steps
        ]

    def _check_time(self, time_s: float, number: int) -> None:
        interval_s = time_s - self.last_time_s
        if interval_s <= 0:
            raise InputError(
                f"standard input, line {number}: the time does not increase there; give every line "
                "the time of its measurement"
            )
        self.last_time_s = time_s
        if len(self.intervals_s) == CHECKED_INTERVALS:
            return
        if math.isfinite(interval_s):  # not before the first line
            self.intervals_s.append(interval_s)
        if len(self.intervals_s) == CHECKED_INTERVALS:
            self._check_rate(np.array(self.intervals_s), number)

    def _check_rate(self, intervals_s: np.ndarray, number: int) -> None:
        without_gaps = intervals_s[intervals_s < 1.5 * np.median(intervals_s)]
        own_hz = 1 / without_gaps.mean()
        if abs(own_hz / self.rate_hz - 1) > RATE_TOLERANCE:
            raise InputError(
                f"standard input, line {number}: {own_hz:.3g} samples per second, but the network "
                f"reads {self.rate_hz:g}, and a live stream is not resampled; set your device to "
                f"{self.rate_hz:g} Hz, or correct --time-unit"
            )
