"""The time per sample of a streaming student in NumPy, onnxruntime and PyTorch, side by side."""

from __future__ import annotations

import fnmatch
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from common.files import InputError, save_checkpoint
from common.runs import describe_network
from tools.benchmark.inference import build_untrained
from tools.benchmark.training import Case
from tools.export_onnx import graph, runtime
from tools.stream.streaming_mffm import StreamingMFFM
from tools.trained import PROJECT, find_script

ROUNDS, BLOCK = 20, 100  # samples in a row, so that each finds its weights in the cache

Step = Callable[[np.ndarray], object]  # reads the next sample, `(C,)`


def streaming_cases(datasets: Sequence[str], patterns: Sequence[str] | None = None) -> list[Case]:
    """Return the rows `streaming-<set>` of the scripts in `beyond/`, or those of the patterns."""
    names = sorted(path.stem for path in PROJECT.glob("beyond/Dataset_*.py"))
    cases = [Case(name, row) for name in names for row in find_script(name).ROWS]
    return [
        case
        for case in cases
        if case.row.name.startswith("streaming-")
        and case.script.DATASET in datasets
        and any(fnmatch.fnmatch(case.row.name, pattern) for pattern in patterns or ["*"])
    ]


def measure_streaming(case: Case, threads: int) -> dict[str, Any]:
    """Measure the untrained network of a row, in alternating blocks of samples.

    Args:
        case: a row that reads a stream.
        threads: CPU threads.

    Returns:
        The labels of the row, and the median and the 99th percentile in µs per sample.
    """
    result: dict[str, Any] = {**case.labels, "device": "cpu", "threads": threads}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(threads):
        steps = dict(_steps(case, Path(folder), threads))
        times_us: dict[str, list[float]] = {name: [] for name in steps}
        samples = np.random.default_rng(0).normal(size=(BLOCK, _channels(case)))
        for i in range(ROUNDS + 1):
            for name, step in steps.items():
                for sample in samples.astype(np.float32):
                    started = time.perf_counter()
                    step(sample)
                    if i:  # the first round is slow
                        times_us[name].append(1e6 * (time.perf_counter() - started))
    for name, values in times_us.items():
        median_us, p99_us = np.percentile(values, [50, 99])
        result |= {f"{name}_us": float(median_us), f"{name}_p99_us": float(p99_us)}
        result[f"{name}_ratio"] = float(median_us / np.median(times_us["torch"]))
    return result


def _channels(case: Case) -> int:
    return sum(case.row.network.keywords["channels"])


@torch.no_grad()
def _steps(case: Case, folder: Path, threads: int) -> Iterator[tuple[str, Step]]:
    """Yield the name of an implementation, and its function for the next sample."""
    trained = build_untrained(case)
    trained.network.requires_grad_(False)
    sizes, path = list(case.row.network.keywords["channels"]), folder / "network.safetensors"
    script, sensor_set = case.script, trained.sensor_set
    description = describe_network(
        case.row, sensor_set, script.TARGETS, script.WINDOW, script.RATE_HZ
    )
    save_checkpoint(path, trained.network.state_dict(), description)
    yield "numpy", StreamingMFFM(path).step
    with suppress(InputError):
        runtime.check_installed()
        graph.write(trained, folder / "network.onnx")
        session = runtime.open_session(folder / "network.onnx", threads)
        state = np.zeros((1, sum(graph.state_sizes(trained))), np.float32)

        def step_onnx(sample: np.ndarray) -> None:
            nonlocal state
            parts = np.split(sample[None, None], np.cumsum(sizes)[:-1], axis=-1)
            inputs = dict(zip(("acc", "gyr"), parts, strict=True))
            _, state = session.run(None, {**inputs, graph.STATE: state})

        yield "onnx", step_onnx
    torch_state: tuple[torch.Tensor, ...] | None = None

    def step_torch(sample: np.ndarray) -> None:
        nonlocal torch_state
        parts = torch.from_numpy(sample)[None, None].split(sizes, dim=-1)
        _, torch_state = trained.stream(*parts, state=torch_state)

    yield "torch", step_torch
