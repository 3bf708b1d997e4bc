"""Trials and participants of a user-supplied dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from common.data import ALL, NAME, sort_subjects
from common.files import InputError, shorten
from tools import opensim, plausibility
from tools.c3d_file import C3D_SUFFIX, read_c3d
from tools.make_dataset.contact import Contact
from tools.make_dataset.sources import Sources
from tools.trained import all_sensors, channel_names
from tools.trial_file import (
    MATLAB_SUFFIX,
    NamedColumns,
    Source,
    Units,
    read_table,
    read_trial,
)
from tools.units import FORCES, LIMITS, Person, other_units, target_factors, unit_key

SUFFIXES = (".csv", ".txt", ".tsv", MATLAB_SUFFIX, C3D_SUFFIX, *opensim.SUFFIXES)
PART = re.compile(r"(.+)_([^_\d]+)")  # name of a file with a part of a trial: 01_grf


class TrialPath(NamedTuple):
    """A trial.

    Attributes:
        subject: subject id.
        activity: name of the activity.
        path: its file or folder, or, for several files `01_imu.csv` and `01_grf.mot`, the common
            part of their names.
        files: its files.
    """

    subject: str
    activity: str
    path: Path
    files: tuple[Path, ...]


def find_trials(path: Path) -> tuple[list[TrialPath], list[str]]:
    """Return the trials in a folder or a table, sorted, and the names of other files in the folder.

    Args:
        path: a folder with files or folders `<subject>/<activity>/<trial>`, or a table of trials
            with the columns `file`, `subject` and `activity`; the files, or folders with the files
            of one trial, are relative to the table.

    Raises:
        InputError: There are no trials, or one has no valid subject and activity.
    """
    others: list[str] = []
    trials = []
    if path.is_dir():
        files, others = _list_files(path)
        for trial, own in _group_files(path, files).items():
            trials.append(_trial_path(str(own[0]), *trial.relative_to(path).parts[:2], trial, own))
    elif path.is_file():
        table = read_table(path, ["file", "subject", "activity"])
        for i, (name, subject, activity) in zip(table.index, table.values, strict=True):
            where, file = f"{path}: line {i + 2}", path.parent / name
            files = _list_files(file)[0] if file.is_dir() else [file]
            if not files or not all(own.is_file() for own in files):
                raise InputError(f"{where}: no file {file}; correct the line or remove it")
            trials.append(_trial_path(where, subject, activity, file, files))
    if not trials:
        raise InputError(
            f"--trials {path}: no trials; pass a folder with files <subject>/<activity>/<trial>.csv"
            f" (or {', '.join(SUFFIXES[1:])}), or a table of the trials"
        )
    by_casefold: dict[str, str] = {}
    for subject, *_ in trials:
        other = by_casefold.setdefault(subject.casefold(), subject)
        if other != subject:  # some file systems cannot tell them apart
            raise InputError(f"subjects {other} and {subject} differ in case only; rename one")
    order = sort_subjects({str(part) for trial in trials for part in trial[:3]})
    trials.sort(key=lambda trial: [order.index(str(part)) for part in trial[:3]])
    return trials, others


def _list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files in a folder that can be read, sorted, and the names of the others."""
    files = sorted(p for p in folder.rglob("*") if not p.is_dir() and not p.name.startswith("."))
    is_known = {file: file.is_file() and file.suffix.lower() in SUFFIXES for file in files}
    return [f for f in files if is_known[f]], [f.name for f in files if not is_known[f]]


def _group_files(folder: Path, files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return trial -> its files, for files `<subject>/<activity>/<trial>` in a folder.

    A trial is a file, a folder, or files such as `01_imu.csv` and `01_grf.mot` whose names differ
    only in the word after the last `_`, which has no digits.

    Raises:
        InputError: A file is in no folder of a subject and an activity.
    """
    trials: dict[Path, list[Path]] = {}
    for file in files:
        depth = len(file.relative_to(folder).parts)
        if depth not in (3, 4):
            raise InputError(
                f"{file}: must be in {folder}/<subject>/<activity>/; move it there, or pass a "
                "table of the trials (file, subject, activity) as --trials"
            )
        part = PART.fullmatch(file.stem)
        trial = file.with_name(part[1]) if part else file
        trials.setdefault(file.parent if depth == 4 else trial, []).append(file)
    return {
        own[0] if len(own) == 1 and trial != own[0].parent else trial: own
        for trial, own in trials.items()
    }


def _trial_path(
    where: str, subject: str, activity: str, path: Path, files: Sequence[Path]
) -> TrialPath:
    """Return the path of a trial after checking the names, which become part of file names."""
    for kind, name in (("subject", subject), ("activity", activity)):
        if not re.fullmatch(NAME, name) or name == ALL:
            raise InputError(
                f"{where}: {kind} {shorten(name)!r} cannot be used; rename it with letters and "
                f"digits, and . - + _ or spaces between them (not `{ALL}`)"
            )
    return TrialPath(subject, activity, path, tuple(files))


class Converted(NamedTuple):
    """A trial at the rate and in the units of the script.

    Attributes:
        own_hz: rate of the recording.
        stretches: those as long as a window, `(samples, columns)` float32.
        notices: facts that a user should know.
        contacts: number of contacts in which its targets are valid; 0 without a rule.
        summary: what is compared with other trials.
    """

    own_hz: float
    stretches: list[np.ndarray]
    notices: list[str]
    contacts: int
    summary: plausibility.Trial


def read_people(path: Path) -> dict[str, Person]:
    """Read the table of subjects, with the columns `id`, `mass_kg` and `height_m`.

    Raises:
        InputError: A line cannot be used; the message says which, and how to fix it.
    """
    table = read_table(path, ["id", *LIMITS])
    people: dict[str, Person] = {}
    for i, (subject, *values) in zip(table.index, table.values, strict=True):
        where = f"{path}: line {i + 2}: subject {shorten(subject)}"
        if subject in people:
            raise InputError(f"{where}: listed twice; remove one line")
        numbers = []
        for (name, (low, high)), value in zip(LIMITS.items(), values, strict=True):
            try:
                numbers.append(float(value.replace(",", ".")))
            except ValueError as error:
                raise InputError(
                    f"{where}: {name} {shorten(value)!r} is not a number; correct it"
                ) from error
            if not low <= numbers[-1] <= high:
                raise InputError(
                    f"{where}: {name} {value} is not between {low:g} and {high:g}; write the mass "
                    "in kg and the height in m"
                )
        people[subject] = Person(*numbers)
    return people


def read_person(files: Sequence[Path]) -> Person | None:
    """Return body mass and height from the c3d file of a trial; None if it has none.

    Raises:
        InputError: The file cannot be read.
    """
    for file in files:
        if file.suffix.lower() == C3D_SUFFIX:
            content = read_c3d(file)
            if content.mass_kg and content.height_m:
                return Person(content.mass_kg, content.height_m)
    return None


def convert_trial(
    trial: TrialPath,
    script: ModuleType,
    sources: Sources,
    units: Units,
    mapping: Mapping[str, Source],
    person: Person | None,
    contact: Contact | None = None,
    normalize: bool = False,
) -> Converted:
    """Read a trial and return it in the units of the script.

    Args:
        trial: the trial.
        script: the script.
        sources: how its files are read.
        units: the units that the user has stated.
        mapping: column of the script -> column of the file.
        person: the subject, if known.
        contact: when the targets are valid; None for always.
        normalize: whether to convert the targets to the units of the script.

    Raises:
        InputError: The trial cannot be used.
    """
    path, sensor_set, targets = trial.path, all_sensors(script), script.COLUMNS["targets"]
    others = [contact.column] if contact and contact.column not in targets else []

    def read_files(_: Path, __: Sequence[str], measured: Sequence[str]) -> NamedColumns:
        file = sources.read(trial.files, path, measured)
        if absent := [name for name in others if name not in file.names]:
            raise InputError(
                f"{path}: no column {absent[0]} for --valid-contact; name a target of the script "
                f"({', '.join(targets)}) or one of {shorten(', '.join(file.names), 500)}"
            )
        return file

    read = read_trial(
        path,
        script,
        sensor_set,
        sources.clock,
        units,
        mapping,
        needs_targets=True,
        others=others,
        read=read_files,
    )
    try:
        scales = target_factors(script, read.target_units, person) if normalize else {}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    modalities = channel_names(script, sensor_set)
    notices = [*read.notices, *(f"{gap}: split there; see --max-gap" for gap in read.gaps)]
    if not normalize:
        notices += other_units(script, read.target_units)
    for modality, factor in read.units.factors(script).items():
        scales |= dict.fromkeys(modalities[modality], factor)
    scale = np.array([scales.get(name, 1.0) for name in read.names])
    inputs = [name for names in modalities.values() for name in names]
    order = [read.names.index(name) for name in inputs]
    columns = len(read.names) - len(others)
    is_force = [unit_key(target.unit) in FORCES for target in script.TARGETS]
    forces = [name for name, chosen in zip(targets, is_force, strict=True) if chosen]
    kept: list[np.ndarray] = []
    contacts = 0
    for time_s, values, recorded, recorded_s in read.stretches:
        if len(values) < script.WINDOW:
            notices.append(
                f"{len(values) / script.RATE_HZ:.3g} s from {time_s[0]:.3g} s on skipped: shorter "
                f"than a window of {script.WINDOW / script.RATE_HZ:g} s"
            )
            continue
        notices += plausibility.check_samples(
            (recorded * scale[: len(inputs)])[:, order],
            inputs,
            read.own_hz,
            script.SENSORS,
            script.UNITS["gyr"],
            lambda i, times=recorded_s: f"{times[i]:.3f} s",
        )
        values = values * scale
        if contact:
            force = values[:, read.names.index(contact.column)]
            is_valid, found = contact.find(force, script.RATE_HZ)
            values[np.ix_(~is_valid, np.isin(read.names, targets))] = np.nan
            # Before and after a contact, the foot is in the air: no force, even if it is missing.
            is_missing = np.isnan(values) & np.isnan(force)[:, None] & is_valid[:, None]
            values[is_missing & np.isin(read.names, forces)] = 0.0
            contacts += found
        kept.append(values[:, :columns].astype(np.float32))
    if not kept:
        raise InputError(f"{path}: no stretch is as long as a window; record a longer trial")
    if contact and not contacts:
        raise InputError(
            f"{path}: no contact of the foot by the rule {contact}; change it, or leave the trial "
            "out"
        )
    is_finite = np.isfinite(np.concatenate(kept))
    if not is_finite.all(axis=1).any():
        missing = np.array(read.names[:columns])[~is_finite.any(axis=0)]
        raise InputError(
            f"{path}: no line has a number in every column; add "
            f"{shorten(', '.join(missing)) or 'the missing values'}"
        )
    values = dict(zip(read.names, np.concatenate(kept).T, strict=False))
    summary = plausibility.summarize_trial(
        trial.subject,
        f"{trial.activity}, {path.name}",
        script.SENSORS,
        *(np.stack([values[name] for name in modalities[kind]], axis=1) for kind in ("acc", "gyr")),
        np.stack([values[name] for name in targets], axis=1),
        [target.unit for target in script.TARGETS],
    )
    return Converted(read.own_hz, kept, [*dict.fromkeys(notices)], contacts, summary)
