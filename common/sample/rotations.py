"""Rotation matrices over time and their derivatives. Arrays run over time in axis 0."""

import numpy as np
from numpy.typing import ArrayLike


def rotation(axis: str, angle_rad: ArrayLike) -> np.ndarray:
    """Rotation matrices (n, 3, 3) about the x, y or z axis by angles (n,) in rad."""
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
    """Rotation (n, 3, 3) about z, then the new x, then the new y: OpenSim's pelvis and hip."""
    return rotation("z", z_rad) @ rotation("x", x_rad) @ rotation("y", y_rad)


def angles_zxy(matrix: np.ndarray) -> np.ndarray:
    """Angles (n, 3) in rad, in the order z, x, y, of rotations built by `rotation_zxy`."""
    x = np.arcsin(np.clip(matrix[:, 2, 1], -1.0, 1.0))
    z = np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1])
    y = np.arctan2(-matrix[:, 2, 0], matrix[:, 2, 2])
    return np.stack([z, x, y], axis=1)


def apply(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate vectors: (n, 3, 3) and (n, 3) or (3,) give (n, 3)."""
    return np.einsum("nij,nj->ni", matrix, np.broadcast_to(vector, (len(matrix), 3)))


def apply_inverse(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Express laboratory vectors in the rotated axes: (n, 3, 3) and (n, 3) or (3,) give (n, 3)."""
    return np.einsum("nji,nj->ni", matrix, np.broadcast_to(vector, (len(matrix), 3)))


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) scaled to length 1."""
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def velocity(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """First derivative over time by central differences, same shape."""
    return np.gradient(values, 1.0 / rate_hz, axis=0, edge_order=2)


def acceleration(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Second derivative over time, same shape.

    The three-point stencil is the one that `balance` inverts, so that forces computed from the
    paths are the forces that made them. The two end rows repeat their neighbours.
    """
    result = np.empty_like(values)
    result[1:-1] = (values[2:] - 2.0 * values[1:-1] + values[:-2]) * rate_hz**2
    result[0], result[-1] = result[1], result[-2]
    return result


def angular_velocity(matrix: np.ndarray, rate_hz: float) -> np.ndarray:
    """Angular velocity (n, 3) in rad/s, in laboratory axes, of rotations (n, 3, 3)."""
    rate = velocity(matrix, rate_hz)

    def turn(i: int, j: int) -> np.ndarray:
        product = rate[:, i] * matrix[:, j] - rate[:, j] * matrix[:, i]
        return 0.5 * (product[:, 0] + product[:, 1] + product[:, 2])

    return np.stack([turn(2, 1), turn(0, 2), turn(1, 0)], axis=1)
