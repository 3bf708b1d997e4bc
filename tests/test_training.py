"""The training loop that every row goes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from common.folds import Fold
from torch import Tensor, nn

from common import training

SETTINGS = training.Settings(epochs=30, patience=4, batch_size=8, learning_rate=0.05, seed=3)


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the root mean squared error."""
    return (prediction - target).square().mean().sqrt()


def predict(model: nn.Module, batch: training.Batch) -> Tensor:
    """Predict with the only modality."""
    return model(batch["acc"])


def loss(model: nn.Module, batch: training.Batch) -> Tensor:
    """Return the training loss."""
    return rmse(predict(model, batch), batch["targets"])


def problem(windows: int = 33) -> tuple[dict[str, Tensor], Fold]:
    """Return noisy linear data of windows of 5 samples, and a fold of it."""
    generator = torch.Generator().manual_seed(0)
    acc = torch.randn(5 * windows, 3, generator=generator)
    targets = acc @ torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]])
    targets += 0.3 * torch.randn(targets.shape, generator=generator)
    rows = torch.arange(5 * windows).reshape(windows, 5)
    cut = windows - 12
    fold = Fold("1", rows[:cut], rows[cut : cut + 6], rows[cut + 6 :], torch.ones(6, 5).bool())
    return {"acc": acc, "targets": targets}, fold


def train(model: nn.Module, settings: training.Settings = SETTINGS, windows: int = 33) -> list:
    """Train on the problem."""
    samples, fold = problem(windows)
    arguments = {"loss": loss, "predict": predict, "criterion": rmse, "settings": settings}
    return training.train(model, samples, fold, **arguments, name="test")


def network() -> nn.Module:
    """Return a small network with dropout, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def test_the_best_epoch_is_restored_and_patience_stops() -> None:
    """A table must hold the model that validated best, not the last one."""
    model = network()
    history = train(model, SETTINGS._replace(epochs=200))
    losses = [epoch.validation_loss for epoch in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 1 + SETTINGS.patience < 200
    samples, fold = problem()
    predicted = training.predict_windows(model, samples, fold.validation, predict, 64)
    assert float(rmse(predicted, samples["targets"][fold.validation])) == losses[best]


def test_equal_losses_are_no_improvement() -> None:
    """Patience counts epochs without a strict improvement, as the paper's early stopping."""
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model[0].bias.requires_grad_(True)
    history = train(model, SETTINGS._replace(learning_rate=1e-30))
    assert len(history) == 1 + SETTINGS.patience


def test_the_validation_loss_is_pooled_over_windows() -> None:
    """A mean of batch RMSEs would weigh a small last batch as much as a full one."""
    model = network()
    history = train(model, SETTINGS._replace(epochs=1, batch_size=4))
    samples, fold = problem()
    error = predict(model.eval(), training.batch_of(samples, fold.validation))
    error = (error - samples["targets"][fold.validation]).detach().double().numpy()
    assert history[0].validation_loss == pytest.approx(math.sqrt(np.mean(error**2)), rel=1e-6)


def test_a_training_depends_on_nothing_before_it() -> None:
    """Leaving a row out, or adding one, must not change the others."""
    first, second = network(), network()
    train(first)
    torch.rand(17)
    train(second)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    other = network()
    train(other, SETTINGS._replace(seed=4))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_the_first_step_is_adams_on_a_shuffled_batch() -> None:
    """One epoch by hand: seeded shuffle, every window once, Adam with its usual constants."""
    model = nn.Linear(3, 2)
    copy = nn.Linear(3, 2)
    copy.load_state_dict(model.state_dict())
    train(model, SETTINGS._replace(epochs=1))
    samples, fold = problem()
    order = torch.randperm(len(fold.train), generator=torch.Generator().manual_seed(3))
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in copy.parameters()}
    for step, rows in enumerate(fold.train[order].split(8), start=1):
        copy.zero_grad()
        loss(copy, training.batch_of(samples, rows)).backward()
        with torch.no_grad():
            for p, (mean, square) in moments.items():
                mean.mul_(0.9).add_(0.1 * p.grad)
                square.mul_(0.999).add_(0.001 * p.grad**2)
                unbiased = (square / (1 - 0.999**step)).sqrt() + 1e-8
                p -= 0.05 * mean / (1 - 0.9**step) / unbiased
    assert torch.allclose(model.weight, copy.weight, atol=1e-6)


def test_a_last_batch_of_one_window_joins_the_one_before() -> None:
    """BatchNorm over one window crashes: 17 windows of batch 8 must train."""
    sizes = []

    class Recorder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x)

    train(Recorder(3, 2), SETTINGS._replace(epochs=1), windows=29)
    assert sizes == [8, 9, 6]


def test_a_diverged_training_is_named() -> None:
    """NaN must not be written into a table as if it were a result."""
    model = network()
    with pytest.raises(training.DivergedError, match="test, epoch 1: .* is not finite"):
        train(model, SETTINGS._replace(learning_rate=math.inf))


def test_used_parameters_are_those_the_prediction_needs() -> None:
    """The size in the table is that of the network on the sensor, not of its training aids."""
    model = network()
    model.aid = nn.Linear(16, 100)
    samples, fold = problem()
    model.forward = lambda x: nn.Sequential(*list(model.children())[:4])(x)
    state = torch.get_rng_state()
    batch = training.batch_of(samples, fold.test[:1])
    assert training.used_parameters(model, predict, batch) == 3 * 16 + 16 + 16 * 2 + 2
    assert torch.equal(state, torch.get_rng_state())
