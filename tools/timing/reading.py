"""Rows per second of reading a file, against h5py alone and against appending."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common.columns import DATASET_A_ACTIVITIES
from common.sample import write_sample

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.data import Recording
from tools.check import layout
from tools.timing import memory, published

SUBJECTS = ("01", "02")  # two are the fewest that a script reads
ROWS_A = (20_000, 640_000)  # two subjects of the real size; appending takes minutes beyond 20,000
TYPES_A = ("float32", "float64")  # as tools.prepare_dataset_a writes, and as the paper's file is
STEPS_B = (500, 1000, 2000)  # of each subject
SCRIPTS = {"a": script_a, "b": script_b}
READERS = {"a": published.read_a, "b": published.read_b}
TARGETS_B = ("EXT_KM_X", "EXT_KM_Y", *(f"plate_2_force_{axis}" for axis in "xyz"))
BODY_B = ("body weight", "body height")


def measure(dataset: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure files of several sizes, made of a synthetic sample that is repeated."""
    kinds = product(ROWS_A, TYPES_A) if dataset == "a" else product(STEPS_B, TYPES_A[:1])
    for size, stored in kinds:
        with _file(dataset, size, stored) as path:
            appends = dataset == "b" or size == ROWS_A[0]
            yield {"stored": stored, **_measure_file(dataset, path, repeats, appends)}


def _measure_file(dataset: str, path: Path, repeats: int, appends: bool) -> dict[str, Any]:
    script, columns = SCRIPTS[dataset], column_numbers(dataset, path)
    reads: dict[str, Callable[[], object]] = {
        "ours_s": lambda: script.STUDY.read(path),
        "h5py_s": lambda: _read_bare(path),
    }
    times = {name: [] for name in reads}
    for _ in range(repeats + 1):
        for name, read in reads.items():
            times[name].append(_seconds(read))
    found = {name: float(np.median(values[1:])) for name, values in times.items()}  # warm
    recording = script.STUDY.read(path)
    rows = len(recording.subject)
    found |= {"rows": rows, "rows_per_s": rows / found["ours_s"]}
    found["over_h5py"] = found["ours_s"] / found["h5py_s"]
    found["kept_bytes"] = kept_bytes(recording)
    found["peak_bytes"] = memory.of_reading(script.__name__, path)
    if appends:
        reader = READERS[dataset]
        found["appending_s"] = _seconds(lambda: append_all(path, reader, columns))
        found["appending_over_ours"] = found["appending_s"] / found["ours_s"]
        place = _places(path)[0]
        found["appending_peak_bytes"] = memory.of_appending(
            reader.__name__, path, place, columns.tolist()
        )
    return {"dataset": dataset.upper(), "file_bytes": path.stat().st_size, **found}


def column_numbers(dataset: str, path: Path) -> np.ndarray:
    """Return the numbers of the columns that a script reads."""
    names = [name for group in layout.of(dataset).channels.values() for name in group]
    names += script_a.TARGETS if dataset == "a" else [*TARGETS_B, *BODY_B]
    with h5py.File(path) as file:
        columns = json.loads(file.attrs["columns"])
    return np.array([columns.index(name) for name in names])


def append_all(path: Path, reader: Callable[..., np.ndarray], columns: np.ndarray) -> np.ndarray:
    """Read all datasets of a file by appending, one dataset after the other."""
    with h5py.File(path) as file:
        return np.concatenate([reader(file[place], columns) for place in _places(path)])


def kept_bytes(recording: Recording) -> int:
    """Return the size of what is kept of a file."""
    return sum(4 * values.numel() for values in recording.samples.values())


def _read_bare(path: Path) -> None:
    with h5py.File(path) as file:
        for place in _places(path):
            file[place][()]


def _places(path: Path) -> list[str]:
    """Return the paths of the datasets in a file, in order."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda n, item: found.append(n) if isinstance(item, h5py.Dataset) else None)
    return sorted(found)


def _seconds(read: Callable[[], object]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


@contextmanager
def _file(dataset: str, size: int, stored: str) -> Iterator[Path]:
    """Give a file of `size` rows (A) or of `size` steps per subject (B), stored as a type."""
    with tempfile.TemporaryDirectory() as folder:
        sample, path = Path(folder) / "sample.h5", Path(folder) / f"{dataset}_{size}.h5"
        write_sample(sample, dataset, subjects=2, minutes=0.2, seed=0)
        with h5py.File(sample) as source, h5py.File(path, "w") as file:
            file.attrs["columns"] = source.attrs["columns"]
            places = _places(sample)
            each = size if dataset == "b" else size // len(SUBJECTS) // len(DATASET_A_ACTIVITIES)
            for place in places:
                values = source[place][()]
                repeated = -(-each // len(values))
                file[place] = np.concatenate([values] * repeated)[:each].astype(stored)
        yield path
