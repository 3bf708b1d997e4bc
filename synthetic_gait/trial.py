"""One trial of walking: ground reaction forces, joint angles, moments and powers.

Joint angles, moments and powers use the coordinates of the OpenSim model gait2392. Knee extension,
ankle dorsiflexion, hip flexion, adduction and internal rotation are positive on both sides. The
moment of a coordinate is the joint moment on the distal segment along the axis of the coordinate,
so that moment times angular velocity is power.

Simplifications: the subtalar axis is the long axis of the foot; the toes do not bend, so the
metatarsophalangeal (`mtp`) angles and moments are zero.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .kinematics import Pose, Poses, angles_zxy, derivative, second_derivative, unit
from .motion import (
    FootPath,
    angular_momentum_rate,
    center_of_mass,
    move_body,
    plan_footsteps,
    segment_angular_momentum,
)
from .subject import GRAVITY_M_S2, SIDE_SIGN, SIDES, Body, Segment, Style

LEAD_S = 1.5  # simulated before and after a trial, then cut off: the gait is not steady there
GRAVITY = np.array([0.0, -GRAVITY_M_S2, 0.0])

PELVIS_ROTATIONS = ("pelvis_tilt", "pelvis_list", "pelvis_rotation")
PELVIS_TRANSLATIONS = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
HIP = ("hip_flexion", "hip_adduction", "hip_rotation")
BELOW_HIP = ("knee_angle", "ankle_angle", "subtalar_angle", "mtp_angle")
LUMBAR = ("lumbar_extension", "lumbar_bending", "lumbar_rotation")
COORDINATES = (  # in OpenSim's order of joint angles
    *PELVIS_ROTATIONS,
    *PELVIS_TRANSLATIONS,
    *(f"{name}_{side}" for side in SIDES for name in HIP + BELOW_HIP),
    *LUMBAR,
)


class GroundReaction(NamedTuple):
    """Action of the ground on one foot, in laboratory axes.

    Attributes:
        force_n: (n, 3) force.
        cop_m: (n, 3) center of pressure.
        free_moment_nm: (n, 3) moment about the center of pressure; only y (vertical) is nonzero.
    """

    force_n: np.ndarray
    cop_m: np.ndarray
    free_moment_nm: np.ndarray


class JointLoad(NamedTuple):
    """Action of the proximal segment on the distal one at their joint, in laboratory axes.

    Attributes:
        force_n: (n, 3) force.
        moment_nm: (n, 3) moment.
    """

    force_n: np.ndarray
    moment_nm: np.ndarray


@dataclass(frozen=True)
class Trial:
    """True motion and forces of one trial, in physical units, `n` samples at `rate_hz`.

    Laboratory axes: x forward, y up, z right. The ground, even the belt of a treadmill, is at rest
    in these axes, which does not affect the forces.

    Attributes:
        body: the subject's body.
        style: the style of walking.
        rate_hz: sampling rate.
        time_s: (n,) time, from 0.
        phase: (n,) gait phase, an integer at initial contacts of the right foot.
        contact: (n,) whether the foot is on the ground, by side (`r`, `l`).
        poses: pose of each segment, by segment.
        ground: ground reaction, by side.
        loads: load at the proximal joint of each segment, by segment.
        angles_rad: (n,) in rad, or in m for pelvis translations, by coordinate.
        moments_nm: (n,) in Nm, or in N for pelvis translations, by coordinate.
        powers_w: (n,) W, by coordinate.
    """

    body: Body
    style: Style
    rate_hz: float
    time_s: np.ndarray
    phase: np.ndarray
    contact: dict[str, np.ndarray]
    poses: Poses
    ground: dict[str, GroundReaction]
    loads: dict[str, JointLoad]
    angles_rad: dict[str, np.ndarray]
    moments_nm: dict[str, np.ndarray]
    powers_w: dict[str, np.ndarray]


def simulate_trial(
    rng: np.random.Generator, body: Body, style: Style, duration_s: float, rate_hz: float
) -> Trial:
    """Simulate a trial of walking.

    Args:
        rng: source of random numbers.
        body: the subject's body.
        style: the style of walking.
        duration_s: duration of the trial.
        rate_hz: sampling rate.
    """
    lead = round(LEAD_S * rate_hz)
    count = round(duration_s * rate_hz)
    time_s = (np.arange(count + 2 * lead) - lead) / rate_hz
    steps = plan_footsteps(rng, body, style, time_s)
    poses = move_body(rng, body, style, steps, rate_hz)
    ground = ground_reaction(body, poses, steps.feet, rate_hz)
    loads = inverse_dynamics(body, poses, ground, rate_hz)
    angles_rad = joint_angles(poses)
    moments_nm = coordinate_moments(poses, loads)
    keep = slice(lead, lead + count)
    return Trial(
        body=body,
        style=style,
        rate_hz=rate_hz,
        time_s=time_s[keep],
        phase=steps.phase[keep],
        contact={side: foot.load[keep] > 0.0 for side, foot in steps.feet.items()},
        poses={name: Pose(*(v[keep] for v in pose)) for name, pose in poses.items()},
        ground={side: GroundReaction(*(v[keep] for v in g)) for side, g in ground.items()},
        loads={name: JointLoad(*(v[keep] for v in load)) for name, load in loads.items()},
        angles_rad={name: v[keep] for name, v in angles_rad.items()},
        moments_nm={name: v[keep] for name, v in moments_nm.items()},
        powers_w={
            name: (moments_nm[name] * derivative(angles_rad[name], rate_hz))[keep]
            for name in COORDINATES
        },
    )


def belt_path(trial: Trial) -> np.ndarray:
    """Return the shift (n, 3), in m, between belt and room coordinates.

    Subtracted from a position on the belt, it gives the position in the room, near that of the
    pelvis at time 0. It is zero if the trial is not on a treadmill.
    """
    path_m = np.zeros((len(trial.time_s), 3))
    if trial.style.on_belt:
        start_m = trial.poses["pelvis"].origin_m[0, 0]
        path_m[:, 0] = start_m + trial.style.speed_m_s * trial.time_s
    return path_m


# Forces and joint loads -------------------------------------------------------------------------


def ground_reaction(
    body: Body, poses: Poses, feet: dict[str, FootPath], rate_hz: float
) -> dict[str, GroundReaction]:
    """Return the ground reaction of each foot, by side.

    The total force is mass times (acceleration of the center of mass - gravity). In double support
    each foot bears its fraction of the load. A pair of opposite forces, along the line between the
    two centers of pressure, turns both forces toward the center of mass, as in human walking: the
    leading foot brakes while the trailing foot pushes. The pair has no resultant and no moment. The
    remaining moment about the vertical axis is the free moment, distributed in the same proportion.
    """
    center_m = center_of_mass(body, poses)
    total_n = body.mass_kg * (second_derivative(center_m, rate_hz) - GRAVITY)
    load = {side: feet[side].load[:, None] for side in SIDES}
    cop_m = sum(load[side] * feet[side].cop_m for side in SIDES)
    height_m = center_m[:, 1:2] - cop_m[:, 1:2]
    stiffness_n_m = load["r"] * load["l"] * total_n[:, 1:2] / height_m
    pair_n = stiffness_n_m * (feet["l"].cop_m - feet["r"].cop_m)
    force_n = {"r": load["r"] * total_n + pair_n, "l": load["l"] * total_n - pair_n}
    free_nm = angular_momentum_rate(body, poses, rate_hz) - sum(
        np.cross(feet[side].cop_m - center_m, force_n[side]) for side in SIDES
    )
    free_nm[:, [0, 2]] = 0.0
    return {
        side: GroundReaction(force_n[side], feet[side].cop_m, load[side] * free_nm)
        for side in SIDES
    }


def newton_euler(
    segment: Segment,
    pose: Pose,
    rate_hz: float,
    external: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> JointLoad:
    """Return the load at the proximal joint of a segment, from its motion and all other loads.

    Args:
        segment: mass and inertia of the segment.
        pose: motion of the segment.
        rate_hz: sampling rate.
        external: loads other than gravity and the proximal joint: force (n, 3) in N, moment (n, 3)
            in Nm and point of application (n, 3) in m.
    """
    center_m = pose.point(segment.center_m)
    force_n = segment.mass_kg * (second_derivative(center_m, rate_hz) - GRAVITY)
    moment_nm = derivative(segment_angular_momentum(segment, pose, rate_hz), rate_hz)
    for other_n, other_nm, point_m in external:
        force_n = force_n - other_n
        moment_nm = moment_nm - other_nm - np.cross(point_m - center_m, other_n)
    return JointLoad(force_n, moment_nm - np.cross(pose.origin_m - center_m, force_n))


def inverse_dynamics(
    body: Body, poses: Poses, ground: dict[str, GroundReaction], rate_hz: float
) -> dict[str, JointLoad]:
    """Return the load at the proximal joint of each segment, by segment.

    The Newton-Euler equations are solved from the feet up to the hips and from the trunk down.
    `pelvis` has the residual load, which would have to act on the pelvis from outside. As the
    ground reaction is computed from the same body, the residual is zero except for rounding and
    the remaining error of the iteration in `motion`.
    """
    loads = {}

    def solve(name: str, external: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        loads[name] = newton_euler(body.segment(name), poses[name], rate_hz, external)

    def reaction(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return -loads[name].force_n, -loads[name].moment_nm, poses[name].origin_m

    for side in SIDES:
        plate = ground[side]
        solve(f"foot_{side}", [(plate.force_n, plate.free_moment_nm, plate.cop_m)])
        solve(f"shank_{side}", [reaction(f"foot_{side}")])
        solve(f"thigh_{side}", [reaction(f"shank_{side}")])
    solve("trunk", [])
    solve("pelvis", [reaction(name) for name in ("thigh_r", "thigh_l", "trunk")])
    return loads


# Joint coordinates ------------------------------------------------------------------------------


def joint_angles(poses: Poses) -> dict[str, np.ndarray]:
    """Return the coordinates (n,), in rad (pelvis translations: in m), by name."""

    def relative(proximal: str, distal: str) -> np.ndarray:
        inverse = poses[proximal].rotation.transpose(0, 2, 1)
        return angles_zxy(inverse @ poses[distal].rotation)

    angles = dict(zip(PELVIS_ROTATIONS, angles_zxy(poses["pelvis"].rotation).T, strict=True))
    angles |= dict(zip(PELVIS_TRANSLATIONS, poses["pelvis"].origin_m.T, strict=True))
    for side in SIDES:
        sign = SIDE_SIGN[side]
        hip = relative("pelvis", f"thigh_{side}")
        knee = relative(f"thigh_{side}", f"shank_{side}")
        ankle = relative(f"shank_{side}", f"foot_{side}")
        angles |= {
            f"hip_flexion_{side}": hip[:, 0],
            f"hip_adduction_{side}": sign * hip[:, 1],
            f"hip_rotation_{side}": sign * hip[:, 2],
            f"knee_angle_{side}": knee[:, 0],
            f"ankle_angle_{side}": ankle[:, 0],
            f"subtalar_angle_{side}": sign * ankle[:, 1],
            f"mtp_angle_{side}": np.zeros(len(hip)),
        }
    return angles | dict(zip(LUMBAR, relative("pelvis", "trunk").T, strict=True))


def coordinate_moments(poses: Poses, loads: dict[str, JointLoad]) -> dict[str, np.ndarray]:
    """Return the generalized forces (n,), in Nm (pelvis translations: in N), by coordinate."""
    laboratory = np.broadcast_to(np.eye(3), poses["pelvis"].rotation.shape)
    moments = _project(loads["pelvis"], _zxy_axes(laboratory, poses["pelvis"].rotation))
    moments = dict(zip(PELVIS_ROTATIONS, moments, strict=True))
    moments |= dict(zip(PELVIS_TRANSLATIONS, loads["pelvis"].force_n.T, strict=True))
    for side in SIDES:
        sign = SIDE_SIGN[side]
        thigh, shank, foot = (poses[f"{s}_{side}"].rotation for s in ("thigh", "shank", "foot"))
        flexion, adduction, rotation = _zxy_axes(poses["pelvis"].rotation, thigh)
        values = [
            *_project(loads[f"thigh_{side}"], [flexion, sign * adduction, sign * rotation]),
            *_project(loads[f"shank_{side}"], [shank[:, :, 2]]),
            *_project(loads[f"foot_{side}"], [shank[:, :, 2], sign * foot[:, :, 0]]),
            np.zeros(len(thigh)),
        ]
        names = [f"{name}_{side}" for name in HIP + BELOW_HIP]
        moments |= dict(zip(names, values, strict=True))
    lumbar_axes = _zxy_axes(poses["pelvis"].rotation, poses["trunk"].rotation)
    return moments | dict(zip(LUMBAR, _project(loads["trunk"], lumbar_axes), strict=True))


def _zxy_axes(proximal: np.ndarray, distal: np.ndarray) -> list[np.ndarray]:
    """Return the three axes (n, 3) of `rotation_zxy` from proximal to distal axes (n, 3, 3)."""
    first, last = proximal[:, :, 2], distal[:, :, 1]
    return [first, unit(np.cross(last, first)), last]


def _project(load: JointLoad, axes: list[np.ndarray]) -> list[np.ndarray]:
    return [np.einsum("ni,ni->n", load.moment_nm, axis) for axis in axes]
