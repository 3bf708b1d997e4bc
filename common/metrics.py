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
    *("row", "sensor_set", "modalities", "parameters", "test_subject", "activity", "phase"),
    *("target", "unit", "n", *METRICS),
)
ALL_SAMPLES, STANCE = "all", "stance"  # phases


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
    is_stance: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the metrics in long form: one line per phase, activity (and `all`) and target.

    Args:
        truth: `(samples, K)`.
        prediction: `(samples, K)`.
        activity: `(samples,)` name of the activity, empty for none.
        targets: name and unit of each target.
        shared: values of the columns that are the same in all lines.
        is_stance: `(samples,)` mask of the samples in a stance. They are scored again by
            themselves, as phase `stance`; the other lines have the phase `all`.

    Returns:
        Table with the columns `COLUMNS`.
    """
    names = [name for name, _ in targets]
    masks = {"all": np.ones(len(truth), bool)}
    masks |= {name: activity == name for name in dict.fromkeys(activity) if name}
    parts = [(ALL_SAMPLES, name, mask) for name, mask in masks.items()]
    if is_stance is not None:
        parts += [(STANCE, name, mask & is_stance) for name, mask in masks.items()]
    lines = []
    for phase, part, mask in parts:
        if phase == STANCE and not mask.any():
            continue
        scores = score(truth[mask], prediction[mask], names)
        for k, (target, unit) in enumerate(targets):
            labels = {"activity": part, "phase": phase, "target": target, "unit": unit}
            numbers = {"n": int(mask.sum()), **{name: scores[name][k] for name in METRICS}}
            lines.append({**shared, **labels, **numbers})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def with_phase(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return metrics, possibly none, with the current columns.

    Lines of earlier versions have no phase, since they are those of all samples.
    """
    phase = metrics["phase"] if "phase" in metrics else pd.Series(index=metrics.index, dtype=object)
    return metrics.assign(phase=phase.fillna(ALL_SAMPLES)).reindex(columns=list(COLUMNS))


def overall(metrics: pd.DataFrame, phase: str = ALL_SAMPLES) -> pd.DataFrame:
    """Return the lines of a phase over all activities."""
    return metrics[(metrics["activity"] == "all") & (metrics["phase"] == phase)]


def fold_table(metrics: pd.DataFrame, rows: Sequence[str], test_subject: str) -> str:
    """Return the printed table of one test subject: NRMSE per target, and mean over targets."""
    lines = _all_activities(metrics, rows, [test_subject])
    targets = list(dict.fromkeys(lines["target"]))
    body = []
    for row in rows:
        nrmse = lines[lines["row"] == row].set_index("target")["nrmse_percent"]
        body.append([row, *(f"{nrmse[target]:.2f}" for target in targets), f"{_mean(nrmse):.2f}"])
    headers = ["row", *(target.replace(" ", "\n") for target in targets), "mean"]
    count = plural(len(targets), "target")
    title = f"Test subject {test_subject}: NRMSE in %, mean over {count}"
    return f"{title}\n{aligned_table(headers, body)}"


def final_table(metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]) -> str:
    """Return the printed table of a run: NRMSE, PCC and R² per row.

    They are means over the targets, then mean ± SD over the test subjects; one has no SD.
    """
    lines = _all_activities(metrics, rows, test_subjects)
    targets = plural(lines["target"].nunique(), "target")
    body = []
    for row in rows:
        chosen = lines[lines["row"] == row]
        cells = [row, f"{chosen['parameters'].iloc[0]:,}"]
        for metric, digits in (("nrmse_percent", 2), ("pcc", 3), ("r2", 3)):
            means = chosen.groupby("test_subject")[metric].agg(_mean)
            sd = f" ± {means.std(skipna=False):.{digits}f}" if len(test_subjects) > 1 else ""
            cells.append(f"{_mean(means):.{digits}f}{sd}")
        body.append(cells)
    headers = ["row", "parameters", "NRMSE %", "PCC", "R²"]
    tested = f", then mean ± SD over {len(test_subjects)} test subjects"
    tested = tested if len(test_subjects) > 1 else f", test subject {test_subjects[0]}"
    return f"Mean over {targets}{tested}\n{aligned_table(headers, body)}"


def aligned_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a plain table: first column left-aligned, the others right-aligned."""
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(body, headers, "simple", disable_numparse=True, colalign=alignment)


def _all_activities(
    metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]
) -> pd.DataFrame:
    chosen = metrics["row"].isin(rows) & metrics["test_subject"].isin(test_subjects)
    return overall(metrics[chosen])


def _mean(values: pd.Series) -> float:
    """Return the mean, NaN if any value is undefined."""
    return values.mean(skipna=False)
