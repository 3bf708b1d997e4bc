"""A run of a script: its data, its results, and the loop over rows and folds."""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import parallel, training
from common.data import Columns, Recording, SensorSet, Target, describe_ignored
from common.files import InputError, load_checkpoint, plural, write_text
from common.folder import RunFolder, Task, new_run
from common.metrics import final_table, fold_table, long_form
from common.model_card import model_card
from common.training import DivergedError, Epoch, Progress
from common.windows import Fold, check_windows, choose_subjects
from synthetic_gait import MAX_SUBJECTS, write_file

BATCH_SIZE = 64  # windows, as in the paper
STATE_BYTES = 16  # per parameter of a saved training: weights, Adam's moments, best epoch


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of the row.
        sensor_set: name of the sensor set that the network reads.
        network: `partial` that builds the network; checkpoints store its class and arguments.
        needs: rows that must be finished before this one on the same fold.
        is_beyond_paper: whether the row is run only by name or by `--rows beyond`.
    """

    name: str
    sensor_set: str
    network: partial[nn.Module]
    needs: tuple[str, ...] = ()
    is_beyond_paper: bool = False


class QuickLook(NamedTuple):
    """Defaults for a run on newly generated synthetic data: size of the data, and training.

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
    """The attributes of a script (a module) that runs and tools use."""

    __file__: str
    __doc__: str
    DATASET: str
    RATE_HZ: int
    WINDOW: int
    EPOCHS: int
    LEARNING_RATE: float
    SENSORS: Sequence[str]
    UNITS: Mapping[str, str]
    SENSOR_SETS: Mapping[str, SensorSet]
    TARGETS: Sequence[Target]
    ROWS: Sequence[Row]
    QUICK_LOOK: QuickLook

    def column_names(self, sensor_set: SensorSet) -> list[str]:
        """Return the columns that the inputs of a sensor set are computed from."""

    def prepare(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the modalities `(samples, C)` and the targets `(samples, K)`."""

    def read(self, path: Path) -> Recording:
        """Read the HDF5 file."""

    def inputs(self, samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
        """Return the inputs of a network with this sensor set, from modalities `(..., C)`."""

    def train_and_test(self, row: Row, test_subject: str, run: Run) -> None:
        """Train and test one row with one subject held out."""


class FailedTasksError(RuntimeError):
    """Some trainings failed; the message lists them with their reasons."""


class Run:
    """A run of a script: its data, its settings, and the loop over rows and folds.

    Attributes:
        script: the script.
        args: its flags; `epochs` is None unless a flag or the quick look sets it.
        is_quick: whether the run uses newly generated synthetic data and `QUICK_LOOK`.
        folder: its folder of results.
        device: device to train on.
        recording: the data, with the samples on the device.
        settings: everything that affects the results; a script may add its own settings.
        rows: names of the rows to run, including rows they depend on, in the order of the table.
        test_subjects: ids of the subjects to hold out.
        failures: failed task -> reason.
    """

    def __init__(self, script: Script, args: argparse.Namespace) -> None:
        """Check the flags and read the data; only synthetic data are written.

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
        rows = [row.name for row in script.ROWS]
        self.folder = RunFolder(
            new_run(script_folder(args.output_dir, script), args.run_name), rows
        )
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
        self.failures: dict[Task, str] = {}
        self.problems: list[str] = []  # other than failed trainings
        self.shows_progress = True
        self.jobs = self._count_jobs()

    def _settings(self) -> dict[str, Any]:
        """Return everything that affects the results; different settings are never mixed."""
        args, recording = self.args, self.recording
        faster = [method for method in training.FASTER if method in args.faster]
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

    def __enter__(self) -> Run:
        """Create the folder, or open it if it was created with the same settings.

        Raises:
            InputError: The folder has a run with different settings, cannot be written, is in use.
        """
        self._check_space()
        call = {
            "flags": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in self.flags.items()
            },
            "device_name": self._device_name(),
            "versions": _versions(),
            "git": _git_description(self.script.__file__),
        }
        self.folder.open(self.settings, call)
        print(self._introduction())
        print(f"Run: {self.folder.path}\n", flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.folder.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            path = self.folder.path
            raise KeyboardInterrupt(
                f"finished trainings and saved epochs are in {path}; "
                f"continue with --resume {path.name}"
            )

    # Rows and folds -------------------------------------------------------------------------------

    def each(self, train_and_test: Callable[[Row, str, Run], None]) -> None:
        """Train and test every row on every fold; skip finished ones.

        The work runs in this process, in several processes (`--jobs`) or on a Dask cluster
        (`--scheduler`). A failed training does not stop the others.
        """
        for task, label in self.labels.items():
            if task in self.folder.results:
                print(f"{label}: already done", flush=True)
        for task, finish in self._start(train_and_test):
            failed = [need.row for need in self._needs(task) if need in self.failures]
            try:
                if failed:
                    raise InputError(f"needs {' and '.join(failed)}, which failed")
                finish()
                if not self.folder.load_result(task):
                    raise InputError("its result is missing; all workers must reach --output-dir")
            except Exception as error:
                self.failures[task] = _reason(error)
                print(f"{self.labels[task]}: FAILED: {self.failures[task]}", flush=True)
                if isinstance(error, DivergedError):
                    self._save_diverged(task, error)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    return  # the others could train for hours but not save their results
                traceback.clear_frames(error.__traceback__)  # they keep its tensors in memory
            else:
                self._report_task(task)

    def _start(
        self, train_and_test: Callable[[Row, str, Run], None]
    ) -> Iterator[tuple[Task, Callable[[], None]]]:
        """Yield every unfinished task with a function to call; it raises the error of the task.

        Without workers, the task is run by this function; with workers, it has finished already.
        """
        todo = self._todo()
        if self.jobs == 1 and self.args.scheduler is None:
            self.recording = self.recording.to(self.device)
            for task in todo:
                row = find_row(self.script, task.row)
                yield task, partial(train_and_test, row, task.subject, self)
        elif todo:
            where = self.args.scheduler and f"on the cluster at {self.args.scheduler}"
            print(f"Trainings run in parallel, {where or f'{self.jobs} at a time'}.", flush=True)
            work = partial(_run_task, *self._worker_arguments())
            tasks = {task: self._needs(task) for task in todo}
            yield from parallel.in_workers(work, tasks, self.jobs, self.args.scheduler)

    def _needs(self, task: Task) -> list[Task]:
        return [Task(row, task.subject) for row in find_row(self.script, task.row).needs]

    def _todo(self) -> list[Task]:
        return [task for task in self.labels if task not in self.folder.results]

    def _worker_arguments(self) -> tuple[Path, argparse.Namespace, dict[str, Any]]:
        """Return script, flags and settings for a worker to open this run, with absolute paths."""
        args = argparse.Namespace(**vars(self.args))
        args.sample, args.rows = False, self.rows
        args.data, args.output_dir = self.args.data.resolve(), self.folder.path.resolve().parents[1]
        args.run_name, args.device, args.scheduler = self.folder.path.name, str(self.device), None
        return Path(self.script.__file__).resolve(), args, self.settings

    def _save_diverged(self, task: Task, error: DivergedError) -> None:
        """Save the best epoch before the divergence."""
        description = self._checkpoint_description(find_row(self.script, task.row), task.subject)
        self.folder.save_diverged(task, error.best_weights, description)
        error.best_weights = {}  # not sent along when a worker returns the error

    def progress(self, row: Row, test_subject: str) -> Progress:
        """Return the progress of a row's training, to be resumed if a state was saved."""
        return Progress(
            self.labels[Task(row.name, test_subject)],
            self.folder.state_file(row.name, test_subject),
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
        path = self.folder.checkpoint_file(row, test_subject)
        try:
            network.load_state_dict(load_checkpoint(path).tensors)
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"{path}: damaged, or from a different network; delete it to retrain {row}"
            ) from error

    def used_parameters(self, row: str, test_subject: str) -> int:
        """Return the number of used parameters of a finished row."""
        self.folder.load_result(Task(row, test_subject))
        return int(self.folder.results[Task(row, test_subject)]["metrics"][0]["parameters"])

    def record(
        self,
        row: Row,
        fold: Fold,
        network: nn.Module,
        history: Sequence[Epoch],
        parameters: int | None = None,
        summary: str | None = None,
        prediction: Tensor | None = None,
    ) -> None:
        """Test a network on the held-out subject and write the results of its row.

        Args:
            row: the row.
            fold: its fold.
            network: the trained network.
            history: its epochs; empty for a network that was not trained.
            parameters: number of parameters, by default those that the prediction depends on.
            summary: line to print; by default, it states the best epoch.
            prediction: prediction of the test windows, `(windows, T, K)`; by default, they are
                predicted here.
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
        if prediction is None:
            prediction = training.predict(network, fold.test, self.args.batch_size)
        is_scored, samples = fold.test.is_scored.cpu(), fold.test.samples.cpu()
        samples = samples[is_scored].numpy()
        arrays = {
            "truth": fold.test.targets.cpu()[is_scored].numpy(),
            "prediction": prediction.cpu()[is_scored].numpy(),
            "activity": np.array(self.recording.activities)[self.recording.activity[samples]],
            "stretch": self.recording.stretch[samples],
            "sample": samples,
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
        history = [
            {"row": row.name, "fold": fold.test_subject, **epoch._asdict()} for epoch in history
        ]
        self.folder.save_result(
            Task(row.name, fold.test_subject),
            network.state_dict(),
            self._checkpoint_description(row, fold.test_subject),
            arrays,
            {"history": history, "metrics": scores.to_dict("records"), "summary": summary},
        )

    def _checkpoint_description(self, row: Row, test_subject: str) -> dict[str, Any]:
        """Return the description that makes a checkpoint usable without its run."""
        return {
            **describe_network(self.script, row),
            "normalisation": "by the input BatchNorm of the network, whose statistics are tensors",
            "test_subject": test_subject,
            "settings": self.settings,
            "versions": _versions(),
            "git": _git_description(self.script.__file__),
        }

    # Printed reports ------------------------------------------------------------------------------

    def _introduction(self) -> str:
        """Return the text to print before the first training."""
        script, recording = self.script, self.recording
        count = len(recording.subject)
        lines = [
            f"Data: {recording.path}, {plural(len(recording.subjects), 'subject')}, "
            f"{plural(count, 'sample')}, {count / script.RATE_HZ / 60:.1f} minutes",
            f"Device: {self._device_name()}",
        ]
        if self.device.type == "cpu":
            lines.append("NOTICE: no CUDA device is in use; training on the CPU is slow.")
        if recording.dropped:
            parts = [f"{place} {number:,}" for place, number in recording.dropped.items()]
            total = sum(recording.dropped.values())
            lines.append(f"Dropped {total:,} samples with NaN: {', '.join(parts)}")
        if recording.ignored:
            lines.append(f"NOTICE: {describe_ignored(recording.ignored)}.")
        if self.args.protocol == "strict" and not recording.has_trials:
            lines.append("NOTICE: the file has no `trial_starts`: windows stay within an activity.")
        if recording.is_synthetic:
            lines.append(
                "SYNTHETIC DATA: simulated walking replaces the measured data. The run shows that "
                "everything works; its results are not comparable with those of the paper."
            )
        if self.is_quick:
            paper = _choose_rows(script, None)
            asked = len(set(paper) & set(self.rows))
            others = " (--rows all runs them all)" if asked < len(paper) else ""
            lines.append(
                f"Quick look: {asked} of the paper's {len(paper)} rows{others}, "
                f"at most {plural(self.args.epochs, 'epoch')}, batches of {self.args.batch_size} "
                f"windows; the paper uses {script.EPOCHS} epochs and batches of {BATCH_SIZE}. See "
                "--rows, --epochs and --batch-size."
            )
        if self.added_rows:
            lines.append(f"Rows added because others need them: {', '.join(self.added_rows)}")
        return "\n".join(lines)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            is_here = torch.cuda.is_available()
            return torch.cuda.get_device_name(self.device) if is_here else "CUDA, on the workers"
        threads = torch.get_num_threads()
        each = "1 thread" if threads == 1 else f"{threads} threads"
        return f"CPU, {each} per training, {os.cpu_count()} cores"

    def _report_task(self, task: Task) -> None:
        """Print the result of a task, and the table of a fold once it is complete."""
        try:
            self.folder.write_tables()
            self.problems = []
        except OSError as error:
            self.problems = [f"history.csv and metrics.csv: {_reason(error)}"]
        print(f"{self.labels[task]}: {self.folder.results[task]['summary']}", flush=True)
        if all(Task(row, task.subject) in self.folder.results for row in self.rows):
            print(f"\n{fold_table(self.folder.metrics, self.rows, task.subject)}\n", flush=True)

    def report(self, figures: Callable[[Run, Sequence[str], Sequence[str]], None]) -> pd.DataFrame:
        """Print the table of the rows that are finished on all folds, and draw their figures.

        All finished rows of the run are in its model card.

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
            if all(Task(row, subject) in self.folder.results for subject in self.test_subjects)
        ]
        problems = list(self.problems)
        if rows:
            print(final_table(self.folder.metrics, rows, self.test_subjects), flush=True)
        try:
            if self.folder.results:
                write_text(self.folder.path / "MODEL_CARD.md", model_card(self))
            if rows:
                figures(self, rows, self.test_subjects)
        except OSError as error:
            problems.append(f"model card and figures: {_reason(error)}")
        if self.recording.is_synthetic:
            print("\nSYNTHETIC DATA: these results are not comparable with those of the paper.")
        print(f"\nResults: {self.folder.path}")
        problems += [f"{t.row}, subject {t.subject}: {why}" for t, why in self.failures.items()]
        if problems:
            failed, tasks = len(self.failures), len(self.labels)
            raise FailedTasksError(
                f"{failed} of {tasks} trainings failed, {len(self._todo()) - failed} did not "
                "start; run them with --resume" + "".join(f"\n  {problem}" for problem in problems)
            )
        return self.folder.metrics

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
        """Check that there is enough disk space for the results and the saved training states.

        Raises:
            InputError: There is not enough disk space.
        """
        subject, subjects = self.recording.subject, self.recording.subjects
        samples = dict(zip(subjects, np.bincount(subject, minlength=len(subjects)), strict=True))
        parameters = {row: self._parameters(row) for row in self.rows}
        # A new state is written before the old one is replaced.
        values = 2 * self.jobs * STATE_BYTES // 4 * self._largest_training()
        for task in self._todo():
            outputs = 2 * int(samples[task.subject]) * len(self.script.TARGETS)
            values += parameters[task.row] + outputs
        path = self.folder.path
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if 4 * values > free:
            raise InputError(
                f"{path}: needs up to {4 * values / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are "
                "free; use another --output-dir, fewer --rows or fewer --jobs"
            )


# Workers ------------------------------------------------------------------------------------------

_worker_runs: dict[str, Run] = {}  # the current run of this worker
_one_at_a_time = threading.Lock()  # all trainings of a process share its random state


def _run_task(
    script: Path,
    args: argparse.Namespace,
    settings: dict[str, Any],
    row: str,
    test_subject: str,
    *needed: None,
) -> None:
    """Run one task in a worker; the data are read once and reused for further tasks."""
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
        training.set_up(args.threads, args.faster)  # the number of threads is set per thread
        task = Task(row, test_subject)
        try:
            if not run.folder.load_result(task):
                run.script.train_and_test(find_row(run.script, row), test_subject, run)
        except DivergedError as error:
            run._save_diverged(task, error)
            raise


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
    """Return the names of the rows in the order of the table; those of the paper for None."""
    groups = {"all": [row.name for row in script.ROWS if not row.is_beyond_paper]}
    beyond = [row.name for row in script.ROWS if row.is_beyond_paper]
    if beyond:
        groups["beyond"] = beyond
    rows = [row.name for row in script.ROWS]
    wanted = set().union(*(groups.get(name, [name]) for name in names or ["all"]))
    unknown = [name for name in names or () if name not in (*rows, *groups)]
    if unknown:
        choices = " ".join([*rows, *groups])
        raise InputError(f"--rows: no such row: {' '.join(unknown)}; choose from {choices}")
    return [name for name in rows if name in wanted]


def _with_needed(script: Script, rows: Sequence[str]) -> list[str]:
    """Return `rows` and the rows they depend on, in the order of the table."""
    needed = {need for row in rows for need in find_row(script, row).needs}
    if needed <= set(rows):
        return list(rows)
    return _with_needed(script, [r.name for r in script.ROWS if r.name in needed.union(rows)])


# Data, device and versions ------------------------------------------------------------------------


def script_folder(output_dir: Path, script: Script) -> Path:
    """Return the folder of all runs of a script."""
    return output_dir / Path(script.__file__).stem


def _choose_device(args: argparse.Namespace) -> torch.device:
    """Return the device to train on; with a scheduler, the GPUs may be on other machines."""
    if args.scheduler and args.device.startswith("cuda"):
        return torch.device(args.device)
    return training.choose_device(args.device)


def _find_data(script: Script, args: argparse.Namespace) -> tuple[Path, bool]:
    """Return the data file and whether it is synthetic; synthetic data are always regenerated."""
    if args.data and args.sample:
        raise InputError("use either --data or --sample, not both")
    default = default_data_file(script)
    if args.data or (default.is_file() and not args.sample):
        return args.data or default, False
    if script.DATASET not in MAX_SUBJECTS:
        raise InputError(
            f"{default}: no such file; make it with python -m tools.make_dataset, or pass another "
            "with --data (synthetic data exist for Datasets A and B only)"
        )
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
    """Return a one-line reason for a task's failure; print the traceback of unexpected errors."""
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
