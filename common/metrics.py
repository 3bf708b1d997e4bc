"""Metrics per target (NRMSE, RMSE, PCC, R²), in long form and as printed tables."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from tabulate import tabulate

from common.files import plural

METRICS = ("nrmse_percent", "rmse", "pcc", "r2")
COLUMNS = (  # of metrics.csv
    *("row", "sensor_set", "modalities", "parameters", "test_subject", "activity"),
    *("target", "unit", "n", *METRICS),
)


def score(truth: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Score every target over all samples, in float64.

    Args:
        truth: `(samples, K)`, in the units of the targets.
        prediction: `(samples, K)`.
        names: names of the targets, for the warning.

    Returns:
        Metric -> `(K,)`: `nrmse_percent` (100 RMSE / (max - min of the truth)), `rmse` (in the unit
        of the target), `pcc` (Pearson's r), `r2` (coefficient of determination). Metrics that are
        undefined because the truth or the prediction is constant are NaN, with a warning.
    """
    truth = np.asarray(truth, np.float64)
    prediction = np.asarray(prediction, np.float64)
    error = prediction - truth
    deviation = truth - truth.mean(axis=0)
    predicted_deviation = prediction - prediction.mean(axis=0)
    truth_range = np.ptp(truth, axis=0)
    is_constant = truth_range == 0
    is_flat = is_constant | (np.ptp(prediction, axis=0) == 0)
    if is_flat.any():
        targets = ", ".join(name for name, flat in zip(names, is_flat, strict=True) if flat)
        warnings.warn(
            f"constant truth or prediction of {targets}: undefined metrics are NaN",
            RuntimeWarning,
            stacklevel=2,
        )
    rmse = np.sqrt(np.mean(error**2, axis=0))
    covariance = (deviation * predicted_deviation).sum(axis=0)
    norms = np.sqrt((deviation**2).sum(axis=0) * (predicted_deviation**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - (error**2).sum(axis=0) / (deviation**2).sum(axis=0)
        return {
            "nrmse_percent": np.where(is_constant, np.nan, 100 * rmse / truth_range),
            "rmse": rmse,
            "pcc": np.where(is_flat, np.nan, covariance / norms),
            "r2": np.where(is_constant, np.nan, r2),
        }


def long_form(
    truth: np.ndarray,
    prediction: np.ndarray,
    activity: np.ndarray,
    targets: Sequence[tuple[str, str]],
    shared: dict[str, object],
) -> pd.DataFrame:
    """Return the metrics in long form: one line per activity (and `all`) and target.

    Args:
        truth: `(samples, K)`.
        prediction: `(samples, K)`.
        activity: `(samples,)` name of the activity, empty for none.
        targets: name and unit of each target.
        shared: values of the columns that are the same in all lines.

    Returns:
        Table with the columns `COLUMNS`.
    """
    names = [name for name, _ in targets]
    masks = {"all": np.ones(len(truth), bool)}
    masks |= {name: activity == name for name in dict.fromkeys(activity) if name}
    lines = []
    for part, mask in masks.items():
        scores = score(truth[mask], prediction[mask], names)
        for k, (target, unit) in enumerate(targets):
            labels = {"activity": part, "target": target, "unit": unit, "n": int(mask.sum())}
            lines.append({**shared, **labels, **{name: scores[name][k] for name in METRICS}})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def fold_table(metrics: pd.DataFrame, rows: Sequence[str], test_subject: str) -> str:
    """Return the printed table of one test subject: NRMSE per target, mean and SD over targets."""
    lines = _all_activities(metrics, rows, [test_subject])
    targets = list(dict.fromkeys(lines["target"]))
    body = []
    for row in rows:
        nrmse = lines[lines["row"] == row].set_index("target")["nrmse_percent"]
        mean_sd = f"{_mean(nrmse):.2f} ± {_sd(nrmse):.2f}"
        body.append([row, *(f"{nrmse[target]:.2f}" for target in targets), mean_sd])
    headers = ["row", *(target.replace(" ", "\n") for target in targets), "mean ± SD"]
    count = plural(len(targets), "target")
    title = f"Test subject {test_subject}: NRMSE in %, mean ± SD over {count}"
    return f"{title}\n{aligned_table(headers, body)}"


def final_table(metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]) -> str:
    """Return the printed table of a run: mean and SD of NRMSE, PCC and R² per row.

    The SD is that over targets and, with several test subjects, also that over subjects.
    """
    lines = _all_activities(metrics, rows, test_subjects)
    targets = plural(lines["target"].nunique(), "target")
    has_several = len(test_subjects) > 1
    body = []
    for row in rows:
        chosen = lines[lines["row"] == row]
        cells = [row, f"{chosen['parameters'].iloc[0]:,}"]
        for metric, digits in (("nrmse_percent", 2), ("pcc", 3), ("r2", 3)):
            by_subject = chosen.groupby("test_subject")[metric]
            means, sds = by_subject.agg(_mean), by_subject.agg(_sd)
            cells.append(f"{_mean(means):.{digits}f} ± {_mean(sds):.{digits}f}")
            if has_several:
                cells.append(f"± {_sd(means):.{digits}f}")
        body.append(cells)
    between = ["SD over\nsubjects"] if has_several else []
    headers = ["row", "parameters", "NRMSE %", *between, "PCC", *between, "R²", *between]
    subjects = plural(len(test_subjects), "test subject")
    return f"Mean ± SD over {targets}; {subjects}\n{aligned_table(headers, body)}"


def aligned_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a plain table: first column left-aligned, the others right-aligned."""
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(body, headers, "simple", disable_numparse=True, colalign=alignment)


def _all_activities(
    metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]
) -> pd.DataFrame:
    chosen = metrics["row"].isin(rows) & metrics["test_subject"].isin(test_subjects)
    return metrics[chosen & (metrics["activity"] == "all")]


def _mean(values: pd.Series) -> float:
    """Return the mean, NaN if any value is undefined."""
    return values.mean(skipna=False)


def _sd(values: pd.Series) -> float:
    """Return the sample SD, NaN if any value is undefined."""
    return values.std(skipna=False)
