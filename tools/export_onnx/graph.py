"""A trained network as an ONNX graph with one input per modality.

A network that reads a stream also has its recurrent state as an input and an output, all of it in
one tensor.
"""

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

from tools.trained import Trained, channel_names, count_channels

if TYPE_CHECKING:
    import onnx_ir

OUTPUT = "targets"
STATE, NEW_STATE = "state", "new_state"  # of a network that reads a stream
LARGEST_BATCH = 2**16  # windows; the exporter requires a bound, but the graph accepts more
LONGEST_CALL = 2**16  # samples of a stream; the same
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

    Shape:
        One `(B, T, C)` per modality of the sensor set, with the channels of its sensors, to
        `(B, T, K)`. A network that reads a stream also takes and returns its state, `(B, units)`.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.state_sizes = state_sizes(trained)
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

    def forward(self, *modalities: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate the targets; the state, if there is one, follows the modalities."""
        if self.state_sizes:
            *modalities, state = modalities
            parts = state[None].split(self.state_sizes, dim=-1)
            output, parts = self.network.stream(*modalities, state=parts)
            return output, torch.cat(parts, dim=-1)[0]
        if self.is_joined:
            return self.network(torch.cat(modalities, dim=-1))
        return self.network(*modalities)


class RecurrentNode(nn.Module):
    """An `nn.LSTM` or `nn.GRU` of one layer, batch first, as a single ONNX node.

    The exporter finds this node too, but traces the layer time step by time step, several times:
    45 seconds for the teacher, instead of one.

    Shape:
        Same as the layer: `(B, T, C)`, and the state before or None, to the output
        `(B, T, directions * hidden_size)` and the state after, `(directions, B, hidden_size)` each.
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

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Insert the node into the graph."""
        batch, samples, _ = x.shape
        directions, size = len(self.weight), self.attributes["hidden_size"]
        before = (state,) if isinstance(state, Tensor) else (state or ())
        state_shapes = [(directions, batch, size)] * (2 if self.operator == "LSTM" else 1)
        output, *after = torch.onnx.ops.symbolic_multi_out(
            self.operator,  # its fifth input would be the lengths of sequences that differ
            (x.transpose(0, 1), self.weight, self.recurrence, self.bias, None, *before),
            self.attributes,
            dtypes=[x.dtype] * (1 + len(state_shapes)),
            shapes=[(samples, directions, batch, size), *state_shapes],
        )
        output = output.permute(2, 0, 1, 3).flatten(2)  # (B, T, directions * hidden_size)
        return output, tuple(after) if self.operator == "LSTM" else after[0]


def state_sizes(trained: Trained) -> list[int]:
    """Return the units of each state tensor of a streaming network; empty for other networks."""
    if trained.lookahead is None:
        return []
    channels = count_channels(trained.script).items()
    one_sample = {modality: torch.zeros(1, 1, count) for modality, count in channels}
    return [part.shape[-1] for part in trained.network.stream(*trained.inputs(one_sample))[1]]


def _export(trained: Trained) -> torch.onnx.ONNXProgram:
    names = channel_names(trained.script, trained.sensor_set)
    network = NetworkOfModalities(trained).eval()
    # Two windows, because the exporter would treat a batch of one as a constant.
    inputs = [torch.zeros(2, trained.script.WINDOW, len(c)) for c in names.values()]
    batch = {0: torch.export.Dim("batch", max=LARGEST_BATCH)}
    dimensions, input_names, output_names = [batch] * len(inputs), [*names], [OUTPUT]
    if network.state_sizes:
        samples = {1: torch.export.Dim("samples", max=LONGEST_CALL)}
        inputs.append(torch.zeros(2, sum(network.state_sizes)))
        dimensions = [batch | samples] * len(names) + [batch]
        input_names.append(STATE)
        output_names.append(NEW_STATE)
    with _silence():
        # In two steps, since the exporter, if it cannot trace a batch of any size, would silently
        # fix the batch at two windows.
        dynamic = {"dynamic_shapes": (tuple(dimensions),)}
        traced = torch.export.export(network, tuple(inputs), **dynamic)
        return torch.onnx.export(
            traced,
            input_names=input_names,
            output_names=output_names,
            **dynamic,
            dynamo=True,
            verbose=False,
        )


def is_exported(path: Path) -> bool:
    """Return whether `write` wrote a file."""
    import onnx  # an optional package

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # arbitrary bytes can raise anything in a parser
        return False
    return {"about", "inputs"} <= {entry.key for entry in model.metadata_props}


def _describe(model: onnx_ir.Model, trained: Trained) -> None:
    """Describe inputs and outputs in their `doc_string` and in the metadata of the file."""
    script = trained.script
    names, units = channel_names(script, trained.sensor_set), script.UNITS
    sizes = state_sizes(trained)
    samples = "samples" if sizes else script.WINDOW
    for node in model.graph:
        node.metadata_props.clear()  # the exporter notes paths of this machine
    inputs: dict[str, dict[str, object]] = {}
    for value, (modality, channels) in zip(model.graph.inputs, names.items(), strict=False):
        inputs[modality] = {"unit": units[modality], "channels": channels}
        shape = f"(batch, {samples}, {len(channels)})"
        value.doc_string = f"{shape} in {units[modality]}: {', '.join(channels)}"
    targets = [f"{target.name} ({target.unit})" for target in script.TARGETS]
    description = f"(batch, {samples}, {len(targets)}): {', '.join(targets)}"
    if sizes:
        lookahead, shape = trained.lookahead, f"(batch, {sum(sizes)})"
        latency_ms = 1000 * lookahead / script.RATE_HZ
        description += f"; latency {lookahead} samples ({latency_ms:g} ms)"
        before, after = model.graph.inputs[-1], model.graph.outputs[1]
        before.doc_string = f"{shape}: {NEW_STATE} of the call before, zeros at the start"
        after.doc_string = f"{shape}: {STATE} of the next call"
        inputs[STATE] = {"units": sum(sizes), "start": 0}
        model.metadata_props["lookahead"] = str(lookahead)
    model.graph.outputs[0].doc_string = description
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
