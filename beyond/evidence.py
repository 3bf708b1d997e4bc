"""Compare the rows of runs of a script in beyond/: tables, paired over the test subjects.

Reads the predictions of runs with different seeds, and writes tables to <out>/beyond.md and their
values to <out>/scores.csv. All rows are scored on the same samples. In paired comparisons, the
seeds of a subject are averaged first, because they are not independent. Augmented rows of runs with
other values of --windows, --max-rotation or --epoch-factor than the first run are compared with
those of the first run.

  python -m beyond.evidence outputs/Dataset_A_streaming/seed_* --out outputs/evidence

With --data, windowed networks are also tested on overlapping windows, one every tenth of a window,
whose estimates are averaged with weights that decrease toward the ends of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beyond.ridge import LaggedRegression
from common.cli import ArgumentParser, file_path, run_main
from common.data import Recording
from common.files import InputError, shorten, write_text
from common.folder import read_config
from common.metrics import score
from common.windows import Windows
from tools.output import check_writable
from tools.predict.prediction import blend, overlapping_windows
from tools.trained import find_script, load_trained

OVERLAPS = 10  # windows that contain a sample
VARIED = ("windows", "max_rotation", "epoch_factor")  # settings of augmented rows
LOSSES = ("", "_balanced", "_augmented", "_balanced_overlapping", "_augmented_overlapping")
STUDENTS = ("student", "distilled", "streaming", "distilled_streaming")
COMPARISONS = {  # question -> pairs of kinds of rows; the first minus the second
    "streaming - windowed": [
        (f"{streaming}{loss}", f"{windowed}{loss}")
        for windowed, streaming in (STUDENTS[::2], STUDENTS[1::2])
        for loss in LOSSES
    ],
    "streaming - windowed, overlapping": [
        (f"streaming{loss}", f"student{loss}_overlapping") for loss in ("_balanced", "_augmented")
    ],
    "balanced - paper's loss": [(f"{kind}_balanced", kind) for kind in ("teacher", *STUDENTS)],
    "distilled - student": [
        (f"{distilled}{loss}", f"{student}{loss}")
        for student, distilled in (STUDENTS[:2], STUDENTS[2:])
        for loss in LOSSES
    ],
    "teacher - student": [(f"teacher{loss}", f"student{loss}") for loss in ("", "_balanced")],
    "augmented - balanced": [
        (f"{kind}_augmented", f"{kind}_balanced") for kind in ("student", "streaming")
    ],
    "augmented - paper's training": [
        (f"{kind}_augmented", kind) for kind in ("student", "streaming")
    ],
    "overlapping - separate windows": [
        (f"student{loss}_overlapping", f"student{loss}") for loss in ("", "_balanced", "_augmented")
    ],
    "network - ridge": [
        (f"{kind}{loss}", "ridge") for kind in ("student", "streaming") for loss in LOSSES
    ],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables of some runs; return 0."""
    args = _parser().parse_args(argv)
    inputs = [path for run in args.runs for path in run.rglob("*") if path.is_file()]
    for name in ("beyond.md", "scores.csv"):
        check_writable(args.out / name, [*inputs, *filter(None, [args.data])], _is_ours)
    predictions = find_predictions(args.runs)
    script = run_script(args.runs[0])
    if args.data:
        predictions = pd.concat(
            [predictions, overlapping_predictions(args.runs, args.data, predictions, script)]
        )
    scores = score_predictions(predictions)
    tables = write_tables(scores, row_costs(args.runs, script))
    args.out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(args.out / "scores.csv", index=False)
    write_text(args.out / "beyond.md", "\n\n".join(tables) + "\n")
    print("\n\n".join(tables))
    print(f"\nTables: {args.out / 'beyond.md'}")
    return 0


def _is_ours(path: Path) -> bool:
    start = b"Mean and SD over " if path.suffix == ".md" else b"row,test_subject,seed,target,n,"
    with path.open("rb") as file:
        return file.read(len(start)) == start


def run_script(run: Path) -> ModuleType:
    """Return the script of a run.

    Raises:
        InputError: It is not a script of this project.
    """
    try:
        return find_script(read_settings(run).get("script"))
    except ValueError as error:
        raise InputError(f"{run}: {error}; pass runs of a script in beyond/") from error


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings of a run.

    Raises:
        InputError: It is not a run.
    """
    try:
        return read_config(run)["settings"]
    except InputError as error:
        raise InputError(f"{error}; pass folders such as outputs/children/seed_42") from error


def find_predictions(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the finished predictions of the runs: row, test subject, seed and file.

    Raises:
        InputError: There are none, or the settings of the runs differ too much.
    """
    found, first = [], read_settings(runs[0])
    for run in runs:
        settings = read_settings(run)
        names = [name for name in {**first, **settings} if settings.get(name) != first.get(name)]
        if wrong := [name for name in names if name not in ("seed", *VARIED)]:
            raise InputError(
                f"{run}: {shorten(', '.join(wrong))} differs from {runs[0]}; pass runs of the same "
                f"script that differ in the seed, {', '.join(VARIED)} only"
            )
        varied = ", ".join(f"{name} {settings[name]}" for name in VARIED if name in names)
        for path in sorted(run.glob("predictions/*.npz")):
            row, _, subject = path.stem.partition("-subject_")
            if varied and "augmented" not in row:
                continue
            row += f" ({varied})" if varied else ""
            labels = {"row": row, "test_subject": subject, "seed": settings["seed"]}
            found.append({**labels, "predictions": path})
    if not found:
        raise InputError(f"{runs[0]}: no finished rows; continue the run with --resume")
    return pd.DataFrame(found)


def overlapping_predictions(
    runs: Sequence[Path], data: Path, predictions: pd.DataFrame, script: ModuleType
) -> pd.DataFrame:
    """Run the windowed students of the runs on overlapping windows of their test subjects.

    Returns:
        The same columns as `predictions`, with arrays instead of files; the rows are named
        `student_overlapping-<set>`, `student_balanced_overlapping-<set>` and so on.

    Raises:
        InputError: The data are not those of the runs, or a checkpoint cannot be used.
    """
    recording = script.read(data)
    settings = read_settings(runs[0])
    if recording.digest() != settings["data"]["digest"]:
        raise InputError(f"{data}: not the data of {runs[0]}; pass the file of that run")
    lines = predictions[predictions["row"].str.match("student")].to_dict("records")
    for line in lines:
        path = line["predictions"]
        checkpoint = path.parents[1] / "checkpoints" / f"{path.stem}.safetensors"
        arrays = dict(np.load(path))
        arrays["prediction"] = predict_overlapping(
            checkpoint, recording, line["test_subject"], settings["protocol"]
        )[arrays["sample"]]
        kind, _, sensor_set = line["row"].partition("-")
        line |= {"row": f"{kind}_overlapping-{sensor_set}", "predictions": arrays}
    return pd.DataFrame(lines)


def predict_overlapping(
    checkpoint: Path, recording: Recording, subject: str, protocol: str
) -> np.ndarray:
    """Return the estimates `(samples, K)` of a windowed network, from overlapping windows.

    Args:
        checkpoint: of the network.
        recording: all subjects.
        subject: the test subject; the estimates for the others are NaN.
        protocol: `paper`: windows of one stream of all samples; `strict`: within a trial or step.
    """
    trained = load_trained(checkpoint)
    is_test = recording.subject == recording.subjects.index(subject)
    number = recording.stretch if protocol == "strict" else np.zeros_like(recording.stretch)
    window = trained.script.WINDOW
    windows = overlapping_windows(np.where(is_test, number, -1), window, window // OVERLAPS)
    signals = trained.inputs(recording.samples)
    return blend(trained, Windows(signals, signals[0], windows))


def score_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score predictions, per test subject on the samples that all rows estimate.

    A streaming student has no estimate for the last samples of a trial or step.

    Args:
        predictions: row, test subject, seed, and predictions as a file or arrays.

    Returns:
        One line per row, test subject, seed and target, with its metrics.
    """
    tables = []
    for _, lines in predictions.groupby("test_subject"):
        found = lines.pop("predictions")
        arrays = [values if isinstance(values, dict) else dict(np.load(values)) for values in found]
        common = reduce(np.intersect1d, [values["sample"] for values in arrays])
        for labels, values in zip(lines.to_dict("records"), arrays, strict=True):
            is_common, targets = np.isin(values["sample"], common), values["target"].tolist()
            scores = score(values["truth"][is_common], values["prediction"][is_common], targets)
            tables.append(pd.DataFrame({**labels, "target": targets, "n": len(common), **scores}))
    return pd.concat(tables).sort_values(["row", "seed"], kind="stable")


def row_costs(runs: Sequence[Path], script: ModuleType) -> pd.DataFrame:
    """Return parameters, multiply-adds per sample and latency in ms of the rows of some runs.

    The latency is the longest time from a sample to its estimate, without the computation. That of
    a windowed network is a window and a hop of half a window, and its multiply-adds are those of a
    window divided by the samples of a hop: a live estimate needs a window every hop.
    """
    tables = [pd.read_csv(path) for run in runs if (path := run / "metrics.csv").exists()]
    metrics = pd.concat(tables).drop_duplicates("row").set_index("row")
    rows = {row.name: row for row in script.ROWS}
    costs = {}
    for name, parameters in metrics["parameters"].items():
        network = rows[name].network()
        is_filter = isinstance(network, LaggedRegression)
        lookahead = network.margin if is_filter else getattr(network, "lookahead", 0)
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


def write_tables(scores: pd.DataFrame, costs: pd.DataFrame) -> list[str]:
    """Return the tables in Markdown.

    Args:
        scores: from `score_predictions`.
        costs: from `row_costs`.
    """
    return [
        "Mean and SD over n test subjects, of values that are means over targets and seeds; the "
        "latency excludes the computation:",
        _markdown(summary(scores).join(costs.astype("Int64")), ".3f"),
        "NRMSE in % per target, mean over test subjects and seeds:",
        _markdown(scores.pivot_table("nrmse_percent", "row", "target", sort=False), ".2f"),
        "PCC per target, mean over test subjects and seeds:",
        _markdown(scores.pivot_table("pcc", "row", "target", sort=False), ".3f"),
        "Differences in mean NRMSE (percentage points), paired over the test subjects, with 95 % "
        "confidence intervals (t distribution) of the mean:",
        _markdown(paired_differences(scores), ".2f"),
    ]


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return, per row, mean and SD of the mean NRMSE and PCC over n subjects, and the seeds."""
    by_row = scores.groupby("row", sort=False)
    subjects = scores.groupby(["row", "test_subject"], sort=False)[["nrmse_percent", "pcc"]].mean()
    grouped = subjects.groupby("row", sort=False)
    table = grouped.agg(["mean", "std"])
    table.columns = ["NRMSE %", "SD", "PCC", "SD of PCC"]
    return table.assign(n=grouped.size(), seeds=by_row["seed"].nunique())


def paired_differences(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the paired differences between kinds of rows with the same sensor set.

    Only seeds of a subject with both rows count; they are averaged first.
    """
    nrmse = scores.groupby(["test_subject", "seed", "row"])["nrmse_percent"].mean().unstack("row")
    sets = sorted({row.partition("-")[2].partition(" (")[0] for row in nrmse.columns} - {""})
    chosen = {}  # difference -> question
    for (question, pairs), sensor_set in product(COMPARISONS.items(), sets):
        for pair in pairs:
            rows = [kind if "teacher" in kind else f"{kind}-{sensor_set}" for kind in pair]
            chosen[tuple(rows)] = question
    varied = [row for row in nrmse.columns if " (" in row]
    chosen |= {(row, row.partition(" (")[0]): "other training - augmented" for row in varied}
    lines = []
    for (first, second), question in chosen.items():
        if not {first, second} <= {*nrmse.columns}:
            continue
        by_seed = (nrmse[first] - nrmse[second]).dropna()
        difference = by_seed.groupby("test_subject").mean()
        n = len(difference)
        if n == 0:
            continue
        width = stats.t.ppf(0.975, n - 1) * difference.std() / np.sqrt(n) if n > 1 else np.nan
        labels = {"question": question, "difference": f"{first} - {second}"}
        numbers = {"mean": difference.mean(), "95 % CI ±": width}
        counts = {"below 0": f"{(difference < 0).sum()} of {n}"}
        lines.append({**labels, **numbers, **counts, "seeds": by_seed.index.unique("seed").size})
    columns = ["question", "difference", "mean", "95 % CI ±", "below 0", "seeds"]
    return pd.DataFrame(lines, columns=columns).set_index("question")


def _markdown(table: pd.DataFrame, digits: str) -> str:
    cells = table.reset_index().astype(object)
    cells = cells.where(cells.notna(), "")  # no interval from one subject, no costs of overlap
    return cells.to_markdown(index=False, floatfmt=digits, intfmt=",")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m beyond.evidence", description=__doc__)
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=file_path,
        metavar="RUN",
        help="folders of runs with different seeds",
    )
    add("--out", type=file_path, required=True, metavar="DIR", help="folder of the tables")
    add("--data", type=file_path, metavar="FILE", help="data of the runs, for overlapping windows")
    return parser


if __name__ == "__main__":
    run_main(main)
