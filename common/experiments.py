"""What a script tells the shared run: its sensor sets, targets, rows and the study they make up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from common import training
from common.data import Recording


class SensorSet(NamedTuple):
    """The IMUs of a sensor set, and the modalities that a model gets of it."""

    sensors: tuple[str, ...]
    modalities: tuple[str, ...] = ("acc", "gyr")


class Target(NamedTuple):
    """A quantity to estimate: its name and unit in tables and figures."""

    name: str
    unit: str


class Fit(NamedTuple):
    """How a row is made of trained networks without training.

    Attributes:
        method: Fits the model in place. It is given the model and a function that tells what a
            network predicts for the windows' rows, `(rows, K)`.
        windows: Protocol to the windows of the fold, `test` or `validation`.
    """

    method: Callable[[nn.Module, Callable[[nn.Module], Tensor]], None]
    windows: Mapping[str, str]


@dataclass(frozen=True)
class Experiment:
    """One row of the table.

    Attributes:
        row: Its name. sensor_set: The name of its sensor set.
        model: Builds the network: its class and arguments, which a checkpoint tells.
        loss: Makes the training loss, of the flags.
        teacher: The row whose trained model teaches this one, None for none.
        teaching: Given the fold's teacher, tells what it makes of a batch of windows. It is done
            once per fold; the loss finds it in the batch.
        features: Makes `(B, F)` of a batch of windows, None for nothing. It is done once per fold;
            the model is given that in place of its inputs.
        criterion: Of validation predictions and targets, None for the study's.
        epochs: At most, by default; None for the study's.
        networks: Child of the model to the row whose trained network it is.
        fit: Takes the place of training.
    """

    row: str
    sensor_set: str
    model: partial[nn.Module]
    loss: Callable[[argparse.Namespace], training.Loss] | None = None
    teacher: str | None = None
    teaching: Callable[[nn.Module], training.Maker] | None = None
    features: training.WindowFeatures | None = None
    criterion: training.Criterion | None = None
    epochs: int | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The rows of the same fold that come before this one."""
        return (*([self.teacher] if self.teacher else []), *self.networks.values())


class Sample(NamedTuple):
    """The synthetic dataset that stands in for the file, and what a quick look trains.

    Attributes:
        subjects: Their number. minutes: Of each. epochs: At most.
        rows: Those that are run where none are asked for; None for all.
        seed: Of the dataset.
    """

    subjects: int
    minutes: float
    epochs: int
    rows: tuple[str, ...] | None = None
    seed: int = 42


@dataclass(frozen=True)
class Study:
    """What the shared run has to know of a script.

    Attributes:
        script: Path of the script. dataset: `a` or `b`. read: Reads its file.
        window: Samples of a window. rate_hz: Samples per second. epochs: At most, by default.
        sensor_sets: By name. targets: In the order of the models' outputs.
        inputs: The tensors, `(B, T, C)` each, that a batch holds for a sensor set.
        criterion: Of validation predictions and targets; early stopping watches it.
        experiments: The rows of the table.
        figures: Draws the figures of a run: `(study, run, rows, test_subjects)`.
        sample: The stand-in for the file.
        own_flags: Names of the script's own flags that change its numbers.
    """

    script: Path
    dataset: str
    read: Callable[[Path], Recording]
    window: int
    rate_hz: int
    epochs: int
    sensor_sets: dict[str, SensorSet]
    targets: Sequence[Target]
    inputs: Callable[[training.Batch, SensorSet], list[Tensor]]
    criterion: training.Criterion
    experiments: Sequence[Experiment]
    figures: Callable[..., None]
    sample: Sample
    own_flags: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """The names of all rows, in the table's order."""
        return [experiment.row for experiment in self.experiments]

    def experiment(self, row: str) -> Experiment:
        """Return the experiment of a row."""
        return next(experiment for experiment in self.experiments if experiment.row == row)

    def predict(self, row: str) -> training.Predict:
        """Return the function that predicts `(B, T, K)` with a row's model and sensors."""
        experiment = self.experiment(row)
        sensor_set = self.sensor_sets[experiment.sensor_set]

        def predict(model: nn.Module, batch: training.Batch) -> Tensor:
            if experiment.features is None:
                return model(*self.inputs(batch, sensor_set))
            made = batch.get(training.FEATURES)
            return model(experiment.features(batch) if made is None else made)

        return predict
