"""The ground reaction of the right foot, computed from the force plates that it steps on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from tools.prepare_dataset_a.checks import identify_cop_unit
from tools.prepare_dataset_a.download import UnusableError, to_numbers
from tools.signals import filter_zero_phase

# Plates under the right foot by activity and a word in the name of the trial.
_PLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "Treadmill": {"treadmill": ("Treadmill_R",)},
    "Levelground": {"ccw": ("FP1",), "cw": ("Combined", "FP2", "FP5")},
    "Ramp": {"r": ("FP2", "FP4"), "l": ("FP1", "FP3", "FP5")},
    "Stair": {"r": ("FP2", "FP3", "FP4"), "l": ("FP1", "FP5")},
}
# 99 % of the power of the ground reaction in walking is below 15 Hz (Antonsson and Mann 1985,
# J Biomech 18:39-47). The paper low-passes the forces without giving a cut-off.
FORCE_CUTOFF_HZ = 20.0
LOADED_N = 20.0  # vertical force above which a plate counts as loaded
# RMS of the horizontal moments that force times lever arm about one origin may leave unexplained;
# measured treadmill and level-ground trials leave 0.3 to 5.2 Nm.
LARGEST_RESIDUAL_NM = 8.0
_MM_TO_M = 0.001


class GroundReaction(NamedTuple):
    """The ground reaction of one foot at the sampling rate of the plates.

    Attributes:
        values: `(n, 9)` force in N, free moment in Nm and center of pressure in m, each x, y
            (up), z; low-passed. The free moment is vertical, 0 while no plate is loaded, and NaN
            where it could not be computed. The center is NaN while no plate is loaded.
        cop_unit: unit of the center of pressure in the download.
        plates: names of the plates that were loaded at some time.
    """

    values: np.ndarray
    cop_unit: str
    plates: list[str]


def find_right_plates(activity: str, trial: str) -> tuple[str, ...]:
    """Return the names of the plates under the right foot.

    Raises:
        UnusableError: The name of the trial does not contain the direction of walking.
    """
    words = trial.split("_")
    for word, plates in _PLATES[activity].items():
        if word in words:
            return plates
    expected = " or ".join(f"_{word}_" for word in _PLATES[activity])
    raise UnusableError("unknown plates", f"{trial}: no {expected} in its name")


def compute_ground_reaction(
    table: pd.DataFrame, plates: tuple[str, ...], rate_hz: float, place: str
) -> GroundReaction:
    """Add the forces and free moments of plates; average the centers, weighted by vertical force.

    Args:
        table: all plates of the trial.
        plates: names of the plates under the foot.
        rate_hz: sampling rate of the table.
        place: name of the table in messages.

    Raises:
        UnusableError: A column is missing, no plate is loaded, or the unit is unknown.
    """
    by_plate = {}  # force, center of pressure and moment, `(n, 9)`
    for plate in plates:
        names = [f"{plate}_{kind}{axis}" for kind in ("v", "p", "moment_") for axis in "xyz"]
        by_plate[plate] = to_numbers(table, names, place).copy()
    loaded = [plate for plate, values in by_plate.items() if (values[:, 1] > LOADED_N).any()]
    if not loaded:
        detail = f"{place}: no load on {', '.join(plates)}, the plates under the right foot"
        raise UnusableError("all-zero plate", detail)
    centers = [by_plate[plate][by_plate[plate][:, 1] > LOADED_N, 3:6] for plate in loaded]
    cop_unit = identify_cop_unit(np.concatenate(centers), place)
    if cop_unit == "mm":
        for values in by_plate.values():
            values[:, 3:6] *= _MM_TO_M
    force_n = np.sum([values[:, :3] for values in by_plate.values()], axis=0)
    moment_nm = np.zeros_like(force_n)
    moment_nm[:, 1] = np.sum([_compute_free_moment(by_plate[plate]) for plate in loaded], axis=0)
    cop_m = _average_cop([by_plate[plate] for plate in loaded])
    values = np.concatenate([force_n, moment_nm, cop_m], axis=1)
    return GroundReaction(filter_zero_phase(values, rate_hz, FORCE_CUTOFF_HZ), cop_unit, loaded)


def _average_cop(plates: list[np.ndarray]) -> np.ndarray:
    """Return the center of pressure `(n, 3)` of the loaded plates, NaN if no plate is loaded.

    The values that an unloaded plate reports, noise or NaN, are ignored.
    """
    weighted = np.zeros((len(plates[0]), 3))
    total_n = np.zeros((len(plates[0]), 1))
    for plate in plates:
        load_n = plate[:, 1:2] * (plate[:, 1:2] > LOADED_N)
        weighted += np.where(load_n > 0, load_n * plate[:, 3:6], 0.0)
        total_n += load_n
    return np.where(total_n > 0, weighted / np.where(total_n > 0, total_n, 1.0), np.nan)


def _compute_free_moment(plate: np.ndarray) -> np.ndarray:
    """Return the vertical free moment `(n,)` in Nm, 0 while the plate is not loaded.

    The moments of a plate refer to an origin `o` that the download does not give. With the force
    `F` at the center of pressure `p` they are `(p - o) x F` plus the free moment, which is
    vertical. The horizontal moments, linear in `o`, yield the origin by least squares; the rest of
    the vertical moment is the free moment. It is NaN throughout if no origin fits.

    Args:
        plate: `(n, 9)` force in N, center of pressure in m, moment in Nm.
    """
    result = np.zeros(len(plate))
    rows = np.flatnonzero(plate[:, 1] > LOADED_N)
    rows = rows[np.isfinite(plate[rows]).all(axis=1)]
    if not len(rows):
        return np.full(len(plate), np.nan)
    force, cop, moment = plate[rows, :3], plate[rows, 3:6], plate[rows, 6:]
    # (n, 3, 3), which maps `o` to `o x F`
    cross_force = np.cross(np.eye(3), force[:, None]).swapaxes(1, 2)
    excess = np.cross(cop, force) - moment
    horizontal = cross_force[:, [0, 2]].reshape(-1, 3), excess[:, [0, 2]].ravel()
    origin_m = np.linalg.lstsq(*horizontal, rcond=None)[0]
    residual_nm = np.einsum("nij,j->ni", cross_force, origin_m) - excess
    if not np.sqrt(np.mean(residual_nm[:, [0, 2]] ** 2)) <= LARGEST_RESIDUAL_NM:
        return np.full(len(plate), np.nan)
    result[rows] = residual_nm[:, 1]
    return result
