"""Multiply-adds of a prediction, by the textbook formulas of its layers.

Products of matrices count, what is done element by element does not. PyTorch's own counter does not
see the recurrent layers, which are a single call.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor, nn


def count(model: nn.Module, predict: Callable[[], object]) -> int:
    """Count the multiply-adds while `predict` runs the model, in eval mode."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal total
        total += _FORMULAS[type(layer).__name__](layer, inputs, output)

    layers = [m for m in model.modules() if type(m).__name__ in _FORMULAS]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        predict()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _linear(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    return output.numel() * layer.in_features


def _convolution(layer: nn.Conv1d, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    return output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)


def _recurrent(layer: nn.RNNBase, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> int:
    """Each gate takes the input and the state, at each time step, in each direction."""
    steps = inputs[0].numel() // inputs[0].shape[-1]
    weights = [p.numel() for name, p in layer.named_parameters() if name.startswith("weight")]
    return steps * sum(weights)


def _attention(
    layer: nn.MultiheadAttention, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]
) -> int:
    """Query, key, value and output are linear; scores and their sums are products over time."""
    windows, steps, width = inputs[0].shape
    return windows * (4 * steps * width**2 + 2 * steps**2 * width)


def _low_rank(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Each modality meets its factor of every rank, and the ranks are summed with weights."""
    steps = output.numel() // output.shape[-1]
    return steps * (sum(p.numel() for p in layer.factors) + len(layer.factors[0]) * len(layer.bias))


def _tensor_product(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """The product of all modalities but the last meets the weights, and the last what is left."""
    steps, last = output.numel() // output.shape[-1], inputs[-1].shape[-1] + 1
    return steps * (layer.linear.weight.numel() + last * layer.linear.out_features)


_FORMULAS = {
    "Linear": _linear,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "MultiheadAttention": _attention,
    "LowRankFusion": _low_rank,
    "TensorFusion": _tensor_product,
}
