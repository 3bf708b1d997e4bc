"""Training by the loop of a script and by the published loop, and of several rows at once."""

from __future__ import annotations

import argparse
import fnmatch
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
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
from tools.trained import PROJECT, find_script

SEED = 42
EPOCHS = 40  # over which the time of computations once per fold is spread
MAX_S = 60  # per row, once it has been repeated: the largest networks need minutes
MAX_WARM_UP_S = 600  # after which processes give up waiting for one that has failed
CPU_JOBS = ((1, 2), (2, 1))  # jobs and threads of each: both cores for one, or one for each of two
CUDA_JOBS = ((1, 1), (2, 1), (4, 1), (8, 1))


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
        """Dataset, row and model, which identify the case in the results."""
        model = self.row.network.func.__name__
        return {"dataset": self.script.DATASET.upper(), "row": self.row.name, "model": model}


def choose_cases(datasets: Sequence[str], patterns: Sequence[str] | None) -> list[Case]:
    """Return the rows to measure.

    Args:
        datasets: `a`, `b` or both.
        patterns: row names or patterns such as `student-*`; None for all rows of sensor
            distillation and, for every other kind of model, the one with most sensors.

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
    channels = {modality: len(script.COLUMNS[modality]) for modality in script.UNITS}
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(windows, script.WINDOW, count, generator=generator)
        for name, count in {**channels, "targets": len(script.TARGETS)}.items()
    }


def choose_losses(script: ModuleType, row: Row) -> tuple[Callable, Callable] | None:
    """Return the loss and the validation loss of a row; None if it is not trained."""
    kind = row.name.split("-")[0]
    if kind == "distilled":
        return script.distillation_loss(script.ALPHA, script.BETA), script.rmse
    if hasattr(script, "dual_loss"):  # Kinetics-FM
        return {
            "dl": (script.dual_loss, script.rmse),
            "dlr_rmse": (script.branch_loss(script.rmse), script.rmse),
            "dlr_correlation": (
                script.branch_loss(script.correlation_loss),
                script.correlation_loss,
            ),
        }.get(kind)
    return script.supervised_loss, script.rmse


@dataclass
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
    """

    case: Case
    batches: int
    batch_size: int
    device: torch.device

    def __post_init__(self) -> None:
        script, row = self.case.script, self.case.row
        count = self.batches * self.batch_size
        self.samples = random_samples(script, count + math.ceil(count / 4))
        streams = {name: x.flatten(0, 1).to(self.device) for name, x in self.samples.items()}
        places = np.arange(len(streams["targets"])).reshape(-1, script.WINDOW)
        signals = script.inputs(streams, row.sensor_set)
        train, validation = (
            Windows(signals, streams["targets"], part) for part in (places[:count], places[count:])
        )
        self.fold = Fold("random", train, validation, validation)
        self.loss, self.criterion = choose_losses(script, row)
        self.args = argparse.Namespace(
            seed=SEED, learning_rate=script.LEARNING_RATE, batch_size=self.batch_size,
            patience=EPOCHS,
        )  # fmt: skip
        self.once_per_fold_s, self.teacher = 0.0, None
        if row.name.startswith("ffn_hf"):  # the script computes its features once
            for windows in (train, validation):
                windows.inputs = precompute(row.network.func.features, windows)
        if row.needs:
            [teacher_row] = [other for other in script.ROWS if other.name == row.needs[0]]
            torch.manual_seed(1)
            self.teacher = teacher_row.network().to(self.device).eval().requires_grad_(False)
            self.teacher_set = teacher_row.sensor_set
            started = time.perf_counter()
            teacher_windows = train.with_signals(script.inputs(streams, self.teacher_set))
            train.cached = precompute(self.teacher.features, teacher_windows)
            float(train.cached[0].flatten()[0])  # waits for the device
            self.once_per_fold_s = time.perf_counter() - started
        self.published_data = [self.published_tensors(windows) for windows in (train, validation)]

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

    def published_tensors(self, windows: Windows) -> dict[str, Tensor]:
        """Return windows on the CPU, in seven tensors."""
        chosen = windows.samples[:, 0].cpu() // windows.samples.shape[1]
        tensors = {name: values[chosen] for name, values in self.samples.items()}
        for name in ("acc", "gyr"):  # (windows, axes, T, IMUs) for convolutions
            imus = tensors[name].unflatten(-1, (-1, 3))
            tensors[f"{name}_2d"] = imus.permute(0, 2, 3, 1).clone()
        tensors["imus"] = torch.cat([tensors["acc"], tensors["gyr"]], dim=-1)
        if windows.inputs:
            tensors["imus"] = windows.inputs[0].cpu()
        return tensors

    def published_batches(
        self, tensors: dict[str, Tensor], order: list[int] | None
    ) -> Iterator[Batch]:
        """Load batches; move their used tensors to the device, and run the teacher if any."""
        script, row = self.case.script, self.case.row
        sets = [row.sensor_set, *([self.teacher_set] if self.teacher else [])]
        used = {m for name in sets for m in script.SENSOR_SETS[name].modalities} | {"targets"}
        has_features = bool(self.fold.train.inputs)
        used = {"targets", "imus"} if has_features else used
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


def measure_training(
    case: Case, batches: int, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Train epochs by both loops in turn, on the same windows and from the same weights."""
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
    ratios = [p / (o + once_s / EPOCHS) for p, o in zip(published_s, ours_s, strict=True)]
    return {
        **case.labels,
        "device": str(device),
        "batches": batches,
        "repeats": len(ours_s),
        "ours_s": float(np.median(ours_s)),
        "published_s": float(np.median(published_s)),
        "once_per_fold_s": once_s,
        "training_losses": [ours.training_loss, published.training_loss],  # equal up to rounding
        "validation_losses": [ours.validation_loss, published.validation_loss],
        "ratio": float(np.median(published_s) / (np.median(ours_s) + once_s / EPOCHS)),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def measure_jobs(
    case: Case, batches: int, batch_size: int, epochs: int, repeats: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Measure the throughput of training a row several times at once, as with `--jobs`.

    The processes start, warm up and wait for one another before they train: the time to start them
    does not count, because a run starts them once.
    """
    pairs = CUDA_JOBS if device.type == "cuda" else CPU_JOBS
    rates: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for _ in range(repeats):
        for jobs, threads in pairs:
            seconds = seconds_in_parallel(jobs, case, batches, batch_size, epochs, device, threads)
            rates[jobs, threads].append(jobs * epochs * batches * batch_size / seconds)
    medians = {pair: float(np.median(found)) for pair, found in rates.items()}
    for (jobs, threads), rate in medians.items():
        labels = {**case.labels, "device": str(device), "jobs": jobs, "threads": threads}
        yield {**labels, "windows_per_s": rate, "ratio": rate / medians[pairs[0]]}


def seconds_in_parallel(jobs: int, *arguments: object) -> float:
    """Return the seconds from the start of the first of several processes to the end of the last.

    Args:
        jobs: number of processes.
        arguments: arguments of `_train_at_barrier`.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _set_barrier, (context.Barrier(jobs),)) as pool:
        spans = list(pool.map(_train_at_barrier, *([value] * jobs for value in arguments)))
    return max(stop for _, stop in spans) - min(start for start, _ in spans)


def _set_barrier(barrier: Barrier) -> None:
    global _barrier  # can be passed on only when a process starts
    _barrier = barrier


def _train_at_barrier(
    case: Case, batches: int, batch_size: int, epochs: int, device: torch.device, threads: int
) -> tuple[float, float]:
    """Train in a process of its own; return the times of its start and end."""
    torch.set_num_threads(threads)
    training = Training(case, batches, batch_size, device)
    training.train(epochs=1)
    _barrier.wait(MAX_WARM_UP_S)
    started = time.time()  # the same clock in all processes
    training.train(epochs)
    return started, time.time()
