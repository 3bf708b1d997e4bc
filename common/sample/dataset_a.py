"""The sample in the layout of Dataset A (Camargo et al. 2021): four activities, 200 Hz."""

import json
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np

from common.columns import (
    DATASET_A_ACTIVITIES,
    DATASET_A_COLUMNS,
    GONIOMETERS,
    IMU_SENSORS,
    MUSCLES,
    PELVIS,
    TREE_COORDINATES,
)

from .body import Body, random_body
from .sensors import (
    Mount,
    muscle_gains,
    random_mount,
    record_emg,
    record_goniometers,
    record_imu,
)
from .style import Style, at_speed, on_ramp, on_stairs, random_style
from .trial import Trial, belt_path, simulate_trial

RATE_HZ = 200.0
SUBJECT_IDS = (*range(7, 20), 21, 23, 24, 25, 27, 28, 30)
TRIAL_S = 8.0  # about how long a trial lasts


def activity_styles(
    rng: np.random.Generator, style: Style, activity: str
) -> Iterator[tuple[str, Style]]:
    """Endless (trial name, style) of one activity: speeds, or up and down by turns."""
    number = 0
    while True:
        number += 1
        factor = float(rng.uniform(0.75, 1.2))
        up = number % 2 == 1
        if activity == "Treadmill":
            yield f"treadmill_{number:02d}_01", replace(at_speed(style, factor), on_belt=True)
        elif activity == "Levelground":
            pace = "slow" if factor < 0.9 else "normal" if factor < 1.05 else "fast"
            yield f"levelground_{pace}_{number:02d}_01", at_speed(style, factor)
        elif activity == "Ramp":
            slope = float(np.radians(rng.uniform(5.2, 15.0)))
            yield (
                f"ramp_{'up' if up else 'down'}_{number:02d}_01",
                on_ramp(style, slope if up else -slope),
            )
        else:
            rise_m = float(rng.uniform(0.10, 0.16))
            yield (
                f"stair_{'up' if up else 'down'}_{number:02d}_01",
                on_stairs(style, rise_m if up else -rise_m),
            )


def place_sensors(rng: np.random.Generator, body: Body) -> dict[str, Mount]:
    """Sensors of the right leg and the trunk, nearly in line with their segments' axes."""
    height_m = body.height_m
    places = {
        "foot": (0.05, -0.01, 0.0),
        "shank": (0.02, -0.10, 0.015),
        "thigh": (0.04, -0.13, 0.02),
        "trunk": (-0.04, 0.15, 0.0),
    }
    return {
        name: random_mount(rng, np.array(place) * height_m, np.eye(3))
        for name, place in places.items()
    }


def trial_table(
    rng: np.random.Generator,
    trial: Trial,
    mounts: dict[str, Mount],
    gains: dict[str, float],
    gon_offsets_deg: np.ndarray,
) -> np.ndarray:
    """One trial as (n, 129), EMG in mV.

    Moments are divided by body weight times height, forces and free moments by body weight; the
    ground moment columns are the free moment about the centre of pressure, so their x and z are
    zero. Off the ground the centre of pressure is zero. The pelvis columns hold the residual, zero
    but for rounding and the last round of the balance; the toes do not bend, so the `mtp` columns
    are zero.
    """
    body = trial.body
    imus = [
        record_imu(
            rng, mounts[name], trial.poses[name if name == "trunk" else f"{name}_r"], RATE_HZ
        )
        for name in IMU_SENSORS
    ]
    imu = np.concatenate([s for i in imus for s in (i.accel_m_s2, i.gyro_rad_s)], axis=1)
    angles = np.stack(
        [v if k in PELVIS[3:] else np.degrees(v) for k, v in trial.angles_rad.items()], axis=1
    )
    belt_m = belt_path(trial)
    angles[:, 3:6] -= belt_m
    scale = body.weight_n * body.height_m
    moments = np.stack(
        [
            trial.moments_nm[k] / (body.weight_n if k in PELVIS[3:] else scale)
            for k in TREE_COORDINATES
        ],
        axis=1,
    )
    plate = trial.ground["r"]
    ground = np.concatenate(
        [
            plate.force_n / body.weight_n,
            plate.free_moment_nm / body.weight_n,
            (plate.cop_m - belt_m) * trial.contact["r"][:, None],
        ],
        axis=1,
    )
    raw, envelope = record_emg(rng, trial.moments_nm, body.mass_kg, gains, RATE_HZ)
    emg = np.stack([*raw.values(), *envelope.values()], axis=1)
    gon = record_goniometers(rng, trial.angles_rad, gon_offsets_deg)
    powers = np.stack([trial.powers_w[k] for k in TREE_COORDINATES], axis=1)
    return np.concatenate([imu, angles, moments, ground, gon, emg, powers], axis=1)


def write(file: h5py.File, subjects: int, minutes: float, seed: int) -> None:
    """Fill an open file with subjects who walk `minutes` each, over the four activities."""
    file.attrs["columns"] = json.dumps(DATASET_A_COLUMNS)
    for number, subject_id in enumerate(SUBJECT_IDS[:subjects]):
        rng = np.random.default_rng(np.random.SeedSequence([seed, ord("a"), number]))
        body = random_body(rng)
        tables = _subject_tables(rng, body, minutes * 60.0 / len(DATASET_A_ACTIVITIES))
        group = file.create_group(f"All_subjects/Subject_{subject_id}")
        group.attrs["mass_kg"], group.attrs["height_m"] = body.mass_kg, body.height_m
        for activity, (names, rows) in tables.items():
            starts = np.cumsum([0] + [len(r) for r in rows[:-1]])
            data = group.create_dataset(
                activity,
                data=np.concatenate(rows).astype(np.float32),
                chunks=True,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
                track_times=False,
            )
            data.attrs["trial_starts"] = starts
            data.attrs["trial_names"] = json.dumps(names)


def _subject_tables(
    rng: np.random.Generator, body: Body, activity_s: float
) -> dict[str, tuple[list[str], list[np.ndarray]]]:
    """Trial names and tables (n, 129) by activity, EMG divided by the subject's maximum."""
    style = random_style(rng, body.height_m)
    mounts = place_sensors(rng, body)
    gains = muscle_gains(rng)
    gon_offsets_deg = rng.normal(0.0, 3.0, len(GONIOMETERS))
    trials = max(round(activity_s / TRIAL_S), 2 if activity_s > 4.0 else 1)  # up and down
    tables = {}
    for activity in DATASET_A_ACTIVITIES:
        styles = activity_styles(rng, style, activity)
        names, rows = [], []
        for _ in range(trials):
            name, trial_style = next(styles)
            trial = simulate_trial(rng, body, trial_style, activity_s / trials, RATE_HZ)
            names.append(name)
            rows.append(trial_table(rng, trial, mounts, gains, gon_offsets_deg))
        tables[activity] = names, rows
    emg = [DATASET_A_COLUMNS.index(muscle) for muscle in MUSCLES]
    largest = np.max([r[:, emg].max(axis=0) for _, rows in tables.values() for r in rows], axis=0)
    for _, rows in tables.values():
        for row in rows:
            row[:, emg] /= largest
    return tables
