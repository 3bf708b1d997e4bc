"""What instruments would record: inertial sensors, muscle activity, goniometers and two cameras.

All functions are pure: with `rng=None` or an ideal `Mount` they return what a perfect instrument
would.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from .balance import Pose
from .body import GRAVITY_M_S2
from .rotations import acceleration, angular_velocity, apply_inverse, rotation_zxy

EARTH_FIELD_UT = np.array([22.0, -33.0, 6.0])  # laboratory axes: x north-ish, y up, z right

# Muscles of Dataset A and what they answer to: (coordinate of the right leg, sign of its moment,
# weight).
MUSCLE_DRIVES = {
    "gastrocmed": (("ankle_angle_r", -1, 1.0), ("knee_angle_r", -1, 0.3)),
    "tibialisanterior": (("ankle_angle_r", 1, 6.0),),
    "soleus": (("ankle_angle_r", -1, 1.0),),
    "vastusmedialis": (("knee_angle_r", 1, 1.0),),
    "vastuslateralis": (("knee_angle_r", 1, 1.0),),
    "rectusfemoris": (("knee_angle_r", 1, 0.6), ("hip_flexion_r", 1, 0.5)),
    "bicepsfemoris": (("hip_flexion_r", -1, 0.6), ("knee_angle_r", -1, 0.5)),
    "semitendinosus": (("hip_flexion_r", -1, 0.5), ("knee_angle_r", -1, 0.7)),
    "gracilis": (("hip_adduction_r", 1, 1.5), ("hip_flexion_r", 1, 0.4)),
    "gluteusmedius": (("hip_adduction_r", -1, 1.0),),
    "rightexternaloblique": (("lumbar_bending", 1, 1.0), ("lumbar_extension", -1, 0.5)),
}


@dataclass(frozen=True)
class Mount:
    """Where a sensor sits on its segment and what is wrong with it.

    Args:
        position_m: (3,) place in segment axes.
        alignment: (3, 3) sensor axes in segment axes.
        bias_m_s2: (3,) of the accelerometer.
        bias_rad_s: (3,) of the gyroscope.
        noise_m_s2: standard deviation of the accelerometer's noise.
        noise_rad_s: the same of the gyroscope.
    """

    position_m: np.ndarray
    alignment: np.ndarray
    bias_m_s2: np.ndarray
    bias_rad_s: np.ndarray
    noise_m_s2: float = 0.0
    noise_rad_s: float = 0.0


@dataclass(frozen=True)
class Imu:
    """Signals of one inertial sensor in its own axes.

    Args:
        accel_m_s2: (n, 3) specific force, 9.8 upwards at rest.
        gyro_rad_s: (n, 3) angular rate.
        field_ut: (n, 3) magnetic field in microtesla.
        rotation: (n, 3, 3) true sensor axes in the laboratory.
    """

    accel_m_s2: np.ndarray
    gyro_rad_s: np.ndarray
    field_ut: np.ndarray
    rotation: np.ndarray


def ideal_mount(position_m: np.ndarray) -> Mount:
    """A perfect sensor in line with its segment."""
    return Mount(np.asarray(position_m, dtype=float), np.eye(3), np.zeros(3), np.zeros(3))


def random_mount(rng: np.random.Generator, position_m: np.ndarray, alignment: np.ndarray) -> Mount:
    """A strapped-on sensor: 1 cm and 4 degrees off (SD), with a cheap device's bias and noise."""
    off = rotation_zxy(*np.radians(rng.normal(0.0, 4.0, 3)))[0]
    return Mount(
        position_m=position_m + rng.normal(0.0, 0.01, 3),
        alignment=alignment @ off,
        bias_m_s2=rng.normal(0.0, 0.08, 3),
        bias_rad_s=rng.normal(0.0, 0.008, 3),
        noise_m_s2=0.10,
        noise_rad_s=0.015,
    )


def record_imu(rng: np.random.Generator | None, mount: Mount, pose: Pose, rate_hz: float) -> Imu:
    """Signals of a sensor that rides on a segment. Without `rng` there is no noise."""
    axes = pose.rotation @ mount.alignment
    force = acceleration(pose.point(mount.position_m), rate_hz) + [0.0, GRAVITY_M_S2, 0.0]
    accel = apply_inverse(axes, force) + mount.bias_m_s2
    gyro = apply_inverse(axes, angular_velocity(pose.rotation, rate_hz)) + mount.bias_rad_s
    field = apply_inverse(axes, EARTH_FIELD_UT)
    if rng is not None:
        accel = accel + rng.normal(0.0, mount.noise_m_s2, accel.shape)
        gyro = gyro + rng.normal(0.0, mount.noise_rad_s, gyro.shape)
        field = field + rng.normal(0.0, 0.4, field.shape)
    return Imu(accel, gyro, field, axes)


def muscle_gains(rng: np.random.Generator) -> dict[str, float]:
    """How strongly each muscle of a subject shows on the skin, per muscle, about 1."""
    return {name: float(rng.lognormal(0.0, 0.3)) for name in MUSCLE_DRIVES}


def record_emg(
    rng: np.random.Generator,
    moments_nm: dict[str, np.ndarray],
    scale_nm: float,
    gains: dict[str, float],
    rate_hz: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Raw signal (n,) in mV and envelope (n,) in mV of each muscle.

    The envelope leads the moment by 50 ms (electromechanical delay), has a floor of co-contraction,
    and carries slow multiplicative noise. The raw signal is white noise of that envelope: a
    stand-in, since 200 Hz cannot hold the 20-400 Hz of real EMG.
    """
    lead = round(0.05 * rate_hz)
    raw, envelope = {}, {}
    for muscle, drives in MUSCLE_DRIVES.items():
        force = sum(
            weight * np.maximum(sign * moments_nm[name], 0.0) for name, sign, weight in drives
        )
        early = np.concatenate([force[lead:], np.repeat(force[-1], lead)]) / scale_nm
        noise = gaussian_filter1d(rng.normal(size=len(early)), 0.06 * rate_hz)
        active = (0.03 + early) * np.exp(0.25 * noise / noise.std())
        envelope[muscle] = 0.2 * gains[muscle] * gaussian_filter1d(active, 0.025 * rate_hz)
        raw[muscle] = 1.25 * envelope[muscle] * rng.normal(size=len(early))
    return raw, envelope


def record_goniometers(
    rng: np.random.Generator, angles_rad: dict[str, np.ndarray], offsets_deg: np.ndarray
) -> np.ndarray:
    """Five goniometer channels (n, 5) in degrees: ankle sagittal and frontal, knee, hip both."""
    names = (
        "ankle_angle_r",
        "subtalar_angle_r",
        "knee_angle_r",
        "hip_flexion_r",
        "hip_adduction_r",
    )
    angles = np.degrees(np.stack([angles_rad[name] for name in names], axis=1))
    return angles + offsets_deg + rng.normal(0.0, 0.2, angles.shape)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: place, direction of view, focal length and image centre in pixels."""

    position_m: np.ndarray
    forward: np.ndarray
    focal_px: float
    center_px: tuple[float, float] = (540.0, 960.0)

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """Pixels (n, 2), x to the right and y down, of laboratory points (n, 3)."""
        forward = self.forward / np.linalg.norm(self.forward)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        ray = points_m - self.position_m
        depth = ray @ forward
        return np.stack(
            [
                self.center_px[0] + self.focal_px * (ray @ right) / depth,
                self.center_px[1] + self.focal_px * (ray @ down) / depth,
            ],
            axis=1,
        )


def place_cameras(rng: np.random.Generator) -> dict[str, Camera]:
    """Two tripods as in Tan et al. 2022: `90` at the right side, `180` behind, about 1.2 m high."""
    shake = rng.normal(0.0, 0.1, (2, 3))
    side = Camera(np.array([0.0, 1.2, 3.9]) + shake[0], np.array([0.0, -0.02, -1.0]), 2000.0)
    back = Camera(np.array([-3.4, 1.3, 0.0]) + shake[1], np.array([1.0, -0.06, 0.0]), 1650.0)
    return {"90": side, "180": back}


def record_video(
    rng: np.random.Generator, camera: Camera, joints_m: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Pixels (n, 2) of named joints (n, 3), with the smooth 4 px error of a pose estimator."""
    pixels = {}
    for name, path_m in joints_m.items():
        error = gaussian_filter1d(rng.normal(0.0, 15.0, path_m[:, :2].shape), 3.0, axis=0)
        pixels[name] = camera.project(path_m) + error
    return pixels


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternions (n, 4), scalar first, of rotations (n, 3, 3); the scalar is not negative."""
    trace = np.einsum("nii->n", matrix)
    diagonal = np.einsum("nii->ni", matrix)
    size = np.sqrt(np.maximum(np.c_[1.0 + trace, 1.0 - trace[:, None] + 2.0 * diagonal], 0.0)) / 2.0
    signs = np.stack(
        [
            matrix[:, 2, 1] - matrix[:, 1, 2],
            matrix[:, 0, 2] - matrix[:, 2, 0],
            matrix[:, 1, 0] - matrix[:, 0, 1],
        ],
        axis=1,
    )
    return np.c_[size[:, 0], np.copysign(size[:, 1:], signs)]
