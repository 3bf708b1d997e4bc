"""A trained model as an ONNX graph that takes one input per modality."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tools.check import layout
from tools.exporting.recurrent import RecurrentNode
from tools.trained import Trained

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
    samples = trained.study.window
    # Two windows: a batch of one would be taken for a constant.
    windows = tuple(torch.zeros(2, samples, len(names)) for names in inputs.values())
    batch = tuple({0: torch.export.Dim("batch", max=LARGEST_BATCH)} for _ in windows)
    with _quiet():
        # Traced here, since the exporter, where it fails to, makes the batch a constant.
        program = torch.onnx.export(
            torch.export.export(FromModalities(trained).eval(), windows, dynamic_shapes=(batch,)),
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(batch,),
            dynamo=True,
            verbose=False,
        )
    model, units = program.model, layout.of(trained.study.dataset).units
    for node in model.graph:
        node.metadata_props.clear()  # the exporter's, with paths of this machine
    for value, (modality, names) in zip(model.graph.inputs, inputs.items(), strict=True):
        value.doc_string = f"(batch, {samples}, {len(names)}) in {units[modality]}: " + " ".join(
            names
        )
    targets = [f"{target.name} ({target.unit})" for target in trained.study.targets]
    model.graph.outputs[0].doc_string = f"(batch, {samples}, {len(targets)}): " + ", ".join(targets)
    told = {modality: {"unit": units[modality], "channels": c} for modality, c in inputs.items()}
    model.metadata_props["about"] = json.dumps(trained.about, ensure_ascii=False)
    model.metadata_props["inputs"] = json.dumps(told, ensure_ascii=False)
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the screen what the exporter tells those who write exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
