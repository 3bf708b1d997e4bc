"""Recurrent layers as the single ONNX node that each of them is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Gates of the ONNX operator as numbers of PyTorch's gates. Both operators and their orders:
# https://onnx.ai/onnx/operators/onnx__LSTM.html (i o f c; PyTorch i f c o)
# https://onnx.ai/onnx/operators/onnx__GRU.html (z r h; PyTorch r z h)
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


class RecurrentNode(nn.Module):
    """An `nn.LSTM` or `nn.GRU` of one layer, batch first, for `torch.onnx.export` alone.

    The exporter takes such a layer as it is, but walks through its time steps one by one, several
    times: three quarters of a minute for the teacher. This is the same node in under a second.

    Args:
        layer: The layer, whose weights are copied.

    Shape:
        `(B, T, C)` to the output `(B, T, directions * hidden_size)` and None for the states.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.operator = layer.mode
        self.attributes: dict[str, int | str] = {
            "hidden_size": layer.hidden_size,
            "direction": "bidirectional" if layer.bidirectional else "forward",
        }
        if layer.mode == "GRU":
            self.attributes["linear_before_reset"] = 1  # PyTorch resets after the matrix product
        names = ("l0", "l0_reverse") if layer.bidirectional else ("l0",)
        parts = {
            part: torch.stack([self._in_order(getattr(layer, f"{part}_{name}")) for name in names])
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        self.register_buffer("weight", parts["weight_ih"])  # (directions, gates * hidden, C)
        self.register_buffer("recurrence", parts["weight_hh"])
        self.register_buffer("bias", torch.cat([parts["bias_ih"], parts["bias_hh"]], dim=1))

    def _in_order(self, values: Tensor) -> Tensor:
        """Put PyTorch's gates, one after another in the first axis, into the operator's order."""
        gates = values.chunk(len(GATES[self.operator]))
        return torch.cat([gates[i] for i in GATES[self.operator]])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Stand for the node."""
        batch, samples, _ = x.shape
        output = torch.onnx.ops.symbolic(
            self.operator,
            (x.transpose(0, 1), self.weight, self.recurrence, self.bias),
            self.attributes,
            dtype=x.dtype,
            shape=(samples, len(self.weight), batch, self.attributes["hidden_size"]),
        )
        return output.permute(2, 0, 1, 3).flatten(2), None  # (B, T, directions * hidden_size)
