"""Run a script's study: every chosen row on every chosen fold, into one run's folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common import about, cluster, faster, flags, folds, jobs, resources, runs, tables
from common.data import Recording
from common.experiments import Study
from common.files import InputError
from common.interruption import InterruptedTrainingError, stopping_on_signals
from common.jobs import Task, Tasks
from common.plan import Plan, make_plan
from common.sample import write_sample
from common.trainer import Trainer

NOT_TAKEN_UP = ("output_dir", "resume", "jobs", "scheduler")  # they decide no number


class FailedTasksError(RuntimeError):
    """Some tasks failed; the others are done. The message names each with its reason."""


def run(study: Study, options: argparse.Namespace) -> pd.DataFrame:
    """Train and test the chosen rows on the chosen folds; return the run's metrics in long form.

    Raises:
        InputError: Flags or data that cannot be used; no result has been written then.
        FailedTasksError: Some tasks failed.
        InterruptedTrainingError: A signal asked to stop; `--resume` goes on.
    """
    if options.resume is not None:
        _take_up(study, options)
    flags.choose_rows(options.rows, study.rows)  # complains before any work
    device = _device(options)
    faster.check(options.faster, device)
    folder = runs.run_folder(options.output_dir, study.script, options.run_name)
    path, is_sample = _data_file(study, options)
    plan = make_plan(study, options, is_sample)
    faster.set_up(options.threads, options.faster)
    recording = study.read(path)
    folds.check(recording, study.window, options.protocol)
    test_subjects = folds.find_subjects(recording, options.test_subjects)
    results = runs.Run(folder, study.rows)
    results.take_all()
    work = _Work(study, plan, results, test_subjects)
    count = _count_jobs(options, work, recording, device)
    _check_space(work, recording, count)
    settings = about.settings(study, options, recording, plan, device)
    with results.working(settings, about.circumstances(study, options, device)):
        print(about.introduction(study, options, recording, plan, device))
        print(f"Run: {folder}\n", flush=True)
        work.begin()
        tasks = Tasks(work.todo, lambda row: study.experiment(row).needs, work.done, work.failed)
        with stopping_on_signals():
            if count == 1 and options.scheduler is None:
                trainer = Trainer(study, options, plan, recording.to(device), device, results)
                jobs.run_here(trainer, tasks)
            elif tasks.todo:
                print(about.side_by_side(options, count), flush=True)
                paths = study.script.resolve(), path.resolve(), folder.resolve()
                digest = settings["data"]["digest"]
                on_workers = argparse.Namespace(**{**vars(options), "device": str(device)})
                request = cluster.Request(*paths, digest, on_workers, plan)
                cluster.run_on_cluster(request, tasks, count)
        return work.finish(plan.is_sample)


def start(main: Callable[[], Any]) -> None:
    """Run a script's `main`; what the user can mend ends with one line and exit status 2."""
    kept = "what is done stays in the run's folder, and --resume goes on from there"
    try:
        main()
    except InputError as error:
        sys.exit(_complain(error, status=2))
    except FailedTasksError as error:
        sys.exit(_complain(error, status=1))
    except InterruptedTrainingError as error:
        sys.exit(_complain(f"interrupted; {kept}", status=128 + error.args[0]))
    except KeyboardInterrupt:
        sys.exit(_complain(f"interrupted; {kept}", status=130))


def _complain(problem: object, status: int) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return status


def _take_up(study: Study, options: argparse.Namespace) -> None:
    """Give `options` the flags of the run to resume, but for those that are given again."""
    name = options.resume or options.run_name or ""
    folder = runs.find_run(options.output_dir, study.script, name)
    before = runs.last_flags(folder)
    for name in set(before) & set(vars(options)) - {*options.given, *NOT_TAKEN_UP}:
        value = before[name]
        setattr(options, name, Path(value) if name == "data" and value else value)
    options.run_name = folder.name


def _device(options: argparse.Namespace) -> torch.device:
    """Return the device to train on; that of a cluster's workers need not be in this machine."""
    if options.scheduler and options.device.startswith("cuda"):
        return torch.device(options.device)
    return flags.choose_device(options.device)


def _count_jobs(
    options: argparse.Namespace, work: _Work, recording: Recording, device: torch.device
) -> int:
    rows = {task.row for task in work.todo}
    largest = resources.largest_training([work.study.experiment(row) for row in rows])
    values = sum(samples.numel() for samples in recording.samples.values())
    values += max((resources.taught_values(work.study, recording, row) for row in rows), default=0)
    return resources.count_jobs(options, largest, len(work.todo), 4 * values, device)


def _check_space(work: _Work, recording: Recording, jobs: int) -> None:
    experiments = [work.study.experiment(task.row) for task in work.todo]
    samples = np.bincount(recording.subject, minlength=len(recording.subjects))
    values = [
        2 * int(samples[recording.subjects.index(task.subject)]) * len(work.study.targets)
        for task in work.todo
    ]
    resources.check_space(work.results.folder, experiments, values, jobs)


@dataclass
class _Work:
    """What a call has to do, what came of it, and what is said of that."""

    study: Study
    plan: Plan
    results: runs.Run
    test_subjects: Sequence[str]
    names: dict[Task, str] = field(init=False)
    todo: dict[Task, str] = field(init=False)
    failures: dict[Task, str] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        tasks = [Task(row, subject) for subject in self.test_subjects for row in self.plan.rows]
        self.names = {
            task: f"[{i}/{len(tasks)}] {task.row}, subject {task.subject}"
            for i, task in enumerate(tasks, start=1)
        }
        self.todo = {task: n for task, n in self.names.items() if not self.results.has(*task)}

    def begin(self) -> None:
        """Say what the run has already."""
        for task, name in self.names.items():
            if task not in self.todo:
                print(f"{name}: taken from the run", flush=True)

    def done(self, task: Task, summary: str) -> None:
        """Take the result of a task, and print its fold's table when that is whole."""
        self.results.take(*task)
        try:
            self.results.write_tables()
        except OSError as error:
            self.unwritten = [f"  history.csv and metrics.csv: cannot write ({error})"]
        print(f"{self.todo[task]}: {summary}", flush=True)
        if all(self.results.has(row, task.subject) for row in self.plan.rows):
            table = tables.fold_table(self.results.metrics, self.plan.rows, task.subject)
            print(f"\n{table}\n", flush=True)

    def failed(self, task: Task, reason: str) -> None:
        """Remember a failed task for the end."""
        self.failures[task] = reason
        print(f"{self.todo[task]}: FAILED: {reason}", flush=True)

    def finish(self, is_sample: bool) -> pd.DataFrame:
        """Draw the figures and print the table of the rows that are there on every fold."""
        rows = [
            row
            for row in self.plan.rows
            if all(self.results.has(row, subject) for subject in self.test_subjects)
        ]
        metrics, problems = self.results.metrics, list(self.unwritten)
        if rows:
            print(tables.final_table(metrics, rows, self.test_subjects), flush=True)
            try:
                self.study.figures(self.study, self.results, rows, self.test_subjects)
            except OSError as error:
                problems.append(f"  figures: cannot write ({error})")
        if is_sample:
            print("\nSYNTHETIC DATA: these figures are not the paper's.")
        print(f"\nResults: {self.results.folder}")
        problems += [f"  {t.row}, subject {t.subject}: {r}" for t, r in self.failures.items()]
        if problems:
            left = sum(not self.results.has(*task) for task in self.todo) - len(self.failures)
            count = f"{len(self.failures)} trainings failed, {left} were not begun"
            raise FailedTasksError("\n".join([f"{count}; --resume does what is left", *problems]))
        return metrics


def _data_file(study: Study, options: argparse.Namespace) -> tuple[Path, bool]:
    """Return the file to read and whether it is the sample, which is made afresh."""
    if options.data and options.sample:
        raise InputError("--data and --sample: give one of them")
    if options.data:
        return options.data, False
    default = flags.default_file(study.dataset)
    if default.is_file() and not options.sample:
        return default, False
    path = default.with_name(f"sample_{default.name}")
    sample = study.sample
    print(f"Making the synthetic sample dataset, {path} ...", flush=True)
    try:
        write_sample(path, study.dataset, sample.subjects, sample.minutes, sample.seed)
    except OSError as error:
        raise InputError(f"{path}: cannot write the sample ({error}); free the place") from error
    return path, True
