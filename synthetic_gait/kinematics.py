"""Rotations, poses and their derivatives. All arrays have time on their first axis."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Pose(NamedTuple):
    """Position and orientation of a segment over time, in laboratory axes.

    Attributes:
        origin_m: (n, 3) position of the proximal joint.
        rotation: (n, 3, 3) segment axes as columns.
    """

    origin_m: np.ndarray
    rotation: np.ndarray

    def point(self, local_m: np.ndarray) -> np.ndarray:
        """Return the path (n, 3), in m, of a point given in segment axes."""
        return self.origin_m + rotate(self.rotation, local_m)


Poses = dict[str, Pose]  # by segment


def rotation(axis: str, angle_rad: ArrayLike) -> np.ndarray:
    """Return rotation matrices (n, 3, 3) about one axis.

    Args:
        axis: `x`, `y` or `z`.
        angle_rad: angles (n,), or one angle (n = 1).
    """
    angle = np.atleast_1d(np.asarray(angle_rad, dtype=float))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, i, i] = 1.0
    matrix[:, j, j] = matrix[:, k, k] = np.cos(angle)
    matrix[:, k, j] = np.sin(angle)
    matrix[:, j, k] = -np.sin(angle)
    return matrix


def rotation_zxy(z_rad: ArrayLike, x_rad: ArrayLike, y_rad: ArrayLike) -> np.ndarray:
    """Return rotations (n, 3, 3) about z, the new x and the new y, as for OpenSim's hip."""
    return rotation("z", z_rad) @ rotation("x", x_rad) @ rotation("y", y_rad)


def angles_zxy(matrix: np.ndarray) -> np.ndarray:
    """Return the angles (n, 3), in rad, that `rotation_zxy` needs to give `matrix`: z, x, y."""
    x = np.arcsin(np.clip(matrix[:, 2, 1], -1.0, 1.0))
    z = np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1])
    y = np.arctan2(-matrix[:, 2, 0], matrix[:, 2, 2])
    return np.stack([z, x, y], axis=1)


def rotate(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate vectors (n, 3) or one vector (3,) by rotations (n, 3, 3)."""
    return np.einsum("nij,nj->ni", matrix, np.broadcast_to(vector, (len(matrix), 3)))


def rotate_back(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate vectors (n, 3) or one vector (3,) by the inverse of rotations (n, 3, 3)."""
    return np.einsum("nji,nj->ni", matrix, np.broadcast_to(vector, (len(matrix), 3)))


def unit(vector: np.ndarray) -> np.ndarray:
    """Return vectors (n, 3) scaled to length 1."""
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def derivative(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the first derivative over time by central differences."""
    return np.gradient(values, 1.0 / rate_hz, axis=0, edge_order=2)


def second_derivative(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the second derivative over time by the three-point stencil.

    `motion` solves for the path of the body with the same stencil, so that the forces computed from
    a path are the forces that produced it. The values at both ends repeat their neighbors.
    """
    result = np.empty_like(values)
    result[1:-1] = (values[2:] - 2.0 * values[1:-1] + values[:-2]) * rate_hz**2
    result[0], result[-1] = result[1], result[-2]
    return result


def angular_velocity(matrix: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the angular velocity (n, 3), in rad/s and laboratory axes, of rotations (n, 3, 3)."""
    rate = derivative(matrix, rate_hz)

    def antisymmetric(i: int, j: int) -> np.ndarray:
        product = rate[:, i] * matrix[:, j] - rate[:, j] * matrix[:, i]
        return 0.5 * (product[:, 0] + product[:, 1] + product[:, 2])

    return np.stack([antisymmetric(2, 1), antisymmetric(0, 2), antisymmetric(1, 0)], axis=1)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Return unit quaternions (n, 4) of rotations (n, 3, 3), non-negative scalar part first."""
    trace = np.einsum("nii->n", matrix)
    diagonal = np.einsum("nii->ni", matrix)
    size = np.sqrt(np.maximum(np.c_[1.0 + trace, 1.0 - trace[:, None] + 2.0 * diagonal], 0.0)) / 2.0
    signs = np.stack(
        [
            matrix[:, 2, 1] - matrix[:, 1, 2],
            matrix[:, 0, 2] - matrix[:, 2, 0],
            matrix[:, 1, 0] - matrix[:, 0, 1],
        ],
        axis=1,
    )
    return np.c_[size[:, 0], np.copysign(size[:, 1:], signs)]
