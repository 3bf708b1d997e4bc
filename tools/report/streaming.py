"""The table beyond the paper: streaming students beside the windowed ones of the same sensors."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.files import InputError
from common.metrics import score
from common.runs import Row, Script, find_row
from tools.benchmark.inference import count_multiply_adds
from tools.report import paper
from tools.report.runs import Results
from tools.report.tables import SHOWN_METRICS, Cell, Table, mean_sd
from tools.trained import count_channels, find_script

COMPARED = {"student", "distilled", *paper.BEYOND}  # kinds of rows
NOTES = [
    "Mean over targets, then mean ± SD over test subjects. All rows of a sensor set are scored on "
    "the same samples, those that all of them estimate: a streaming student has no estimate for "
    "the last samples of a trial or step, as many as its delay. The figures of the windowed "
    "students can therefore differ a little from those in the paper's tables.",
    "Delay: the longest time from a sample to its estimate, without the computation; of a windowed "
    "student, a window and a hop of half a window. Multiply-adds: those of the matrix products, "
    "per sample; of a windowed student, those of a window divided by the samples of a hop, because "
    "a live estimate computes a window every hop.",
]


def streaming_tables(results: Results) -> list[Table]:
    """Return the table, and the numbers behind it as CSV; nothing without streaming students.

    Raises:
        InputError: predictions are damaged.
    """
    if results.streaming.empty:
        return []
    metrics = pd.concat([results.metrics, results.streaming])
    metrics = metrics[metrics["row"].map(paper.kind).isin(COMPARED)]
    metrics = metrics[metrics["sensor_set"].isin(results.streaming["sensor_set"])]
    runs = metrics.drop_duplicates(["row", "test_subject"])
    files, left_out = _prediction_files(runs)
    notes = [*NOTES, *left_out]
    lines: list[dict[str, Cell]] = []
    scores: list[pd.DataFrame] = []
    known = runs.drop_duplicates("row").set_index("row")
    pairs = paper.sort_rows(list(results.imus), known["sensor_set"].items())
    for sensor_set in dict.fromkeys(name for _, name in pairs):
        rows = [row for row, name in pairs if name == sensor_set and row in files]
        subjects = [s for s in results.subjects if rows and all(s in files[row] for row in rows)]
        if not subjects:
            notes.append(
                f"{sensor_set}: left out, because its rows have no test subject in common."
            )
            continue
        scores += [score_common_samples([files[row][s] for row in rows], rows, s) for s in subjects]
        folds = f"{len(subjects)} of {len(results.subjects)}"
        lines += [{**_costs(known.loc[row]), "row": row, "folds": folds} for row in rows]
    title = f"Beyond the paper: streaming students, {results.label}"
    behind = pd.concat(scores) if scores else pd.DataFrame(columns=["row"])
    for line in lines:
        means = behind[behind["row"] == line["row"]].groupby("test_subject")
        for metric, (name, digits) in SHOWN_METRICS.items():
            line[name] = mean_sd(
                means[metric].agg(lambda values: values.mean(skipna=False)), digits
            )
    columns = ["model", "row", "parameters", "multiply-adds per sample", "delay ms", "folds"]
    columns += [name for name, _ in SHOWN_METRICS.values()]
    per_subject = behind.to_dict("records")
    return [
        Table("streaming", title, columns, lines, notes),
        Table("streaming_per_subject", title, list(behind), per_subject, is_long=True),
    ]


def _prediction_files(runs: pd.DataFrame) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Return the files of predictions by row and subject, and notes on those that are left out.

    Args:
        runs: a line per row and subject.
    """
    files: dict[str, dict[str, Path]] = {}
    missing: dict[str, list[str]] = {}
    for line in runs.itertuples():
        name = f"{_row_name(line.row)}-subject_{line.test_subject}.npz"
        path = line.folder / "predictions" / name
        if path.exists() and "sample" in _load(path, ["sample"]):
            files.setdefault(line.row, {})[line.test_subject] = path
        else:
            missing.setdefault(line.row, []).append(line.test_subject)
    if not missing:
        return files, []
    names = "; ".join(f"{row}, subject {', '.join(found)}" for row, found in missing.items())
    return files, [
        f"Left out, because the predictions are missing or from a version that did not note their "
        f"samples: {names}. Train these again in a new run."
    ]


def _row_name(label: str) -> str:
    """Return the name of a row in its script, without the delay that the report adds."""
    return label.split(" ")[0]


def _load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return those arrays of a file of predictions that it has.

    Raises:
        InputError: it is damaged.
    """
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names if name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged predictions ({error}); delete the file and resume its run"
        ) from error


def score_common_samples(paths: Sequence[Path], rows: Sequence[str], subject: str) -> pd.DataFrame:
    """Score rows on the samples that all of them estimate.

    Args:
        paths: file of the predictions of each row.
        rows: name of each row.
        subject: id of the test subject.

    Returns:
        A line per row and target, with the metrics of the report.

    Raises:
        InputError: predictions are damaged.
    """
    names = ("sample", "truth", "prediction", "target")
    found = [_load(path, names) for path in paths]
    common = reduce(np.intersect1d, [arrays["sample"] for arrays in found])
    lines = []
    for row, arrays in zip(rows, found, strict=True):
        chosen, targets = np.isin(arrays["sample"], common), arrays["target"].tolist()
        scores = score(arrays["truth"][chosen], arrays["prediction"][chosen], targets)
        shared = {"row": row, "test_subject": subject, "target": targets, "n": len(common)}
        lines.append(pd.DataFrame({**shared, **{name: scores[name] for name in SHOWN_METRICS}}))
    return pd.concat(lines)


def _costs(line: pd.Series) -> dict[str, Cell]:
    """Return model, parameters, multiply-adds and delay of a row, from a line of its metrics."""
    script = find_script(line["script"])
    row = find_row(script, _row_name(line.name))
    delay_ms, multiply_adds = delay_and_multiply_adds(script, row)
    if row.is_beyond_paper and pd.notna(line["lookahead_ms"]):
        delay_ms = line["lookahead_ms"]
    return {
        "model": paper.label(line.name),
        "parameters": int(line["parameters"]),
        "multiply-adds per sample": multiply_adds,
        "delay ms": f"{delay_ms:g}",
    }


def delay_and_multiply_adds(script: Script, row: Row) -> tuple[float, int]:
    """Return the delay of a row in ms and its multiply-adds per sample, as `NOTES` defines them."""
    window, hop = (1, 1) if row.is_beyond_paper else (script.WINDOW, script.WINDOW // 2)
    with torch.device("meta"):  # nothing is computed
        network = row.network()
        channels = count_channels(script).items()
        samples = {modality: torch.zeros(1, window, count) for modality, count in channels}
        count = count_multiply_adds(network, script.inputs(samples, row.sensor_set))
    late = network.lookahead if row.is_beyond_paper else window + hop
    return 1000 * late / script.RATE_HZ, round(count / hop)
