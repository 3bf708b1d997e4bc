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
from tools.signals import filter_zero_phase

CUTOFF_HZ = 12.0
SHORTEST = 8  # samples; a shorter stretch is not differentiated
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
    """The signals of a virtual IMU; NaN where a marker is missing.

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
) -> VirtualImu:
    """Compute specific force and angular velocity from positions of markers.

    The positions are filtered with a zero-phase low-pass filter. Splines through positions (of
    fifth order) and orientations are differentiated.

    Args:
        points: `(n, 3)` positions per label, in the laboratory; NaN where missing.
        placement: where the sensor is attached.
        rate_hz: sampling rate.
        unit_m: unit of the positions in m, 0.001 for mm.
        up: direction opposite to gravity in the laboratory, a unit vector.
        cutoff_hz: cut-off of the filter; None for no filter.

    Raises:
        InputError: There is no point with one of the labels.
    """
    labels = [*placement.frame, placement.marker]
    if missing := [label for label in labels if label not in points]:
        raise InputError(
            f"no point {', '.join(missing)} for a virtual IMU; choose among "
            f"{shorten(', '.join(points))}"
        )
    positions = np.stack([points[label] for label in labels], axis=1) * unit_m  # (n, labels, 3)
    is_valid = np.isfinite(positions).all(axis=(1, 2))
    acc, gyr = np.full((2, len(positions), 3), np.nan)
    bounds = np.flatnonzero(np.diff(is_valid, prepend=False, append=False))
    for start, stop in zip(bounds[::2], bounds[1::2], strict=True):
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
        acc[start:stop] = orientation.inv().apply(force_m_s2)
        gyr[start:stop] = RotationSpline(time_s, orientation)(time_s, 1)
    return VirtualImu(acc, gyr)


def segment_orientation(points: np.ndarray) -> Rotation:
    """Return the rotations from the axes of a sensor to those of the laboratory.

    Args:
        points: `(n, 4, 3)` or `(n, 3, 3)` positions of the points of `Placement.frame`.
    """
    from_origin = points[:, 1:] - points[:, :1]
    if points.shape[1] == MARKERS:
        x, other = from_origin[:, 0], from_origin[:, 1]
        z = np.cross(x, other)
        from_origin = np.stack([x, np.cross(z, x), z], axis=1)
    axes = from_origin / np.linalg.norm(from_origin, axis=-1, keepdims=True)
    return Rotation.from_matrix(axes.transpose(0, 2, 1))  # which makes the axes orthonormal
