"""An exported model in onnxruntime, and how far it is from PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import InputError
from common.training import Batch
from tools.trained import Trained

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # of `difference`


def check_installed() -> None:
    """Check that the packages for exporting are there.

    Raises:
        InputError: They are not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not installed; python -m pip install -r requirements-export.txt"
        )


def session(path: Path, threads: int = 1) -> InferenceSession:
    """Open an exported model for the CPU."""
    import onnxruntime  # here, since training and its users do without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model: InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Estimate `(B, T, K)` from one float32 `(B, T, C)` per modality."""
    return model.run(None, inputs)[0]


def inputs(trained: Trained, batch: Batch) -> dict[str, np.ndarray]:
    """Pick the inputs of an exported model out of windows of all channels of the dataset."""
    picked = trained.script.inputs(batch, trained.sensor_set)
    names = trained.sensor_set.modalities
    return {name: values.numpy() for name, values in zip(names, picked, strict=True)}


def difference(trained: Trained, model: InferenceSession, batch: Batch) -> float:
    """Return the largest difference from PyTorch on a batch of windows.

    It is absolute where the targets of a window are below 1, and else a share of the largest value
    of the target in the window: float32 has seven digits, and networks trained for correlation
    have outputs of any size.
    """
    expected = trained.predict(batch).numpy()
    error = np.abs(run(model, inputs(trained, batch)) - expected)
    largest = np.abs(expected).max(axis=1, keepdims=True)  # (B, 1, K)
    return float((error / np.maximum(largest, 1)).max())
