"""Compare streaming students with windowed ones, over subjects and seeds.

Simulates walking in the layouts of Datasets A and B; trains the teacher, the windowed and the
streaming students, without and with distillation, each with the paper's loss and the balanced loss;
and writes tables to <out>/beyond.md and their values to <out>/scores_<dataset>.csv. If the command
is interrupted, run it again to continue. It takes about three hours on two CPU cores.

  python -m beyond.evidence --out outputs/beyond
  python -m beyond.evidence --out outputs/beyond --datasets b --data data/dataset_b.h5
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beyond import Dataset_A_streaming, Dataset_B_streaming
from common.cli import ArgumentParser, positive_float, positive_int, run_main, whole_number
from common.files import InputError, write_text
from common.metrics import score
from synthetic_gait import write_file

DATA_SEED = 42  # of the simulated walking
KINDS = ("student", "distilled", "streaming", "distilled_streaming")
COMPARISONS = (
    ("streaming", "student"),
    ("distilled_streaming", "distilled"),
    ("distilled", "student"),
    ("distilled_streaming", "streaming"),
)


class Plan(NamedTuple):
    """The training runs on one dataset.

    Attributes:
        script: the script.
        sets: sensor sets to compare; the balanced loss is used for the first one only.
        epochs: maximum number of epochs, few for a short run.
        batch_size: windows per batch.
    """

    script: ModuleType
    sets: tuple[str, str]
    epochs: int
    batch_size: int

    @property
    def rows(self) -> list[str]:
        """Names of the rows to train, in the order of the tables."""
        pooled = [f"{kind}-{sensor_set}" for sensor_set, kind in product(self.sets, KINDS)]
        balanced = [f"{kind}_balanced-{self.sets[0]}" for kind in KINDS]
        return ["teacher", *pooled, "teacher_balanced", *balanced]


PLANS = {
    "a": Plan(Dataset_A_streaming, ("foot_trunk", "foot"), epochs=6, batch_size=8),
    "b": Plan(Dataset_B_streaming, ("feet_pelvis", "feet"), epochs=8, batch_size=16),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train the rows that are not finished and write the tables; return 0."""
    args = _parser().parse_args(argv)
    if args.data and len(args.datasets) > 1:
        raise InputError("--data needs one of --datasets a and --datasets b")
    texts = []
    for dataset in args.datasets:
        plan = PLANS[dataset]
        data = args.data or args.out / f"dataset_{dataset}.h5"
        if not args.data and not data.exists():
            write_file(data, dataset, args.subjects, args.minutes, DATA_SEED)
        test_subjects = args.test_subjects or plan.script.read(data).subjects[-2:]
        flags = ["--data", str(data), "--output-dir", str(args.out), "--rows", *plan.rows]
        flags += ["--test-subjects", *test_subjects, "--batch-size", str(plan.batch_size)]
        flags += ["--epochs", str(args.epochs or plan.epochs), "--jobs", str(args.jobs)]
        for seed in args.seeds:
            print(f"\n== Dataset {dataset.upper()}, seed {seed}\n")
            plan.script.main([*flags, "--seed", str(seed), "--run-name", f"seed_{seed}"])
        folder = args.out / Path(plan.script.__file__).stem
        scores = score_runs([folder / f"seed_{seed}" for seed in args.seeds], plan.rows)
        scores.to_csv(args.out / f"scores_{dataset}.csv", index=False)
        tables = write_tables(scores, row_costs(folder / f"seed_{args.seeds[0]}", plan), plan)
        texts.append("\n\n".join([f"### Dataset {dataset.upper()}", *tables]))
        print(texts[-1])
        write_text(args.out / "beyond.md", "\n\n".join(texts) + "\n")
    print(f"Tables: {args.out / 'beyond.md'}")
    return 0


def score_runs(runs: Sequence[Path], rows: Sequence[str]) -> pd.DataFrame:
    """Score the rows of several runs, per test subject on the samples that all rows estimate.

    A streaming student has no estimate for the last samples of a trial or step.

    Args:
        runs: folders of the runs, named `seed_<number>`.
        rows: names of the rows, in the order of the result.

    Returns:
        One line per row, test subject, seed and target, with its metrics.
    """
    found = []
    for run, row in product(runs, rows):
        for path in sorted(run.glob(f"predictions/{row}-subject_*.npz")):
            subject = path.stem.removeprefix(f"{row}-subject_")
            found.append({"row": row, "test_subject": subject, "seed": run.name[5:], "path": path})
    tables = []
    for _, lines in pd.DataFrame(found).groupby("test_subject"):
        arrays = [dict(np.load(path)) for path in lines.pop("path")]
        common = reduce(np.intersect1d, [values["sample"] for values in arrays])
        for labels, values in zip(lines.to_dict("records"), arrays, strict=True):
            is_common, targets = np.isin(values["sample"], common), values["target"].tolist()
            scores = score(values["truth"][is_common], values["prediction"][is_common], targets)
            tables.append(pd.DataFrame({**labels, "target": targets, "n": len(common), **scores}))
    return pd.concat(tables).sort_values(
        "row", key=lambda names: names.map(rows.index), kind="stable"
    )


def row_costs(run: Path, plan: Plan) -> pd.DataFrame:
    """Return parameters, multiply-adds per sample and latency in ms of the rows of a run.

    The latency is the longest time from a sample to its estimate, without the computation. That of
    a windowed network is a window and a hop of half a window, and its multiply-adds are those of a
    window divided by the samples of a hop: a live estimate needs a window every hop.
    """
    script = plan.script
    metrics = pd.read_csv(run / "metrics.csv").drop_duplicates("row").set_index("row")
    rows = {row.name: row for row in script.ROWS}
    costs = {}
    for name, parameters in metrics["parameters"].items():
        network = rows[name].network()
        lookahead = getattr(network, "lookahead", 0)
        window, hop = (1, 1) if lookahead else (script.WINDOW, script.WINDOW // 2)
        channels = rows[name].network.keywords["channels"]
        inputs = [torch.zeros(1, window, count) for count in channels]
        costs[name] = {
            "parameters": parameters,
            "multiply-adds per sample": round(count_multiply_adds(network, inputs) / hop),
            "latency ms": round(1000 * (lookahead or window + hop) / script.RATE_HZ),
        }
    return pd.DataFrame(costs).T


def count_multiply_adds(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the multiply-adds of the matrix products in a forward pass on the CPU.

    Args:
        network: the network.
        inputs: its inputs, `(1, T, C)` each.
    """
    # PyTorch does not count fused operations; there are none in float64 with this attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.eval().double()(*(values.double() for values in inputs))
    return counter.get_total_flops() // 2


def write_tables(scores: pd.DataFrame, costs: pd.DataFrame, plan: Plan) -> list[str]:
    """Return the tables of a dataset in Markdown.

    Args:
        scores: from `score_runs`.
        costs: from `row_costs`.
        plan: what was trained.
    """
    return [
        "Mean and SD over n pairs of test subject and seed, of values that are means over targets; "
        "the latency excludes the computation:",
        _markdown(summary(scores).join(costs), ".3f"),
        "NRMSE in % per target, mean over the same pairs:",
        _markdown(scores.pivot_table("nrmse_percent", "row", "target", sort=False), ".2f"),
        "Differences in mean NRMSE (percentage points) on the same subject with the same seed:",
        _markdown(paired_differences(scores, plan), ".2f"),
    ]


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return, per row, mean and SD over n pairs of subject and seed of the mean NRMSE and PCC."""
    pairs = scores.groupby(["row", "test_subject", "seed"], sort=False)[["nrmse_percent", "pcc"]]
    grouped = pairs.mean().groupby("row", sort=False)
    table = grouped.agg(["mean", "std"])
    table.columns = ["NRMSE %", "SD", "PCC", "SD of PCC"]
    return table.assign(n=grouped.size())


def paired_differences(scores: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return paired differences between kinds of students: mean, SD, and how many are below 0."""
    nrmse = scores.groupby(["test_subject", "seed", "row"])["nrmse_percent"].mean().unstack("row")
    lines = {}
    for loss, sensor_set, pair in product(("", "_balanced"), plan.sets, COMPARISONS):
        rows = [f"{kind}{loss}-{sensor_set}" for kind in pair]
        if set(rows) <= set(nrmse.columns):
            difference = (nrmse[rows[0]] - nrmse[rows[1]]).dropna()
            lines[" − ".join(rows)] = {
                "mean": difference.mean(),
                "SD": difference.std(),
                "below 0": f"{(difference < 0).sum()} of {len(difference)}",
            }
    return pd.DataFrame(lines).T.rename_axis("difference")


def _markdown(table: pd.DataFrame, digits: str) -> str:
    return table.reset_index().to_markdown(index=False, floatfmt=digits, intfmt=",")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m beyond.evidence", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of data, runs and tables")
    add("--datasets", nargs="+", choices=PLANS, default=PLANS, help="datasets (default: a b)")
    add("--data", type=Path, metavar="FILE", help="data of one dataset (default: simulated)")
    add(
        "--subjects",
        type=positive_int,
        default=8,
        metavar="N",
        help="number of simulated subjects (default: 8)",
    )
    add(
        "--minutes",
        type=positive_float,
        default=0.35,
        metavar="X",
        help="minutes of simulated walking per subject (default: 0.35)",
    )
    add(
        "--epochs",
        type=positive_int,
        metavar="N",
        help="maximum number of epochs (default: 6 for A, 8 for B)",
    )
    add(
        "--test-subjects",
        nargs="+",
        metavar="ID",
        help="subjects to hold out (default: the last two of the file)",
    )
    add(
        "--seeds",
        nargs="+",
        type=whole_number,
        default=[42, 1],
        metavar="N",
        help="random seeds (default: 42 1)",
    )
    add(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="number of rows to train at the same time (default: 1)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
