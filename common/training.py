"""The one training loop: Adam, early stopping on the validation loss, best epoch restored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.folds import Fold

Batch = dict[str, Tensor]
"""Modality, or `"targets"`, to `(B, T, C)`; a row's `FEATURES` to `(B, F)`, where it has some."""
FEATURES = "features"
FEATURE_CHUNK = 256  # windows whose features are made at once: bounds the memory
WindowFeatures = Callable[[Batch], Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
Predict = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


class Settings(NamedTuple):
    """How a model is trained; `learning_rate` is Adam's, `patience` counts epochs."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int


class Epoch(NamedTuple):
    """Losses of one epoch: the training loss's mean over windows, the validation criterion."""

    epoch: int
    training_loss: float
    validation_loss: float
    seconds: float


class DivergedError(RuntimeError):
    """A loss was not finite; the message names the row, the fold and the epoch."""


class Windows:
    """Windows of a recording on its device; a batch is an index into them.

    Args:
        samples: Modality or `"targets"` to `(rows, C)`. rows: `(windows, T)` row numbers.
        features: Gives `(B, F)` of a batch; made here, once, for all windows.
    """

    def __init__(
        self, samples: dict[str, Tensor], rows: Tensor, features: WindowFeatures | None = None
    ) -> None:
        self.samples, self.rows = samples, rows.to(samples["targets"].device)
        self.features = None
        if features is not None:
            chunks = self.rows.split(FEATURE_CHUNK)
            self.features = torch.cat([features(batch_of(samples, rows)) for rows in chunks])

    def batch(self, chosen: Tensor) -> Batch:
        """Gather the windows of the numbers `chosen`."""
        batch = batch_of(self.samples, self.rows[chosen])
        return batch if self.features is None else {**batch, FEATURES: self.features[chosen]}

    def numbers(self) -> Tensor:
        """Return the numbers of all windows."""
        return torch.arange(len(self.rows), device=self.rows.device)


def train(
    model: nn.Module,
    samples: dict[str, Tensor],
    fold: Fold,
    *,
    loss: Loss,
    predict: Predict,
    criterion: Criterion,
    settings: Settings,
    name: str,
    features: WindowFeatures | None = None,
) -> list[Epoch]:
    """Train `model` in place and leave it as it was after its best epoch.

    Dropout and shuffling are seeded here, so that a result depends on no other training.

    Args:
        model: On the samples' device. samples: Modality or `"targets"` to `(rows, C)`.
        fold: Its `train` and `validation` windows are used.
        loss: Minimised over batches. predict: `(B, T, K)` of a batch.
        criterion: Of all validation predictions and targets at once; early stopping watches it.
        settings: Epochs, patience in epochs, batch size, learning rate, seed.
        name: Stands before the progress bar and in errors.
        features: Made of every window before the first epoch, to stand in the batches.

    Raises:
        DivergedError: The validation loss is not finite.
    """
    windows = Windows(samples, fold.train, features)
    validation = Windows(samples, fold.validation, features)
    targets = samples["targets"][validation.rows]
    torch.manual_seed(settings.seed)
    shuffle = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    history: list[Epoch] = []
    best, best_epoch, best_state = float("inf"), 0, {}
    state = model.state_dict()
    steps = settings.epochs * len(list(_batches(windows.numbers(), settings.batch_size)))
    with tqdm(total=steps, desc=name, unit="step", disable=None, leave=False) as bar:
        for epoch in range(1, settings.epochs + 1):
            started = time.perf_counter()
            order = torch.randperm(len(windows.rows), generator=shuffle).to(targets.device)
            batches = _batches(order, settings.batch_size)
            training_loss = _train_epoch(model, windows, batches, loss, optimiser, bar)
            prediction = _predict(model, validation, predict, settings.batch_size)
            validation_loss = float(criterion(prediction, targets))
            if not math.isfinite(validation_loss):
                raise DivergedError(f"{name}, epoch {epoch}: the validation loss is not finite")
            seconds = time.perf_counter() - started
            history.append(Epoch(epoch, training_loss, validation_loss, seconds))
            if validation_loss < best:
                best, best_epoch = validation_loss, epoch
                _copy_into(best_state, state)
            bar.set_postfix(train=f"{training_loss:.4f}", val=f"{validation_loss:.4f}", best=best)
            if epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best_state)
    return history


def _copy_into(kept: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Keep a copy of a model's state, in the place of the one before."""
    for name, value in state.items():
        kept.setdefault(name, torch.empty_like(value)).copy_(value)


def _train_epoch(
    model: nn.Module,
    windows: Windows,
    batches: Iterator[Tensor],
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    bar: tqdm,
) -> float:
    model.train()
    total = torch.zeros((), device=windows.rows.device)  # summed there: no wait per step
    for chosen in batches:
        optimiser.zero_grad(set_to_none=True)
        value = loss(model, windows.batch(chosen))
        value.backward()
        optimiser.step()
        total += value.detach() * len(chosen)
        bar.update()
    return float(total) / len(windows.rows)


def batch_of(samples: dict[str, Tensor], rows: Tensor) -> Batch:
    """Gather windows: `(rows, C)` samples and `(B, T)` row numbers give `(B, T, C)`."""
    return {name: values[rows] for name, values in samples.items()}


def _batches(windows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Split windows; a last batch of one window joins the one before it.

    BatchNorm over the windows of a batch, as of handcrafted features, is not defined for one.
    """
    batches = list(windows.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return iter(batches)


def predict_windows(
    model: nn.Module,
    samples: dict[str, Tensor],
    windows: Tensor,
    predict: Predict,
    batch_size: int,
    features: WindowFeatures | None = None,
) -> Tensor:
    """Predict `(windows, T, K)` in eval mode, batch by batch; `features` as in `train`."""
    return _predict(model, Windows(samples, windows, features), predict, batch_size)


@torch.no_grad()
def _predict(model: nn.Module, windows: Windows, predict: Predict, batch_size: int) -> Tensor:
    model.eval()
    batches = windows.numbers().split(batch_size)
    return torch.cat([predict(model, windows.batch(chosen)) for chosen in batches])


def used_parameters(model: nn.Module, predict: Predict, batch: Batch) -> int:
    """Count the parameters that the prediction depends on.

    What serves training only, as the projection that carries the distilled feature, has no
    gradient from the prediction and is not counted. Draws no random number.
    """
    parameters = list(model.parameters())
    output = predict(model.eval(), batch)
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return sum(
        p.numel() for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    )
