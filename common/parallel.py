"""Run the tasks of a run in several processes of this machine or on a Dask cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import dask
import psutil
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.scheduler import NoWorkerError
from tqdm import tqdm

from common.files import InputError
from common.folder import Task

DASK = {
    "distributed.scheduler.worker-saturation": 1.0,  # tasks wait on the scheduler, not on workers
    "distributed.deploy.lost-worker-timeout": "1d",  # do not give up workers that restart slowly
    "distributed.scheduler.no-workers-timeout": "10 minutes",  # do not wait forever if none does
}
PROCESS_BYTES = 1.2e9  # memory of a process that trains a small network; measured
RECORDING_COPIES = 5  # recording, inputs of a row, teacher outputs
PARAMETER_BYTES = 28  # weights, gradients, Adam's moments, best epoch, workspace; measured


class WorkerDiedError(RuntimeError):
    """A worker process died repeatedly, or all of them or the scheduler died for good."""


def in_workers(
    work: Callable[..., None],
    tasks: Mapping[Task, Sequence[Task]],
    jobs: int,
    scheduler: str | None,
) -> Iterator[tuple[Task, Callable[[], None]]]:
    """Run the tasks in worker processes; yield each finished task with a function for its error.

    The function raises the error of a failed task and otherwise does nothing. Dask schedules the
    tasks: a task starts when the tasks it depends on have finished, fails if one of them failed,
    and is repeated on another worker if its worker dies.

    Args:
        work: runs a task, `work(row, subject, *needed)`; must be safe to call again for a finished
            task.
        tasks: task -> the tasks it depends on, which must come earlier.
        jobs: number of processes on this machine.
        scheduler: address of a Dask scheduler to use instead, or None.

    Raises:
        InputError: No scheduler responds at the address.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        client = stack.enter_context(_connect(stack, jobs, scheduler))
        futures = {}
        for task, needed in tasks.items():
            waits_for = [futures[other] for other in needed if other in futures]
            futures[task] = client.submit(work, *task, *waits_for, pure=False)
        task_of = {future: task for task, future in futures.items()}
        ended = as_completed(task_of)
        for future in tqdm(ended, total=len(tasks), unit="training", disable=None, leave=False):
            with tqdm.external_write_mode():
                yield task_of[future], partial(_raise_error, future)


def _raise_error(future: Future) -> None:
    if future.cancelled():  # by the client, when it can no longer reach the scheduler
        raise WorkerDiedError("the connection to the Dask scheduler was lost; start it again")
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise WorkerDiedError(
            "its worker process died several times, possibly out of memory; use fewer --jobs"
        )
    if isinstance(error, NoWorkerError):
        raise WorkerDiedError(
            "all worker processes died and none could be started again, possibly out of memory or "
            "because the temporary folder is full; use fewer --jobs"
        )
    if error is not None:
        raise error


def _connect(stack: ExitStack, jobs: int, scheduler: str | None) -> Client:
    if scheduler is None:
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any port, not one for all runs
            silence_logs=logging.CRITICAL,
        )
        return Client(stack.enter_context(cluster))
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # we report a lost scheduler
    try:
        return Client(scheduler, timeout=30)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler responds ({error}); see docs/cluster.md"
        ) from error


def worker_device(device: torch.device) -> torch.device:
    """Return the device of this worker; a `LocalCluster` spreads its workers over the GPUs."""
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
        wanted: `--jobs`, per GPU; None for 1 on a GPU and, on the CPU, as many as there are cores
            and free memory for.
        threads: CPU threads of each training.
        device: device to train on.
        tasks: number of tasks.
        parameters: number of parameters of the largest network to train.
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
