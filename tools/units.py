"""Units of targets: forces, moments, angles and lengths, also relative to the body."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy import constants

from common.files import InputError, shorten
from tools.signals import BODY_WEIGHT_M_S2
from tools.text_file import IN_UNITS

LIMITS = {"mass_kg": (5.0, 300.0), "height_m": (0.5, 2.5)}  # of what a user can mean


class Person(NamedTuple):
    """Body mass and height of a subject."""

    mass_kg: float
    height_m: float

    @property
    def sizes(self) -> dict[str, float]:
        """Return the quantities by which forces (N) and moments (N·m) are divided.

        Body weight is 9.8 m/s² times mass, as in both datasets.
        """
        weight_n = BODY_WEIGHT_M_S2 * self.mass_kg
        return {"kg": self.mass_kg, "bw": weight_n, "bwbh": weight_n * self.height_m}


# Unit, without the characters of `IN_UNITS` -> its size in SI units, and the size of the body by
# which the quantity was divided.
FORCES = {
    "n": (1.0, ""),
    "kn": (1e3, ""),
    "n/kg": (1.0, "kg"),
    "bw": (1.0, "bw"),
    "%bw": (0.01, "bw"),
}
MOMENTS = {
    "nm": (1.0, ""),
    "nmm": (1e-3, ""),
    "nm/kg": (1.0, "kg"),
    "nmm/kg": (1e-3, "kg"),
    "bwbh": (1.0, "bwbh"),
    "%bwbh": (0.01, "bwbh"),
}
ANGLES = {"rad": (1.0, ""), "deg": (constants.degree, "")}
LENGTHS = {"m": (1.0, ""), "cm": (1e-2, ""), "mm": (1e-3, "")}
DEFAULTS = ((FORCES, "N"), (MOMENTS, "N·m"), (ANGLES, ""), (LENGTHS, ""))


def unit_key(unit: str) -> str:
    """Return the key of a unit in the tables of this module: `nmm/kg` for `N·mm/kg`."""
    return unit.translate(str.maketrans(IN_UNITS)).replace(".", "").casefold()


def unit_factor(unit: str, new: str, person: Person | None) -> float:
    """Return the factor that converts a unit to another one.

    It is NaN if a unit is unknown, if they are units of different quantities, or if the body mass
    or height that is needed is unknown (NaN).
    """
    sizes = {"": 1.0, **(person.sizes if person else {})}
    for table, _ in DEFAULTS:
        if unit_key(unit) in table and unit_key(new) in table:
            (size, body), (new_size, new_body) = table[unit_key(unit)], table[unit_key(new)]
            if body == new_body:
                return size / new_size
            return size / new_size * (sizes.get(body, np.nan) / sizes.get(new_body, np.nan))
    return np.nan


def target_factors(
    script: ModuleType, units: Mapping[str, str], person: Person | None
) -> dict[str, float]:
    """Return column of a target -> factor that converts it to its unit in the script.

    Args:
        script: the script, whose targets with a unit of these tables are converted.
        units: column of a target -> its unit in the file; if it is not stated, forces are in N,
            moments in N·m, and angles and lengths in the unit of the script.
        person: the subject; None if mass and height are unknown.

    Raises:
        InputError: A unit does not fit, mass and height are needed but unknown, or no target has a
            unit that can be converted.
    """
    factors: dict[str, float] = {}
    for column, target in zip(script.COLUMNS["targets"], script.TARGETS, strict=True):
        for table, default in DEFAULTS:
            if unit_key(target.unit) not in table:
                continue
            stated = units.get(column) or default or target.unit
            if unit_key(stated) not in table:
                raise InputError(
                    f"{column}: in {shorten(stated, 40)} in the file, which is not converted to "
                    f"the {target.unit} of the script; correct TARGETS, or state its unit in a "
                    "column `unit` of the --columns file"
                )
            factors[column] = unit_factor(stated, target.unit, person)
            if np.isnan(factors[column]):
                raise InputError(
                    f"{column}: body mass and height are needed to convert {stated} to "
                    f"{target.unit}; pass --subjects FILE with id, mass_kg and height_m"
                )
    if not factors:
        raise InputError(
            "--normalize: no entry of TARGETS in the script has the unit of a force (BW, N), a "
            "moment (BW·BH, %BW·BH, N·m/kg), an angle or a length; correct the units, or omit the "
            "flag"
        )
    return factors


def other_units(script: ModuleType, units: Mapping[str, str]) -> list[str]:
    """Return a notice for each unit of a target in the file that is not that of the script."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for column, target in zip(script.COLUMNS["targets"], script.TARGETS, strict=True):
        unit = units.get(column, "")
        if unit and unit_key(unit) != unit_key(target.unit):
            wanted.setdefault((unit, target.unit), []).append(column)
    return [
        f"{', '.join(columns)}: in {own} in the file, {new} in the script; pass --normalize to "
        "convert"
        for (own, new), columns in wanted.items()
    ]
