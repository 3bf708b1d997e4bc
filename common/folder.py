"""The folder of a run: its settings and its results, each file written atomically."""

from __future__ import annotations

import glob
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from torch import Tensor

from common.data import sort_subjects
from common.files import (
    CHECKPOINT_SUFFIX,
    PART_SUFFIX,
    InputError,
    file_digest,
    name_problem,
    plural,
    read_json,
    read_problem,
    save_checkpoint,
    set_aside,
    shorten,
    write_atomically,
    write_json,
)
from common.metrics import with_phase

SUFFIXES = {
    "results": ".json",  # metrics and history of a finished task
    "predictions": ".npz",  # targets and estimates for the test subject
    "checkpoints": CHECKPOINT_SUFFIX,  # the trained network
    "unfinished": ".pt",  # state to resume from
}


class Task(NamedTuple):
    """One row of the table with one subject held out."""

    row: str
    subject: str

    def __str__(self) -> str:
        return f"{self.row}, subject {self.subject}"


class RunFolder:
    """The folder of a run: `<output-dir>/<script>/<run>`.

    It contains `config.json`, `history.csv`, `metrics.csv` and the folders `results`,
    `predictions`, `checkpoints`, `unfinished` and `figures`. A task is finished once its file in
    `results` exists; this file is written last, and the CSV files are assembled from all of them.
    A result states the settings of the run and the SHA-256 digests of its checkpoint, of its
    predictions and of itself. A task whose files do not match them is not finished.

    Args:
        path: the folder, which need not exist.
        rows: names of the rows, in the order of the table.

    Attributes:
        results: task -> content of its file in `results`, once loaded.
        problems: task -> why its result cannot be used.
        settings: everything that affects the results; None accepts results with any settings.
    """

    def __init__(self, path: Path, rows: Sequence[str]) -> None:
        self.path, self.rows = path, list(rows)
        self.results: dict[Task, dict[str, Any]] = {}
        self.problems: dict[Task, str] = {}
        self.settings: dict[str, Any] | None = None

    def file(self, kind: str, task: Task) -> Path:
        """Return the path of a task's file in the folder `kind`, one of `SUFFIXES`."""
        return self.path / kind / f"{task.row}-subject_{task.subject}{SUFFIXES[kind]}"

    def open(self, settings: Mapping[str, Any], call: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Create the folder, or open it if its run has the same settings, and lock it.

        Args:
            settings: everything that affects the results.
            call: flags and environment of this call of the script; `config.json` lists all calls.

        Returns:
            The earlier calls.

        Raises:
            InputError: The run has different settings, is in use, or cannot be written.
        """
        settings = json.loads(json.dumps(settings))  # as they are read: tuples become lists
        self.lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            self._clear()
            calls = self._check_settings(settings)
            config = {"settings": settings, "calls": [*calls, call]}
            write_json(self.path / "config.json", config, indent=2)
            self.settings = settings
            self.load_results()
            for task, problem in self.problems.items():
                print(f"NOTICE: {problem}; {task} counts as unfinished", flush=True)
            if self.results:
                self.write_tables()
        except Timeout as error:
            raise InputError(
                f"{self.path}: another process is working on this run; use another --run-name"
            ) from error
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            raise InputError(
                f"{self.path}: cannot write to this folder ({error.strerror}); use another "
                "--output-dir"
            ) from error
        return calls

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def _clear(self) -> None:
        """Delete what killed processes were writing, and rename folders where a file belongs."""
        for path in [*self.path.rglob("*.*")]:
            if path.is_dir() and path.suffix in (".csv", *SUFFIXES.values()):
                set_aside(path, f"{path}: is a folder")
            elif path.suffix == PART_SUFFIX and not path.is_dir():
                path.unlink()

    def _check_settings(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the earlier calls of this run after checking that it has the same settings.

        If `config.json` cannot be used, the settings are those that the results state, and saved
        states, which state none, are renamed.
        """
        path, problem = self.path / "config.json", None
        try:
            config = read_config(self.path)
            found = [config["settings"]]
        except InputError as error:
            self.load_results()
            config, problem = {"calls": []}, error
            found = [result.get("settings") for result in self.results.values()]
        for old in found:
            if old is None:  # a result of version 1.0.0
                raise InputError(
                    f"{problem}, and the settings of the finished rows are not known; use another "
                    "--run-name"
                )
            if differences := _differences(old, settings):
                raise InputError(
                    f"{self.path}: this run has different settings ({differences}); use another "
                    "--run-name"
                )
        if problem:
            if path.exists():
                set_aside(path, problem)
            for state in (self.path / "unfinished").glob(f"*{SUFFIXES['unfinished']}"):
                set_aside(state, f"{state}: its settings are not known")
            if found:
                count = plural(len(found), "finished task")
                print(f"NOTICE: {path}: restored from the settings of {count}", flush=True)
        return config["calls"]

    def load_results(self) -> None:
        """Load the results of all finished tasks."""
        for path in sorted((self.path / "results").glob("*.json")):
            row, found, subject = path.stem.partition("-subject_")  # not part of any row's name
            if found:
                self.load_result(Task(row, subject))

    def load_result(self, task: Task) -> bool:
        """Load the result of a task; return False if there is none or it cannot be used."""
        self.results.pop(task, None)
        self.problems.pop(task, None)
        try:
            self.results[task] = self._read_result(task)
        except InputError as error:
            self.problems[task] = str(error)
        return task in self.results

    def _read_result(self, task: Task) -> dict[str, Any]:
        """Read a result, and check it and its files."""
        path = self.file("results", task)
        result = read_json(path)
        try:
            stated = dict(result.get("settings", {}))  # none in version 1.0.0, as below
            if stated and self.settings and (differences := _differences(stated, self.settings)):
                raise InputError(f"{path}: from a run with other settings ({differences})")
            lines = [line for line in result["metrics"] if line["target"]]
            tasks = {(line["row"], line["test_subject"]) for line in lines}
            if tasks != {task} or not {"history", "summary"} <= result.keys():
                raise InputError(f"{path}: not the result of this row")
            digests = result.get("sha256", {})
            for file in (self.file("checkpoints", task), self.file("predictions", task)):
                size, digest = result["bytes"][file.name], digests.get(file.name)
                if size is None:
                    continue  # deleted on request
                problem = read_problem(file)
                is_same = not problem and file.stat().st_size == size
                if not is_same or (digest and file_digest(file) != digest):
                    raise InputError(f"{file}: {problem or 'damaged (differs from its result)'}")
            if not digests:
                self.load_predictions(task)  # has checksums of its own
            return result
        except (AttributeError, KeyError, OSError, TypeError) as error:
            raise InputError(f"{path}: damaged, or not a result ({shorten(error, 60)})") from error

    def load_predictions(self, task: Task) -> dict[str, np.ndarray]:
        """Return the arrays of a task's file in `predictions`.

        Raises:
            InputError: The file cannot be used.
        """
        path = self.file("predictions", task)
        try:
            with np.load(path) as file:
                arrays = dict(file)
            shape = len(arrays["sample"]), len(arrays["target"])
            if {arrays[name].shape for name in ("truth", "prediction")} != {shape}:
                raise ValueError("other shapes")
            return arrays
        except Exception as error:  # a damaged file can raise any exception
            raise InputError(f"{path}: damaged ({shorten(error, 100)}); use --resume") from error

    def save_result(
        self,
        task: Task,
        weights: Mapping[str, Tensor],
        description: Mapping[str, Any],
        predictions: Mapping[str, np.ndarray],
        result: Mapping[str, Any],
    ) -> None:
        """Save the result of a task; its file in `results` is written last.

        Args:
            task: the task.
            weights: state dict of the trained network.
            description: description of the network, for its checkpoint.
            predictions: arrays of the test subject.
            result: `history` and `metrics` as lists of lines, and `summary`.
        """
        paths = self.file("checkpoints", task), self.file("predictions", task)
        save_checkpoint(paths[0], weights, description)
        with write_atomically(paths[1]) as part, part.open("wb") as file:
            np.savez_compressed(file, **predictions)
        result = {
            "bytes": {path.name: path.stat().st_size for path in paths},
            "sha256": {path.name: file_digest(path) for path in paths},
            "settings": self.settings,
            **result,
        }
        write_json(self.file("results", task), result)
        self.file("unfinished", task).unlink(missing_ok=True)
        for path in (self.file(kind, task) for kind in SUFFIXES):  # of workers killed while writing
            for part in path.parent.glob(f".{glob.escape(path.name)}.*{PART_SUFFIX}"):
                part.unlink(missing_ok=True)

    def delete_checkpoint(self, task: Task) -> None:
        """Delete the weights of a finished task, and record that its result is complete."""
        path, result = self.file("checkpoints", task), self.results[task]
        if result["bytes"][path.name] is not None:
            result["bytes"][path.name] = None
            write_json(self.file("results", task), result)
        path.unlink(missing_ok=True)

    def write_tables(self) -> None:
        """Write `history.csv` and `metrics.csv`."""
        for name, table in (("history", self.history), ("metrics", self.metrics)):
            with write_atomically(self.path / f"{name}.csv") as part:
                table.to_csv(part, index=False, encoding="utf-8")

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of all results, sorted by subject and then by row of the table."""
        return with_phase(self._table("metrics"))

    @property
    def history(self) -> pd.DataFrame:
        """The epochs of all results, in the same order; columns as in `history.csv`."""
        return self._table("history")

    def _table(self, part: str) -> pd.DataFrame:
        order = {row: i for i, row in enumerate(self.rows)}
        subjects = sort_subjects({task.subject for task in self.results})
        tasks = sorted(
            self.results,
            key=lambda task: (subjects.index(task.subject), order.get(task.row, math.inf), task),
        )
        return pd.DataFrame([line for task in tasks for line in self.results[task][part]])


def new_run(parent: Path, run_name: str | None) -> Path:
    """Return `parent / run_name`; without a name, the run is named after the date and time.

    Raises:
        InputError: The name is not a valid folder name.
    """
    if run_name is not None:
        if problem := name_problem(run_name):
            name = shorten(repr(run_name), 60)
            raise InputError(f"--run-name {name}: must be a folder name, but {problem}")
        return parent / run_name
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    existing = sum(1 for _ in parent.glob(f"{name}*"))
    return parent / (f"{name}_{existing + 1}" if existing else name)


def find_run(parent: Path, run_name: str) -> Path:
    """Return the folder of an existing run; for an empty name, that of the most recent run.

    Raises:
        InputError: There is no such run.
    """
    folders = [new_run(parent, run_name)] if run_name else parent.glob("*")
    configs = [path for folder in folders if (path := folder / "config.json").exists()]
    if not configs:
        raise InputError(f"{parent / run_name}: no run to resume; leave out --resume to start one")
    return max(configs, key=lambda path: path.stat().st_mtime).parent


def last_flags(path: Path) -> dict[str, Any]:
    """Return the flags of the last call of a run.

    Raises:
        InputError: Its `config.json` is damaged.
    """
    try:
        return dict(read_config(path)["calls"][-1]["flags"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, InputError) else f"{path}: its flags are damaged"
        raise InputError(
            f"{reason}; use --run-name {path.name} with the flags of the run instead of --resume"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings and the calls of a run.

    Raises:
        InputError: Its `config.json` is missing or damaged.
    """
    path = folder / "config.json"
    config = read_json(path)
    try:
        return {"settings": dict(config["settings"]), "calls": list(map(dict, config["calls"]))}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged (no settings and calls)") from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ, as text; empty if none do."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    parts = [f"{name}: {old.get(name)} in the run, {new.get(name)} now" for name in names]
    return shorten("; ".join(parts), 2000)
