"""Measured signals: inertial sensors, EMG, goniometers and video keypoints.

`record_imu` returns error-free signals if the `Mount` is ideal and there is no random generator.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from .kinematics import Pose, angular_velocity, rotate_back, rotation_zxy, second_derivative
from .subject import GRAVITY_M_S2

EARTH_FIELD_UT = np.array([22.0, -33.0, 6.0])  # magnetic field in laboratory axes

# Muscles of Dataset A, each driven by joint moments of the right leg or the back: coordinate, sign
# of the moment that the muscle produces, weight.
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

GONIOMETERS = {  # channel: joint coordinate
    "ankle_sagittal": "ankle_angle_r",
    "ankle_frontal": "subtalar_angle_r",
    "knee_sagittal": "knee_angle_r",
    "hip_sagittal": "hip_flexion_r",
    "hip_frontal": "hip_adduction_r",
}


@dataclass(frozen=True)
class Mount:
    """Placement and errors of an inertial sensor on a segment.

    Attributes:
        position_m: (3,) position in segment axes.
        alignment: (3, 3) sensor axes in segment axes, as columns.
        bias_m_s2: (3,) bias of the accelerometer.
        bias_rad_s: (3,) bias of the gyroscope.
        noise_m_s2: standard deviation of the accelerometer's noise.
        noise_rad_s: standard deviation of the gyroscope's noise.
    """

    position_m: np.ndarray
    alignment: np.ndarray
    bias_m_s2: np.ndarray
    bias_rad_s: np.ndarray
    noise_m_s2: float = 0.0
    noise_rad_s: float = 0.0


@dataclass(frozen=True)
class Imu:
    """Signals of an inertial sensor, in sensor axes.

    Attributes:
        accel_m_s2: (n, 3) specific force, 9.8 m/s² upward at rest.
        gyro_rad_s: (n, 3) angular velocity.
        field_ut: (n, 3) magnetic field in microtesla.
        rotation: (n, 3, 3) true sensor axes in the laboratory, as columns.
    """

    accel_m_s2: np.ndarray
    gyro_rad_s: np.ndarray
    field_ut: np.ndarray
    rotation: np.ndarray


def ideal_mount(position_m: np.ndarray) -> Mount:
    """Return a mount without errors, aligned with the segment axes."""
    return Mount(np.asarray(position_m, dtype=float), np.eye(3), np.zeros(3), np.zeros(3))


def random_mount(rng: np.random.Generator, position_m: np.ndarray, alignment: np.ndarray) -> Mount:
    """Return the mount of a low-cost sensor that was strapped on by hand.

    Args:
        rng: source of random numbers.
        position_m: (3,) intended position in segment axes; the error is 1 cm (SD) per axis.
        alignment: (3, 3) intended sensor axes; the error is 4 degrees (SD) per axis.
    """
    misalignment = rotation_zxy(*np.radians(rng.normal(0.0, 4.0, 3)))[0]
    return Mount(
        position_m=position_m + rng.normal(0.0, 0.01, 3),
        alignment=alignment @ misalignment,
        bias_m_s2=rng.normal(0.0, 0.08, 3),
        bias_rad_s=rng.normal(0.0, 0.008, 3),
        noise_m_s2=0.10,
        noise_rad_s=0.015,
    )


def record_imu(rng: np.random.Generator | None, mount: Mount, pose: Pose, rate_hz: float) -> Imu:
    """Return the signals of an inertial sensor on a segment.

    Args:
        rng: source of random numbers; None for signals without noise.
        mount: placement and errors of the sensor.
        pose: motion of the segment.
        rate_hz: sampling rate.
    """
    axes = pose.rotation @ mount.alignment
    path_m = pose.point(mount.position_m)
    specific_force = second_derivative(path_m, rate_hz) + [0.0, GRAVITY_M_S2, 0.0]
    accel = rotate_back(axes, specific_force) + mount.bias_m_s2
    gyro = rotate_back(axes, angular_velocity(pose.rotation, rate_hz)) + mount.bias_rad_s
    field = rotate_back(axes, EARTH_FIELD_UT)
    if rng is not None:
        accel = accel + rng.normal(0.0, mount.noise_m_s2, accel.shape)
        gyro = gyro + rng.normal(0.0, mount.noise_rad_s, gyro.shape)
        field = field + rng.normal(0.0, 0.4, field.shape)
    return Imu(accel, gyro, field, axes)


def random_muscle_gains(rng: np.random.Generator) -> dict[str, float]:
    """Return the EMG amplitude of each muscle of a subject, relative to the average."""
    return {muscle: float(rng.lognormal(0.0, 0.3)) for muscle in MUSCLE_DRIVES}


def record_emg(
    rng: np.random.Generator,
    moments_nm: dict[str, np.ndarray],
    scale_nm: float,
    gains: dict[str, float],
    rate_hz: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return raw EMG and envelopes (n, 11), in mV, in the order of `MUSCLE_DRIVES`.

    The envelope leads the moment by 50 ms (electromechanical delay), never falls to zero
    (co-contraction), and has slow multiplicative noise. The raw signal is white noise of that
    amplitude: at 200 Hz it cannot contain the 20-400 Hz of real EMG.

    Args:
        rng: source of random numbers.
        moments_nm: (n,) joint moments by coordinate.
        scale_nm: moment at full activation.
        gains: relative amplitude by muscle.
        rate_hz: sampling rate.
    """
    lead = round(0.05 * rate_hz)
    raw, envelopes = [], []
    for muscle, drives in MUSCLE_DRIVES.items():
        drive = sum(
            weight * np.maximum(sign * moments_nm[name], 0.0) for name, sign, weight in drives
        )
        early = np.concatenate([drive[lead:], np.repeat(drive[-1], lead)]) / scale_nm
        noise = gaussian_filter1d(rng.normal(size=len(early)), 0.06 * rate_hz)
        activation = (0.03 + early) * np.exp(0.25 * noise / noise.std())
        envelope = 0.2 * gains[muscle] * gaussian_filter1d(activation, 0.025 * rate_hz)
        envelopes.append(envelope)
        raw.append(1.25 * envelope * rng.normal(size=len(early)))
    return np.stack(raw, axis=1), np.stack(envelopes, axis=1)


def record_goniometers(
    rng: np.random.Generator, angles_rad: dict[str, np.ndarray], offsets_deg: np.ndarray
) -> np.ndarray:
    """Return the channels of `GONIOMETERS` (n, 5) in degrees.

    Args:
        rng: source of random numbers.
        angles_rad: (n,) joint angles by coordinate.
        offsets_deg: (5,) error of the zero position per channel.
    """
    angles = np.degrees(np.stack([angles_rad[name] for name in GONIOMETERS.values()], axis=1))
    return angles + offsets_deg + rng.normal(0.0, 0.2, angles.shape)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position_m: (3,) position in the laboratory.
        forward: (3,) viewing direction.
        focal_px: focal length in pixels.
        center_px: image center (x, y) in pixels.
    """

    position_m: np.ndarray
    forward: np.ndarray
    focal_px: float
    center_px: tuple[float, float] = (540.0, 960.0)

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """Return the pixels (n, 2), x to the right and y down, of laboratory points (n, 3)."""
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
    """Return the two cameras of Tan et al. 2022: `90` at the right side, `180` behind."""
    shift_m = rng.normal(0.0, 0.1, (2, 3))
    side = Camera(np.array([0.0, 1.2, 3.9]) + shift_m[0], np.array([0.0, -0.02, -1.0]), 2000.0)
    back = Camera(np.array([-3.4, 1.3, 0.0]) + shift_m[1], np.array([1.0, -0.06, 0.0]), 1650.0)
    return {"90": side, "180": back}


def record_video(
    rng: np.random.Generator, camera: Camera, keypoints_m: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the pixels (n, 2) of keypoints (n, 3), with a smooth estimation error of 4 px."""
    pixels = {}
    for name, path_m in keypoints_m.items():
        error = gaussian_filter1d(rng.normal(0.0, 15.0, path_m[:, :2].shape), 3.0, axis=0)
        pixels[name] = camera.project(path_m) + error
    return pixels
