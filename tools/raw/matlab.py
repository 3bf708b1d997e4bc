"""MATLAB tables, by mat-io, which reads numbers and text and runs nothing that a file holds.

mat-io has neither `eval` nor `pickle`: objects of classes that it does not know stay property maps,
function handles stay the bytes that describe them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from common.files import InputError
from tools.raw import UnusableError


class Person(NamedTuple):
    """A line of `SubjectInfo.mat`."""

    mass_kg: float
    height_m: float


def read_table(path: Path, place: str, variable: str = "data") -> pd.DataFrame:
    """Return the table `variable` of a `.mat` file.

    Args:
        path: The file. place: Its name for people.

    Raises:
        UnusableError: The file is damaged, or is no table.
        InputError: mat-io is not installed.
    """
    load_from_mat = _mat_io()
    try:
        with warnings.catch_warnings():  # a table of 2018 comes with one, and is read below
            warnings.simplefilter("ignore")
            variables = load_from_mat(str(path), variable_names=[variable])
    except MemoryError:
        raise
    except Exception as error:  # of any kind, since a parser may meet any bytes
        detail = f"{place}: {error or type(error).__name__}"
        raise UnusableError("truncated or damaged .mat", detail) from error
    if variable not in variables:
        raise UnusableError("no MATLAB table", f"{place}: no variable `{variable}`")
    return _frame(variables[variable], place)


def _mat_io() -> Callable[..., dict[str, Any]]:
    """Return mat-io's reader; imported late, since it warns and changes a setting of pandas."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from matio import load_from_mat
    except ImportError as error:
        raise InputError(
            "mat-io, which reads MATLAB tables, is missing; python -m pip install mat-io "
            "(it wants Python 3.11 or newer)"
        ) from error
    return load_from_mat


def _frame(value: Any, place: str) -> pd.DataFrame:  # noqa: ANN401, whatever a file holds
    """Return a table that mat-io has converted, or an object with the parts of one (2018)."""
    if isinstance(value, pd.DataFrame):
        return value
    parts = getattr(value, "properties", None)
    if not isinstance(parts, dict) or not {"varnames", "data"} <= parts.keys():
        raise UnusableError("no MATLAB table", f"{place}: {type(value).__name__}")
    try:
        names = [str(np.asarray(name).item()) for name in np.ravel(parts["varnames"])]
        columns = [np.asarray(column) for column in np.ravel(parts["data"])]
        return pd.DataFrame(
            {name: column.ravel() for name, column in zip(names, columns, strict=True)}
        )
    except (TypeError, ValueError) as error:
        raise UnusableError("no MATLAB table", f"{place}: {error}") from error


def numbers(table: pd.DataFrame, names: Sequence[str], place: str) -> np.ndarray:
    """Return the named columns as `(rows, len(names))` float64.

    Raises:
        UnusableError: A column is missing, or holds no real numbers.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise UnusableError("column missing", f"{place}: no {', '.join(missing)}")
    for name in names:
        if table[name].dtype.kind not in "fiub":
            raise UnusableError("no numbers", f"{place}: {name} is {table[name].dtype}")
    values = table[list(names)].to_numpy(dtype=float)
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        found = ", ".join(name for name, bad in zip(names, infinite, strict=True) if bad)
        raise UnusableError("infinite values", f"{place}: {found}")
    return values


def read_people(path: Path, place: str) -> dict[int, Person]:
    """Return subject number -> mass and height from the dataset's own `SubjectInfo.mat`.

    Raises:
        UnusableError: It cannot be read.
    """
    table = read_table(path, place)
    if "Subject" not in table.columns:
        raise UnusableError("column missing", f"{place}: no Subject")
    values = numbers(table, ("Weight", "Height"), place)
    people = {}
    for name, (mass_kg, height_m) in zip(table["Subject"], values, strict=True):
        number = str(np.asarray(name).item())[2:]  # AB06, in a cell of its own
        if number.isdecimal():
            people[int(number)] = Person(float(mass_kg), float(height_m))
    return people


def check_person(person: Person | None, place: str) -> Person:
    """Return a person with a mass in kg and a height in m.

    Raises:
        UnusableError: Nobody, or not in these units.
    """
    if person is None:
        raise UnusableError("unknown subject", f"{place}: not in SubjectInfo.mat")
    if not (30.0 <= person.mass_kg <= 200.0 and 1.2 <= person.height_m <= 2.3):
        found = f"weight {person.mass_kg:g}, height {person.height_m:g}"
        raise UnusableError("unit cannot be told", f"{place}: {found}; kg and m are expected")
    return person
