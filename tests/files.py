"""Small HDF5 files of both datasets with chosen content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from common.data import DATASET_A_ACTIVITIES
from tools.dataset_a import DATASET_A_COLUMNS

COLUMNS_B = ("time", "value", "other")


def random_samples(samples: int, seed: int = 0) -> np.ndarray:
    """Return `(samples, 129)` random values."""
    return np.random.default_rng(seed).normal(size=(samples, len(DATASET_A_COLUMNS)))


def write_a(
    path: Path,
    subjects: dict[str, Sequence[np.ndarray]],
    names: Sequence[str] | None = DATASET_A_COLUMNS,
    trial_starts: Sequence[int] | None = None,
) -> Path:
    """Write a file of Dataset A from the arrays of the four activities of every subject."""
    with h5py.File(path, "w") as file:
        if names is not None:
            file.attrs["columns"] = json.dumps(list(names))
        for subject, arrays in subjects.items():
            for activity, array in zip(DATASET_A_ACTIVITIES, arrays, strict=True):
                table = file.create_dataset(
                    f"All_subjects/Subject_{subject}/{activity}", data=array
                )
                if trial_starts is not None:
                    table.attrs["trial_starts"] = trial_starts
    return path


def write_random_a(
    path: Path, subjects: Sequence[str] = ("7", "8", "9"), samples: int = 120
) -> Path:
    """Write a file of Dataset A with random values, `samples` in each activity."""
    arrays = {
        subject: [random_samples(samples, 10 * i + k) for k in range(4)]
        for i, subject in enumerate(subjects)
    }
    return write_a(path, arrays)


def write_b(path: Path, subjects: dict[str, np.ndarray], names: Sequence[str] = COLUMNS_B) -> Path:
    """Write a file of Dataset B from the `(steps, samples, columns)` of every subject."""
    with h5py.File(path, "w") as file:
        file.attrs["columns"] = json.dumps(list(names))
        for subject, steps in subjects.items():
            file[f"subject_{subject}"] = steps
    return path
