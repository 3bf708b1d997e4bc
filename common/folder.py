"""The folder of a run: its settings and its results, each file written atomically."""

from __future__ import annotations

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
    InputError,
    save_checkpoint,
    write_atomically,
    write_text,
)

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


class RunFolder:
    """The folder of a run: `<output-dir>/<script>/<run>`.

    It contains `config.json`, `history.csv`, `metrics.csv` and the folders `results`,
    `predictions`, `checkpoints`, `unfinished` and `figures`. A task is finished once its file in
    `results` exists; this file is written last, and the CSV files are assembled from all of them.

    Args:
        path: the folder, which need not exist.
        rows: names of the rows, in the order of the table.

    Attributes:
        results: task -> content of its file in `results`, once loaded.
    """

    def __init__(self, path: Path, rows: Sequence[str]) -> None:
        self.path, self.rows = path, list(rows)
        self.results: dict[Task, dict[str, Any]] = {}

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
            InputError: The run has different settings, is damaged, is in use, or cannot be written.
        """
        self.lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            config = read_config(self.path)
            _check_same_settings(self.path, config["settings"], settings)
            text = json.dumps({"settings": settings, "calls": [*config["calls"], call]}, indent=2)
            write_text(self.path / "config.json", text + "\n")
            for path in self.path.glob("*/.*.part"):
                path.unlink(missing_ok=True)  # left by a process that was killed while writing
            self.load_results()
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
        return config["calls"]

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def load_results(self) -> None:
        """Load the results of all finished tasks."""
        for path in sorted((self.path / "results").glob("*.json")):
            row, _, subject = path.stem.partition("-subject_")  # not part of any row's name
            self.load_result(Task(row, subject))

    def load_result(self, task: Task) -> bool:
        """Load the result of a task; return False if a file of it is missing or incomplete."""
        try:
            result = json.loads(self.file("results", task).read_text(encoding="utf-8"))
            for path in (self.file("checkpoints", task), self.file("predictions", task)):
                size = result["bytes"][path.name]
                if size is not None and path.stat().st_size != size:  # None: deleted on request
                    return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.results[task] = result
        return True

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
        result = {"bytes": {path.name: path.stat().st_size for path in paths}, **result}
        write_text(self.file("results", task), json.dumps(result) + "\n")
        self.file("unfinished", task).unlink(missing_ok=True)

    def save_diverged(
        self, task: Task, weights: Mapping[str, Tensor], description: Mapping[str, Any]
    ) -> None:
        """Save the best epoch of a diverged network next to the checkpoints; delete its state."""
        if weights:
            path = self.file("checkpoints", task)
            save_checkpoint(path.with_suffix(f".diverged{path.suffix}"), weights, description)
        self.file("unfinished", task).unlink(missing_ok=True)

    def delete_checkpoint(self, task: Task) -> None:
        """Delete the weights of a finished task, and record that its result is complete."""
        path, result = self.file("checkpoints", task), self.results[task]
        if result["bytes"][path.name] is not None:
            result["bytes"][path.name] = None
            write_text(self.file("results", task), json.dumps(result) + "\n")
        path.unlink(missing_ok=True)

    def write_tables(self) -> None:
        """Write `history.csv` and `metrics.csv`."""
        for name, table in (("history", self.history), ("metrics", self.metrics)):
            with write_atomically(self.path / f"{name}.csv") as part:
                table.to_csv(part, index=False, encoding="utf-8")

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of all results, sorted by subject and then by row of the table."""
        return self._table("metrics")

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
        if Path(run_name).name != run_name or run_name in ("", ".", ".."):
            raise InputError(f"--run-name {run_name!r}: must be a folder name, not a path")
        return parent / run_name
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    existing = sum(1 for _ in parent.glob(f"{name}*"))
    return parent / (f"{name}_{existing + 1}" if existing else name)


def find_run(parent: Path, run_name: str) -> Path:
    """Return the folder of an existing run; for an empty name, that of the most recent run.

    Raises:
        InputError: There is no such run.
    """
    if run_name:
        path = new_run(parent, run_name)
        if not (path / "config.json").exists():
            raise InputError(f"{path}: no run to resume; leave out --resume to start one")
        return path
    configs = sorted(parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise InputError(f"{parent}: no run to resume; leave out --resume to start one")
    return configs[-1].parent


def last_flags(path: Path) -> dict[str, Any]:
    """Return the flags of the last call of a run.

    Raises:
        InputError: Its `config.json` is damaged.
    """
    try:
        return dict(read_config(path)["calls"][-1]["flags"])
    except (OSError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged run ({error}); use another --run-name") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings (None for a new run) and the calls of a run.

    Raises:
        InputError: Its `config.json` is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        return {"settings": None, "calls": []}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(config["settings"]), "calls": list(config["calls"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged run ({error}); use another --run-name") from error


def _check_same_settings(
    folder: Path, old: Mapping[str, Any] | None, new: Mapping[str, Any]
) -> None:
    new = json.loads(json.dumps(new))  # tuples become lists
    old = new if old is None else old
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        parts = [f"{name}: {old.get(name)} in the run, {new.get(name)} now" for name in names]
        raise InputError(
            f"{folder}: this run has different settings ({'; '.join(parts)}); use another "
            "--run-name"
        )
