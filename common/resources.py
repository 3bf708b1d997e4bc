"""What a run will take, found before it begins: room on the disk, and how many jobs fit."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from common.data import Recording
from common.experiments import Experiment, Study
from common.files import InputError

PROCESS_BYTES = 1.2e9  # of a training of a small network, measured
STATE_BYTES = 16  # of a parameter in a state: weights, two moments, the best epoch
PARAMETER_BYTES = 28  # weights, gradients, two moments, the best epoch; and room to work, measured


def count_parameters(experiment: Experiment) -> int:
    """Count the parameters of a row's model."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in experiment.model().parameters())


def taught_values(study: Study, recording: Recording, row: str) -> int:
    """Count the numbers that a row's teacher makes of all windows of a recording; 0 without one."""
    experiment = study.experiment(row)
    if experiment.teaching is None:
        return 0
    with torch.device("meta"):
        teacher = study.experiment(experiment.teacher).model()
        window = {
            name: torch.empty(1, study.window, values.shape[1])
            for name, values in recording.samples.items()
        }
    made = experiment.teaching(teacher)(window)
    return len(recording.subject) * sum(v.numel() for v in made.values()) // study.window


def largest_training(experiments: Sequence[Experiment]) -> int:
    """Return the parameters of the largest model that is trained, not fitted; 0 for none."""
    return max((count_parameters(e) for e in experiments if e.fit is None), default=0)


def check_space(
    folder: Path, experiments: Sequence[Experiment], values: Sequence[int], jobs: int
) -> None:
    """Check that the disk has room for the results and for the states of trainings under way.

    Args:
        folder: Where they go. experiments: Those that are to be done, one for each row and fold.
        values: Of truth and prediction, for each of them. jobs: Trainings side by side.

    Raises:
        InputError: It has not.
    """
    different = {experiment.row: experiment for experiment in experiments}
    counts = {row: count_parameters(experiment) for row, experiment in different.items()}
    needed = sum(4 * counts[e.row] + 4 * n for e, n in zip(experiments, values, strict=True))
    largest = largest_training(list(different.values()))
    needed += jobs * 2 * STATE_BYTES * largest  # the new state beside the old
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{folder}: up to {_in_words(needed)} are needed, {_in_words(free)} are free; give "
            "another --output-dir, fewer --rows or fewer --jobs"
        )


def count_jobs(
    options: argparse.Namespace, largest: int, tasks: int, data_bytes: int, device: torch.device
) -> int:
    """Return how many trainings run side by side.

    `--jobs` counts per GPU. By default there is one on a GPU; on the CPU there are as many as have
    a core each and fit into the memory that is free.

    Args:
        largest: Parameters of the largest network. tasks: To be done. data_bytes: Of a recording.
    """
    if options.jobs is not None:
        spread = device.type == "cuda" and device.index is None
        wanted = options.jobs * (torch.cuda.device_count() if spread else 1)
        return max(1, min(wanted, tasks))
    if device.type == "cuda" or tasks < 2:
        return 1
    each = PROCESS_BYTES + data_bytes + PARAMETER_BYTES * largest
    return int(max(1, min(_cores() // options.threads, _free_memory() // each, tasks)))


def _free_memory() -> float:
    """Return the bytes that are free, within the limit of a container where there is one."""
    limit = Path("/sys/fs/cgroup/memory.max")
    used = limit.with_name("memory.current")
    free = psutil.virtual_memory().available
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdecimal():
        return min(free, int(text) - int(used.read_text()))
    return free


def _in_words(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
