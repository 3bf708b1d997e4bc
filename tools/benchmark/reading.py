"""Samples per second when a file is read: by a script, by h5py alone, and by appending."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from timeit import timeit
from typing import Any

import h5py
import numpy as np

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.data import DATASET_A_ACTIVITIES, dataset_a_tables, dataset_b_tables
from synthetic_gait import write_file
from tools.benchmark.memory import added_bytes
from tools.trained import script_columns

SCRIPTS = {"a": script_a, "b": script_b}
TABLES = {"a": dataset_a_tables, "b": dataset_b_tables}
SUBJECTS = 2  # the fewest that a script reads
SAMPLES_A = (20_000, 640_000)  # two subjects of real size; appending them would take minutes
TYPES_A = ("float32", "float64")  # of tools.prepare_dataset_a, and of the paper's file
STEPS_B = (500, 1000, 2000)  # per subject


def measure(dataset: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure files of several sizes, which repeat a piece of synthetic data."""
    kinds = product(SAMPLES_A, TYPES_A) if dataset == "a" else product(STEPS_B, TYPES_A[:1])
    for size, stored in kinds:
        with large_file(dataset, size, stored) as path:
            result = _measure_file(dataset, path, repeats)
            if dataset == "b" or size == SAMPLES_A[0]:
                result["appending_s"] = timeit(
                    lambda path=path: append_all(dataset, path), number=1
                )
                result["appending_over_ours"] = result["appending_s"] / result["ours_s"]
                result["appending_peak_bytes"] = added_bytes(append_all, dataset, path, 1)
            yield {"stored": stored, **result}


def _measure_file(dataset: str, path: Path, repeats: int) -> dict[str, Any]:
    ours_s, h5py_s = [], []
    for _ in range(repeats + 1):
        ours_s.append(timeit(lambda: read(dataset, path), number=1))
        h5py_s.append(timeit(lambda: _read_by_h5py(dataset, path), number=1))
    ours, by_h5py = (float(np.median(times[1:])) for times in (ours_s, h5py_s))  # first: warm-up
    recording = SCRIPTS[dataset].read(path)
    return {
        "dataset": dataset.upper(),
        "file_bytes": path.stat().st_size,
        "rows": len(recording.subject),
        "ours_s": ours,
        "h5py_s": by_h5py,
        "rows_per_s": len(recording.subject) / ours,
        "over_h5py": ours / by_h5py,
        "kept_bytes": sum(values.nbytes for values in recording.samples.values()),
        "peak_bytes": added_bytes(read, dataset, path),
    }


def read(dataset: str, path: Path) -> None:
    """Read a file as the scripts do."""
    SCRIPTS[dataset].read(path)


def _read_by_h5py(dataset: str, path: Path) -> None:
    with h5py.File(path) as file:
        for table in TABLES[dataset](path, file):
            table.dataset[()]


def append_all(dataset: str, path: Path, tables: int | None = None) -> np.ndarray:
    """Read a file in the published way: step by step into an array that grows.

    Args:
        dataset: `a`, appended sample by sample, or `b`, step by step without the padding.
        path: the file.
        tables: number of HDF5 datasets to read, by default all.

    Returns:
        `(samples, C)`, the columns that a script looks up.
    """
    with h5py.File(path) as file:
        names, arrays = script_columns(SCRIPTS[dataset]), []
        for table in TABLES[dataset](path, file)[:tables]:
            columns = [table.positions[name] for name in names]
            values = np.empty((0, len(columns)), table.dataset.dtype)
            for part in table.dataset[()]:
                step = np.atleast_2d(part)
                filled = np.flatnonzero((step != 0).any(axis=1))
                values = np.append(values, step[: filled[-1] + 1, columns], axis=0)
            arrays.append(values)
        return np.concatenate(arrays)


@contextmanager
def large_file(dataset: str, size: int, stored: str) -> Iterator[Path]:
    """Write a file of `size` samples (A) or of `size` steps per subject (B), stored as a type."""
    each = size if dataset == "b" else size // SUBJECTS // len(DATASET_A_ACTIVITIES)
    with tempfile.TemporaryDirectory() as folder:
        small, path = Path(folder) / "small.h5", Path(folder) / "large.h5"
        write_file(small, dataset, subjects=SUBJECTS, minutes=0.2, seed=0)
        with h5py.File(small) as source, h5py.File(path, "w") as file:
            file.attrs["columns"] = source.attrs["columns"]
            for table in TABLES[dataset](small, source):
                values = table.dataset[()]
                repeated = np.concatenate([values] * -(-each // len(values)))
                file[table.dataset.name] = repeated[:each].astype(stored)
        yield path
