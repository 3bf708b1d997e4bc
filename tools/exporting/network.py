"""A trained model as an ONNX network with an input per modality."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common.files import InputError
from common.training import Batch
from tools.check import layout
from tools.trained import Trained

LARGEST_BATCH = 2**16  # windows; a bound lets the exporter prove that all fit in one chunk
ONE_CHUNK = 2**31  # time steps
LARGEST_BYTES = 2e9  # what an ONNX file can hold


class NamedInputs(nn.Module):
    """A trained model that takes the channels of its sensor set, a tensor per modality.

    Args:
        trained: The model and its script.

    Shape:
        One `(B, T, C)` per modality, in the order of the sensor set, to `(B, T, K)`.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model
        self.is_joined = trained.study.inputs is not trained.script.inputs

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate the targets."""
        if self.is_joined:
            return self.model(torch.cat(modalities, dim=-1))
        return self.model(*modalities)


def channel_names(trained: Trained) -> dict[str, list[str]]:
    """Return the names of the channels of each input, in order."""
    names = layout.of(trained.study.dataset).channels
    sensors = trained.script.SENSORS
    imus = [sensors.index(sensor) for sensor in trained.sensor_set.sensors]
    return {
        modality: [name for i in imus for name in names[modality][3 * i : 3 * i + 3]]
        if modality in ("acc", "gyr")
        else names[modality]
        for modality in trained.sensor_set.modalities
    }


def random_windows(trained: Trained, count: int) -> Batch:
    """Return random windows of all channels of the dataset, in the size of measured ones."""
    names = layout.of(trained.study.dataset).channels
    generator = torch.Generator().manual_seed(0)
    shape = (count, trained.study.window)
    batch = {m: torch.randn(*shape, len(c), generator=generator) for m, c in names.items()}
    batch["acc"] = 10 * batch["acc"]  # m/s²
    return batch


def export(trained: Trained, path: Path) -> None:
    """Write a model as ONNX.

    Raises:
        InputError: It cannot be exported.
    """
    size = sum(4 * parameter.numel() for parameter in trained.model.parameters())
    if size > LARGEST_BYTES:
        raise InputError(f"{trained.row}: {size / 1e9:.1f} GB, more than an ONNX file can hold")
    channels = channel_names(trained)
    windows = trained.script.inputs(random_windows(trained, 2), trained.sensor_set)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with _quietly(), _in_one_chunk(trained.model), torch.no_grad():
        program = torch.onnx.export(
            NamedInputs(trained).eval(),
            tuple(windows),
            dynamo=True,
            input_names=list(channels),
            output_names=["targets"],
            dynamic_shapes=(tuple({0: batch} for _ in windows),),
        )
    model, units = program.model, layout.of(trained.study.dataset).units
    model.metadata_props["about"] = json.dumps(trained.about, ensure_ascii=False)
    model.metadata_props["channels"] = json.dumps(channels)
    for value, (modality, names) in zip(model.graph.inputs, channels.items(), strict=True):
        value.doc_string = f"(batch, samples, channels) in {units[modality]}: {', '.join(names)}"
    targets = [f"{target.name} ({target.unit})" for target in trained.study.targets]
    model.graph.outputs[0].doc_string = f"(batch, samples, targets): {', '.join(targets)}"
    program.save(path, external_data=False)


@contextlib.contextmanager
def _in_one_chunk(model: nn.Module) -> Iterator[None]:
    """Have layers that work through time steps in chunks do all at once: a graph has no loop."""
    chunked = [module for module in model.modules() if hasattr(module, "chunk")]
    sizes = [module.chunk for module in chunked]
    for module in chunked:
        module.chunk = ONE_CHUNK
    try:
        yield
    finally:
        for module, size in zip(chunked, sizes, strict=True):
            module.chunk = size


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's remarks, which are for its authors, from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
