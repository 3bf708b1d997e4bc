"""The cost of a prediction: latency, throughput, parameters, multiply-adds and memory."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.files import InputError
from common.training import count_used_parameters
from tools.benchmark.memory import added_bytes
from tools.benchmark.training import Case, Rehearsal, train_two_batches
from tools.export_onnx import graph, runtime
from tools.trained import Trained

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WINDOWS = (1, 64)  # at once: a live estimate, and a recording
SAMPLES = 2000  # of a stream, timed one by one
WARM_UP = 100  # samples before them
LEAST_RUNS = 10  # of each measurement
LEAST_S = 2.0


def measure(
    case: Case, *, hop: int | None, batch_size: int, threads: int, device: torch.device
) -> dict[str, Any]:
    """Measure the untrained network of a row, which takes as long as a trained one.

    Args:
        case: the row.
        hop: samples from one live estimate to the next; None for half a window.
        batch_size: windows per batch, for the memory.
        threads: CPU threads.
        device: device that predicts; on the CPU, onnxruntime is measured too if it is installed.
    """
    script = case.script
    trained = build_untrained(case)
    windows = runtime.random_windows(script, max(WINDOWS))
    batches = {count: {name: w[:count] for name, w in windows.items()} for count in WINDOWS}
    parameters, is_trained = count_parameters(case, trained)
    with torch.device("meta"):
        meta_network = case.row.network()
    meta_inputs = [values.to("meta") for values in trained.inputs(batches[1])]
    result = {
        **case.labels,
        "device": str(device),
        "threads": threads,
        "parameters": parameters,
        "multiply_adds": count_multiply_adds(meta_network, meta_inputs),
    }
    trained.network.to(device)
    for count, batch in batches.items():
        on_device = {name: values.to(device) for name, values in batch.items()}
        times_ms = _times_ms(lambda batch=on_device: trained.predict(batch).cpu())
        result |= _latency(times_ms, count, f"batch_{count}")
    hop = hop or script.WINDOW // 2
    result["window_ms"], result["hop_ms"] = (1e3 * n / script.RATE_HZ for n in (script.WINDOW, hop))
    result["delay_ms"] = result["window_ms"] + result["hop_ms"] + result["batch_1_ms"]
    if device.type == "cpu":
        result |= _measure_onnx(trained, batches, threads)
    result["prediction_bytes"] = added_bytes(predict_batch, case, batch_size, device)
    result["training_bytes"] = None
    if is_trained:
        result["training_bytes"] = added_bytes(train_two_batches, case, batch_size, device)
    return result


def measure_stream(case: Case, *, threads: int) -> dict[str, Any]:
    """Measure the time per sample of an untrained streaming network on the CPU.

    Every call gets one sample and the state of the call before, as in live use.
    """
    script, trained = case.script, build_untrained(case)
    windows = runtime.random_windows(script, math.ceil((WARM_UP + SAMPLES) / script.WINDOW))
    stream = {name: values.flatten(0, 1)[None] for name, values in windows.items()}
    inputs = trained.inputs(stream)
    with torch.device("meta"):
        sample = [torch.zeros(1, 1, values.shape[-1]) for values in inputs]
        multiply_adds = count_multiply_adds(case.row.network(), sample)
    network, late_ms = trained.network, 1e3 * trained.network.lookahead / script.RATE_HZ
    parameters = count_used_parameters(network.requires_grad_(True), inputs)
    network.requires_grad_(False)

    def step(t: int, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        return trained.stream(*(values[:, t : t + 1] for values in inputs), state=state)[1]

    result = {
        **case.labels,
        "device": "cpu",
        "threads": threads,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "lookahead_ms": late_ms,
        **_stream_latency(step, None, "sample"),
    }
    session = _open_exported(trained, threads)
    if isinstance(session, str):
        return result | {"onnx": session}
    arrays = runtime.session_inputs(trained, stream)
    start = arrays.pop(graph.STATE)

    def onnx_step(t: int, state: np.ndarray) -> np.ndarray:
        sample = {name: values[:, t : t + 1] for name, values in arrays.items()}
        return session.run(None, {**sample, graph.STATE: state})[1]

    return result | _stream_latency(onnx_step, start, "onnx_sample")


@torch.no_grad()
def _stream_latency(step: Callable[[int, Any], Any], state: object, name: str) -> dict[str, float]:
    """Return the median and 99th percentile of the times of single samples, in µs."""
    times_us = []
    for t in range(WARM_UP + SAMPLES):
        started = time.perf_counter()
        state = step(t, state)
        times_us.append(1e6 * (time.perf_counter() - started))
    median_us, p99_us = np.percentile(times_us[WARM_UP:], [50, 99])
    return {f"{name}_us": float(median_us), f"{name}_p99_us": float(p99_us)}


def build_untrained(case: Case) -> Trained:
    """Return the network of a row with random weights, frozen, in eval mode, on the CPU."""
    torch.manual_seed(0)
    network = case.row.network().eval().requires_grad_(False)
    return Trained(network, case.script, case.row, {})


def count_parameters(case: Case, trained: Trained) -> tuple[int, bool]:
    """Return the number of parameters that a run records, and whether the row is trained."""
    if case.row.needs:
        rehearsal = Rehearsal(case, batches=1, batch_size=1, device=torch.device("cpu"))
        if not rehearsal.is_trained:
            return rehearsal.parameters, False
    inputs = trained.inputs(runtime.random_windows(case.script, 1))
    parameters = count_used_parameters(trained.network.requires_grad_(True), inputs)
    trained.network.requires_grad_(False)
    return parameters, True


def count_multiply_adds(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the multiply-adds of the matrix products in a prediction.

    PyTorch's counter needs minutes for recurrent layers; their weights, each of which is used once
    per time step, are counted here.

    Args:
        network: the network, on the device `meta`, where nothing is computed.
        inputs: inputs of the network, on the same device.
    """
    recurrent = 0

    def forward(layer: nn.RNNBase, x: Tensor, *_: object) -> tuple[Tensor, object]:
        nonlocal recurrent
        weights = [p.numel() for name, p in layer.named_parameters() if "weight" in name]
        recurrent += x.shape[:2].numel() * sum(weights)
        output = x.new_empty(*x.shape[:2], layer.hidden_size * (1 + layer.bidirectional))
        return output, (None, None) if layer.mode == "LSTM" else None  # no use is made of a state

    with (
        patch.object(nn.LSTM, "forward", forward),
        patch.object(nn.GRU, "forward", forward),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        network.eval()(*inputs)
    return counter.get_total_flops() // 2 + recurrent


@torch.no_grad()
def _times_ms(predict: Callable[[], object]) -> np.ndarray:
    predict()
    times_ms: list[float] = []
    while len(times_ms) < LEAST_RUNS or sum(times_ms) < 1e3 * LEAST_S:
        started = time.perf_counter()
        predict()
        times_ms.append(1e3 * (time.perf_counter() - started))
    return np.array(times_ms)


def _latency(times_ms: np.ndarray, windows: int, name: str) -> dict[str, float]:
    """Return the median and 95th percentile of the times of a batch, and the throughput."""
    median_ms = float(np.median(times_ms))
    return {
        f"{name}_ms": median_ms,
        f"{name}_p95_ms": float(np.percentile(times_ms, 95)),
        f"{name}_windows_per_s": 1e3 * windows / median_ms,
    }


def _measure_onnx(
    trained: Trained, batches: dict[int, dict[str, Tensor]], threads: int
) -> dict[str, Any]:
    """Measure the exported network, or return why it cannot be measured."""
    session = _open_exported(trained, threads)
    if isinstance(session, str):
        return {"onnx": session}
    result: dict[str, float] = {}
    for count, batch in batches.items():
        inputs = runtime.session_inputs(trained, batch)
        times_ms = _times_ms(lambda inputs=inputs: session.run(None, inputs))
        result |= _latency(times_ms, count, f"onnx_batch_{count}")
    return result


def _open_exported(trained: Trained, threads: int) -> InferenceSession | str:
    """Return the exported network in onnxruntime, or why it cannot be measured."""
    try:
        runtime.check_installed()
    except InputError as error:
        return f"not measured: {error}"
    with tempfile.TemporaryDirectory() as folder:
        graph.write(trained, Path(folder) / "network.onnx")
        return runtime.open_session(Path(folder) / "network.onnx", threads)


@torch.no_grad()
def predict_batch(case: Case, batch_size: int, device: torch.device) -> None:
    """Build the network of a row and predict one batch, whose memory is measured."""
    trained = build_untrained(case)
    trained.network.to(device)
    windows = runtime.random_windows(case.script, batch_size)
    trained.predict({name: values.to(device) for name, values in windows.items()})
