"""Forces in newtons and moments in newton meters, for a person of known body mass and height."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from common.cli import ArgumentParser, positive_float
from common.data import Target
from common.files import InputError, printable
from tools.units import FORCES, LIMITS, Person, unit_factor, unit_key

if TYPE_CHECKING:
    from tools.predict.prediction import Prediction

ADDED_UNITS = ("N", "N·m", "N·m/kg")


def add_body_flags(parser: ArgumentParser) -> None:
    """Add the flags for body mass and height."""
    text = "body mass, to convert forces to or from N"
    parser.add_argument("--mass", type=positive_float, metavar="KG", help=text)
    text = "body height, to convert moments to or from N·m and N·m/kg as well"
    parser.add_argument("--height", type=positive_float, metavar="M", help=text)


def parse_person(args: argparse.Namespace) -> Person | None:
    """Return body mass and height from the flags, NaN for an unknown height; None without a mass.

    Raises:
        InputError: A number is not plausible, or the mass is missing.
    """
    for flag, number, (low, high) in zip(
        ("--mass", "--height"), (args.mass, args.height), LIMITS.values(), strict=True
    ):
        if number and not low <= number <= high:
            raise InputError(
                f"{flag} {number:g}: not between {low:g} and {high:g}; state the mass in kg and "
                "the height in m"
            )
    if args.height and not args.mass:
        raise InputError("--height: needs --mass as well")
    return Person(args.mass, args.height or np.nan) if args.mass else None


def measured_factors(
    script: ModuleType, stated: Mapping[str, str], person: Person | None
) -> np.ndarray:
    """Return the factor of each column of the targets to its unit in the script, `(columns,)`.

    Prints a message about columns that cannot be converted; their factor is NaN.

    Args:
        script: the script. If it has a `convert`, that function converts the forces.
        stated: column -> its unit as the user or the file states it; if not, that of the script.
        person: the person, if known.
    """
    factors, others = np.ones(len(script.COLUMNS["targets"])), []
    for k, (column, target) in enumerate(
        zip(script.COLUMNS["targets"], script.TARGETS, strict=False)
    ):
        unit = stated.get(column) or target.unit
        if hasattr(script, "convert") and unit_key(unit) in FORCES:
            continue
        factors[k] = 1.0 if unit == target.unit else unit_factor(unit, target.unit, person)
        if np.isnan(factors[k]):
            others.append(f"{column} in {unit}, not {target.unit}")
    if others:
        print(
            "NOTICE: measured targets left out, because their units differ from the network's: "
            f"{printable('; '.join(others))}; pass --mass and --height, or correct the units"
        )
    return factors


def add_units(
    result: Prediction, targets: Sequence[Target], person: Person | None
) -> tuple[Prediction, list[Target], list[int]]:
    """Add forces in N and moments in N·m and N·m/kg to estimates and measured targets.

    Args:
        result: the estimates.
        targets: names and units.
        person: the person; None to add nothing.

    Returns:
        The estimates with additional columns, their targets, and the column to draw for each of
        the original targets, which is in N or N·m/kg if possible.
    """
    added, shown = [], list(range(len(targets)))
    for k, target in enumerate(targets if person else ()):
        for unit in ADDED_UNITS:
            factor = unit_factor(target.unit, unit, person)
            if np.isfinite(factor) and unit_key(unit) != unit_key(target.unit):
                shown[k] = len(targets) + len(added)
                added.append((k, Target(target.name, unit), np.float32(factor)))
    old, new, factors = zip(*added, strict=True) if added else ((), (), ())

    def extend(values: np.ndarray) -> np.ndarray:
        return np.hstack([values, values[:, list(old)] * np.array(factors, np.float32)])

    result = result._replace(prediction=extend(result.prediction), truth=extend(result.truth))
    return result, [*targets, *new], shown
