"""The recording to predict: samples at the network's rate, and the stretches they form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data import (
    DATASET_A_ACTIVITIES,
    Columns,
    Table,
    dataset_a_tables,
    dataset_b_tables,
    find_subject,
    number_stretches,
    open_hdf5,
    trial_tables,
)
from common.files import InputError
from common.runs import Script
from tools.trained import Trained, dataset_name, target_columns
from tools.trial_file import Clock, Source, Units, print_template, read_trial

TIME = "time (s)"
TIME_DIGITS = 6  # in s
STRETCH = "stretch"


class Piece(NamedTuple):
    """Samples that follow one another in a file.

    Attributes:
        labels: column of the output -> `(samples,)`: where the samples come from, the time last.
        columns: the columns to read, at the network's rate.
        trial: `(samples,)` number of the trial or step; no window crosses from one to the next.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
        recorded_hz: their rate.
    """

    labels: dict[str, np.ndarray]
    columns: Columns
    trial: np.ndarray
    recorded: np.ndarray
    recorded_hz: float


@dataclass(frozen=True)
class Samples:
    """All samples of a recording, whether they can be predicted or not.

    Attributes:
        labels: a line per sample: where it comes from, the number of its stretch and its time.
        values: modality, or `"targets"`, -> `(samples, C)` float32; NaN where nothing was measured.
        stretch: `(samples,)` number of the stretch, from 0; -1 where the network lacks an input.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
        recorded_hz: their rate.
    """

    labels: pd.DataFrame
    values: dict[str, Tensor]
    stretch: np.ndarray
    recorded: np.ndarray
    recorded_hz: float


def input_columns(trained: Trained) -> list[str]:
    """Return the columns that the network's inputs are computed from."""
    return trained.script.column_names(trained.sensor_set)


def columns_to_read(path: Path, trained: Trained, names: Sequence[str]) -> list[str]:
    """Return the columns of the inputs and, if the file has all of them, of the targets.

    Args:
        path: the file, for the error.
        trained: the network.
        names: the columns of the file.

    Raises:
        InputError: A column of the inputs is missing.
    """
    needed = input_columns(trained)
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}, which the network reads; add the column, "
            "rename yours, or use the checkpoint of a smaller sensor set"
        )
    targets = target_columns(trained.script)
    return needed + (targets if set(targets) <= set(names) else [])


# From pieces to samples ---------------------------------------------------------------------------


def join_pieces(path: Path, trained: Trained, pieces: Iterable[Piece], units: Units) -> Samples:
    """Prepare the pieces of a recording as the network's script does, and number the stretches.

    Args:
        path: the file, for the error.
        trained: the network.
        pieces: the pieces.
        units: units of the recording.

    Raises:
        InputError: There is no piece, or a value is infinite.
    """
    factors = units.factors(trained.script)
    labels, values, stretches, recorded, count = [], [], [], [], 0
    for piece in pieces:
        prepared = _prepare(trained, piece.columns, factors)
        inputs = torch.cat(trained.inputs(prepared), dim=-1)
        if inputs.isinf().any():
            raise InputError(
                f"{piece.columns.path}: {piece.columns.place}: divided by 0; supply the body height"
            )
        is_usable = inputs.isfinite().all(dim=-1).numpy()
        stretch = number_stretches(is_usable, piece.trial, first=count)
        count = max(count, int(stretch.max(initial=-1)) + 1)
        *places, time = piece.labels
        lines = {name: piece.labels[name] for name in places}
        lines[STRETCH] = pd.Series(stretch + 1, dtype="Int64").where(is_usable)
        labels.append(pd.DataFrame({**lines, time: piece.labels[time]}))
        values.append(prepared)
        stretches.append(stretch)
        recorded.append(piece.recorded)
    if not values:
        raise InputError(
            f"{path}: no two consecutive samples; supply a longer recording, or see --max-gap"
        )
    return Samples(
        pd.concat(labels, ignore_index=True),
        {name: torch.cat([part[name] for part in values]) for name in values[0]},
        np.concatenate(stretches),
        np.concatenate(recorded),
        piece.recorded_hz,
    )


def _prepare(trained: Trained, columns: Columns, factors: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the modalities and the targets; what is not in the file is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        prepared = trained.script.prepare(replace(columns, fill_missing=True))
    samples = {name: torch.from_numpy(v.astype(np.float32)) for name, v in prepared.items()}
    for modality, factor in factors.items():
        samples[modality] *= factor
    return samples


# Files --------------------------------------------------------------------------------------------


def read_file(
    path: Path, trained: Trained, clock: Clock, units: Units, mapping: Mapping[str, Source]
) -> tuple[list[Piece], Units]:
    """Read a CSV or MATLAB file; the arguments are those of `read_trial`.

    Returns:
        A piece per stretch; and the units, those of the file where the user has given none.

    Raises:
        InputError: The file cannot be used; the message names the place and the remedy.
    """
    with print_template():
        trial = read_trial(path, trained.script, trained.sensor_set, clock, units, mapping)
    for note in (*trial.notes, *(f"NOTICE: {notice}" for notice in trial.notices)):
        print(note)
    count = len(trial.stretches)
    if count > 1:
        print(f"NOTICE: gaps split the recording into {count} stretches; see --max-gap")
    positions = {name: i for i, name in enumerate(trial.names)}
    pieces = []
    for number, (time_s, values, recorded) in enumerate(trial.stretches):
        labels = {TIME: np.round(trial.start_s + time_s, TIME_DIGITS)}
        columns = Columns(path, "the table", positions, values)
        pieces.append(Piece(labels, columns, np.full(len(values), number), recorded, trial.own_hz))
    return pieces, trial.units


def read_hdf5(
    path: Path, trained: Trained, subject: str | None, activities: Sequence[str] | None
) -> Iterator[Piece]:
    """Read one subject of a file in the layout of the network's dataset.

    Args:
        path: the file.
        trained: the network.
        subject: id of the subject; None for the only one.
        activities: activities to read, not in Dataset B; None for all that the file has.

    Yields:
        A piece per activity (Dataset A), or one of all steps (Dataset B).

    Raises:
        InputError: The file cannot be used; the message names the place and the remedy.
    """
    script = trained.script
    with open_hdf5(path) as file:
        _check_dataset(path, file, script)
        if script.DATASET == "b":
            if activities is not None:
                raise InputError("--activity: Dataset B has no activities; leave the flag out")
            by_subject = {table.subject: table for table in dataset_b_tables(path, file)}
            chosen = choose_subject(path, list(by_subject), subject)
            tables, trial_label = [by_subject[chosen]], "step"
        else:
            is_a = script.DATASET == "a"
            tables = dataset_a_tables(path, file, False) if is_a else trial_tables(path, file)
            tables, trial_label = _choose_tables(path, tables, subject, activities), "trial"
        for table in tables:
            block = table.read()
            samples = len(block.trial)
            labels = {"subject": np.full(samples, table.subject)}
            if table.activity:
                labels["activity"] = np.full(samples, table.activity)
            number = block.trial + (1 if trial_label == "step" else 0)  # both count from 1
            first = np.searchsorted(block.trial, block.trial)  # of the sample's trial
            labels |= {trial_label: number, TIME: (np.arange(samples) - first) / script.RATE_HZ}
            names = columns_to_read(path, trained, list(table.positions))
            columns = replace(
                block.columns, positions={name: table.positions[name] for name in names}
            )
            inputs = [table.positions[name] for name in input_columns(trained)]
            recorded = columns.values[:, inputs]
            yield Piece(labels, columns, block.trial, recorded, script.RATE_HZ)


def choose_subject(path: Path, subjects: Sequence[str], wanted: str | None) -> str:
    """Return the wanted subject (`7` matches `07`), or the only one for None.

    Raises:
        InputError: There is no such subject, or there are several to choose from.
    """
    listed = " ".join(subjects)
    if wanted is None:
        if len(subjects) > 1:
            raise InputError(f"{path}: several subjects; --subject takes one of {listed}")
        return subjects[0]
    found = find_subject(subjects, wanted)
    if found is None:
        raise InputError(f"{path}: no subject {wanted}; --subject takes one of {listed}")
    return found


def _check_dataset(path: Path, file: h5py.File, script: Script) -> None:
    is_a = "All_subjects" in file
    is_b = any(key.startswith("subject_") for key in file)
    if is_a if script.DATASET == "b" else is_b and not is_a:
        found = "A" if is_a else "B"
        raise InputError(
            f"{path}: a file of Dataset {found}, but the network reads Dataset "
            f"{dataset_name(script)}; use a checkpoint of Dataset {found}"
        )


def _choose_tables(
    path: Path, tables: Sequence[Table], subject: str | None, activities: Sequence[str] | None
) -> list[Table]:
    """Return the activities of one subject; unlike for training, one of them is enough."""
    if not tables:
        raise InputError(f"{path}: no activity; add one of {' '.join(DATASET_A_ACTIVITIES)}")
    subjects = list(dict.fromkeys(table.subject for table in tables))
    chosen = choose_subject(path, subjects, subject)
    present = {table.activity: table for table in tables if table.subject == chosen}
    missing = [name for name in activities or () if name not in present]
    if missing:
        raise InputError(
            f"{path}: subject {chosen}: no {' or '.join(missing)}; --activity takes some of "
            f"{' '.join(present)}"
        )
    return [table for name in activities or present if len((table := present[name]).dataset)]
