"""A trained network as an ONNX graph with one input per modality."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tools.trained import Trained, channel_names

if TYPE_CHECKING:
    import onnx_ir

OUTPUT = "targets"
LARGEST_BATCH = 2**16  # windows; the exporter requires a bound, but the graph accepts more
SINGLE_CHUNK = 2**31  # time steps, more than a batch has

# Gates of the ONNX operator as indices of PyTorch's gates. Both operators and their orders:
# https://onnx.ai/onnx/operators/onnx__LSTM.html (i o f c; PyTorch i f c o)
# https://onnx.ai/onnx/operators/onnx__GRU.html (z r h; PyTorch r z h)
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def write(trained: Trained, path: Path) -> None:
    """Write the graph with its weights, and a description of its inputs and outputs.

    Raises:
        OSError: The file cannot be written.
    """
    program = _export(trained)
    _describe(program.model, trained)
    program.save(path, external_data=False)


class NetworkOfModalities(nn.Module):
    """A trained network in a form that can be exported, with one input per modality.

    It shares the weights of the trained network, which is not changed.

    Args:
        trained: the network.

    Shape:
        One `(B, T, C)` per modality of the sensor set, with the channels of its sensors, to
        `(B, T, K)`.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        weights = (*trained.network.parameters(), *trained.network.buffers())
        self.network = copy.deepcopy(trained.network, {id(values): values for values in weights})
        one_sample = {name: torch.zeros(1) for name in trained.script.UNITS}
        self.is_joined = len(trained.inputs(one_sample)) == 1
        for module in list(self.network.modules()):
            if hasattr(module, "chunk"):  # a graph has no loop over chunks of time steps
                module.chunk = SINGLE_CHUNK
            for name, child in module.named_children():
                if isinstance(child, nn.LSTM | nn.GRU):
                    setattr(module, name, RecurrentNode(child))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate the targets."""
        if self.is_joined:
            return self.network(torch.cat(modalities, dim=-1))
        return self.network(*modalities)


class RecurrentNode(nn.Module):
    """An `nn.LSTM` or `nn.GRU` of one layer, batch first, as a single ONNX node.

    The exporter finds this node too, but traces the layer time step by time step, several times:
    45 seconds for the teacher, instead of one.

    Args:
        layer: the layer, whose weights are copied.

    Shape:
        `(B, T, C)` to the output `(B, T, directions * hidden_size)`, and None for the states.
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
        directions = ("l0", "l0_reverse") if layer.bidirectional else ("l0",)
        weight, recurrence, input_bias, hidden_bias = (
            torch.stack([self._reorder(getattr(layer, f"{part}_{d}")) for d in directions])
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        self.register_buffer("weight", weight)  # (directions, gates * hidden, C)
        self.register_buffer("recurrence", recurrence)
        self.register_buffer("bias", torch.cat([input_bias, hidden_bias], dim=1))

    def _reorder(self, values: Tensor) -> Tensor:
        """Sort the gates, stacked along the first axis, as the ONNX operator does."""
        gates = values.chunk(len(GATES[self.operator]))
        return torch.cat([gates[i] for i in GATES[self.operator]])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Insert the node into the graph."""
        batch, samples, _ = x.shape
        output = torch.onnx.ops.symbolic(
            self.operator,
            (x.transpose(0, 1), self.weight, self.recurrence, self.bias),
            self.attributes,
            dtype=x.dtype,
            shape=(samples, len(self.weight), batch, self.attributes["hidden_size"]),
        )
        return output.permute(2, 0, 1, 3).flatten(2), None  # (B, T, directions * hidden_size)


def _export(trained: Trained) -> torch.onnx.ONNXProgram:
    names = channel_names(trained.script, trained.sensor_set)
    # Two windows, because the exporter would treat a batch of one as a constant.
    windows = tuple(torch.zeros(2, trained.script.WINDOW, len(c)) for c in names.values())
    batch = tuple({0: torch.export.Dim("batch", max=LARGEST_BATCH)} for _ in windows)
    with _silence():
        # In two steps, since the exporter, if it cannot trace a batch of any size, would silently
        # fix the batch at two windows.
        traced = torch.export.export(
            NetworkOfModalities(trained).eval(), windows, dynamic_shapes=(batch,)
        )
        return torch.onnx.export(
            traced,
            input_names=list(names),
            output_names=[OUTPUT],
            dynamic_shapes=(batch,),
            dynamo=True,
            verbose=False,
        )


def _describe(model: onnx_ir.Model, trained: Trained) -> None:
    """Describe inputs and outputs in their documentation and in the metadata of the file."""
    script = trained.script
    names, units = channel_names(script, trained.sensor_set), script.UNITS
    for node in model.graph:
        node.metadata_props.clear()  # the exporter notes paths of this machine
    for value, (modality, channels) in zip(model.graph.inputs, names.items(), strict=True):
        shape = f"(batch, {script.WINDOW}, {len(channels)})"
        value.doc_string = f"{shape} in {units[modality]}: {', '.join(channels)}"
    targets = [f"{target.name} ({target.unit})" for target in script.TARGETS]
    shape = f"(batch, {script.WINDOW}, {len(targets)})"
    model.graph.outputs[0].doc_string = f"{shape}: {', '.join(targets)}"
    inputs = {name: {"unit": units[name], "channels": c} for name, c in names.items()}
    model.metadata_props["about"] = json.dumps(trained.description, ensure_ascii=False)
    model.metadata_props["inputs"] = json.dumps(inputs, ensure_ascii=False)


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the exporter's messages, which are meant for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
