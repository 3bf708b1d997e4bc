"""A trained model as an ONNX graph that takes one input per modality."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tools.check import layout
from tools.exporting.recurrent import RecurrentNode
from tools.trained import Trained

if TYPE_CHECKING:
    import onnx_ir

OUTPUT = "targets"
LARGEST_BATCH = 2**16  # windows; the exporter wants a bound, the graph takes more all the same
ALL_AT_ONCE = 2**31  # time steps, more than a batch has


class FromModalities(nn.Module):
    """A trained model that takes one tensor per modality, whatever it took before.

    It shares the weights of the trained one, which stays as it is.

    Args:
        trained: The model.

    Shape:
        One `(B, T, C)` per modality of its sensor set, `C` being the channels of that set's
        sensors, to `(B, T, K)`.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        weights = (*trained.model.parameters(), *trained.model.buffers())
        self.network = copy.deepcopy(trained.model, {id(values): values for values in weights})
        self.takes_one = trained.study.inputs is not trained.script.inputs
        for module in list(self.network.modules()):
            if hasattr(module, "chunk"):  # a graph has no loop over chunks of the time steps
                module.chunk = ALL_AT_ONCE
            for name, child in module.named_children():
                if isinstance(child, nn.LSTM | nn.GRU):
                    setattr(module, name, RecurrentNode(child))

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate the targets."""
        if self.takes_one:
            return self.network(torch.cat(modalities, dim=-1))
        return self.network(*modalities)


def channels(trained: Trained) -> dict[str, list[str]]:
    """Return the names of each modality's channels in the model's sensor set, in order."""
    names = layout.of(trained.study.dataset).channels
    numbers = {modality: torch.arange(len(of_it)) for modality, of_it in names.items()}
    chosen = trained.script.inputs(numbers, trained.sensor_set)
    return {
        modality: [names[modality][i] for i in picked]
        for modality, picked in zip(trained.sensor_set.modalities, chosen, strict=True)
    }


def write(trained: Trained, path: Path) -> None:
    """Write the graph with its weights and, as metadata, what is to be known of it.

    Raises:
        OSError: It cannot be written.
    """
    inputs = channels(trained)
    program = _traced(trained, inputs)
    _describe(program.model, trained, inputs)
    program.save(path, external_data=False)


def _traced(trained: Trained, inputs: Mapping[str, list[str]]) -> torch.onnx.ONNXProgram:
    # Two windows: a batch of one would be taken for a constant.
    windows = tuple(torch.zeros(2, trained.study.window, len(names)) for names in inputs.values())
    batch = tuple({0: torch.export.Dim("batch", max=LARGEST_BATCH)} for _ in windows)
    with _quiet():
        # In two steps: the exporter, where it cannot trace a batch of any size, takes it for one
        # of two windows and says nothing.
        traced = torch.export.export(
            FromModalities(trained).eval(), windows, dynamic_shapes=(batch,)
        )
        return torch.onnx.export(
            traced,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(batch,),
            dynamo=True,
            verbose=False,
        )


def _describe(model: onnx_ir.Model, trained: Trained, inputs: Mapping[str, list[str]]) -> None:
    """Note what the model reads and gives, beside the inputs and outputs and in the metadata."""
    units, samples = layout.of(trained.study.dataset).units, trained.study.window
    for node in model.graph:
        node.metadata_props.clear()  # the exporter's, with paths of this machine
    for value, (modality, names) in zip(model.graph.inputs, inputs.items(), strict=True):
        shape = f"(batch, {samples}, {len(names)})"
        value.doc_string = f"{shape} in {units[modality]}: {', '.join(names)}"
    targets = [f"{target.name} ({target.unit})" for target in trained.study.targets]
    shape = f"(batch, {samples}, {len(targets)})"
    model.graph.outputs[0].doc_string = f"{shape}: {', '.join(targets)}"
    told = {name: {"unit": units[name], "channels": names} for name, names in inputs.items()}
    model.metadata_props["about"] = json.dumps(trained.about, ensure_ascii=False)
    model.metadata_props["inputs"] = json.dumps(told, ensure_ascii=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the screen what the exporter tells those who write exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
