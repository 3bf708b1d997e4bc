"""A trained model out of its checkpoint, with the script whose class it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import checkpoints, training
from common.experiments import Experiment, SensorSet, Study
from common.files import InputError

SCRIPTS = sorted(path.stem for path in Path(__file__).parents[1].glob("Dataset_*.py"))


class Trained(NamedTuple):
    """A model in eval mode, on the CPU, and what is to be known of it.

    Attributes:
        model: The network. script: The module that defines it. row: Its name in the script.
        about: What its checkpoint tells (`common.about.checkpoint`).
    """

    model: nn.Module
    script: ModuleType
    row: str
    about: dict[str, Any]

    @property
    def study(self) -> Study:
        """The study of the script."""
        return self.script.STUDY

    @property
    def experiment(self) -> Experiment:
        """The row of the script."""
        return self.study.experiment(self.row)

    @property
    def sensor_set(self) -> SensorSet:
        """The IMUs and modalities that the model reads."""
        return self.study.sensor_sets[self.experiment.sensor_set]

    @property
    def predict(self) -> Callable[[training.Batch], Tensor]:
        """The function that gives `(B, T, K)` of a batch."""
        predict = self.study.predict(self.row)
        return lambda batch: predict(self.model, batch)


def restore(path: Path) -> Trained:
    """Build the model of a checkpoint and give it its weights.

    Only classes of this collection's scripts are built, and what the file says is compared with
    them first, so that a file made by somebody else can do no more than be refused.

    Raises:
        InputError: It is damaged, or not of a row of the scripts here.
    """
    tensors, about = checkpoints.load(path)
    try:
        script = _script(about["script"])
        _check_row(script, about)
        network = _network(script, about["model"], about["arguments"])
        _fill(network, tensors)
    except Exception as error:  # of any kind, since the file may say anything
        raise InputError(
            f"{path}: no model of the scripts here ({error}); use a checkpoint that this version "
            "of them wrote"
        ) from error
    return Trained(network.eval().requires_grad_(False), script, about["row"], about)


def _script(name: str) -> ModuleType:
    if name not in SCRIPTS:
        raise ValueError(f"there is no script {name}")
    return importlib.import_module(name)


def _check_row(script: ModuleType, about: Mapping[str, Any]) -> None:
    """Check that the row is there, and reads and gives what the checkpoint says."""
    study = script.STUDY
    if about["row"] not in study.rows:
        raise ValueError(f"{about['script']} has no row {about['row']}")
    sensors, modalities = study.sensor_sets[about["sensor_set"]]
    here = {
        "sensor_set": study.experiment(about["row"]).sensor_set,
        "sensors": list(sensors),
        "modalities": list(modalities),
        "targets": [target._asdict() for target in study.targets],
        "window": study.window,
        "rate_hz": study.rate_hz,
    }
    for name, value in here.items():
        if about[name] != value:
            raise ValueError(f"{name} is {about[name]}, of the row here {value}")


def _network(script: ModuleType, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a class of the script without memory for its weights."""
    found = vars(script).get(name)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"there is no network {name}")
    with torch.device("meta"):
        return found(**{key: _as_tuple(value) for key, value in arguments.items()})


def _as_tuple(value: object) -> object:
    """Make tuples of JSON's lists."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make the tensors, which must be the network's in name, shape and type, its weights."""
    for name, own in network.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise ValueError(f"{name} holds {tensors[name].dtype}, not {own.dtype}")
    network.load_state_dict(tensors, assign=True)
