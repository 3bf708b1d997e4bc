"""Check the HDF5 file of Dataset A or B, or your own, before training on it.

Prints the subjects, minutes and windows under both protocols, and the share of NaN and the range of
every block. Warns of values that cannot be right: wrong units, swapped axes, dead or frozen
sensors, zeros and codes such as -9999 for missing values, ignored subjects. Draws the average
stride of every target and activity (in Dataset B the stance phase, by `force_phase`). The exit
status is 0 if everything is plausible, 1 after a warning and 2 if the file cannot be used.

  python -m tools.check_data data/dataset_a.h5
  python -m tools.check_data example_data.h5 --figure check.pdf
  python -m tools.check_data data/dataset_my_gait.h5 --script my_gait.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.cli import ArgumentParser, run_main
from common.data import describe_ignored, is_synthetic, number_stretches, open_hdf5
from common.files import InputError, explain_write_errors, plural
from common.metrics import aligned_table
from common.windows import PROTOCOLS, cut_stream, cut_stretches
from tools.check_data.checks import check_orientation, check_subject, gravity_directions
from tools.check_data.layout import DataFile, Layout, Part
from tools.check_data.strides import Strides, save_figure
from tools.trained import dataset_name, open_script

FORMATS = (".png", ".pdf", ".svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Check a file; return the exit status, 0 or 1."""
    args = _parser().parse_args(argv)
    page = args.figure or Path("outputs") / f"check_{args.file.stem}.png"
    if page.suffix not in FORMATS:
        raise InputError(f"--figure {page}: not a figure format; use {', '.join(FORMATS)}")
    if not args.file.is_file():
        raise InputError(f"{args.file}: no such file; give the path of an HDF5 file")
    script = open_script(args.script) if args.script else None
    with open_hdf5(args.file) as file:
        data = DataFile(args.file, file, script)
        layout, summary, strides = data.layout, Summary(data.layout), Strides(data.layout)
        warnings = [describe_ignored(data.ignored)] if data.ignored else []
        directions = {}
        for subject, parts in data.subjects():
            amount = summary.add(subject, parts)
            problems = list(check_subject(layout, parts))
            for protocol, count in amount.windows.items():
                if count == 0:
                    window = layout.script.WINDOW
                    problems.append(
                        f"no full window of {window} samples under --protocol {protocol}"
                    )
            warnings += [f"subject {subject}: {problem}" for problem in problems]
            if amount.usable:
                directions[subject] = gravity_directions(layout, parts)
            for part in parts:
                strides.add(part)
    if directions:
        warnings += check_orientation(layout, directions)
    if len(summary.amounts) < 2:
        warnings.append("one subject; the scripts need one to train on and one to test on")
    title = f"Dataset {dataset_name(layout.script)}"
    if is_synthetic(args.file):
        title += ", SYNTHETIC DATA"
    print(f"{args.file}: {title}, {plural(len(summary.amounts), 'subject')}\n")
    print(summary.tables())
    if not data.has_trials:
        print("\nNo `trial_starts`: windows of --protocol strict stay within an activity.")
    with explain_write_errors(page, "--figure"):
        save_figure(page, strides, f"{args.file.name}, {title}")
    print(f"\nFigure: {page}")
    print("".join(f"\nWARNING: {warning}" for warning in warnings) or "\nEverything is plausible.")
    return 1 if warnings else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.check_data", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="HDF5 file")
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="script that reads the file, if it is not one of Dataset A or B",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="page of figures, .png, .pdf or .svg (default: outputs/check_<file>.png)",
    )
    return parser


class Amount(NamedTuple):
    """The amount of data of a subject.

    Attributes:
        samples: number of samples.
        usable: number of samples without NaN in a used column.
        windows: protocol -> number of windows of the usable samples.
    """

    samples: int
    usable: int
    windows: dict[str, int]


class Summary:
    """Amounts of data and ranges of values, added up subject by subject.

    Attributes:
        amounts: subject -> amount of data.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.amounts: dict[str, Amount] = {}
        self._ranges: list[tuple[str, int, int, float, float]] = []

    def add(self, subject: str, parts: Sequence[Part]) -> Amount:
        """Add a subject and return its amount of data."""
        layout = self.layout
        self.amounts[subject] = _count(parts, layout.script.WINDOW)
        for part in parts:
            for modality, unit in layout.script.UNITS.items():
                self._add_values(modality, unit, part.samples[modality])
            for k, target in enumerate(layout.script.TARGETS):
                self._add_values(target.name, target.unit, part.samples["targets"][:, k])
            for name, (unit, columns) in layout.others.items():
                if set(columns) <= part.columns.positions.keys():
                    self._add_values(name, unit, part.columns[columns])
        return self.amounts[subject]

    def _add_values(self, name: str, unit: str, values: np.ndarray) -> None:
        low, high = (e.reduce(values, axis=None, initial=np.nan) for e in (np.fmin, np.fmax))
        self._ranges.append((f"{name} ({unit})", values.size, np.isnan(values).sum(), low, high))

    def tables(self) -> str:
        """Return the two tables for the screen."""
        amounts = list(self.amounts.values())
        total = Amount(
            sum(amount.samples for amount in amounts),
            sum(amount.usable for amount in amounts),
            {p: sum(amount.windows[p] for amount in amounts) for p in PROTOCOLS},
        )
        samples_per_minute = 60 * self.layout.script.RATE_HZ
        subjects = [
            [
                name,
                f"{amount.samples / samples_per_minute:.1f}",
                f"{amount.usable / samples_per_minute:.1f}",
                *(f"{amount.windows[p]:,}" for p in PROTOCOLS),
            ]
            for name, amount in {**self.amounts, "all": total}.items()
        ]
        headers = ["subject", "minutes", "usable", *(f"windows, {p}" for p in PROTOCOLS)]
        ranges = pd.DataFrame(self._ranges, columns=["block", "count", "nan", "low", "high"])
        ranges = ranges.groupby("block", sort=False).agg(
            {"count": "sum", "nan": "sum", "low": "min", "high": "max"}
        )
        blocks = [
            [block, f"{100.0 * nan / max(count, 1):.2f}"]
            + ["-" if np.isnan(limit) else f"{limit + 0.0:.4g}" for limit in limits]  # never -0
            for block, count, nan, *limits in ranges.itertuples()
        ]
        tables = (
            aligned_table(headers, subjects),
            aligned_table(["block (unit)", "NaN %", "smallest", "largest"], blocks),
        )
        return "\n\n".join(tables)


def _count(parts: Sequence[Part], window: int) -> Amount:
    """Count the samples of a subject and the windows that they give without other subjects."""
    stretch = np.empty(0, int)
    for part in parts:
        first = stretch.max(initial=-1) + 1
        numbers = number_stretches(part.is_usable, part.trial, first)
        stretch = np.append(stretch, numbers[part.is_usable])
    samples = np.arange(len(stretch))
    windows = {
        "paper": len(cut_stream(samples, window)[0]) if len(samples) >= window else 0,
        "strict": len(cut_stretches(samples, stretch, window)[0]),
    }
    return Amount(sum(len(part.trial) for part in parts), len(samples), windows)


if __name__ == "__main__":
    run_main(main)
