"""Compare streaming students with the windowed students of the paper, over subjects and seeds.

Simulates walking in the layouts of Datasets A and B, trains the teacher, the windowed and the
streaming students, without and with distillation, with both losses and several lookaheads, and
writes tables to <out>/beyond.md, and their numbers to <out>/scores_<dataset>.csv. A command that
was interrupted continues where it stopped when you run it again. Plan for three hours on two
CPU cores.

  python -m tools.beyond --out outputs/beyond
  python -m tools.beyond --out outputs/beyond --datasets b --data data/dataset_b.h5
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.cli import ArgumentParser, positive_float, positive_int, run_main, whole_number
from common.files import InputError, write_text
from common.runs import Script, find_row, script_folder
from synthetic_gait import write_file
from tools.report.streaming import delay_and_multiply_adds, score_common_samples
from tools.trained import find_script

DATA_SEED = 42  # of the simulated walking
KINDS = ("student", "distilled", "streaming", "distilled_streaming")
COMPARISONS = (
    ("streaming", "student"),
    ("distilled_streaming", "distilled"),
    ("distilled", "student"),
    ("distilled_streaming", "streaming"),
)
PREDICTIONS = "predictions/*.npz"


class Plan(NamedTuple):
    """What is trained on a dataset.

    Attributes:
        script: name of the script.
        sets: sensor sets to compare; the first one also with other lookaheads and the other loss.
        lookaheads_ms: other lookaheads than the default.
        epochs: maximum number of epochs, few for a short training.
        batch_size: windows per batch.
    """

    script: str
    sets: tuple[str, str]
    lookaheads_ms: tuple[int, ...]
    epochs: int
    batch_size: int


PLANS = {
    "a": Plan(
        "Dataset_A_Sensor_Distillation",
        ("foot_trunk", "foot"),
        (0, 25, 100),
        epochs=6,
        batch_size=8,
    ),
    "b": Plan(
        "Dataset_B_sensor_distillation",
        ("feet_pelvis", "feet"),
        (0, 20, 100),  # a sample lasts 10 ms
        epochs=8,
        batch_size=16,
    ),
}


class Call(NamedTuple):
    """One call of a script: the name of its run, its rows and its own flags."""

    run_name: str
    rows: list[str]
    flags: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing and write the tables; return 0."""
    args = _parser().parse_args(argv)
    if args.data and len(args.datasets) > 1:
        raise InputError("--data needs one of --datasets a and --datasets b")
    texts = []
    for dataset in args.datasets:
        plan = PLANS[dataset]
        script = find_script(plan.script)
        data = args.data or args.out / f"dataset_{dataset}.h5"
        if not args.data and not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            write_file(data, dataset, args.subjects, args.minutes, DATA_SEED)
        test_subjects = args.test_subjects or script.read(data).subjects[-2:]
        calls = list(plan_calls(plan, args.seeds))
        for call in calls:
            print(f"\n== Dataset {dataset.upper()}, {call.run_name}: {' '.join(call.rows)}\n")
            common = ["--data", str(data), "--output-dir", str(args.out), "--epochs"]
            common += [str(args.epochs or plan.epochs), "--batch-size", str(plan.batch_size)]
            common += ["--run-name", call.run_name, "--test-subjects", *test_subjects]
            jobs = ["--jobs", str(args.jobs)] if args.jobs else []
            script.main([*common, *jobs, *call.flags, "--rows", *call.rows])
        scores = score_calls(script, args.out, calls)
        scores.to_csv(args.out / f"scores_{dataset}.csv", index=False)
        tables = write_tables(scores, row_costs(script, args.out, calls[0]), plan)
        text = "\n\n".join([f"### Dataset {dataset.upper()}", *tables])
        print(text)
        texts.append(text)
        write_text(args.out / "beyond.md", "\n\n".join(texts) + "\n")
    print(f"Tables: {args.out / 'beyond.md'}")
    return 0


def plan_calls(plan: Plan, seeds: Sequence[int]) -> Iterator[Call]:
    """Yield the calls of the script, the most important ones first."""
    first = [f"{kind}-{plan.sets[0]}" for kind in KINDS]
    both = [f"{kind}-{sensor_set}" for sensor_set in plan.sets for kind in KINDS]
    for seed in seeds:
        yield Call(f"pooled-seed_{seed}", both, ["--seed", str(seed)])
    for seed in seeds:
        flags = ["--seed", str(seed), "--loss", "balanced"]
        yield Call(f"balanced-seed_{seed}", first, flags)
        for lookahead in plan.lookaheads_ms:
            flags = ["--seed", str(seed), "--lookahead", str(lookahead)]
            yield Call(f"{lookahead}_ms-seed_{seed}", [f"streaming-{plan.sets[0]}"], flags)


def score_calls(script: Script, output_dir: Path, calls: Sequence[Call]) -> pd.DataFrame:
    """Score all rows of a test subject on the same samples: those that every row estimates.

    A streaming row has no estimate for the last samples of a trial or step, as many as its
    lookahead.

    Returns:
        A line per run, row, test subject and target, in the order of the script's table, with the
        columns `setting` and `seed` of the run and the metrics of the report.
    """
    files: dict[str, dict[str, Path]] = {}  # by test subject, and by run and row
    for call in calls:
        for path in sorted((script_folder(output_dir, script) / call.run_name).glob(PREDICTIONS)):
            row, _, subject = path.stem.partition("-subject_")
            files.setdefault(subject, {})[f"{call.run_name}/{row}"] = path
    scores = pd.concat(
        score_common_samples([*paths.values()], [*paths], subject)
        for subject, paths in files.items()
    )
    found = scores["row"].str.extract(r"(?P<setting>.*)-seed_(?P<seed>\d+)/(?P<row>.*)")
    scores = pd.concat([found, scores.drop(columns="row")], axis="columns")
    order = [row.name for row in script.ROWS]
    return scores.sort_values("row", key=lambda rows: rows.map(order.index), kind="stable")


def row_costs(script: Script, output_dir: Path, call: Call) -> pd.DataFrame:
    """Return parameters, multiply-adds and delay of the rows of a call, as in the report."""
    metrics = pd.read_csv(script_folder(output_dir, script) / call.run_name / "metrics.csv")
    costs = metrics.drop_duplicates("row").set_index("row")[["parameters"]]
    found = [delay_and_multiply_adds(script, find_row(script, row)) for row in costs.index]
    costs["multiply-adds per sample"] = [multiply_adds for _, multiply_adds in found]
    costs["delay ms"] = [round(delay_ms) for delay_ms, _ in found]
    return costs


def write_tables(scores: pd.DataFrame, costs: pd.DataFrame, plan: Plan) -> list[str]:
    """Return the tables of a dataset in Markdown.

    Args:
        scores: scores of all calls, from `score_calls`.
        costs: costs per row, from `row_costs`.
        plan: what was trained.
    """
    name = plan.sets[0]
    pooled = scores[scores["setting"] == "pooled"]
    balanced = scores[scores["setting"] == "balanced"]
    both_losses = pd.concat([pooled, balanced])
    first = [f"{kind}-{name}" for kind in KINDS]
    default_ms = costs.loc[f"streaming-{name}", "delay ms"]
    is_lookahead = (scores["row"] == f"streaming-{name}") & (scores["setting"] != "balanced")
    return [
        "Loss of the paper (pooled). Mean over targets, then mean and SD over n pairs of test "
        "subject and seed; delay without the computation:",
        _markdown(summary(pooled, ["row"]).join(costs), ".3f"),
        "The same, NRMSE in % per target:",
        _markdown(nrmse_per_target(pooled), ".2f"),
        "Differences in mean NRMSE (percentage points) on the same subject with the same seed:",
        _markdown(paired_differences(pooled, plan), ".2f"),
        f"Both losses, sensor set `{name}`:",
        _markdown(
            summary(both_losses[both_losses["row"].isin(["teacher", *first])], ["row", "setting"]),
            ".3f",
        ),
        "Differences, as above, with the balanced loss:",
        _markdown(paired_differences(balanced, plan), ".2f"),
        "NRMSE in % per target with the balanced loss:",
        _markdown(nrmse_per_target(balanced), ".2f"),
        f"Lookahead of `streaming-{name}` (pooled: the default, {default_ms} ms):",
        _markdown(summary(scores[is_lookahead], ["setting"]), ".3f"),
    ]


def summary(scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return mean and SD, over n pairs of subject and seed, of the mean NRMSE and PCC."""
    pairs = [*by, "test_subject", "seed"]
    means = scores.groupby(pairs, sort=False)[["nrmse_percent", "pcc"]].mean()
    grouped = means.groupby(by, sort=False)
    table = grouped.agg(["mean", "std"])
    table.columns = ["NRMSE %", "SD", "PCC", "SD of PCC"]
    return table.assign(n=grouped.size())


def nrmse_per_target(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean NRMSE in % of every row and target."""
    return scores.pivot_table("nrmse_percent", "row", "target", sort=False)


def paired_differences(scores: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return paired differences between kinds of students: mean, SD, and how many are below 0."""
    nrmse = scores.groupby(["test_subject", "seed", "row"])["nrmse_percent"].mean().unstack("row")
    lines = {}
    for name in plan.sets:
        for kind, other in COMPARISONS:
            rows = f"{kind}-{name}", f"{other}-{name}"
            if set(rows) <= set(nrmse.columns):
                difference = (nrmse[rows[0]] - nrmse[rows[1]]).dropna()
                lines[" - ".join(rows)] = {
                    "mean": difference.mean(),
                    "SD": difference.std(),
                    "below 0": f"{(difference < 0).sum()} of {len(difference)}",
                }
    return pd.DataFrame(lines).T.rename_axis("difference")


def _markdown(table: pd.DataFrame, digits: str) -> str:
    """Return a table with its index as the first columns; counts have no decimals."""
    table = table.reset_index()
    counts = table.select_dtypes("integer")
    return table.assign(**counts.map("{:,}".format)).to_markdown(index=False, floatfmt=digits)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.beyond", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of data, runs and tables")
    add(
        "--datasets",
        nargs="+",
        choices=tuple(PLANS),
        default=tuple(PLANS),
        help="datasets (default: a b)",
    )
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="measured data of one dataset (default: simulated walking)",
    )
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
        help="seeds of the trainings (default: 42 1)",
    )
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="number of trainings to run at the same time (default: as in the scripts)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
