"""The cost of estimates: latency, throughput, parameters, multiply-adds and peak memory."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.files import InputError
from common.training import count_used_parameters
from tools.benchmark.training import Case, Training, choose_losses, random_samples
from tools.export_onnx import graph, runtime
from tools.trained import Trained

WINDOWS = (1, 64)  # at once: a live estimate, and a recording
MIN_RUNS = 10  # of each measurement
MIN_S = 2.0


def measure(
    case: Case, hop: int | None, batch_size: int, threads: int, device: torch.device
) -> dict[str, Any]:
    """Measure the untrained network of a row, which takes as long as a trained one.

    Args:
        case: the row.
        hop: samples from one live estimate to the next; None for half a window.
        batch_size: windows per batch, for the memory.
        threads: CPU threads.
        device: device to measure; on the CPU, onnxruntime is measured too if it is installed.
    """
    script, trained = case.script, build_untrained(case)
    samples = random_samples(script, max(WINDOWS))
    batches = {count: {name: x[:count] for name, x in samples.items()} for count in WINDOWS}
    inputs = trained.inputs(batches[1])
    with torch.device("meta"):
        multiply_adds = count_multiply_adds(case.row.network(), [x.to("meta") for x in inputs])
    result = {
        **case.labels,
        "device": str(device),
        "threads": threads,
        "parameters": count_parameters(trained, inputs),
        "million_multiply_adds": multiply_adds / 1e6,
        "window_ms": 1e3 * script.WINDOW / script.RATE_HZ,
        "hop_ms": 1e3 * (hop or script.WINDOW // 2) / script.RATE_HZ,
    }
    if device.type == "cpu":
        result |= _measure_onnx(trained, batches, threads)
    trained.network.to(device)
    for count, batch in batches.items():
        on_device = {name: x.to(device) for name, x in batch.items()}
        result |= _time(
            lambda batch=on_device: trained.predict(batch).cpu(), f"window_{count}", count
        )
    result["windows_per_s"] = 1e3 / result[f"window_{max(WINDOWS)}_ms"]
    result["latency_ms"] = result["window_ms"] + result["hop_ms"] + result["window_1_ms"]
    result["estimating_mb"] = added_mb(device, estimate_batch, case, batch_size, device)
    if choose_losses(script, case.row):
        result["training_mb"] = added_mb(device, train_epoch, case, batch_size, device)
    return result


def build_untrained(case: Case) -> Trained:
    """Return the network of a row with random weights, in eval mode, on the CPU."""
    torch.manual_seed(0)
    return Trained(case.row.network().eval(), case.script, case.row, {})


def count_parameters(trained: Trained, inputs: Sequence[Tensor]) -> int:
    """Count the parameters as a run does: for a row without training, those of its networks."""
    is_trained = choose_losses(trained.script, trained.row) is not None
    networks = [trained.network] if is_trained else trained.network.children()
    return sum(count_used_parameters(network, inputs) for network in networks)


def count_multiply_adds(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the multiply-adds of the matrix products in a forward pass.

    Args:
        network: the network, on the device `meta`, where nothing is computed and recurrent layers
            are counted step by step.
        inputs: inputs of the network, on the same device.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*inputs)
    return counter.get_total_flops() // 2


@torch.no_grad()
def _time(estimate: Callable[[], object], name: str, windows: int) -> dict[str, float]:
    """Return the median and 95th percentile of the times for a batch, in ms per window."""
    estimate()
    times_ms: list[float] = []
    while len(times_ms) < MIN_RUNS or sum(times_ms) < 1e3 * MIN_S:
        started = time.perf_counter()
        estimate()
        times_ms.append(1e3 * (time.perf_counter() - started))
    median_ms, p95_ms = np.percentile(times_ms, [50, 95]) / windows
    return {f"{name}_ms": float(median_ms), f"{name}_p95_ms": float(p95_ms)}


def _measure_onnx(
    trained: Trained, batches: dict[int, dict[str, Tensor]], threads: int
) -> dict[str, Any]:
    """Measure the exported network, or return why it cannot be measured."""
    try:
        runtime.check_installed()
    except InputError as error:
        return {"onnx": f"not measured: {error}"}
    with tempfile.TemporaryDirectory() as folder:
        graph.write(trained, Path(folder) / "network.onnx")
        session = runtime.open_session(Path(folder) / "network.onnx", threads)
    result: dict[str, float] = {}
    for count, batch in batches.items():
        inputs = runtime.session_inputs(trained, batch)
        name = f"onnx_window_{count}"
        result |= _time(lambda inputs=inputs: session.run(None, inputs), name, count)
    return result


# Memory -------------------------------------------------------------------------------------------


@torch.no_grad()
def estimate_batch(case: Case, batch_size: int, device: torch.device) -> None:
    """Build the network of a row and run it on one batch, whose memory is measured."""
    trained = build_untrained(case)
    trained.network.to(device)
    samples = random_samples(case.script, batch_size)
    trained.predict({name: x.to(device) for name, x in samples.items()})


def train_epoch(case: Case, batch_size: int, device: torch.device) -> None:
    """Train one epoch of two batches, whose memory is measured."""
    Training(case, 2, batch_size, device).train(epochs=1)


def added_mb(device: torch.device, function: Callable[..., object], *arguments: object) -> float:
    """Return by how many MB a call of `function` raises the peak memory of a new process.

    On a GPU it is the peak that PyTorch allocates there. Imports do not count.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of, device, function, *arguments).result() / 1e6


def _peak_of(device: torch.device, function: Callable[..., object], *arguments: object) -> int:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer imports 70 MB of PyTorch
    before = _peak_bytes()
    function(*arguments)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_bytes() - before


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
