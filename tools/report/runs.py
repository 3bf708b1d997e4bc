"""Load runs, check them, and group those whose rows can be compared in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from common.files import InputError
from common.metrics import COLUMNS, METRICS
from tools.report import paper
from tools.trained import dataset_name, find_script

SHARED_SETTINGS = ("data", "protocol", "epochs", "patience", "batch_size", "seed")
OLD_SETTINGS = ("faster", "loss")  # of version 1.0.0, where they differ from the paper
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

    @property
    def script(self) -> str:
        """Name of the script."""
        return self.settings["script"]


@dataclass
class Results:
    """Runs that can be compared: one dataset, data file, protocol, seed and training.

    Attributes:
        name: name of these results and of their folder in the report.
        dataset: `A`, `B`, or the name that the script states.
        imus: number of IMUs in each sensor set, in the order of the tables.
        metrics: metrics of all runs in long form, with the columns `script` and `folder` added.
        runs: the runs.
        notices: remarks for the reader of the report.
    """

    name: str
    dataset: str
    imus: dict[str, int]
    metrics: pd.DataFrame
    runs: list[Run]
    notices: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the first run, which shares `SHARED_SETTINGS` with the others."""
        return self.runs[0].settings

    @property
    def subjects(self) -> list[str]:
        """The subjects in the data file; each is one fold."""
        return self.settings["data"]["subjects"]

    @property
    def training(self) -> str:
        """A description of the training."""
        text = (
            "at most {epochs} epochs with patience {patience}, batch size {batch_size} and seed "
            "{seed}"
        )
        return text.format_map(self.settings)

    def select(self, rows: Sequence[str]) -> pd.DataFrame:
        """Return the metrics of some rows."""
        return self.metrics[self.metrics["row"].isin(rows)]

    @property
    def is_synthetic(self) -> bool:
        """Whether the data are synthetic."""
        return bool(self.settings["data"].get("synthetic"))

    @property
    def label(self) -> str:
        """The dataset as shown in titles, with a mark if the data are synthetic."""
        return f"Dataset {self.dataset}" + (", SYNTHETIC DATA" if self.is_synthetic else "")


def load_results(folders: Sequence[Path]) -> list[Results]:
    """Load runs and group those that share dataset, data file, protocol, seed and training.

    Raises:
        InputError: A folder is not a run or is damaged, runs of one script differ in their flags,
            or two runs disagree on a row and subject.
    """
    groups: dict[str, list[Run]] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        run = load_run(folder)
        groups.setdefault(json.dumps(_group(run), sort_keys=True), []).append(run)
    results = [_merge(group) for group in groups.values()]
    results = sorted((r for r in results if len(r.metrics)), key=lambda r: r.name)
    if not results:
        raise InputError(
            f"{', '.join(map(str, folders))}: no row has finished yet; run the report again later"
        )
    for name in dict.fromkeys(result.name for result in results):
        _number([result for result in results if result.name == name])
    return results


def load_run(folder: Path) -> Run:
    """Load the settings and metrics of one run.

    Raises:
        InputError: The folder is not a run, or one of its files is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: not a run (no config.json); pass outputs/<script>/<run>")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(config["settings"])
        calls = [dict(call) for call in config.get("calls", [])]
        if missing := {"script", *SHARED_SETTINGS} - set(settings):
            raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
        _dataset(settings["script"])  # the script is known
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
        if missing := set(COLUMNS) - set(metrics.columns):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        _check_complete(metrics)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return metrics


def load_histories(results: Results) -> dict[str, pd.DataFrame]:
    """Return the losses of all epochs of each script, if its runs have a `history.csv`.

    Raises:
        InputError: A file is damaged.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in results.runs:
        path = run.folder / "history.csv"
        try:
            if path.exists() and len(run.metrics):
                history = pd.read_csv(path, usecols=list(HISTORY), dtype=HISTORY)
                parts.setdefault(run.script, []).append(history)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
    histories = {name: pd.concat(found) for name, found in parts.items()}
    return {name: h.drop_duplicates(["row", "fold", "epoch"]) for name, h in histories.items()}


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
        if lacking := targets - set(part.loc[part["activity"] == "all", "target"]):
            raise ValueError(f"row {row}, subject {subject} lacks {', '.join(sorted(lacking))}")


def _dataset(script: str) -> str:
    """Return the dataset of a script, from its name or, for other scripts, from its text."""
    of_paper = re.match("Dataset_([AB])_", script)
    return of_paper[1] if of_paper else dataset_name(find_script(script))


def _group(run: Run) -> list[Any]:
    """Return what the runs of one group have in common."""
    shared = [run.settings[name] for name in SHARED_SETTINGS]
    return [_dataset(run.script), *shared, *(run.settings.get(name) or "" for name in OLD_SETTINGS)]


def _count_imus(dataset: str, runs: Sequence[Run]) -> dict[str, int]:
    """Return the number of IMUs in each sensor set of a dataset."""
    if dataset in paper.SPARSE_SETS:
        sparse = paper.SPARSE_SETS[dataset]
        return {**sparse, paper.FULL_SET[dataset]: max(sparse.values())}
    sets = [find_script(run.script).SENSOR_SETS.items() for run in runs]
    return {name: len(sensor_set.sensors) for found in sets for name, sensor_set in found}


def _merge(runs: list[Run]) -> Results:
    """Combine the runs of a group, counting each row and subject once."""
    runs.sort(key=lambda run: run.script.lower() not in paper.SCRIPTS)  # the paper's come first
    _check_flags(runs)
    dataset = _dataset(runs[0].script)
    parts = [run.metrics.assign(script=run.script, folder=run.folder) for run in runs]
    metrics = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    # Rows of different scripts with the same name are different rows
    other = metrics["script"] != metrics.groupby("row")["script"].transform("first")
    metrics.loc[other, "row"] += " (" + metrics["script"] + ")"
    notices = [*_notices_of_runs(runs), *_check_duplicates(metrics)]
    metrics = metrics.drop_duplicates(KEYS, ignore_index=True)
    is_undefined = metrics[["nrmse_percent", "pcc"]].isna().any(axis=1)
    undefined = metrics[is_undefined & (metrics["activity"] == "all")]
    for (row, target), part in undefined.groupby(["row", "target"], sort=False):
        subjects = ", ".join(dict.fromkeys(part["test_subject"]))
        notices.append(
            f"{row}, {target}: NRMSE or PCC is undefined for subject {subjects}, and so are the "
            "means that include it."
        )
    name = f"{dataset}-{runs[0].settings['protocol']}"
    return Results(name, dataset, _count_imus(dataset, runs), metrics, runs, notices)


def _notices_of_runs(runs: Sequence[Run]) -> Iterable[str]:
    for run in runs:
        if run.metrics.empty:
            yield f"{run.folder.name} has no finished row yet and is left out."
    devices = sorted({str(run.settings.get("device")) for run in runs})
    if len(devices) > 1:
        yield f"Runs on {' and '.join(devices)} are combined; rounding differs between devices."
    digests: dict[str, set[str]] = {}  # version 1.0.0 did not record them
    for run in runs:
        found = {call["script_digest"] for call in run.calls if "script_digest" in call}
        digests.setdefault(run.script, set()).update(found)
    for script, found in digests.items():
        if len(found) > 1:
            yield (
                f"`{script}.py` was changed between the calls that these results come from; they "
                f"may stem from {len(found)} different versions of it."
            )


def _check_flags(runs: Sequence[Run]) -> None:
    """Refuse runs of one script that differ in a setting other than device and threads."""
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.script, run)
        for name in {**other.settings, **run.settings}:
            theirs, ours = other.settings.get(name), run.settings.get(name)
            if name not in ("device", "threads", *OLD_SETTINGS) and theirs != ours:
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


def _number(same: Sequence[Results]) -> None:
    """Number results of the same dataset and protocol, and note how they differ."""
    differing = [
        setting
        for setting in (*SHARED_SETTINGS, *OLD_SETTINGS)
        if len({json.dumps(result.settings.get(setting)) for result in same}) > 1
    ]
    for i, result in enumerate(same, start=1):
        if len(same) > 1:
            result.name += f"-{i}"
            notice = f"Runs that differ in {', '.join(differing)} are reported separately: "
            result.notices.insert(0, f"{notice}this is set {i} of {len(same)}.")
