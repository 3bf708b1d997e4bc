"""An exported network in onnxruntime, compared with PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.files import InputError
from common.windows import cut_windows
from tools.export_onnx.graph import STATE, state_sizes
from tools.trained import Trained, channel_names

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BATCH_SIZES = (1, 2, 64)  # windows that are compared at once: a live estimate, and a recording
MAGNITUDES = (-1, 2)  # powers of ten between which random windows lie: the units of all inputs
STREAMED = 1000  # samples that are compared one at a time, if the network reads a stream
TOLERANCE = 1e-4  # of `difference`


def check_installed() -> None:
    """Check that the packages for exporting are installed.

    Raises:
        InputError: A package is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not installed; python -m pip install -r requirements-export.txt"
        )


def random_windows(script: ModuleType, count: int) -> dict[str, Tensor]:
    """Return random windows of all modalities of the dataset, `(count, T, C)` each."""
    generator = torch.Generator().manual_seed(0)
    windows = {}
    for modality in script.UNITS:
        exponents = torch.empty(count, 1, 1).uniform_(*MAGNITUDES, generator=generator)
        shape = (count, script.WINDOW, len(script.COLUMNS[modality]))
        windows[modality] = 10**exponents * torch.randn(shape, generator=generator)
    return windows


def recorded_windows(script: ModuleType, path: Path, count: int) -> dict[str, Tensor]:
    """Return at most `count` windows, spread evenly over a file, `(windows, T, C)` per modality.

    Raises:
        InputError: The file cannot be used.
    """
    recording = script.read(path)
    windows, _ = cut_windows(recording, recording.subjects, script.WINDOW, "strict")
    if not len(windows):
        raise InputError(
            f"{path}: no trial or step as long as a window of {script.WINDOW} samples; use a file "
            "with longer ones"
        )
    chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)
    samples = torch.from_numpy(windows[chosen])
    return {modality: values[samples] for modality, values in recording.samples.items()}


def open_session(path: Path, threads: int = 1) -> InferenceSession:
    """Open an exported network, to run it on the CPU."""
    import onnxruntime  # not in requirements.txt

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def session_inputs(trained: Trained, windows: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the inputs of an exported network, from windows of all modalities.

    The state of a streaming network is that at the start of a stream.
    """
    names = channel_names(trained.script, trained.sensor_set)
    joined = torch.cat(trained.inputs(windows), dim=-1)  # some networks read them concatenated
    parts = joined.split([len(channels) for channels in names.values()], dim=-1)
    inputs = {name: values.numpy() for name, values in zip(names, parts, strict=True)}
    if sizes := state_sizes(trained):
        inputs[STATE] = np.zeros((len(joined), sum(sizes)), np.float32)
    return inputs


def difference(trained: Trained, session: InferenceSession, windows: dict[str, Tensor]) -> float:
    """Return the largest difference between onnxruntime and PyTorch on a batch of windows.

    It is absolute for targets that stay below 1 in a window, and otherwise relative to the largest
    value of the target in the window: float32 has seven digits, and the outputs of networks that
    are trained for correlation have any magnitude.
    """
    output = session.run(None, session_inputs(trained, windows))[0]
    return _largest_difference(output, trained.predict(windows).numpy())


def streamed_difference(
    trained: Trained, session: InferenceSession, windows: dict[str, Tensor]
) -> float:
    """Return the difference on a stream, the windows in sequence, one sample at a time.

    Both sides carry their own state from the first sample to the last.
    """
    stream = {name: values.flatten(0, 1)[None, :STREAMED] for name, values in windows.items()}
    inputs, torch_inputs = session_inputs(trained, stream), trained.inputs(stream)
    state, torch_state, outputs, expected = inputs.pop(STATE), None, [], []
    for t in range(torch_inputs[0].shape[1]):
        sample = {name: values[:, t : t + 1] for name, values in inputs.items()}
        output, state = session.run(None, {**sample, STATE: state})
        outputs.append(output)
        torch_sample = (values[:, t : t + 1] for values in torch_inputs)
        output, torch_state = trained.stream(*torch_sample, state=torch_state)
        expected.append(output.numpy())
    return _largest_difference(np.concatenate(outputs, axis=1), np.concatenate(expected, axis=1))


def _largest_difference(output: np.ndarray, expected: np.ndarray) -> float:
    largest = np.abs(expected).max(axis=1, keepdims=True)  # (B, 1, K)
    return float((np.abs(output - expected) / np.maximum(largest, 1)).max())


def check_difference(trained: Trained, path: Path, windows: dict[str, Tensor], kind: str) -> float:
    """Compare an exported network with PyTorch in batches of all sizes, and as a stream.

    Args:
        trained: the network in PyTorch.
        path: the exported network.
        windows: windows of all modalities, `(B, T, C)` each.
        kind: `random` or `recorded`, for the message.

    Returns:
        The largest difference.

    Raises:
        InputError: It exceeds the tolerance.
    """
    session = open_session(path)
    batches = [{name: w[:size] for name, w in windows.items()} for size in BATCH_SIZES]
    differences = [difference(trained, session, batch) for batch in batches]
    if trained.lookahead is not None:
        differences.append(streamed_difference(trained, session, windows))
    largest = float(np.max(differences))  # NaN if any is
    if not largest <= TOLERANCE:  # also if it is NaN
        raise InputError(
            f"{trained.row.name}: onnxruntime differs from PyTorch by {largest:.1e} on {kind} "
            f"windows, more than {TOLERANCE:g}; nothing is written; use the checkpoint itself"
        )
    return largest
