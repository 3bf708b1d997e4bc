"""Figures of a report: models over subjects, accuracy against size, and against number of IMUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common import charts, plots
from common.files import written_whole
from tools.reporting import agreement, agreement_figures, layout
from tools.reporting.collect import Results
from tools.reporting.summary import (
    common_subjects,
    on_common_subjects,
    overall,
    places,
    subject_means,
)

LEAST_FOR_A_BOX = 5  # subjects; fewer are drawn as points only
NRMSE = "NRMSE (%), mean over targets"


def write_all(results: Results, folder: Path, agreement_rows: Sequence[str] | None) -> None:
    """Write the figures as PNG; networks that are parts of another row stand in tables only.

    Raises:
        InputError: Predictions are damaged.
    """
    lines = results.lines
    whole = lines[~lines["row"].map(layout.kind).isin(layout.PARTS)]
    if whole.empty:
        print(f"{results.name}: only parts of other rows: no figures.")
        return
    results = replace(results, lines=whole)
    with plots.style():
        by_table: dict[str, dict[str, list[str]]] = {}
        for place, rows in places(results).items():
            by_table.setdefault(place.number, {})[place.group] = rows
        for number, groups in by_table.items():
            stem = f"models_table_{number.replace(', ', '_').replace(' ', '_')}"
            _save(folder / f"{stem}.png", models(results, number, groups))
        if common_subjects(results.lines):
            _save(folder / "nrmse_against_parameters.png", against_parameters(results))
        else:
            print(f"{results.name}: no subject in common to all rows: no figure of parameters.")
        _write_against_imus(results, folder)
        _write_agreement(results, folder, agreement_rows)


def _save(path: Path, figure: Figure) -> None:
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=150)


def _title(results: Results, text: str, subjects: int) -> str:
    mark = "SYNTHETIC DATA: " if results.is_synthetic else ""
    count = f"{subjects} test subject" + ("s" if subjects > 1 else "")
    return f"{mark}{text}, Dataset {results.dataset}, {count}"


def models(results: Results, number: str, groups: dict[str, list[str]]) -> Figure:
    """Draw a table's rows as boxes over subjects, a panel per sensor set; points are subjects.

    A panel is of the subjects that its rows have in common.
    """
    counts = [len(rows) for rows in groups.values()]
    figure = Figure(figsize=(8, 1.4 + 0.55 * len(groups) + 0.3 * sum(counts)))
    all_axes = figure.subplots(
        len(groups), sharex=True, squeeze=False, height_ratios=[n + 1 for n in counts]
    )[:, 0]
    for axes, (sensors, rows) in zip(all_axes, groups.items(), strict=True):
        lines = results.lines[results.lines["row"].isin(rows)]
        shared = common_subjects(lines)
        means = subject_means(lines, "nrmse_percent").loc[rows, shared]
        shown = means.reset_index().melt("row", value_name="nrmse")
        labels = {"data": shown, "x": "nrmse", "y": "row", "order": rows, "ax": axes}
        if len(shared) >= LEAST_FOR_A_BOX:
            sns.boxplot(**labels, color="#a9c6e3", showfliers=False, linewidth=1, width=0.65)
        if shared:
            sns.stripplot(**labels, color="0.25", size=4, jitter=False, alpha=0.6)
        axes.set_yticks(range(len(rows)), [layout.label(row) for row in rows], fontsize=8)
        axes.set(xlabel="", ylabel="")
        axes.set_title(f"{sensors}, {len(shared)} common subjects", fontsize=9, loc="left")
    all_axes[-1].set_xlabel(NRMSE)
    box = (
        f"points: subjects; from {LEAST_FOR_A_BOX} on, boxes: quartiles, whiskers: at most 1.5 IQR"
    )
    figure.suptitle(f"{_heading(results, number)}\n{box}", fontsize=10)
    return figure


def _heading(results: Results, number: str) -> str:
    mark = "SYNTHETIC DATA: " if results.is_synthetic else ""
    return f"{mark}Models of Table {number}, Dataset {results.dataset}"


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that none beats in `parameters` without losing in `nrmse`, by size."""
    ordered = points.sort_values(["parameters", "nrmse"])
    best_before = ordered["nrmse"].cummin().shift(fill_value=float("inf"))
    return ordered[ordered["nrmse"] < best_before]


def against_parameters(results: Results) -> Figure:
    """Draw NRMSE, mean over the common subjects, against used parameters, and the Pareto front."""
    lines = on_common_subjects(results.lines)
    rows = lines.groupby("row")[["parameters", "sensor_set"]].first()
    points = rows.assign(nrmse=subject_means(lines, "nrmse_percent").mean(axis=1))
    ordered = layout.in_order(results.dataset, zip(points.index, points["sensor_set"], strict=True))
    points = points.loc[[row for row, _ in ordered]]
    points["model"] = [layout.MODELS.get(layout.kind(row), "ablation") for row in points.index]
    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots()
    names = {"sensor_set": "sensor set"}
    sns.scatterplot(
        points.rename(columns=names), x="parameters", y="nrmse", hue="model", style="sensor set",
        palette=sns.color_palette("tab20", points["model"].nunique()), s=55, ax=axes,
    )  # fmt: skip
    front = pareto_front(points)
    axes.plot(
        front["parameters"], front["nrmse"], color="0.3", linewidth=1, zorder=0,
        drawstyle="steps-post", label="Pareto front",
    )  # fmt: skip
    for number, place in enumerate(front[["parameters", "nrmse"]].to_numpy(), start=1):
        axes.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set(xlabel="used parameters", ylabel=NRMSE)
    subjects = lines["test_subject"].nunique()
    title = _title(results, "NRMSE against parameters", subjects)
    axes.set_title(title, fontsize=10)
    handles, texts = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    figure.legend(handles, texts, loc="outside right upper", fontsize=8)
    names = [f"{number}  {row}" for number, row in enumerate(front.index, start=1)]
    blank = [Line2D([], [], linestyle="none") for _ in names]
    figure.legend(
        blank, names, loc="outside lower left", ncols=4, fontsize=8, handlelength=0,
        title="on the front", title_fontsize=8,
    )  # fmt: skip
    return figure


def _write_against_imus(results: Results, folder: Path) -> None:
    """Draw naive and distilled students, and the teacher, on their common subjects."""
    imus = layout.SPARSE_SETS[results.dataset]
    lines = overall(results.lines).assign(kind=lambda frame: frame["row"].map(layout.kind))
    students = lines["kind"].isin(["student", "distilled"]) & lines["sensor_set"].isin(imus)
    if not students.any():
        return
    lines = on_common_subjects(lines[students | (lines["kind"] == "teacher")])
    if lines.empty:
        print(f"{results.name}: no subject in common to the students: no figure of IMUs.")
        return
    count = {**imus, layout.FULL_SET[results.dataset]: max(imus.values())}
    lines = lines.assign(imus=lines["sensor_set"].map(count), third="")
    figure = charts.nrmse_against_imus(lines)
    subjects = lines["test_subject"].nunique()
    title = _title(results, "NRMSE against number of IMUs\nMean and SD", subjects)
    figure.axes[0].set_title(title, fontsize=10)
    _save(folder / "nrmse_against_imus.png", figure)


def _write_agreement(results: Results, folder: Path, wanted: Sequence[str] | None) -> None:
    for row in wanted or default_agreement_rows(results):
        lines = results.lines[results.lines["row"] == row]
        if lines.empty:
            continue
        sources = lines.drop_duplicates("test_subject")[["folder", "test_subject"]]
        files = [agreement.predictions(run, row, subject) for run, subject in sources.values]
        missing = [path for path in files if not path.exists()]
        if missing:
            print(f"{row}: no plots of agreement, since {missing[0]} is not there.")
            continue
        found = agreement.read(files)
        mark = "SYNTHETIC DATA: " if results.is_synthetic else ""
        title = f"{mark}{row}, Dataset {results.dataset}"
        _save(folder / f"bland_altman-{row}.png", agreement_figures.bland_altman(title, found))
        _save(folder / f"scatter-{row}.png", agreement_figures.scatter(title, found))


def default_agreement_rows(results: Results) -> list[str]:
    """Return the teacher and the distilled student with the fewest IMUs, else the best row."""
    rows = set(results.lines["row"])
    students = [f"distilled-{name}" for name in layout.SPARSE_SETS[results.dataset]]
    chosen = [row for row in ["teacher", *students] if row in rows]
    if chosen:
        return chosen[:2] if chosen[0] == "teacher" else chosen[:1]
    means = subject_means(results.lines, "nrmse_percent").mean(axis=1)
    return [means.idxmin()]
