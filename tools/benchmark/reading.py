"""Samples per second when a file is read by a script, compared with h5py alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from timeit import timeit
from typing import Any

import h5py
import numpy as np
import torch

from synthetic_gait import write_file
from tools.benchmark.inference import added_mb
from tools.trained import find_script

SCRIPTS = {"a": "Dataset_A_Sensor_Distillation", "b": "Dataset_B_sensor_distillation"}
SUBJECTS = 2  # the fewest that a script reads
SAMPLES_A = 80_000  # in each table: two subjects of real size
STEPS_B = 2000  # per subject
TYPES = ("float32", "float64")  # of tools.prepare_dataset_a, and of the paper's file


def measure(dataset: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure files of realistic size, which repeat a piece of synthetic data."""
    for stored in TYPES:
        with large_file(dataset, SAMPLES_A if dataset == "a" else STEPS_B, stored) as path:
            ours_s, h5py_s = [], []
            for _ in range(repeats + 1):
                ours_s.append(timeit(lambda path=path: read(dataset, path), number=1))
                h5py_s.append(timeit(lambda path=path: read_by_h5py(path), number=1))
            ours, by_h5py = (float(np.median(times[1:])) for times in (ours_s, h5py_s))
            recording = find_script(SCRIPTS[dataset]).read(path)
            yield {
                "dataset": dataset.upper(),
                "stored": stored,
                "samples": len(recording.subject),
                "ours_s": ours,
                "h5py_s": by_h5py,
                "million_samples_per_s": len(recording.subject) / ours / 1e6,
                "over_h5py": ours / by_h5py,
                "kept_mb": sum(values.nbytes for values in recording.samples.values()) / 1e6,
                "peak_mb": added_mb(torch.device("cpu"), read, dataset, path),
            }


def read(dataset: str, path: Path) -> None:
    """Read a file as the scripts do."""
    find_script(SCRIPTS[dataset]).read(path)


def read_by_h5py(path: Path) -> list[np.ndarray]:
    """Read all tables of a file."""
    arrays: list[np.ndarray] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return arrays


@contextmanager
def large_file(dataset: str, length: int, stored: str) -> Iterator[Path]:
    """Write a file whose tables have `length` samples (A) or steps (B), stored as a type."""
    with tempfile.TemporaryDirectory() as folder:
        small, path = Path(folder) / "small.h5", Path(folder) / "large.h5"
        write_file(small, dataset, subjects=SUBJECTS, minutes=0.2, seed=0)
        with h5py.File(small) as source, h5py.File(path, "w") as file:
            file.attrs["columns"] = source.attrs["columns"]

            def repeat(name: str, item: h5py.Group | h5py.Dataset) -> None:
                if isinstance(item, h5py.Dataset):
                    values = item[()]
                    repeated = np.concatenate([values] * -(-length // len(values)))
                    file[name] = repeated[:length].astype(stored)

            source.visititems(repeat)
        yield path
