"""The trials and the people of a dataset of one's own, and a trial as the HDF5 file stores it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data import ALL, NAME, sort_subjects
from common.files import InputError, shorten
from common.runs import Script
from tools.signals import BODY_WEIGHT_M_S2
from tools.trained import all_sensors
from tools.trial_file import MATLAB_SUFFIX, Clock, Source, Trial, Units, read_table, read_trial

SUFFIXES = (".csv", ".txt", ".tsv", MATLAB_SUFFIX)
LIMITS = {"mass_kg": (5.0, 300.0), "height_m": (0.5, 2.5)}


class Person(NamedTuple):
    """Body mass and height of a subject."""

    mass_kg: float
    height_m: float


class Place(NamedTuple):
    """The file of a trial, and what it belongs to."""

    subject: str
    activity: str
    path: Path


def find_trials(path: Path) -> tuple[list[Place], list[str]]:
    """Return the trials in a folder or a table, sorted, and the names of other files in the folder.

    Args:
        path: a folder with files `<subject>/<activity>/<trial>.csv`, or a table of trials with the
            columns `file`, `subject` and `activity`; files are relative to the table.

    Raises:
        InputError: There are no trials, or one of them cannot be assigned.
    """
    others: list[str] = []
    places = []
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        for file in files:
            parts = file.relative_to(path).parts
            if file.suffix.lower() not in SUFFIXES:
                others.append(file.name)
            elif len(parts) != 3:
                raise InputError(
                    f"{file}: must be in {path}/<subject>/<activity>/; move it there, or give a "
                    "table of the trials (file, subject, activity) as --trials"
                )
            else:
                places.append(_place(str(file), *parts[:2], file))
    elif path.is_file():
        table = read_table(path, ["file", "subject", "activity"])
        for i, (name, subject, activity) in zip(table.index, table.values, strict=True):
            where, file = f"{path}: line {i + 2}", path.parent / name
            if not file.is_file():
                raise InputError(f"{where}: no file {file}; correct the line or remove it")
            places.append(_place(where, subject, activity, file))
    if not places:
        raise InputError(
            f"--trials {path}: no trials; give a folder with files <subject>/<activity>/<trial>.csv"
            " (or .mat), or a table of the trials"
        )
    order = sort_subjects({str(part) for place in places for part in place})
    places.sort(key=lambda place: [order.index(str(part)) for part in place])
    _check_alike([place.subject for place in places])
    return places, others


def _place(where: str, subject: str, activity: str, file: Path) -> Place:
    """Return the place of a trial after checking the names, which stand in names of files."""
    for kind, name in (("subject", subject), ("activity", activity)):
        if not re.fullmatch(NAME, name) or name == ALL:
            raise InputError(
                f"{where}: {kind} {shorten(name)!r} cannot be used; rename it with letters and "
                f"digits, and . - + _ or spaces between them (not `{ALL}`)"
            )
    return Place(subject, activity, file)


def _check_alike(subjects: Sequence[str]) -> None:
    """Refuse ids that some file systems cannot tell apart."""
    known: dict[str, str] = {}
    for subject in subjects:
        other = known.setdefault(subject.casefold(), subject)
        if other != subject:
            raise InputError(f"subjects {other} and {subject} differ in case only; rename one")


def read_people(path: Path) -> dict[str, Person]:
    """Read the table of subjects, with the columns `id`, `mass_kg` and `height_m`.

    Raises:
        InputError: It cannot be used; the message names the line.
    """
    table = read_table(path, ["id", *LIMITS])
    people: dict[str, Person] = {}
    for i, (subject, *values) in zip(table.index, table.values, strict=True):
        where = f"{path}: line {i + 2}: subject {shorten(subject)}"
        if subject in people:
            raise InputError(f"{where}: is there twice; remove one of the lines")
        numbers = []
        for (name, (low, high)), value in zip(LIMITS.items(), values, strict=True):
            try:
                numbers.append(float(value))
            except ValueError as error:
                raise InputError(
                    f"{where}: {name} {shorten(value)!r} is not a number; correct it"
                ) from error
            if not low <= numbers[-1] <= high:
                raise InputError(
                    f"{where}: {name} {value} is not between {low:g} and {high:g}; give the mass "
                    "in kg and the height in m"
                )
        people[subject] = Person(*numbers)
    return people


def target_divisors(script: Script, person: Person) -> dict[str, float]:
    """Return what each column of a target is divided by to have the unit in the script.

    Body weight is 9.8 m/s² times mass, as in both datasets.

    Raises:
        InputError: No target has a unit of body weight.
    """
    weight_n = BODY_WEIGHT_M_S2 * person.mass_kg
    moment_nm = weight_n * person.height_m
    divisors = {"BW": weight_n, "BW·BH": moment_nm, "%BW·BH": moment_nm / 100}
    targets = zip(getattr(script, "TARGET_COLUMNS", ()), script.TARGETS, strict=False)
    found = {column: divisors[t.unit] for column, t in targets if t.unit in divisors}
    if not found:
        raise InputError(
            "--normalize: the script has no TARGET_COLUMNS and TARGETS with the unit BW (forces), "
            "BW·BH or %BW·BH (moments); correct the units, or leave the flag out"
        )
    return found


def convert(
    path: Path,
    script: Script,
    clock: Clock,
    units: Units,
    mapping: Mapping[str, Source],
    divisors: Mapping[str, float],
) -> tuple[Trial, list[np.ndarray], list[str]]:
    """Read a trial and return it in the units of the script.

    Args:
        path: the file.
        script: the script.
        clock: the time of the file.
        units: the units that the user has given.
        mapping: column of the script -> column of the file.
        divisors: column of a target -> what it is divided by.

    Returns:
        The trial; its stretches that are as long as a window, `(samples, columns)` float32; and
        notices.

    Raises:
        InputError: The trial cannot be used.
    """
    sensor_set = all_sensors(script)
    trial = read_trial(path, script, sensor_set, clock, units, mapping, needs_targets=True)
    count, factors = 3 * len(sensor_set.sensors), trial.units.factors(script)
    scale = np.array([1 / divisors.get(name, 1.0) for name in trial.names])
    scale[:count] *= factors["acc"]
    scale[count : 2 * count] *= factors["gyr"]
    notices = [*trial.notices, *(f"{gap}: split there; see --max-gap" for gap in trial.gaps)]
    kept, is_present = [], np.zeros(len(trial.names), bool)
    for time_s, values, _ in trial.stretches:
        if len(values) < script.WINDOW:
            notices.append(
                f"{len(values) / script.RATE_HZ:.3g} s from {time_s[0]:.3g} s on are shorter than "
                f"a window of {script.WINDOW / script.RATE_HZ:g} s: left out"
            )
            continue
        kept.append((values * scale).astype(np.float32))
        is_present |= np.isfinite(values).any(axis=0)
    if not kept:
        raise InputError(f"{path}: no stretch is as long as a window; record a longer trial")
    if not any(np.isfinite(values).all(axis=1).any() for values in kept):
        missing = [name for name, known in zip(trial.names, is_present, strict=True) if not known]
        raise InputError(
            f"{path}: no line has a number in every column; supply "
            f"{shorten(', '.join(missing)) if missing else 'the missing values'}"
        )
    return trial, kept, notices
