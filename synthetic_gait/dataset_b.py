"""Synthetic data in the layout of Dataset B (Tan et al. 2022): steps of the right leg at 100 Hz."""

import json
from dataclasses import replace

import h5py
import numpy as np

from .kinematics import quaternion, rotation
from .sensors import Camera, Mount, place_cameras, random_mount, record_imu, record_video
from .subject import Body, Style, at_speed, random_body, random_style
from .trial import Trial, belt_path, simulate_trial

RATE_HZ = 100.0
SIMULATION_HZ = 200.0
STEP_SAMPLES = 152  # longest step that the file has room for
MARGIN_SAMPLES = 20  # before and after the contact
TRIAL_S = 30.0  # approximate duration of a trial
CONTACT_N = 20.0
ORIGIN_MM = np.array([550.0, 750.0, 0.0])  # position of the subject on the treadmill

# From laboratory axes (x forward, y up, z right) to those of the file (X right, Y forward, Z up).
TO_FILE = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
# Sensor axes on a segment (X left, Y up, Z forward); the pitch aligns it with the skin.
SENSOR_AXES = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])

SENSORS = {  # sensor: segment
    "L_FOOT": "foot_l",
    "R_FOOT": "foot_r",
    "R_SHANK": "shank_r",
    "R_THIGH": "thigh_r",
    "WAIST": "pelvis",
    "CHEST": "trunk",
    "L_SHANK": "shank_l",
    "L_THIGH": "thigh_l",
}
_SENSOR_PLACES = {  # position in segment axes, relative to body height; pitch in degrees
    "foot": ((0.055, -0.010, 0.0), -55.0),
    "shank": ((0.025, -0.10, 0.0), 12.0),
    "thigh": ((0.045, -0.13, 0.0), 0.0),
    "pelvis": ((-0.07, 0.04, 0.0), 0.0),
    "trunk": ((0.06, 0.16, 0.0), 0.0),
}
KEYPOINTS = (
    *("LShoulder", "RShoulder", "MidHip", "RHip", "LHip", "RKnee", "LKnee"),
    *("RAnkle", "LAnkle", "RHeel", "LHeel"),
)
MARKERS = (  # in the order of the file
    *("LFCC", "LFM5", "LFM2", "RFCC", "RFM5", "RFM2"),
    *("LTAM", "LFAL", "LSK", "LTT", "RTAM", "RFAL", "RSK", "RTT"),
    *("LFME", "LFLE", "LTH", "LFT", "RFME", "RFLE", "RTH", "RFT"),
    *("LIPS", "RIPS", "LIAS", "RIAS", "MAI", "SXS", "SJN", "CV7", "LAC", "RAC"),
)
# Segment, and position in segment axes relative to body height. Names with a side (first letter L
# or R) are listed without it, with the position on the right side.
_MARKER_PLACES = {
    "FCC": ("foot", (-0.030, -0.015, 0.0)),  # calcaneus
    "FM5": ("foot", (0.060, -0.022, 0.030)),  # metatarsals
    "FM2": ("foot", (0.085, -0.015, -0.005)),
    "TAM": ("foot", (0.004, 0.004, -0.022)),  # malleoli
    "FAL": ("foot", (-0.004, -0.004, 0.022)),
    "SK": ("shank", (0.010, -0.100, 0.020)),
    "TT": ("shank", (0.028, -0.040, 0.0)),
    "FME": ("thigh", (0.0, -0.243, -0.030)),  # knee condyles
    "FLE": ("thigh", (0.0, -0.243, 0.030)),
    "TH": ("thigh", (0.030, -0.180, 0.015)),
    "FT": ("thigh", (0.0, 0.0, 0.045)),  # greater trochanter
    "IPS": ("pelvis", (-0.085, 0.055, 0.020)),  # iliac spines
    "IAS": ("pelvis", (0.045, 0.055, 0.075)),
    "MAI": ("trunk", (-0.080, 0.150, 0.0)),  # thorax
    "SXS": ("trunk", (0.060, 0.120, 0.0)),
    "SJN": ("trunk", (0.040, 0.230, 0.0)),
    "CV7": ("trunk", (-0.040, 0.280, 0.0)),
    "AC": ("trunk", (-0.015, 0.250, 0.115)),  # shoulder
}
_SIGNALS = (
    *(f"{kind}{axis}" for kind in ("Accel", "Gyro", "Mag") for axis in "XYZ"),
    *(f"Quat{i}" for i in range(1, 5)),
)
DATASET_B_COLUMNS = (
    *("body weight", "body height", "force_phase", "EXT_KM_X", "EXT_KM_Y", "EXT_KM_Z"),
    *(f"{signal}_{sensor}" for sensor in SENSORS for signal in _SIGNALS),
    *(f"{name}_{axis}_{camera}" for name in KEYPOINTS for axis in "xy" for camera in ("90", "180")),
    *(f"plate_2_{kind}_{axis}" for kind in ("force", "cop") for axis in "xyz"),
    *(f"{marker}_{axis}" for axis in "XYZ" for marker in MARKERS),
)


def write_subjects(file: h5py.File, subjects: int, minutes: float, seed: int) -> None:
    """Write the right-leg steps of all subjects, and the attribute `columns`, to an open file.

    Args:
        file: file open for writing.
        subjects: number of subjects.
        minutes: minutes of walking per subject.
        seed: seed of the random numbers.
    """
    file.attrs["columns"] = json.dumps(DATASET_B_COLUMNS)
    for number in range(subjects):
        rng = np.random.default_rng([seed, ord("b"), number])
        body = random_body(rng)
        steps = _subject_steps(rng, body, minutes * 60.0)
        padded = np.zeros((len(steps), STEP_SAMPLES, len(DATASET_B_COLUMNS)), np.float32)
        for target, step in zip(padded, steps, strict=True):
            target[: len(step)] = step
        file.create_dataset(
            f"subject_{number + 1:02d}",
            data=padded,
            chunks=(1, *padded.shape[1:]),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
            track_times=False,
        )


def _subject_steps(rng: np.random.Generator, body: Body, duration_s: float) -> list[np.ndarray]:
    """Return the steps, each (n, 256), of one subject, from trials in different styles."""
    style = random_style(rng, body.height_m)
    mounts, cameras = _place_sensors(rng, body), place_cameras(rng)
    trial_count = max(1, round(duration_s / TRIAL_S))
    steps = []
    for change in rng.normal(size=(4, trial_count)).T:
        trial_style = _instructed_style(style, change)
        trial = simulate_trial(rng, body, trial_style, duration_s / trial_count, SIMULATION_HZ)
        steps += _cut_steps(_trial_table(rng, trial, mounts, cameras))
    return steps


def _instructed_style(style: Style, change: np.ndarray) -> Style:
    """Change speed, toe-out, step width and trunk sway as Tan et al. instructed their subjects.

    Args:
        style: the subject's own style.
        change: (4,) changes in units of their standard deviations.
    """
    lean, sway, twist = style.trunk_deg
    return replace(
        at_speed(style, float(np.clip(1.0 + 0.08 * change[0], 0.85, 1.15))),
        on_belt=True,
        toe_out_deg=style.toe_out_deg + 5.0 * change[1],
        step_width_m=float(np.clip(style.step_width_m + 0.03 * change[2], 0.04, 0.22)),
        trunk_deg=(lean, sway + 2.5 * change[3], twist),
    )


def _place_sensors(rng: np.random.Generator, body: Body) -> dict[str, Mount]:
    mounts = {}
    for sensor, segment in SENSORS.items():
        position, pitch_deg = _SENSOR_PLACES[segment.split("_")[0]]
        pitch = rotation("z", np.radians(-pitch_deg))[0]
        mounts[sensor] = random_mount(rng, np.array(position) * body.height_m, pitch @ SENSOR_AXES)
    return mounts


def _trial_table(
    rng: np.random.Generator,
    trial: Trial,
    mounts: dict[str, Mount],
    cameras: dict[str, Camera],
) -> np.ndarray:
    """Return the table (n, 256) of one trial at 100 Hz, in the units of the published file."""
    body, count = trial.body, len(trial.time_s)
    belt_m = belt_path(trial)
    parts = [
        np.full((count, 1), body.mass_kg),
        np.full((count, 1), body.height_m),
        (trial.ground["r"].force_n[:, 1:2] > CONTACT_N).astype(float),
        external_knee_moment(trial),
    ]
    for sensor, segment in SENSORS.items():
        imu = record_imu(rng, mounts[sensor], trial.poses[segment], trial.rate_hz)
        orientation = quaternion(TO_FILE @ imu.rotation)
        parts += [imu.accel_m_s2, np.degrees(imu.gyro_rad_s), imu.field_ut, orientation]
    keypoints_m = {name: path_m - belt_m for name, path_m in _keypoint_paths(trial).items()}
    video = {name: record_video(rng, camera, keypoints_m) for name, camera in cameras.items()}
    parts += [video[c][name][:, i : i + 1] for name in KEYPOINTS for i in range(2) for c in video]
    parts += [-trial.ground["r"].force_n @ TO_FILE.T, _plate_cop_mm(trial, belt_m)]
    markers_mm = np.stack(
        [
            _to_file_mm(_marker_path(trial, marker) - belt_m) + rng.normal(0.0, 0.3, (count, 3))
            for marker in MARKERS
        ],
        axis=1,
    )
    parts += [markers_mm[:, :, axis] for axis in range(3)]
    return np.concatenate(parts, axis=1)[:: round(trial.rate_hz / RATE_HZ)]


def external_knee_moment(trial: Trial) -> np.ndarray:
    """Return the external moment (n, 3) of the right knee, in %BW·BH and the axes of the file.

    It is the published quantity: the moment of the ground reaction about the knee center, with the
    sign of X reversed. It neglects weight and inertia of shank and foot; `Trial.loads` does not.
    """
    plate, knee_m = trial.ground["r"], trial.poses["shank_r"].origin_m
    moment_nm = np.cross(plate.cop_m - knee_m, plate.force_n) @ TO_FILE.T
    return moment_nm * [-1.0, 1.0, 1.0] * 100.0 / (trial.body.weight_n * trial.body.height_m)


def _to_file_mm(path_m: np.ndarray) -> np.ndarray:
    return path_m @ TO_FILE.T * 1000.0 + ORIGIN_MM


def _plate_cop_mm(trial: Trial, belt_m: np.ndarray) -> np.ndarray:
    """Return the center of pressure (n, 3) in mm; in swing, it keeps its last value."""
    path_mm = _to_file_mm(trial.ground["r"].cop_m - belt_m)
    path_mm[:, 2] = 0.0
    contact = trial.contact["r"]
    last = np.maximum.accumulate(np.where(contact, np.arange(len(path_mm)), -1))
    return path_mm[np.maximum(last, np.argmax(contact))]


def _marker_place(body: Body, marker: str) -> tuple[str, np.ndarray]:
    """Return the segment of a marker in `MARKERS` and its position (3,) in segment axes, in m."""
    if marker in _MARKER_PLACES:
        segment, position = _MARKER_PLACES[marker]
        return segment, np.array(position) * body.height_m
    side, name = marker[0], marker[1:]
    segment, (forward, up, right) = _MARKER_PLACES[name]
    if segment not in ("pelvis", "trunk"):
        segment = f"{segment}_{side.lower()}"
    return segment, np.array([forward, up, right if side == "R" else -right]) * body.height_m


def _marker_path(trial: Trial, marker: str) -> np.ndarray:
    """Return the path (n, 3), in m and laboratory axes, of a marker in `MARKERS`."""
    segment, position_m = _marker_place(trial.body, marker)
    return trial.poses[segment].point(position_m)


def _keypoint_paths(trial: Trial) -> dict[str, np.ndarray]:
    """Return the paths (n, 3), in m and laboratory axes, of the keypoints of a pose estimator."""
    poses = trial.poses
    paths = {"MidHip": poses["pelvis"].origin_m}
    for side, letter in (("r", "R"), ("l", "L")):
        _, acromion_m = _marker_place(trial.body, f"{letter}AC")
        paths |= {
            f"{letter}Shoulder": poses["trunk"].point(acromion_m - [0.0, 0.02, 0.0]),
            f"{letter}Hip": poses[f"thigh_{side}"].origin_m,
            f"{letter}Knee": poses[f"shank_{side}"].origin_m,
            f"{letter}Ankle": poses[f"foot_{side}"].origin_m,
            f"{letter}Heel": poses[f"foot_{side}"].point(trial.body.foot.heel_m),
        }
    return paths


def _cut_steps(table: np.ndarray) -> list[np.ndarray]:
    """Return the complete right-foot contacts with their margins, each (n, 256), n at most 152."""
    contact = table[:, DATASET_B_COLUMNS.index("force_phase")] > 0
    edges = np.diff(contact.astype(int))
    starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
    steps = []
    for start in starts:
        first, later = start - MARGIN_SAMPLES, ends[ends > start]
        if first >= 0 and len(later) and later[0] + MARGIN_SAMPLES <= len(table):
            steps.append(table[first : later[0] + MARGIN_SAMPLES])
    return [step for step in steps if len(step) <= STEP_SAMPLES]
