"""The ground reaction of the right foot, from the plates that are under it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tools.raw import UnusableError, matlab, signals, units

# Which plates the right foot steps on, told by a word of the trial's name.
_PLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "Treadmill": {"treadmill": ("Treadmill_R",)},
    "Levelground": {"ccw": ("FP1",), "cw": ("Combined", "FP2", "FP5")},
    "Ramp": {"r": ("FP2", "FP4"), "l": ("FP1", "FP3", "FP5")},
    "Stair": {"r": ("FP2", "FP3", "FP4"), "l": ("FP1", "FP5")},
}
LOADED_N = 20.0  # vertical force from which a foot is on a plate
# The plate's moments must be explained by force times lever about one origin, but for this; on the
# measured treadmill and level-ground trials 0.3 to 5.2 Nm are left.
MOST_UNEXPLAINED_NM = 8.0


def under_right_foot(activity: str, trial: str) -> tuple[str, ...]:
    """Return the names of the plates under the right foot.

    Raises:
        UnusableError: The trial's name does not tell the way it went.
    """
    words = trial.split("_")
    for word, plates in _PLATES[activity].items():
        if word in words:
            return plates
    expected = " or ".join(f"_{word}_" for word in _PLATES[activity])
    raise UnusableError("plates cannot be told", f"{trial}: no {expected} in its name")


def right_ground_reaction(
    table: pd.DataFrame, plates: tuple[str, ...], rate_hz: float, place: str
) -> tuple[np.ndarray, str, list[str]]:
    """Return the ground reaction of the right foot, the unit of the CoP and the loaded plates.

    The forces of the plates are added; the centre of pressure is their mean weighted by vertical
    force, NaN off the plates. The moment is the free moment about it: vertical, 0 off the plates,
    and NaN where a plate's own moments cannot be explained. `(n, 9)`: force in N, moment in Nm,
    centre of pressure in m, each xyz, y up; low-passed, at the table's own rate.

    Raises:
        UnusableError: A column is missing, no plate is loaded, or the unit cannot be told.
    """
    parts = {plate: _read(table, plate, place) for plate in plates}
    used = [plate for plate, part in parts.items() if (part[:, 1] > LOADED_N).any()]
    if not used:
        detail = f"{place}: no load on {', '.join(plates)}, which are under the right foot"
        raise UnusableError("all-zero plate", detail)
    on_any = np.concatenate([parts[p][parts[p][:, 1] > LOADED_N, 3:6] for p in used])
    unit = units.pressure_unit(on_any, place)
    for part in parts.values():
        part[:, 3:6] *= units.TO_M[unit]
    force_n = np.sum([part[:, :3] for part in parts.values()], axis=0)
    moment_nm = np.zeros_like(force_n)
    moment_nm[:, 1] = np.sum([_free_moment(parts[plate]) for plate in used], axis=0)
    center_m = _center_of_pressure([parts[plate] for plate in used])
    together = np.concatenate([force_n, moment_nm, center_m], axis=1)
    return signals.zero_phase(together, rate_hz, signals.FORCE_CUTOFF_HZ), unit, used


def _center_of_pressure(parts: list[np.ndarray]) -> np.ndarray:
    """Return the mean `(n, 3)` over the loaded ones of the plates, `(n, 9)` each, NaN if none is.

    What a plate without load gives for its centre, be it noise or NaN, does not count.
    """
    weighted = np.zeros((len(parts[0]), 3))
    total_n = np.zeros((len(parts[0]), 1))
    for part in parts:
        load_n = part[:, 1:2] * (part[:, 1:2] > LOADED_N)
        weighted += np.where(load_n > 0, load_n * part[:, 3:6], 0.0)
        total_n += load_n
    return np.where(total_n > 0, weighted / np.where(total_n > 0, total_n, 1.0), np.nan)


def _read(table: pd.DataFrame, plate: str, place: str) -> np.ndarray:
    """Return `(n, 9)`: force, centre of pressure and moment of one plate, as stored."""
    kinds = ("v", "p", "moment_")
    names = [f"{plate}_{kind}{axis}" for kind in kinds for axis in "xyz"]
    return matlab.numbers(table, names, place).copy()  # its unit is changed in place


def _free_moment(part: np.ndarray) -> np.ndarray:
    """Return the vertical free moment `(n,)` in Nm of a plate, 0 where it is not loaded.

    A plate's moments are about an origin `o` that the download does not name. The horizontal ones
    are those of the force `F` at the pressure point `p`, `(p - o) x F`, which is linear in `o` and
    gives it by least squares; what the vertical one has beyond that is the free moment.

    Args:
        part: `(n, 9)` force in N, centre of pressure in m, moment in Nm.
    """
    result = np.zeros(len(part))
    rows = np.flatnonzero(part[:, 1] > LOADED_N)
    rows = rows[np.isfinite(part[rows]).all(axis=1)]
    if not len(rows):
        return np.full(len(part), np.nan)
    force, point, moment = part[rows, :3], part[rows, 3:6], part[rows, 6:]
    zero = np.zeros(len(rows))
    lever = np.stack(  # rows of the matrix that turns `o` into `o x F`
        [
            np.stack([zero, force[:, 2], -force[:, 1]], axis=1),
            np.stack([-force[:, 2], zero, force[:, 0]], axis=1),
            np.stack([force[:, 1], -force[:, 0], zero], axis=1),
        ],
        axis=1,
    )
    beyond = np.cross(point, force) - moment
    horizontal = lever[:, [0, 2]].reshape(-1, 3), beyond[:, [0, 2]].ravel()
    origin_m = np.linalg.lstsq(*horizontal, rcond=None)[0]
    unexplained_nm = np.einsum("nij,j->ni", lever, origin_m) - beyond
    if not np.sqrt(np.mean(unexplained_nm[:, [0, 2]] ** 2)) <= MOST_UNEXPLAINED_NM:
        return np.full(len(part), np.nan)
    result[rows] = unexplained_nm[:, 1]
    return result
