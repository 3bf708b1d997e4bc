"""Trials converted one after another, or many at a time, always given back in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from common.files import InputError
from tools.raw import UnusableError
from tools.raw.matlab import Person
from tools.raw.subject import Outcome
from tools.raw.tree import RawTrial
from tools.raw.trial import convert

AHEAD = 4  # trials per job that are in work or wait for their turn: what bounds the memory


def outcomes(tasks: Sequence[tuple[RawTrial, Person]], jobs: int) -> Iterator[Outcome]:
    """Give what became of every trial, in the order of `tasks`, `jobs` of them at a time.

    Raises:
        InputError: A worker process died.
    """
    if jobs == 1:
        yield from (attempt(*task) for task in tasks)
        return
    pool = ProcessPoolExecutor(
        min(jobs, max(1, len(tasks))), multiprocessing.get_context("spawn"), _live_with_parent
    )
    waiting: deque[Future[Outcome]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(attempt, *task))
            if len(waiting) >= AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "--jobs: a worker process died, most likely for want of memory; use fewer jobs"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(trial: RawTrial, person: Person) -> Outcome:
    """Convert a trial, or return why it cannot be used."""
    try:
        return convert(trial, person)
    except UnusableError as problem:
        return problem
    except OSError as error:
        return UnusableError("file cannot be read", f"{trial.place}: {error}")


def _live_with_parent() -> None:
    """Set up a worker: Ctrl-C is its parent's to handle, and it ends when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
