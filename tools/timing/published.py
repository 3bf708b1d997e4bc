"""The published way of training and of reading, to measure against.

Written from its description: a TensorDataset of CPU tensors in a shuffled DataLoader, seven tensors
a sample of which a model uses two or three, moved to the device in every step, the loss read back
in every step, and the teacher run in every step; files read step by step into an array that grows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from common import training
from common.training import FEATURES, Batch, Epoch
from tools.timing.rows import Problem


class Shuffled(Sampler[int]):
    """Windows in the order in which the loop of `common.training` takes them, epoch by epoch.

    PyTorch's own sampler draws twice per epoch: from the second on, the losses could not be
    compared.

    Args:
        windows: Their number. seed: Of the shuffling.
    """

    def __init__(self, windows: int, seed: int) -> None:
        self.windows, self.generator = windows, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.windows, generator=self.generator).tolist())

    def __len__(self) -> int:
        return self.windows


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

    def run(self, model: nn.Module, epochs: int) -> list[Epoch]:
        """Train for some epochs; the losses are means over batches."""
        settings = self.problem.settings(epochs)
        optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate)
        order = Shuffled(len(self.train), settings.seed)
        torch.manual_seed(settings.seed)  # of dropout
        return [self._epoch(number, model, optimiser, order) for number in range(1, epochs + 1)]

    def _epoch(
        self, number: int, model: nn.Module, optimiser: torch.optim.Optimizer, order: Shuffled
    ) -> Epoch:
        started, running = time.perf_counter(), 0.0
        loader = self._loader(self.train, order)
        model.train()
        for tensors in loader:
            batch = self.batch(tensors)
            optimiser.zero_grad()
            loss = self.problem.loss(model, {**batch, **self._taught(batch)})
            loss.backward()
            optimiser.step()
            running += loss.item()
        validation_loss = self._validate(model)
        seconds = time.perf_counter() - started
        return Epoch(number, running / len(loader), validation_loss, seconds)

    def _loader(self, windows: TensorDataset, order: Shuffled | None) -> DataLoader:
        random = torch.Generator()  # which workers would get, and none of dropout's numbers
        return DataLoader(windows, self.problem.batch_size, sampler=order, generator=random)

    @torch.no_grad()
    def _validate(self, model: nn.Module) -> float:
        model.eval()
        running, predict = 0.0, self.problem.row.study.predict(self.problem.row.name)
        criterion = self.experiment.criterion or self.problem.row.study.criterion
        loader = self._loader(self.validation, order=None)
        for tensors in loader:
            batch = self.batch(tensors)
            running += criterion(predict(model, batch), batch["targets"]).item()
        return running / len(loader)

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
