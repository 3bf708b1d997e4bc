"""Layers in NumPy and float64, written as their formulas: what the networks are compared with.

Parameters are a dict of arrays by the names that the network gives them.
"""

from __future__ import annotations

import math

import numpy as np
from torch import nn

BOTH = ("", "_reverse")  # directions of a recurrent layer, by PyTorch's suffixes
FORWARD = ("",)
Parameters = dict[str, np.ndarray]


def parameters_of(module: nn.Module) -> Parameters:
    """Return the weights and biases."""
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def part_of(p: Parameters, name: str) -> Parameters:
    """Return the parameters of a child module, named as in the child."""
    return {key[len(name) + 1 :]: values for key, values in p.items() if key.startswith(f"{name}.")}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    """Return the positive part."""
    return np.maximum(x, 0)


def linear(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    """Apply a Linear to the last axis."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def normalized(x: np.ndarray) -> np.ndarray:
    """Normalize each channel of `(B, T, C)` over batch and time."""
    return (x - x.mean(axis=(0, 1))) / np.sqrt(x.var(axis=(0, 1)) + 1e-5)


def lstm(
    x: np.ndarray, p: Parameters, layer: str, directions: tuple[str, ...] = BOTH
) -> np.ndarray:
    """Apply an LSTM layer to one window `(T, C)`; gates in PyTorch's order i, f, g, o."""
    outputs = []
    for end in directions:
        from_x, from_h = (p[f"{layer}.weight_{kind}_l0{end}"] for kind in ("ih", "hh"))
        bias = p[f"{layer}.bias_ih_l0{end}"] + p[f"{layer}.bias_hh_l0{end}"]
        h = c = np.zeros(len(bias) // 4)
        output = np.zeros((len(x), len(h)))
        for t in reversed(range(len(x))) if end else range(len(x)):
            i, f, g, o = np.split(from_x @ x[t] + from_h @ h + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            output[t] = h
        outputs.append(output)
    return np.hstack(outputs)


def gru(x: np.ndarray, p: Parameters, layer: str, directions: tuple[str, ...] = BOTH) -> np.ndarray:
    """Apply a GRU layer to one window `(T, C)`; gates in PyTorch's order r, z, n."""
    outputs = []
    for end in directions:
        from_x = x @ p[f"{layer}.weight_ih_l0{end}"].T + p[f"{layer}.bias_ih_l0{end}"]
        h = np.zeros(from_x.shape[1] // 3)
        output = np.zeros((len(x), len(h)))
        for t in reversed(range(len(x))) if end else range(len(x)):
            from_h = p[f"{layer}.weight_hh_l0{end}"] @ h + p[f"{layer}.bias_hh_l0{end}"]
            (xr, xz, xn), (hr, hz, hn) = np.split(from_x[t], 3), np.split(from_h, 3)
            z = sigmoid(xz + hz)
            h = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
            output[t] = h
        outputs.append(output)
    return np.hstack(outputs)


def convolution(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    """Convolve `(B, S, H, W)` with a kernel (3, 5), padded by (1, 2) zeros, output by output."""
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (2, 2)))
    output = np.zeros((len(x), len(weight), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            patch = padded[:, None, :, i : i + 3, j : j + 5]
            output[:, :, i, j] = (patch * weight).sum(axis=(2, 3, 4)) + bias
    return output


def max_pooling(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the maximum of each full block; an incomplete block at the end is dropped."""
    rows, columns = x.shape[2] // height, x.shape[3] // width
    output = np.zeros((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            block = x[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
            output[:, :, i, j] = block.max(axis=(2, 3))
    return output


def conv_encoder(x: np.ndarray, p: Parameters, pools: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Encode `(B, S, H, W)`: convolution, ReLU, BatchNorm and pooling, then two Linear with ReLU.

    Args:
        x: `(B, S, H, W)`; pooling must reduce H to 1.
        p: parameters of the encoder.
        pools: height and width of the pooling in each block.
    """
    for i, (height, width) in enumerate(pools):
        x = relu(convolution(x, p, f"blocks.{i}.0"))
        mean, variance = (f(axis=(0, 2, 3), keepdims=True) for f in (x.mean, x.var))
        scale, shift = (p[f"blocks.{i}.2.{kind}"][:, None, None] for kind in ("weight", "bias"))
        x = max_pooling((x - mean) / np.sqrt(variance + 1e-5) * scale + shift, height, width)
    x = x[:, :, 0].transpose(0, 2, 1)
    for i in range(2):
        x = relu(linear(x, p, f"layers.{i}"))
    return x.reshape(len(x), -1)


def imu_planes(x: np.ndarray) -> np.ndarray:
    """Arrange `(B, T, 12)` of two IMUs as `(B, 2, 6, T)`: the signals of the first, the second."""
    order = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]  # acc xyz and gyr xyz of each
    return np.stack([x[..., channels].transpose(0, 2, 1) for channels in order], axis=1)


def attention(x: np.ndarray, p: Parameters, heads: int = 4) -> np.ndarray:
    """Apply self-attention to one window `(T, D)`, head by head and time step by time step."""
    steps, width = x.shape
    size = width // heads
    projected = x @ p["attention.in_proj_weight"].T + p["attention.in_proj_bias"]
    query, key, value = np.split(projected, 3, axis=1)
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(steps):
            scores = np.array([query[t, part] @ key[s, part] for s in range(steps)])
            weights = np.exp(scores / math.sqrt(size))
            weights /= weights.sum()
            mixed[t, part] = sum(weights[s] * value[s, part] for s in range(steps))
    return linear(mixed, p, "attention.out_proj")


def mffm(x: np.ndarray, p: Parameters, modalities: int) -> np.ndarray:
    """Fuse one window `(T, M * size)` by MAF, MWFF, MWFS and the gate MMF."""
    size = x.shape[1] // modalities
    maf = attention(x, p)
    fused = []
    for t, features in enumerate(x):
        mwff = sigmoid(linear(features, p, "feature_weights")) * features
        mwfs = np.zeros(size)
        for m in range(modalities):
            block = features[m * size : (m + 1) * size]
            mwfs += sigmoid(linear(block, p, "modality_weight")) * block
        z = np.concatenate([maf[t], mwff, mwfs])
        fused.append(sigmoid(linear(z, p, "gate")) * z)
    return np.array(fused)


def gated_dual_encoder(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Encode one window `(T, C)` by two LSTM and two GRU layers, mixed by a gate."""
    from_lstm = from_gru = x
    for layer in (0, 1):
        from_lstm = lstm(from_lstm, p, f"lstm.{layer}")
        from_gru = gru(from_gru, p, f"gru.{layer}")
    gate = sigmoid(linear(np.hstack([from_lstm, from_gru]), p, "gate"))
    return gate * from_lstm + (1 - gate) * from_gru
