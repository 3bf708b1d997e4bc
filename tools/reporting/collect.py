"""Read runs, check them, and keep apart what must not stand in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from common.tables import COLUMNS

from common.files import InputError
from common.metrics import METRICS

SHARED = ("data", "protocol", "epochs", "patience", "batch_size", "seed")  # by all scripts
KEYS = ["row", "test_subject", "activity", "target"]


class RunFolder(NamedTuple):
    """What the report needs of a run's folder."""

    folder: Path
    settings: dict[str, Any]
    metrics: pd.DataFrame


@dataclass
class Results:
    """Runs that may stand in one table: one dataset, file, protocol, seed and training.

    Attributes:
        name: Of its folder in the report. dataset: `A` or `B`. settings: What the runs share.
        lines: Their metrics in long form, each line with its `script` and `folder`.
        notices: What a reader has to know.
    """

    name: str
    dataset: str
    settings: dict[str, Any]
    lines: pd.DataFrame
    notices: list[str] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        """The subjects in the data file, each of them a fold."""
        return self.settings["data"]["subjects"]

    @property
    def training(self) -> str:
        """How the models were trained, in words."""
        epochs, patience, batch_size, seed = (
            self.settings[name] for name in ("epochs", "patience", "batch_size", "seed")
        )
        return f"at most {epochs} epochs, patience {patience}, batches of {batch_size}, seed {seed}"

    @property
    def is_synthetic(self) -> bool:
        """Whether the data file is the synthetic sample."""
        return self.settings["data"]["file"].startswith("sample_")


def collect(folders: Sequence[Path]) -> list[Results]:
    """Read runs; those that differ in what all scripts share make results of their own.

    Raises:
        InputError: A folder that is no run or is damaged, runs of a script with other settings,
            or a row and subject with different numbers in two runs.
    """
    unique = dict.fromkeys(folder.resolve() for folder in folders)
    runs = [read(folder) for folder in unique]
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        shared = {name: run.settings[name] for name in SHARED}
        groups.setdefault(json.dumps([_dataset(run), shared], sort_keys=True), []).append(run)
    results = [_merge(group) for group in groups.values()]
    results = sorted((r for r in results if len(r.lines)), key=lambda result: result.name)
    if not results:
        raise InputError(
            f"{', '.join(map(str, folders))}: no finished row yet; report again when there is one"
        )
    return _named_apart(results)


def read(folder: Path) -> RunFolder:
    """Read a run's settings and metrics.

    Raises:
        InputError: The folder is no run, or a file in it is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no run (no config.json); give outputs/<script>/<run>")
    try:
        settings = dict(json.loads(path.read_text())["settings"])
        missing = {"script", *SHARED} - set(settings)
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))} in its settings")
        run = RunFolder(folder, settings, pd.DataFrame())
        if _dataset(run) not in ("A", "B"):
            raise ValueError(f"script {settings['script']} is of neither dataset")
        list(settings["data"]["subjects"]), settings["data"]["file"].startswith("")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); leave this run out, or train it again"
        ) from error
    return run._replace(metrics=_read_metrics(folder / "metrics.csv"))


def _read_metrics(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        lines = pd.read_csv(
            path,
            dtype={"test_subject": str, "parameters": int, **dict.fromkeys(METRICS, float)},
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in METRICS},
            engine="python",  # the others may round a number
        )
        missing = set(COLUMNS) - set(lines.columns)
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        _check_complete(lines)
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(
            f"{path}: damaged ({problem}); leave this run out, or train it again"
        ) from error
    return lines


def _check_complete(lines: pd.DataFrame) -> None:
    """Refuse a row that stands twice, or lacks a target on a subject."""
    if lines.duplicated(KEYS).any():
        first = lines[lines.duplicated(KEYS)].iloc[0]
        raise ValueError(f"{', '.join(f'{key} {first[key]}' for key in KEYS)} stands twice")
    overall = lines[lines["activity"] == "all"]
    targets = set(lines["target"])
    for (row, subject), part in lines.groupby(["row", "test_subject"]):
        lacking = targets - set(overall.loc[overall.index.intersection(part.index), "target"])
        if lacking:
            raise ValueError(f"row {row}, subject {subject} lacks {', '.join(sorted(lacking))}")


def _dataset(run: RunFolder) -> str:
    return run.settings["script"].removeprefix("Dataset_")[:1]


def _merge(runs: Sequence[RunFolder]) -> Results:
    """Put runs with the same shared settings together; each row and subject counts once."""
    _check_own_settings(runs)
    settings, dataset = runs[0].settings, _dataset(runs[0])
    result = Results(f"{dataset}-{settings['protocol']}", dataset, settings, pd.DataFrame())
    parts = [run.metrics.assign(script=run.settings["script"], folder=run.folder) for run in runs]
    for run in runs:
        if run.metrics.empty:
            result.notices.append(f"{run.folder.name}: no finished row yet; left out.")
    devices = {run.settings.get("device") for run in runs}
    if len(devices) > 1:
        result.notices.append(
            f"Runs on {' and '.join(sorted(map(str, devices)))} stand together; they round apart."
        )
    lines = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    result.lines = _once(lines, result.notices)
    overall = result.lines[result.lines["activity"] == "all"]
    undefined = overall[overall[["nrmse_percent", "pcc"]].isna().any(axis=1)]
    for (row, target), part in undefined.groupby(["row", "target"], sort=False):
        subjects = ", ".join(dict.fromkeys(part["test_subject"]))
        result.notices.append(
            f"{row}, {target}: NRMSE or PCC is undefined on subject {subjects}; so are its means."
        )
    return result


def _check_own_settings(runs: Sequence[RunFolder]) -> None:
    """Refuse runs of one script that differ in its own flags or the learning rate."""
    first: dict[str, RunFolder] = {}
    for run in runs:
        other = first.setdefault(run.settings["script"], run)
        for name in {**other.settings, **run.settings}:
            there, here = other.settings.get(name), run.settings.get(name)
            if name != "device" and there != here:
                raise InputError(
                    f"{run.folder}: {name} is {here}, but {there} in {other.folder}; "
                    "report one of them at a time"
                )


def _once(lines: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """Keep one of equal results of a row and subject in two runs; refuse different ones."""
    repeated = lines[lines.duplicated(KEYS, keep=False)]
    for (row, subject), part in repeated.groupby(["row", "test_subject"], sort=False):
        folders = list(dict.fromkeys(part["folder"]))
        numbers = part.groupby(["activity", "target"])[[*METRICS, "parameters"]]
        if (numbers.nunique(dropna=False) > 1).any(axis=None):
            raise InputError(
                f"{folders[1]}: row {row}, subject {subject} has other numbers than in "
                f"{folders[0]}; report one of them at a time"
            )
        notices.append(
            f"{row}, subject {subject}: the same numbers in {len(folders)} runs; counted once."
        )
    return lines.drop_duplicates(KEYS, ignore_index=True)


def _named_apart(results: list[Results]) -> list[Results]:
    """Number the results of one dataset and protocol, and say in what they differ."""
    names = [result.name for result in results]
    for name in dict.fromkeys(names):
        same = [result for result in results if result.name == name]
        if len(same) == 1:
            continue
        differing = [s for s in SHARED if len({json.dumps(r.settings[s]) for r in same}) > 1]
        for i, result in enumerate(same, start=1):
            result.name = f"{name}-{i}"
            result.notices.insert(
                0,
                f"Runs that differ in {', '.join(differing)} are kept apart: "
                f"this is set {i} of {len(same)}.",
            )
    return results
