"""Synthetic data in the layout of Dataset A (Camargo et al. 2021): four activities at 200 Hz."""

import json
from dataclasses import replace

import h5py
import numpy as np

from .sensors import (
    GONIOMETERS,
    MUSCLE_DRIVES,
    Mount,
    random_mount,
    random_muscle_gains,
    record_emg,
    record_goniometers,
    record_imu,
)
from .subject import SIDES, Body, Style, at_speed, on_ramp, on_stairs, random_body, random_style
from .trial import (
    BELOW_HIP,
    COORDINATES,
    HIP,
    LUMBAR,
    PELVIS_ROTATIONS,
    PELVIS_TRANSLATIONS,
    Trial,
    belt_path,
    simulate_trial,
)

RATE_HZ = 200.0
SUBJECT_IDS = (*range(7, 20), 21, 23, 24, 25, 27, 28, 30)
ACTIVITIES = ("Treadmill", "Levelground", "Ramp", "Stair")
TRIAL_S = 8.0  # approximate duration of a trial

SENSOR_POSITIONS = {  # in segment axes, relative to body height; right leg
    "foot": (0.05, -0.01, 0.0),
    "shank": (0.02, -0.10, 0.015),
    "thigh": (0.04, -0.13, 0.02),
    "trunk": (-0.04, 0.15, 0.0),
}
_DYNAMICS_COORDINATES = (  # in the order of OpenSim's inverse dynamics
    *PELVIS_ROTATIONS,
    *PELVIS_TRANSLATIONS,
    *(f"{name}_{side}" for side in SIDES for name in HIP),
    *LUMBAR,
    *(f"{name}_{side}" for name in BELOW_HIP for side in SIDES),
)
DATASET_A_COLUMNS = (
    *(f"{sensor}_{kind}_{axis}" for sensor in SENSOR_POSITIONS for kind in ("Accel", "Gyro")
      for axis in "XYZ"),
    *COORDINATES,
    *(f"{name}_{'force' if name in PELVIS_TRANSLATIONS else 'moment'}"
      for name in _DYNAMICS_COORDINATES),
    *(f"right_{kind}{axis}" for kind in ("v", "moment_", "p") for axis in "xyz"),
    *GONIOMETERS,
    *(f"{muscle}_raw" for muscle in MUSCLE_DRIVES),
    *MUSCLE_DRIVES,
    *(f"{name}_power" for name in _DYNAMICS_COORDINATES),
)  # fmt: skip


def write_subjects(file: h5py.File, subjects: int, minutes: float, seed: int) -> None:
    """Write subjects, and the attribute `columns`, to an open file.

    Args:
        file: file open for writing.
        subjects: number of subjects.
        minutes: minutes of walking per subject, divided equally among the activities.
        seed: seed of the random numbers.
    """
    file.attrs["columns"] = json.dumps(DATASET_A_COLUMNS)
    for number, subject_id in enumerate(SUBJECT_IDS[:subjects]):
        rng = np.random.default_rng([seed, ord("a"), number])
        body = random_body(rng)
        tables = _subject_tables(rng, body, minutes * 60.0 / len(ACTIVITIES))
        group = file.create_group(f"All_subjects/Subject_{subject_id}")
        group.attrs["mass_kg"], group.attrs["height_m"] = body.mass_kg, body.height_m
        for activity, trials in tables.items():
            starts = np.cumsum([0] + [len(table) for table in trials.values()])[:-1]
            data = group.create_dataset(
                activity,
                data=np.concatenate(list(trials.values())).astype(np.float32),
                chunks=True,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
                track_times=False,
            )
            data.attrs["trial_starts"] = starts
            data.attrs["trial_names"] = json.dumps(list(trials))


def _subject_tables(
    rng: np.random.Generator, body: Body, activity_s: float
) -> dict[str, dict[str, np.ndarray]]:
    """Return tables (n, 129) by activity and trial, with EMG relative to the subject's maximum."""
    style = random_style(rng, body.height_m)
    mounts = place_sensors(rng, body)
    gains = random_muscle_gains(rng)
    offsets_deg = rng.normal(0.0, 3.0, len(GONIOMETERS))
    # At least two trials where time allows, so that ramps and stairs have both directions.
    trial_count = max(round(activity_s / TRIAL_S), 2 if activity_s > 4.0 else 1)
    tables = {activity: {} for activity in ACTIVITIES}
    for activity, trials in tables.items():
        for number in range(1, trial_count + 1):
            name, trial_style = _random_trial(rng, style, activity, number)
            trial = simulate_trial(rng, body, trial_style, activity_s / trial_count, RATE_HZ)
            trials[name] = _trial_table(rng, trial, mounts, gains, offsets_deg)
    emg = [DATASET_A_COLUMNS.index(muscle) for muscle in MUSCLE_DRIVES]
    all_tables = [table for trials in tables.values() for table in trials.values()]
    maximum = np.max([table[:, emg].max(axis=0) for table in all_tables], axis=0)
    for table in all_tables:
        table[:, emg] /= maximum
    return tables


def place_sensors(rng: np.random.Generator, body: Body) -> dict[str, Mount]:
    """Return the mounts of a subject's four sensors, nearly aligned with their segments."""
    return {
        name: random_mount(rng, np.array(position) * body.height_m, np.eye(3))
        for name, position in SENSOR_POSITIONS.items()
    }


def _random_trial(
    rng: np.random.Generator, style: Style, activity: str, number: int
) -> tuple[str, Style]:
    """Return name and style of a trial; odd trials on ramps and stairs go up, even ones down."""
    factor = float(rng.uniform(0.75, 1.2))
    direction, sign = ("up", 1.0) if number % 2 == 1 else ("down", -1.0)
    if activity == "Treadmill":
        return f"treadmill_{number:02d}_01", replace(at_speed(style, factor), on_belt=True)
    if activity == "Levelground":
        pace = "slow" if factor < 0.9 else "normal" if factor < 1.05 else "fast"
        return f"levelground_{pace}_{number:02d}_01", at_speed(style, factor)
    if activity == "Ramp":
        slope_rad = float(np.radians(rng.uniform(5.2, 15.0)))
        return f"ramp_{direction}_{number:02d}_01", on_ramp(style, sign * slope_rad)
    rise_m = float(rng.uniform(0.10, 0.16))
    return f"stair_{direction}_{number:02d}_01", on_stairs(style, sign * rise_m)


def _trial_table(
    rng: np.random.Generator,
    trial: Trial,
    mounts: dict[str, Mount],
    gains: dict[str, float],
    offsets_deg: np.ndarray,
) -> np.ndarray:
    """Return the table (n, 129) of one trial, with EMG in mV.

    Moments are divided by body weight times height, forces and free moments by body weight. The
    `right_moment` columns have the free moment about the center of pressure, so x and z are zero.
    In swing the center of pressure is zero. The moments of the pelvis are the residual of inverse
    dynamics, almost zero; the `mtp` columns are zero, since the toes do not bend.
    """
    body, belt_m, plate = trial.body, belt_path(trial), trial.ground["r"]
    imus = [
        record_imu(
            rng, mounts[name], trial.poses[name if name == "trunk" else f"{name}_r"], RATE_HZ
        )
        for name in SENSOR_POSITIONS
    ]
    angles = np.stack(
        [
            trial.angles_rad[name]
            if name in PELVIS_TRANSLATIONS
            else np.degrees(trial.angles_rad[name])
            for name in COORDINATES
        ],
        axis=1,
    )
    angles[:, 3:6] -= belt_m  # pelvis translations
    moment_scale_nm = body.weight_n * body.height_m
    moments = np.stack(
        [
            trial.moments_nm[name]
            / (body.weight_n if name in PELVIS_TRANSLATIONS else moment_scale_nm)
            for name in _DYNAMICS_COORDINATES
        ],
        axis=1,
    )
    raw_emg, emg = record_emg(rng, trial.moments_nm, body.mass_kg, gains, RATE_HZ)
    goniometers = record_goniometers(rng, trial.angles_rad, offsets_deg)
    return np.concatenate(
        [
            *(signal for imu in imus for signal in (imu.accel_m_s2, imu.gyro_rad_s)),
            angles,
            moments,
            plate.force_n / body.weight_n,
            plate.free_moment_nm / body.weight_n,
            (plate.cop_m - belt_m) * trial.contact["r"][:, None],
            goniometers,
            raw_emg,
            emg,
            np.stack([trial.powers_w[name] for name in _DYNAMICS_COORDINATES], axis=1),
        ],
        axis=1,
    )
