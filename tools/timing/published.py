"""The published way of training and of reading, to measure against.

Written from its description: a TensorDataset of CPU tensors in a shuffled DataLoader, seven tensors
a sample of which a model uses two or three, moved to the device in every step, the loss read back
in every step, and the teacher run in every step; files read step by step into an array that grows.
"""

from __future__ import annotations

import time

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from common import training
from common.training import FEATURES, Batch
from tools.timing.rows import Problem


class PublishedLoop:
    """The published loop on the windows of a problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.experiment = problem.row.experiment
        self.names = [*problem.samples, "acc_2d", "gyr_2d", "all_imus"]
        if self.experiment.features is not None:
            self.names[-1] = FEATURES
        used = {"targets", *problem.row.study.sensor_sets[self.experiment.sensor_set].modalities}
        if self.experiment.features is not None:
            used = {"targets", FEATURES}
        if problem.teaching is not None:
            used = set(problem.samples)
        self.used = used
        self.train = self._dataset(problem.fold.train)
        self.validation = self._dataset(problem.fold.validation)

    def _dataset(self, rows: Tensor) -> TensorDataset:
        """Copy the windows: seven tensors, as the models of all scripts together need them."""
        samples = {name: values.cpu() for name, values in self.problem.samples.items()}
        batch = training.batch_of(samples, rows)
        for name in ("acc", "gyr"):  # (windows, IMUs, axes, samples)
            batch[f"{name}_2d"] = batch[name].unflatten(-1, (-1, 3)).permute(0, 2, 3, 1).clone()
        batch["all_imus"] = torch.cat([batch["acc"], batch["gyr"]], dim=-1)
        if self.experiment.features is not None:
            batch[FEATURES] = self.experiment.features(batch)
        return TensorDataset(*(batch[name] for name in self.names))

    def batch(self, tensors: list[Tensor]) -> Batch:
        """Move what the model uses to the device."""
        named = dict(zip(self.names, tensors, strict=True))
        return {name: named[name].to(self.problem.device) for name in self.used}

    def epoch(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, order: torch.Generator
    ) -> tuple[float, float]:
        """Train and validate for an epoch; return the training loss and the seconds."""
        started, size = time.perf_counter(), self.problem.batch_size
        sampler = RandomSampler(self.train, generator=order)
        running = 0.0
        model.train()
        for tensors in DataLoader(self.train, size, sampler=sampler):
            batch = self.batch(tensors)
            optimiser.zero_grad()
            loss = self.problem.loss(model, {**batch, **self._taught(batch)})
            loss.backward()
            optimiser.step()
            running += loss.item()
        self._validate(model)
        return running / (len(self.train) // size), time.perf_counter() - started

    @torch.no_grad()
    def _validate(self, model: nn.Module) -> float:
        model.eval()
        running, predict = 0.0, self.problem.row.study.predict(self.problem.row.name)
        criterion = self.experiment.criterion or self.problem.row.study.criterion
        for tensors in DataLoader(self.validation, self.problem.batch_size):
            batch = self.batch(tensors)
            running += criterion(predict(model, batch), batch["targets"]).item()
        return running

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Batch:
        return {} if self.problem.teaching is None else self.problem.teaching(batch)


def read_a(table: h5py.Dataset, columns: np.ndarray) -> np.ndarray:
    """Append the rows of an activity one by one, `(rows, C)`, as the row-wise reader does."""
    values = np.empty((0, len(columns)), table.dtype)
    for row in table[()]:
        values = np.append(values, row[columns][None], axis=0)
    return values


def read_b(table: h5py.Dataset, columns: np.ndarray) -> np.ndarray:
    """Append the valid rows of a subject's steps step by step, `(rows, C)`."""
    values = np.empty((0, len(columns)), table.dtype)
    for step in table[()]:
        filled = np.flatnonzero((step != 0).any(axis=1))
        values = np.append(values, step[: filled[-1] + 1, columns], axis=0)
    return values
