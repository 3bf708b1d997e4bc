"""Results as long-form metrics, and as the tables printed on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from common.metrics import COLUMNS, METRICS, score


def long_form(
    truth: np.ndarray,
    prediction: np.ndarray,
    activity: np.ndarray,
    targets: Sequence[tuple[str, str]],
    about: dict[str, object],
) -> pd.DataFrame:
    """Score a prediction per activity, and over all, and per target.

    Args:
        truth: `(samples, K)`. prediction: `(samples, K)`. activity: `(samples,)` names.
        targets: Name and unit of each. about: Columns that are the same in every line.
    """
    names = [name for name, _ in targets]
    parts = {"all": np.ones(len(truth), bool)}
    parts |= {name: activity == name for name in dict.fromkeys(activity) if name}
    lines = []
    for part, chosen in parts.items():
        scores = score(truth[chosen], prediction[chosen], names)
        for k, (target, unit) in enumerate(targets):
            values = {metric: scores[metric][k] for metric in METRICS}
            counts = {"activity": part, "target": target, "unit": unit, "n": int(chosen.sum())}
            lines.append({**about, **counts, **values})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def fold_table(metrics: pd.DataFrame, rows: Sequence[str], test_subject: str) -> str:
    """Return NRMSE per target, and its mean and SD over targets, on one test subject."""
    lines = _all_activities(metrics, rows, [test_subject])
    targets = list(dict.fromkeys(lines["target"]))
    body = []
    for row in rows:
        nrmse = lines[lines["row"] == row].set_index("target")["nrmse_percent"]
        body.append([row, *(f"{nrmse[t]:.2f}" for t in targets), _mean_sd(nrmse, 2)])
    stacked = [target.replace(" ", "\n") for target in targets]
    title = f"Test subject {test_subject}: NRMSE in %, mean ± SD over {len(targets)} targets"
    return f"{title}\n{_layout(['row', *stacked, 'mean ± SD'], body)}"


def final_table(metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]) -> str:
    """Return, per row, the means over targets and folds with the SD over each."""
    lines = _all_activities(metrics, rows, test_subjects)
    targets = lines["target"].nunique()
    body = []
    for row in rows:
        chosen = lines[lines["row"] == row]
        cells = [row, f"{chosen['parameters'].iloc[0]:,}"]
        for metric, digits in (("nrmse_percent", 2), ("pcc", 3), ("r2", 3)):
            by_subject = chosen.groupby("test_subject")[metric]
            means = by_subject.agg(_mean)
            cells.append(f"{_mean(means):.{digits}f} ± {_mean(by_subject.agg(_sd)):.{digits}f}")
            if len(test_subjects) > 1:
                cells.append(f"± {_sd(means):.{digits}f}")
        body.append(cells)
    subjects = f"{len(test_subjects)} test subject" + ("s" if len(test_subjects) > 1 else "")
    title = f"Mean ± SD over {targets} targets; {subjects}"
    header = ["row", "parameters", "NRMSE %", "PCC", "R²"]
    if len(test_subjects) > 1:
        between = "SD over\nsubjects"
        header = ["row", "parameters", "NRMSE %", between, "PCC", between, "R²", between]
    return f"{title}\n{_layout(header, body)}"


def _all_activities(
    metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]
) -> pd.DataFrame:
    chosen = metrics["row"].isin(rows) & metrics["test_subject"].isin(test_subjects)
    return metrics[chosen & (metrics["activity"] == "all")]


def _mean(values: pd.Series) -> float:
    """Mean that an undefined value makes undefined, rather than leaving it out unseen."""
    return values.mean(skipna=False)


def _sd(values: pd.Series) -> float:
    return values.std(skipna=False)


def _mean_sd(values: pd.Series, digits: int) -> str:
    return f"{_mean(values):.{digits}f} ± {_sd(values):.{digits}f}"


def _layout(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Align cells, the first column left, the others right; a header may have several lines."""
    stacked = [cell.split("\n") for cell in header]
    heads = zip_longest(*(words[::-1] for words in stacked), fillvalue="")
    lines = [*reversed(list(heads)), *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    depth = max(map(len, stacked))
    texts.insert(depth, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(texts)
