"""What a prediction costs: latency, throughput, parameters, multiply-adds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common import training
from common.files import InputError
from common.training import Batch
from tools.export_onnx import random_windows
from tools.exporting import graph, runtime
from tools.timing import multiply_adds
from tools.timing.rows import Row
from tools.trained import Trained

BATCHES = (1, 64)  # windows at once: a live estimate, and a recording
LEAST_RUNS = 10
SECONDS = 2.0  # of each measurement, at least LEAST_RUNS


def measure(row: Row, *, hop_s: float, threads: int, device: torch.device) -> dict[str, Any]:
    """Measure the untrained network of a row, which takes as long as a trained one.

    Args:
        row: The row. hop_s: From one live estimate to the next. threads: Of the CPU.
        device: That predicts; onnxruntime beside it on the CPU, where it is installed.
    """
    torch.manual_seed(0)
    model = row.experiment.model().eval().requires_grad_(False)
    trained = Trained(model, row.script, row.name, {})
    windows = random_windows(trained, max(BATCHES))
    on_cpu = {count: _first(windows, count) for count in BATCHES}
    window_s = row.study.window / row.study.rate_hz
    found: dict[str, Any] = {
        **row.title,
        "device": str(device),
        "threads": threads,
        "parameters": _used_parameters(row, model, on_cpu[1]),
        "multiply_adds": multiply_adds.count(model, lambda: trained.predict(on_cpu[1])),
    }
    model.to(device)
    for count, batch in on_cpu.items():
        there = {name: values.to(device) for name, values in batch.items()}
        times_ms = _times_ms(lambda batch=there: trained.predict(batch).cpu())
        found |= _latency(times_ms, count, f"batch_{count}")
    found["window_ms"], found["hop_ms"] = 1e3 * window_s, 1e3 * hop_s
    found["delay_ms"] = found["window_ms"] + found["hop_ms"] + found["batch_1_ms"]
    if device.type == "cpu":
        found |= _onnx(trained, on_cpu, threads)
    return found


def _first(windows: Batch, count: int) -> Batch:
    return {name: values[:count] for name, values in windows.items()}


def _used_parameters(row: Row, model: nn.Module, batch: Batch) -> int:
    """Count as a run does: those of the networks that a fitted row is made of, together."""
    networks = row.experiment.networks.items()
    if networks:
        children = ((Row(row.script, name), model.get_submodule(c)) for c, name in networks)
        return sum(_used_parameters(other, child, batch) for other, child in children)
    model.requires_grad_(True)
    used = training.used_parameters(model, row.study.predict(row.name), batch)
    model.requires_grad_(False)
    return used


@torch.no_grad()
def _times_ms(predict: Callable[[], object]) -> np.ndarray:
    predict()
    times_ms: list[float] = []
    while len(times_ms) < LEAST_RUNS or sum(times_ms) < 1e3 * SECONDS:
        started = time.perf_counter()
        predict()
        times_ms.append(1e3 * (time.perf_counter() - started))
    return np.array(times_ms)


def _latency(times_ms: np.ndarray, windows: int, name: str) -> dict[str, float]:
    """Return median and 95th percentile of a batch, and the throughput."""
    return {
        f"{name}_ms": float(np.median(times_ms)),
        f"{name}_p95_ms": float(np.percentile(times_ms, 95)),
        f"{name}_windows_per_s": 1e3 * windows / float(np.median(times_ms)),
    }


def _onnx(trained: Trained, batches: dict[int, Batch], threads: int) -> dict[str, Any]:
    """Measure the exported network; say why not where that cannot be."""
    try:
        runtime.check_installed()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            graph.write(trained, path)
            session = runtime.session(path, threads)
            found: dict[str, Any] = {"onnx_bytes": path.stat().st_size}
    except InputError as error:
        return {"onnx": f"not measured: {error}"}
    for count, batch in batches.items():
        inputs = runtime.inputs(trained, batch)
        times_ms = _times_ms(lambda inputs=inputs: runtime.run(session, inputs))
        found |= _latency(times_ms, count, f"onnx_batch_{count}")
    return found
