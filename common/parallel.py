"""Run the tasks of a run: in this process, in several processes, or on a Dask cluster."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import dask
import psutil
import torch
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from tqdm import tqdm

from common.files import InputError

PROCESS_BYTES = 1.2e9  # process that trains a small network; measured
RECORDING_COPIES = 5  # the recording, the inputs of a row, and outputs of a teacher
PARAMETER_BYTES = 28  # weights, gradients, Adam's moments, best epoch, workspace; measured


class WorkerDiedError(RuntimeError):
    """The process of a worker died again and again while it did a task."""


class Task(NamedTuple):
    """One row of the table with one subject held out."""

    row: str
    subject: str


def run_tasks(
    work: Callable[..., None],
    tasks: Mapping[Task, Sequence[Task]],
    jobs: int,
    scheduler: str | None,
) -> Iterator[tuple[Task, Exception | None]]:
    """Call `work(row, subject)` for every task; yield each task when it ends, with its error.

    A task begins when the tasks that it needs have ended; it fails if one of them failed.

    Args:
        work: does a task. It must be safe to call again for a task that is done.
        tasks: task -> the tasks that it needs, which come before it.
        jobs: number of processes on this machine; 1 for this process.
        scheduler: address of a Dask scheduler to use instead, or None.

    Raises:
        InputError: There is no scheduler at the address.
    """
    if jobs == 1 and scheduler is None:
        failed: set[Task] = set()
        for task, needed in tasks.items():
            error = _failed_need(needed, failed)
            try:
                if error is None:
                    work(*task)
            except Exception as raised:
                error = raised
                traceback.clear_frames(raised.__traceback__)  # they hold the failed training
            if error is not None:
                failed.add(task)
            yield task, error
        return

    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.worker-saturation": 1.0}))
        client = stack.enter_context(_connect(stack, jobs, scheduler))
        futures = {}
        for task, needed in tasks.items():
            waits_for = [futures[other] for other in needed if other in futures]
            futures[task] = client.submit(work, *task, *waits_for, pure=False)
        of_future = {future: task for task, future in futures.items()}
        done = as_completed(of_future)
        for future in tqdm(done, total=len(tasks), unit="training", disable=None, leave=False):
            task = of_future[future]
            failed = {other for other in tasks[task] if futures[other].status == "error"}
            error = _failed_need(tasks[task], failed) or future.exception()
            if isinstance(error, KilledWorker):
                error = WorkerDiedError(
                    "its worker process died several times, possibly out of memory; "
                    "use fewer --jobs"
                )
            with tqdm.external_write_mode():
                yield task, error


def _failed_need(needed: Sequence[Task], failed: set[Task]) -> InputError | None:
    rows = [task.row for task in needed if task in failed]
    return InputError(f"needs {' and '.join(rows)}, which failed") if rows else None


def _connect(stack: ExitStack, jobs: int, scheduler: str | None) -> Client:
    if scheduler is None:
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        return Client(stack.enter_context(cluster))
    try:
        return Client(scheduler, timeout=30)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers ({error}); see the README"
        ) from error


def worker_device(device: torch.device) -> torch.device:
    """Return the device of this worker: the workers of a `LocalCluster` share the GPUs evenly."""
    count, name = torch.cuda.device_count(), get_worker().name
    if device.type == "cuda" and device.index is None and count > 1 and isinstance(name, int):
        return torch.device("cuda", name % count)
    return device


def count_jobs(
    wanted: int | None,
    threads: int,
    device: torch.device,
    tasks: int,
    parameters: int,
    recording_bytes: int,
) -> int:
    """Return how many trainings to run at the same time.

    Args:
        wanted: `--jobs`, per GPU; None for one on a GPU, and on the CPU as many as have cores
            and fit into the free memory.
        threads: CPU threads of each training.
        device: device to train on.
        tasks: number of tasks.
        parameters: of the largest network that is trained.
        recording_bytes: size of the recording in memory.
    """
    if wanted is not None:
        uses_all_gpus = device.type == "cuda" and device.index is None
        wanted *= torch.cuda.device_count() if uses_all_gpus else 1
        return max(1, min(wanted, tasks))
    if device.type == "cuda" or tasks < 2:
        return 1
    each = PROCESS_BYTES + RECORDING_COPIES * recording_bytes + PARAMETER_BYTES * parameters
    return int(max(1, min(_available_cores() // threads, _free_memory() // each, tasks)))


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> float:
    """Return the free memory in bytes, within the limit of a container."""
    limit = Path("/sys/fs/cgroup/memory.max")
    used = limit.with_name("memory.current")
    free = psutil.virtual_memory().available
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdecimal():
        return min(free, int(text) - int(used.read_text()))
    return free
