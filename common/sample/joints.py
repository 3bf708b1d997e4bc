"""Joint angles, moments and powers in the coordinates of the OpenSim gait2392 model.

Names and order are OpenSim's, see `common.columns`. Knee extension, ankle dorsiflexion, hip
flexion, adduction and internal rotation are positive on both sides. The moment of a coordinate is
the joint moment on the distal segment along the coordinate's axis, so that moment times angular
rate is power.

Simplified: the subtalar axis is the foot's long axis; the toes do not bend, so `mtp` is zero
throughout.
"""

import numpy as np

from common.columns import BELOW_HIP, COORDINATES, HIP, LUMBAR

from .balance import Poses
from .body import SIDE_SIGN, SIDES
from .dynamics import JointLoad
from .rotations import angles_zxy, velocity

_LEG = HIP + BELOW_HIP


def joint_angles(poses: Poses) -> dict[str, np.ndarray]:
    """Coordinates (n,) by name, in rad and, for `pelvis_tx`, `_ty` and `_tz`, in m."""
    pelvis = poses["pelvis"].rotation
    values = dict(zip(COORDINATES[:3], angles_zxy(pelvis).T, strict=True))
    values |= dict(zip(COORDINATES[3:6], poses["pelvis"].origin_m.T, strict=True))
    for side in SIDES:
        values |= _leg_angles(poses, side)
    lumbar = angles_zxy(pelvis.transpose(0, 2, 1) @ poses["trunk"].rotation)
    values |= dict(zip(LUMBAR, lumbar.T, strict=True))
    return values


def _leg_angles(poses: Poses, side: str) -> dict[str, np.ndarray]:
    """Coordinates (n,) in rad of one leg, mirrored on the left."""
    thigh, shank = poses[f"thigh_{side}"].rotation, poses[f"shank_{side}"].rotation
    sign = SIDE_SIGN[side]
    hip = angles_zxy(poses["pelvis"].rotation.transpose(0, 2, 1) @ thigh)
    knee = angles_zxy(thigh.transpose(0, 2, 1) @ shank)
    ankle = angles_zxy(shank.transpose(0, 2, 1) @ poses[f"foot_{side}"].rotation)
    return {
        f"hip_flexion_{side}": hip[:, 0],
        f"hip_adduction_{side}": sign * hip[:, 1],
        f"hip_rotation_{side}": sign * hip[:, 2],
        f"knee_angle_{side}": knee[:, 0],
        f"ankle_angle_{side}": ankle[:, 0],
        f"subtalar_angle_{side}": sign * ankle[:, 1],
        f"mtp_angle_{side}": np.zeros(len(hip)),
    }


def _ball_axes(parent: np.ndarray, child: np.ndarray) -> list[np.ndarray]:
    """Axes (n, 3) of the three coordinates of a z-x-y ball joint between two segments' axes."""
    flexion, rotation = parent[:, :, 2], child[:, :, 1]
    bending = np.cross(rotation, flexion)
    return [flexion, bending / np.linalg.norm(bending, axis=1, keepdims=True), rotation]


def coordinate_moments(poses: Poses, loads: dict[str, JointLoad]) -> dict[str, np.ndarray]:
    """Generalised forces (n,) by coordinate, in Nm and, for the pelvis translations, in N."""
    identity = np.broadcast_to(np.eye(3), poses["pelvis"].rotation.shape)
    axes = {"pelvis": _ball_axes(identity, poses["pelvis"].rotation)}
    moments = _project(loads["pelvis"], axes["pelvis"], COORDINATES[:3])
    moments |= dict(zip(COORDINATES[3:6], loads["pelvis"].force_n.T, strict=True))
    for side in SIDES:
        moments |= _leg_moments(poses, loads, side)
    lumbar = _ball_axes(poses["pelvis"].rotation, poses["trunk"].rotation)
    return moments | _project(loads["trunk"], lumbar, LUMBAR)


def _project(
    load: JointLoad, axes: list[np.ndarray], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Components (n,) of a joint moment along named axes."""
    return {
        name: np.einsum("ni,ni->n", load.moment_nm, axis)
        for name, axis in zip(names, axes, strict=True)
    }


def _leg_moments(poses: Poses, loads: dict[str, JointLoad], side: str) -> dict[str, np.ndarray]:
    """Generalised forces (n,) in Nm of one leg."""
    sign = SIDE_SIGN[side]
    thigh, shank = poses[f"thigh_{side}"].rotation, poses[f"shank_{side}"].rotation
    foot = poses[f"foot_{side}"].rotation
    flexion, adduction, rotation = _ball_axes(poses["pelvis"].rotation, thigh)
    names = tuple(f"{name}_{side}" for name in _LEG)
    hip = _project(loads[f"thigh_{side}"], [flexion, sign * adduction, sign * rotation], names[:3])
    knee = _project(loads[f"shank_{side}"], [shank[:, :, 2]], names[3:4])
    ankle = _project(loads[f"foot_{side}"], [shank[:, :, 2], sign * foot[:, :, 0]], names[4:6])
    return hip | knee | ankle | {names[6]: np.zeros(len(thigh))}


def joint_powers(
    angles: dict[str, np.ndarray], moments: dict[str, np.ndarray], rate_hz: float
) -> dict[str, np.ndarray]:
    """Power (n,) in W of every coordinate."""
    return {name: moments[name] * velocity(angles[name], rate_hz) for name in COORDINATES}
