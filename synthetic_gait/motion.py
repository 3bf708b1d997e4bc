"""The motion of a walking body: its footsteps, and the motion that these footsteps can support.

The feet come first. Everything about them is a smooth function of the gait phase, which is 0, 1,
2... at initial contacts of the right foot and 0.5, 1.5, 2.5... at those of the left foot. A loaded
foot does not slide: it rolls over the heel, lies flat, and rolls over the ball.

Given the footsteps, the load on them and the vertical motion of the body, exactly one bounded path
of the center of mass (x, y, z) makes the ground reaction force F act at the center of pressure:

    m x'' (y - y_cop) = F_y (x - x_cop) + dL/dt

and likewise sideways, where dL/dt has the opposite sign. This is a linear boundary value problem:
the inverted pendulum of Kajita et al. 2003, with a varying height and with the angular momentum L
of the segments. As L and the posture of the legs depend in turn on the path, path and posture are
computed alternately; they converge in a few rounds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_banded
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from .kinematics import (
    Pose,
    Poses,
    angular_velocity,
    derivative,
    rotate,
    rotation,
    rotation_zxy,
    second_derivative,
    unit,
)
from .subject import GRAVITY_M_S2, SEGMENT_NAMES, SIDE_SIGN, SIDES, Body, Segment, Style

ROUNDS = 10
_COUNTER_SHARE = 0.25  # fraction of the legs' angular momentum that the trunk balances
_COUNTER_BAND_HZ = (1.2, 8.0)

# Center of pressure from heel (0) to toe (1) over stance (0-1), estimated from published walking
# data such as Winter's.
_COP_HEEL_FIRST = CubicSpline(
    [0.0, 0.12, 0.3, 0.5, 0.75, 0.9, 1.0], [0.10, 0.33, 0.51, 0.63, 0.73, 0.78, 0.80]
)
_COP_FOREFOOT_FIRST = CubicSpline([0.0, 0.15, 0.4, 0.7, 1.0], [0.68, 0.56, 0.52, 0.66, 0.82])


@dataclass(frozen=True)
class FootPath:
    """One foot over time, in laboratory axes.

    Attributes:
        ankle_m: (n, 3) position of the ankle.
        rotation: (n, 3, 3) axes of the foot.
        cop_m: (n, 3) point on the ground where any load on this foot acts.
        load: (n,) fraction of the body's load on this foot, 0 in swing, 1 in single support.
    """

    ankle_m: np.ndarray
    rotation: np.ndarray
    cop_m: np.ndarray
    load: np.ndarray


@dataclass(frozen=True)
class Footsteps:
    """Both feet over one trial.

    Attributes:
        phase: (n,) gait phase.
        feet: path of each foot, by side.
        ground_m: (n,) smoothed height of the ground under the body.
    """

    phase: np.ndarray
    feet: dict[str, FootPath]
    ground_m: np.ndarray


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, and between them a quintic with continuous acceleration."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def _correlated_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return an autoregressive series (count,) of mean 0, SD 1 and lag-1 correlation 0.5."""
    correlation = 0.5
    series = rng.normal(size=count)
    for i in range(1, count):
        series[i] = correlation * series[i - 1] + np.sqrt(1.0 - correlation**2) * series[i]
    return series


def _smooth_noise(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Return correlated noise with one random value per step as a smooth function of the phase."""
    steps = np.arange(np.floor(2 * phase[0]) - 2, np.ceil(2 * phase[-1]) + 3)
    return CubicSpline(steps / 2, _correlated_noise(rng, len(steps)))(phase)


# Footsteps --------------------------------------------------------------------------------------


def plan_footsteps(
    rng: np.random.Generator, body: Body, style: Style, time_s: np.ndarray
) -> Footsteps:
    """Draw the footsteps of one trial and move both feet through them."""
    count = int(time_s[-1] / style.stride_s * 2 * 1.3) + 12
    index = np.arange(count)
    asymmetry = style.asymmetry * (-1.0) ** index
    variation = 0.015 * style.variation * _correlated_noise(rng, count)
    durations_s = 0.5 * style.stride_s * (1.0 + asymmetry + variation)
    contacts_s = time_s[0] - 2.5 * style.stride_s + np.cumsum(durations_s)
    phase = CubicSpline(contacts_s, index / 2)(time_s)
    footholds_m, yaw_rad = _footholds(rng, style, contacts_s)
    push_off_deg = style.push_off_pitch_deg + 3.0 * style.variation * _smooth_noise(rng, phase)
    feet = {}
    for side, first in (("r", 0), ("l", 1)):
        own_m, own_yaw_rad = footholds_m[first::2], yaw_rad[first::2]
        own_phase = phase - 0.5 * first
        feet[side] = _foot_path(body, style, own_phase, own_m, own_yaw_rad, push_off_deg)
    ground_m = CubicSpline(index / 2 + 0.25, footholds_m[:, 1])(phase)
    return Footsteps(phase, feet, ground_m)


def _footholds(
    rng: np.random.Generator, style: Style, contacts_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (steps, 3), in m, and yaw angles (steps,), in rad, of the footholds."""
    index = np.arange(len(contacts_s))
    sign = np.where(index % 2 == 0, SIDE_SIGN["r"], SIDE_SIGN["l"])
    noise = style.variation * np.stack([_correlated_noise(rng, len(index)) for _ in range(3)])
    if style.rise_m:
        run_m = style.speed_m_s * style.stride_s / 2
        forward_m = run_m * index + 0.005 * noise[0]
        up_m = style.rise_m * index
    else:
        forward_m = style.speed_m_s * contacts_s + 0.015 * noise[0]
        up_m = np.tan(style.slope_rad) * forward_m
    right_m = sign * (style.step_width_m / 2) + 0.012 * noise[1]
    yaw_rad = -sign * np.radians(style.toe_out_deg) + np.radians(2.0) * noise[2]
    return np.stack([forward_m, up_m, right_m], axis=1), yaw_rad


def _foot_path(
    body: Body,
    style: Style,
    phase: np.ndarray,
    footholds_m: np.ndarray,
    yaw_rad: np.ndarray,
    push_off_deg: np.ndarray,
) -> FootPath:
    """Move one foot through its footholds (strides, 3); `phase` (n,) is an integer at contacts."""
    stride = np.floor(phase).astype(int)
    part = phase - stride  # fraction of the stride, 0-1
    swing = _swing_progress(style, part)
    previous_m, start_m, end_m = (footholds_m[stride + k] for k in (-1, 0, 1))
    base_m = start_m + swing[:, None] * (end_m - start_m)
    # The foot lands just after initial contact and slides its last millimeters, still unloaded.
    landing = 1.0 - _swing_progress(style, part + 1.0)
    slide_m = landing[:, None] * (start_m - previous_m)
    if style.rise_m:
        slide_m[:, 1] = 0.0  # the swing ends at the height of the stair step
    base_m -= slide_m
    base_m[:, 1] += _swing_height(style, part, swing, end_m[:, 1] - start_m[:, 1])
    turned = smooth_step((part - style.stance_fraction) / (1.0 - style.stance_fraction))
    yaw = yaw_rad[stride] + turned * (yaw_rad[stride + 1] - yaw_rad[stride])
    ground = rotation("z", np.full(len(phase), style.slope_rad)) @ rotation("y", yaw)
    pitch_deg, on_heel = _foot_pitch(style, part, push_off_deg)
    roll = rotation("z", np.radians(pitch_deg))
    pivot_m = on_heel[:, None] * body.foot.heel_m + (1.0 - on_heel)[:, None] * body.foot.ball_m
    ankle_height_m = np.array([0.0, -body.foot.heel_m[1], 0.0])
    ankle_m = base_m + rotate(ground, ankle_height_m + pivot_m - rotate(roll, pivot_m))
    cop_m = start_m + rotate(ground, _center_of_pressure(body, style, part))
    return FootPath(ankle_m, ground @ roll, cop_m, _load(style, part))


def _swing_progress(style: Style, part: np.ndarray) -> np.ndarray:
    """Return the fraction (n,) of the way from one foothold to the next."""
    leave = style.stance_fraction - 0.04  # the toe drags a little while the foot is being unloaded
    return smooth_step((part - leave) / (1.05 - leave))


def _swing_height(
    style: Style, part: np.ndarray, swing: np.ndarray, climb_m: np.ndarray
) -> np.ndarray:
    """Return the height (n,), in m, of the foot above the line from foothold to foothold."""
    leave = style.stance_fraction - 0.04
    early = np.clip((part - leave) / (1.0 - leave), 0.0, 1.0) ** 0.75
    lift_m = style.toe_clearance_m * 256.0 * (early * (1.0 - early)) ** 4
    if not style.rise_m:
        return lift_m
    if style.rise_m > 0:  # over the edge of the next stair: rise early, or fall late
        climbed = smooth_step((part - leave) / 0.26)
    else:
        climbed = smooth_step((part - leave - 0.14) / (0.86 - leave))
    return lift_m + (climbed - swing) * climb_m


def _foot_pitch(
    style: Style, part: np.ndarray, push_off_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch (n,), in degrees with toes up positive, and the pivot (n,).

    The pivot is 1 where the foot turns about the heel and 0 where it turns about the ball.
    """
    leave = style.stance_fraction + 0.02
    contact = 1.0 - smooth_step(part / 0.12) + smooth_step((part - leave - 0.02) / (0.98 - leave))
    rising = np.clip((part - 0.36) / (leave + 0.04 - 0.36), 0.0, 1.0) ** 1.7
    push_off = smooth_step(rising) * (1.0 - smooth_step((part - leave) / 0.28))
    on_heel = 1.0 - smooth_step((part - 0.14) / 0.16) + smooth_step((part - leave) / 0.28)
    if style.contact_pitch_deg < 0:
        on_heel = np.zeros_like(part)
    return style.contact_pitch_deg * contact - push_off_deg * push_off, on_heel


def _center_of_pressure(body: Body, style: Style, part: np.ndarray) -> np.ndarray:
    """Return the center of pressure (n, 3), in m, from the ground below the flat foot's ankle."""
    stance = np.clip(part / style.stance_fraction, 0.0, 1.0)
    curve = _COP_HEEL_FIRST if style.contact_pitch_deg > 5 else _COP_FOREFOOT_FIRST
    heel, toe = body.foot.heel_m[0], body.foot.toe_m[0]
    forward = heel + (toe - heel) * curve(stance)
    return np.stack([forward, np.zeros_like(part), np.zeros_like(part)], axis=1)


def _load(style: Style, part: np.ndarray) -> np.ndarray:
    """Return the load fraction (n,); in double support, the two feet add up to 1."""
    double = style.stance_fraction - 0.5
    return smooth_step(part / double) - smooth_step((part - 0.5) / double)


# Body -------------------------------------------------------------------------------------------


def move_body(
    rng: np.random.Generator, body: Body, style: Style, steps: Footsteps, rate_hz: float
) -> Poses:
    """Return the poses of the eight segments of a body that walks on the given footsteps."""
    pelvis, trunk = _upper_body(rng, style, steps)
    bounce_m = _bounce(rng, style, steps, rate_hz)
    cop_m = sum(steps.feet[side].load[:, None] * steps.feet[side].cop_m for side in SIDES)
    height_m = steps.ground_m + bounce_m + 0.56 * body.height_m
    hips_m = np.stack([cop_m[:, 0], height_m - 0.04 * body.height_m, cop_m[:, 2]], axis=1)
    poses = pose_body(body, hips_m, pelvis, trunk, steps.feet)
    counter = rotation("z", np.zeros(len(hips_m)))
    for _ in range(ROUNDS):
        moment_nm = angular_momentum_rate(body, poses, rate_hz)
        center_m = _supported_path(body, height_m, cop_m, moment_nm, rate_hz)
        hips_m = hips_m + center_m - center_of_mass(body, poses)
        poses = pose_body(body, hips_m, pelvis, counter @ trunk, steps.feet)
        counter = _counter_lean(body, poses, rate_hz)
        height_m = height_m + 0.5 * _spare_height(body, style, poses, steps)
    return poses


def _upper_body(
    rng: np.random.Generator, style: Style, steps: Footsteps
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotations (n, 3, 3) of pelvis and trunk.

    Lean, sway and twist vary from step to step independently of the feet, so that they cannot be
    inferred from the feet alone.
    """
    cycle = 2.0 * np.pi * steps.phase
    tilt, drop, twist = style.pelvis_deg
    lean, sway, trunk_twist = style.trunk_deg
    shift = 2.0 * np.pi * np.asarray(style.phases)
    noise = [style.variation * _smooth_noise(rng, steps.phase) for _ in range(6)]
    pelvis_deg = (
        tilt + 1.0 * np.cos(2 * cycle + shift[0]) + 0.7 * noise[0],
        -drop * np.cos(cycle - 0.9 + shift[1]) + 0.5 * noise[1],
        twist * np.cos(cycle + shift[2]) + 0.7 * noise[2],
    )
    trunk_deg = (
        -lean + 1.0 * np.cos(2 * cycle + 0.8) + 1.2 * noise[3],
        sway * np.sin(cycle + shift[3]) + 1.5 * noise[4],
        -trunk_twist * np.cos(cycle + shift[2]) + 0.7 * noise[5],
    )
    return rotation_zxy(*np.radians(pelvis_deg)), rotation_zxy(*np.radians(trunk_deg))


def _bounce(rng: np.random.Generator, style: Style, steps: Footsteps, rate_hz: float) -> np.ndarray:
    """Return the vertical motion (n,), in m, of the center of mass: lowest just after contact."""
    rate_rad_s = derivative(steps.phase, rate_hz) * 4.0 * np.pi  # two cycles per stride
    amplitude = style.bounce * (1.0 + 0.08 * style.variation * _smooth_noise(rng, steps.phase))
    cycle = 4.0 * np.pi * (steps.phase - 0.05)
    return -GRAVITY_M_S2 * (
        amplitude * np.cos(cycle) / rate_rad_s**2
        - style.bounce_dip * np.cos(2 * cycle) / (2 * rate_rad_s) ** 2
    )


def _counter_lean(body: Body, poses: Poses, rate_hz: float) -> np.ndarray:
    """Return a small trunk pitch (n, 3, 3) against the swing of the legs.

    It stands in for the arm swing, which the model lacks.
    """
    center_m = center_of_mass(body, poses)
    momentum = np.zeros(len(center_m))  # of the legs, about z, in kg m²/s
    for name in SEGMENT_NAMES[2:]:
        arm_m = poses[name].point(body.segment(name).center_m) - center_m
        linear = body.segment(name).mass_kg * derivative(arm_m, rate_hz)
        momentum += arm_m[:, 0] * linear[:, 1] - arm_m[:, 1] * linear[:, 0]
    band = butter(2, _COUNTER_BAND_HZ, "bandpass", fs=rate_hz, output="sos")
    trunk_inertia = body.segment("trunk").inertia_kg_m2[2]
    pitch_rad = np.cumsum(sosfiltfilt(band, momentum)) / rate_hz / trunk_inertia
    return rotation("z", -_COUNTER_SHARE * sosfiltfilt(band, pitch_rad))


def _supported_path(
    body: Body,
    height_m: np.ndarray,
    cop_m: np.ndarray,
    moment_nm: np.ndarray,
    rate_hz: float,
) -> np.ndarray:
    """Solve for the path (n, 3), in m, of the center of mass, with `moment_nm` (n, 3) as dL/dt."""
    force_n = body.mass_kg * (GRAVITY_M_S2 + second_derivative(height_m, rate_hz))
    lever = body.mass_kg * (height_m - cop_m[:, 1]) * rate_hz**2
    bands = np.zeros((3, len(height_m)))
    bands[0, 2:] = lever[1:-1]
    bands[1, 1:-1] = -2.0 * lever[1:-1] - force_n[1:-1]
    bands[2, :-2] = lever[1:-1]
    bands[1, [0, -1]] = 1.0  # the body starts and ends above the feet; both ends are cut off later
    path_m = np.empty((len(height_m), 3))
    path_m[:, 1] = height_m
    for axis, moment in ((0, moment_nm[:, 2]), (2, -moment_nm[:, 0])):
        right_side = -force_n * cop_m[:, axis] + moment
        right_side[[0, -1]] = cop_m[[0, -1], axis]
        path_m[:, axis] = solve_banded((1, 1), bands, right_side)
    return path_m


def _spare_height(body: Body, style: Style, poses: Poses, steps: Footsteps) -> np.ndarray:
    """Return how far (n,), in m, the body can rise until the legs just reach the feet.

    The value is negative where the body must sink. It is the smallest of three neighboring steps,
    with smooth changes from step to step.
    """
    straight_m = body.segments["thigh"].length_m + body.segments["shank"].length_m
    used_m = np.max(
        [
            np.linalg.norm(poses[f"thigh_{s}"].origin_m - steps.feet[s].ankle_m, axis=1)
            for s in SIDES
        ],
        axis=0,
    )
    step = np.floor(2.0 * steps.phase).astype(int)
    whole_steps = np.arange(step[0] + 1, step[-1])
    spare_m = [style.leg_extension * straight_m - used_m[step == k].max() for k in whole_steps]
    spare_m = uniform_filter1d(minimum_filter1d(spare_m, 3), 3)
    middles = (whole_steps + 0.5) / 2.0
    spline = CubicSpline(middles, spare_m, bc_type="clamped")
    return spline(np.clip(steps.phase, middles[0], middles[-1]))


def pose_body(
    body: Body,
    hips_m: np.ndarray,
    pelvis: np.ndarray,
    trunk: np.ndarray,
    feet: dict[str, FootPath],
) -> Poses:
    """Return the poses of all segments.

    Args:
        body: the subject's body.
        hips_m: (n, 3) mid-hip position.
        pelvis: (n, 3, 3) axes of the pelvis.
        trunk: (n, 3, 3) axes of the trunk.
        feet: path of each foot, by side.
    """
    poses = {"pelvis": Pose(hips_m, pelvis)}
    poses["trunk"] = Pose(poses["pelvis"].point(body.lumbar_m), trunk)
    for side in SIDES:
        socket_m = np.array([0.0, 0.0, SIDE_SIGN[side] * body.hip_half_width_m])
        foot = feet[side]
        poses[f"thigh_{side}"], poses[f"shank_{side}"] = _bend_leg(
            body, poses["pelvis"].point(socket_m), foot.ankle_m, foot.rotation[:, :, 0]
        )
        poses[f"foot_{side}"] = Pose(foot.ankle_m, foot.rotation)
    return poses


def _bend_leg(
    body: Body, hip_m: np.ndarray, ankle_m: np.ndarray, foot_forward: np.ndarray
) -> tuple[Pose, Pose]:
    """Return thigh and shank between hip and ankle, with a hinged knee that bends forward.

    The hinge is perpendicular to the foot's forward axis, so that ankle and subtalar angle together
    give the exact orientation of the foot. A leg that does not reach the ankle is nearly straight.
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

    def axes(up: np.ndarray) -> np.ndarray:
        up = unit(up)
        return np.stack([np.cross(up, right), up, right], axis=2)

    return Pose(hip_m, axes(hip_m - knee_m)), Pose(knee_m, axes(knee_m - ankle_m))


# Momentum ---------------------------------------------------------------------------------------


def center_of_mass(body: Body, poses: Poses) -> np.ndarray:
    """Return the path (n, 3), in m, of the whole body's center of mass."""
    moments = (
        body.segment(name).mass_kg * poses[name].point(body.segment(name).center_m)
        for name in SEGMENT_NAMES
    )
    return sum(moments) / body.mass_kg


def segment_angular_momentum(segment: Segment, pose: Pose, rate_hz: float) -> np.ndarray:
    """Return the angular momentum (n, 3), in kg m²/s, of a segment about its center of mass."""
    omega = angular_velocity(pose.rotation, rate_hz)
    local = np.einsum("nji,nj->ni", pose.rotation, omega) * segment.inertia_kg_m2
    return rotate(pose.rotation, local)


def angular_momentum_rate(body: Body, poses: Poses, rate_hz: float) -> np.ndarray:
    """Return dL/dt (n, 3), in Nm, of the whole body about its center of mass."""
    center_m = center_of_mass(body, poses)
    total = np.zeros_like(center_m)
    for name in SEGMENT_NAMES:
        segment, pose = body.segment(name), poses[name]
        path_m = pose.point(segment.center_m)
        total += derivative(segment_angular_momentum(segment, pose, rate_hz), rate_hz)
        inertial_n = segment.mass_kg * second_derivative(path_m, rate_hz)
        total += np.cross(path_m - center_m, inertial_n)
    return total
