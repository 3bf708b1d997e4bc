"""Look through the HDF5 file of Dataset A or B before training on it.

Prints subjects, minutes, windows under both protocols, the share of NaN and the range of every
block, warns of what cannot be right, and draws the average stride of every target and activity (of
Dataset B: stance, by `force_phase`). Ends with 0 if all is plausible, 1 if it warns, 2 if the file
cannot be used.

  python -m tools.check_data data/dataset_a.h5
  python -m tools.check_data example_data.h5 --figure check.pdf
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import flags
from common.files import InputError
from tools.check import figure, layout, plausible
from tools.check.strides import Strides
from tools.check.summary import Summary
from tools.command import start

FORMATS = (".png", ".pdf", ".svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Check a file; return the exit status, 0 or 1."""
    options = _parser().parse_args(argv)
    page = options.figure or Path("outputs") / f"check_{options.file.stem}.png"
    if page.suffix not in FORMATS:
        raise InputError(f"--figure {page}: no format of figures; use {', '.join(FORMATS)}")
    found, subjects, has_trials = layout.opened(options.file)
    summary, strides = Summary(found), Strides(found)
    warnings: list[str] = []
    directions = {}
    for parts in subjects():
        summary.add(parts)
        subject, amount = parts[0].block.subject, summary.amounts[-1]
        own = [*plausible.problems(found, parts), *plausible.few_windows(found, amount)]
        warnings += [f"subject {subject}: {problem}" for problem in own]
        if amount.usable:
            directions[subject] = plausible.gravity(found, parts)
        for part in parts:
            strides.add(part)
    if directions:
        warnings += plausible.turned_sensors(found, directions)
    if len(summary.amounts) < 2:
        warnings.append("one subject; the scripts need one to train on and one to test on")
    dataset = found.study.dataset.upper()
    print(f"{options.file}: Dataset {dataset}, {len(summary.amounts)} subjects\n")
    print(summary.text())
    if not has_trials:
        print("\nNo `trial_starts`: windows of --protocol strict stay within an activity.")
    _save(page, found, strides, f"{options.file.name}, Dataset {dataset}")
    print("".join(f"\nWARNING: {warning}" for warning in warnings) or "\nAll is plausible.")
    return 1 if warnings else 0


def _save(page: Path, found: layout.Layout, strides: Strides, title: str) -> None:
    try:
        figure.save(page, found, strides, title)
    except OSError as error:
        problem = f"{page}: the figure cannot be written ({error.strerror})"
        raise InputError(f"{problem}; choose another --figure") from error
    print(f"\nFigure: {page}")


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="python -m tools.check_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="HDF5 file of either dataset")
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="page of figures, .png, .pdf or .svg (default: outputs/check_<file>.png)",
    )
    return parser


if __name__ == "__main__":
    start(main)
