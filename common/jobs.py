"""The tasks of a run, one after another, and why one may fail."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from common.files import InputError
from common.interruption import InterruptedTrainingError, stop_requested
from common.trainer import Trainer
from common.training import DivergedError


class Task(NamedTuple):
    """One row on one fold."""

    row: str
    subject: str


class Tasks(NamedTuple):
    """The tasks of a run that are to be done, in order.

    Attributes:
        todo: Task to what it is called on the screen. needs: The rows that a row needs.
        done: Called with a task when it is done, and a line about it; it may fail to write.
        failed: Called with a task that failed, and the reason.
    """

    todo: dict[Task, str]
    needs: Callable[[str], Sequence[str]]
    done: Callable[[Task, str], None]
    failed: Callable[[Task, str], None]

    def missing(self, task: Task, failures: set[Task]) -> str:
        """Say which rows that a task needs failed, empty if none."""
        rows = [row for row in self.needs(task.row) if Task(row, task.subject) in failures]
        return f"it needs {' and '.join(rows)}, which failed" if rows else ""


def run_here(trainer: Trainer, tasks: Tasks) -> None:
    """Do the tasks one after another in this process.

    Raises:
        InterruptedTrainingError: A signal asked to stop.
    """
    failures: set[Task] = set()
    for task, name in tasks.todo.items():
        if stop_requested.is_set():
            raise InterruptedTrainingError
        try:
            if missing := tasks.missing(task, failures):
                raise InputError(missing)
            tasks.done(task, trainer.run(task.row, task.subject, name))
        except InterruptedTrainingError:
            raise
        except Exception as error:
            failures.add(task)
            tasks.failed(task, reason(error))
            if is_disk_full(error):
                return


def reason(error: BaseException) -> str:
    """Say in a line why a task failed; what nobody foresaw is printed whole as well."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, DivergedError | InputError):
        return text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return f"out of memory ({text}); use fewer --jobs or a smaller --batch-size"
    if isinstance(error, OSError):
        return f"cannot write ({text})"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {text}"


def is_disk_full(error: BaseException) -> bool:
    """Whether there is no use in going on."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
