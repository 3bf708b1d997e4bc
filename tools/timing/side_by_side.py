"""Throughput of trainings side by side, as `--jobs` runs them, against one alone."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from tools.timing.rows import Problem, Row

CPU_PAIRS = ((1, 2), (2, 1))  # jobs and threads of each: one with both cores, two with one each
CUDA_PAIRS = ((1, 1), (2, 1), (4, 1), (8, 1))
LONGEST_WARM_UP_S = 600  # a training that fails must not leave the others waiting for it


def measure(
    row: Row, *, batches: int, batch_size: int, epochs: int, repeats: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Measure numbers of trainings side by side; every one works as long as the others do.

    Processes start, warm up, wait for one another, and train: what is left out is the time to
    start them, which a run pays once.
    """
    pairs = CUDA_PAIRS if device.type == "cuda" else CPU_PAIRS
    rates: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for _ in range(repeats):
        for jobs, threads in pairs:
            work = (row, batches, batch_size, epochs, device, threads)
            rates[jobs, threads].append(_windows_per_s(jobs, *work))
    alone = sorted(rates[pairs[0]])[repeats // 2]
    for (jobs, threads), found in rates.items():
        rate = sorted(found)[repeats // 2]
        yield {
            **row.title,
            "device": str(device),
            "jobs": jobs,
            "threads": threads,
            "windows_per_s": rate,
            "ratio": rate / alone,
        }


def _windows_per_s(
    jobs: int,
    row: Row,
    batches: int,
    batch_size: int,
    epochs: int,
    device: torch.device,
    threads: int,
) -> float:
    context = multiprocessing.get_context("spawn")
    work = (row.script.__name__, row.name, batches, batch_size, epochs, str(device), threads)
    with ProcessPoolExecutor(jobs, context, _meet_at, (context.Barrier(jobs),)) as pool:
        trainings = [pool.submit(_train, *work) for _ in range(jobs)]
        spans = [training.result() for training in trainings]
    seconds = max(stop for _, stop in spans) - min(start for start, _ in spans)
    return jobs * epochs * batches * batch_size / seconds


def _meet_at(barrier: Barrier) -> None:
    _train.barrier = barrier  # a pool hands it over only when its processes start


def _train(
    script: str,
    row: str,
    batches: int,
    batch_size: int,
    epochs: int,
    device: str,
    threads: int,
) -> tuple[float, float]:
    """Train in a process of its own; return when it began and ended."""
    torch.set_num_threads(threads)
    problem = Problem(
        Row(importlib.import_module(script), row), batches, batch_size, torch.device(device)
    )
    problem.train(problem.model(), epochs=1)
    model = problem.model()
    _train.barrier.wait(LONGEST_WARM_UP_S)
    started = time.time()  # the same clock in all processes
    problem.train(model, epochs)
    return started, time.time()
