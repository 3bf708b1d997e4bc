"""The folder of a run: its settings and its results, each file written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import time
import zipfile
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
    load_checkpoint,
    name_problem,
    plural,
    read_json,
    read_problem,
    save_checkpoint,
    set_aside,
    shorten,
    write_atomically,
    write_text,
)
from common.metrics import METRICS, with_phase

SUFFIXES = {
    "results": ".json",  # metrics and history of a finished task
    "predictions": ".npz",  # targets and estimates for the test subject
    "checkpoints": CHECKPOINT_SUFFIX,  # the trained network
    "unfinished": ".pt",  # state to resume from
}
NUMBERS = {  # in the lines of a result
    "metrics": ("parameters", "n", *METRICS),
    "history": ("epoch", "training_loss", "validation_loss", "seconds"),
}
MANY_BYTES = 1e9  # of results, which take about a second to check


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

    A result contains SHA-256 digests of its checkpoint and its predictions, of itself, and the
    settings of the run. A task whose files do not match them is not finished.

    Attributes:
        results: task -> content of its file in `results`, once loaded.
        settings: everything that affects the results; None accepts results with any settings.
    """

    def __init__(self, path: Path, rows: Sequence[str]) -> None:
        self.path, self.rows = path, list(rows)
        self.results: dict[Task, dict[str, Any]] = {}
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
            InputError: The run has different settings, is damaged, is in use, or cannot be written.
        """
        self.lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            for path in self.path.rglob(f".*{PART_SUFFIX}"):
                if not path.is_dir():
                    path.unlink()  # left by a process that was killed while writing
            self._set_folders_aside()
            calls = self._check_config(_as_json(settings))
            text = json.dumps({"settings": settings, "calls": [*calls, call]}, indent=2)
            write_text(self.path / "config.json", text + "\n")
            self.settings = _as_json(settings)
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
        return calls

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def _set_folders_aside(self) -> None:
        """Rename folders that are where a file must be written.

        Raises:
            OSError: A file is where a folder must be.
        """
        files = [self.path / name for name in ("config.json", "history.csv", "metrics.csv")]
        for kind, suffix in SUFFIXES.items():
            if (self.path / kind).exists():
                files += [path for path in (self.path / kind).iterdir() if path.suffix == suffix]
        for path in files:
            if path.is_dir():
                new = set_aside(path, self.path)
                print(f"NOTICE: {path}: is a folder, renamed to {new}", flush=True)

    def _check_config(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the earlier calls of this run after checking that its settings are the same.

        Each result states its settings, so that a damaged `config.json` can be replaced.

        Raises:
            InputError: The settings are not the same, or not known.
        """
        path = self.path / "config.json"
        try:
            config, problem = read_config(self.path), "has other settings than the finished rows"
        except InputError as error:
            config = {"settings": None, "calls": []}
            problem = str(error).removeprefix(f"{path}: ")
        old, calls = config["settings"], config["calls"]
        if old == settings:
            return calls
        self.load_results(report=False)
        trained = [self._settings_of(task) for task in self.results]
        others = [other for other in (old, *trained) if other not in (None, settings)]
        is_agreed = bool(trained) and all(one == settings for one in trained)
        if others and not is_agreed:
            raise InputError(
                f"{self.path}: this run has different settings{_differences(others[0], settings)}; "
                "use another --run-name"
            )
        if trained and not is_agreed:
            raise InputError(
                f"{path}: {problem if path.exists() else 'missing'}, and the settings of the "
                "finished rows are not known; use another --run-name"
            )
        if path.exists():
            print(f"NOTICE: {path}: {problem}; renamed to {set_aside(path).name}", flush=True)
        if trained:
            count = plural(len(trained), "finished task")
            print(f"NOTICE: {path}: restored from the settings of {count}", flush=True)
            return calls
        for state in (self.path / "unfinished").glob(f"*{SUFFIXES['unfinished']}"):
            name = set_aside(state).name
            print(f"NOTICE: {state}: its settings are not known; renamed to {name}", flush=True)
        return calls

    def _settings_of(self, task: Task) -> dict[str, Any] | None:
        """Return the settings of a finished task; in earlier versions, its checkpoint has them."""
        settings = self.results[task].get("settings")
        if settings is None:
            try:
                settings = load_checkpoint(self.file("checkpoints", task)).description["settings"]
            except (InputError, KeyError):
                return None
        return settings

    def load_results(self, report: bool = True) -> None:
        """Load the results of all finished tasks.

        Args:
            report: whether to print a notice for those that cannot be used.
        """
        paths = sorted((self.path / "results").glob("*.json"))
        files = [
            path for kind in ("checkpoints", "predictions") for path in self.path.glob(f"{kind}/*")
        ]
        size = sum(path.stat().st_size for path in files if path.is_file())
        if report and size > MANY_BYTES:
            print(f"Checking the results: {size / 1e9:,.1f} GB", flush=True)
        for path in paths:
            row, found, subject = path.stem.partition("-subject_")  # not part of any row's name
            if found:
                self.load_result(Task(row, subject), report)

    def load_result(self, task: Task, report: bool = False) -> bool:
        """Load the result of a task; return False if there is none or it cannot be used.

        Args:
            task: the task.
            report: whether to print a notice if it cannot be used.
        """
        self.results.pop(task, None)
        try:
            self.results[task] = self._read_result(task)
        except InputError as error:
            if report:
                row = f"{task.row}, subject {task.subject}"
                print(f"NOTICE: {error}; {row} counts as unfinished", flush=True)
        return task in self.results

    def _read_result(self, task: Task) -> dict[str, Any]:
        """Read a result, and check it and its files.

        Raises:
            InputError: The message names the file that is missing, damaged or not that of the task.
        """
        path = self.file("results", task)
        result = read_json(path)
        digest = result.pop("digest", None)
        try:
            has_digests = digest is not None or "sha256" in result
            if has_digests and digest != _digest(result):
                raise InputError(f"{path}: damaged (its digest differs)")
            _check_lines(result, task)
            if self.settings not in (None, result.get("settings", self.settings)):
                differences = _differences(result["settings"], self.settings)
                raise InputError(f"{path}: from a run with other settings{differences}")
            for file in (self.file("checkpoints", task), self.file("predictions", task)):
                size = result["bytes"][file.name]
                if size is None and file.suffix == CHECKPOINT_SUFFIX:
                    continue  # deleted on request
                _check_file(file, size, result["sha256"][file.name] if has_digests else None)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: damaged, or not a result ({shorten(error, 60)})") from error
        return result

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
        self._write_result(task, result)
        self.file("unfinished", task).unlink(missing_ok=True)

    def _write_result(self, task: Task, result: Mapping[str, Any]) -> None:
        """Write the file of a task in `results`, with a digest of its content."""
        text = json.dumps({**result, "digest": _digest(result)})
        write_text(self.file("results", task), text + "\n")

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
            self._write_result(task, result)
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
        problem = name_problem(run_name)
        if problem:
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
    except (IndexError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, InputError) else f"{path}: its flags are damaged"
        raise InputError(
            f"{reason}; use --run-name {path.name} with the flags of the run instead of --resume"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings (None for a new run) and the calls of a run.

    Raises:
        InputError: Its `config.json` is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        return {"settings": None, "calls": []}
    config = read_json(path)
    settings, calls = config.get("settings"), config.get("calls")
    is_valid = isinstance(settings, dict) and isinstance(calls, list)
    if not is_valid or not all(isinstance(call, dict) for call in calls):
        raise InputError(f"{path}: damaged (no settings and calls)")
    return {"settings": settings, "calls": calls}


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are after reading them from a file: tuples become lists."""
    return json.loads(json.dumps(settings))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ, in parentheses."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    parts = [f"{name}: {old.get(name)} in the run, {new.get(name)} now" for name in names]
    return f" ({shorten('; '.join(parts), 2000)})"


def _digest(result: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a result, which does not depend on how it is written."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _check_lines(result: Mapping[str, Any], task: Task) -> None:
    """Check the metrics and the history of a result.

    Raises:
        ValueError: They are not those of the task.
    """
    if not isinstance(result["summary"], str) or not result["metrics"]:
        raise ValueError("no metrics")
    for part, fold in (("metrics", "test_subject"), ("history", "fold")):
        for line in result[part]:
            if (line["row"], line[fold]) != task:
                raise ValueError("of another row")
            if not all(isinstance(line[name], int | float) for name in NUMBERS[part]):
                raise ValueError("no numbers")
            if part == "metrics" and not all(
                isinstance(line[name], str) for name in ("activity", "target", "unit")
            ):
                raise ValueError("no names")


def _check_file(path: Path, size: int, digest: str | None) -> None:
    """Check that a file of a result is the one that was written.

    Args:
        path: the file.
        size: its size in bytes.
        digest: its SHA-256 digest; None in runs of earlier versions, whose predictions are checked
            by the checksums in the file.

    Raises:
        InputError: It is another one, or damaged.
    """
    problem = read_problem(path)
    try:
        if not problem and path.stat().st_size != size:
            problem = "damaged (its size differs from that in its result)"
        elif not problem and digest is not None and file_digest(path) != digest:
            problem = "damaged (its SHA-256 digest differs from that in its result)"
        elif not problem and digest is None and path.suffix == SUFFIXES["predictions"]:
            with zipfile.ZipFile(path) as archive:
                problem = "damaged (a checksum differs)" if archive.testzip() else None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except Exception as error:  # a damaged file can raise any exception
        problem = f"damaged ({shorten(error, 60)})"
    if problem:
        raise InputError(f"{path}: {problem}")
