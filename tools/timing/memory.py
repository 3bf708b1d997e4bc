"""Peak memory, of a process of its own on the CPU, or as the allocator counts it on a GPU."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tools.timing import published
from tools.timing.rows import Problem, Row

KIB = 1024  # /proc counts in these, macOS in bytes


def of_training(script: str, row: str, batch_size: int, device: str) -> int:
    """Return the bytes that two training steps of a row add."""
    return _added(_train, script, row, batch_size, device)


def of_prediction(script: str, row: str, batch_size: int, device: str) -> int:
    """Return the bytes that a row's network and the prediction of a batch add."""
    return _added(_predict, script, row, batch_size, device)


def of_reading(script: str, path: Path) -> int:
    """Return the bytes that reading a file adds."""
    return _added(_read, script, path)


def of_appending(reader: str, path: Path, place: str, columns: list[int]) -> int:
    """Return the bytes that reading a dataset of a file by appending adds."""
    return _added(_append, reader, path, place, columns)


def _added(work: Callable[..., None], *arguments: object) -> int:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measured, args=(sender, work, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _measured(sender: Connection, work: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(1)
    before = _peak_bytes()
    work(*arguments)
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    sender.send(on_gpu or _peak_bytes() - before)


def _peak_bytes() -> int:
    """Return the most that this process has held, in bytes.

    On Linux `ru_maxrss` begins with the peak of the process that started this one: what is less
    than that would count as nothing.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return KIB * peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row(script: str, row: str) -> Row:
    return Row(importlib.import_module(script), row)


def _train(script: str, row: str, batch_size: int, device: str) -> None:
    problem = Problem(_row(script, row), 2, batch_size, torch.device(device))
    problem.train(problem.model(), epochs=1)


def _predict(script: str, row: str, batch_size: int, device: str) -> None:
    problem = Problem(_row(script, row), 1, batch_size, torch.device(device))
    model = problem.model().eval().requires_grad_(False)
    windows = problem.samples | {}
    batch = {name: v.view(-1, problem.row.study.window, v.shape[1]) for name, v in windows.items()}
    problem.row.study.predict(row)(model, {name: v[:batch_size] for name, v in batch.items()})


def _read(script: str, path: Path) -> None:
    importlib.import_module(script).STUDY.read(path)


def _append(reader: str, path: Path, place: str, columns: list[int]) -> None:
    import h5py
    import numpy as np

    with h5py.File(path) as file:
        getattr(published, reader)(file[place], np.array(columns))
