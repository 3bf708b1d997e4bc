"""Calculate how long it takes to train every row of the ten scripts on both full datasets.

Nothing is trained, but counting the multiply-adds of every row takes about five minutes. The time
on one CPU core is extrapolated from rows that `python -m tools.benchmark --parts training` has
measured, and the time on a GPU is a lower bound from its data sheet:

  python -m tools.benchmark --parts training --out outputs/benchmark
  python -m tools.benchmark.study --measured outputs/benchmark/benchmark.json

All rows are assumed to be trained for the maximum number of epochs; early stopping makes them
shorter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from common.cli import ArgumentParser, file_path, positive_float, positive_int, run_main
from common.files import InputError
from tools.benchmark import training
from tools.benchmark.inference import count_multiply_adds
from tools.benchmark.training import Case
from tools.trained import count_channels

SUBJECTS = {"a": 20, "b": 17}
VALIDATION_SHARE = 0.2  # of the windows of the training subjects, as in the paper
# Passes over the weights in a training step: forward, backward (input and weight gradients), and
# the reads and writes of Adam's weights, gradients and two moments
WEIGHT_PASSES = 3 + 7


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of the cost of every script, in Markdown.

    Raises:
        InputError: The measurements cannot be read.
    """
    args = _parser().parse_args(argv)
    samples = {"a": args.samples_a, "b": args.samples_b}
    measured_s = read_measured(args.measured)
    rows = pd.DataFrame(
        cost_of_row(case, samples, args.tera_multiply_adds_per_s, args.gb_per_s)
        for case in tqdm(training.choose_cases("ab", ["*"]), "rows", disable=None)
        if training.choose_losses(case.script, case.row)
    )
    rows["CPU core, hours"] = rows["window-epochs"] * seconds_per_window(rows, measured_s) / 3600
    sums = ["training runs", "10¹⁵ multiply-adds", "TB", "CPU core, hours", "GPU, hours, at least"]
    table = rows.groupby(["dataset", "script"])[sums].sum()
    table.loc[("", "all"), :] = table.sum()
    print(table.reset_index().to_markdown(index=False, floatfmt=",.0f"))


def cost_of_row(
    case: Case, samples: dict[str, int], tera_multiply_adds_per_s: float, gb_per_s: float
) -> dict[str, object]:
    """Count the operations and the memory traffic of training a row on every fold.

    Args:
        case: the row.
        samples: samples per subject, by dataset.
        tera_multiply_adds_per_s: 10¹² multiply-adds per second of the GPU.
        gb_per_s: memory bandwidth of the GPU.
    """
    script, row = case.script, case.row
    folds = SUBJECTS[script.DATASET]
    windows = (folds - 1) * samples[script.DATASET] // script.WINDOW
    training_windows = round((1 - VALIDATION_SHARE) * windows)
    is_correlation = row.name.startswith("dlr_correlation")
    epochs = (
        getattr(script, "CORRELATION_EPOCHS", script.EPOCHS) if is_correlation else script.EPOCHS
    )
    with torch.device("meta"):
        network = row.network()
        channels = count_channels(script).items()
        one = {name: torch.empty(1, script.WINDOW, count) for name, count in channels}
        inputs = script.inputs(one, row.sensor_set)
        if row.name.startswith("ffn_hf"):  # the features are computed once per fold
            inputs = [torch.empty(1, network.layers[0].in_features)]
        multiply_adds = count_multiply_adds(network, inputs)
    parameters = sum(p.numel() for p in network.parameters())
    # The backward pass takes twice the multiply-adds of the forward pass
    per_epoch = multiply_adds * (3 * training_windows + windows - training_windows)
    steps = training_windows / script.BATCH_SIZE
    read = 4 * windows * sum(values.numel() for values in inputs)
    bytes_per_epoch = read + 4 * WEIGHT_PASSES * parameters * steps
    seconds = max(per_epoch / tera_multiply_adds_per_s / 1e12, bytes_per_epoch / gb_per_s / 1e9)
    return {
        **case.labels,
        "script": case.script_name,
        "multiply-adds": multiply_adds,
        "window-epochs": training_windows * epochs * folds,
        "training runs": folds,
        "10¹⁵ multiply-adds": per_epoch * epochs * folds / 1e15,
        "TB": bytes_per_epoch * epochs * folds / 1e12,
        "GPU, hours, at least": seconds * epochs * folds / 3600,
    }


def read_measured(path: Path) -> dict[tuple[str, str], float]:
    """Return the seconds per training window and epoch on one CPU thread, by dataset and row.

    Args:
        path: `benchmark.json` of `tools.benchmark`.

    Raises:
        InputError: The file cannot be read, or lacks such measurements of a dataset.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = {
            (r["dataset"], r["row"]): r["ours_s"] / r["batches"] / results["settings"]["batch_size"]
            for r in results["training"]
            if r["device"] == "cpu" and results["settings"]["threads"] == 1
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the results of tools.benchmark ({error})") from error
    missing = {name.upper() for name in SUBJECTS} - {dataset for dataset, _ in found}
    if missing:
        raise InputError(
            f"{path}: nothing measured on one CPU thread for dataset {', '.join(sorted(missing))}; "
            "run tools.benchmark --parts training --threads 1"
        )
    return found


def seconds_per_window(
    rows: pd.DataFrame, measured_s: Mapping[tuple[str, str], float]
) -> pd.Series:
    """Return the seconds per training window and epoch of every row on one CPU core.

    Rows that were not measured take the time per multiply-add of the measured rows of their kind
    and dataset, or else of all measured rows of the dataset (median).

    Args:
        rows: `dataset`, `row` and `multiply-adds` of the rows.
        measured_s: from `read_measured`.
    """
    keys = pd.MultiIndex.from_frame(rows[["dataset", "row"]])
    known_s = pd.Series(keys.map(measured_s), rows.index, dtype=float)
    rate = known_s / rows["multiply-adds"]  # seconds per multiply-add
    kind = rows["row"].str.split("-").str[0]
    of_kind = rate.groupby([rows["dataset"], kind]).transform("median")
    of_dataset = rate.groupby(rows["dataset"]).transform("median")
    return known_s.fillna(of_kind.fillna(of_dataset) * rows["multiply-adds"])


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.benchmark.study", description=__doc__)
    add = parser.add_argument
    add(
        "--measured",
        type=file_path,
        required=True,
        metavar="FILE",
        help="results of tools.benchmark",
    )
    text = "samples per subject of Dataset {} (default: {:,}{})"
    add(
        "--samples-a",
        type=positive_int,
        default=320_000,
        metavar="N",
        help=text.format("A", 320_000, ""),
    )
    add(
        "--samples-b",
        type=positive_int,
        default=24_000,
        metavar="N",
        help=text.format("B", 24_000, ", an assumption: 250 steps"),
    )
    text = "10¹² multiply-adds per second of the GPU (default: 4.05, an NVIDIA T4 in float32)"
    add("--tera-multiply-adds-per-s", type=positive_float, default=4.05, metavar="X", help=text)
    text = "memory bandwidth of the GPU (default: 320, an NVIDIA T4)"
    add("--gb-per-s", type=positive_float, default=320, metavar="X", help=text)
    return parser


if __name__ == "__main__":
    run_main(main)
