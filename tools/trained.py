"""A trained model out of its checkpoint, with the script whose class it is."""

from __future__ import annotations

import importlib
import json
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from common.about import model as described
from common.experiments import Experiment, SensorSet, Study
from torch import Tensor, nn

from common import checkpoints, training
from common.files import InputError, brief

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

    What is built is the row of the script here, which the file must describe to the letter: its
    text chooses a row and is compared, and nothing is made of it, so that a file of somebody else
    can do no more than be refused.

    Raises:
        InputError: It is damaged, or not of a row of the scripts here.
    """
    tensors, about = checkpoints.load(path)
    try:
        script = _script(about)
        experiment = _experiment(script.STUDY, about)
        with torch.device("meta"):  # without memory for weights
            network = experiment.model()
        _fill(network, tensors)
    except Exception as error:  # of any kind, since the file may say anything
        raise InputError(
            f"{path}: no model of the scripts here ({brief(error)}); use a checkpoint that this "
            "version of them wrote"
        ) from error
    return Trained(network.eval().requires_grad_(False), script, experiment.row, about)


def _told(about: Mapping[str, Any], name: str) -> object:
    if name not in about:
        raise ValueError(f"it does not tell its {name}")
    return about[name]


def _script(about: Mapping[str, Any]) -> ModuleType:
    name = _told(about, "script")
    if name not in SCRIPTS:
        raise ValueError(f"there is no script {reprlib.repr(name)}")
    return importlib.import_module(name)


def _experiment(study: Study, about: Mapping[str, Any]) -> Experiment:
    """Return the row, if its model, what it reads and what it gives are what the file says."""
    row = _told(about, "row")
    if row not in study.rows:
        raise ValueError(f"{study.script.name} has no row {reprlib.repr(row)}")
    experiment = study.experiment(row)
    here = json.loads(json.dumps(described(study, experiment)))  # tuples become lists
    for name, value in here.items():
        said = _told(about, name)
        if said != value:
            raise ValueError(f"{name}: {reprlib.repr(said)}, of the row here {reprlib.repr(value)}")
    return experiment


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make the tensors, which must be the network's in name, shape and type, its weights."""
    own = network.state_dict()
    for name in {**own, **tensors}:
        if name not in own or name not in tensors:
            where = "the file" if name in own else "the model"
            raise ValueError(f"{reprlib.repr(name)} is not in {where}")
        one, other = (f"{part[name].dtype} {[*part[name].shape]}" for part in (tensors, own))
        if one != other:
            raise ValueError(f"{name} holds {one}, not {other}")
    network.load_state_dict(tensors, assign=True)
