"""Helpers that the training loop in the scripts calls: progress, early stopping, prediction."""

from __future__ import annotations

import copy
import math
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.files import InputError, read_problem, save_state, set_aside, shorten
from common.windows import Windows

tqdm.set_lock(threading.RLock())  # tqdm's own is reported as leaked after a kill

LINE_EVERY_S = 25.0  # between two lines of progress, if the output is not a terminal


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
        best_weights: state dict of the best epoch so far; None if there is none.
    """

    def __init__(self, message: str, best_weights: dict[str, Tensor] | None = None) -> None:
        super().__init__(message)
        self.best_weights = best_weights or {}


class Progress:
    """Progress of training one network, early stopping, and a file to resume from.

    The state is saved at the end of an epoch, once `save_every` seconds have passed. Training that
    was interrupted in any way continues after its last saved epoch; on the CPU, the result is
    identical, bit for bit, to that of uninterrupted training. On a GPU, this is not tested.

    Args:
        name: row, test subject and number of finished rows, as shown to the user.
        file: where the state is saved.
        save_every: seconds between two saves.
        has_bar: whether to show a bar on a terminal, which several processes cannot share.

    Attributes:
        history: the finished epochs.
        best_epoch: number of the epoch with the lowest validation loss, 0 before the first.
    """

    def __init__(self, name: str, file: Path, save_every: float, has_bar: bool = True) -> None:
        self.name, self.file, self.save_every = name, file, save_every
        self.bar = tqdm(desc=name, unit="step", leave=False, disable=None if has_bar else True)
        self.history: list[Epoch] = []
        self.best_epoch, self.best_loss = 0, math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.epochs = self.windows = self.batches = 0
        self.step = self.first_step = 0  # counted over all epochs; the first one of this process
        self.phase = "preparing"
        self.started_at = self.epoch_started_at = self.saved_at = time.monotonic()

    def start(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, seed: int
    ) -> None:
        """Start training, or resume it after its last saved epoch.

        Args:
            network: the network, on its device.
            optimizer: its optimizer.
            epochs: maximum number of epochs, for the time left.
            seed: seed of the shuffling.
        """
        self.network, self.optimizer, self.epochs = network, optimizer, epochs
        self.device = next(network.parameters()).device
        self.shuffling = torch.Generator().manual_seed(seed)
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
        self.phase, self.epoch_started_at = "", time.monotonic()
        self.total_loss = torch.zeros((), device=self.device)
        order = torch.randperm(windows, generator=self.shuffling).to(self.device)
        batches = list(order.split(batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        self.windows, self.batches = windows, len(batches)
        self.step = self.bar.n = len(self.history) * len(batches)
        if self.bar.total is None:  # the first epoch of this process
            self.first_step = self.bar.initial = self.step
            self.started_at = self.epoch_started_at
            self.bar.total = self.epochs * len(batches)
        return batches

    def add(self, loss: Tensor, windows: int) -> None:
        """Add the loss of a batch, on its device and without synchronization."""
        self.total_loss += loss.detach() * windows
        self.step += 1
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
        seconds = time.monotonic() - self.epoch_started_at
        self.history.append(Epoch(number, training_loss, loss, seconds))
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, number
            for name, value in self.network.state_dict().items():
                if name in self.best_weights:
                    self.best_weights[name].copy_(value)  # no second copy in memory
                else:
                    self.best_weights[name] = value.clone()
        self.bar.set_postfix_str(self._losses())
        if time.monotonic() - self.saved_at >= self.save_every:
            save_state(self.file, self._state())
            self.saved_at = time.monotonic()

    def restore_best(self) -> None:
        """Load the weights of the best epoch into the network."""
        self.bar.close()
        self.phase = "testing"
        self.network.load_state_dict(self.best_weights)

    def _losses(self) -> str:
        if not self.history:
            return "no losses yet"
        last = self.history[-1]
        losses = {"train": last.training_loss, "val": last.validation_loss, "best": self.best_loss}
        return ", ".join(f"{name} {value:.4f}" for name, value in losses.items())

    def line(self) -> str:
        """Return a line of progress; the time left is an upper limit because of early stopping."""
        in_epoch = self.step - len(self.history) * self.batches
        if self.phase or self.step == self.first_step:
            return f"{self.name}: {self.phase or 'first step'}"
        s_per_step = (time.monotonic() - self.started_at) / (self.step - self.first_step)
        left_s = s_per_step * (self.epochs * self.batches - self.step)
        return (
            f"{self.name}: epoch {len(self.history) + 1} of {self.epochs}, step {in_epoch} of "
            f"{self.batches}, {self._losses()}, {tqdm.format_interval(left_s)} left at most"
        )

    def _state(self) -> dict[str, Any]:
        """Return the state to resume from, as tensors and plain numbers."""
        is_cuda = self.device.type == "cuda"
        return {
            "file": self.file.name,
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
        """Load the saved state; start from scratch if there is none or it cannot be used.

        A state that cannot be used is renamed.
        """
        if not self.file.exists():
            return
        before = copy.deepcopy(self._state())
        try:
            if problem := read_problem(self.file):
                raise ValueError(problem)
            with zipfile.ZipFile(self.file) as archive:
                if archive.testzip():  # torch.load ignores the checksums
                    raise ValueError("a checksum differs")
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            if state.get("file", self.file.name) != self.file.name:
                raise ValueError("of another row or fold")
            if not 0 < state["best_epoch"] <= len(state["history"]):
                raise ValueError("its best epoch is not in its history")
            self.network.load_state_dict(state["best_weights"])  # fails if they do not fit
            self._load(state)
        except Exception as error:  # a damaged file can raise any exception
            self._load(before)
            set_aside(
                self.file,
                f"{self.file}: cannot be resumed ({shorten(error, 100)}), because it is damaged or "
                "from another version; training starts from scratch",
            )

    def _load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffling.set_state(state["shuffling"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.history = [Epoch(*epoch) for epoch in state["history"]]
        self.best_epoch, self.best_loss = int(state["best_epoch"]), float(state["best_loss"])
        best = state["best_weights"].items()
        self.best_weights = {name: value.to(self.device) for name, value in best}


@contextmanager
def log_lines(line: Callable[[], str], show: Callable[[str], None]) -> Iterator[None]:
    """Show a line of progress every `LINE_EVERY_S` seconds, from a thread of its own."""
    is_done = threading.Event()

    def show_lines() -> None:
        while not is_done.wait(LINE_EVERY_S):
            show(line())

    thread = threading.Thread(target=show_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


@torch.no_grad()
def predict(network: nn.Module, windows: Windows, batch_size: int) -> Tensor:
    """Return the estimates for all windows, `(windows, T, K)`, in eval mode."""
    network.eval()
    batches = windows.batches(batch_size)
    return torch.cat([network(*windows[indices].inputs) for indices in batches])


def count_used_parameters(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the parameters that the output depends on.

    Parameters used only in training, such as the projection for distillation, do not affect the
    output and are not counted.

    Args:
        network: the network.
        inputs: inputs of one window on the same device, `(1, T, C)` each.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.backends.cudnn.flags(enabled=False):  # no RNN backward pass in eval mode
        output = network.eval()(*inputs)
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    used = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    return sum(p.numel() for p in used)


def choose_device(name: str, is_remote: bool = False) -> torch.device:
    """Return the device for `auto`, `cuda`, `cuda:N` or `cpu`.

    Args:
        name: the device.
        is_remote: whether it is in another machine, and cannot be checked here.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", name):
        raise InputError(f"--device {name}: no such device; use auto, cuda, cuda:N or cpu")
    device, count = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count and not is_remote:
        raise InputError(
            f"--device {name}: PyTorch {torch.__version__} finds {count} CUDA devices; use "
            + ("cuda:0 or auto" if count else "cpu, or install a PyTorch build with CUDA")
        )
    return device
