"""Read a recording: samples at the network's rate, and the stretches they form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data import (
    Table,
    dataset_a_tables,
    dataset_b_tables,
    find_subject,
    number_stretches,
    open_hdf5,
    select_columns,
    trial_tables,
)
from common.files import InputError, printable
from tools.predict.units import measured_factors
from tools.trained import Trained, dataset_name, input_columns, to_modalities
from tools.trial_file import TIME, TIME_DIGITS, Clock, Source, Units, print_template, read_trial
from tools.units import Person

STRETCH = "stretch"
C3D_SUFFIX = ".c3d"


class Piece(NamedTuple):
    """Consecutive samples of a file.

    Attributes:
        labels: column of the output -> `(samples,)`: source of the samples, and the time, last.
        groups: entry of the script's `COLUMNS` -> `(samples, ...)` at the network's rate; NaN for
            columns that the file does not have.
        trial: `(samples,)` number of the trial or step; no window crosses from one to the next.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
        recorded_at: column -> `(recorded samples,)`, as `labels`.
        recorded_hz: their rate.
    """

    labels: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    trial: np.ndarray
    recorded: np.ndarray
    recorded_at: dict[str, np.ndarray]
    recorded_hz: float


class Samples(NamedTuple):
    """All samples of a recording, whether they can be used or not.

    Attributes:
        labels: a line per sample: its source, the number of its stretch and its time.
        values: modality, or `"targets"`, -> `(samples, C)` float32; NaN where nothing was measured.
        stretch: `(samples,)` number of the stretch, from 0; -1 where the network lacks an input.
        recorded: `(recorded samples, C)` the columns of the inputs before resampling.
        recorded_at: a line per recorded sample: its source and its time.
        recorded_hz: their rate.
    """

    labels: pd.DataFrame
    values: dict[str, Tensor]
    stretch: np.ndarray
    recorded: np.ndarray
    recorded_at: pd.DataFrame
    recorded_hz: float


def join_pieces(path: Path, trained: Trained, pieces: Iterable[Piece], units: Units) -> Samples:
    """Convert the pieces of a recording to modalities, and number the stretches.

    Args:
        path: the file, for the error.
        trained: the network.
        pieces: the pieces.
        units: units of the recording.

    Raises:
        InputError: There is no piece, or a value is infinite.
    """
    factors = units.factors(trained.script)
    labels, values, stretches, recorded, recorded_at, count = [], [], [], [], [], 0
    for piece in pieces:
        modalities = to_modalities(trained.script, piece.groups)
        samples = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in modalities.items()}
        for modality, factor in factors.items():
            samples[modality] *= factor
        inputs = torch.cat(trained.inputs(samples), dim=-1)
        if inputs.isinf().any():
            raise InputError(f"{path}: a value was divided by 0; add the body height")
        is_usable = inputs.isfinite().all(dim=-1).numpy()
        stretch = number_stretches(is_usable, piece.trial, first=count)
        count = max(count, int(stretch.max(initial=-1)) + 1)
        lines = pd.DataFrame(piece.labels)
        numbers = pd.Series(stretch + 1, dtype="Int64").where(is_usable)
        lines.insert(lines.shape[1] - 1, STRETCH, numbers)
        labels.append(lines)
        values.append(samples)
        stretches.append(stretch)
        recorded.append(piece.recorded)
        recorded_at.append(pd.DataFrame(piece.recorded_at))
    if not values:
        raise InputError(
            f"{path}: no two consecutive samples; use a longer recording, or see --max-gap"
        )
    return Samples(
        pd.concat(labels, ignore_index=True),
        {name: torch.cat([part[name] for part in values]) for name in values[0]},
        np.concatenate(stretches),
        np.concatenate(recorded),
        pd.concat(recorded_at, ignore_index=True),
        piece.recorded_hz,
    )


def read_file(
    path: Path,
    trained: Trained,
    clock: Clock,
    units: Units,
    mapping: Mapping[str, Source],
    person: Person | None = None,
) -> tuple[list[Piece], Units]:
    """Read a CSV, MATLAB, c3d or OpenSim file.

    Args:
        path: the file.
        trained: the network.
        clock: how to find the times.
        units: the units that the user has stated.
        mapping: column of the script -> column of the file, for those with another name.
        person: the person, to convert measured targets; None if unknown.

    Returns:
        A piece per stretch, and the units: those of the user, or else those of the file.

    Raises:
        InputError: The file cannot be used; the message says where and how to fix it.
    """
    script, sensor_set, read = trained.script, trained.sensor_set, None
    if path.suffix.lower() == C3D_SUFFIX:  # points and analog channels have different rates
        from tools.make_dataset.sources import Sources  # slow to import

        inputs = {mapping.get(n, Source(n)).name for n in input_columns(script, sensor_set)}
        sources = Sources(clock, script.RATE_HZ, inputs, {}, {})
        read = lambda _, __, measured: sources.read([path], path, measured)  # noqa: E731
    with print_template():
        trial = read_trial(path, script, sensor_set, clock, units, mapping, read=read)
    for note in (*trial.notes, *(f"NOTICE: {notice}" for notice in trial.notices)):
        print(printable(note))
    count = len(trial.stretches)
    if count > 1:
        print(f"NOTICE: gaps split the recording into {count} stretches; see --max-gap")
    positions = {name: i for i, name in enumerate(trial.names)}
    has_targets = {*script.COLUMNS["targets"]} <= {*trial.names}
    factors = measured_factors(script, trial.target_units if has_targets else {}, person)
    pieces = []
    for number, (time_s, values, recorded, recorded_s) in enumerate(trial.stretches):
        labels = {TIME: np.round(trial.start_s + time_s, TIME_DIGITS)}
        groups = select_columns(values, positions, script.COLUMNS, str(path), fill_missing=True)
        groups["targets"] = groups["targets"] * factors
        numbers, recorded_at = np.full(len(values), number), {TIME: trial.start_s + recorded_s}
        pieces.append(Piece(labels, groups, numbers, recorded, recorded_at, trial.own_hz))
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
        InputError: The file cannot be used; the message says where and how to fix it.
    """
    script = trained.script
    needed = input_columns(script, trained.sensor_set)
    with open_hdf5(path) as file:
        _check_dataset(path, file, script)
        for table in _choose_tables(path, file, script, subject, activities):
            missing = [name for name in needed if name not in table.positions]
            if missing:
                raise InputError(
                    f"{path}: no column {', '.join(missing)}, which the network reads; add the "
                    "column, rename yours, or use the checkpoint of a smaller sensor set"
                )
            columns = {**script.COLUMNS, "recorded": needed}
            groups, trial = table.read(columns, fill_missing=True)
            labels = {"subject": np.full(len(trial), table.subject)}
            if table.activity:
                labels |= {"activity": np.full(len(trial), table.activity), "trial": trial}
            else:
                labels["step"] = trial + 1
            first = np.searchsorted(trial, trial)  # sample of the same trial or step
            labels[TIME] = (np.arange(len(trial)) - first) / script.RATE_HZ
            yield Piece(labels, groups, trial, groups.pop("recorded"), labels, script.RATE_HZ)


def choose_subject(path: Path, subjects: Sequence[str], wanted: str | None) -> str:
    """Return the wanted subject (`7` matches `07`), or the only one for None.

    Raises:
        InputError: There is no such subject, or there are several to choose from.
    """
    if wanted is None and len(subjects) == 1:
        return subjects[0]
    found = wanted and find_subject(subjects, wanted)
    if not found:
        problem = f"no subject {wanted}" if wanted else "several subjects"
        raise InputError(f"{path}: {problem}; choose one with --subject: {' '.join(subjects)}")
    return found


def _check_dataset(path: Path, file: h5py.File, script: ModuleType) -> None:
    is_a = "All_subjects" in file
    is_b = any(key.startswith("subject_") for key in file)
    if is_a if script.DATASET == "b" else is_b and not is_a:
        found = "A" if is_a else "B"
        raise InputError(
            f"{path}: a file of Dataset {found}, but the network reads Dataset "
            f"{dataset_name(script)}; use a checkpoint of Dataset {found}"
        )


def _choose_tables(
    path: Path,
    file: h5py.File,
    script: ModuleType,
    subject: str | None,
    activities: Sequence[str] | None,
) -> list[Table]:
    """Return the tables of one subject; unlike for training, one activity of A is enough."""
    if script.DATASET == "a":
        tables = dataset_a_tables(path, file, all_activities=False)
    else:
        tables = (dataset_b_tables if script.DATASET == "b" else trial_tables)(path, file)
    if not tables:
        raise InputError(f"{path}: no activity of Dataset A; see docs/data.md for the layout")
    chosen = choose_subject(path, list(dict.fromkeys(table.subject for table in tables)), subject)
    present = {table.activity: table for table in tables if table.subject == chosen}
    if activities and script.DATASET == "b":
        raise InputError("--activity: Dataset B has no activities; leave the flag out")
    missing = [name for name in activities or () if name not in present]
    if missing:
        raise InputError(
            f"{path}: subject {chosen}: no {' or '.join(missing)}; choose from "
            f"{' '.join(present)} with --activity"
        )
    return [table for name in activities or present if len((table := present[name]).dataset)]
