"""Work through the tasks of a run side by side, on a Dask cluster or local processes."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait
from distributed.diagnostics.plugin import WorkerPlugin
from tqdm import tqdm

from common import about, faster, flags, runs
from common.files import InputError
from common.interruption import (
    InterruptedTrainingError,
    allow_to_go_on,
    ask_to_stop,
    stop_requested,
)
from common.jobs import Task, Tasks, is_disk_full, reason
from common.plan import Plan
from common.trainer import Trainer

STOP_SECONDS = 300  # for the workers to keep what they are at


class Request(NamedTuple):
    """What a worker has to know to do tasks of a run; every path is absolute."""

    script: Path
    data: Path
    folder: Path
    digest: str
    options: argparse.Namespace
    plan: Plan


def run_on_cluster(request: Request, tasks: Tasks, jobs: int) -> None:
    """Do the tasks on the cluster at `--scheduler`, or on one of `jobs` local processes.

    Raises:
        InterruptedTrainingError: A signal asked to stop; trainings under way have kept their state.
        InputError: There is no cluster at the address.
    """
    address = request.options.scheduler
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
        if not address:
            local = LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            cluster = stack.enter_context(local)
        try:
            client = stack.enter_context(Client(address or cluster, timeout=30))
        except (OSError, ValueError) as error:
            raise InputError(
                f"--scheduler {address}: no cluster answers ({error}); see the README"
            ) from error
        client.run(allow_to_go_on)  # after an earlier run whose client was killed
        client.register_plugin(StopWithWorker(is_local=not address), name="stop-with-worker")
        _Dispatcher(client, request, tasks).run()


class _Dispatcher:
    """Gives each worker one task at a time, so that one that dies takes no other task with it."""

    def __init__(self, client: Client, request: Request, tasks: Tasks) -> None:
        self.client, self.request, self.tasks = client, request, tasks
        self.waiting = list(tasks.todo)
        self.running: dict[Future, Task] = {}
        self.failures: set[Task] = set()
        self.deaths: Counter[Task] = Counter()

    def run(self) -> None:
        """Work until nothing is left; when asked to stop, have the workers keep what they do."""
        with tqdm(total=len(self.waiting), unit="training", disable=None, leave=False) as bar:
            while self.waiting or self.running:
                if stop_requested.is_set():
                    self._stop()
                self._submit()
                for future in self._ended(seconds=0.5):
                    with tqdm.external_write_mode():
                        is_disk_full = self._report(future, self.running.pop(future))
                    if is_disk_full:
                        return
                bar.update(len(self.tasks.todo) - len(self.waiting) - len(self.running) - bar.n)

    def _submit(self) -> None:
        """Give the workers that are free the next tasks that need nothing under way."""
        free = len(self.client.scheduler_info(n_workers=-1)["workers"]) - len(self.running)
        for task in list(self.waiting):
            needs = {Task(row, task.subject) for row in self.tasks.needs(task.row)}
            if missing := self.tasks.missing(task, self.failures):
                self.waiting.remove(task)
                self._fail(task, missing)
            elif free > 0 and not needs & {*self.waiting, *self.running.values()}:
                self.waiting.remove(task)
                name = self.tasks.todo[task]
                future = self.client.submit(work, self.request, task, name, pure=False)
                self.running[future] = task
                free -= 1

    def _ended(self, seconds: float) -> list[Future]:
        """Return what has ended, after waiting for something to end."""
        if not self.running:
            time.sleep(seconds)
            return []
        try:
            ended = wait(list(self.running), timeout=seconds, return_when="FIRST_COMPLETED")
            return list(ended.done)
        except asyncio.TimeoutError:  # Python 3.10 has a name of its own for it
            return []

    def _report(self, future: Future, task: Task) -> bool:
        """Report a task that has ended; return whether the disk is full."""
        error = future.exception()
        if error is None:
            self.tasks.done(task, future.result())
        elif isinstance(error, InterruptedTrainingError):  # its worker was told to end
            self.waiting.insert(0, task)
        elif isinstance(error, KilledWorker):
            self.deaths[task] += 1
            if self.deaths[task] == 1:
                self.waiting.insert(0, task)
            else:
                note = "its process died twice, perhaps for want of memory; use fewer --jobs"
                self._fail(task, note)
        else:
            self._fail(task, reason(error))
        return error is not None and is_disk_full(error)

    def _fail(self, task: Task, note: str) -> None:
        self.failures.add(task)
        self.tasks.failed(task, note)

    def _stop(self) -> None:
        """Have the workers keep the state of their trainings."""
        self.client.run(ask_to_stop)
        end = time.monotonic() + STOP_SECONDS
        while self.running and time.monotonic() < end:
            for future in self._ended(seconds=0.5):
                del self.running[future]
        self.client.run(allow_to_go_on)
        raise InterruptedTrainingError


class StopWithWorker(WorkerPlugin):
    """Has a training keep its state when its worker is told to end, as by a job scheduler.

    Args:
        is_local: Whether Ctrl-C in a terminal reaches the worker, too: its client will tell it.
    """

    def __init__(self, is_local: bool) -> None:
        self.is_local = is_local

    def setup(self, worker: object) -> None:
        """Leave Ctrl-C to the client."""
        if self.is_local:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: object) -> None:
        """Ask the training to stop."""
        ask_to_stop()


_trainers: dict[str, Trainer] = {}  # of the run that this process works for
_one_at_a_time = threading.Lock()  # trainings of a process share its random numbers


def work(request: Request, task: Task, name: str) -> str:
    """Do a task in a worker, unless it is done; what a run reads is read once and kept.

    Dask asks for a task again when the worker that held its answer is gone.
    """
    with _one_at_a_time:
        if stop_requested.is_set():
            raise InterruptedTrainingError
        if repr(request) not in _trainers:
            _trainers.clear()
            _trainers[repr(request)] = _trainer(request)
        trainer = _trainers[repr(request)]
        if trainer.results.take(*task):
            return trainer.results.taken[task]["summary"]
        return trainer.run(task.row, task.subject, name)


def _trainer(request: Request) -> Trainer:
    sys.path.insert(0, str(request.script.parent))
    study = importlib.import_module(request.script.stem).STUDY
    faster.set_up(request.options.threads, request.options.faster)
    device = spread(flags.choose_device(request.options.device), get_worker().name)
    recording = study.read(request.data)
    if about.digest(recording) != request.digest:
        raise InputError(f"{request.data}: changed since the run began; begin a new one")
    results = runs.Run(request.folder, study.rows)
    return Trainer(
        study,
        request.options,
        request.plan,
        recording.to(device),
        device,
        results,
        show_progress=False,
    )


def spread(device: torch.device, worker: object) -> torch.device:
    """Return the GPU of a local worker, which is named by its number: they take turns."""
    count = torch.cuda.device_count()
    if device.type == "cuda" and device.index is None and count > 1 and isinstance(worker, int):
        return torch.device("cuda", worker % count)
    return device
