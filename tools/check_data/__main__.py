"""Check the HDF5 file of Dataset A or B, or a user-supplied file, before training on it.

Prints the subjects, minutes and windows under both protocols, and the share of NaN and the range of
every block. Warns about implausible values: wrong units (also in a single subject or trial),
sensors mounted differently from those of the other subjects, dead or frozen sensors, missing values
coded as 0 or -9999, duplicate trials, and ignored subjects. Plots the mean and SD of every target
over the stances of each activity. The exit status is 0 if everything is plausible, 1 after a
warning and 2 if the file cannot be used.

  python -m tools.check_data data/dataset_a.h5
  python -m tools.check_data example_data.h5 --figure check.pdf
  python -m tools.check_data data/dataset_my_gait.h5 --script my_gait.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import ArgumentParser, file_path, run_main
from common.data import describe_ignored, number_stretches, open_hdf5
from common.files import InputError, plural, printable, read_problem
from common.metrics import aligned_table
from common.stances import NO_VERTICAL_FORCE
from common.windows import PROTOCOLS, cut_stream, cut_stretches
from tools.check_data.checks import check_subject, summarize_trials
from tools.check_data.layout import DataFile, Layout, Part
from tools.check_data.stances import Stances, save_figure
from tools.mounting import compare_subjects, measure
from tools.output import check_writable, explain_write_errors, is_figure
from tools.plausibility import compare_trials
from tools.trained import dataset_name, is_synthetic, open_script

FORMATS = (".png", ".pdf", ".svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Check a file; return the exit status, 0 or 1."""
    args = _parser().parse_args(argv)
    page = args.figure or Path("outputs") / f"check_{args.file.stem}.png"
    if page.suffix not in FORMATS:
        raise InputError(f"--figure {page}: not a figure format; use {', '.join(FORMATS)}")
    if problem := read_problem(args.file):
        raise InputError(f"{args.file}: {problem}; give the path of an HDF5 file")
    check_writable(page, filter(None, [args.file, args.script]), is_figure, "--figure")
    script = open_script(args.script) if args.script else None
    with open_hdf5(args.file) as file:
        data = DataFile(args.file, file, script)
        layout, summary, stances = data.layout, Summary(data.layout), Stances(data.layout)
        warnings = [describe_ignored(data.ignored)] if data.ignored else []
        trials, imus = [], {}
        for subject, parts in data.subjects():
            amount = summary.add(subject, parts)
            problems = list(check_subject(layout, parts))
            problems += [
                f"no full window of {layout.script.WINDOW} samples under --protocol {protocol}"
                for protocol in PROTOCOLS
                if not amount[protocol]
            ]
            warnings += [f"subject {subject}: {problem}" for problem in problems]
            trials += summarize_trials(layout, subject, parts)
            imus[subject] = [
                measure(part.samples["acc"], part.samples["gyr"], layout.script.SENSORS)
                for part in parts
            ]
            for part in parts:
                stances.add(part)
    warnings += compare_subjects(imus)
    warnings += compare_trials(trials)
    if len(summary.amounts) < 2:
        warnings.append("one subject; the scripts need one to train on and one to test on")
    title = f"Dataset {dataset_name(layout.script)}"
    if is_synthetic(args.file):
        title += ", SYNTHETIC DATA"
    print(f"{args.file}: {title}, {plural(len(summary.amounts), 'subject')}\n\n{summary.tables()}")
    if not data.has_trials:
        print("\nNo `trial_starts`: windows of --protocol strict stay within an activity.")
    with explain_write_errors(page, "--figure"):
        is_drawn = save_figure(page, stances, f"{args.file.name}, {title}")
    if layout.vertical is None:
        print(f"\n{NO_VERTICAL_FORCE}")
    else:
        print(f"\nFigure: {page}" if is_drawn else "\nNo figure: there is no complete stance.")
    text = "".join(f"\nWARNING: {printable(warning)}" for warning in warnings)
    print(text or "\nEverything is plausible.")
    return 1 if warnings else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.check_data", description=__doc__)
    parser.add_argument("file", type=file_path, metavar="FILE", help="HDF5 file")
    parser.add_argument(
        "--script",
        type=file_path,
        metavar="FILE",
        help="script that reads the file, if it is not one of Dataset A or B",
    )
    parser.add_argument(
        "--figure",
        type=file_path,
        metavar="FILE",
        help="page of figures, .png, .pdf or .svg (default: outputs/check_<file>.png)",
    )
    return parser


class Summary:
    """Amounts of data and ranges of values, added up subject by subject.

    Attributes:
        amounts: subject -> result of `count`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.amounts: dict[str, dict[str, int]] = {}
        self._ranges: list[tuple[str, int, int, float, float]] = []

    def add(self, subject: str, parts: Sequence[Part]) -> dict[str, int]:
        """Add a subject and return its amount of data."""
        script = self.layout.script
        self.amounts[subject] = count(parts, script.WINDOW)
        for part in parts:
            blocks = {f"{name} ({unit})": part.samples[name] for name, unit in script.UNITS.items()}
            for (name, unit), values in zip(script.TARGETS, part.samples["targets"].T, strict=True):
                blocks[f"{name} ({unit})"] = values
            for name, (unit, _) in self.layout.others.items():
                if name in part.columns:
                    blocks[f"{name} ({unit})"] = part.columns[name]
            for block, values in blocks.items():
                ends = (e.reduce(values, axis=None, initial=np.nan) for e in (np.fmin, np.fmax))
                self._ranges.append((block, values.size, np.isnan(values).sum(), *ends))
        return self.amounts[subject]

    def tables(self) -> str:
        """Return the two tables for the screen."""
        amounts = pd.DataFrame.from_dict(self.amounts, orient="index")
        amounts.loc["all"] = amounts.sum()
        per_minute = 60 * self.layout.script.RATE_HZ
        subjects = [
            [name, f"{samples / per_minute:.1f}", f"{usable / per_minute:.1f}"]
            + [f"{number:,}" for number in windows]
            for name, samples, usable, *windows in amounts.itertuples()
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
        return "\n\n".join(
            (
                aligned_table(headers, subjects),
                aligned_table(["block (unit)", "NaN %", "smallest", "largest"], blocks),
            )
        )


def count(parts: Sequence[Part], window: int) -> dict[str, int]:
    """Return the amount of data of a subject.

    Returns:
        `samples`, `usable` (samples without NaN in a used column) and, per protocol, the number of
        windows of the usable samples without other subjects.
    """
    stretch = np.empty(0, int)
    for part in parts:
        first = stretch.max(initial=-1) + 1
        numbers = number_stretches(part.is_usable, part.trial, first)
        stretch = np.append(stretch, numbers[part.is_usable])
    samples = np.arange(len(stretch))
    return {
        "samples": sum(len(part.trial) for part in parts),
        "usable": len(samples),
        "paper": len(cut_stream(samples, window)[0]) if len(samples) >= window else 0,
        "strict": len(cut_stretches(samples, stretch, window)[0]),
    }


if __name__ == "__main__":
    run_main(main)
