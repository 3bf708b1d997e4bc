"""The training loop, which is the same text in every script, and the helpers that it calls."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_B_lmfn_tfn_fusion_models as script
from common import training
from common.training import DivergedError, Epoch, Progress
from common.windows import Batch, Fold, Windows
from tests.conftest import Capture
from tests.networks import Loss

ARGS = {"learning_rate": 0.05, "batch_size": 8, "patience": 4, "seed": 3}


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the root mean squared error."""
    return (prediction - target).square().mean().sqrt()


def rmse_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the training loss."""
    return rmse(network(*batch.inputs), batch.targets)


def problem(windows: int = 21) -> Fold:
    """Return a fold of windows of 5 samples of noisy linear data, six of them to validate on."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(5 * (windows + 6), 3, generator=generator)
    targets = signal @ torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]])
    targets += 0.3 * torch.randn(targets.shape, generator=generator)
    samples = np.arange(len(signal)).reshape(-1, 5)
    train, validation = (
        Windows([signal], targets, part) for part in (samples[:windows], samples[windows:])
    )
    return Fold("1", train, validation, validation)


def small_network() -> nn.Module:
    """Return a small network with dropout, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def train(
    network: nn.Module,
    folder: Path,
    *,
    epochs: int = 30,
    windows: int = 21,
    loss: Loss = rmse_loss,
    save_every: float = 1e9,
    **flags: object,
) -> list[Epoch]:
    """Train on the problem with the loop of a script."""
    progress = Progress("test", folder / "state.pt", save_every, has_bar=False)
    args = argparse.Namespace(**{**ARGS, **flags})
    script.train(network, problem(windows), loss, rmse, epochs, args, progress)
    return progress.history


def test_the_best_epoch_is_restored_and_patience_stops(tmp_path: Path) -> None:
    """A table must hold the network that validated best, not the last one."""
    network = small_network()
    history = train(network, tmp_path, epochs=200)
    losses = [epoch.validation_loss for epoch in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 1 + ARGS["patience"] < 200
    assert [epoch.epoch for epoch in history] == list(range(1, len(history) + 1))
    validation = problem().validation
    predicted = training.predict(network, validation, batch_size=64)
    assert float(rmse(predicted, validation.targets)) == losses[best]


def test_equal_losses_are_no_improvement(tmp_path: Path) -> None:
    """Patience counts epochs without a strict improvement, as the paper's early stopping."""
    network = small_network()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network[0].bias.requires_grad_(True)
    history = train(network, tmp_path, learning_rate=1e-30)
    assert len(history) == 1 + ARGS["patience"]


def test_the_validation_loss_is_pooled_over_all_windows(tmp_path: Path) -> None:
    """A mean of batch RMSEs would weigh a small last batch as much as a full one."""
    network = small_network()
    history = train(network, tmp_path, epochs=1, batch_size=4)  # six windows to validate on
    validation = problem().validation
    with torch.no_grad():
        error = network(*validation[torch.arange(6)].inputs) - validation.targets
    expected = math.sqrt(np.mean(error.double().numpy() ** 2))
    assert history[0].validation_loss == pytest.approx(expected, rel=1e-6)


def test_the_training_loss_is_the_mean_over_windows(tmp_path: Path) -> None:
    """history.csv shows whether training was long enough: a short batch counts less."""
    sizes = []

    def loss_of_size(network: nn.Module, batch: Batch) -> Tensor:
        sizes.append(len(batch.targets))
        return rmse_loss(network, batch) * 0 + len(batch.targets)

    history = train(small_network(), tmp_path, epochs=1, loss=loss_of_size)
    assert sizes == [8, 8, 5]
    assert history[0].training_loss == pytest.approx((8 * 8 + 8 * 8 + 5 * 5) / 21)


def test_an_epoch_is_adam_on_shuffled_batches(tmp_path: Path) -> None:
    """One epoch by hand: seeded shuffling, every window once, Adam with its usual constants."""
    torch.manual_seed(0)
    network, copy = nn.Linear(3, 2), nn.Linear(3, 2)
    copy.load_state_dict(network.state_dict())
    train(network, tmp_path, epochs=1)
    windows = problem().train
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(3))
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in copy.parameters()}
    for step, indices in enumerate(order.split(8), start=1):
        copy.zero_grad()
        rmse_loss(copy, windows[indices]).backward()
        with torch.no_grad():
            for p, (mean, square) in moments.items():
                mean.mul_(0.9).add_(0.1 * p.grad)
                square.mul_(0.999).add_(0.001 * p.grad**2)
                unbiased = (square / (1 - 0.999**step)).sqrt() + 1e-8
                p -= 0.05 * mean / (1 - 0.9**step) / unbiased
    assert torch.allclose(network.weight, copy.weight, atol=1e-6)


class Recorder(nn.Linear):
    """Records the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Record the size of a batch."""
        self.sizes.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize(("windows", "sizes"), [(17, [8, 9]), (16, [8, 8]), (1, [1]), (9, [9])])
def test_a_last_batch_of_one_window_joins_the_one_before(
    tmp_path: Path, windows: int, sizes: Sequence[int]
) -> None:
    """BatchNorm over windows fails on one window: 17 windows in batches of 8 must train."""
    network = Recorder()
    train(network, tmp_path, epochs=1, windows=windows)
    assert network.sizes == [*sizes, 6]


def test_divergence_is_reported_with_the_best_epoch(tmp_path: Path) -> None:
    """NaN must not be written into a table as if it were a result."""
    with pytest.raises(DivergedError, match="epoch 1: .* not finite; best epoch so far: none") as e:
        train(small_network(), tmp_path, learning_rate=math.inf)
    assert e.value.best_weights == {}
    network, steps = small_network(), []

    def diverging(network: nn.Module, batch: Batch) -> Tensor:
        steps.append({name: value.clone() for name, value in network.state_dict().items()})
        return rmse_loss(network, batch) * (math.nan if len(steps) > 5 else 1)

    with pytest.raises(DivergedError, match="epoch 2: .* best epoch so far: 1") as e:
        train(network, tmp_path, loss=diverging)
    after_epoch_1 = steps[3]  # three batches an epoch
    for name, values in e.value.best_weights.items():
        assert torch.equal(values, after_epoch_1[name])


def test_a_state_is_saved_when_it_is_due(tmp_path: Path) -> None:
    """States of large networks are gigabytes: writing one after every epoch would take longer."""
    train(small_network(), tmp_path, epochs=3, save_every=1e3)
    assert not list(tmp_path.iterdir())
    train(small_network(), tmp_path, epochs=3, save_every=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


# Resuming ----------------------------------------------------------------------------------------


def changed(**changes: object) -> Callable[[Path], None]:
    """Return a function that changes entries of a saved state; None deletes an entry."""

    def change(path: Path) -> None:
        state = {**torch.load(path, weights_only=True), **changes}
        torch.save({name: value for name, value in state.items() if value is not None}, path)

    return change


def weights(network: nn.Module) -> list[object]:
    """Return all weights as lists of numbers."""
    return [parameter.tolist() for parameter in network.parameters()]


def save_other_network(path: Path) -> None:
    """Replace a state with that of another network."""
    path.unlink()
    train(nn.Linear(3, 2), path.parent, epochs=2, save_every=1e-6)


UNUSABLE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without the optimizer": changed(optimizer=None),
    "without the weights": changed(network=None),
    "without the random state": changed(random=None),
    "without epochs": changed(history=[]),
    "epochs of another kind": changed(history=[(1, 2.0)]),
    "its best epoch is missing": changed(best_epoch=7),
    "another network": save_other_network,
    "not a dictionary": lambda path: torch.save([], path),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_state_starts_training_from_scratch(
    kind: str, tmp_path: Path, capsys: Capture
) -> None:
    """After an update or a crash, a state of another version must cost time, not the result."""
    whole = small_network()
    losses = [epoch.validation_loss for epoch in train(whole, tmp_path, epochs=4)]
    train(small_network(), tmp_path, epochs=2, save_every=1e-6)
    UNUSABLE[kind](tmp_path / "state.pt")
    capsys.readouterr()
    network = small_network()
    history = train(network, tmp_path, epochs=4)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(f"NOTICE: {tmp_path / 'state.pt'}: cannot be resumed (")
    assert [epoch.validation_loss for epoch in history] == losses
    assert weights(network) == weights(whole)


def test_a_state_is_resumed_to_the_same_bits(tmp_path: Path, capsys: Capture) -> None:
    """An interruption must not change a result: dropout, shuffling and Adam continue as before."""
    whole, resumed = small_network(), small_network()
    train(whole, tmp_path, epochs=5)
    train(small_network(), tmp_path, epochs=2, save_every=1e-6)
    history = train(resumed, tmp_path, epochs=5)
    assert "NOTICE" not in capsys.readouterr().out
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
    assert weights(resumed) == weights(whole)


# Progress ----------------------------------------------------------------------------------------


def test_a_line_of_progress_has_epoch_losses_and_time_left(tmp_path: Path) -> None:
    """Someone who waits for days must see in a log how far training is and how long it takes."""
    progress, lines = Progress("test", tmp_path / "state.pt", 1e9, has_bar=False), []

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        lines.append(progress.line())
        return rmse_loss(network, batch)

    assert progress.line() == "test: preparing"
    args = argparse.Namespace(**ARGS)
    script.train(small_network(), problem(), loss, rmse, 2, args, progress)
    assert progress.line() == "test: testing"
    assert lines[0] == "test: first step"
    assert lines[1].startswith("test: epoch 1 of 2, step 1 of 3, no losses yet, ")
    pattern = (
        r"epoch 2 of 2, step 2 of 3, train [\d.]+, val [\d.]+, best [\d.]+, [\d:]+ left at most"
    )
    assert re.search(pattern, lines[5])
