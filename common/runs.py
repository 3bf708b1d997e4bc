"""A run of a script: its data, its results, and the loop over rows and folds."""

from __future__ import annotations

import argparse
import bdb
import errno
import hashlib
import inspect
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import cli, parallel, plots, stances, training
from common.data import Recording, SensorSet, Target, describe_ignored
from common.files import (
    FailedTasksError,
    InputError,
    load_checkpoint,
    name_problem,
    plural,
    save_checkpoint,
    shorten,
    write_atomically,
    write_figure,
)
from common.folder import RunFolder, Task, new_run
from common.metrics import final_table, fold_table, long_form, overall
from common.training import DivergedError, Epoch, Progress
from common.windows import Fold, check_windows, choose_subjects, sensor_statistics

STATE_BYTES = 16  # per parameter of a saved state: weights, Adam's moments, best epoch
NAME_BYTES = 150  # of file names without row or subject, to leave room for the other one
CUDA_BYTES = 5e8  # of a process on a GPU, before it has any data


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of the row.
        sensor_set: name of the sensor set that the network reads.
        network: `partial` that builds the network; checkpoints store its class and arguments.
        needs: rows that must be finished before this one on the same fold.
    """

    name: str
    sensor_set: str
    network: partial[nn.Module]
    needs: tuple[str, ...] = ()


TrainAndTest = Callable[[Row, str, "Run"], None]


class Run:
    """A run of a script: its data, its settings, and the loop over rows and folds.

    Args:
        file: path of the script, `__file__`.
        args: its flags, from `cli.parse`.
        read: reads the data file.
        rows: the rows of the table.
        sensor_sets: sensor sets by name.
        targets: the targets that the networks estimate.
        window: samples per window, T.
        rate_hz: sampling rate.

    Attributes:
        device: device to train on.
        recording: the data; their samples are on the device while rows are trained.
        settings: everything that affects the results.
        test_subjects: ids of the subjects to hold out.
        folder: the folder of results.
        failures: failed task -> reason.

    Raises:
        InputError: A flag or the data cannot be used; nothing has been written.
    """

    def __init__(
        self,
        file: str,
        args: argparse.Namespace,
        read: Callable[[Path], Recording],
        *,
        rows: Sequence[Row],
        sensor_sets: Mapping[str, SensorSet],
        targets: Sequence[Target],
        window: int,
        rate_hz: float,
    ) -> None:
        self.file, self.args, self.read = Path(file), args, read
        self.flags = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        self.rows = {row.name: row for row in rows}
        self.sensor_sets, self.targets = sensor_sets, targets
        self.window, self.rate_hz = window, rate_hz
        # With a scheduler, the GPUs may be on other machines
        is_remote = args.scheduler is not None and args.device.startswith("cuda")
        self.device = training.choose_device(args.device, is_remote)
        cores = os.cpu_count() or 1
        if args.threads > cores and not args.scheduler:
            raise InputError(f"--threads {args.threads}: this machine has {cores} cores; use fewer")
        torch.set_num_threads(args.threads)
        path = new_run(args.output_dir / self.file.stem, args.run_name)
        self.folder = RunFolder(path, [*self.rows])
        self.recording = read(args.data)
        check_windows(self.recording, window, args.protocol)
        self.test_subjects = choose_subjects(self.recording, args.test_subjects)
        self.settings = self._settings()
        self.chosen_rows = self._with_needed(args.rows)
        self.tasks = [Task(row, s) for s in self.test_subjects for row in self.chosen_rows]
        for name in {name for task in self.tasks for name in task}:
            if problem := name_problem(name, NAME_BYTES):
                place = f"{shorten(repr(name), 60)}: a part of file names"
                raise InputError(f"{place}, but {problem}; rename the row or subject")
        self.failures: dict[Task, str] = {}
        self.retrained: set[Task] = set()  # finished, but their deleted weights are needed
        self.current: Progress | None = None
        self.is_hopeless = self.is_worker = False
        self.is_logged = not sys.stdout.isatty()

    def _settings(self) -> dict[str, Any]:
        """Return everything that affects the results: the data, and all flags but a few."""
        recording = self.recording
        flags = {k: v for k, v in self.flags.items() if k not in cli.NOT_SETTINGS}
        flags["device"] = self.device.type
        if self.device.type == "cuda":
            del flags["threads"]
        return {
            "script": self.file.stem,
            "data": {
                "file": recording.path.name,
                "bytes": recording.path.stat().st_size,
                "subjects": recording.subjects,
                "digest": recording.digest(),
                **({"synthetic": True} if recording.is_synthetic else {}),
            },
            **flags,
        }

    def _with_needed(self, names: Sequence[str]) -> list[str]:
        """Return the rows of these names and those they depend on, in the order of the table."""
        needed = {need for name in names for need in self.rows[name].needs}
        if needed <= set(names):
            return list(names)
        return self._with_needed([name for name in self.rows if name in needed.union(names)])

    def __enter__(self) -> Run:
        """Create the folder, or open it if it was created with the same settings.

        Raises:
            InputError: The folder has a run with different settings or targets, cannot be written,
                is in use; disk or GPU memory is too small.
        """
        self.folder.load_results()
        self._check_targets()
        self._check_space()
        self._check_gpu_memory()
        call = {
            "flags": self.flags,
            "device_name": self._device_name(),
            "versions": _versions(),
            "git": _git_description(str(self.file.parent)),
            "script_digest": hashlib.sha256(self.file.read_bytes()).hexdigest(),
        }
        earlier = self.folder.open(self.settings, call)
        print(self._introduction())
        if any(c.get("script_digest", "") not in ("", call["script_digest"]) for c in earlier):
            changed = f"{self.file.name} has changed since this run was started"
            print(f"NOTICE: {changed}; its rows may come from different versions of the script.")
        print(f"Run: {self.folder.path}\n", flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.folder.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            path = self.folder.path
            raise KeyboardInterrupt(
                f"finished rows and saved epochs are in {path}; continue with --resume {path.name}"
            )

    # Rows and folds -------------------------------------------------------------------------------

    def each(self, train_and_test: TrainAndTest) -> None:
        """Train and test every row on every fold in this process; skip finished ones.

        On request, the rows are trained in several processes (`--jobs`) or on a Dask cluster
        (`--scheduler`). A row that fails does not stop the others.
        """
        todo = self._todo()
        self.retrained = {task for task in todo if task in self.folder.results}
        for task in self.tasks:
            if task not in todo:
                print(f"{task}: already done", flush=True)
        if self.args.no_checkpoints:
            self._delete_checkpoints()
        if todo and (self.args.scheduler is not None or min(self.args.jobs, len(todo)) > 1):
            self._each_in_workers(train_and_test, todo)
            return
        self._suggest_jobs(len(todo))
        self.recording = self.recording.to(self.device)
        for task in todo:
            with self._outcome(task), self._logging(task, partial(print, flush=True)):
                self._check_needed(task)
                train_and_test(self.rows[task.row], task.subject, self)
            if self.is_hopeless:
                return

    def _each_in_workers(self, train_and_test: TrainAndTest, todo: list[Task]) -> None:
        jobs = min(self.args.jobs, len(todo))
        where = self.args.scheduler and f"on the cluster at {self.args.scheduler}"
        print(f"Rows are trained in parallel, {where or f'{jobs} at a time'}.", flush=True)
        if not where:
            self._suggest_jobs(len(todo), jobs)
        work = partial(_run_task, self, train_and_test)
        tasks = {task: self._needs(task) for task in todo}
        for task, error in parallel.in_workers(work, tasks, jobs, self.args.scheduler):
            with self._outcome(task):
                self._check_needed(task)
                if error is not None:
                    raise error
            if self.is_hopeless:
                return

    def _todo(self) -> list[Task]:
        """Return the unfinished tasks, and finished ones whose deleted weights they need."""
        todo = {task for task in self.tasks if task not in self.folder.results}
        for task in reversed(self.tasks):  # a row comes after the rows that it needs
            if task in todo:
                needs = self._needs(task)
                todo |= {n for n in needs if not self.folder.file("checkpoints", n).exists()}
        return [task for task in self.tasks if task in todo]

    def _needs(self, task: Task) -> list[Task]:
        return [Task(row, task.subject) for row in self.rows[task.row].needs]

    def _check_needed(self, task: Task) -> None:
        failed = [need.row for need in self._needs(task) if need in self.failures]
        if failed:
            raise InputError(f"needs {' and '.join(failed)}, which failed")

    @contextmanager
    def _outcome(self, task: Task) -> Iterator[None]:
        """Report the result of a task, or record why it failed."""
        try:
            yield
            if not self.folder.load_result(task):
                raise InputError("no result file; all workers must share --output-dir")
        except bdb.BdbQuit as error:  # `q` in the debugger ends the run, not only this row
            raise KeyboardInterrupt from error
        except Exception as error:
            self.failures[task] = _reason(error)
            print(f"{task}: FAILED: {self.failures[task]}", flush=True)
            if isinstance(error, DivergedError):
                with suppress(OSError):
                    self._save_diverged(task, error)
            self.is_hopeless = _is_hopeless(error)
            traceback.clear_frames(error.__traceback__)  # they keep its tensors in memory
        else:
            self._report_task(task)

    def _logging(self, task: Task, show: Callable[[str], None]) -> AbstractContextManager[None]:
        """Return a context that shows progress in lines, unless the output is a terminal."""
        self.current = None

        def line() -> str:
            return self.current.line() if self.current else f"{task}: preparing"

        return training.log_lines(line, show) if self.is_logged else nullcontext()

    def _finished(self) -> str:
        """Return how many of the tasks of this call are finished."""
        count = sum(task in self.folder.results for task in self.tasks)
        return f"{count} of {len(self.tasks)} finished"

    def _report_task(self, task: Task) -> None:
        """Print the result of a task, and the table of a fold once it is complete."""
        with suppress(OSError):  # the report tries again, and fails if it cannot
            self.folder.write_tables()
        summary = self.folder.results[task]["summary"]
        print(f"{task}: {summary}; {self._finished()}", flush=True)
        if self.args.no_checkpoints:
            self._delete_checkpoints()
        if all(Task(row, task.subject) in self.folder.results for row in self.chosen_rows):
            table = fold_table(self.folder.metrics, self.chosen_rows, task.subject)
            print(f"\n{table}\n", flush=True)

    def _delete_checkpoints(self) -> None:
        """Delete the weights of finished tasks that no unfinished task needs."""
        done = self.folder.results
        needed = {need for task in self.tasks if task not in done for need in self._needs(task)}
        for task in self.tasks:
            if task in done and task not in needed:
                with suppress(OSError):  # a full disk must not end the run here
                    self.folder.delete_checkpoint(task)

    def _save_diverged(self, task: Task, error: DivergedError) -> None:
        """Save the best epoch before the divergence; delete the state of the row."""
        if error.best_weights:
            path = self.folder.file("checkpoints", task)
            path = path.with_suffix(f".diverged{path.suffix}")
            description = self._checkpoint_description(self.rows[task.row], task.subject)
            save_checkpoint(path, error.best_weights, description)
        self.folder.file("unfinished", task).unlink(missing_ok=True)
        error.best_weights = {}  # not sent along when a worker returns the error

    # Called by the scripts ------------------------------------------------------------------------

    def progress(self, row: Row, test_subject: str) -> Progress:
        """Return the progress of a row's training, to be resumed if a state was saved."""
        task = Task(row.name, test_subject)
        self.current = Progress(
            str(task) if self.is_worker else f"{task} ({self._finished()})",
            self.folder.file("unfinished", task),
            self.args.save_every,
            has_bar=not self.is_worker,
        )
        return self.current

    def load_network(self, row: str, test_subject: str) -> nn.Module:
        """Return the trained network of a row, frozen, in eval mode and on the device."""
        network = self.rows[row].network()
        self.load_weights(row, test_subject, network)
        return network.to(self.device).eval().requires_grad_(False)

    def load_weights(self, row: str, test_subject: str, network: nn.Module) -> None:
        """Load the trained weights of a row into a network.

        Raises:
            InputError: The checkpoint is damaged or belongs to another network.
        """
        task = Task(row, test_subject)
        path = self.folder.file("checkpoints", task)
        try:
            if not self.folder.load_result(task):
                raise InputError(self.folder.problems[task])
            network.load_state_dict(load_checkpoint(path).tensors)
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"{path}: damaged, or from a different network; delete it to retrain {row}"
            ) from error

    def used_parameters(self, row: str, test_subject: str) -> int:
        """Return the number of used parameters of a finished row."""
        task = Task(row, test_subject)
        self.folder.load_result(task)
        return int(self.folder.results[task]["metrics"][0]["parameters"])

    def record(
        self,
        row: Row,
        fold: Fold,
        network: nn.Module,
        history: Sequence[Epoch],
        parameters: int | None = None,
        summary: str | None = None,
        prediction: Tensor | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Test a network on the held-out subject and write the results of its row.

        Args:
            row: the row.
            fold: its fold.
            network: the trained network.
            history: its epochs; empty for a network that was not trained.
            parameters: number of parameters, by default those that the output depends on.
            summary: line to print; by default, it states the best epoch.
            prediction: estimates for the test windows, `(windows, T, K)`; by default, the output
                of the network.
            about: further entries for the description in the checkpoint.
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
        if not prediction.isfinite().all():
            message = "the estimates for the test subject are not finite"
            raise DivergedError(message, network.state_dict())
        is_scored, sensor_set = fold.test.is_scored.cpu(), self.sensor_sets[row.sensor_set]
        samples = fold.test.samples.cpu()[is_scored].numpy()
        arrays = {
            "truth": fold.test.targets.cpu()[is_scored].numpy(),
            "prediction": prediction.cpu()[is_scored].numpy(),
            "activity": np.array(self.recording.activities)[self.recording.activity[samples]],
            "stretch": self.recording.stretch[samples],
            "sample": samples,
            "target": np.array([target.name for target in self.targets]),
            "unit": np.array([target.unit for target in self.targets]),
            "rate_hz": np.array(self.rate_hz),
        }
        shared = {
            "row": row.name,
            "sensor_set": row.sensor_set,
            "modalities": "+".join(sensor_set.modalities),
            "parameters": parameters,
            "test_subject": fold.test_subject,
        }
        truth, prediction = arrays["truth"], arrays["prediction"]
        found = stances.find_in(arrays, self.targets, self.rate_hz)
        is_stance = stances.in_stance(found, len(samples))
        scores = long_form(truth, prediction, arrays["activity"], self.targets, shared, is_stance)
        place = {"row": row.name, "fold": fold.test_subject}
        epochs = [{**place, **epoch._asdict()} for epoch in history]
        self.folder.save_result(
            Task(row.name, fold.test_subject),
            network.state_dict(),
            {
                **self._checkpoint_description(row, fold.test_subject),
                "sensor_statistics": sensor_statistics(fold.train, sensor_set.sensors),
                **(about or {}),
            },
            arrays,
            {"history": epochs, "metrics": scores.to_dict("records"), "summary": summary},
        )

    def report(self) -> pd.DataFrame:
        """Print the table of the rows that are finished on all folds, and draw their figures.

        Returns:
            The metrics in long form.

        Raises:
            FailedTasksError: Some rows could not be trained.
        """
        metrics, subjects = self.folder.metrics, self.test_subjects
        rows = [
            row
            for row in self.chosen_rows
            if all(Task(row, subject) in self.folder.results for subject in subjects)
        ]
        problems = [f"{task}: {why}" for task, why in self.failures.items()]
        try:
            if self.folder.results:
                self.folder.write_tables()
                if rows:
                    print(final_table(metrics, rows, subjects), flush=True)
                self._write_stances(metrics)
                if rows:
                    self._draw(metrics, rows)
        except (OSError, InputError) as error:
            problems.append(f"tables and figures: {_reason(error)}")
        if self.recording.is_synthetic:
            print("\nSYNTHETIC DATA: these results are not comparable with those of the paper.")
        print(f"\nResults: {self.folder.path}")
        if problems:
            failed = len(self.failures)
            finished = {*self.folder.results, *self.failures}
            waiting = sum(task not in finished for task in self.tasks)
            raise FailedTasksError(
                f"{failed} of {len(self.tasks)} tasks failed, {waiting} were not started; try them "
                "again with --resume" + "".join(f"\n  {problem}" for problem in problems)
            )
        return metrics

    def _draw(self, metrics: pd.DataFrame, rows: Sequence[str]) -> None:
        """Write the learning curves of the whole run, and figures of the rows of this call."""
        subjects, figures, history = self.test_subjects, {}, self.folder.history
        is_synthetic = self.recording.is_synthetic
        mark = ", SYNTHETIC DATA" if is_synthetic else ""
        truth = "simulated" if is_synthetic else "measured"
        tested = f"test subject {subjects[0]}"
        if len(subjects) > 1:
            tested = plural(len(subjects), "test subject")
        with plots.figure_style():
            if len(history):  # some networks are not trained and have no epochs
                order = {row: i for i, row in enumerate(self.rows)}
                history = history.sort_values("row", key=lambda row: row.map(order), kind="stable")
                title = f"Learning curves{mark}"
                figures["learning_curves"] = plots.learning_curves(history, title)
            shown = overall(metrics[metrics["test_subject"].isin(subjects)])
            title = f"NRMSE per target, {'mean over ' if subjects[1:] else ''}{tested}{mark}"
            figures["nrmse"] = plots.nrmse_heat_map(shown, rows, title)
            figures["estimates"] = plots.estimates_over_time(
                {row: self.folder.load_predictions(Task(row, subjects[0])) for row in rows},
                self.targets,
                self.rate_hz,
                self.window / self.rate_hz,
                truth,
                f"{truth.capitalize()} and estimated, test subject {subjects[0]}{mark}",
            )
            curves: dict[str, stances.MeanCurves] = {}
            for row in rows:
                files = (self.folder.load_predictions(Task(row, s)) for s in subjects)
                curves[row] = stances.mean_curves(files, self.targets, self.rate_hz)
            first = curves[rows[0]]
            if first.count:
                figures["stance_curves"] = plots.stance_curves(
                    {truth: first.truth},
                    {row: found.estimates for row, found in curves.items() if found.count},
                    self.targets,
                    f"{plural(first.count, 'stance')}, {tested}{mark}",
                )
            for name, figure in figures.items():
                file = f"{name}.{self.args.figure_format}"
                write_figure(self.folder.path / "figures" / file, figure)

    def _write_stances(self, metrics: pd.DataFrame) -> None:
        """Write `stances.csv` with the stances of all finished rows, and print their number."""
        if stances.vertical_force(self.targets) is None:
            print(f"\n{stances.NO_VERTICAL_FORCE}", flush=True)
            return
        counts: dict[str, int] = {}
        with write_atomically(self.folder.path / "stances.csv") as part:
            tasks = metrics[["row", "test_subject"]].drop_duplicates()
            for i, task in enumerate(map(Task._make, tasks.to_numpy())):
                arrays = self.folder.load_predictions(task)
                found = stances.find_in(arrays, self.targets, self.rate_hz)
                table = stances.stance_table(arrays, found, self.targets, self.rate_hz)
                table.insert(0, "row", task.row)
                table.insert(1, "test_subject", task.subject)
                style = {"index": False, "float_format": "%.6g", "encoding": "utf-8"}
                table.to_csv(part, mode="a", header=i == 0, **style)
                counts[task.subject] = max(len(found), counts.get(task.subject, 0))
        without = [subject for subject, count in counts.items() if not count]
        note = f"; none of subject {', '.join(without)}" if without else ""
        total, tested = sum(counts.values()), plural(len(counts), "test subject")
        print(f"\n{plural(total, 'complete stance')} of {tested} in stances.csv{note}", flush=True)

    # Descriptions ---------------------------------------------------------------------------------

    def _checkpoint_description(self, row: Row, test_subject: str) -> dict[str, Any]:
        """Return the description that makes a checkpoint usable without its run."""
        return {
            "script": self.file.stem,
            **describe_network(
                row, self.sensor_sets[row.sensor_set], self.targets, self.window, self.rate_hz
            ),
            "normalization": "by the input BatchNorm of the network, whose statistics are tensors",
            "test_subject": test_subject,
            "settings": self.settings,
            "versions": _versions(),
            "git": _git_description(str(self.file.parent)),
        }

    def _introduction(self) -> str:
        """Return the text to print before the first row is trained."""
        recording, added = self.recording, set(self.chosen_rows) - set(self.args.rows)
        count = len(recording.subject)
        lines = [
            f"Data: {recording.path}, {plural(len(recording.subjects), 'subject')}, "
            f"{plural(count, 'sample')}, {count / self.rate_hz / 60:.1f} minutes",
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
        if added:
            rows = [row for row in self.chosen_rows if row in added]
            lines.append(f"Rows added because others depend on them: {', '.join(rows)}")
        return "\n".join(lines)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            is_here = (self.device.index or 0) < torch.cuda.device_count()
            return torch.cuda.get_device_name(self.device) if is_here else "CUDA, on the workers"
        threads = plural(torch.get_num_threads(), "thread")
        return f"CPU, {threads} per row, {os.cpu_count()} cores"

    def _suggest_jobs(self, tasks: int, jobs: int = 1) -> None:
        """Print a hint if this machine could train more rows at the same time.

        Args:
            tasks: number of tasks to train.
            jobs: how many are trained at the same time.
        """
        if self.device.type == "cuda":
            count, used = torch.cuda.device_count(), len(self._gpus(jobs))
            more = min(count, tasks)
            hint = f"; --device cuda --jobs {more} trains a row on each of {more}"
            if used < count:
                idle = f"{count - used} of {count} GPUs stay idle"
                print(f"NOTICE: {idle}{hint if more > used else ''}.\n", flush=True)
            return
        is_linux = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
        more = min(cores // self.args.threads, tasks)
        if jobs == 1 and more > 1:
            print(f"Hint: --jobs {more} uses more cores, if there is enough memory.\n", flush=True)

    def _gpus(self, jobs: int) -> list[torch.device]:
        """Return the GPUs that train rows, at most one per job."""
        if self.device.index is not None or jobs == 1:
            return [self.device]
        return [torch.device("cuda", i) for i in range(min(jobs, torch.cuda.device_count()))]

    def _sizes(self, rows: Collection[str]) -> dict[str, int]:
        """Return the number of weights of rows."""
        with torch.device("meta"):
            return {
                row: sum(p.numel() for p in self.rows[row].network().parameters()) for row in rows
            }

    def _check_targets(self) -> None:
        """Check that the finished rows have the targets of the script, by name."""
        names = [target.name for target in self.targets]
        for task, result in self.folder.results.items():
            found = list(dict.fromkeys(line["target"] for line in result["metrics"]))
            if found != names:
                others = f"{task} has other targets ({', '.join(found)}) than {self.file.name} now"
                raise InputError(f"{self.folder.path}: {others}; use another --run-name")

    def _check_space(self) -> None:
        """Check that there is enough disk space for the results and the saved states."""
        todo = self._todo()
        sizes = self._sizes({task.row for task in todo})
        # Two states per process, because a new one is written before the old one is deleted
        states = 2 * min(self.args.jobs, max(len(todo), 1)) * max(sizes.values(), default=0)
        kept = todo[: len(self.chosen_rows)] if self.args.no_checkpoints else todo
        weights = sum(sizes[task.row] for task in kept)
        tested = [self.recording.subjects.index(subject) for subject in self.test_subjects]
        samples = int(np.isin(self.recording.subject, tested).sum())
        estimates = 2 * samples * len(self.targets) * len(self.chosen_rows)
        needed = STATE_BYTES * states + 4 * (weights + estimates)
        path = self.folder.path
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise InputError(
                f"{path}: needs up to {needed / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are "
                "free; use another --output-dir, --no-checkpoints, fewer --rows or fewer --jobs"
            )

    def _check_gpu_memory(self) -> None:
        """Check that the GPUs have room for the data, the weights and Adam's moments of all jobs.

        This is a lower limit: the memory for a batch is not known before training.
        """
        todo = self._todo()
        if self.device.type != "cuda" or self.args.scheduler or not todo:
            return
        jobs = min(self.args.jobs, len(todo))
        gpus = self._gpus(jobs)
        per_gpu = math.ceil(jobs / len(gpus))
        free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
        data = sum(values.nbytes for values in self.recording.samples.values())
        weights = STATE_BYTES * max(self._sizes({task.row for task in todo}).values())
        needed = per_gpu * (CUDA_BYTES + data + weights)
        if needed > free:
            what = f"--jobs {jobs}: {per_gpu} jobs on a GPU need" if jobs > 1 else "a row needs"
            raise InputError(
                f"{what} at least {needed / 1e9:.1f} GB of its memory, but {free / 1e9:.1f} GB are "
                f"free; use {'fewer --jobs' if per_gpu > 1 else 'another --device'}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs; it reads the data itself."""
        args = argparse.Namespace(**{**vars(self.args), "data": self.args.data.resolve()})
        folder = RunFolder(self.folder.path.resolve(), self.folder.rows)
        folder.settings = self.folder.settings
        changed = {"args": args, "folder": folder, "recording": None, "is_worker": True}
        return {**vars(self), **changed}


# Workers ------------------------------------------------------------------------------------------

_recordings: dict[str, Recording] = {}  # of this worker: the data of its run, on its device
_one_at_a_time = threading.Lock()  # the tasks of a process share its random state


def _run_task(run: Run, train_and_test: TrainAndTest, row: str, subject: str, *_: None) -> None:
    """Run one task in a worker; the data are read once and reused for further tasks."""
    task = Task(row, subject)
    with _one_at_a_time, run._logging(task, parallel.print_on_client()):
        torch.set_num_threads(run.args.threads)
        run.device = parallel.worker_device(training.choose_device(str(run.device)))
        key = f"{run.args.data} {run.settings['data']} {run.device}"
        if key not in _recordings:
            _recordings.clear()
            recording = run.read(run.args.data)
            if recording.digest() != run.settings["data"]["digest"]:
                raise InputError(f"{run.args.data}: changed since the run began; start a new run")
            _recordings[key] = recording.to(run.device)
        run.recording = _recordings[key]
        try:
            if task in run.retrained or not run.folder.load_result(task):
                train_and_test(run.rows[row], subject, run)
        except DivergedError as error:
            run._save_diverged(task, error)
            raise


# Functions of values ------------------------------------------------------------------------------


def describe_network(
    row: Row, sensor_set: SensorSet, targets: Sequence[Target], window: int, rate_hz: float
) -> dict[str, Any]:
    """Return the class and the arguments of a row's network, its inputs and its targets."""
    network = row.network
    arguments = inspect.signature(network.func).bind(*network.args, **network.keywords)
    arguments.apply_defaults()
    return {
        "row": row.name,
        "model": network.func.__name__,
        "arguments": arguments.arguments,
        "sensor_set": row.sensor_set,
        "sensors": sensor_set.sensors,
        "modalities": sensor_set.modalities,
        "targets": [target._asdict() for target in targets],
        "window": window,
        "rate_hz": rate_hz,
    }


def _reason(error: Exception) -> str:
    """Return a one-line reason for a failure; print the traceback of unexpected errors."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, DivergedError | InputError | parallel.WorkerDiedError):
        return text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return f"out of memory ({text}); use fewer --jobs or a smaller --batch-size"
    if isinstance(error, OSError):
        return f"cannot write ({text})"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {text}"


def _is_hopeless(error: Exception) -> bool:
    """Return whether the other rows would fail, too: a full disk, or a GPU after an error."""
    is_disk_full = getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
    is_memory = isinstance(error, torch.OutOfMemoryError)
    return is_disk_full or (str(error).startswith("CUDA error") and not is_memory)


def _versions() -> dict[str, str]:
    modules = {module.__name__: module.__version__ for module in (torch, np, h5py)}
    return {"python": platform.python_version(), **modules}


@lru_cache
def _git_description(folder: str) -> str | None:
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
