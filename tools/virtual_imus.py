"""Compute what an IMU on a body segment would measure from the motion of markers.

A computed IMU does not slip, and neither skin nor muscles move it: its signals are cleaner than
those of a real one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import constants
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation, RotationSpline

from common.files import InputError, shorten
from tools.signals import ROUNDING_S, filter_zero_phase, find_runs

CUTOFF_HZ = 12.0
SHORTEST = 8  # samples; a shorter stretch is not differentiated
# Left out at both ends of a stretch: accelerations of a foot are wrong by up to 56 m/s² at the very
# end, and by 2 m/s² after this time.
EDGE_S = 0.08
FLATTEST = 0.05  # sine of the angle between the lines from the first of three markers to the others
MOST_SKEWED = 0.5  # volume spanned by the axes of a segment frame, 1 if they are perpendicular
MARKERS = 3


class Placement(NamedTuple):
    """Where a virtual IMU is attached.

    Attributes:
        frame: labels of the four points of a segment frame, its origin and one point on each of the
            axes X, Y and Z of the sensor; or of three markers on the segment: X of the sensor
            points from the first to the second marker, and Z is perpendicular to all three.
        marker: label of the marker that gives the position of the sensor.
    """

    frame: tuple[str, ...]
    marker: str


class VirtualImu(NamedTuple):
    """The signals of a virtual IMU; NaN where a marker is missing, and at the edges.

    Attributes:
        acc: `(n, 3)` specific force in m/s², in the axes of the sensor: at rest, 9.81 upward.
        gyr: `(n, 3)` angular velocity in rad/s, in the axes of the sensor.
    """

    acc: np.ndarray
    gyr: np.ndarray


def virtual_imu(
    points: Mapping[str, np.ndarray],
    placement: Placement,
    rate_hz: float,
    unit_m: float,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    cutoff_hz: float | None = CUTOFF_HZ,
    max_gap_s: float = 0.0,
    edge_s: float = EDGE_S,
) -> VirtualImu:
    """Compute specific force and angular velocity from positions of markers.

    The positions are interpolated in short gaps and filtered with a zero-phase low-pass filter.
    Splines through positions (of fifth order) and orientations are differentiated.

    Args:
        points: `(n, 3)` positions per label, in the laboratory; NaN where missing.
        placement: where the sensor is attached.
        rate_hz: sampling rate.
        unit_m: unit of the positions in m, 0.001 for mm.
        up: direction opposite to gravity in the laboratory, a unit vector.
        cutoff_hz: cut-off of the filter; None for no filter.
        max_gap_s: the longest gap that is interpolated.
        edge_s: what is left out at both ends of the recording and on both sides of longer gaps.

    Raises:
        InputError: There is no point with one of the labels, the rate is too low, or the axes are
            not those of a right-handed frame.
    """
    labels = [*placement.frame, placement.marker]
    if missing := [label for label in labels if label not in points]:
        raise InputError(
            f"no point {', '.join(missing)} for a virtual IMU; choose among "
            f"{shorten(', '.join(points))}"
        )
    positions = np.stack([points[label] for label in labels], axis=1) * unit_m  # (n, labels, 3)
    is_missing = ~np.isfinite(positions).all(axis=2)
    if absent := {label for label, m in zip(labels, is_missing.T, strict=True) if m.all()}:
        names = ", ".join(sorted(absent))
        raise InputError(f"{names}: missing in all frames, but needed for a virtual IMU")
    if cutoff_hz and rate_hz <= 2 * cutoff_hz:
        raise InputError(
            f"points at {rate_hz:.4g} Hz: too few for a virtual IMU, which takes more than "
            f"{2 * cutoff_hz:g} Hz"
        )
    edge = round(edge_s * rate_hz)
    is_frame = is_right_handed(positions[:, :-1])
    is_known = ~is_missing[:, :-1].any(axis=1)
    if is_known.any() and is_frame[is_known].mean() < 0.5:
        raise InputError(
            f"{', '.join(placement.frame)}: not the points of a right-handed frame; give the "
            "origin and the points on X, Y and Z in this order, or three markers that are not on "
            "a line"
        )
    positions[is_known & ~is_frame, :-1] = np.nan  # markers that were mistaken for each other
    positions = fill_gaps(positions, rate_hz, max_gap_s)
    is_valid = np.isfinite(positions).all(axis=(1, 2))
    acc, gyr = np.full((2, len(positions), 3), np.nan)
    for start, stop in find_runs(is_valid):
        if stop - start < SHORTEST:
            continue
        stretch = positions[start:stop]
        if cutoff_hz:
            flat = stretch.reshape(len(stretch), -1)
            stretch = filter_zero_phase(flat, rate_hz, cutoff_hz).reshape(stretch.shape)
        time_s = np.arange(len(stretch)) / rate_hz
        orientation = segment_orientation(stretch[:, :-1])
        motion_m_s2 = make_interp_spline(time_s, stretch[:, -1], k=5).derivative(2)(time_s)
        force_m_s2 = motion_m_s2 + constants.g * np.asarray(up)
        inner = slice(edge, len(stretch) - edge)
        acc[start:stop][inner] = orientation.inv().apply(force_m_s2)[inner]
        gyr[start:stop][inner] = RotationSpline(time_s, orientation)(time_s, 1)[inner]
    return VirtualImu(acc, gyr)


def fill_gaps(positions: np.ndarray, rate_hz: float, max_gap_s: float) -> np.ndarray:
    """Return positions `(n, labels, 3)` with a cubic spline in gaps of up to `max_gap_s`."""
    filled = positions.copy()
    for k in range(positions.shape[1]):
        known = np.flatnonzero(np.isfinite(positions[:, k]).all(axis=1))
        steps = np.diff(known)
        is_short = (steps > 1) & (steps / rate_hz <= max_gap_s + ROUNDING_S)
        if len(known) >= SHORTEST and is_short.any():
            gaps = [np.arange(known[i] + 1, known[i + 1]) for i in np.flatnonzero(is_short)]
            missing = np.concatenate(gaps)
            filled[missing, k] = make_interp_spline(known, positions[known, k])(missing)
    return filled


def segment_orientation(points: np.ndarray) -> Rotation:
    """Return the rotations from the axes of a sensor to those of the laboratory.

    Args:
        points: `(n, 4, 3)` or `(n, 3, 3)` positions of the points of `Placement.frame`.
    """
    axes = segment_axes(points)  # made orthonormal by SciPy
    return Rotation.from_matrix(axes.transpose(0, 2, 1))


def is_right_handed(points: np.ndarray) -> np.ndarray:
    """Return in which frames points `(n, 4, 3)` or `(n, 3, 3)` define a right-handed frame."""
    with np.errstate(invalid="ignore"):
        if points.shape[1] == MARKERS:
            x, other = (points[:, i] - points[:, 0] for i in (1, 2))
            lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(other, axis=-1)
            return np.linalg.norm(np.cross(x, other), axis=-1) > FLATTEST * lengths
        return np.linalg.det(segment_axes(points)) > MOST_SKEWED


def segment_axes(points: np.ndarray) -> np.ndarray:
    """Return unit vectors `(n, 3, 3)` along X, Y and Z of a segment; NaN if points coincide."""
    from_origin = points[:, 1:] - points[:, :1]
    if points.shape[1] == MARKERS:
        x, other = from_origin[:, 0], from_origin[:, 1]
        z = np.cross(x, other)
        from_origin = np.stack([x, np.cross(z, x), z], axis=1)
    return from_origin / np.linalg.norm(from_origin, axis=-1, keepdims=True)
