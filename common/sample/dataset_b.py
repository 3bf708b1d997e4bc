"""The sample in the layout of Dataset B (Tan et al. 2022): steps of the right leg, 100 Hz."""

import json
from dataclasses import replace

import h5py
import numpy as np

from .body import Body, random_body
from .feet import wander
from .markers import MARKERS, joint_centers, marker_paths
from .rotations import rotation
from .sensors import (
    Camera,
    Mount,
    place_cameras,
    quaternion,
    random_mount,
    record_imu,
    record_video,
)
from .style import Style, at_speed, random_style
from .trial import Trial, belt_path, simulate_trial

RATE_HZ = 100.0
SIMULATION_HZ = 200.0
STEP_ROWS = 152
MARGIN_ROWS = 20
TRIAL_S = 30.0  # about how long a trial lasts
CONTACT_N = 20.0
IMUS = ("L_FOOT", "R_FOOT", "R_SHANK", "R_THIGH", "WAIST", "CHEST", "L_SHANK", "L_THIGH")
JOINTS = ("LShoulder", "RShoulder", "MidHip", "RHip", "LHip", "RKnee", "LKnee")
JOINTS += ("RAnkle", "LAnkle", "RHeel", "LHeel")
ORIGIN_MM = np.array([550.0, 750.0, 0.0])  # where the subject stands on the treadmill

# Laboratory axes of the file (X right, Y forward, Z up) from ours (x forward, y up, z right).
TO_FILE = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
# Sensor axes on a segment: X left, Y up, Z forward; the pitch turns the sensor to lie on the skin.
TO_SENSOR = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
_PLACES = {  # place (fractions of body height) and pitch of the sensor in degrees
    "FOOT": ((0.055, -0.010, 0.0), -55.0),
    "SHANK": ((0.025, -0.10, 0.0), 12.0),
    "THIGH": ((0.045, -0.13, 0.0), 0.0),
    "WAIST": ((-0.07, 0.04, 0.0), 0.0),
    "CHEST": ((0.06, 0.16, 0.0), 0.0),
}


def columns() -> list[str]:
    """The 256 column names in order."""
    signals = [f"{k}{a}" for k in ("Accel", "Gyro", "Mag") for a in "XYZ"]
    signals += [f"Quat{i}" for i in range(1, 5)]
    return [
        *("body weight", "body height", "force_phase", "EXT_KM_X", "EXT_KM_Y", "EXT_KM_Z"),
        *(f"{signal}_{imu}" for imu in IMUS for signal in signals),
        *(f"{j}_{axis}_{camera}" for j in JOINTS for axis in "xy" for camera in ("90", "180")),
        *(f"plate_2_{k}_{a}" for k in ("force", "cop") for a in "xyz"),
        *(f"{marker}_{axis}" for axis in "XYZ" for marker in MARKERS),
    ]


def place_sensors(rng: np.random.Generator, body: Body) -> dict[str, Mount]:
    """The eight sensors of a subject."""
    mounts = {}
    for name in IMUS:
        place, pitch_deg = _PLACES[name.split("_")[-1]]
        tilt = rotation("z", np.radians(-pitch_deg))[0]
        mounts[name] = random_mount(rng, np.array(place) * body.height_m, tilt @ TO_SENSOR)
    return mounts


def segment_of(imu: str) -> str:
    """Segment that carries a sensor: `L_FOOT` is on `foot_l`."""
    if imu in ("WAIST", "CHEST"):
        return {"WAIST": "pelvis", "CHEST": "trunk"}[imu]
    side, segment = imu.lower().split("_")
    return f"{segment}_{side}"


def trial_table(
    rng: np.random.Generator,
    trial: Trial,
    mounts: dict[str, Mount],
    cameras: dict[str, Camera],
) -> np.ndarray:
    """One trial as (n, 256) at 100 Hz, in the units of the published file.

    `EXT_KM` is the published quantity: the moment of the ground reaction about the knee centre in
    laboratory axes (the sign of X turned), in percent of body weight times height. It leaves out
    the weight and inertia of shank and foot, which `Trial.loads` has.
    """
    body, count = trial.body, len(trial.time_s)
    belt_m = belt_path(trial)
    parts = [
        np.full((count, 1), body.mass_kg),
        np.full((count, 1), body.height_m),
        (trial.ground["r"].force_n[:, 1:2] > CONTACT_N).astype(float),
        external_knee_moment(trial),
    ]
    for name in IMUS:
        imu = record_imu(rng, mounts[name], trial.poses[segment_of(name)], trial.rate_hz)
        axes = quaternion(TO_FILE @ imu.rotation)
        parts += [imu.accel_m_s2, np.degrees(imu.gyro_rad_s), imu.field_ut, axes]
    joints = {k: v - belt_m for k, v in joint_centers(trial).items()}
    video = {c: record_video(rng, camera, joints) for c, camera in cameras.items()}
    parts += [video[c][j][:, i : i + 1] for j in JOINTS for i in range(2) for c in ("90", "180")]
    parts += [-trial.ground["r"].force_n @ TO_FILE.T, _plate_cop_mm(trial, belt_m)]
    markers = [
        (path - belt_m) @ TO_FILE.T * 1000.0 + ORIGIN_MM + rng.normal(0.0, 0.3, path.shape)
        for path in marker_paths(trial).values()
    ]
    parts += [np.stack([m[:, axis] for m in markers], axis=1) for axis in range(3)]
    return np.concatenate(parts, axis=1)[:: round(trial.rate_hz / RATE_HZ)]


def external_knee_moment(trial: Trial) -> np.ndarray:
    """Moment (n, 3) of the ground reaction about the right knee centre, in %BW·BH."""
    plate, knee_m = trial.ground["r"], trial.poses["shank_r"].origin_m
    moment_nm = np.cross(plate.cop_m - knee_m, plate.force_n) @ TO_FILE.T
    return moment_nm * [-1.0, 1.0, 1.0] * 100.0 / (trial.body.weight_n * trial.body.height_m)


def _plate_cop_mm(trial: Trial, belt_m: np.ndarray) -> np.ndarray:
    """Centre of pressure (n, 3) in mm; in swing it rests where it was last, as in the real file."""
    path = (trial.ground["r"].cop_m - belt_m) @ TO_FILE.T * 1000.0 + ORIGIN_MM
    path[:, 2] = 0.0
    last = np.where(trial.contact["r"], np.arange(len(path)), -1)
    return path[np.maximum(np.maximum.accumulate(last), np.argmax(trial.contact["r"]))]


def cut_steps(table: np.ndarray) -> list[np.ndarray]:
    """Whole right-foot contacts with a margin on either side, each (rows, 256) of at most 152."""
    contact = table[:, columns().index("force_phase")] > 0
    edges = np.diff(contact.astype(int))
    starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
    steps = []
    for start in starts:
        later = ends[ends > start]
        if len(later) and start >= MARGIN_ROWS and later[0] + MARGIN_ROWS <= len(table):
            steps.append(table[start - MARGIN_ROWS : later[0] + MARGIN_ROWS])
    return [step for step in steps if len(step) <= STEP_ROWS]


def write(file: h5py.File, subjects: int, minutes: float, seed: int) -> None:
    """Fill an open file with the right-leg steps of `subjects` subjects who walk `minutes` each."""
    file.attrs["columns"] = json.dumps(columns())
    for number in range(subjects):
        rng = np.random.default_rng(np.random.SeedSequence([seed, ord("b"), number]))
        body = random_body(rng)
        steps = _subject_steps(rng, body, minutes * 60.0)
        padded = np.zeros((len(steps), STEP_ROWS, len(columns())), np.float32)
        for row, step in zip(padded, steps, strict=True):
            row[: len(step)] = step
        file.create_dataset(
            f"subject_{number + 1:02d}",
            data=padded,
            chunks=(1, STEP_ROWS, len(columns())),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
            track_times=False,
        )


def _subject_steps(rng: np.random.Generator, body: Body, duration_s: float) -> list[np.ndarray]:
    """Steps of one subject over trials of different speed, toe-out, step width and trunk sway."""
    style = random_style(rng, body.height_m)
    mounts, cameras = place_sensors(rng, body), place_cameras(rng)
    trials = max(1, round(duration_s / TRIAL_S))
    steps = []
    for change in np.stack([wander(rng, trials, 0.0) for _ in range(4)], axis=1):
        trial_style = _instructed(style, change)
        trial = simulate_trial(rng, body, trial_style, duration_s / trials, SIMULATION_HZ)
        steps += cut_steps(trial_table(rng, trial, mounts, cameras))
    return steps


def _instructed(style: Style, change: np.ndarray) -> Style:
    """The subject's gait as Tan et al. had it changed: speed, toe-out, step width, trunk sway."""
    lean, sway, turn = style.trunk_deg
    return replace(
        at_speed(style, float(np.clip(1.0 + 0.08 * change[0], 0.85, 1.15))),
        on_belt=True,
        toe_out_deg=style.toe_out_deg + 5.0 * change[1],
        step_width_m=float(np.clip(style.step_width_m + 0.03 * change[2], 0.04, 0.22)),
        trunk_deg=(lean, sway + 2.5 * change[3], turn),
    )
