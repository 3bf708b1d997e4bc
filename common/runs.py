"""A run: one call of a script, its folder, and going through rows and folds."""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import h5py
import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from common import parallel, training
from common.data import Recording, SensorSet, Target
from common.files import (
    CHECKPOINT_SUFFIX,
    InputError,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from common.metrics import final_table, fold_table, long_form
from common.parallel import Task
from common.training import DivergedError, Epoch, Progress
from common.windows import Fold, check_windows, choose_subjects
from synthetic_gait import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE = 64  # windows, as in the paper
STATE_BYTES = 16  # per parameter of a saved training: weights, Adam's moments, best epoch


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of the row.
        sensor_set: name of the sensor set that the network reads.
        network: builds the network; a `partial` of its class, which checkpoints describe.
        needs: rows that have to be trained before this one, on the same fold.
    """

    name: str
    sensor_set: str
    network: partial[nn.Module]
    needs: tuple[str, ...] = ()


class QuickLook(NamedTuple):
    """The synthetic data that stand in for a missing file, and what is trained on them by default.

    Attributes:
        subjects: number of subjects.
        minutes: minutes of walking per subject.
        epochs: maximum number of epochs.
        rows: names of the rows; None for all.
        batch_size: windows per batch.
        seed: seed of the data.
    """

    subjects: int
    minutes: float
    epochs: int
    rows: tuple[str, ...] | None = None
    batch_size: int = BATCH_SIZE
    seed: int = 42


class Script(Protocol):
    """The parts of a script (a module) that runs and tools use."""

    __file__: str
    __doc__: str
    DATASET: str
    RATE_HZ: int
    WINDOW: int
    EPOCHS: int
    LEARNING_RATE: float
    SENSOR_SETS: Mapping[str, SensorSet]
    TARGETS: Sequence[Target]
    ROWS: Sequence[Row]
    QUICK_LOOK: QuickLook

    def read(self, path: Path) -> Recording:
        """Read the HDF5 file."""

    def inputs(self, samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
        """Return the inputs of a network, from modalities `(..., C)`."""

    def train_and_test(self, row: Row, test_subject: str, run: Run) -> None:
        """Train and test one row with one subject held out."""


class FailedTasksError(RuntimeError):
    """Some trainings failed and the others are done; the message names each with its reason."""


class Run:
    """A run of a script and its folder.

    The folder holds `config.json`, `history.csv`, `metrics.csv` and the folders `results`,
    `predictions`, `checkpoints`, `unfinished` and `figures`. A row is done on a fold once its file
    in `results` exists; that file is written last, and the CSV files are assembled from them.

    Attributes:
        script: the script.
        args: its flags; `epochs` is None unless a flag or the quick look sets it.
        is_quick: whether synthetic data stand in for a missing file, with quick settings.
        folder: `<output-dir>/<script>/<run>`.
        device: device to train on.
        recording: the data, with the samples on the device.
        settings: everything that the numbers depend on; a script may add settings of its own.
        rows: names of the rows to run, with those that they need, in the order of the table.
        test_subjects: ids of the subjects to hold out.
        results: (row, test subject) -> content of its file in `results`.
    """

    def __init__(self, script: Script, args: argparse.Namespace) -> None:
        """Check the flags and read the data; nothing is written but synthetic data.

        Args:
            script: the script.
            args: its flags, from `cli.parse`.

        Raises:
            InputError: A flag or the data cannot be used.
        """
        self.script, self.args, self.flags = script, argparse.Namespace(**vars(args)), vars(args)
        asked = _choose_rows(script, args.rows)
        self.device = _choose_device(args)
        cores = os.cpu_count() or 1
        if args.threads > cores and not args.scheduler:
            raise InputError(f"--threads {args.threads}: this machine has {cores} cores; use fewer")
        training.check_faster(args.faster, self.device)
        self.folder = run_folder(args.output_dir, script, args.run_name)
        self.args.data, self.is_quick = _find_data(script, args)
        quick = script.QUICK_LOOK
        self.args.batch_size = args.batch_size or (
            quick.batch_size if self.is_quick else BATCH_SIZE
        )
        self.args.epochs = args.epochs or (quick.epochs if self.is_quick else None)
        if self.is_quick and not args.rows and quick.rows:
            asked = list(quick.rows)
        self.rows = _with_needed(script, asked)
        self.added_rows = [row for row in self.rows if row not in asked]
        training.set_up(args.threads, args.faster)
        self.recording = script.read(self.args.data)
        check_windows(self.recording, script.WINDOW, args.protocol)
        self.test_subjects = choose_subjects(self.recording, args.test_subjects)
        self.settings = self._settings()
        tasks = [Task(row, subject) for subject in self.test_subjects for row in self.rows]
        self.labels = {
            task: f"[{number}/{len(tasks)}] {task.row}, subject {task.subject}"
            for number, task in enumerate(tasks, start=1)
        }
        self.results: dict[Task, dict[str, Any]] = {}
        self.failures: dict[Task, str] = {}
        self.problems: list[str] = []  # other than failed trainings
        self.shows_progress = True
        self._load_results()
        self.jobs = self._count_jobs()

    def _settings(self) -> dict[str, Any]:
        """Return everything that the numbers depend on; runs that differ in it do not mix."""
        args, recording = self.args, self.recording
        faster = [way for way in training.FASTER if way in args.faster]
        return {
            "script": Path(self.script.__file__).stem,
            "data": {
                "file": recording.path.name,
                "bytes": recording.path.stat().st_size,
                "subjects": recording.subjects,
                "digest": recording.digest(),
                **({"synthetic": True} if recording.is_synthetic else {}),
            },
            "protocol": args.protocol,
            "epochs": args.epochs or self.script.EPOCHS,
            **{name: getattr(args, name) for name in ("patience", "batch_size", "learning_rate")},
            "seed": args.seed,
            **({"faster": faster} if faster else {}),
            "device": self.device.type,
            **({"threads": args.threads} if self.device.type == "cpu" else {}),
        }

    # The folder -----------------------------------------------------------------------------------

    def result_file(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's metrics and history."""
        return self.folder / "results" / f"{row}-subject_{test_subject}.json"

    def checkpoint_file(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's trained network."""
        return self.folder / "checkpoints" / f"{row}-subject_{test_subject}{CHECKPOINT_SUFFIX}"

    def predictions_file(self, row: str, test_subject: str) -> Path:
        """Return the path of the truth and the prediction of the test subject."""
        return self.folder / "predictions" / f"{row}-subject_{test_subject}.npz"

    def state_file(self, row: str, test_subject: str) -> Path:
        """Return the path of the state of an unfinished training."""
        return self.folder / "unfinished" / f"{row}-subject_{test_subject}.pt"

    def __enter__(self) -> Run:
        """Create the folder, or open it if it was created with the same settings.

        Raises:
            InputError: The folder holds a run with other settings, cannot be written, or is in use.
        """
        self._check_space()
        self.lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self._open()
        except Timeout as error:
            raise InputError(
                f"{self.folder}: another process is working on this run; use another --run-name"
            ) from error
        except OSError as error:
            self.lock.release()
            raise InputError(
                f"{self.folder}: cannot write there ({error.strerror}); use another --output-dir"
            ) from error
        except BaseException:
            self.lock.release()
            raise
        print(self._introduction())
        print(f"Run: {self.folder}\n", flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.lock.release()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"what is done is saved in {self.folder}; --resume {self.folder.name} continues"
            )

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        config = _read_config(self.folder)
        _check_same_settings(self.folder, config["settings"], self.settings)
        call = {
            "flags": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in self.flags.items()
            },
            "device_name": self._device_name(),
            "versions": _versions(),
            "git": _git_description(self.script.__file__),
        }
        config = {"settings": self.settings, "calls": [*config["calls"], call]}
        with write_atomically(self.folder / "config.json") as part:
            part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for path in self.folder.glob("*/.*.part"):
            path.unlink(missing_ok=True)  # left by a process that was killed while it wrote
        self._load_results()
        if self.results:
            self._write_tables()

    def _load_results(self) -> None:
        for path in sorted((self.folder / "results").glob("*.json")):
            row, _, subject = path.stem.rpartition("-subject_")
            self._load_result(Task(row, subject))

    def _load_result(self, task: Task) -> bool:
        """Load the result of a task, if it and the files that belong to it are complete."""
        try:
            result = json.loads(self.result_file(*task).read_text(encoding="utf-8"))
            for path in (self.checkpoint_file(*task), self.predictions_file(*task)):
                if path.stat().st_size != result["bytes"][path.name]:
                    return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.results[task] = result
        return True

    def _write_tables(self) -> None:
        for name, table in (("history", self._table("history")), ("metrics", self.metrics)):
            with write_atomically(self.folder / f"{name}.csv") as part:
                table.to_csv(part, index=False, encoding="utf-8")

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of all results, subject by subject, rows in the order of the table."""
        return self._table("metrics")

    def _table(self, part: str) -> pd.DataFrame:
        order = {row.name: i for i, row in enumerate(self.script.ROWS)}
        tasks = sorted(self.results, key=lambda t: (int(t.subject), order.get(t.row, math.inf), t))
        return pd.DataFrame([line for task in tasks for line in self.results[task][part]])

    def save_figure(self, name: str, figure: Figure) -> None:
        """Write `figures/<name>.png`."""
        with write_atomically(self.folder / "figures" / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=150)

    # Rows and folds -------------------------------------------------------------------------------

    def each(self, train_and_test: Callable[[Row, str, Run], None]) -> None:
        """Train and test every row with every test subject held out, except what is done already.

        It runs here, with `--jobs` in several processes, and with `--scheduler` on a Dask cluster.
        A failed training does not stop the others.
        """
        for task, label in self.labels.items():
            if task in self.results:
                print(f"{label}: already done", flush=True)
        todo = {
            task: [Task(row, task.subject) for row in find_row(self.script, task.row).needs]
            for task in self._todo()
        }
        if not todo:
            return
        if self.jobs == 1 and self.args.scheduler is None:
            self.recording = self.recording.to(self.device)
            work = partial(self._do, train_and_test)
        else:
            where = self.args.scheduler and f"on the cluster at {self.args.scheduler}"
            print(f"Trainings run in parallel, {where or f'{self.jobs} at a time'}.", flush=True)
            work = partial(_do_in_worker, *self._handle())
        for task, error in parallel.run_tasks(work, todo, self.jobs, self.args.scheduler):
            if error is None and self._load_result(task):
                self._report_task(task)
                continue
            if error is None:
                error = InputError("its result is not there; workers must share --output-dir")
            self.failures[task] = _reason(error)
            print(f"{self.labels[task]}: FAILED: {self.failures[task]}", flush=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return  # the others would train for hours and could not save their results

    def _todo(self) -> list[Task]:
        return [task for task in self.labels if task not in self.results]

    def _handle(self) -> tuple[Path, argparse.Namespace, dict[str, Any]]:
        """Return what a worker needs to open this run; all paths are absolute."""
        args = argparse.Namespace(**{**vars(self.args), "sample": False, "rows": self.rows})
        args.data, args.output_dir = self.args.data.resolve(), self.folder.resolve().parents[1]
        args.run_name, args.device, args.scheduler = self.folder.name, str(self.device), None
        args.rows = self.rows
        script = Path(self.script.__file__).resolve()
        return script, args, self.settings

    def _do(
        self, train_and_test: Callable[[Row, str, Run], None], row: str, test_subject: str
    ) -> None:
        """Do one task. The best epoch before a divergence is saved beside the checkpoints."""
        try:
            train_and_test(find_row(self.script, row), test_subject, self)
        except DivergedError as error:
            if error.best_weights:
                path = self.checkpoint_file(row, test_subject)
                description = self._checkpoint_description(find_row(self.script, row), test_subject)
                path = path.with_suffix(f".diverged{path.suffix}")
                save_checkpoint(path, error.best_weights, description)
                error.best_weights = {}  # a worker sends the error to the process that reports it
            self.state_file(row, test_subject).unlink(missing_ok=True)
            raise

    def progress(self, row: Row, test_subject: str) -> Progress:
        """Return the progress of the training of a row, which resumes where it was saved."""
        return Progress(
            self.labels[Task(row.name, test_subject)],
            self.state_file(row.name, test_subject),
            self.args.save_every,
            self.shows_progress,
        )

    def load_network(self, row: str, test_subject: str) -> nn.Module:
        """Return the trained network of a row, frozen, in eval mode and on the device."""
        network = find_row(self.script, row).network()
        self.load_weights(row, test_subject, network)
        return network.to(self.device).eval().requires_grad_(False)

    def load_weights(self, row: str, test_subject: str, network: nn.Module) -> None:
        """Load the trained weights of a row into a network.

        Raises:
            InputError: The checkpoint is damaged or belongs to another network.
        """
        path = self.checkpoint_file(row, test_subject)
        try:
            network.load_state_dict(load_checkpoint(path).tensors)
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"{path}: damaged, or of another network; delete it to train {row} again"
            ) from error

    def used_parameters(self, row: str, test_subject: str) -> int:
        """Return the number of parameters of a row that is done."""
        result = json.loads(self.result_file(row, test_subject).read_text(encoding="utf-8"))
        return int(result["metrics"][0]["parameters"])

    def record(
        self,
        row: Row,
        fold: Fold,
        network: nn.Module,
        history: Sequence[Epoch],
        parameters: int | None = None,
        summary: str | None = None,
    ) -> None:
        """Test a network on the held-out subject and write the results of its row.

        Args:
            row: the row.
            fold: its fold.
            network: the trained network.
            history: its epochs; empty for a network that was not trained.
            parameters: number of parameters, by default those that the prediction depends on.
            summary: line for the screen, by default the best epoch.
        """
        if parameters is None:
            one_window = fold.test[torch.zeros(1, dtype=torch.long, device=self.device)]
            parameters = training.count_used_parameters(network, one_window.inputs)
        if summary is None:
            best = min(history, key=lambda epoch: epoch.validation_loss)
            seconds = sum(epoch.seconds for epoch in history)
            summary = (
                f"best epoch {best.epoch} of {len(history)}, validation loss "
                f"{best.validation_loss:.4f}, {seconds:.0f} s"
            )
        prediction = training.predict(network, fold.test, self.args.batch_size)
        is_scored, samples = fold.test.is_scored.cpu(), fold.test.samples.cpu()
        samples = samples[is_scored].numpy()
        arrays = {
            "truth": fold.test.targets.cpu()[is_scored].numpy(),
            "prediction": prediction.cpu()[is_scored].numpy(),
            "activity": np.array(self.recording.activities)[self.recording.activity[samples]],
            "stretch": self.recording.stretch[samples],
            "target": np.array([target.name for target in self.script.TARGETS]),
            "unit": np.array([target.unit for target in self.script.TARGETS]),
        }
        shared = {
            "row": row.name,
            "sensor_set": row.sensor_set,
            "modalities": "+".join(self.script.SENSOR_SETS[row.sensor_set].modalities),
            "parameters": parameters,
            "test_subject": fold.test_subject,
        }
        scores = long_form(
            arrays["truth"], arrays["prediction"], arrays["activity"], self.script.TARGETS, shared
        )
        task = Task(row.name, fold.test_subject)
        checkpoint, predictions = self.checkpoint_file(*task), self.predictions_file(*task)
        description = self._checkpoint_description(row, fold.test_subject)
        save_checkpoint(checkpoint, network.state_dict(), description)
        with write_atomically(predictions) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        result = {
            "bytes": {path.name: path.stat().st_size for path in (checkpoint, predictions)},
            "history": [
                {"row": row.name, "fold": fold.test_subject, **epoch._asdict()} for epoch in history
            ],
            "metrics": scores.to_dict("records"),
            "summary": summary,
        }
        with write_atomically(self.result_file(*task)) as part:
            part.write_text(json.dumps(result) + "\n", encoding="utf-8")
        self.state_file(*task).unlink(missing_ok=True)

    def _checkpoint_description(self, row: Row, test_subject: str) -> dict[str, Any]:
        """Return what is needed to use a checkpoint without its run."""
        return {
            **describe_network(self.script, row),
            "normalisation": "by the input BatchNorm of the network, whose statistics are tensors",
            "test_subject": test_subject,
            "settings": self.settings,
            "versions": _versions(),
            "git": _git_description(self.script.__file__),
        }

    # The screen -----------------------------------------------------------------------------------

    def _introduction(self) -> str:
        """Return the text that is printed before the first training."""
        script, recording = self.script, self.recording
        count = len(recording.subject)
        lines = [
            f"Data: {recording.path}, {len(recording.subjects)} subjects, {count:,} samples, "
            f"{count / script.RATE_HZ / 60:.1f} minutes",
            f"Device: {self._device_name()}",
        ]
        if self.device.type == "cpu":
            lines.append("NOTICE: no CUDA device is in use; training on the CPU is slow.")
        if recording.dropped:
            parts = [f"{place} {number:,}" for place, number in recording.dropped.items()]
            total = sum(recording.dropped.values())
            lines.append(f"Dropped {total:,} samples with NaN: {', '.join(parts)}")
        if self.args.protocol == "strict" and not recording.has_trials:
            lines.append("NOTICE: the file has no `trial_starts`: windows stay within an activity.")
        if recording.is_synthetic:
            lines.append(
                "SYNTHETIC DATA: simulated walking, not measurements. It shows that everything "
                "runs; the results are not those of the paper."
            )
        if self.is_quick:
            lines.append(
                f"Quick look: {len(self.rows)} of {len(script.ROWS)} rows, at most "
                f"{self.args.epochs} epochs, batches of {self.args.batch_size} windows; the paper "
                f"has {script.EPOCHS} epochs and batches of {BATCH_SIZE}. See --rows, --epochs and "
                "--batch-size; --rows all runs all rows."
            )
        if self.added_rows:
            lines.append(f"Rows added because others need them: {', '.join(self.added_rows)}")
        return "\n".join(lines)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            is_here = torch.cuda.is_available()
            return torch.cuda.get_device_name(self.device) if is_here else "CUDA, on the workers"
        return f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"

    def _report_task(self, task: Task) -> None:
        """Print the result of a task, and the table of a fold once it is complete."""
        try:
            self._write_tables()
            self.problems = []
        except OSError as error:
            self.problems = [f"history.csv and metrics.csv: {_reason(error)}"]
        print(f"{self.labels[task]}: {self.results[task]['summary']}", flush=True)
        if all(Task(row, task.subject) in self.results for row in self.rows):
            print(f"\n{fold_table(self.metrics, self.rows, task.subject)}\n", flush=True)

    def report(self, figures: Callable[[Run, Sequence[str], Sequence[str]], None]) -> pd.DataFrame:
        """Print the table of the rows that are done on every fold, and draw their figures.

        Args:
            figures: draws the figures of a run: `(run, rows, test_subjects)`.

        Returns:
            The metrics in long form.

        Raises:
            FailedTasksError: Some trainings failed.
        """
        rows = [
            row
            for row in self.rows
            if all(Task(row, subject) in self.results for subject in self.test_subjects)
        ]
        problems = list(self.problems)
        if rows:
            print(final_table(self.metrics, rows, self.test_subjects), flush=True)
            try:
                figures(self, rows, self.test_subjects)
            except OSError as error:
                problems.append(f"figures: {_reason(error)}")
        if self.recording.is_synthetic:
            print("\nSYNTHETIC DATA: these results are not those of the paper.")
        print(f"\nResults: {self.folder}")
        problems += [f"{t.row}, subject {t.subject}: {why}" for t, why in self.failures.items()]
        if problems:
            left = len(self._todo()) - len(self.failures)
            raise FailedTasksError(
                f"{len(self.failures)} trainings failed, {left} did not start; --resume runs what "
                "is left" + "".join(f"\n  {problem}" for problem in problems)
            )
        return self.metrics

    # Resources ------------------------------------------------------------------------------------

    def _parameters(self, row: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in find_row(self.script, row).network().parameters())

    def _largest_training(self) -> int:
        rows = {task.row for task in self._todo()}
        return max((self._parameters(row) for row in rows), default=0)

    def _count_jobs(self) -> int:
        recording_bytes = 4 * sum(values.numel() for values in self.recording.samples.values())
        return parallel.count_jobs(
            self.args.jobs,
            self.args.threads,
            self.device,
            len(self._todo()),
            self._largest_training(),
            recording_bytes,
        )

    def _check_space(self) -> None:
        """Check that the disk has room for the results and for the states of trainings.

        Raises:
            InputError: It has not.
        """
        subject, subjects = self.recording.subject, self.recording.subjects
        samples = dict(zip(subjects, np.bincount(subject, minlength=len(subjects)), strict=True))
        parameters = {row: self._parameters(row) for row in self.rows}
        values = 2 * self.jobs * STATE_BYTES // 4 * self._largest_training()  # new beside old state
        for task in self._todo():
            outputs = 2 * int(samples[task.subject]) * len(self.script.TARGETS)
            values += parameters[task.row] + outputs
        existing = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if 4 * values > free:
            raise InputError(
                f"{self.folder}: needs up to {4 * values / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are "
                "free; use another --output-dir, fewer --rows or fewer --jobs"
            )


# Workers ------------------------------------------------------------------------------------------

_worker_runs: dict[str, Run] = {}  # the run that this worker works for
_one_at_a_time = threading.Lock()  # the trainings of a process share its random numbers


def _do_in_worker(
    script: Path,
    args: argparse.Namespace,
    settings: dict[str, Any],
    row: str,
    test_subject: str,
    *needed: None,
) -> None:
    """Do one task in a worker, which reads the data once and keeps them for the next tasks."""
    key = f"{script} {args} {settings}"
    with _one_at_a_time:
        if key not in _worker_runs:
            _worker_runs.clear()
            args.device = str(parallel.worker_device(training.choose_device(args.device)))
            run = Run(load_script(script), args)
            if run.settings["data"] != settings["data"]:
                raise InputError(f"{args.data}: changed since the run began; start a new run")
            run.recording = run.recording.to(run.device)
            run.settings, run.shows_progress = settings, False
            _worker_runs[key] = run
        run = _worker_runs[key]
        if not run._load_result(Task(row, test_subject)):
            run._do(run.script.train_and_test, row, test_subject)


def load_script(path: Path) -> Script:
    """Import a script by its path."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)


# Rows ---------------------------------------------------------------------------------------------


def find_row(script: Script, name: str) -> Row:
    """Return the row of that name."""
    return next(row for row in script.ROWS if row.name == name)


def describe_network(script: Script, row: Row) -> dict[str, Any]:
    """Return the class and the arguments of a row's network, its inputs and its targets."""
    network = row.network
    arguments = inspect.signature(network.func).bind(*network.args, **network.keywords)
    arguments.apply_defaults()
    sensors, modalities = script.SENSOR_SETS[row.sensor_set]
    return {
        "script": Path(script.__file__).stem,
        "row": row.name,
        "model": network.func.__name__,
        "arguments": arguments.arguments,
        "sensor_set": row.sensor_set,
        "sensors": sensors,
        "modalities": modalities,
        "targets": [target._asdict() for target in script.TARGETS],
        "window": script.WINDOW,
        "rate_hz": script.RATE_HZ,
    }


def _choose_rows(script: Script, names: Sequence[str] | None) -> list[str]:
    """Return the names of the rows in the order of the table; all of them for None and `all`."""
    rows = [row.name for row in script.ROWS]
    if names is None or list(names) == ["all"]:
        return rows
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise InputError(f"--rows: no row {' '.join(unknown)}; there are {' '.join(rows)}")
    return [name for name in rows if name in names]


def _with_needed(script: Script, rows: Sequence[str]) -> list[str]:
    """Add the rows that `rows` need, in the order of the table."""
    needed = {need for row in rows for need in find_row(script, row).needs}
    if needed <= set(rows):
        return list(rows)
    return _with_needed(script, [r.name for r in script.ROWS if r.name in needed.union(rows)])


# Folders and settings -----------------------------------------------------------------------------


def run_folder(output_dir: Path, script: Script, run_name: str | None) -> Path:
    """Return `<output-dir>/<script>/<run>`; without a name, a new one of date and time.

    Raises:
        InputError: The name cannot be the name of a folder.
    """
    parent = output_dir / Path(script.__file__).stem
    if run_name is not None:
        if Path(run_name).name != run_name or run_name in ("", ".", ".."):
            raise InputError(f"--run-name {run_name!r}: it must be the name of one folder")
        return parent / run_name
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    existing = sum(1 for _ in parent.glob(f"{name}*"))
    return parent / (f"{name}_{existing + 1}" if existing else name)


def find_run(output_dir: Path, script: Script, run_name: str) -> Path:
    """Return the folder of an existing run, the newest one for an empty name.

    Raises:
        InputError: There is none.
    """
    parent = output_dir / Path(script.__file__).stem
    if run_name:
        folder = run_folder(output_dir, script, run_name)
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: no run to resume; leave out --resume to start one")
        return folder
    configs = sorted(parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise InputError(f"{parent}: no run to resume; leave out --resume to start one")
    return configs[-1].parent


def last_flags(folder: Path) -> dict[str, Any]:
    """Return the flags of the last call of a run.

    Raises:
        InputError: Its `config.json` is damaged.
    """
    try:
        return dict(_read_config(folder)["calls"][-1]["flags"])
    except (OSError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged run ({error}); use another --run-name") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        return {"settings": None, "calls": []}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(config["settings"]), "calls": list(config["calls"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged run ({error}); use another --run-name") from error


def _check_same_settings(folder: Path, old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    new = json.loads(json.dumps(new))  # tuples become lists
    names = [name for name in {**(old or {}), **new} if (old or new).get(name) != new.get(name)]
    if names:
        parts = [f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names]
        raise InputError(
            f"{folder}: a run with other settings ({'; '.join(parts)}); use another --run-name"
        )


def _choose_device(args: argparse.Namespace) -> torch.device:
    """Return the device to train on; a cluster's GPUs need not be in this machine."""
    if args.scheduler and args.device.startswith("cuda"):
        return torch.device(args.device)
    return training.choose_device(args.device)


def _find_data(script: Script, args: argparse.Namespace) -> tuple[Path, bool]:
    """Return the file to read and whether synthetic data, written anew, stand in for it."""
    if args.data and args.sample:
        raise InputError("--data and --sample: give one of them")
    default = default_data_file(script)
    if args.data or (default.is_file() and not args.sample):
        return args.data or default, False
    quick = script.QUICK_LOOK
    path = default.with_name(f"sample_{default.name}")
    print(f"Writing synthetic data to {path} ...", flush=True)
    try:
        write_file(path, script.DATASET, quick.subjects, quick.minutes, quick.seed)
    except OSError as error:
        raise InputError(f"{path}: cannot write the synthetic data ({error})") from error
    return path, True


def default_data_file(script: Script) -> Path:
    """Return the path where a script looks for its data without `--data`."""
    return Path("data") / f"dataset_{script.DATASET}.h5"


def _reason(error: Exception) -> str:
    """Return in one line why a task failed; print the traceback of an unforeseen error."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, DivergedError | InputError | parallel.WorkerDiedError):
        return text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return f"out of memory ({text}); use fewer --jobs or a smaller --batch-size"
    if isinstance(error, OSError):
        return f"cannot write ({text})"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {text}"


def _versions() -> dict[str, str]:
    modules = {module.__name__: module.__version__ for module in (torch, np, h5py)}
    return {"python": platform.python_version(), **modules}


@lru_cache
def _git_description(script: str) -> str | None:
    folder = str(Path(script).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
