"""How much there is of a file: minutes, windows, NaN, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common import folds
from tools.check.layout import Layout, Part


class Amount(NamedTuple):
    """Of one subject: rows, those without NaN in a used column, and windows of these."""

    subject: str
    rows: int
    usable: int
    windows: dict[str, int]


@dataclass
class Range:
    """Number of values, how many are NaN, and smallest and largest of the others."""

    unit: str
    count: int = 0
    nan: int = 0
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: np.ndarray) -> None:
        """Count more values of any shape."""
        self.count += values.size
        self.nan += int(np.isnan(values).sum())
        if values.size:
            self.low = float(np.fmin(self.low, np.fmin.reduce(values, axis=None)))
            self.high = float(np.fmax(self.high, np.fmax.reduce(values, axis=None)))

    def text(self) -> str:
        """Return smallest and largest value for the screen, dashes if all are NaN."""
        ends = (self.low + 0.0, self.high + 0.0)  # no minus before a zero
        return "".join(f"{end:>14.4g}" if self.nan < self.count else f"{'-':>14}" for end in ends)


@dataclass
class Summary:
    """What a file holds, subject after subject."""

    layout: Layout
    amounts: list[Amount] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)

    def add(self, parts: Sequence[Part]) -> None:
        """Count a subject."""
        self.amounts.append(amount(parts, self.layout.study.window))
        for part in parts:
            for name, values in part.samples.items():
                if name != "targets":
                    self._range(name, self.layout.units[name]).add(values)
            for k, target in enumerate(self.layout.targets):
                self._range(target.name, target.unit).add(part.samples["targets"][:, k])
            for name, (unit, columns) in self.layout.others.items():
                if set(columns) <= part.block.columns.positions.keys():
                    self._range(name, unit).add(part.block.columns[columns])

    def _range(self, name: str, unit: str) -> Range:
        return self.ranges.setdefault(name, Range(unit))

    def text(self) -> str:
        """Return the two tables for the screen."""
        protocols = folds.PROTOCOLS
        minutes = 1.0 / 60.0 / self.layout.study.rate_hz
        titles = ("subject", "minutes", "usable", *(f"windows, {p}" for p in protocols))
        lines = ["".join(f"{title:>17}" for title in titles)]
        total = Amount(
            "all",
            sum(a.rows for a in self.amounts),
            sum(a.usable for a in self.amounts),
            {p: sum(a.windows[p] for a in self.amounts) for p in protocols},
        )
        for a in (*self.amounts, total):
            cells = [a.subject, f"{a.rows * minutes:.1f}", f"{a.usable * minutes:.1f}"]
            cells += [f"{a.windows[p]:,}" for p in protocols]
            lines.append("".join(f"{cell:>17}" for cell in cells))
        lines += ["", f"{'block':<22}{'unit':<12}{'NaN %':>8}{'least':>14}{'largest':>14}"]
        for name, r in self.ranges.items():
            share = 100.0 * r.nan / max(r.count, 1)
            lines.append(
                f"{name:<22}{r.unit:<12}{share:>8.2f}{r.low + 0.0:>14.4g}{r.high + 0.0:>14.4g}"
            )
        return "\n".join(lines)


def amount(parts: Sequence[Part], window: int) -> Amount:
    """Count a subject's rows, and the windows of `window` rows it gives by itself."""
    stretches, last = [np.empty(0, int)], 0
    for part in parts:
        kept = np.flatnonzero(usable(part))
        new = (np.diff(kept) != 1) | (np.diff(part.block.trial[kept]) != 0)
        numbers = last + 1 + np.concatenate([[0], np.cumsum(new)])[: len(kept)]
        last = int(numbers[-1]) if len(kept) else last
        stretches.append(numbers)
    stretch = np.concatenate(stretches)
    rows = np.arange(len(stretch))
    windows = {"paper": 0, "strict": len(folds.stretch_windows(rows, stretch, window).rows)}
    if len(rows) >= window:
        windows["paper"] = len(folds.stream_windows(rows, window).rows)
    counted = sum(len(part.samples["targets"]) for part in parts)
    return Amount(parts[0].block.subject, counted, len(rows), windows)


def usable(part: Part) -> np.ndarray:
    """Return `(rows,)` whether a row has a number in every column that a script reads."""
    arrays = part.samples.values()
    return np.stack([np.isfinite(array).all(axis=1) for array in arrays]).all(axis=0)
