"""Training by the loop of a script and by the published loop."""

from __future__ import annotations

import argparse
import fnmatch
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common.files import InputError
from common.runs import Row
from common.training import Epoch, Progress
from common.windows import Batch, Fold, Windows, precompute
from tools.trained import PROJECT, count_channels, find_script

SEED = 42
EPOCHS = 40  # over which the time of computations once per fold is spread
MAX_S = 60  # per row, once it has been repeated: the largest networks need minutes


class Case(NamedTuple):
    """A row of a script; unlike the script's module, it can be sent to another process."""

    script_name: str
    row: Row

    @property
    def script(self) -> ModuleType:
        """The script."""
        return find_script(self.script_name)

    @property
    def labels(self) -> dict[str, str]:
        """Dataset and row, which identify the case in the results."""
        return {"dataset": self.script.DATASET.upper(), "row": self.row.name}


def choose_cases(datasets: Sequence[str], patterns: Sequence[str] | None) -> list[Case]:
    """Return the rows to measure.

    Args:
        datasets: `a`, `b` or both.
        patterns: row names or patterns such as `student-*`; None for all rows of sensor
            distillation and, for every other kind of model, the one with the most sensors.

    Raises:
        InputError: A pattern matches no row.
    """
    names = sorted(path.stem for path in PROJECT.glob("Dataset_*.py"))
    cases = [Case(name, row) for name in names for row in find_script(name).ROWS]
    cases = [case for case in cases if case.script.DATASET in datasets]
    if patterns is None:
        return [case for case in cases if _is_default(case)]
    for pattern in patterns:
        if not fnmatch.filter((case.row.name for case in cases), pattern):
            raise InputError(f"--rows {pattern}: no such row; a script's --help lists its rows")
    return [case for case in cases if any(fnmatch.fnmatch(case.row.name, p) for p in patterns)]


def _is_default(case: Case) -> bool:
    if "distillation" in case.script_name.lower():
        return True
    last_of_kind = {row.name.split("-")[0]: row.name for row in case.script.ROWS}
    is_ablation = "ablation" in case.script_name  # its blocks are those of the teacher
    return not is_ablation and case.row.name in last_of_kind.values()


def random_samples(script: ModuleType, windows: int) -> dict[str, Tensor]:
    """Return random modalities and targets, `(windows, T, C)` each."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(windows, script.WINDOW, channels, generator=generator)
        for name, channels in count_channels(script).items()
    }


def choose_losses(script: ModuleType, row: Row) -> tuple[Callable, Callable] | None:
    """Return the loss and the validation loss of a row; None if it is not trained."""
    kind = row.name.split("-")[0]
    if kind == "dlr":
        return None
    if kind in ("dlr_rmse", "dlr_correlation"):
        criterion = script.rmse if kind == "dlr_rmse" else script.correlation_loss
        return script.branch_loss(criterion), criterion
    if kind == "distilled":
        return script.distillation_loss(script.ALPHA, script.BETA), script.rmse
    return script.dual_loss if kind == "dl" else script.supervised_loss, script.rmse


class Training:
    """The training of a row on random windows, by the loop of its script or the published one.

    Args:
        case: a row that is trained.
        batches: training batches per epoch; a quarter as many windows are added for validation.
        batch_size: windows per batch.
        device: device to train on.

    Attributes:
        fold: the windows.
        once_per_fold_s: seconds to compute the outputs of the teacher; 0 without a teacher.
        published_data: training and validation windows as tensors on the CPU.
    """

    def __init__(self, case: Case, batches: int, batch_size: int, device: torch.device) -> None:
        script, row = case.script, case.row
        self.case, self.batch_size, self.device = case, batch_size, device
        self.loss, self.criterion = choose_losses(script, row)
        self.args = argparse.Namespace(
            seed=SEED, learning_rate=script.LEARNING_RATE, batch_size=batch_size, patience=EPOCHS
        )
        count = batches * batch_size
        samples = random_samples(script, count + math.ceil(count / 4))
        streams = {name: x.flatten(0, 1).to(device) for name, x in samples.items()}
        places = np.arange(len(streams["targets"])).reshape(-1, script.WINDOW)
        signals = script.inputs(streams, row.sensor_set)
        parts = places[:count], places[count:]
        train, validation = (Windows(signals, streams["targets"], part) for part in parts)
        self.fold = Fold("random", train, validation, validation)
        if row.name.startswith("ffn_hf"):  # the script computes its features once
            for windows in (train, validation):
                windows.inputs = precompute(row.network.func.features, windows)
        self.once_per_fold_s, self.teacher = 0.0, None
        if row.needs:
            teacher_row = next(other for other in script.ROWS if other.name == row.needs[0])
            torch.manual_seed(1)
            self.teacher = teacher_row.network().to(device).eval().requires_grad_(False)
            self.teacher_set = teacher_row.sensor_set
            started = time.perf_counter()
            teacher_windows = train.with_signals(script.inputs(streams, self.teacher_set))
            train.cached = precompute(self.teacher.features, teacher_windows)
            float(train.cached[0].flatten()[0])  # waits for the device
            self.once_per_fold_s = time.perf_counter() - started
        self.published_data = [
            _published_tensors({name: x[part] for name, x in samples.items()}, windows)
            for part, windows in ((slice(count), train), (slice(count, None), validation))
        ]

    def new_network(self) -> nn.Module:
        """Build the network, with the same weights every time."""
        torch.manual_seed(SEED)
        return self.case.row.network().to(self.device)

    def train(self, epochs: int) -> list[Epoch]:
        """Train a new network by the loop of the script."""
        progress = Progress(self.case.row.name, Path("never-saved.pt"), math.inf, has_bar=False)
        losses = self.loss, self.criterion
        self.case.script.train(self.new_network(), self.fold, *losses, epochs, self.args, progress)
        return progress.history

    def train_published(self, epochs: int) -> list[Epoch]:
        """Train a new network by the published loop, on the same windows in the same order.

        Written from its description: CPU tensors in a shuffled DataLoader, seven per window of
        which a network uses two to four, moved to the device in every step; the loss read back and
        the teacher run in every step. Losses are means over batches.
        """
        network = self.new_network()
        optimizer = torch.optim.Adam(network.parameters(), self.args.learning_rate)
        shuffling = torch.Generator().manual_seed(SEED)
        torch.manual_seed(SEED)  # for dropout
        history = []
        for epoch in range(1, epochs + 1):
            started, losses, validation_losses = time.perf_counter(), [], []
            network.train()
            order = torch.randperm(len(self.fold.train), generator=shuffling).tolist()
            for batch in self.published_batches(self.published_data[0], order):
                optimizer.zero_grad()
                loss = self.loss(network, batch)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            network.eval()
            with torch.no_grad():
                for batch in self.published_batches(self.published_data[1], None):
                    estimates = network(*batch.inputs)
                    validation_losses.append(self.criterion(estimates, batch.targets).item())
            means = float(np.mean(losses)), float(np.mean(validation_losses))
            history.append(Epoch(epoch, *means, time.perf_counter() - started))
        return history

    def published_batches(
        self, tensors: dict[str, Tensor], order: list[int] | None
    ) -> Iterator[Batch]:
        """Load batches; move their used tensors to the device, and run the teacher if any."""
        script, row = self.case.script, self.case.row
        has_features = bool(self.fold.train.inputs)
        used = {"targets", "imus"} if has_features else {"targets"}
        if not has_features:
            for name in [row.sensor_set, *([self.teacher_set] if self.teacher else [])]:
                used |= {*script.SENSOR_SETS[name].modalities}
        generator = torch.Generator()  # or the loader would draw from the generator of dropout
        data = TensorDataset(*tensors.values())
        for values in DataLoader(data, self.batch_size, sampler=order, generator=generator):
            named = zip(tensors, values, strict=True)
            moved = {name: value.to(self.device) for name, value in named if name in used}
            cached = ()
            if self.teacher:
                with torch.no_grad():
                    cached = self.teacher.features(*script.inputs(moved, self.teacher_set))
            inputs = [moved["imus"]] if has_features else script.inputs(moved, row.sensor_set)
            yield Batch(tuple(inputs), moved["targets"], tuple(cached))


def _published_tensors(samples: dict[str, Tensor], windows: Windows) -> dict[str, Tensor]:
    """Return modalities and targets, and three more tensors that the published loop loads."""
    images = {  # (windows, axes, T, IMUs) for convolutions
        f"{name}_2d": samples[name].unflatten(-1, (-1, 3)).permute(0, 2, 3, 1).clone()
        for name in ("acc", "gyr")
    }
    imus = torch.cat([samples["acc"], samples["gyr"]], dim=-1)
    return {**samples, **images, "imus": windows.inputs[0].cpu() if windows.inputs else imus}


def measure_training(
    case: Case, batches: int, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Train epochs by both loops alternately, on the same windows and from the same weights."""
    started = time.perf_counter()
    training = Training(case, batches, batch_size, device)
    ours_s, published_s = [], []
    for repeat in range(repeats + 1):
        [ours], [published] = training.train(epochs=1), training.train_published(epochs=1)
        if repeat:  # the first one warms up
            ours_s.append(ours.seconds)
            published_s.append(published.seconds)
        if ours_s and time.perf_counter() - started > MAX_S:
            break
    once_s = training.once_per_fold_s
    ratios = np.array(published_s) / (np.array(ours_s) + once_s / EPOCHS)
    return {
        **case.labels,
        "device": str(device),
        "batches": batches,
        "repeats": len(ours_s),
        "ours_s": float(np.median(ours_s)),
        "published_s": float(np.median(published_s)),
        "once_per_fold_s": once_s,
        "training_losses": [ours.training_loss, published.training_loss],  # equal up to rounding
        "ratio": float(np.median(published_s) / (np.median(ours_s) + once_s / EPOCHS)),
        "lowest_ratio": float(ratios.min()),
        "highest_ratio": float(ratios.max()),
    }
