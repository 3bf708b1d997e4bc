"""The one training loop: Adam, early stopping on the validation loss, best epoch restored."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import faster
from common.folds import Fold
from common.interruption import InterruptedTrainingError, Keeper, stop_requested
from common.progress import Epoch, Progress, Settings

Batch = dict[str, Tensor]
"""Modality, or `"targets"`, to `(B, T, C)`; a row's `FEATURES` to `(B, F)`, where it has some;
what a teacher makes of the windows, by names that the row's loss knows."""
FEATURES = "features"
CHUNK = 256  # windows of which something is made at once: bounds the memory
WindowFeatures = Callable[[Batch], Tensor]
Maker = Callable[[Batch], Batch]
Loss = Callable[[nn.Module, Batch], Tensor]
Predict = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


class DivergedError(RuntimeError):
    """A loss was not finite; the message names the row, the fold and the epoch.

    Args:
        message: The message. best_epoch: The best before, that the model is left in; 0 for none.
    """

    def __init__(self, message: str, best_epoch: int = 0) -> None:
        super().__init__(message, best_epoch)
        self.best_epoch = best_epoch

    def __str__(self) -> str:
        return self.args[0]


class Windows:
    """Windows of a recording on its device; a batch is an index into them.

    Args:
        samples: Modality or `"targets"` to `(rows, C)`. rows: `(windows, T)` row numbers.
        features: Gives `(B, F)` of a batch; made here, once, for all windows.
        teaching: Gives what a teacher makes of a batch; likewise.
        name: Stands before the progress bar, empty for none.
    """

    def __init__(
        self,
        samples: dict[str, Tensor],
        rows: Tensor,
        features: WindowFeatures | None = None,
        teaching: Maker | None = None,
        name: str = "",
    ) -> None:
        self.samples, self.rows = samples, rows.to(samples["targets"].device)
        self.name = name
        self.made: Batch = {}
        if features is not None:
            self._make(lambda batch: {FEATURES: features(batch)})
        if teaching is not None:
            self._make(teaching)

    @torch.no_grad()
    def _make(self, maker: Maker) -> None:
        """Make something of all windows, chunk by chunk.

        Raises:
            InterruptedTrainingError: It was asked to stop.
        """
        numbers = self.numbers().split(CHUNK)
        hidden = None if self.name else True
        for chosen in tqdm(numbers, self.name, leave=False, unit="chunk", disable=hidden):
            if stop_requested.is_set():
                raise InterruptedTrainingError
            for name, values in maker(batch_of(self.samples, self.rows[chosen])).items():
                if name not in self.made:
                    self.made[name] = values.new_empty(len(self.rows), *values.shape[1:])
                self.made[name][chosen] = values

    def batch(self, chosen: Tensor) -> Batch:
        """Gather the windows of the numbers `chosen`."""
        made = {name: values[chosen] for name, values in self.made.items()}
        return {**batch_of(self.samples, self.rows[chosen]), **made}

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
    teaching: Maker | None = None,
    keeper: Keeper | None = None,
    show_progress: bool = True,
) -> list[Epoch]:
    """Train `model` in place and leave it as it was after its best epoch.

    Dropout and shuffling are seeded here, so that a result depends on no other training. A
    training that goes on from a kept state gives what it would have given uninterrupted.

    Args:
        model: On the samples' device. samples: Modality or `"targets"` to `(rows, C)`.
        fold: Its `train` and `validation` windows are used.
        loss: Minimised over batches. predict: `(B, T, K)` of a batch.
        criterion: Of all validation predictions and targets at once; early stopping watches it.
        settings: Epochs, patience in epochs, batch size, learning rate, seed, ways to be faster.
        name: Stands before the progress bar and in errors.
        features: Made of every window before the first epoch, to stand in the batches.
        teaching: The same, of the training windows alone.
        keeper: Keeps the state and gives it back, None for none.
        show_progress: Whether to draw a bar on a terminal.

    Raises:
        DivergedError: The validation loss is not finite; `model` is as after its best epoch.
        InterruptedTrainingError: It was asked to stop.
    """
    once = f"{name}, once per fold" if show_progress else ""
    windows = Windows(samples, fold.train, features, teaching, once)
    validation = Windows(samples, fold.validation, features)
    targets = samples["targets"][validation.rows]
    torch.manual_seed(settings.seed)
    training = Progress(model, len(windows.rows), settings, targets.device)
    if keeper:
        training.load(keeper.restored())
    with tqdm(
        total=settings.epochs * len(_batches(training.order, settings.batch_size)),
        initial=training.steps_done, desc=name, unit="step", leave=False,
        disable=None if show_progress else True,
    ) as bar:  # fmt: skip
        step = _step(training, windows, loss)
        while not training.is_finished:
            _train_epoch(training, step, keeper, bar)
            prediction = _predict(model, validation, predict, settings.batch_size)
            validation_loss = float(criterion(prediction, targets))
            if not math.isfinite(validation_loss):
                training.restore_best()
                raise DivergedError(
                    f"{name}, epoch {training.epoch}: the validation loss is not finite; "
                    f"best epoch before: {training.best_epoch or 'none'}",
                    training.best_epoch,
                )
            training.end_epoch(validation_loss)
            bar.set_postfix(**training.losses)
    training.restore_best()
    return training.history


def _step(training: Progress, windows: Windows, loss: Loss) -> faster.Step:
    """Return what does a step of Adam on the windows of some numbers."""
    model, optimiser, ways = training.model, training.optimiser, training.settings.faster
    loss = faster.faster_loss(loss, ways, training.device)

    def step(chosen: Tensor) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        value = loss(model, windows.batch(chosen))
        value.backward()
        optimiser.step()
        return value.detach()

    first = training.order[: training.settings.batch_size]
    if "cuda_graph" in ways:
        return faster.GraphedStep(step, model.train(), optimiser, first)
    return step


def _train_epoch(training: Progress, step: faster.Step, keeper: Keeper | None, bar: tqdm) -> None:
    """Train what is left of the epoch under way."""
    training.model.train()
    batches = _batches(training.order, training.settings.batch_size)
    for chosen in batches[training.step :]:
        training.count(step(chosen), len(chosen))
        bar.update()
        if keeper and keeper.is_due():
            keeper.save(training.state())
            if stop_requested.is_set():
                raise InterruptedTrainingError


def batch_of(samples: dict[str, Tensor], rows: Tensor) -> Batch:
    """Gather windows: `(rows, C)` samples and `(B, T)` row numbers give `(B, T, C)`."""
    return {name: values[rows] for name, values in samples.items()}


def _batches(windows: Tensor, batch_size: int) -> list[Tensor]:
    """Split windows; a last batch of one window joins the one before it.

    BatchNorm over the windows of a batch, as of handcrafted features, is not defined for one.
    """
    batches = list(windows.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


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
