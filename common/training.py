"""Helpers for the training loop in the scripts: progress, early stopping, prediction."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.files import InputError, save_state, shorten
from common.windows import Batch, Windows

tqdm.set_lock(threading.RLock())  # the default lock is reported as leaked after a kill

Loss = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
"""Function of predictions and targets, `(windows, T, K)` each."""

FASTER = {
    "tf32": "matrix products with inputs rounded to 10 bits (CUDA only)",
    "bf16": "forward pass in bfloat16 by autocast",
    "compile": "torch.compile (on the CPU, it needs a C++ compiler)",
}
"""Methods of `--faster`; they slightly change the results."""


class Epoch(NamedTuple):
    """One epoch: mean training loss over its windows, validation loss, and duration."""

    epoch: int
    training_loss: float
    validation_loss: float
    seconds: float


class DivergedError(RuntimeError):
    """The validation loss is not finite; the message states the epoch.

    Args:
        message: the message.
        best_weights: state dict of the best epoch so far; empty if there is none.
    """

    def __init__(self, message: str, best_weights: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.best_weights = best_weights


class Progress:
    """The progress of one training: epochs, early stopping, and a file to resume from.

    The state is saved at the end of an epoch, once `save_every` seconds have passed. A training
    that was interrupted in any way continues after its last saved epoch; its result is identical,
    bit for bit, to that of an uninterrupted one.

    Args:
        name: name of the training in the progress bar.
        file: where the state is saved.
        save_every: seconds between two saves.
        show_bar: whether to draw a progress bar (on a terminal only).

    Attributes:
        history: the finished epochs.
        best_epoch: number of the epoch with the lowest validation loss, 0 before the first.
    """

    def __init__(self, name: str, file: Path, save_every: float, show_bar: bool = True) -> None:
        self.name, self.file, self.save_every = name, file, save_every
        self.show_bar = show_bar
        self.history: list[Epoch] = []
        self.best_epoch, self.best_loss = 0, math.inf
        self.best_weights: dict[str, Tensor] = {}

    def start(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, seed: int
    ) -> None:
        """Start a training, or continue it after its last saved epoch.

        Args:
            network: the network, on its device.
            optimizer: its optimizer.
            epochs: maximum number of epochs, for the progress bar.
            seed: seed of the shuffling.
        """
        self.network, self.optimizer, self.epochs = network, optimizer, epochs
        self.device = next(network.parameters()).device
        self.shuffling = torch.Generator().manual_seed(seed)
        hidden = None if self.show_bar else True  # None: hidden unless on a terminal
        self.bar = tqdm(desc=self.name, unit="step", leave=False, disable=hidden)
        self._restore()
        self.saved_at = time.monotonic()

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs since the validation loss last improved."""
        return len(self.history) - self.best_epoch

    def shuffled_batches(self, windows: int, batch_size: int) -> list[Tensor]:
        """Return the indices of the windows of every batch of a new epoch, in random order.

        A last batch of one window is merged with the batch before it, because batch normalization
        over windows is undefined for a single window.
        """
        self.started_at = time.perf_counter()
        self.total_loss = torch.zeros((), device=self.device)
        self.windows = windows
        order = torch.randperm(windows, generator=self.shuffling).to(self.device)
        batches = list(order.split(batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        self.bar.total = self.epochs * len(batches)
        self.bar.initial = self.bar.n = len(self.history) * len(batches)
        return batches

    def add(self, loss: Tensor, windows: int) -> None:
        """Add the loss of a batch, on its device and without synchronization."""
        self.total_loss += loss.detach() * windows
        self.bar.update()

    def end_epoch(self, validation_loss: Tensor) -> None:
        """Finish the epoch: store its weights if it is the best so far, save the state if due.

        Raises:
            DivergedError: The validation loss is not finite.
        """
        number, loss = len(self.history) + 1, float(validation_loss)
        if not math.isfinite(loss):
            self.bar.close()
            raise DivergedError(
                f"epoch {number}: the validation loss is not finite; best epoch so far: "
                f"{self.best_epoch or 'none'}",
                self.best_weights,
            )
        training_loss = float(self.total_loss) / self.windows
        seconds = time.perf_counter() - self.started_at
        self.history.append(Epoch(number, training_loss, loss, seconds))
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, number
            for name, value in self.network.state_dict().items():  # overwrites the previous best
                self.best_weights.setdefault(name, torch.empty_like(value)).copy_(value)
        losses = {"train": training_loss, "val": loss, "best": self.best_loss}
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in losses.items()})
        if time.monotonic() - self.saved_at >= self.save_every:
            save_state(self.file, self._state())
            self.saved_at = time.monotonic()

    def restore_best(self) -> list[Epoch]:
        """Load the weights of the best epoch into the network; return the history."""
        self.bar.close()
        self.network.load_state_dict(self.best_weights)
        return self.history

    def _state(self) -> dict[str, Any]:
        """Return the state to resume from, as tensors and plain numbers."""
        is_cuda = self.device.type == "cuda"
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffling": self.shuffling.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if is_cuda else None,
            "history": [tuple(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "best_weights": self.best_weights,
        }

    def _restore(self) -> None:
        """Load the saved state; start from scratch if there is none or it is damaged."""
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            self.history = [Epoch(*epoch) for epoch in state["history"]]
        except FileNotFoundError:
            return
        except Exception as error:  # a damaged file can raise any exception
            reason = str(error).splitlines()[0]
            print(f"{self.file}: damaged ({reason}); this training starts from scratch", flush=True)
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffling.set_state(state["shuffling"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best_weights = {
            name: value.to(self.device) for name, value in state["best_weights"].items()
        }


@torch.no_grad()
def predict(network: nn.Module, windows: Windows, batch_size: int) -> Tensor:
    """Return the prediction for all windows, `(windows, T, K)`, in eval mode."""
    network.eval()
    batches = windows.batches(batch_size)
    return torch.cat([network(*windows[indices].inputs) for indices in batches])


@torch.no_grad()
def predict_stream(
    network: nn.Module, sequences: Windows, stretch: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Predict sequences as a stream, in eval mode: each stretch from a cold start, state carried.

    The outputs come `network.lookahead` samples late, so the last samples of a stretch get none.

    Args:
        network: the network, with a method `stream`.
        sequences: sequences of one subject in the order of the recording, from `cut_sequences`.
        stretch: `(samples,)` stretch of every sample of the recording.

    Returns:
        The estimate of every sample, `(sequences, T, K)`, and a mask `(sequences, T)`, False where
        there is none.
    """
    network.eval()
    outputs, stretches, state = [], [], None
    for i, is_valid in enumerate(sequences.is_scored):
        first = int(stretch[sequences.samples[i, 0]])
        if not stretches or stretches[-1] != first:
            state = None
        length = int(is_valid.sum())
        output, state = network.stream(
            *(signal[sequences.samples[i : i + 1, :length]] for signal in sequences.signals),
            state=state,
        )
        outputs.append(output[0])
        stretches += [first] * length
    output, stretches = torch.cat(outputs), torch.tensor(stretches, device=outputs[0].device)
    has_estimate = stretches == stretches.roll(-network.lookahead)
    has_estimate[len(stretches) - network.lookahead :] = False
    prediction = output.new_zeros(*sequences.samples.shape, output.shape[-1])
    prediction[sequences.is_scored] = output.roll(-network.lookahead, dims=0)
    is_estimated = sequences.is_scored.clone()
    is_estimated[sequences.is_scored] = has_estimate
    return prediction, is_estimated


def count_used_parameters(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the parameters that the prediction depends on.

    Parameters used only in training, such as the projection for distillation, do not affect the
    prediction and are not counted.

    Args:
        network: the network.
        inputs: inputs of one window on the same device, `(1, T, C)` each.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.backends.cudnn.flags(enabled=False):  # no RNN backward pass in eval mode
        prediction = network.eval()(*inputs)
        gradients = torch.autograd.grad(prediction.sum(), parameters, allow_unused=True)
    used = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    return sum(p.numel() for p in used)


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cuda`, `cuda:N` or `cpu`.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: no such device; use auto, cuda, cuda:N or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(
            f"--device {name}: PyTorch {torch.__version__} finds {count} CUDA devices; use "
            + ("cuda:0 or auto" if count else "cpu, or install a PyTorch build with CUDA")
        )
    return device


def check_faster(faster: Sequence[str], device: torch.device) -> None:
    """Try every method of `--faster` on the device, with a training step of an LSTM and a GRU.

    Raises:
        InputError: The device does not support one; for example, not every CPU can run an LSTM in
            bfloat16.
    """
    for method in faster:
        try:
            if method == "tf32" and device.type != "cuda":
                raise RuntimeError("it needs a CUDA device")
            layers = [nn.LSTM(3, 4, batch_first=True), nn.GRU(4, 2, batch_first=True)]
            network = nn.ModuleList(layers).to(device)
            x = torch.zeros(2, 5, 3, device=device)
            loss = accelerate(_probe_loss, [method])(network, Batch((x,), x[..., :2], ()))
            loss.backward()
        except Exception as error:  # compilers and backends raise their own
            reason = shorten(str(error).strip().partition("\n")[0], 100)
            raise InputError(
                f"--faster {method}: does not work on {device.type.upper()} here "
                f"({reason}); leave {method} out"
            ) from error


def _probe_loss(network: nn.ModuleList, batch: Batch) -> Tensor:
    x = batch.inputs[0]
    for layer in network:
        x = layer(x)[0]
    return (x - batch.targets).square().mean()


def set_up(threads: int, faster: Sequence[str]) -> None:
    """Set the number of CPU threads and, for `--faster tf32`, the precision of matrix products."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = "tf32" in faster


def accelerate(loss: Loss, faster: Sequence[str]) -> Loss:
    """Return the loss function, compiled and in bfloat16 autocast as `--faster` requests."""
    if "compile" in faster:
        torch.compiler.reset()  # rows share a function, and its recompilations are limited
        loss = torch.compile(loss)
    if "bf16" not in faster:
        return loss

    def loss_in_bfloat16(network: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast(batch.targets.device.type, torch.bfloat16):
            return loss(network, batch)

    return loss_in_bfloat16
