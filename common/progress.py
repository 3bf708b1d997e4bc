"""Where a training stands: weights, optimiser, random numbers, epoch and step, the best so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Settings(NamedTuple):
    """How a model is trained; `learning_rate` is Adam's, `patience` counts epochs, `faster` names
    `common.faster.WAYS`."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int
    faster: tuple[str, ...] = ()


class Epoch(NamedTuple):
    """Losses of one epoch: the training loss's mean over windows, the validation criterion."""

    epoch: int
    training_loss: float
    validation_loss: float
    seconds: float


class Progress:
    """A training under way; its state can be written between any two steps and gone on from.

    Args:
        model: On its device. windows: Number of training windows. settings: Of the training.
        device: On which the windows are chosen.

    Attributes:
        epoch: Under way, counted from 1. step: Steps done of it.
        order: The windows in the order of this epoch.
        history: The epochs that are done. best_epoch: Of them, 0 before the first.
    """

    def __init__(
        self, model: nn.Module, windows: int, settings: Settings, device: torch.device
    ) -> None:
        self.model, self.windows, self.settings = model, windows, settings
        self.device = device
        self.optimiser = torch.optim.Adam(
            model.parameters(),
            lr=settings.learning_rate,
            capturable="cuda_graph" in settings.faster,
        )
        self.shuffle = torch.Generator().manual_seed(settings.seed)
        self.epoch = 1
        self.history: list[Epoch] = []
        self.best_loss, self.best_epoch = float("inf"), 0
        self.best_state: dict[str, Tensor] = {}
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.step = 0
        self.order = torch.randperm(self.windows, generator=self.shuffle).to(self.device)
        self.total = torch.zeros((), device=self.device)  # summed there: no wait per step
        self.seconds_before, self.started = 0.0, time.perf_counter()

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        done = len(self.history)
        return done == self.settings.epochs or done - self.best_epoch >= self.settings.patience

    @property
    def steps_done(self) -> int:
        """Steps done in all epochs."""
        batches = -(-self.windows // self.settings.batch_size)
        return len(self.history) * batches + self.step

    @property
    def losses(self) -> dict[str, str]:
        """Losses of the last epoch and the best so far, for the progress bar."""
        last = self.history[-1]
        values = {"train": last.training_loss, "val": last.validation_loss, "best": self.best_loss}
        return {name: f"{value:.4f}" for name, value in values.items()}

    def count(self, loss: Tensor, windows: int) -> None:
        """Count a step by its loss and its number of windows."""
        self.step += 1
        self.total += loss * windows

    def end_epoch(self, validation_loss: float) -> None:
        """Close the epoch under way, keep its weights if it is the best, and begin the next."""
        training_loss = float(self.total) / self.windows
        self.history.append(Epoch(self.epoch, training_loss, validation_loss, self._seconds()))
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            for name, value in self.model.state_dict().items():  # into the place of the one before
                self.best_state.setdefault(name, torch.empty_like(value)).copy_(value)
        self.epoch += 1
        self._begin_epoch()

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch, if there is one."""
        if self.best_state:
            self.model.load_state_dict(self.best_state)

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def state(self) -> dict[str, Any]:
        """Return everything that decides how the training goes on: tensors and plain numbers."""
        is_cuda = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if is_cuda else None,
            "order": self.order,
            "total": self.total,
            "best_state": self.best_state,
            "history": [tuple(epoch) for epoch in self.history],
            "seconds": self._seconds(),
            **{name: getattr(self, name) for name in self._NUMBERS},
        }

    _NUMBERS = ("epoch", "step", "best_loss", "best_epoch")

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a state, which is on the CPU; None changes nothing."""
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.order, self.total = (state[name].to(self.device) for name in ("order", "total"))
        self.best_state = {k: value.to(self.device) for k, value in state["best_state"].items()}
        self.history = [Epoch(*epoch) for epoch in state["history"]]
        self.seconds_before, self.started = state["seconds"], time.perf_counter()
        for name in self._NUMBERS:
            setattr(self, name, state[name])
