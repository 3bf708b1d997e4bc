"""How somebody walks: the numbers of a subject's gait, changed by activity and speed."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Style:
    """Parameters of one trial's gait. Angles in degrees, lengths relative to body height (`_bh`).

    Args:
        speed_m_s: mean forward speed.
        stride_s: mean duration of a stride.
        stance_fraction: part of the stride that a foot is on the ground.
        asymmetry: relative difference of left and right step time.
        step_width_m: distance between the lines of the two feet.
        toe_out_deg: foot progression angle, outward.
        contact_pitch_deg: foot pitch at first contact, toes up; below 0 the forefoot lands first.
        push_off_pitch_deg: heel rise at toe-off.
        toe_clearance_m: extra lift of the foot, most in early swing.
        bounce: amplitude of the vertical force of both feet, in body weights.
        bounce_dip: second harmonic of the same, positive for a dip in double support.
        pelvis_deg: tilt (mean), list (amplitude), rotation (amplitude).
        trunk_deg: forward lean (mean), side sway (amplitude), rotation (amplitude).
        leg_extension: greatest distance from hip to ankle, relative to the straight leg.
        slope_rad: inclination of the ground, positive uphill.
        rise_m: height of a stair step, positive upstairs, 0 where there are none.
        on_belt: on a treadmill; files then give places relative to the room and not to the belt.
        variation: size of the changes from stride to stride, 1 is normal walking.
        phases: shifts, in strides, of pelvis tilt, list and rotation and of trunk sway.
    """

    speed_m_s: float = 1.2
    stride_s: float = 1.03
    stance_fraction: float = 0.63
    asymmetry: float = 0.0
    step_width_m: float = 0.11
    toe_out_deg: float = 7.0
    contact_pitch_deg: float = 22.0
    push_off_pitch_deg: float = 66.0
    toe_clearance_m: float = 0.07
    bounce: float = 0.22
    bounce_dip: float = 0.0
    pelvis_deg: tuple[float, float, float] = (-8.0, 3.5, 5.5)
    trunk_deg: tuple[float, float, float] = (3.0, 1.5, 4.0)
    leg_extension: float = 0.993
    slope_rad: float = 0.0
    rise_m: float = 0.0
    on_belt: bool = False
    variation: float = 1.0
    phases: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def random_style(rng: np.random.Generator, height_m: float) -> Style:
    """A subject's own level walking: everything that differs between people."""
    speed = float(np.clip(rng.normal(1.2, 0.1), 0.95, 1.45)) * np.sqrt(height_m / 1.72)
    return Style(
        speed_m_s=speed,
        stride_s=1.03 * float(rng.normal(1.0, 0.03)) * np.sqrt(height_m / 1.72),
        stance_fraction=float(np.clip(rng.normal(0.63, 0.008), 0.61, 0.65)),
        asymmetry=float(rng.normal(0.0, 0.01)),
        step_width_m=float(np.clip(rng.normal(0.11, 0.025), 0.05, 0.18)),
        toe_out_deg=float(rng.normal(7.0, 4.0)),
        contact_pitch_deg=float(np.clip(rng.normal(22.0, 3.0), 14.0, 28.0)),
        push_off_pitch_deg=float(np.clip(rng.normal(66.0, 4.0), 54.0, 74.0)),
        toe_clearance_m=float(np.clip(rng.normal(0.07, 0.008), 0.05, 0.09)),
        bounce=float(np.clip(rng.normal(0.22, 0.02), 0.17, 0.27)),
        bounce_dip=float(rng.normal(0.0, 0.01)),
        pelvis_deg=(
            float(rng.normal(-8, 3)),
            float(rng.normal(3.5, 0.8)),
            float(rng.normal(5.5, 1.2)),
        ),
        trunk_deg=(
            float(rng.normal(3, 1.5)),
            float(rng.normal(1.5, 1.0)),
            float(rng.normal(4, 1)),
        ),
        leg_extension=float(np.clip(rng.normal(0.993, 0.0007), 0.991, 0.9945)),
        phases=tuple(rng.normal(0.0, 0.02, 4)),
    )


def at_speed(style: Style, factor: float) -> Style:
    """The same walk faster or slower: cadence and step length share the change of speed equally."""
    return replace(
        style,
        speed_m_s=style.speed_m_s * factor,
        stride_s=style.stride_s / np.sqrt(factor),
        stance_fraction=style.stance_fraction - 0.04 * (factor - 1.0),
        bounce=style.bounce * factor**1.3,
        contact_pitch_deg=style.contact_pitch_deg * factor**0.5,
    )


def on_ramp(style: Style, slope_rad: float) -> Style:
    """The same walk on a slope, uphill where positive: slower, leaning into it."""
    lean, sway, turn = style.trunk_deg
    return replace(
        at_speed(style, 0.85),
        slope_rad=slope_rad,
        trunk_deg=(lean + np.degrees(max(slope_rad, 0.0)) * 0.6, sway, turn),
        contact_pitch_deg=style.contact_pitch_deg - 30.0 * slope_rad,
        leg_extension=style.leg_extension - 0.004,
    )


def on_stairs(style: Style, rise_m: float, run_m: float = 0.29) -> Style:
    """The same walk on stairs, up where `rise_m` is positive: a step per tread, forefoot first."""
    stride_s = style.stride_s * 1.25
    lean, sway, turn = style.trunk_deg
    return replace(
        style,
        stride_s=stride_s,
        speed_m_s=2.0 * run_m / stride_s,
        stance_fraction=0.63,
        rise_m=rise_m,
        contact_pitch_deg=2.0 if rise_m > 0 else -18.0,
        push_off_pitch_deg=30.0 if rise_m > 0 else 25.0,
        toe_clearance_m=style.toe_clearance_m + 0.01,
        bounce=0.14,
        trunk_deg=(lean + (8.0 if rise_m > 0 else 2.0), sway, turn),
        leg_extension=0.988 if rise_m > 0 else 0.975,
    )
