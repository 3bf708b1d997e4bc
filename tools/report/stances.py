"""The stances in a report: peaks and impulses, scores of the stance phase, implausible forces."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.files import InputError, printable
from common.metrics import ALL_SAMPLES, METRICS, STANCE
from common.stances import CONTACT_BW, MEASURES, RELEASE_BW, vertical_force
from tools.report import paper
from tools.report.runs import RMSE_NM_PER_KG, Results, check_text, damaged
from tools.report.statistics import limits_of_agreement
from tools.report.tables import Table, sort_rows
from tools.trained import renamed_targets

ARRAYS = ("truth", "prediction", "activity", "stretch")
KEYS = ["folder", "name", "test_subject"]
SHOWN = {"maximum": "maxima", "minimum": "minima", "impulse": "impulses"}
METRIC_NAMES = {
    **dict(zip(METRICS, ("NRMSE %", "RMSE", "PCC", "R²"), strict=True)),
    RMSE_NM_PER_KG: "RMSE N·m/kg",
}
AGREEMENT_NOTE = (
    "Bias: mean of estimated minus measured over all stances. MAE: mean absolute error. Limits: "
    "95 % limits of agreement from the variances within and between test subjects, because the "
    "stances of a person are alike (Bland and Altman 2007, multiple observations per individual, "
    "unequal numbers; for one test subject, the variance within). r: Pearson's, over all stances."
)
IMPULSE_NOTE = "An impulse is the integral over a stance, in the unit of the target times seconds."
PHASE_NOTE = (
    "Mean over the test subjects of each row; stance: only the samples in complete stances, over "
    "whose range NRMSE is normalized."
)
NM_PER_KG_NOTE = "N·m/kg: with body mass and height from the data file."
PLAUSIBILITY_NOTE = (
    f"Swing: samples with less than {RELEASE_BW} BW of measured vertical force. Loaded: those with "
    f"more than {CONTACT_BW} BW of estimated force. Over all samples of all test subjects."
)


class Predictions(NamedTuple):
    """A file in `predictions/`.

    Attributes:
        arrays: `truth` and `prediction`, `(samples, K)`; `activity` and `stretch`, `(samples,)`.
        targets: name and unit of each target.
        rate_hz: sampling rate; None in a file of an earlier version.
    """

    arrays: dict[str, np.ndarray]
    targets: list[tuple[str, str]]
    rate_hz: float | None


def load_stances(results: Results) -> pd.DataFrame:
    """Load the stances of all rows, with the row names of the report.

    Prints a message about runs without `stances.csv`.

    Returns:
        Columns as in `stances.csv`; empty if there are no stances.

    Raises:
        InputError: A file is damaged.
    """
    parts = []
    for run in results.runs:
        path = run.folder / "stances.csv"
        if not path.exists():
            print(
                f"{printable(run.folder.name)}: no stance results, because it has no stances.csv; "
                "a run with predictions/ and a vertical force in its script writes it when it is "
                "resumed."
            )
            continue
        try:
            part = pd.read_csv(
                path, dtype={"test_subject": str, "activity": str}, keep_default_na=False
            )
            numbers = [f"{kind}_{name}" for kind in ("measured", "estimated") for name in MEASURES]
            part[numbers] = part[numbers].astype(float)
            for column in ("activity", "target"):
                check_text(column, set(part[column]) - {""})
            part = part.replace({"target": renamed_targets(run.script)})
            parts.append(part.rename(columns={"row": "name"}).assign(folder=run.folder))
        except (OSError, ValueError, KeyError) as error:
            raise damaged(path, error) from error
    tested = results.metrics[["row", "folder", "test_subject"]].drop_duplicates()
    tested["name"] = tested["row"].str.partition(" (")[0]  # without the mark of a script
    if not parts:
        return pd.DataFrame(columns=["row", "activity", "target"])
    stances = tested.merge(pd.concat(parts), on=KEYS).drop(columns=["name", "folder"])
    return stances[~stances["row"].map(paper.kind).isin(paper.PARTS)]


def stance_tables(results: Results, stances: pd.DataFrame) -> list[Table]:
    """Return the tables of peaks, impulses, the stance phase and plausibility."""
    tables = []
    rows = [row for row in sort_rows(results) if row in set(stances["row"])]
    activities = [name for name in stances["activity"].unique() if name]
    digits = 4 if "BW·BH" in set(results.metrics["unit"]) else 3
    for measure, plural in SHOWN.items() if rows else ():
        notes = [AGREEMENT_NOTE, *([IMPULSE_NOTE] if measure == "impulse" else [])]
        title = f"{plural.capitalize()} in stance, measured and estimated, {results.label}"
        numbers = pd.DataFrame(_agreement(stances, rows, measure))
        tables.append(Table(f"stance_{plural}", title, numbers, notes, digits))
        if len(activities) > 1:
            stem = f"stance_{plural}_per_activity"
            notes.append(f"Per activity: {stem}.csv.")
            lines = [
                {"activity": activity, **line}
                for activity in activities
                for line in _agreement(stances[stances["activity"] == activity], rows, measure)
            ]
            tables.append(Table(stem, title, pd.DataFrame(lines), notes, digits, is_long=True))
    tables += _phase_tables(results)
    if lines := list(_plausibility(results)):
        title = f"Vertical force in swing, {results.label}"
        numbers = pd.DataFrame(lines)
        tables.append(Table("plausibility", title, numbers, [PLAUSIBILITY_NOTE]))
    return tables


def _agreement(
    stances: pd.DataFrame, rows: Sequence[str], measure: str
) -> Iterator[dict[str, object]]:
    """Yield the agreement of a measure for each row and target."""
    for row in rows:
        of_row = stances[stances["row"] == row]
        for (target, unit), part in of_row.groupby(["target", "unit"], sort=False):
            measured, estimated = part[f"measured_{measure}"], part[f"estimated_{measure}"]
            differences = estimated - measured
            by_subject = differences.groupby(part["test_subject"])
            bias, low, high = limits_of_agreement([d.to_numpy() for _, d in by_subject])
            is_constant = measured.nunique() < 2 or estimated.nunique() < 2
            yield {
                "row": row,
                "target": f"{target} ({unit}{'·s' if measure == 'impulse' else ''})",
                "stances": len(part),
                "measured": measured.mean(),
                "bias": bias,
                "MAE": differences.abs().mean(),
                "lower limit": low,
                "upper limit": high,
                "r": np.nan if is_constant else measured.corr(estimated),
            }


def _phase_tables(results: Results) -> Iterator[Table]:
    """Yield the scores of the stance phase next to those of all samples."""
    metrics = results.metrics[~results.metrics["row"].map(paper.kind).isin(paper.PARTS)]
    if STANCE not in set(metrics["phase"]):
        return
    keys = ["row", "activity", "target", "unit", "phase"]
    names = [name for name in METRIC_NAMES if name in metrics]
    means = metrics.groupby(keys, sort=False)[names].mean().unstack("phase")
    means = means.reindex(columns=pd.MultiIndex.from_product([names, (ALL_SAMPLES, STANCE)]))
    phases = {ALL_SAMPLES: "", STANCE: ", stance"}
    means.columns = [f"{METRIC_NAMES[metric]}{phases[phase]}" for metric, phase in means.columns]
    rows = [row for row in sort_rows(results) if row in set(metrics["row"])]
    lines = means.loc[rows].reset_index()
    is_all = lines["activity"] == "all"
    title = f"The stance phase next to all samples, {results.label}"
    notes = [PHASE_NOTE, *([NM_PER_KG_NOTE] if RMSE_NM_PER_KG in names else [])]
    numbers = lines[is_all].drop(columns="activity")
    yield Table("stance_phase", f"{title}: per target", numbers, notes, 3)
    if is_all.all():
        return
    per_activity = "stance_phase_per_activity"
    yield Table(per_activity, title, lines[~is_all], notes, 3, is_long=True)
    shown = lines.drop(columns=["target", "unit", *(c for c in lines if c.startswith("RMSE"))])
    shown = shown.groupby(["row", "activity"], sort=False).mean().reset_index()
    notes = [f"Mean over targets. {PHASE_NOTE} Per target: {per_activity}.csv."]
    yield Table("stance_phase_mean", f"{title}: per activity", shown, notes, 3)


def _plausibility(results: Results) -> Iterator[dict[str, object]]:
    """Yield the share of swing samples with an estimated force, and the most negative force."""
    metrics = results.metrics[~results.metrics["row"].map(paper.kind).isin(paper.PARTS)]
    for row in sort_rows(results):
        swing = []
        lowest = np.inf
        for path, script in prediction_files(metrics, row):
            if not path.exists():
                continue
            arrays, targets, _ = load_predictions(path, script)
            vertical = vertical_force(targets)
            if vertical is None:
                return
            estimated = arrays["prediction"][:, vertical]
            swing.append(estimated[arrays["truth"][:, vertical] < RELEASE_BW] > CONTACT_BW)
            lowest = min(lowest, float(estimated.min()))
        if swing:
            share = np.concatenate(swing)
            yield {
                "row": row,
                "swing samples": len(share),
                "loaded %": 100 * share.mean() if len(share) else np.nan,
                "lowest estimated force (BW)": lowest,
            }


def load_row(results: Results, row: str) -> list[Predictions]:
    """Load the files in `predictions/` of a row, one per test subject, for its stance curves.

    Prints a message and returns none if one of them is missing or lacks its sampling rate.

    Raises:
        InputError: A file is damaged, or its targets differ from those of the others.
    """
    files: list[Predictions] = []
    for path, script in prediction_files(results.metrics, row):
        if not path.exists():
            print(f"{row}: no stance curves, because {printable(path)} is missing.")
            return []
        files.append(load_predictions(path, script))
        if files[-1].rate_hz is None:
            print(f"{row}: no stance curves, because {printable(path)} lacks the sampling rate.")
            return []
        if files[-1].targets != files[0].targets:
            raise InputError(f"{path}: its targets differ from those of the other subjects")
    return files


def prediction_files(metrics: pd.DataFrame, row: str) -> list[tuple[Path, str]]:
    """Return the file in `predictions/` and the script of each test subject of a row."""
    name = row.partition(" (")[0]  # without the mark of a script
    of_row = metrics[metrics["row"] == row].drop_duplicates("test_subject")
    places = of_row[["folder", "test_subject", "script"]].to_numpy()
    return [
        (run / "predictions" / f"{name}-subject_{subject}.npz", script)
        for run, subject, script in places
    ]


def load_predictions(path: Path, script: str) -> Predictions:
    """Load a file in `predictions/` of a run of a script.

    Raises:
        InputError: The file is damaged.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ARRAYS}
            renamed = renamed_targets(script)
            names = [renamed.get(name, name) for name in file["target"].tolist()]
            targets = list(zip(names, file["unit"].tolist(), strict=True))
            rate_hz = float(file["rate_hz"]) if "rate_hz" in file else None
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) > 1 or arrays["truth"].shape[1:] != (len(names),):
            raise ValueError("arrays of different lengths")
        return Predictions(arrays, targets, rate_hz)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged predictions ({error}); delete the file and resume its run"
        ) from error
