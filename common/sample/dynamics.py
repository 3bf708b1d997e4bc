"""Ground reaction of both feet and the moments in the joints, from the motion of the segments."""

from dataclasses import dataclass

import numpy as np

from .balance import Pose, Poses, center_of_mass, segment_spin, turning_moment
from .body import GRAVITY_M_S2, SIDES, Body, Segment
from .feet import FootPath
from .rotations import acceleration, velocity

GRAVITY = np.array([0.0, -GRAVITY_M_S2, 0.0])


@dataclass(frozen=True)
class GroundReaction:
    """What the ground does to one foot, in laboratory axes (x forward, y up, z right).

    Args:
        force_n: (n, 3) force.
        cop_m: (n, 3) centre of pressure.
        free_moment_nm: (n, 3) moment about the centre of pressure (vertical axis only).
    """

    force_n: np.ndarray
    cop_m: np.ndarray
    free_moment_nm: np.ndarray


@dataclass(frozen=True)
class JointLoad:
    """What the proximal segment does to the distal one at a joint: (n, 3) N and (n, 3) Nm."""

    force_n: np.ndarray
    moment_nm: np.ndarray


def ground_reaction(
    body: Body, poses: Poses, feet: dict[str, FootPath], rate_hz: float
) -> dict[str, GroundReaction]:
    """Force of the ground on each foot.

    The total is mass times (acceleration of the centre of mass - gravity). In double support each
    foot takes its share of the load, and a pair of opposite forces along the line between the two
    centres of pressure points each of them to the centre of mass, as in human walking: the leading
    foot brakes while the trailing one pushes. The pair has neither a sum nor a moment. What moment
    the two forces leave unexplained about the vertical is the free moment, shared alike.
    """
    center_m = center_of_mass(body, poses)
    total_n = body.mass_kg * (acceleration(center_m, rate_hz) - GRAVITY)
    load = {side: feet[side].load[:, None] for side in SIDES}
    middle_m = sum(load[side] * feet[side].cop_m for side in SIDES)
    height_m = center_m[:, 1:2] - middle_m[:, 1:2]
    strain_n = load["r"] * load["l"] * total_n[:, 1:2] / height_m
    pair_n = strain_n * (feet["l"].cop_m - feet["r"].cop_m)
    force_n = {"r": load["r"] * total_n + pair_n, "l": load["l"] * total_n - pair_n}
    spare = turning_moment(body, poses, rate_hz) - sum(
        np.cross(feet[side].cop_m - center_m, force_n[side]) for side in SIDES
    )
    spare[:, [0, 2]] = 0.0
    return {
        side: GroundReaction(force_n[side], feet[side].cop_m, load[side] * spare) for side in SIDES
    }


def newton_euler(
    segment: Segment,
    pose: Pose,
    rate_hz: float,
    distal: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> JointLoad:
    """Load at the proximal joint of a segment that is otherwise free but for gravity.

    Args:
        segment: mass and inertia.
        pose: motion.
        rate_hz: sampling rate.
        distal: what else acts on the segment: force (n, 3) N, moment (n, 3) Nm, point (n, 3) m.
    """
    center_m = pose.point(segment.center_m)
    force_n = segment.mass_kg * (acceleration(center_m, rate_hz) - GRAVITY)
    moment_nm = velocity(segment_spin(segment, pose, rate_hz), rate_hz)
    for other_n, other_nm, point_m in distal:
        force_n = force_n - other_n
        moment_nm = moment_nm - other_nm - np.cross(point_m - center_m, other_n)
    return JointLoad(force_n, moment_nm - np.cross(pose.origin_m - center_m, force_n))


def _reversed(load: JointLoad, pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reaction to a joint load, as it acts on the neighbour at the joint."""
    return -load.force_n, -load.moment_nm, pose.origin_m


def inverse_dynamics(
    body: Body, poses: Poses, ground: dict[str, GroundReaction], rate_hz: float
) -> dict[str, JointLoad]:
    """Newton-Euler from foot to hip and from the trunk down; keyed by segment (proximal joint).

    `pelvis` is the residual: what would have to hold the pelvis from outside. It is zero up to
    rounding and to the last round of `balance`, because the ground reaction is the body's own.
    """
    loads = {}
    for side in SIDES:
        plate = ground[side]
        below = [(plate.force_n, plate.free_moment_nm, plate.cop_m)]
        for name in (f"foot_{side}", f"shank_{side}", f"thigh_{side}"):
            loads[name] = newton_euler(body.segment(name), poses[name], rate_hz, below)
            below = [_reversed(loads[name], poses[name])]
    loads["trunk"] = newton_euler(body.segment("trunk"), poses["trunk"], rate_hz, [])
    neighbours = ("thigh_r", "thigh_l", "trunk")
    loads["pelvis"] = newton_euler(
        body.segment("pelvis"),
        poses["pelvis"],
        rate_hz,
        [_reversed(loads[name], poses[name]) for name in neighbours],
    )
    return loads
