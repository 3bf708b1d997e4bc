"""The rows that are measured, and windows in their sizes."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from common.experiments import Experiment, Study
from common.folds import Fold
from torch import nn

from common import training
from common.files import InputError
from tools.check import layout

SCRIPTS = sorted(path.stem for path in Path(__file__).parents[2].glob("Dataset_*.py"))
VALIDATION_BATCHES = 1  # beside those that are trained on: a fifth is validated on in a run


class Row(NamedTuple):
    """A row of a script."""

    script: ModuleType
    name: str

    @property
    def study(self) -> Study:
        """The script's study."""
        return self.script.STUDY

    @property
    def experiment(self) -> Experiment:
        """The row's entry in the script."""
        return self.study.experiment(self.name)

    @property
    def title(self) -> dict[str, str]:
        """What a line of a table begins with."""
        model = self.experiment.model.func.__name__
        return {"dataset": self.study.dataset.upper(), "row": self.name, "model": model}


def choose(datasets: Sequence[str], wanted: Sequence[str] | None) -> list[Row]:
    """Return the rows to measure.

    Args:
        datasets: Letters. wanted: Patterns of names (`student-*`); None for all rows of sensor
            distillation and, of every other kind of model, the one with all of its sensors.

    Raises:
        InputError: A pattern fits no row.
    """
    studies = [importlib.import_module(name) for name in SCRIPTS]
    rows = [
        Row(script, row)
        for script in studies
        if script.STUDY.dataset in datasets
        for row in script.STUDY.rows
    ]
    if wanted is None:
        return [row for row in rows if _is_usual(row)]
    for pattern in wanted:
        if not fnmatch.filter((row.name for row in rows), pattern):
            raise InputError(f"--rows {pattern}: no such row; each script's --help lists its rows")
    return [row for row in rows if any(fnmatch.fnmatch(row.name, p) for p in wanted)]


def _is_usual(row: Row) -> bool:
    kinds = {name.split("-")[0]: name for name in row.study.rows}  # of each kind the last one
    is_ablation = "model_ablation" in row.script.__name__  # the blocks of the teacher
    is_distillation = hasattr(row.script, "distillation_loss")
    return is_distillation or (not is_ablation and row.name in kinds.values())


class Problem:
    """Random windows in the size of a dataset's, for training a row.

    Args:
        row: The row. batches: Of training windows. batch_size: Windows. device: To train on.
    """

    def __init__(self, row: Row, batches: int, batch_size: int, device: torch.device) -> None:
        self.row, self.batch_size, self.device = row, batch_size, device
        count = (batches + VALIDATION_BATCHES) * batch_size
        self.samples = random_samples(row.study, count, device)
        rows = torch.arange(count * row.study.window).view(count, -1)
        train, validation = rows.split((batches * batch_size, VALIDATION_BATCHES * batch_size))
        self.fold = Fold("", train, validation, rows[:0], torch.ones(0, dtype=torch.bool))

    def model(self) -> nn.Module:
        """Build the network, the same every time."""
        torch.manual_seed(0)
        return self.row.experiment.model().to(self.device)

    @cached_property
    def loss(self) -> training.Loss:
        """The row's loss, with the script's usual weights."""
        return self.row.experiment.loss(argparse.Namespace(alpha=0.5, beta=1.0))

    @cached_property
    def teaching(self) -> training.Maker | None:
        """What an untrained teacher makes of windows; it takes as long as a trained one."""
        experiment = self.row.experiment
        if experiment.teacher is None:
            return None
        torch.manual_seed(1)
        teacher = self.row.study.experiment(experiment.teacher).model().to(self.device)
        return experiment.teaching(teacher)

    def settings(self, epochs: int, faster: Sequence[str] = ()) -> training.Settings:
        """Return the settings of a training without early stopping."""
        return training.Settings(
            epochs, epochs, self.batch_size, 1e-3, seed=42, faster=tuple(faster)
        )

    def train(
        self, model: nn.Module, epochs: int, faster: Sequence[str] = ()
    ) -> list[training.Epoch]:
        """Train as a run does; return the epochs."""
        experiment = self.row.experiment
        return training.train(
            model,
            self.samples,
            self.fold,
            loss=self.loss,
            predict=self.row.study.predict(self.row.name),
            criterion=experiment.criterion or self.row.study.criterion,
            settings=self.settings(epochs, faster),
            name=self.row.name,
            features=experiment.features,
            teaching=self.teaching,
            show_progress=False,
        )


def random_samples(study: Study, windows: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return `(rows, C)` random samples of all modalities, and `targets`."""
    generator = torch.Generator().manual_seed(0)
    found = layout.of(study.dataset)
    channels = {name: len(names) for name, names in found.channels.items()}
    channels["targets"] = len(study.targets)
    return {
        name: torch.randn(windows * study.window, count, generator=generator).to(device)
        for name, count in channels.items()
    }
