"""Training: the script's own loop and the published loop, `--faster`, and `--jobs`."""

from __future__ import annotations

import argparse
import fnmatch
import io
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common.data import Recording
from common.files import InputError, shorten
from common.folder import find_run
from common.runs import FailedTasksError, Row, Script, find_row, load_script, script_folder
from common.training import FASTER, Criterion, Epoch, Loss, Progress, count_used_parameters
from common.windows import Batch, Windows, precompute
from synthetic_gait import write_file
from tools.export_onnx.runtime import random_windows
from tools.trained import PROJECT, count_channels, find_script

LONGEST_S = 60  # per row, once it has been repeated: the largest networks need minutes
EPOCHS = 40  # over which the time of once-per-fold computations is spread
CPU_JOBS = ((1, 2), (2, 1))  # jobs and threads of each: both cores for one, or one for each of two
CUDA_JOBS = ((1, 1), (2, 1), (4, 1), (8, 1))
LONGEST_WARM_UP_S = 600  # after which processes give up waiting for one that has failed


class Case(NamedTuple):
    """A row of a script; unlike the script's module it can be sent to another process."""

    script_name: str
    row: Row

    @property
    def script(self) -> Script:
        """The script."""
        return find_script(self.script_name)

    @property
    def labels(self) -> dict[str, str]:
        """What identifies the row in the results."""
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
    scripts = [load_script(path) for path in sorted(PROJECT.glob("Dataset_*.py"))]
    cases = [Case(Path(script.__file__).stem, row) for script in scripts for row in script.ROWS]
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


class Rehearsal:
    """The training of a row as its script sets it up, on random data, run by either of two loops.

    It takes the place of `common.runs.Run` in a call of `script.train_and_test`, in which the
    arguments of `train` are recorded, nothing is trained, and no file is read or written.

    Args:
        case: the row.
        batches: training batches per epoch; a quarter as many windows are added for validation.
        batch_size: windows per batch.
        device: device to train on.

    Attributes:
        is_trained: whether the row is trained; otherwise its script assembles it from others.
        parameters: number of parameters that the script records for a row that is not trained.
        windows: training windows.
        validation: validation windows.
        loss: loss of the network on a batch.
        criterion: validation loss, of predictions and targets.
        teacher: computes `windows.cached` from the inputs of the teacher; None without a teacher.
        once_per_fold_s: seconds that this took.
    """

    def __init__(self, case: Case, batches: int, batch_size: int, device: torch.device) -> None:
        self.script, self.row, self.device = case.script, case.row, device
        rate, weights = self.script.LEARNING_RATE, {"alpha": 0.5, "beta": 1.0}
        self.args = argparse.Namespace(
            **{"protocol": "paper", "seed": 42, "epochs": EPOCHS, "patience": EPOCHS},
            **{"batch_size": batch_size, "learning_rate": rate, "faster": [], **weights},
            loss="pooled",
        )
        windows = math.ceil(batches * batch_size / 0.8)
        self.recording = random_recording(self.script, windows).to(device)
        self.is_trained, self.parameters = False, 0
        self.teacher: Callable[..., Any] | None = None
        self.once_per_fold_s = 0.0
        self._precomputed: list[tuple[tuple[Tensor, ...], Callable[..., Any], float]] = []
        with (
            patch.object(self.script, "train", self._record_training),
            patch.object(self.script, "precompute", self._precompute, create=True),
        ):
            self.script.train_and_test(self.row, self.recording.subjects[-1], self)

    def _precompute(self, function: Callable[..., Any], windows: Windows) -> tuple[Tensor, ...]:
        started = time.perf_counter()
        tensors = precompute(function, windows)
        float(tensors[0].flatten()[0])  # waits for the device
        self._precomputed.append((tensors, function, time.perf_counter() - started))
        return tensors

    def _record_training(
        self,
        network: nn.Module,
        windows: Windows,
        validation: Windows,
        loss: Loss,
        criterion: Criterion,
        *_: object,
    ) -> list[Epoch]:
        self.is_trained = True
        self.windows, self.validation = windows, validation
        self.loss, self.criterion = loss, criterion
        for tensors, function, seconds in self._precomputed:
            if any(values is cached for values in tensors for cached in windows.cached):
                self.teacher, self.once_per_fold_s = function, seconds
        return []

    # The methods of a Run that scripts call; untrained networks are as fast as trained ones

    def progress(self, row: Row, test_subject: str) -> Progress:
        """Return a progress that is never saved."""
        return Progress(row.name, Path("never-saved.pt"), math.inf, show_bar=False)

    def load_network(self, row: str, test_subject: str) -> nn.Module:
        """Return an untrained network."""
        torch.manual_seed(1)
        network = find_row(self.script, row).network()
        return network.to(self.device).eval().requires_grad_(False)

    def load_weights(self, row: str, test_subject: str, network: nn.Module) -> None:
        """Leave the weights as they are."""

    def used_parameters(self, row: str, test_subject: str) -> int:
        """Return the number of parameters that the prediction of a row depends on."""
        inputs = self.script.inputs(random_windows(self.script, 1), self.row.sensor_set)
        return count_used_parameters(find_row(self.script, row).network(), inputs)

    def record(self, *_: object, parameters: int = 0, **__: object) -> None:
        """Record the number of parameters only."""
        self.parameters = parameters

    # The two loops

    def new_network(self) -> nn.Module:
        """Build the network, with the same weights every time."""
        torch.manual_seed(self.args.seed)
        return self.row.network().to(self.device)

    def train(self, network: nn.Module, epochs: int) -> list[Epoch]:
        """Train by the loop of the script."""
        data, losses = (self.windows, self.validation), (self.loss, self.criterion)
        progress = self.progress(self.row, "")
        return self.script.train(network, *data, *losses, epochs, self.args, progress)

    def train_published(self, network: nn.Module, epochs: int) -> list[Epoch]:
        """Train by the published loop, on the same windows in the same order.

        Written from its description: CPU tensors in a shuffled DataLoader, seven per window of
        which a network uses two to four, moved to the device in every step; the loss read back and
        the teacher run in every step. Losses are means over batches.
        """
        windows, validation = self.published_data
        optimizer = torch.optim.Adam(network.parameters(), self.args.learning_rate)
        shuffling = torch.Generator().manual_seed(self.args.seed)
        torch.manual_seed(self.args.seed)  # for dropout
        history = []
        for epoch in range(1, epochs + 1):
            started, losses, validation_losses = time.perf_counter(), [], []
            network.train()
            order = torch.randperm(len(windows), generator=shuffling).tolist()
            for tensors in self._loader(windows, order):
                batch = self.published_batch(tensors)
                optimizer.zero_grad()
                loss = self.loss(network, batch)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            network.eval()
            with torch.no_grad():
                for tensors in self._loader(validation, None):
                    batch = self.published_batch(tensors)
                    prediction = network(*batch.inputs)
                    validation_losses.append(self.criterion(prediction, batch.targets).item())
            means = float(np.mean(losses)), float(np.mean(validation_losses))
            history.append(Epoch(epoch, *means, time.perf_counter() - started))
        return history

    def _loader(self, windows: TensorDataset, order: list[int] | None) -> DataLoader:
        own_generator = torch.Generator()  # or it would draw from the generator of dropout
        return DataLoader(windows, self.args.batch_size, sampler=order, generator=own_generator)

    @cached_property
    def published_data(self) -> tuple[TensorDataset, TensorDataset]:
        """Training and validation windows on the CPU, in seven tensors each."""
        datasets = []
        for windows in (self.windows, self.validation):
            numbers, samples = windows.samples.cpu(), self.recording.samples
            tensors = {name: values.cpu()[numbers] for name, values in samples.items()}
            for name in ("acc", "gyr"):  # (windows, axes, T, IMUs) for convolutions
                imus = tensors[name].unflatten(-1, (-1, 3))
                tensors[f"{name}_2d"] = imus.permute(0, 2, 3, 1).clone()
            tensors["imus"] = torch.cat([tensors["acc"], tensors["gyr"]], dim=-1)
            if windows.inputs:
                tensors["imus"] = windows.inputs[0].cpu()
            self._names = list(tensors)
            datasets.append(TensorDataset(*tensors.values()))
        return datasets[0], datasets[1]

    def published_batch(self, tensors: Sequence[Tensor]) -> Batch:
        """Move the used tensors of a batch to the device, and run the teacher if there is one."""
        sets = [self.row.sensor_set]
        sets += [find_row(self.script, name).sensor_set for name in self.row.needs]
        modalities = {m for name in sets for m in self.script.SENSOR_SETS[name].modalities}
        used = {"targets", "imus"} if self.windows.inputs else {"targets", *modalities}
        named = zip(self._names, tensors, strict=True)
        moved = {name: values.to(self.device) for name, values in named if name in used}
        if self.windows.inputs:
            return Batch((moved["imus"],), moved["targets"], ())
        cached = ()
        if self.teacher is not None:
            with torch.no_grad():
                cached = tuple(self.teacher(*self.script.inputs(moved, sets[1])))
        return Batch(tuple(self.script.inputs(moved, sets[0])), moved["targets"], cached)


def random_recording(script: Script, windows: int) -> Recording:
    """Return random samples: `windows` windows of one subject and one window of another."""
    generator = torch.Generator().manual_seed(0)
    size = (windows + 1) * script.WINDOW
    samples = {
        name: torch.randn(size, channels, generator=generator)
        for name, channels in count_channels(script).items()
    }
    subject = np.repeat([0, 1], [windows * script.WINDOW, script.WINDOW])
    zeros = np.zeros(size, int)
    return Recording(Path("random"), samples, ["1", "2"], [""], subject, zeros, zeros, {}, False)


# The parts `training`, `options` and `jobs` -------------------------------------------------------


def measure_training(
    case: Case, *, batches: int, batch_size: int, repeats: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Train epochs by both loops in turn, on the same windows and from the same weights.

    Yields one result, or none if the row is not trained.
    """
    started = time.perf_counter()
    rehearsal = Rehearsal(case, batches, batch_size, device)
    if not rehearsal.is_trained:
        return
    ours_s, published_s = [], []
    for repeat in range(repeats + 1):
        [ours] = rehearsal.train(rehearsal.new_network(), epochs=1)
        [published] = rehearsal.train_published(rehearsal.new_network(), epochs=1)
        if repeat:  # the first one warms up
            ours_s.append(ours.seconds)
            published_s.append(published.seconds)
        if ours_s and time.perf_counter() - started > LONGEST_S:
            break
    once_s = rehearsal.once_per_fold_s
    yield {
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
        "ratios": [p / (o + once_s / EPOCHS) for p, o in zip(published_s, ours_s, strict=True)],
    }


def train_two_batches(case: Case, batch_size: int, device: torch.device) -> None:
    """Train one epoch of two batches, whose memory is measured."""
    rehearsal = Rehearsal(case, 2, batch_size, device)
    rehearsal.train(rehearsal.new_network(), epochs=1)


def measure_options(
    case: Case, *, epochs: int, seeds: int, threads: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Train a row on synthetic data, without `--faster` and with each of its ways.

    The NRMSE is that of the last subject; it only shows whether a way does harm.
    """
    usual_s = None
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "synthetic.h5"
        write_file(data, case.script.DATASET, subjects=4, minutes=0.35, seed=0)
        flags = {"data": data, "output-dir": folder, "device": device, "threads": threads}
        flags |= {"rows": case.row.name, "epochs": epochs, "patience": epochs, "batch-size": 64}
        for way in ("none", *FASTER):
            result = {**case.labels, "device": str(device), "way": way}
            result |= {"seeds": seeds, "epochs": epochs, "seconds_per_epoch": None}
            flags |= {} if way == "none" else {"faster": way}
            try:
                trainings = [
                    _run_script(case.script, {**flags, "seed": s, "run-name": f"{way}{s}"})
                    for s in range(seeds)
                ]
            except (InputError, FailedTasksError) as error:  # for example, there is no compiler
                yield {**result, "problem": shorten(error)}
                continue
            seconds, nrmse, losses = zip(*trainings, strict=True)
            result["seconds_per_epoch"] = float(np.median(seconds))
            usual_s = usual_s or result["seconds_per_epoch"]
            result["ratio"] = usual_s / result["seconds_per_epoch"]
            yield {**result, "nrmse_percent": nrmse, "validation_loss": losses}


def _run_script(script: Script, flags: Mapping[str, object]) -> tuple[float, float, float]:
    """Return the seconds per epoch (not the first of several), NRMSE in % and validation loss."""
    argv = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        metrics = script.main([*argv, "--jobs", "1"])
    folder = find_run(script_folder(Path(flags["output-dir"]), script), flags["run-name"])
    history = pd.read_csv(folder / "history.csv")
    nrmse = metrics[metrics["activity"] == "all"]["nrmse_percent"].mean()
    seconds = history["seconds"].iloc[min(1, len(history) - 1) :].median()
    return float(seconds), float(nrmse), float(history["validation_loss"].min())


def measure_jobs(
    case: Case, *, batches: int, batch_size: int, epochs: int, repeats: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Measure the throughput of several equal trainings at the same time, as with `--jobs`.

    The processes start, warm up and wait for one another before they train: the time to start them
    does not count, because a run starts them once.
    """
    pairs = CUDA_JOBS if device.type == "cuda" else CPU_JOBS
    rates: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for _ in range(repeats):
        for jobs, threads in pairs:
            seconds = seconds_in_parallel(jobs, case, batches, batch_size, epochs, device, threads)
            rates[jobs, threads].append(jobs * epochs * batches * batch_size / seconds)
    for (jobs, threads), found in rates.items():
        yield {
            **case.labels,
            "device": str(device),
            "jobs": jobs,
            "threads": threads,
            "windows_per_s": float(np.median(found)),
            "ratio": float(np.median(found) / np.median(rates[pairs[0]])),
        }


def seconds_in_parallel(jobs: int, *training: object) -> float:
    """Return the seconds from the start of the first of several trainings to the end of the last.

    Args:
        jobs: number of processes.
        training: arguments of `_train_at_barrier`.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _set_barrier, (context.Barrier(jobs),)) as pool:
        spans = list(pool.map(_train_at_barrier, *([value] * jobs for value in training)))
    return max(stop for _, stop in spans) - min(start for start, _ in spans)


def _set_barrier(barrier: Barrier) -> None:
    global _barrier  # can be handed over only when a process starts
    _barrier = barrier


def _train_at_barrier(
    case: Case, batches: int, batch_size: int, epochs: int, device: torch.device, threads: int
) -> tuple[float, float]:
    """Train in a process of its own; return the times of its start and end."""
    torch.set_num_threads(threads)
    rehearsal = Rehearsal(case, batches, batch_size, device)
    rehearsal.train(rehearsal.new_network(), epochs=1)
    network = rehearsal.new_network()
    _barrier.wait(LONGEST_WARM_UP_S)
    started = time.time()  # the same clock in all processes
    rehearsal.train(network, epochs)
    return started, time.time()
