"""Skin markers and joint centres of Dataset B, as points fixed to the segments."""

import numpy as np

from .body import SIDES
from .trial import Trial

# Right-side or middle markers: segment and place in its axes (x forward, y up, z right; / body
# height). Names as in Tan et al. 2022: calcaneus, metatarsals, malleoli, shank, knee condyles,
# thigh, trochanter, iliac spines, thorax and shoulder.
_FOOT = {
    "FCC": ("foot", (-0.030, -0.015, 0.0)),
    "FM5": ("foot", (0.060, -0.022, 0.030)),
    "FM2": ("foot", (0.085, -0.015, -0.005)),
}
_LEG = {
    "TAM": ("foot", (0.004, 0.004, -0.022)),
    "FAL": ("foot", (-0.004, -0.004, 0.022)),
    "SK": ("shank", (0.010, -0.100, 0.020)),
    "TT": ("shank", (0.028, -0.040, 0.0)),
}
_KNEE = {
    "FME": ("thigh", (0.0, -0.243, -0.030)),
    "FLE": ("thigh", (0.0, -0.243, 0.030)),
    "TH": ("thigh", (0.030, -0.180, 0.015)),
    "FT": ("thigh", (0.0, 0.0, 0.045)),
}
_PELVIS = {"IPS": ("pelvis", (-0.085, 0.055, 0.020)), "IAS": ("pelvis", (0.045, 0.055, 0.075))}
_MIDDLE = {
    "MAI": ("trunk", (-0.080, 0.150, 0.0)),
    "SXS": ("trunk", (0.060, 0.120, 0.0)),
    "SJN": ("trunk", (0.040, 0.230, 0.0)),
    "CV7": ("trunk", (-0.040, 0.280, 0.0)),
}
_SHOULDER = {"AC": ("trunk", (-0.015, 0.250, 0.115))}


def _placements() -> dict[str, tuple[str, np.ndarray]]:
    """Marker names in the order of the file, with segment and place (/ body height)."""
    groups = [(_FOOT, "LR"), (_LEG, "LR"), (_KNEE, "LR"), (_MIDDLE, ""), (_SHOULDER, "LR")]
    placed = {}
    for group, sides in groups:
        if group is _MIDDLE:
            placed |= {
                f"{side}{name}": _on_side(name_at, side)
                for name, name_at in _PELVIS.items()
                for side in "LR"
            }
            placed |= {name: (segment, np.array(at)) for name, (segment, at) in group.items()}
        for side in sides:
            placed |= {f"{side}{name}": _on_side(at, side) for name, at in group.items()}
    return placed


def _on_side(placement: tuple[str, tuple[float, float, float]], side: str) -> tuple:
    """A right-side placement on the given side (`L` or `R`), mirrored on the left."""
    segment, (forward, up, right) = placement
    whole = segment in ("pelvis", "trunk")
    return (
        segment if whole else f"{segment}_{side.lower()}",
        np.array([forward, up, right if side == "R" else -right]),
    )


_PLACED = _placements()
MARKERS = tuple(_PLACED)


def marker_paths(trial: Trial) -> dict[str, np.ndarray]:
    """Paths (n, 3) in m of the 32 markers in laboratory axes."""
    height_m = trial.body.height_m
    return {k: trial.poses[s].point(at * height_m) for k, (s, at) in _PLACED.items()}


def joint_centers(trial: Trial) -> dict[str, np.ndarray]:
    """Paths (n, 3) in m of the points that a pose estimator finds, by its names."""
    body, poses = trial.body, trial.poses
    points = {"MidHip": poses["pelvis"].origin_m}
    for side in SIDES:
        letter = side.upper()
        points[f"{letter}Shoulder"] = poses["trunk"].point(
            _PLACED[f"{letter}AC"][1] * body.height_m - [0.0, 0.02, 0.0]
        )
        points[f"{letter}Hip"] = poses[f"thigh_{side}"].origin_m
        points[f"{letter}Knee"] = poses[f"shank_{side}"].origin_m
        points[f"{letter}Ankle"] = poses[f"foot_{side}"].origin_m
        points[f"{letter}Heel"] = poses[f"foot_{side}"].point(body.foot.heel_m)
    return points
