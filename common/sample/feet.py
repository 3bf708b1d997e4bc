"""When and where the feet go: step times, footholds, and the path of each foot over the ground.

Everything is a smooth function of the gait phase, which is 0, 1, 2... at the contacts of the right
foot and half way between at those of the left. A foot that bears load does not slide: it rolls over
the heel, lies flat, and rolls over the ball.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from .body import SIDE_SIGN, SIDES, Body
from .rotations import apply, rotation
from .style import Style

# Centre of pressure from heel (0) to toe (1) over stance (0-1), read from walking data such as
# Winter's.
_COP_HEEL_FIRST = CubicSpline(
    [0.0, 0.12, 0.3, 0.5, 0.75, 0.9, 1.0], [0.10, 0.33, 0.51, 0.63, 0.73, 0.78, 0.80]
)
_COP_BALL_FIRST = CubicSpline([0.0, 0.15, 0.4, 0.7, 1.0], [0.68, 0.56, 0.52, 0.66, 0.82])


@dataclass(frozen=True)
class FootPath:
    """One foot over time.

    Args:
        ankle_m: (n, 3) ankle position.
        rotation: (n, 3, 3) foot axes in the laboratory.
        cop_m: (n, 3) point of the ground that would carry the load of this foot.
        load: (n,) share of the body weight on this foot, 0 in swing, 1 in single support.
    """

    ankle_m: np.ndarray
    rotation: np.ndarray
    cop_m: np.ndarray
    load: np.ndarray


@dataclass(frozen=True)
class Walk:
    """Phase (n,) of a trial, its two feet, and the height (n,) of the way under the body in m."""

    phase: np.ndarray
    feet: dict[str, FootPath]
    ground_m: np.ndarray


def smooth_step(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and in between a quintic without a jump in velocity or acceleration."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def wander(rng: np.random.Generator, count: int, memory: float = 0.5) -> np.ndarray:
    """Random series (count,) of mean 0 and SD 1 whose neighbours resemble each other."""
    series = rng.normal(size=count)
    for i in range(1, count):
        series[i] = memory * series[i - 1] + np.sqrt(1.0 - memory**2) * series[i]
    return series


def wander_over(rng: np.random.Generator, phase: np.ndarray, memory: float = 0.5) -> np.ndarray:
    """The same as a smooth function (n,) of the phase: one new value per step."""
    steps = np.arange(np.floor(2 * phase[0]) - 2, np.ceil(2 * phase[-1]) + 3)
    return CubicSpline(steps / 2, wander(rng, len(steps), memory))(phase)


def plan_walk(rng: np.random.Generator, body: Body, style: Style, time_s: np.ndarray) -> Walk:
    """Draw the steps of one trial and move both feet through them."""
    count = int(time_s[-1] / style.stride_s * 2 * 1.3) + 12
    index = np.arange(count)
    durations_s = (
        0.5
        * style.stride_s
        * (1.0 + style.asymmetry * (-1.0) ** index + 0.015 * style.variation * wander(rng, count))
    )
    steps_s = time_s[0] - 2.5 * style.stride_s + np.cumsum(durations_s)
    phase = CubicSpline(steps_s, index / 2)(time_s)
    footholds_m, yaw_rad = _footholds(rng, style, steps_s)
    push_off_deg = style.push_off_pitch_deg + 3.0 * style.variation * wander_over(rng, phase)
    feet = {}
    for side in SIDES:
        first = 0 if side == "r" else 1
        feet[side] = _foot_path(
            body, style, phase - 0.5 * first, footholds_m[first::2], yaw_rad[first::2], push_off_deg
        )
    height = CubicSpline(index / 2 + 0.25, footholds_m[:, 1])(phase)
    return Walk(phase, feet, height)


def _footholds(
    rng: np.random.Generator, style: Style, steps_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (steps, 3) in m and directions (steps,) in rad of the footholds; x is forward."""
    count = len(steps_s)
    side = np.where(np.arange(count) % 2 == 0, SIDE_SIGN["r"], SIDE_SIGN["l"])
    noise = style.variation * np.stack([wander(rng, count) for _ in range(3)])
    if style.rise_m:
        run_m = style.speed_m_s * style.stride_s / 2
        forward = run_m * np.arange(count) + 0.005 * noise[0]
        up = style.rise_m * np.arange(count, dtype=float)
    else:
        forward = style.speed_m_s * steps_s + 0.015 * noise[0]
        up = np.tan(style.slope_rad) * forward
    width = side * (style.step_width_m / 2) + 0.012 * noise[1]
    yaw_rad = -side * np.radians(style.toe_out_deg) + np.radians(2.0) * noise[2]
    return np.stack([forward, up, width], axis=1), yaw_rad


def _foot_path(
    body: Body,
    style: Style,
    phase: np.ndarray,
    footholds_m: np.ndarray,
    yaw_rad: np.ndarray,
    push_off_deg: np.ndarray,
) -> FootPath:
    """Move one foot through its own footholds; `phase` (n,) is this foot's."""
    stride = np.floor(phase).astype(int)
    part = phase - stride
    swing = _swing(style, part)
    before_m, start_m, end_m = (footholds_m[stride + k] for k in (-1, 0, 1))
    base_m = start_m + swing[:, None] * (end_m - start_m)
    landing = 1.0 - _swing(style, part + 1.0)  # the last millimetres, before the heel bears load
    slide_m = landing[:, None] * (start_m - before_m)
    if style.rise_m:
        slide_m[:, 1] = 0.0  # `_height_correction` ends at the height of the step
    base_m -= slide_m
    base_m[:, 1] += _height_correction(style, part, swing, end_m[:, 1] - start_m[:, 1])
    turned = smooth_step((part - style.stance_fraction) / (1.0 - style.stance_fraction))
    yaw = yaw_rad[stride] + turned * (yaw_rad[stride + 1] - yaw_rad[stride])
    ground = rotation("z", np.full(len(phase), style.slope_rad)) @ rotation("y", yaw)
    pitch, on_heel = _pitch(style, part, push_off_deg)
    roll = rotation("z", np.radians(pitch))
    pivot_m = on_heel[:, None] * body.foot.heel_m + (1.0 - on_heel)[:, None] * body.foot.ball_m
    upright_m = np.array([0.0, -body.foot.heel_m[1], 0.0])
    ankle_m = base_m + apply(ground, upright_m + pivot_m - apply(roll, pivot_m))
    cop_m = start_m + apply(ground, _pressure_point(body, style, part))
    return FootPath(ankle_m, ground @ roll, cop_m, _load(style, part))


def _swing(style: Style, part: np.ndarray) -> np.ndarray:
    """How far (n,), 0-1, the foot is on its way to the next foothold."""
    leave = style.stance_fraction - 0.04  # the toe drags a little while it is still being unloaded
    return smooth_step((part - leave) / (1.05 - leave))


def _height_correction(
    style: Style, part: np.ndarray, swing: np.ndarray, climb_m: np.ndarray
) -> np.ndarray:
    """Lift (n,) in m of the swinging foot over the ground, and on stairs over the edge."""
    leave = style.stance_fraction - 0.04
    early = np.clip((part - leave) / (1.0 - leave), 0.0, 1.0) ** 0.75
    lift = style.toe_clearance_m * 256.0 * (early * (1.0 - early)) ** 4
    if not style.rise_m:
        return lift
    if style.rise_m > 0:
        height = smooth_step((part - leave) / 0.26)
    else:
        height = smooth_step((part - leave - 0.14) / (0.86 - leave))
    return lift + (height - swing) * climb_m


def _pitch(
    style: Style, part: np.ndarray, push_off_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Foot pitch (n,) in degrees, toes up, and whether it turns about heel (1) or ball (0)."""
    leave = style.stance_fraction + 0.02
    contact = 1.0 - smooth_step(part / 0.12) + smooth_step((part - leave - 0.02) / (0.98 - leave))
    rising = np.clip((part - 0.36) / (leave + 0.04 - 0.36), 0.0, 1.0) ** 1.7
    push = smooth_step(rising) * (1.0 - smooth_step((part - leave) / 0.28))
    on_heel = 1.0 - smooth_step((part - 0.14) / 0.16) + smooth_step((part - leave) / 0.28)
    if style.contact_pitch_deg < 0:
        on_heel = np.zeros_like(part)
    return style.contact_pitch_deg * contact - push_off_deg * push, on_heel


def _pressure_point(body: Body, style: Style, part: np.ndarray) -> np.ndarray:
    """Centre of pressure (n, 3) in m, from the point of the ground under the flat foot's ankle."""
    stance = np.clip(part / style.stance_fraction, 0.0, 1.0)
    curve = _COP_HEEL_FIRST if style.contact_pitch_deg > 5 else _COP_BALL_FIRST
    heel, toe = body.foot.heel_m[0], body.foot.toe_m[0]
    forward = heel + (toe - heel) * curve(stance)
    return np.stack([forward, np.zeros_like(part), np.zeros_like(part)], axis=1)


def _load(style: Style, part: np.ndarray) -> np.ndarray:
    """Share (n,) of the load: rises and falls in double support so that both feet add up to 1."""
    double = style.stance_fraction - 0.5
    return smooth_step(part / double) - smooth_step((part - 0.5) / double)
