"""Run an exported model by onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import InputError
from common.training import Batch
from tools.trained import Trained

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of PyTorch's output; relative where that is above 1


def check_installed() -> None:
    """Check that what an export needs is there.

    Raises:
        InputError: It is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not installed; do: python -m pip install -r "
            "requirements-export.txt"
        )


def session(path: Path, threads: int = 1) -> InferenceSession:
    """Open an ONNX file for the CPU."""
    import onnxruntime  # here, since it is installed for exports only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(opened: InferenceSession, windows: dict[str, np.ndarray]) -> np.ndarray:
    """Estimate `(B, T, K)` from one `(B, T, C)` float32 array per modality."""
    return opened.run(["targets"], windows)[0]


def model_inputs(trained: Trained, batch: Batch) -> dict[str, np.ndarray]:
    """Pick the inputs of an exported model out of a batch of all channels of the dataset."""
    windows = trained.script.inputs(batch, trained.sensor_set)
    modalities = trained.sensor_set.modalities
    return {name: w.numpy() for name, w in zip(modalities, windows, strict=True)}


def difference(trained: Trained, opened: InferenceSession, batch: Batch) -> float:
    """Return the largest difference from PyTorch, over the larger of 1 and PyTorch's output.

    The network for correlation has an arbitrary scale, at which 1e-4 may be below rounding.
    """
    expected = trained.predict(batch).numpy()
    error = np.abs(run(opened, model_inputs(trained, batch)) - expected)
    return float((error / np.maximum(1, np.abs(expected))).max())
