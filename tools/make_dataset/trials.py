"""Trials and participants of a user-supplied dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from common.data import ALL, NAME, sort_subjects
from common.files import InputError, shorten
from tools.signals import BODY_WEIGHT_M_S2
from tools.trained import all_sensors, channel_names
from tools.trial_file import MATLAB_SUFFIX, Clock, Source, Trial, Units, read_table, read_trial

SUFFIXES = (".csv", ".txt", ".tsv", MATLAB_SUFFIX)
LIMITS = {"mass_kg": (5.0, 300.0), "height_m": (0.5, 2.5)}


class Person(NamedTuple):
    """Body mass and height of a subject."""

    mass_kg: float
    height_m: float


class TrialPath(NamedTuple):
    """The file of a trial, with its subject and activity."""

    subject: str
    activity: str
    path: Path


def find_trials(path: Path) -> tuple[list[TrialPath], list[str]]:
    """Return the trials in a folder or a table, sorted, and the names of other files in the folder.

    Args:
        path: a folder with files `<subject>/<activity>/<trial>.csv`, or a table of trials with the
            columns `file`, `subject` and `activity`; files are relative to the table.

    Raises:
        InputError: There are no trials, or one has no valid subject and activity.
    """
    others: list[str] = []
    trials = []
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        for file in files:
            parts = file.relative_to(path).parts
            if file.suffix.lower() not in SUFFIXES:
                others.append(file.name)
            elif len(parts) != 3:
                raise InputError(
                    f"{file}: must be in {path}/<subject>/<activity>/; move it there, or pass a "
                    "table of the trials (file, subject, activity) as --trials"
                )
            else:
                trials.append(_trial_path(str(file), *parts[:2], file))
    elif path.is_file():
        table = read_table(path, ["file", "subject", "activity"])
        for i, (name, subject, activity) in zip(table.index, table.values, strict=True):
            where, file = f"{path}: line {i + 2}", path.parent / name
            if not file.is_file():
                raise InputError(f"{where}: no file {file}; correct the line or remove it")
            trials.append(_trial_path(where, subject, activity, file))
    if not trials:
        raise InputError(
            f"--trials {path}: no trials; pass a folder with files <subject>/<activity>/<trial>.csv"
            " (or .mat), or a table of the trials"
        )
    by_casefold: dict[str, str] = {}
    for subject, _, _ in trials:
        other = by_casefold.setdefault(subject.casefold(), subject)
        if other != subject:  # some file systems cannot tell them apart
            raise InputError(f"subjects {other} and {subject} differ in case only; rename one")
    order = sort_subjects({str(part) for trial in trials for part in trial})
    trials.sort(key=lambda trial: [order.index(str(part)) for part in trial])
    return trials, others


def _trial_path(where: str, subject: str, activity: str, file: Path) -> TrialPath:
    """Return the path of a trial after checking the names, which become part of file names."""
    for kind, name in (("subject", subject), ("activity", activity)):
        if not re.fullmatch(NAME, name) or name == ALL:
            raise InputError(
                f"{where}: {kind} {shorten(name)!r} cannot be used; rename it with letters and "
                f"digits, and . - + _ or spaces between them (not `{ALL}`)"
            )
    return TrialPath(subject, activity, file)


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


def target_divisors(script: ModuleType, person: Person) -> dict[str, float]:
    """Return column of a target -> divisor that converts it to the unit in the script.

    Body weight is 9.8 m/s² times mass, as in both datasets.

    Raises:
        InputError: No target has a unit of body weight.
    """
    weight_n = BODY_WEIGHT_M_S2 * person.mass_kg
    moment_nm = weight_n * person.height_m
    divisors = {"BW": weight_n, "BW·BH": moment_nm, "%BW·BH": moment_nm / 100}
    targets = zip(script.COLUMNS["targets"], script.TARGETS, strict=True)
    found = {column: divisors[t.unit] for column, t in targets if t.unit in divisors}
    if not found:
        raise InputError(
            "--normalize: no entry of TARGETS in the script has the unit BW (forces), BW·BH or "
            "%BW·BH (moments); correct the units, or omit the flag"
        )
    return found


def convert_trial(
    path: Path,
    script: ModuleType,
    clock: Clock,
    units: Units,
    mapping: Mapping[str, Source],
    divisors: Mapping[str, float],
) -> tuple[Trial, list[np.ndarray], list[str]]:
    """Read a trial and return it in the units of the script.

    Args:
        path: the file.
        script: the script.
        clock: how to find the times.
        units: the units that the user has stated.
        mapping: column of the script -> column of the file.
        divisors: column of a target -> its divisor.

    Returns:
        The trial; its stretches that are as long as a window, `(samples, columns)` float32; and
        notices.

    Raises:
        InputError: The trial cannot be used.
    """
    sensor_set = all_sensors(script)
    trial = read_trial(path, script, sensor_set, clock, units, mapping, needs_targets=True)
    scales = {name: 1 / divisor for name, divisor in divisors.items()}
    for modality, factor in trial.units.factors(script).items():
        scales |= dict.fromkeys(channel_names(script, sensor_set)[modality], factor)
    scale = np.array([scales.get(name, 1.0) for name in trial.names])
    notices = [*trial.notices, *(f"{gap}: split there; see --max-gap" for gap in trial.gaps)]
    kept = []
    for time_s, values, _ in trial.stretches:
        if len(values) >= script.WINDOW:
            kept.append((values * scale).astype(np.float32))
        else:
            notices.append(
                f"{len(values) / script.RATE_HZ:.3g} s from {time_s[0]:.3g} s on skipped: shorter "
                f"than a window of {script.WINDOW / script.RATE_HZ:g} s"
            )
    if not kept:
        raise InputError(f"{path}: no stretch is as long as a window; record a longer trial")
    is_finite = np.isfinite(np.concatenate(kept))
    if not is_finite.all(axis=1).any():
        missing = np.array(trial.names)[~is_finite.any(axis=0)]
        raise InputError(
            f"{path}: no line has a number in every column; add "
            f"{shorten(', '.join(missing)) or 'the missing values'}"
        )
    return trial, kept, notices
