"""A recording out of an HDF5 file in the layout of Dataset A or B, target columns or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from common.columns import DATASET_A_ACTIVITIES, DATASET_A_COLUMNS
from common.experiments import Study

from common import hdf5
from common.data import Block, block_a, block_b
from common.files import InputError
from tools.prediction.needs import Needs
from tools.prediction.recording import TIME, Piece


def read(
    path: Path,
    study: Study,
    needs: Needs,
    subject: str | None,
    activities: Sequence[str] | None,
) -> Iterator[Piece]:
    """Read one subject: an activity at a time (A), or all steps at once (B).

    Args:
        path: The file. study: The script's. needs: The columns to read.
        subject: Its id, None for the only one. activities: Of A, None for all that are there.

    Raises:
        InputError: The file is not like that; the message names the place and the remedy.
    """
    with hdf5.opened(path) as file:
        _check_dataset(path, file, study.dataset)
        blocks = _blocks_a if study.dataset == "a" else _blocks_b
        trial = "trial" if study.dataset == "a" else "step"
        for known, block in blocks(path, file, needs, subject, activities):
            rows = len(block.trial)
            from_1 = block.trial if trial == "trial" else block.trial + 1
            first = np.searchsorted(block.trial, block.trial)  # of the row's trial
            where = {"subject": np.full(rows, block.subject)}
            if block.activity:
                where["activity"] = np.full(rows, block.activity)
            where |= {trial: from_1, TIME: (np.arange(rows) - first) / study.rate_hz}
            yield Piece(where, block.columns, known, block.trial)


def _check_dataset(path: Path, file: h5py.File, dataset: str) -> None:
    is_a = "All_subjects" in file
    is_b = any(key.startswith("subject_") for key in file)
    if (is_b and not is_a) if dataset == "a" else is_a:
        found = "b" if dataset == "a" else "a"
        raise InputError(
            f"{path}: a file of Dataset {found.upper()}, where the model reads Dataset "
            f"{dataset.upper()}; use a checkpoint of Dataset {found.upper()}"
        )


def _blocks_a(
    path: Path,
    file: h5py.File,
    needs: Needs,
    subject: str | None,
    activities: Sequence[str] | None,
) -> Iterator[tuple[tuple[str, ...], Block]]:
    root = hdf5.member(path, file, "All_subjects")
    keys = hdf5.subject_keys(path, root, "Subject_")
    chosen = choose_subject(path, list(keys), subject)
    group = hdf5.member(path, root, keys[chosen])
    there = [name for name in DATASET_A_ACTIVITIES if name in group]
    missing = [name for name in activities or () if name not in there]
    if missing or not there:
        raise InputError(
            f"{path}: {group.name}: no {' or '.join(missing or DATASET_A_ACTIVITIES)}; "
            + (f"--activity takes some of {' '.join(there)}" if there else "add one of them")
        )
    names = hdf5.column_names(path, file) or list(DATASET_A_COLUMNS)
    known = needs.found_in(names, path)
    positions = {name: i for i, name in enumerate(names)}
    for activity in activities or there:
        table = group[activity]
        hdf5.check_table(path, table, axes=2, width=len(names))
        if len(table):
            yield known, block_a(path, chosen, activity, table, positions)


def _blocks_b(
    path: Path,
    file: h5py.File,
    needs: Needs,
    subject: str | None,
    activities: Sequence[str] | None,
) -> Iterator[tuple[tuple[str, ...], Block]]:
    if activities is not None:
        raise InputError("--activity: Dataset B has no activities; leave the flag out")
    names = hdf5.column_names(path, file)
    if names is None:
        raise InputError(f"{path}: no attribute `columns` (a JSON list of names); add it")
    keys = hdf5.subject_keys(path, file, "subject_")
    chosen = choose_subject(path, list(keys), subject)
    table = hdf5.member(path, file, keys[chosen])
    hdf5.check_table(path, table, axes=3, width=len(names))
    known = needs.found_in(names, path)
    positions = {name: i for i, name in enumerate(names)}
    yield known, block_b(path, chosen, table, positions)


def choose_subject(path: Path, subjects: Sequence[str], wanted: str | None) -> str:
    """Return the wanted subject, the only one for None.

    Raises:
        InputError: There is no such subject, or several to choose from.
    """
    there = " ".join(subjects)
    if wanted is None:
        if len(subjects) > 1:
            raise InputError(f"{path}: several subjects; --subject takes one of {there}")
        return subjects[0]
    by_number = {int(subject): subject for subject in subjects}
    if not wanted.isdecimal() or int(wanted) not in by_number:
        raise InputError(f"{path}: no subject {wanted}; --subject takes one of {there}")
    return by_number[int(wanted)]
