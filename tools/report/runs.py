"""Load runs, check them, and group those whose rows can be compared in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from common.data import dataset_b_tables, open_hdf5
from common.files import InputError, plural, read_problem, shorten
from common.metrics import COLUMNS, METRICS, overall, with_phase
from common.windows import PROTOCOLS
from tools.report import paper
from tools.trained import dataset_name, find_script, renamed_targets
from tools.units import LIMITS, Person, unit_factor

SHARED_SETTINGS = ("data", "protocol", "epochs", "patience", "batch_size", "seed")
OLD_SETTINGS = ("faster", "loss")  # of version 1.0.0, where they differ from the paper
KEYS = ["row", "test_subject", "activity", "phase", "target"]
TEXTS = [*KEYS, "sensor_set", "modalities", "unit"]  # columns of `metrics.csv`
RMSE_NM_PER_KG = "rmse_nm_per_kg"  # column that is added to those of `metrics.csv`
NAME = re.compile(r"\w[^/\\]*")  # becomes part of file names
FORMULA = "=+-@"  # starts a cell that a spreadsheet would execute
LONGEST_NAME = 200  # characters
HISTORY = {"row": str, "fold": str, "epoch": int, "training_loss": float, "validation_loss": float}


class Run(NamedTuple):
    """A run: its folder, the content of its `config.json`, and its metrics."""

    folder: Path
    settings: dict[str, Any]
    calls: list[dict[str, Any]]
    metrics: pd.DataFrame  # as in `metrics.csv`; empty while no row has finished

    @property
    def script(self) -> str:
        """Name of the script."""
        return self.settings["script"]

    @property
    def dataset(self) -> str:
        """`A`, `B`, or the name that the script states."""
        of_paper = re.match("Dataset_([AB])_", self.script)
        return of_paper[1] if of_paper else dataset_name(find_script(self.script))


@dataclass(eq=False)
class Results:
    """Runs that can be compared: one dataset, data file, protocol, seed and training."""

    name: str  # and that of their folder in the report
    imus: dict[str, int]  # in each sensor set, in the order of the tables
    metrics: pd.DataFrame  # of all runs in long form, with the columns `script` and `folder` added
    runs: list[Run]
    notices: list[str]  # for the reader of the report

    @property
    def dataset(self) -> str:
        """`A`, `B`, or the name that the script states."""
        return self.runs[0].dataset

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the first run, which shares `SHARED_SETTINGS` with the others."""
        return self.runs[0].settings

    @property
    def data(self) -> dict[str, Any]:
        """The description of the data file."""
        return self.settings["data"]

    @property
    def subjects(self) -> list[str]:
        """The subjects in the data file; each is one fold."""
        return self.data["subjects"]

    @property
    def is_synthetic(self) -> bool:
        """Whether the data are synthetic."""
        return bool(self.data.get("synthetic"))

    @property
    def label(self) -> str:
        """The dataset as shown in titles, with a mark if the data are synthetic."""
        return f"Dataset {self.dataset}" + (", SYNTHETIC DATA" if self.is_synthetic else "")

    @property
    def training(self) -> str:
        """A description of the training."""
        size = f"batch size {self.settings['batch_size']} and seed {self.settings['seed']}"
        return "at most {epochs} epochs with patience {patience}, ".format_map(self.settings) + size

    @property
    def description(self) -> str:
        """A description of the data and of the training."""
        subjects = plural(len(self.subjects), "subject")
        return f"Data: {self.data['file']}, {subjects}. Training: {self.training}."

    def select(self, rows: Sequence[str]) -> pd.DataFrame:
        """Return the metrics of some rows."""
        return self.metrics[self.metrics["row"].isin(rows)]


def load_results(folders: Sequence[Path]) -> list[Results]:
    """Load runs and group those that share dataset, data file, protocol, seed and training.

    Raises:
        InputError: A folder is not a run or is damaged, runs of one script differ in their flags,
            or two runs disagree on a row and subject.
    """
    groups: dict[str, list[Run]] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        run = load_run(folder)
        shared = [run.settings[name] for name in SHARED_SETTINGS]
        shared += [run.settings.get(name) or "" for name in OLD_SETTINGS]
        groups.setdefault(json.dumps([run.dataset, *shared], sort_keys=True), []).append(run)
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
    if read_problem(path):
        raise InputError(f"{folder}: not a run (no config.json); pass outputs/<script>/<run>")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(config["settings"])
        calls = [dict(call) for call in config.get("calls", [])]
        if missing := {"script", *SHARED_SETTINGS} - set(settings):
            raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
        data = settings["data"]
        if not isinstance(data["file"], str) or not isinstance(data["subjects"], list):
            raise ValueError("the data need the name of a file and a list of subjects")
        check_text("file", [data["file"]])
        check_text("subject", data["subjects"], NAME)
        check_text("script", [settings["script"]], NAME)
        if settings["protocol"] not in PROTOCOLS:
            raise ValueError(f"no such protocol: {shorten(settings['protocol'], 40)}")
        numbers = [settings[name] for name in ("epochs", "patience", "batch_size", "seed")]
        if not all(isinstance(number, int | None) for number in numbers):
            raise ValueError("epochs, patience, batch_size and seed must be numbers")
        if not all(isinstance(call.get("versions", {}), dict) for call in calls):
            raise ValueError("the versions must have names")
        run = Run(folder, settings, calls, pd.DataFrame(columns=list(COLUMNS)))
        run.dataset  # noqa: B018 (raises an error if the script is unknown)
        path = folder / "metrics.csv"
        return run._replace(metrics=_load_metrics(path, run.script)) if path.exists() else run
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, error) from error


def check_text(kind: str, texts: Iterable[object], pattern: re.Pattern[str] | None = None) -> None:
    """Check texts of a file that are printed, drawn, and written into tables.

    No text may contain a line break or another control character, or begin like a formula of a
    spreadsheet: a table that is opened there would execute it.

    Args:
        kind: what they name, for the error.
        texts: the texts.
        pattern: what they must match, if they become part of file names.

    Raises:
        ValueError: A text is unusable.
    """
    for text in texts:
        if (
            not isinstance(text, str)
            or not text.isprintable()
            or text.startswith(tuple(FORMULA))
            or len(text) > LONGEST_NAME
            or (pattern and not pattern.fullmatch(text))
        ):
            raise ValueError(f"unusable name of a {kind}: {shorten(text, 40)}")


def _load_metrics(path: Path, script: str) -> pd.DataFrame:
    """Load metrics; refuse duplicate lines, and rows that lack a target on a subject."""
    metrics = pd.read_csv(
        path,
        dtype={**dict.fromkeys(TEXTS, str), "parameters": int, **dict.fromkeys(METRICS, float)},
        keep_default_na=False,
        na_values={name: ["", "nan", "NaN"] for name in METRICS},
        engine="python",  # the C engine may round the last digit
    )
    if missing := set(COLUMNS) - {"phase"} - set(metrics.columns):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    metrics = with_phase(metrics).replace({"target": renamed_targets(script)})
    for name in TEXTS:
        is_part_of_paths = name in ("row", "test_subject")
        check_text(name, metrics[name].unique(), NAME if is_part_of_paths else None)
    duplicates = metrics[metrics.duplicated(KEYS)]
    if len(duplicates):
        place = ", ".join(f"{key} {duplicates.iloc[0][key]}" for key in KEYS)
        raise ValueError(f"{place} appears twice")
    targets = set(metrics["target"])
    for (row, subject), part in metrics.groupby(["row", "test_subject"]):
        if lacking := targets - set(overall(part)["target"]):
            raise ValueError(f"row {row}, subject {subject} lacks {', '.join(sorted(lacking))}")
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
                check_text("row", history["row"].unique(), NAME)
                parts.setdefault(run.script, []).append(history)
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
    keys = ["row", "fold", "epoch"]
    return {name: pd.concat(found).drop_duplicates(keys) for name, found in parts.items()}


def damaged(path: Path, error: Exception) -> InputError:
    """Return the error for a damaged file of a run."""
    problem = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: damaged ({problem}); leave this run out or train it again")


def _count_imus(runs: Sequence[Run]) -> dict[str, int]:
    """Return the number of IMUs in each sensor set of the runs' dataset."""
    dataset = runs[0].dataset
    if dataset in paper.SPARSE_SETS:
        sparse = paper.SPARSE_SETS[dataset]
        return {**sparse, paper.FULL_SET[dataset]: max(sparse.values())}
    sets = [find_script(run.script).SENSOR_SETS.items() for run in runs]
    return {name: len(sensor_set.sensors) for found in sets for name, sensor_set in found}


def _merge(runs: list[Run]) -> Results:
    """Combine the runs of a group, counting each row and subject once."""
    runs.sort(key=lambda run: run.script.lower() not in paper.SCRIPTS)  # the paper's come first
    _check_flags(runs)
    parts = [
        _add_rmse_nm_per_kg(run.metrics.assign(script=run.script, folder=run.folder), run)
        for run in runs
    ]
    metrics = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    # Rows of different scripts with the same name are different rows
    other = metrics["script"] != metrics.groupby("row")["script"].transform("first")
    metrics.loc[other, "row"] += " (" + metrics["script"] + ")"
    notices = [*_notices_of_runs(runs), *_notices_of_duplicates(metrics)]
    metrics = metrics.drop_duplicates(KEYS, ignore_index=True)
    is_undefined = metrics[["nrmse_percent", "pcc"]].isna().any(axis=1)
    undefined = overall(metrics[is_undefined])
    for (row, target), part in undefined.groupby(["row", "target"], sort=False):
        subjects = ", ".join(part["test_subject"])
        notices.append(
            f"{row}, {target}: NRMSE or PCC is undefined for subject {subjects}, and so are the "
            "means that include it."
        )
    name = f"{runs[0].dataset}-{runs[0].settings['protocol']}"
    return Results(name, _count_imus(runs), metrics, runs, notices)


def _add_rmse_nm_per_kg(metrics: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Add the RMSE of moments in N·m/kg, if the data file states body mass and height."""
    people = _read_people(run)
    factors = [
        unit_factor(unit, "N·m/kg", people.get(subject))
        for unit, subject in metrics[["unit", "test_subject"]].to_numpy()
    ]
    return metrics.assign(**{RMSE_NM_PER_KG: metrics["rmse"] * factors}) if people else metrics


def _read_people(run: Run) -> dict[str, Person]:
    """Return the body mass and height of the subjects, if the data file is there and states them.

    The data file is that of the run's last call, and must have the size of that of the run.
    """
    try:
        path = Path(run.calls[-1]["flags"]["data"])
        if path.stat().st_size != run.settings["data"]["bytes"]:
            return {}
        with open_hdf5(path) as file:
            if "All_subjects" in file:
                groups = file["All_subjects"].items()
                bodies = {
                    name.removeprefix("Subject_"): [group.attrs[key] for key in LIMITS]
                    for name, group in groups
                    if {*LIMITS} <= {*group.attrs}
                }
            else:
                bodies = {
                    table.subject: [
                        table.dataset[0, 0, table.positions[f"body {name}"]]
                        for name in ("weight", "height")
                    ]
                    for table in dataset_b_tables(path, file)
                }
            people = {name: Person(*map(float, body)) for name, body in bodies.items()}
    except (InputError, OSError, LookupError, TypeError, ValueError):
        return {}
    limits = LIMITS.values()
    return {
        name: person
        for name, person in people.items()
        if all(low <= n <= high for n, (low, high) in zip(person, limits, strict=True))
    }


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


def _notices_of_runs(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        if run.metrics.empty:
            yield f"{run.folder.name} has no finished row yet and is left out."
    devices = sorted({str(run.settings.get("device")) for run in runs})
    if len(devices) > 1:
        yield f"Runs on {' and '.join(devices)} are combined; rounding differs between devices."
    for script in dict.fromkeys(run.script for run in runs):
        calls = [call for run in runs if run.script == script for call in run.calls]
        digests = {call.get("script_digest") for call in calls} - {None}  # none in version 1.0.0
        if len(digests) > 1:
            yield (
                f"`{script}.py` was changed between the calls that these results come from; they "
                f"may stem from {len(digests)} different versions of it."
            )


def _notices_of_duplicates(metrics: pd.DataFrame) -> Iterator[str]:
    """Yield notices of results that occur in several runs; refuse those that differ."""
    repeated = metrics[metrics.duplicated(KEYS, keep=False)]
    for (row, subject), part in repeated.groupby(["row", "test_subject"], sort=False):
        folders = part["folder"].unique()
        numbers = part.groupby(["activity", "phase", "target"])[[*METRICS, "parameters"]]
        if (numbers.nunique(dropna=False) > 1).any(axis=None):
            raise InputError(
                f"{folders[1]}: row {row}, subject {subject} differs from its result in "
                f"{folders[0]}; report these runs separately"
            )
        yield f"{row}, subject {subject}: identical results in {len(folders)} runs, counted once."


def _number(same: Sequence[Results]) -> None:
    """Number results of the same dataset and protocol, and note how they differ."""
    if len(same) == 1:
        return
    names = (*SHARED_SETTINGS, *OLD_SETTINGS)
    found = {name: {json.dumps(result.settings.get(name)) for result in same} for name in names}
    differing = ", ".join(name for name, values in found.items() if len(values) > 1)
    for i, result in enumerate(same, start=1):
        result.name += f"-{i}"
        notice = f"Runs that differ in {differing} are reported separately: "
        result.notices.insert(0, f"{notice}this is set {i} of {len(same)}.")
