"""A small download of Dataset A, simulated so that the correct HDF5 file is known.

The files are MATLAB tables written by mat-io, optionally in the form that MATLAB wrote in 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter1d

from common.data import IMU_SENSORS, MUSCLES
from synthetic_gait.dataset_a import place_sensors
from synthetic_gait.sensors import MUSCLE_DRIVES, record_imu
from synthetic_gait.subject import Body, Style, on_ramp, on_stairs, random_body, random_style
from synthetic_gait.trial import Trial, belt_path, simulate_trial
from tools.dataset_a import (
    COORDINATES,
    DATASET_A_COLUMNS,
    GONIOMETERS,
    PELVIS,
    TREE_COORDINATES,
    load_name,
)

matio = pytest.importorskip("matio")  # not available on Python 3.10

FAST_HZ, SLOW_HZ = 1000, 200
STEP = FAST_HZ // SLOW_HZ
GONIOMETER_ANGLES = (
    *("ankle_angle_r", "subtalar_angle_r", "knee_angle_r", "hip_flexion_r", "hip_adduction_r"),
)
CARRIER_HZ = 60.0  # of the raw EMG; 200 Hz can represent it
TRIALS = (
    ("Treadmill", "treadmill_01_01"),
    ("Levelground", "levelground_ccw_fast_01_01"),
    ("Levelground", "levelground_cw_slow_02_01"),
    ("Ramp", "ramp_1_l_01_01"),
    ("Ramp", "ramp_1_r_02_01"),
    ("Stair", "stair_1_l_01_01"),
    ("Stair", "stair_1_r_02_01"),
)
FEET = {  # plates under the right foot, and one under the left foot
    "treadmill_01_01": (("Treadmill_R",), "Treadmill_L"),
    "levelground_ccw_fast_01_01": (("FP1",), "Combined"),
    "levelground_cw_slow_02_01": (("Combined", "FP2", "FP5"), "FP1"),
    "ramp_1_l_01_01": (("FP1", "FP3", "FP5"), "FP2"),
    "ramp_1_r_02_01": (("FP2", "FP4"), "FP1"),
    "stair_1_l_01_01": (("FP1", "FP5"), "FP2"),
    "stair_1_r_02_01": (("FP2", "FP3", "FP4"), "FP1"),
}
PLATES = {
    "Treadmill": ("Treadmill_R", "Treadmill_L"),
    "Levelground": ("FP1", "FP2", "Combined", "FP5", "FP6"),
    "Ramp": ("FP1", "FP2", "FP3", "FP4", "FP5"),
    "Stair": ("FP1", "FP2", "FP3", "FP4", "FP5"),
}
LATE = {"imu": 4, "emg": 20, "gon": 20}  # samples by which a sensor starts after the others
OFF_PLATE = slice(100, 160)  # samples of level-ground trials without inverse dynamics


class Simulated(NamedTuple):
    """A simulated trial at 1000 Hz.

    Attributes:
        activity: activity, as in the HDF5 file.
        name: name of the trial.
        motion: the simulated motion.
        imu: `(n, 24)` in m/s² and rad/s.
        gon: goniometers `(n, 5)` in degrees.
        envelope_mv: EMG envelopes `(n, 11)`.
    """

    activity: str
    name: str
    motion: Trial
    imu: np.ndarray
    gon: np.ndarray
    envelope_mv: np.ndarray


class Walker(NamedTuple):
    """A simulated subject and its trials."""

    number: int
    body: Body
    trials: list[Simulated]


def simulate_walker(
    number: int, names: Sequence[tuple[str, str]] = TRIALS, duration_s: float = 3.0
) -> Walker:
    """Simulate a subject walking the given trials, pairs of activity and name."""
    rng = np.random.default_rng(number)
    body = random_body(rng)
    style = random_style(rng, body.height_m)
    mounts = place_sensors(rng, body)
    trials = []
    for activity, name in names:
        motion = simulate_trial(rng, body, _style(style, activity, name), duration_s, FAST_HZ)
        signals = [
            record_imu(None, mounts[s], motion.poses[s if s == "trunk" else f"{s}_r"], FAST_HZ)
            for s in IMU_SENSORS
        ]
        imu = np.concatenate([x for s in signals for x in (s.accel_m_s2, s.gyro_rad_s)], axis=1)
        gon = np.degrees(np.stack([motion.angles_rad[c] for c in GONIOMETER_ANGLES], axis=1))
        trials.append(Simulated(activity, name, motion, imu, gon, _envelope_mv(motion)))
    return Walker(number, body, trials)


def _style(style: Style, activity: str, name: str) -> Style:
    if activity == "Treadmill":
        return replace(style, on_belt=True)
    if activity == "Ramp":
        return on_ramp(style, 0.15 if "_r_" in name else -0.15)
    if activity == "Stair":
        return on_stairs(style, 0.12 if "_r_" in name else -0.12)
    return style


def _envelope_mv(motion: Trial) -> np.ndarray:
    """Return smooth envelopes `(n, 11)` without noise."""
    envelope = []
    for drives in MUSCLE_DRIVES.values():
        force = sum(w * np.maximum(sign * motion.moments_nm[c], 0.0) for c, sign, w in drives)
        envelope.append(gaussian_filter1d(0.01 + force / 500.0, 0.08 * FAST_HZ))
    return np.stack(envelope, axis=1)


def right_ground(trial: Simulated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return force in N, free moment in Nm and center of pressure in m, `(n, 3)` each."""
    ground = trial.motion.ground["r"]
    cop_m = ground.cop_m - belt_path(trial.motion) + [1.0, 0.0, 0.5]
    return ground.force_n, ground.free_moment_nm, cop_m


def truth(walker: Walker) -> dict[str, np.ndarray]:
    """Return the values of a perfect conversion, `(n, 129)` at 200 Hz, per trial."""
    largest = np.max([t.envelope_mv.max(axis=0) for t in walker.trials], axis=0)
    return {trial.name: _true_values(walker.body, trial, largest) for trial in walker.trials}


def _true_values(body: Body, trial: Simulated, largest: np.ndarray) -> np.ndarray:
    motion, weight_n = trial.motion, 9.8 * body.mass_kg
    loads = np.stack([motion.moments_nm[c] for c in TREE_COORDINATES], axis=1)
    scale = [weight_n if c in PELVIS[3:] else weight_n * body.height_m for c in TREE_COORDINATES]
    force_n, free_nm, cop_m = right_ground(trial)
    ground = [force_n / weight_n, free_nm / weight_n, cop_m * (force_n[:, 1:2] > 20.0)]
    emg = [_raw_emg_mv(trial), trial.envelope_mv / largest]
    powers = np.stack([motion.powers_w[c] for c in TREE_COORDINATES], axis=1)
    blocks = [trial.imu, _angles(motion), loads / scale, *ground, trial.gon, *emg, powers]
    values = np.concatenate(blocks, axis=1)[::STEP]
    if trial.activity == "Levelground":
        moments = [DATASET_A_COLUMNS.index(load_name(c)) for c in TREE_COORDINATES]
        values[OFF_PLATE, moments[0] : moments[-1] + 1] = np.nan
    return values[4:-5]  # the samples that all sensors have; see `make_tables`


def _angles(motion: Trial) -> np.ndarray:
    """Return the joint angles in degrees and the translations of the pelvis in m, `(n, 23)`."""
    angles = motion.angles_rad
    return np.stack(
        [angles[c] if c in PELVIS[3:] else np.degrees(angles[c]) for c in COORDINATES], axis=1
    )


def _raw_emg_mv(trial: Simulated) -> np.ndarray:
    carrier = np.sin(2 * np.pi * CARRIER_HZ * trial.motion.time_s)
    return trial.envelope_mv * carrier[:, None]


def make_tables(trial: Simulated) -> dict[str, pd.DataFrame]:
    """Return the table of each sensor as in the download: g, rad/s, Nm, N, mm, mV."""
    motion = trial.motion
    loads = np.stack([motion.moments_nm[c] for c in TREE_COORDINATES], axis=1)[::STEP]
    if trial.activity == "Levelground":
        loads[OFF_PLATE] = np.nan
    powers = np.stack([motion.powers_w[c] for c in TREE_COORDINATES], axis=1)[::STEP]
    in_g = np.tile(np.repeat([1.0 / 9.80665, 1.0], 3), len(IMU_SENSORS))
    result = {
        "imu": _table(DATASET_A_COLUMNS[:24], (trial.imu * in_g)[::STEP], SLOW_HZ),
        "ik": _table(COORDINATES, _angles(motion)[::STEP], SLOW_HZ),
        "id": _table(map(load_name, TREE_COORDINATES), loads, SLOW_HZ),
        "jp": _table([f"{c}_power" for c in TREE_COORDINATES], powers, SLOW_HZ),
        "emg": _table(MUSCLES, _raw_emg_mv(trial), FAST_HZ),
        "gon": _table(GONIOMETERS, trial.gon, FAST_HZ),
        "fp": _plate_table(trial),
    }
    result["fp"] = result["fp"].iloc[: -5 * STEP]  # ends before the others
    return {s: t.iloc[LATE.get(s, 0) :].reset_index(drop=True) for s, t in result.items()}


def _table(names: Sequence[str], values: np.ndarray, rate_hz: int) -> pd.DataFrame:
    table = pd.DataFrame(values, columns=list(names))
    table.insert(0, "Header", np.round(np.arange(len(values)) / rate_hz + 0.005, 4))
    return table


def _plate_table(trial: Simulated) -> pd.DataFrame:
    """Return the force plates: each stride of the right foot on the next of its plates."""
    plates, other = FEET[trial.name]
    stride = np.floor(trial.motion.phase + 0.1).astype(int) % len(plates)  # +0.1: in swing
    force_n, free_nm, cop_m = right_ground(trial)
    columns = {}
    for number, plate in enumerate(PLATES[trial.activity]):
        on = np.zeros(len(stride), bool)
        force, free, point = force_n, free_nm, cop_m
        if plate in plates:
            on = stride == plates.index(plate)
        elif plate == other:
            on, force = np.ones(len(stride), bool), trial.motion.ground["l"].force_n
            free = trial.motion.ground["l"].free_moment_nm
        loaded = (on & (force[:, 1] > 0.0))[:, None]
        origin_m = np.array([0.3 * number, 0.0, -0.2 * number])
        moment = (np.cross(point - origin_m, force) + free) * loaded
        unloaded = np.nan if number % 2 else 0.0  # the center that an unloaded plate reports
        center_mm = np.where(loaded, 1000.0 * point, unloaded)
        for kind, values in (("v", force * loaded), ("p", center_mm), ("moment_", moment)):
            for axis, column in zip("xyz", values.T, strict=True):
                columns[f"{plate}_{kind}{axis}"] = column
    return _table(list(columns), np.stack(list(columns.values()), axis=1), FAST_HZ)


def write_table(path: Path, table: pd.DataFrame, of_2018: bool = False) -> None:
    """Write a table as the variable `data` of a `.mat` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value: object = table
    if of_2018:  # without `props`, which has the version, mat-io returns an opaque object
        columns = np.empty((1, table.shape[1]), dtype=object)
        names = np.empty((1, table.shape[1]), dtype=object)
        for i, name in enumerate(table.columns):
            columns[0, i], names[0, i] = table[name].to_numpy().reshape(-1, 1), np.array([name])
        parts = {"data": columns, "varnames": names, "nvars": np.float64(table.shape[1])}
        value = matio.utils.matclass.MatlabOpaque(properties=parts, classname="table")
    matio.save_to_mat(str(path), {"data": value}, version="v7")


def write_walker(root: Path, walker: Walker, of_2018: bool = False, date: str = "10_14_18") -> None:
    """Write all trials of a subject to the folder `root`."""
    for trial in walker.trials:
        for sensor, table in make_tables(trial).items():
            folder = root / f"AB{walker.number:02d}" / date / trial.activity.lower() / sensor
            write_table(folder / f"{trial.name}.mat", table, of_2018)


def write_people(root: Path, walkers: Sequence[Walker]) -> None:
    """Write `SubjectInfo.mat`."""
    cells = np.empty(len(walkers), dtype=object)
    cells[:] = [np.array([f"AB{walker.number:02d}"]) for walker in walkers]
    people = pd.DataFrame(
        {
            "Subject": cells,
            "Height": [walker.body.height_m for walker in walkers],
            "Weight": [walker.body.mass_kg for walker in walkers],
        }
    )
    write_table(root / "SubjectInfo.mat", people)


def treadmill_file(root: Path, sensor: str) -> Path:
    """Return the file of a sensor in the treadmill trial of subject 8."""
    return root / "AB08/10_14_18/treadmill" / sensor / "treadmill_01_01.mat"


def truncate(path: Path) -> None:
    """Cut a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
