"""Run a streaming student live with NumPy and safetensors alone: no PyTorch, no other file.

Copy this one file and a checkpoint to a small device. `StreamingMFFM` computes the same as
`StreamingMFFMNet.stream` of `beyond/Dataset_A_streaming.py`, one sample at a time:

    network = StreamingMFFM("streaming.safetensors")
    for sample in samples:  # (C,): all accelerometers, then all gyroscopes
        output = network.step(sample)  # (K,): the estimate for `network.lookahead` samples ago

NumPy is fastest for such small matrices with one thread: set OMP_NUM_THREADS=1 before it starts.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

EPSILON = 1e-5  # of batch normalization
MODEL = "StreamingMFFMNet"
PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of a recurrent layer


class StreamingMFFM:
    """A trained streaming student.

    Args:
        path: its checkpoint.

    Attributes:
        description: the description in the checkpoint: sensors, targets, rate, training.
        lookahead: samples by which the output lags.
        channels: number of channels of each modality.

    Raises:
        OSError, ValueError, KeyError, safetensors.SafetensorError: The file is missing, damaged or
            of another network.
    """

    def __init__(self, path: str | Path) -> None:
        with safe_open(path, framework="numpy") as file:
            self.description: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if self.description["model"] != MODEL:
            raise ValueError(f"a {self.description['model']}, not a {MODEL}")
        arguments = self.description["arguments"]
        self.lookahead: int = arguments["lookahead"]
        self.channels: list[int] = arguments["channels"]
        self._weights = weights
        bounds = [0, *np.cumsum(self.channels)]
        self._encoders = [
            (slice(*bounds[i : i + 2]), weights[f"norms.{i}.running_mean"], _sd(weights, i))
            for i in range(len(self.channels))
        ]
        self._layers = {
            name: [weights[f"{name}.{part}_l0"] for part in PARTS]
            for i in range(len(self.channels))
            for name in (
                f"encoders.{i}.{kind}.{layer}" for kind in ("lstm", "gru") for layer in "01"
            )
        }
        self.reset()

    def reset(self) -> None:
        """Start from a zero state, as after a gap; the next `lookahead` outputs are meaningless."""
        sizes = {name: parts[1].shape[1] for name, parts in self._layers.items()}
        self._hidden = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        self._cell = {name: np.zeros(size, np.float32) for name, size in sizes.items()}

    def step(self, sample: np.ndarray) -> np.ndarray:
        """Read the next sample `(C,)`; return the estimate `(K,)` for `lookahead` samples ago."""
        sample = np.asarray(sample, np.float32)
        features = []
        for i, (part, mean, sd) in enumerate(self._encoders):
            lstm = gru = (sample[part] - mean) / sd
            for layer in "01":
                lstm = self._lstm(f"encoders.{i}.lstm.{layer}", lstm)
                gru = self._gru(f"encoders.{i}.gru.{layer}", gru)
            gate = _sigmoid(self._linear(f"encoders.{i}.gate", np.concatenate([lstm, gru])))
            features.append(gate * lstm + (1 - gate) * gru)
        x, blocks = np.concatenate(features), np.array(features)
        weighted = _sigmoid(self._linear("fusion.feature_weights", x)) * x
        vector, bias = (self._weights[f"fusion.modality_weight.{n}"] for n in ("weight", "bias"))
        summed = _sigmoid(blocks @ vector[0] + bias) @ blocks
        z = np.concatenate([weighted, summed])
        return self._linear("head", _sigmoid(self._linear("fusion.gate", z)) * z)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return self._weights[f"{name}.weight"] @ x + self._weights[f"{name}.bias"]

    def _lstm(self, name: str, x: np.ndarray) -> np.ndarray:
        from_input, from_hidden, input_bias, hidden_bias = self._layers[name]
        gates = from_input @ x + from_hidden @ self._hidden[name] + input_bias + hidden_bias
        n = len(gates) // 4  # PyTorch's order: input, forget, cell, output
        on = _sigmoid(gates)
        cell = on[n : 2 * n] * self._cell[name] + on[:n] * np.tanh(gates[2 * n : 3 * n])
        self._cell[name], self._hidden[name] = cell, on[3 * n :] * np.tanh(cell)
        return self._hidden[name]

    def _gru(self, name: str, x: np.ndarray) -> np.ndarray:
        from_input, from_hidden, input_bias, hidden_bias = self._layers[name]
        before = self._hidden[name]
        a, b = from_input @ x + input_bias, from_hidden @ before + hidden_bias
        n = len(a) // 3  # PyTorch's order: reset, update, new
        on = _sigmoid(a[: 2 * n] + b[: 2 * n])
        new = np.tanh(a[2 * n :] + on[:n] * b[2 * n :])
        self._hidden[name] = new + on[n:] * (before - new)
        return self._hidden[name]


def _sd(weights: dict[str, np.ndarray], modality: int) -> np.ndarray:
    return np.sqrt(weights[f"norms.{modality}.running_var"] + EPSILON)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # never overflows
