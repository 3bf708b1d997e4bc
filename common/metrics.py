"""Accuracy of a prediction, per target: NRMSE, RMSE, Pearson's r and R squared."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

METRICS = ("nrmse_percent", "rmse", "pcc", "r2")
COLUMNS = (
    *("row", "sensor_set", "modalities", "parameters", "test_subject", "activity"),
    *("target", "unit", "n", *METRICS),
)


def score(truth: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Score each target over all samples, in float64.

    Args:
        truth: `(samples, K)`, in the targets' units. prediction: The same shape.
        names: Of the targets, for the warning.

    Returns:
        Metric to `(K,)`: `nrmse_percent` (100 RMSE / (max - min of the truth)), `rmse` (in the
        target's unit), `pcc` (Pearson's r), `r2` (coefficient of determination). What a constant
        truth or prediction leaves undefined is NaN, with a warning.
    """
    truth = np.asarray(truth, np.float64)
    prediction = np.asarray(prediction, np.float64)
    error = prediction - truth
    deviation = truth - truth.mean(axis=0)
    predicted_deviation = prediction - prediction.mean(axis=0)
    spread = np.ptp(truth, axis=0)
    constant = spread == 0
    flat = constant | (np.ptp(prediction, axis=0) == 0)
    if flat.any():
        targets = ", ".join(name for name, is_flat in zip(names, flat, strict=True) if is_flat)
        warnings.warn(
            f"constant truth or prediction of {targets}: what it leaves undefined is NaN",
            RuntimeWarning,
            stacklevel=2,
        )
    rmse = np.sqrt(np.mean(error**2, axis=0))
    covariance = (deviation * predicted_deviation).sum(axis=0)
    norms = np.sqrt((deviation**2).sum(axis=0) * (predicted_deviation**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            "nrmse_percent": np.where(constant, np.nan, 100 * rmse / spread),
            "rmse": rmse,
            "pcc": np.where(flat, np.nan, covariance / norms),
            "r2": 1 - (error**2).sum(axis=0) / (deviation**2).sum(axis=0),
        }
    scores["r2"] = np.where(constant, np.nan, scores["r2"])
    return scores
