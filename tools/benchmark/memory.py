"""Peak memory of a function, in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch


def added_bytes(function: Callable[..., object], *arguments: object) -> int:
    """Return by how much a call of `function` raises the peak memory of a new process.

    On a GPU it is the peak that PyTorch allocates there. Imports do not count.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure, function, *arguments).result()


def _measure(function: Callable[..., object], *arguments: object) -> int:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer imports 70 MB of PyTorch
    before = _peak_bytes()
    function(*arguments)
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return on_gpu or _peak_bytes() - before


def _peak_bytes() -> int:
    """Return the peak memory of this process.

    On Linux, `ru_maxrss` starts at the peak of the parent process, which would hide smaller ones.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if kilobytes:
        return 1024 * kilobytes[0]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
