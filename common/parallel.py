"""Run tasks in several processes of this machine or on a Dask cluster."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import resource_tracker

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.scheduler import NoWorkerError
from distributed.utils import LoopRunner
from tqdm import tqdm

from common import interrupt
from common.files import InputError
from common.folder import Task

DASK = {
    "distributed.scheduler.worker-saturation": 1.0,  # tasks wait on the scheduler, not on workers
    "distributed.deploy.lost-worker-timeout": "1d",  # do not give up workers that restart slowly
    "distributed.scheduler.no-workers-timeout": "10 minutes",  # give up if no worker starts
    "distributed.scheduler.http.routes": [],  # its pages would be open to other users
    "distributed.worker.http.routes": [],
}


class WorkerDiedError(RuntimeError):
    """A worker process died repeatedly, or all workers or the scheduler could not be recovered."""


def in_workers(
    work: Callable[..., None],
    tasks: Mapping[Task, Sequence[Task]],
    jobs: int,
    scheduler: str | None,
) -> Iterator[tuple[Task, BaseException | None]]:
    """Run the tasks in worker processes; yield each finished task with its error, if it failed.

    Dask schedules the tasks: a task starts when the tasks that it depends on have finished, fails
    if one of them failed, and is repeated on another worker if its worker dies.

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
        finished = as_completed(task_of)
        for future in tqdm(finished, total=len(tasks), unit="task", disable=None, leave=False):
            with tqdm.external_write_mode():
                yield task_of[future], _error(future)


def _error(future: Future) -> BaseException | None:
    if future.cancelled():  # by the client, when it can no longer reach the scheduler
        return WorkerDiedError("the connection to the Dask scheduler was lost; start it again")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return WorkerDiedError(
            "its worker process died several times, possibly out of memory; use fewer --jobs"
        )
    if isinstance(error, NoWorkerError):
        return WorkerDiedError(
            "all worker processes died and none could be started again, possibly out of memory or "
            "because the temporary folder is full; use fewer --jobs"
        )
    return error


def _connect(stack: ExitStack, jobs: int, scheduler: str | None) -> Client:
    if scheduler is None:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, interrupt.end_with_workers)
            stack.callback(signal.signal, signal.SIGTERM, before)
        try:
            cluster = LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                memory_limit=0,
                security=True,  # temporary TLS credentials: other users cannot run code in workers
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any port
                silence_logs=logging.CRITICAL,
                loop=_start_loop(stack).loop,
            )
        except KeyboardInterrupt:  # it cannot be closed yet, and would print tracebacks at exit
            atexit.register(interrupt.end_now)
            raise
        return Client(stack.enter_context(cluster))
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # reported below
    try:
        return Client(scheduler, timeout=30)  # its TLS credentials are in Dask's configuration
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler responds ({error}); see docs/cluster.md"
        ) from error


def _start_loop(stack: ExitStack) -> LoopRunner:
    """Start the thread that starts the workers. Ctrl-C in a terminal does not reach them."""
    filters = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # it cleans up after a kill, silently
    resource_tracker.ensure_running()  # would be started later, and unblock the signal
    os.environ["PYTHONWARNINGS"] = filters
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # threads inherit it
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    stack.callback(runner.stop)
    return runner


def print_on_client() -> Callable[[str], None]:
    """Return a function that prints a line where the script was started, from any thread."""
    worker = get_worker()
    return lambda line: worker.log_event("print", line)


def worker_device(device: torch.device) -> torch.device:
    """Return the device of this worker; a `LocalCluster` spreads its workers over the GPUs."""
    count, name = torch.cuda.device_count(), get_worker().name
    if device.type == "cuda" and device.index is None and count > 1 and isinstance(name, int):
        return torch.device("cuda", name % count)
    return device
