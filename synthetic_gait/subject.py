"""A subject: a body of eight rigid segments, and the style in which it walks.

Segments: pelvis, trunk (including head and arms), two thighs, shanks and feet. Segment axes: x
forward, y up along the segment, z to the right. The origin of a segment is its proximal joint:
mid-hip for the pelvis, the lumbosacral joint for the trunk, hip, knee and ankle for the leg.

Sources of the proportions, relative to body mass `M` and height `H`:
* lengths: Drillis and Contini 1966 (Winter, Biomechanics and Motor Control of Human Movement, 4th
  ed., figure 4.1);
* masses, centers of mass and radii of gyration: Dempster, in Winter's table 4.1. Winter's HAT
  (head, arms and trunk: 0.678 M, center 0.180 H above the hips, radius 0.143 H) is split into the
  pelvis (0.142 M) and the rest, which together have the mass, center and radius of HAT;
* radii about the long axes, which Winter omits, and the distance between the hip joints: rounded
  from de Leva 1996 (J Biomech 29:1223) and Bell et al. 1990 (J Biomech 23:617);
* positions of heel and ball along the foot: our own choice.
"""

from dataclasses import dataclass, replace

import numpy as np

GRAVITY_M_S2 = 9.80665
SIDES = ("r", "l")
SIDE_SIGN = {"r": 1.0, "l": -1.0}  # the right side is at positive z
SEGMENT_NAMES = (
    "pelvis",
    "trunk",
    *(f"{segment}_{side}" for side in SIDES for segment in ("thigh", "shank", "foot")),
)

# name: mass / M, length / H, center of mass (x, y) / H, radii of gyration about x, y, z / H
_PROPORTIONS = {
    "pelvis": (0.142, 0.065, (0.0, 0.040), (0.050, 0.055, 0.050)),
    "trunk": (0.536, 0.223, (0.0, 0.152), (0.136, 0.075, 0.136)),
    "thigh": (0.100, 0.245, (0.0, -0.433 * 0.245), (0.079, 0.037, 0.079)),
    "shank": (0.0465, 0.246, (0.0, -0.433 * 0.246), (0.074, 0.025, 0.074)),
    "foot": (0.0145, 0.085, (0.038, -0.020), (0.020, 0.040, 0.040)),
}


@dataclass(frozen=True)
class Segment:
    """A rigid segment; vectors are in segment axes and start at the proximal joint.

    Attributes:
        mass_kg: mass.
        length_m: distance from the proximal to the distal joint.
        center_m: (3,) center of mass.
        inertia_kg_m2: (3,) principal moments of inertia about the center of mass.
    """

    mass_kg: float
    length_m: float
    center_m: np.ndarray
    inertia_kg_m2: np.ndarray


@dataclass(frozen=True)
class Foot:
    """Points of the sole, in the axes of the foot and relative to the ankle.

    Attributes:
        heel_m: (3,) heel.
        ball_m: (3,) ball of the foot.
        toe_m: (3,) tip of the toes.
    """

    heel_m: np.ndarray
    ball_m: np.ndarray
    toe_m: np.ndarray


@dataclass(frozen=True)
class Body:
    """Dimensions and inertia of a body; both legs are alike.

    Attributes:
        mass_kg: body mass.
        height_m: body height.
        segments: `pelvis`, `trunk`, `thigh`, `shank` and `foot`.
        hip_half_width_m: distance of each hip joint from mid-hip.
        lumbar_m: (3,) lumbosacral joint in pelvis axes.
        foot: points of the sole.
    """

    mass_kg: float
    height_m: float
    segments: dict[str, Segment]
    hip_half_width_m: float
    lumbar_m: np.ndarray
    foot: Foot

    @property
    def weight_n(self) -> float:
        """Return the body weight in newtons."""
        return self.mass_kg * GRAVITY_M_S2

    def segment(self, name: str) -> Segment:
        """Return the segment with a name from `SEGMENT_NAMES`, such as `thigh_r`."""
        return self.segments[name.split("_")[0]]


def make_body(mass_kg: float, height_m: float) -> Body:
    """Return a body of average proportions."""
    segments = {
        name: Segment(
            mass_kg=mass * mass_kg,
            length_m=length * height_m,
            center_m=np.array([forward, up, 0.0]) * height_m,
            inertia_kg_m2=mass * mass_kg * (np.array(radii) * height_m) ** 2,
        )
        for name, (mass, length, (forward, up), radii) in _PROPORTIONS.items()
    }
    return Body(
        mass_kg=mass_kg,
        height_m=height_m,
        segments=segments,
        hip_half_width_m=0.049 * height_m,
        lumbar_m=np.array([0.0, 0.065, 0.0]) * height_m,
        foot=Foot(
            heel_m=np.array([-0.030, -0.039, 0.0]) * height_m,
            ball_m=np.array([0.077, -0.039, 0.0]) * height_m,
            toe_m=np.array([0.122, -0.039, 0.0]) * height_m,
        ),
    )


def random_body(rng: np.random.Generator) -> Body:
    """Return a body of random height (1.50-1.95 m) and body mass index (18-30 kg/m²)."""
    height_m = float(np.clip(rng.normal(1.72, 0.09), 1.50, 1.95))
    mass_index = float(np.clip(rng.normal(23.5, 2.5), 18.0, 30.0))
    return make_body(round(mass_index * height_m**2, 1), round(height_m, 2))


@dataclass(frozen=True)
class Style:
    """Parameters of the gait in one trial; the defaults are those of average level walking.

    Attributes:
        speed_m_s: mean forward speed.
        stride_s: mean duration of a stride.
        stance_fraction: fraction of the stride during which a foot is on the ground.
        asymmetry: relative difference between left and right step time.
        step_width_m: lateral distance between the two feet.
        toe_out_deg: foot progression angle, positive outward.
        contact_pitch_deg: foot pitch at initial contact, positive toes up; a negative value makes
            the forefoot land first.
        push_off_pitch_deg: heel rise at toe-off.
        toe_clearance_m: additional lift of the foot, greatest in early swing.
        bounce: amplitude of the total vertical ground reaction force, in body weights.
        bounce_dip: its second harmonic, positive for a dip in double support, in body weights.
        pelvis_deg: mean tilt, amplitude of list, amplitude of rotation.
        trunk_deg: mean forward lean, amplitude of lateral sway, amplitude of rotation.
        leg_extension: greatest distance from hip to ankle, relative to the straight leg.
        slope_rad: inclination of the ground, positive uphill.
        rise_m: height of a stair step, positive upstairs, 0 on ground without stairs.
        on_belt: whether the subject walks on a treadmill, so that files give positions relative to
            the room and not to the belt.
        variation: variability from step to step, relative to normal walking.
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
    """Return the level-walking style of a random subject of a given body height."""

    def clipped_normal(mean: float, sd: float, low: float, high: float) -> float:
        return float(np.clip(rng.normal(mean, sd), low, high))

    return Style(
        speed_m_s=clipped_normal(1.2, 0.1, 0.95, 1.45) * np.sqrt(height_m / 1.72),
        stride_s=1.03 * rng.normal(1.0, 0.03) * np.sqrt(height_m / 1.72),
        stance_fraction=clipped_normal(0.63, 0.008, 0.61, 0.65),
        asymmetry=rng.normal(0.0, 0.01),
        step_width_m=clipped_normal(0.11, 0.025, 0.05, 0.18),
        toe_out_deg=rng.normal(7.0, 4.0),
        contact_pitch_deg=clipped_normal(22.0, 3.0, 14.0, 28.0),
        push_off_pitch_deg=clipped_normal(66.0, 4.0, 54.0, 74.0),
        toe_clearance_m=clipped_normal(0.07, 0.008, 0.05, 0.09),
        bounce=clipped_normal(0.22, 0.02, 0.17, 0.27),
        bounce_dip=rng.normal(0.0, 0.01),
        pelvis_deg=tuple(rng.normal((-8.0, 3.5, 5.5), (3.0, 0.8, 1.2))),
        trunk_deg=tuple(rng.normal((3.0, 1.5, 4.0), (1.5, 1.0, 1.0))),
        leg_extension=clipped_normal(0.993, 0.0007, 0.991, 0.9945),
        phases=tuple(rng.normal(0.0, 0.02, 4)),
    )


def at_speed(style: Style, factor: float) -> Style:
    """Return the style at another speed; cadence and step length change by the same factor."""
    return replace(
        style,
        speed_m_s=style.speed_m_s * factor,
        stride_s=style.stride_s / np.sqrt(factor),
        stance_fraction=style.stance_fraction - 0.04 * (factor - 1.0),
        bounce=style.bounce * factor**1.3,
        contact_pitch_deg=style.contact_pitch_deg * factor**0.5,
    )


def on_ramp(style: Style, slope_rad: float) -> Style:
    """Return the style on a slope, positive uphill: slower, and leaning forward when uphill."""
    lean, sway, twist = style.trunk_deg
    return replace(
        at_speed(style, 0.85),
        slope_rad=slope_rad,
        trunk_deg=(lean + np.degrees(max(slope_rad, 0.0)) * 0.6, sway, twist),
        contact_pitch_deg=style.contact_pitch_deg - 30.0 * slope_rad,
        leg_extension=style.leg_extension - 0.004,
    )


def on_stairs(style: Style, rise_m: float, run_m: float = 0.29) -> Style:
    """Return the style on stairs, one step per tread.

    Args:
        style: style of level walking.
        rise_m: height of a step, positive upstairs.
        run_m: depth of a tread.
    """
    is_up = rise_m > 0
    stride_s = style.stride_s * 1.25
    lean, sway, twist = style.trunk_deg
    return replace(
        style,
        stride_s=stride_s,
        speed_m_s=2.0 * run_m / stride_s,
        stance_fraction=0.63,
        rise_m=rise_m,
        contact_pitch_deg=2.0 if is_up else -18.0,
        push_off_pitch_deg=30.0 if is_up else 25.0,
        toe_clearance_m=style.toe_clearance_m + 0.01,
        bounce=0.14,
        trunk_deg=(lean + (8.0 if is_up else 2.0), sway, twist),
        leg_extension=0.988 if is_up else 0.975,
    )
