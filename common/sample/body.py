"""A body of eight rigid segments, from published anthropometric tables.

Segments: pelvis, trunk (with head and arms lumped into it), two thighs, shanks and feet. Segment
axes are x forward, y up along the segment, z to the right. The origin of a segment is its proximal
joint: mid-hip for the pelvis, the lumbosacral joint for the trunk, hip, knee and ankle for the leg.

Sources, as fractions of body mass `M` and height `H`:
* lengths: Drillis and Contini 1966 (Winter, Biomechanics and Motor Control of Human Movement, 4th
  ed., figure 4.1);
* masses, centres of mass and radii of gyration: Dempster's, in Winter's table 4.1. Winter's HAT
  (head, arms, trunk: 0.678 M, centre 0.180 H above the hips, radius 0.143 H) is split into pelvis
  (0.142 M) and the rest so that the two together have HAT's mass, centre and radius;
* radii about the long axes, which Winter leaves out, and hip joint distance: rounded from de Leva
  1996 (J Biomech 29:1223) and from Bell et al. 1990 (J Biomech 23:617).
Ours: where heel and ball lie along the foot.
"""

from dataclasses import dataclass

import numpy as np

GRAVITY_M_S2 = 9.80665
SIDES = ("r", "l")
SIDE_SIGN = {"r": 1.0, "l": -1.0}  # the right side is at positive z


@dataclass(frozen=True)
class Segment:
    """One rigid segment; vectors are in its own axes, from its proximal joint.

    Args:
        mass_kg: mass.
        length_m: distance from the proximal to the distal joint.
        center_m: (3,) centre of mass.
        inertia_kg_m2: (3,) principal moments of inertia about the centre of mass.
    """

    mass_kg: float
    length_m: float
    center_m: np.ndarray
    inertia_kg_m2: np.ndarray


@dataclass(frozen=True)
class Foot:
    """Points of the sole in the axes of the flat foot, from the ankle: x forward, y up (m)."""

    heel_m: np.ndarray
    ball_m: np.ndarray
    toe_m: np.ndarray


@dataclass(frozen=True)
class Body:
    """Mass, height and segments: `pelvis`, `trunk`, `thigh`, `shank`, `foot` (legs alike)."""

    mass_kg: float
    height_m: float
    segments: dict[str, Segment]
    hip_half_width_m: float
    lumbar_m: np.ndarray
    foot: Foot

    @property
    def weight_n(self) -> float:
        """Body weight in newton."""
        return self.mass_kg * GRAVITY_M_S2

    def segment(self, name: str) -> Segment:
        """Segment of a sided name such as `thigh_r`, or of `pelvis` and `trunk`."""
        return self.segments[name.split("_")[0]]


SEGMENT_NAMES = (
    "pelvis",
    "trunk",
    *(f"{s}_{side}" for side in SIDES for s in ("thigh", "shank", "foot")),
)

# name: mass / M, length / H, centre (x, y) / H, radii of gyration about x, y, z / H
_PROPORTIONS = {
    "pelvis": (0.142, 0.065, (0.0, 0.040), (0.050, 0.055, 0.050)),
    "trunk": (0.536, 0.223, (0.0, 0.152), (0.136, 0.075, 0.136)),
    "thigh": (0.100, 0.245, (0.0, -0.433 * 0.245), (0.079, 0.037, 0.079)),
    "shank": (0.0465, 0.246, (0.0, -0.433 * 0.246), (0.074, 0.025, 0.074)),
    "foot": (0.0145, 0.085, (0.038, -0.020), (0.020, 0.040, 0.040)),
}


def make_body(mass_kg: float, height_m: float) -> Body:
    """Body of average proportions for a mass (kg) and a height (m)."""
    segments = {}
    for name, (mass, length, (forward, up), radii) in _PROPORTIONS.items():
        segments[name] = Segment(
            mass_kg=mass * mass_kg,
            length_m=length * height_m,
            center_m=np.array([forward, up, 0.0]) * height_m,
            inertia_kg_m2=mass * mass_kg * (np.array(radii) * height_m) ** 2,
        )
    foot = Foot(
        heel_m=np.array([-0.030, -0.039, 0.0]) * height_m,
        ball_m=np.array([0.077, -0.039, 0.0]) * height_m,
        toe_m=np.array([0.122, -0.039, 0.0]) * height_m,
    )
    lumbar_m = np.array([0.0, 0.065, 0.0]) * height_m
    return Body(mass_kg, height_m, segments, 0.049 * height_m, lumbar_m, foot)


def random_body(rng: np.random.Generator) -> Body:
    """Body of random height (1.50-1.95 m) and body mass index (18-30 kg/m²)."""
    height_m = float(np.clip(rng.normal(1.72, 0.09), 1.50, 1.95))
    mass_index = float(np.clip(rng.normal(23.5, 2.5), 18.0, 30.0))
    return make_body(round(mass_index * height_m**2, 1), round(height_m, 2))
