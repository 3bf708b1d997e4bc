"""The path of the body that its feet can carry: one that obeys Newton's laws.

Given the feet, the load on them and the bounce of the body, the centre of mass has one bounded path
for which the ground reaction passes where the feet are:

    m x'' (y - y_cop) = F_y (x - x_cop) + dL/dt      (the same, with the other sign of L, sideways)

a linear boundary value problem (the inverted pendulum of Kajita et al. 2003, here with a moving
height and with the angular momentum `L` of the segments). `L` and the leg posture depend on the
path in turn, so the two are solved by turns until they agree; this converges in a few rounds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_banded
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from .body import GRAVITY_M_S2, SEGMENT_NAMES, SIDE_SIGN, SIDES, Body, Segment
from .feet import FootPath, Walk, wander_over
from .rotations import acceleration, angular_velocity, apply, rotation, rotation_zxy, unit, velocity
from .style import Style

ROUNDS = 10
_COUNTER_SHARE = 0.25  # of the legs' angular momentum that the trunk takes up
_COUNTER_BAND_HZ = (1.2, 8.0)


@dataclass(frozen=True)
class Pose:
    """A segment over time: proximal joint (n, 3) in m and axes (n, 3, 3) in the laboratory."""

    origin_m: np.ndarray
    rotation: np.ndarray

    def point(self, local_m: np.ndarray) -> np.ndarray:
        """Path (n, 3) in m of a point given in segment axes."""
        return self.origin_m + apply(self.rotation, local_m)


Poses = dict[str, Pose]


def walk_body(
    rng: np.random.Generator, body: Body, style: Style, walk: Walk, rate_hz: float
) -> Poses:
    """Poses of the eight segments of a body that follows the feet of `walk`."""
    pelvis, trunk = _upper_body(rng, style, walk)
    rise_m = _bounce(rng, style, walk, rate_hz)
    load = {side: foot.load for side, foot in walk.feet.items()}
    cop_m = sum(load[side][:, None] * walk.feet[side].cop_m for side in SIDES)
    height_m = walk.ground_m + rise_m + 0.56 * body.height_m
    hips_m = np.stack([cop_m[:, 0], height_m - 0.04 * body.height_m, cop_m[:, 2]], axis=1)
    poses = pose_body(body, hips_m, pelvis, trunk, walk.feet)
    counter = rotation("z", np.zeros(len(hips_m)))
    for _ in range(ROUNDS):
        turning = turning_moment(body, poses, rate_hz)
        center_m = _carried_path(body, height_m, cop_m, turning, rate_hz)
        hips_m = hips_m + center_m - center_of_mass(body, poses)
        poses = pose_body(body, hips_m, pelvis, counter @ trunk, walk.feet)
        counter = _counter_lean(body, poses, rate_hz)
        height_m = height_m + 0.5 * _reach(body, style, poses, walk)
    return poses


def _upper_body(
    rng: np.random.Generator, style: Style, walk: Walk
) -> tuple[np.ndarray, np.ndarray]:
    """Orientation (n, 3, 3) of pelvis and trunk in the laboratory.

    Lean, sway and turn change from step to step on their own, so that the feet alone do not tell
    them.
    """
    turn = 2.0 * np.pi * walk.phase
    tilt, drop, twist = style.pelvis_deg
    lean, sway, trunk_twist = style.trunk_deg
    shift = 2.0 * np.pi * np.asarray(style.phases)
    noise = [style.variation * wander_over(rng, walk.phase) for _ in range(6)]
    pelvis_deg = (
        tilt + 1.0 * np.cos(2 * turn + shift[0]) + 0.7 * noise[0],
        -drop * np.cos(turn - 0.9 + shift[1]) + 0.5 * noise[1],
        twist * np.cos(turn + shift[2]) + 0.7 * noise[2],
    )
    trunk_deg = (
        -lean + 1.0 * np.cos(2 * turn + 0.8) + 1.2 * noise[3],
        sway * np.sin(turn + shift[3]) + 1.5 * noise[4],
        -trunk_twist * np.cos(turn + shift[2]) + 0.7 * noise[5],
    )
    return rotation_zxy(*np.radians(pelvis_deg)), rotation_zxy(*np.radians(trunk_deg))


def _bounce(rng: np.random.Generator, style: Style, walk: Walk, rate_hz: float) -> np.ndarray:
    """Vertical motion (n,) in m of the centre of mass: lowest just after each contact."""
    pace = velocity(walk.phase, rate_hz) * 4.0 * np.pi  # rad/s, twice per stride
    amplitude = style.bounce * (1.0 + 0.08 * style.variation * wander_over(rng, walk.phase))
    turn = 4.0 * np.pi * (walk.phase - 0.05)
    return -GRAVITY_M_S2 * (
        amplitude * np.cos(turn) / pace**2 - style.bounce_dip * np.cos(2 * turn) / (2 * pace) ** 2
    )


def _counter_lean(body: Body, poses: Poses, rate_hz: float) -> np.ndarray:
    """Small pitch (n, 3, 3) of the trunk against the swing of the legs; people use arms as well."""
    trunk = body.segment("trunk")
    center_m = center_of_mass(body, poses)
    legs = np.zeros(len(center_m))
    for name in SEGMENT_NAMES[2:]:
        arm_m = poses[name].point(body.segment(name).center_m) - center_m
        swing = body.segment(name).mass_kg * velocity(arm_m, rate_hz)
        legs += arm_m[:, 0] * swing[:, 1] - arm_m[:, 1] * swing[:, 0]
    low, high = _COUNTER_BAND_HZ
    band = butter(2, (low, high), "bandpass", fs=rate_hz, output="sos")
    pitch_rad = np.cumsum(sosfiltfilt(band, legs)) / rate_hz / trunk.inertia_kg_m2[2]
    return rotation("z", -_COUNTER_SHARE * sosfiltfilt(band, pitch_rad))


def _carried_path(
    body: Body,
    height_m: np.ndarray,
    cop_m: np.ndarray,
    turning: np.ndarray,
    rate_hz: float,
) -> np.ndarray:
    """Solve for the path (n, 3) of the centre of mass; `turning` (n, 3) is dL/dt in Nm."""
    force_n = body.mass_kg * (GRAVITY_M_S2 + acceleration(height_m, rate_hz))
    lever = body.mass_kg * (height_m - cop_m[:, 1]) * rate_hz**2
    bands = np.zeros((3, len(height_m)))
    bands[0, 2:] = lever[1:-1]
    bands[1, 1:-1] = -2.0 * lever[1:-1] - force_n[1:-1]
    bands[2, :-2] = lever[1:-1]
    bands[1, [0, -1]] = 1.0  # at the ends, above the feet: the trial is cut well inside them
    path_m = np.empty((len(height_m), 3))
    path_m[:, 1] = height_m
    for axis, moment in ((0, turning[:, 2]), (2, -turning[:, 0])):
        right = -force_n * cop_m[:, axis] + moment
        right[[0, -1]] = cop_m[[0, -1], axis]
        path_m[:, axis] = solve_banded((1, 1), bands, right)
    return path_m


def _reach(body: Body, style: Style, poses: Poses, walk: Walk) -> np.ndarray:
    """How much higher (n,) in m (negative: lower) the body can go for the legs just to reach.

    The scarcest step of three decides, and the changes between steps are smooth.
    """
    straight_m = body.segments["thigh"].length_m + body.segments["shank"].length_m
    used_m = np.max(
        [
            np.linalg.norm(poses[f"thigh_{s}"].origin_m - walk.feet[s].ankle_m, axis=1)
            for s in SIDES
        ],
        axis=0,
    )
    step = np.floor(2.0 * walk.phase).astype(int)
    first, last = step[0] + 1, step[-1] - 1  # the ends of a trial are not walking
    spare_m = [
        style.leg_extension * straight_m - used_m[step == k].max() for k in range(first, last + 1)
    ]
    spare_m = uniform_filter1d(minimum_filter1d(spare_m, 3), 3)
    middles = (np.arange(first, last + 1) + 0.5) / 2.0
    spline = CubicSpline(middles, spare_m, bc_type="clamped")
    return spline(np.clip(walk.phase, middles[0], middles[-1]))


def pose_body(
    body: Body,
    hips_m: np.ndarray,
    pelvis: np.ndarray,
    trunk: np.ndarray,
    feet: dict[str, FootPath],
) -> Poses:
    """Poses of all segments from mid-hip (n, 3), pelvis and trunk axes (n, 3, 3) and the feet."""
    poses = {"pelvis": Pose(hips_m, pelvis)}
    lumbar_m = poses["pelvis"].point(body.lumbar_m)
    poses["trunk"] = Pose(lumbar_m, trunk)
    for side in SIDES:
        socket = np.array([0.0, 0.0, SIDE_SIGN[side] * body.hip_half_width_m])
        hip_m = poses["pelvis"].point(socket)
        foot = feet[side]
        thigh, shank = bend_leg(body, hip_m, foot.ankle_m, foot.rotation[:, :, 0])
        poses |= {f"thigh_{side}": thigh, f"shank_{side}": shank}
        poses[f"foot_{side}"] = Pose(foot.ankle_m, foot.rotation)
    return poses


def bend_leg(
    body: Body, hip_m: np.ndarray, ankle_m: np.ndarray, foot_forward: np.ndarray
) -> tuple[Pose, Pose]:
    """Thigh and shank between hip and ankle (n, 3), with the knee a hinge that bends forward.

    The hinge is square to the foot's forward axis (n, 3), so that ankle and subtalar angle together
    place the foot exactly. Legs that do not reach are taken as nearly straight.
    """
    thigh_m, shank_m = body.segments["thigh"].length_m, body.segments["shank"].length_m
    along = hip_m - ankle_m
    reach_m = np.minimum(np.linalg.norm(along, axis=1), 0.9999 * (thigh_m + shank_m))
    right = unit(np.cross(foot_forward, along))
    up = unit(along)
    forward = np.cross(up, right)
    cosine = (reach_m**2 + shank_m**2 - thigh_m**2) / (2.0 * reach_m * shank_m)
    sine = np.sqrt(1.0 - cosine**2)
    knee_m = ankle_m + shank_m * (cosine[:, None] * up + sine[:, None] * forward)
    return Pose(hip_m, _long_axes(hip_m - knee_m, right)), Pose(
        knee_m, _long_axes(knee_m - ankle_m, right)
    )


def _long_axes(up: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Axes (n, 3, 3) with y along `up` and z along `right`."""
    up = unit(up)
    return np.stack([np.cross(up, right), up, right], axis=2)


def center_of_mass(body: Body, poses: Poses) -> np.ndarray:
    """Path (n, 3) in m of the whole body's centre of mass."""
    return (
        sum(
            body.segment(name).mass_kg * poses[name].point(body.segment(name).center_m)
            for name in SEGMENT_NAMES
        )
        / body.mass_kg
    )


def segment_spin(segment: Segment, pose: Pose, rate_hz: float) -> np.ndarray:
    """Angular momentum (n, 3) in kg m²/s of one segment about its own centre of mass."""
    omega = angular_velocity(pose.rotation, rate_hz)
    local = np.einsum("nji,nj->ni", pose.rotation, omega) * segment.inertia_kg_m2
    return apply(pose.rotation, local)


def turning_moment(body: Body, poses: Poses, rate_hz: float) -> np.ndarray:
    """Rate of change (n, 3) in Nm of the body's angular momentum about its centre of mass."""
    center_m = center_of_mass(body, poses)
    total = np.zeros_like(center_m)
    for name in SEGMENT_NAMES:
        segment, pose = body.segment(name), poses[name]
        path_m = pose.point(segment.center_m)
        total += velocity(segment_spin(segment, pose, rate_hz), rate_hz)
        push = segment.mass_kg * acceleration(path_m, rate_hz)
        total += np.cross(path_m - center_m, push)
    return total
