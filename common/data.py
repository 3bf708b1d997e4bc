"""Read an HDF5 file of either dataset, subject by subject, into one tensor per modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from common import hdf5
from common.columns import *  # noqa: F403  (moves here)
from common.columns import DATASET_A_ACTIVITIES, DATASET_A_COLUMNS
from common.files import InputError
from common.hdf5 import Columns

Prepare = Callable[[Columns], dict[str, np.ndarray]]
"""Turns the columns of some rows into `(rows, C)` per modality, and `"targets"`: `(rows, K)`."""

ALL = slice(None)


@dataclass(frozen=True)
class Recording:
    """Every usable row (one sample in time) of a file, subject after subject in numeric order.

    Attributes:
        path: The file it was read from.
        samples: Modality, or `"targets"`, to `(rows, C)` float32.
        subjects: Ids in numeric order. activities: Names; `[""]` where the file has none.
        subject: `(rows,)` index into `subjects`. activity: `(rows,)` index into `activities`.
        stretch: `(rows,)` number of the row's stretch: rows that follow one another in one trial
            or step, with no dropped row between them.
        dropped: Place in the file to the number of its rows dropped for NaN.
        has_trials: Whether the file tells where its trials (A) or steps (B) start.
    """

    path: Path
    samples: dict[str, Tensor]
    subjects: list[str]
    activities: list[str]
    subject: np.ndarray
    activity: np.ndarray
    stretch: np.ndarray
    dropped: dict[str, int]
    has_trials: bool

    def to(self, device: torch.device) -> Recording:
        """Return the recording with its samples on `device`."""
        moved = {name: values.to(device) for name, values in self.samples.items()}
        return replace(self, samples=moved)


class Block(NamedTuple):
    """Rows of one HDF5 dataset and, of each, the `(rows,)` trial or step, as numbered in it."""

    subject: str
    activity: str
    columns: Columns
    trial: np.ndarray


def read_dataset_a(path: Path, prepare: Prepare) -> Recording:
    """Read `/All_subjects/Subject_<id>/<activity>`, each `(rows, 129)`, at 200 Hz.

    The file's attribute `columns` names its columns; a file without it must hold the columns of
    `DATASET_A_COLUMNS`, in that order. The attribute `trial_starts` of an activity, its row
    numbers, is used where it exists.

    Raises:
        InputError: The file is not like that; the message names the place and the remedy.
    """
    with hdf5.opened(path) as file:
        root = hdf5.member(path, file, "All_subjects")
        names = hdf5.column_names(path, file) or DATASET_A_COLUMNS
        tables = [
            (subject, activity, hdf5.member(path, hdf5.member(path, root, key), activity))
            for subject, key in hdf5.subject_keys(path, root, "Subject_").items()
            for activity in DATASET_A_ACTIVITIES
        ]
        for _, _, table in tables:
            hdf5.check_table(path, table, axes=2, width=len(names))
        has_trials = all("trial_starts" in table.attrs for _, _, table in tables)

        positions = {name: i for i, name in enumerate(names)}
        rows = _Rows(sum(len(table) for _, _, table in tables))
        for subject, activity, table in tables:
            rows.add(table, partial(block_a, path, subject, activity, table, positions), prepare)
        return rows.recording(path, has_trials)


def read_dataset_b(path: Path, prepare: Prepare) -> Recording:
    """Read `/subject_<id>`, each `(steps, 152, 256)`, at 100 Hz, named by the attribute `columns`.

    A step ends at the first row after which all columns are zero to the end; a step that fills all
    of its rows is kept whole.

    Raises:
        InputError: The file is not like that; the message names the place and the remedy.
    """
    with hdf5.opened(path) as file:
        names = hdf5.column_names(path, file)
        if names is None:
            raise InputError(f"{path}: no attribute `columns` (a JSON list of names); add it")
        keys = hdf5.subject_keys(path, file, "subject_")
        tables = {subject: hdf5.member(path, file, key) for subject, key in keys.items()}
        for table in tables.values():
            hdf5.check_table(path, table, axes=3, width=len(names))

        positions = {name: i for i, name in enumerate(names)}
        rows = _Rows(sum(table.shape[0] * table.shape[1] for table in tables.values()))
        for subject, table in tables.items():
            rows.add(table, partial(block_b, path, subject, table, positions), prepare)
        return rows.recording(path, has_trials=True)


def rows_before_padding(steps: np.ndarray) -> np.ndarray:
    """Return the `(steps, rows)` mask of the rows up to the last one that is not all zero.

    Args:
        steps: `(steps, rows, columns)`; NaN is not zero.
    """
    filled = (steps != 0).any(axis=-1)
    return np.flip(np.logical_or.accumulate(np.flip(filled, axis=1), axis=1), axis=1)


def block_a(
    path: Path,
    subject: str,
    activity: str,
    table: h5py.Dataset,
    positions: dict[str, int],
    rows: slice = ALL,
) -> Block:
    """Read one activity of Dataset A, or some of its rows.

    Raises:
        InputError: It is damaged, or its `trial_starts` are no rising row numbers.
    """
    columns = Columns(path, table.name, positions, hdf5.read_table(path, table, rows))
    return Block(subject, activity, columns, _trials(path, table, rows))


def block_b(
    path: Path, subject: str, table: h5py.Dataset, positions: dict[str, int], steps: slice = ALL
) -> Block:
    """Read one subject of Dataset B, or some of its steps, without their padding.

    Raises:
        InputError: It is damaged.
    """
    values = hdf5.read_table(path, table, steps)
    valid = rows_before_padding(values)
    numbers = np.arange(*steps.indices(len(table)))
    trial = np.repeat(numbers, np.count_nonzero(valid, axis=1))
    return Block(subject, "", Columns(path, table.name, positions, values[valid]), trial)


def _trials(path: Path, table: h5py.Dataset, rows: slice) -> np.ndarray:
    starts = np.asarray(table.attrs.get("trial_starts", [0]))
    is_numbers = starts.ndim == 1 and starts.dtype.kind in "iu"
    starts = starts.astype(int) if is_numbers else starts  # unsigned ones would never fall
    if not is_numbers or (np.diff(starts) <= 0).any():
        raise InputError(
            f"{path}: {table.name}: the attribute `trial_starts` must be rising row numbers"
        )
    first, stop, _ = rows.indices(len(table))
    lengths = np.diff(np.clip(starts, first, stop), prepend=first, append=stop)
    return np.repeat(np.arange(len(lengths)), lengths)


class _Rows:
    """Arrays filled from the front; memory that is never filled is never touched."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows
        self.filled = 0
        self.stretches = 0
        self.samples: dict[str, np.ndarray] = {}
        self.labels = {
            name: np.empty(most_rows, np.int32) for name in ("subject", "activity", "stretch")
        }
        self.subjects: list[str] = []
        self.activities: list[str] = []
        self.dropped: dict[str, int] = {}
        self.row_counts: dict[str, int] = {}  # subject -> rows read
        self.value_counts: dict[tuple[str, str], int] = {}  # (subject, column) -> not NaN

    def add(self, table: h5py.Dataset, read: Callable[[slice], Block], prepare: Prepare) -> None:
        """Append, block by block, the rows of `table` without NaN in any of the prepared arrays."""
        start = self.filled
        try:
            parts = [self._fill(read(block), prepare) for block in hdf5.blocks(table)]
        except InputError:
            self._fill(read(ALL), prepare)  # refuses it too, and counts in all of the table
            raise
        kept, trial = map(np.concatenate, zip(*parts, strict=True))
        self.labels["stretch"][start : self.filled] = self._stretches(kept, trial)

    def _fill(self, block: Block, prepare: Prepare) -> tuple[np.ndarray, np.ndarray]:
        """Append the usable rows of a block; return, of each row, if it is one, and its trial."""
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is NaN, x/0 is refused here
            prepared = prepare(block.columns)
        kept = np.ones(len(block.trial), bool)
        for name, array in prepared.items():
            if not np.isfinite(array).all():
                _refuse_infinite(block, name, array)
                kept &= ~np.isnan(array, order="F").any(axis=1)
        count = np.count_nonzero(kept)
        place = slice(self.filled, self.filled + count)
        for name, array in prepared.items():
            if name not in self.samples:
                self.samples[name] = np.empty((self.most_rows, array.shape[1]), np.float32)
            usable = array if count == len(kept) else array.compress(kept, axis=0)
            self.samples[name][place] = usable
        self.labels["subject"][place] = _index(self.subjects, block.subject)
        self.labels["activity"][place] = _index(self.activities, block.activity)
        self.filled = place.stop
        self._count(block, len(kept), len(kept) - count)
        return kept, block.trial

    def _count(self, block: Block, rows: int, dropped: int) -> None:
        if dropped:
            place = block.columns.place
            self.dropped[place] = self.dropped.get(place, 0) + dropped
        self.row_counts[block.subject] = self.row_counts.get(block.subject, 0) + rows
        for column, nan_count in block.columns.nan_counts.items():
            key = (block.subject, column)
            self.value_counts[key] = self.value_counts.get(key, 0) + rows - nan_count

    def _stretches(self, kept: np.ndarray, trial: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(kept)
        if not len(rows):
            return rows
        starts = (np.diff(rows) != 1) | (np.diff(trial[rows]) != 0)
        numbers = self.stretches + np.append(0, np.cumsum(starts, dtype=np.int32))
        self.stretches = int(numbers[-1]) + 1
        return numbers

    def recording(self, path: Path, has_trials: bool) -> Recording:
        """Cut the arrays, without a copy, to the rows in use.

        Raises:
            InputError: A subject has a column of nothing but NaN, or there is one subject only.
        """
        for (subject, column), count in self.value_counts.items():
            if count == 0 and self.row_counts[subject]:
                raise InputError(
                    f"{path}: subject {subject}: nothing but NaN in {column}; "
                    "supply the column or leave the subject out of the file"
                )
        if len(self.subjects) < 2:
            raise InputError(f"{path}: one subject; add another, to train on one and test on one")
        for array in (*self.samples.values(), *self.labels.values()):
            array.resize((self.filled, *array.shape[1:]), refcheck=False)
        return Recording(
            path=path,
            samples={name: torch.from_numpy(array) for name, array in self.samples.items()},
            subjects=self.subjects,
            activities=self.activities,
            **self.labels,
            dropped=self.dropped,
            has_trials=has_trials,
        )


def _refuse_infinite(block: Block, name: str, array: np.ndarray) -> None:
    infinite = int(np.isinf(array).any(axis=1).sum())
    if infinite:
        raise InputError(
            f"{block.columns.path}: {block.columns.place}: {name} divided by 0 in "
            f"{infinite} rows; supply body weight and height"
        )


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
