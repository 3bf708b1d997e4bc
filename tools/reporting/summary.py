"""The numbers of the tables: means over targets, means and SD over subjects."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tools.reporting import layout
from tools.reporting.collect import Results
from tools.reporting.text import Cell, MeanSD, Table

LONGEST_LIST = 10  # names in a note
METRICS = {"nrmse_percent": ("NRMSE %", 2), "pcc": ("PCC", 3)}  # name in tables, digits


def overall(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the lines over all activities."""
    return lines[lines["activity"] == "all"]


def subject_means(lines: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric's mean over targets: a line per row, a column per subject.

    A subject that was not tested is NaN, and so is the mean where a target is undefined.
    """
    means = overall(lines).groupby(["row", "test_subject"], sort=False)[metric]
    return means.agg(lambda values: values.mean(skipna=False)).unstack("test_subject")


def common_subjects(lines: pd.DataFrame) -> list[str]:
    """Return the subjects on which every row was tested and is defined."""
    means = subject_means(lines, "nrmse_percent")
    return list(means.columns[means.notna().all()])


def on_common_subjects(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the lines on the subjects that all rows have in common."""
    return lines[lines["test_subject"].isin(common_subjects(lines))]


def mean_sd(values: pd.Series, digits: int) -> MeanSD | None:
    """Return mean and sample SD over subjects; no SD of a single one, None of none."""
    if not len(values):
        return None
    sd = values.std(skipna=False) if len(values) > 1 else None
    return MeanSD(values.mean(skipna=False), sd, digits)


def folds(lines: pd.DataFrame, row: str, results: Results) -> str:
    """Return how many of the file's subjects a row was tested on."""
    done = lines.loc[lines["row"] == row, "test_subject"].nunique()
    return f"{done} of {len(results.subjects)}"


def places(results: Results) -> dict[layout.Place, list[str]]:
    """Return the rows of each group, groups and rows in the paper's order."""
    known = results.lines.drop_duplicates("row")
    scripts = dict(zip(known["row"], known["script"], strict=True))
    found: dict[layout.Place, list[str]] = {}
    ordered = layout.in_order(results.dataset, zip(known["row"], known["sensor_set"], strict=True))
    for row, sensor_set in ordered:
        place = layout.place(results.dataset, scripts[row], row, sensor_set)
        found.setdefault(place, []).append(row)
    return dict(sorted(found.items(), key=lambda item: item[0].number))


def tables(results: Results) -> list[Table]:
    """Return the paper's tables: each with means, then NRMSE and PCC per target."""
    by_table: dict[tuple[str, str], list[str]] = {}
    for place, rows in places(results).items():
        by_table.setdefault((place.number, place.title), []).extend(rows)
    found = []
    for (number, title), rows in by_table.items():
        lines = results.lines[results.lines["row"].isin(rows)]
        stem = f"table_{number.replace(', ', '_').replace(' ', '_')}"
        of_the_paper = f"the paper's Table {number}" if "," not in number else "not in the paper"
        title = f"{title}, Dataset {results.dataset} ({of_the_paper})"
        title += ", SYNTHETIC DATA" if results.is_synthetic else ""
        found.append(_means(results, lines, rows, number, stem, title))
        for metric, (name, digits) in METRICS.items():
            about = f"{title}: {name} per target"
            part = f"{stem}_{metric.split('_')[0]}_per_target"
            found.append(_per_target(results, lines, rows, metric, digits, part, about))
    return found


def _means(
    results: Results, lines: pd.DataFrame, rows: Sequence[str], number: str, stem: str, title: str
) -> Table:
    means = {metric: subject_means(lines, metric) for metric in METRICS}
    common, is_mixed = common_subjects(lines), not _same_subjects(lines)
    with_paper = paper_column_fits(results)
    header = ["model", "row", "parameters", "folds", *(name for name, _ in METRICS.values())]
    header += [f"NRMSE % on {len(common)} common subjects"] if is_mixed else []
    header += ["paper's NRMSE %"] if with_paper else []
    body = []
    for row in rows:
        parameters = int(lines.loc[lines["row"] == row, "parameters"].iloc[0])
        line: list[Cell] = [layout.label(row), row, parameters, folds(lines, row, results)]
        tested = lines.loc[lines["row"] == row, "test_subject"].unique()
        for metric, (_, digits) in METRICS.items():
            line.append(mean_sd(means[metric].loc[row, tested], digits))
        if is_mixed:
            line.append(mean_sd(means["nrmse_percent"].loc[row, common], 2))
        if with_paper:
            line.append(layout.PAPER_NRMSE[results.dataset].get(row))
        body.append(line)
    return Table(stem, title, header, body, _notes(results, lines, rows, number))


def _per_target(
    results: Results,
    lines: pd.DataFrame,
    rows: Sequence[str],
    metric: str,
    digits: int,
    stem: str,
    title: str,
) -> Table:
    by_row = dict(list(overall(lines).groupby("row")))
    targets = list(dict.fromkeys(lines["target"]))
    body = [
        [row, folds(lines, row, results)]
        + [
            mean_sd(by_row[row].loc[by_row[row]["target"] == target, metric], digits)
            for target in targets
        ]
        for row in rows
    ]
    notes = [] if _same_subjects(lines) else [_MIXED]
    return Table(stem, title, ["row", "folds", *targets], body, notes)


_MIXED = "The rows were tested on different subjects: these means do not compare them."


def _notes(results: Results, lines: pd.DataFrame, rows: Sequence[str], number: str) -> list[str]:
    notes = ["Mean over targets, then mean ± SD over test subjects."]
    if not _same_subjects(lines):
        common = ", ".join(common_subjects(lines)) or "none"
        notes.append(f"{_MIXED} Compare on the common subjects: {common}.")
    if any(layout.kind(row) == "lstm" for row in rows) and paper_column_fits(results):
        notes.append(layout.LSTM_NOTE)
    if not paper_column_fits(results) and not results.is_synthetic:
        there, here = layout.SUBJECTS[results.dataset], len(results.subjects)
        notes.append(
            f"The paper's figures are of {there} subjects under the protocol `paper`; with "
            f"{here} under `{results.settings['protocol']}` they are not comparable, and left out."
        )
    missing = [row for row in layout.expected_rows(results.dataset, number) if row not in rows]
    if missing:
        names = f": {', '.join(missing)}" if len(missing) <= LONGEST_LIST else ""
        notes.append(f"Not run: {len(missing)} of the paper's rows{names}.")
    return notes


def paper_column_fits(results: Results) -> bool:
    """Whether the paper's figures may stand beside: its protocol, and as many measured subjects."""
    is_whole = len(results.subjects) == layout.SUBJECTS[results.dataset]
    return is_whole and results.settings["protocol"] == "paper" and not results.is_synthetic


def _same_subjects(lines: pd.DataFrame) -> bool:
    return lines.groupby("row")["test_subject"].agg(lambda s: frozenset(s)).nunique() == 1
