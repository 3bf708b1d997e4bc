"""Load runs, check them, and group those whose rows can be compared in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from common.files import InputError
from common.metrics import COLUMNS, METRICS
from tools.report import paper
from tools.trained import dataset_name, find_script

SHARED_SETTINGS = ("data", "protocol", "epochs", "patience", "batch_size", "seed", "loss")
DEFAULTS = {"loss": "pooled"}  # of settings that a run notes only if they differ from the paper's
KEYS = ["row", "test_subject", "activity", "target"]
HISTORY = {"row": str, "fold": str, "epoch": int, "training_loss": float, "validation_loss": float}


class Run(NamedTuple):
    """The settings and metrics of one run.

    Attributes:
        folder: the run's folder.
        settings: the settings in its `config.json`.
        calls: flags and environment of each call of the script, as in its `config.json`.
        metrics: the content of its `metrics.csv`, empty while no row has finished.
    """

    folder: Path
    settings: dict[str, Any]
    calls: list[dict[str, Any]]
    metrics: pd.DataFrame


@dataclass
class Results:
    """Runs that can be compared: one dataset, data file, protocol, seed and training.

    Attributes:
        name: name of these results and of their folder in the report.
        dataset: `A`, `B`, or the name of one's own.
        imus: number of IMUs in each sensor set, in the order of the tables.
        settings: the settings that the runs share.
        metrics: metrics of all runs in long form, with the columns `script` and `folder` added.
        runs: the runs.
        notices: remarks for the reader of the report.
        streaming: the same for rows beyond the paper, which are not in `metrics`; the column
            `lookahead_ms` is added, None for the default of the script.
    """

    name: str
    dataset: str
    imus: dict[str, int]
    settings: dict[str, Any]
    metrics: pd.DataFrame
    runs: list[Run]
    notices: list[str] = field(default_factory=list)
    streaming: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def subjects(self) -> list[str]:
        """The subjects in the data file; each is one fold."""
        return self.settings["data"]["subjects"]

    @property
    def training(self) -> str:
        """A description of the training."""
        description = (
            "at most {epochs} epochs with patience {patience}, batch size {batch_size} and seed "
            "{seed}"
        )
        if self.settings["loss"] != DEFAULTS["loss"]:
            description += ", loss `{loss}`"
        return description.format_map(self.settings)

    def select(self, rows: Sequence[str]) -> pd.DataFrame:
        """Return the metrics of some rows."""
        return self.metrics[self.metrics["row"].isin(rows)]

    @property
    def is_synthetic(self) -> bool:
        """Whether the data are synthetic."""
        return bool(self.settings["data"].get("synthetic"))

    @property
    def label(self) -> str:
        """The dataset as titles name it, with a mark if the data are synthetic."""
        return f"Dataset {self.dataset}" + (", SYNTHETIC DATA" if self.is_synthetic else "")


def load_results(folders: Sequence[Path]) -> list[Results]:
    """Load runs and group those that share dataset, data file, protocol, seed and training.

    Raises:
        InputError: a folder is not a run or is damaged, runs of one script differ in their flags,
            or two runs disagree on a row and subject.
    """
    runs = [load_run(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = [_dataset(run.settings), *(run.settings[name] for name in SHARED_SETTINGS)]
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    merged = [_merge(group) for group in groups.values()]
    finished = (r for r in merged if len(r.metrics) or len(r.streaming))
    results = sorted(finished, key=lambda r: r.name)
    if not results:
        raise InputError(
            f"{', '.join(map(str, folders))}: no row has finished yet; run the report again later"
        )
    _number_duplicate_names(results)
    return results


def load_run(folder: Path) -> Run:
    """Load the settings and metrics of one run.

    Raises:
        InputError: the folder is not a run, or one of its files is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: not a run (no config.json); give outputs/<script>/<run>")
    try:
        config = json.loads(path.read_text())
        settings = DEFAULTS | dict(config["settings"])
        calls = [dict(c) for c in config.get("calls", [])]
        missing = {"script", *SHARED_SETTINGS} - set(settings)
        if missing:
            raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
        _dataset(settings)  # the script is known
        data = settings["data"]
        if not isinstance(data["file"], str) or not isinstance(data["subjects"], list):
            raise ValueError("the data need the name of a file and a list of subjects")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return Run(folder, settings, calls, _load_metrics(folder / "metrics.csv"))


def _load_metrics(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        metrics = pd.read_csv(
            path,
            dtype={"test_subject": str, "parameters": int, **dict.fromkeys(METRICS, float)},
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in METRICS},
            engine="python",  # the C engine may round the last digit
        )
        missing = set(COLUMNS) - set(metrics.columns)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        _check_complete(metrics)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return metrics


def load_histories(results: Results) -> dict[str, pd.DataFrame]:
    """Return the losses of all epochs of each script, as far as its runs have a `history.csv`.

    Raises:
        InputError: a file is damaged.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in results.runs:
        path = run.folder / "history.csv"
        try:
            if path.exists() and len(run.metrics):
                history = pd.read_csv(path, usecols=list(HISTORY), dtype=HISTORY)
                parts.setdefault(run.settings["script"], []).append(_with_delay(history, run))
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(path, error) from error
    return {
        script: pd.concat(histories).drop_duplicates(["row", "fold", "epoch"])
        for script, histories in parts.items()
    }


def _damaged(path: Path, error: Exception) -> InputError:
    problem = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: damaged ({problem}); leave this run out or train it again")


def _check_complete(metrics: pd.DataFrame) -> None:
    """Refuse duplicate lines, and rows that lack a target on a subject."""
    duplicates = metrics[metrics.duplicated(KEYS)]
    if len(duplicates):
        place = ", ".join(f"{key} {duplicates.iloc[0][key]}" for key in KEYS)
        raise ValueError(f"{place} appears twice")
    targets = set(metrics["target"])
    for (row, subject), part in metrics.groupby(["row", "test_subject"]):
        lacking = targets - set(part.loc[part["activity"] == "all", "target"])
        if lacking:
            raise ValueError(f"row {row}, subject {subject} lacks {', '.join(sorted(lacking))}")


def _dataset(settings: dict[str, Any]) -> str:
    """Return the dataset of a run, by the name of its script or as the script says."""
    of_paper = re.match("Dataset_([AB])_", settings["script"])
    return of_paper[1] if of_paper else dataset_name(find_script(settings["script"]))


def _count_imus(dataset: str, runs: Sequence[Run]) -> dict[str, int]:
    """Return the number of IMUs in each sensor set of a dataset."""
    if dataset in paper.SPARSE_SETS:
        sparse = paper.SPARSE_SETS[dataset]
        return {**sparse, paper.FULL_SET[dataset]: max(sparse.values())}
    scripts = [find_script(run.settings["script"]) for run in runs]
    return {
        name: len(sensor_set.sensors)
        for script in scripts
        for name, sensor_set in script.SENSOR_SETS.items()
    }


def _merge(runs: Sequence[Run]) -> Results:
    """Combine runs with the same shared settings, counting each row and subject once."""
    _check_flags(runs)
    settings = runs[0].settings
    dataset = _dataset(settings)
    notices = [
        f"{run.folder.name} has no finished row yet and is left out."
        for run in runs
        if run.metrics.empty
    ]
    devices = sorted({str(run.settings.get("device")) for run in runs})
    if len(devices) > 1:
        notices.append(
            f"Runs on {' and '.join(devices)} are combined; rounding differs between devices."
        )
    parts = [
        _with_delay(run.metrics, run).assign(
            script=run.settings["script"],
            folder=run.folder,
            lookahead_ms=run.settings.get("lookahead_ms"),
        )
        for run in runs
    ]
    metrics = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    notices += _check_duplicates(metrics)
    metrics = metrics.drop_duplicates(KEYS, ignore_index=True)
    is_undefined = metrics[["nrmse_percent", "pcc"]].isna().any(axis=1)
    undefined = metrics[is_undefined & (metrics["activity"] == "all")]
    for (row, target), part in undefined.groupby(["row", "target"], sort=False):
        subjects = ", ".join(dict.fromkeys(part["test_subject"]))
        notices.append(
            f"{row}, {target}: NRMSE or PCC is undefined for subject {subjects}, and so are the "
            "means that include it."
        )
    is_streaming = _is_streaming(metrics)
    return Results(
        f"{dataset}-{settings['protocol']}",
        dataset,
        _count_imus(dataset, runs),
        settings,
        metrics[~is_streaming].drop(columns="lookahead_ms"),
        list(runs),
        notices,
        metrics[is_streaming],
    )


def _is_streaming(table: pd.DataFrame) -> pd.Series:
    return table["row"].map(paper.kind).isin(paper.BEYOND)


def _with_delay(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Add a delay that is not the default to the names of the streaming students of a run."""
    late_ms = run.settings.get("lookahead_ms")
    if late_ms is None or table.empty:
        return table
    labels = table["row"] + np.where(_is_streaming(table), f" ({late_ms:g} ms)", "")
    return table.assign(row=labels)


def _check_flags(runs: Sequence[Run]) -> None:
    """Refuse runs of one script that differ in a setting other than the device.

    The delay concerns the streaming students only, whose names tell it.
    """
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.settings["script"], run)
        for name in {**other.settings, **run.settings}:
            theirs, ours = other.settings.get(name), run.settings.get(name)
            if name not in ("device", "lookahead_ms") and theirs != ours:
                raise InputError(
                    f"{run.folder}: {name} is {ours}, but {theirs} in {other.folder}; "
                    "report these runs separately"
                )


def _check_duplicates(metrics: pd.DataFrame) -> list[str]:
    """Return notices of results that occur in several runs; refuse those that differ."""
    notices = []
    repeated = metrics[metrics.duplicated(KEYS, keep=False)]
    for (row, subject), part in repeated.groupby(["row", "test_subject"], sort=False):
        folders = list(dict.fromkeys(part["folder"]))
        numbers = part.groupby(["activity", "target"])[[*METRICS, "parameters"]]
        if (numbers.nunique(dropna=False) > 1).any(axis=None):
            raise InputError(
                f"{folders[1]}: row {row}, subject {subject} differs from its result in "
                f"{folders[0]}; report these runs separately"
            )
        notices.append(
            f"{row}, subject {subject}: identical results in {len(folders)} runs, counted once."
        )
    return notices


def _number_duplicate_names(results: Sequence[Results]) -> None:
    """Number results of the same dataset and protocol, and note how they differ."""
    names = [result.name for result in results]
    for name in dict.fromkeys(names):
        same = [result for result in results if result.name == name]
        if len(same) == 1:
            continue
        differing = [
            setting
            for setting in SHARED_SETTINGS
            if len({json.dumps(result.settings[setting]) for result in same}) > 1
        ]
        for i, result in enumerate(same, start=1):
            result.name = f"{name}-{i}"
            notice = f"Runs that differ in {', '.join(differing)} are reported separately: "
            result.notices.insert(0, f"{notice}this is set {i} of {len(same)}.")
