"""The error of trained networks on new people, after fine-tuning on a few of their steps.

Every network is fine-tuned, as by tools.fine_tune, on the first steps of the person who
was held out from its training, and tested on the data after the largest number of steps. Prints
the mean NRMSE over the targets for each number of steps, per person and averaged over people.

  python -m beyond.fine_tuning --checkpoints FILE FILE --data data/dataset_b.h5
  python -m beyond.fine_tuning --runs outputs/Dataset_B_streaming/RUN --data data/dataset_b.h5
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from beyond.rotations import add_networks, held_out
from common.cli import ArgumentParser, run_main, whole_number
from common.data import number_stretches
from common.files import InputError
from tools.fine_tune.__main__ import add_tuning
from tools.fine_tune.data import cut_fold, number_steps
from tools.fine_tune.tuning import nrmse_percent, tune

STEPS = (0, 1, 2, 5)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Fine-tune and test; print and return NRMSE in %, a line per network, a column per number.

    Raises:
        InputError: A flag or a file cannot be used.
    """
    args = _parser().parse_args(argv)
    lines = []
    for trained, recording, subject in held_out(args):
        is_usable = recording.samples["targets"].isfinite().all(dim=1).numpy()
        is_usable &= recording.subject == recording.subjects.index(subject)
        stretch = number_stretches(is_usable, recording.stretch)
        signals, targets = trained.inputs(recording.samples), recording.samples["targets"]
        step = number_steps(stretch, targets, trained)
        rest = np.where(step >= max(args.steps), stretch, -1)
        if not (rest >= 0).any():
            print(f"NOTICE: subject {subject} left out: no steps after the first {step.max() + 1}")
            continue
        try:
            for steps in args.steps:
                network = trained.network
                if steps:
                    first = np.where(step < steps, stretch, -1)
                    fold = cut_fold(args.data, trained, signals, targets, first)
                    network, _ = tune(trained, fold, args, args.head_only)
                tuned = trained._replace(network=network.eval())
                errors = nrmse_percent(tuned, signals, targets, rest)
                if errors is None:
                    raise InputError(f"{args.data}: no full window after the steps")
                lines.append((trained.row.name, subject, steps, errors.mean()))
        except InputError as error:
            print(f"NOTICE: {trained.row.name}, subject {subject}: {error}")
    table = pd.DataFrame(lines, columns=["row", "subject", "steps", "nrmse_percent"])
    table = table.groupby(["row", "subject", "steps"], sort=False).mean().reset_index()
    table = table.pivot_table("nrmse_percent", ["row", "subject"], "steps", sort=False)
    print(table.groupby("row", sort=False).mean().to_markdown(floatfmt=".1f"))
    print(f"\n{table.reset_index().to_markdown(index=False, floatfmt='.1f')}")
    return table


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m beyond.fine_tuning", description=__doc__)
    add_networks(parser)
    text = f"numbers of steps (default: {' '.join(map(str, STEPS))})"
    parser.add_argument(
        "--steps", nargs="+", type=whole_number, default=STEPS, metavar="N", help=text
    )
    add_tuning(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
