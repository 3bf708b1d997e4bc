"""Figures of a report: models, NRMSE per target, against size and IMUs, agreement, losses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator

from common import plots
from common.data import ALL
from common.files import plural, write_figure
from common.metrics import overall
from common.stances import MeanCurves, mean_curves
from tools.report import agreement, paper
from tools.report.runs import Results, load_histories
from tools.report.stances import load_row
from tools.report.tables import common_nrmse, rows_by_table, sort_rows, subject_means

MIN_SUBJECTS_FOR_BOXES = 5
ABLATIONS = {**paper.ABLATION, **paper.MORE_ABLATION}
NRMSE_LABEL = "NRMSE (%), mean over targets"


def write_figures(
    results: Results,
    stances: pd.DataFrame,
    folder: Path,
    suffix: str = "png",
    agreement_rows: Sequence[str] | None = None,
) -> list[Path]:
    """Write the figures, leaving out networks that are parts of another row.

    Args:
        results: the results to draw.
        stances: their stances, from `load_stances`.
        folder: folder of the figures.
        suffix: a further format, `pdf` or `svg`; the page needs PNG files.
        agreement_rows: rows with stance curves, Bland-Altman and scatter plots; None for the
            default choice.

    Returns:
        The PNG files.

    Raises:
        InputError: Predictions or losses are damaged.
    """
    paths = []
    with plots.figure_style():
        for name, figure in _draw_figures(results, stances, agreement_rows):
            paths.append(folder / f"{name}.png")
            for path in {paths[-1], folder / f"{name}.{suffix}"}:
                write_figure(path, figure)
    return paths


def _draw_figures(
    results: Results, stances: pd.DataFrame, agreement_rows: Sequence[str] | None
) -> Iterator[tuple[str, Figure]]:
    """Draw one figure at a time; yield its name and the figure."""
    metrics = results.metrics
    metrics = metrics[~metrics["row"].map(paper.kind).isin(paper.PARTS)]
    if metrics.empty:
        print(f"{results.name}: no figures, because all rows are parts of other rows.")
        return
    whole = replace(results, metrics=metrics)
    for table, rows in rows_by_table(whole).items():
        yield f"models_{table.stem}", models_figure(whole, table.number, rows)
        names = [name for names in rows.values() for name in names]
        yield f"targets_{table.stem}", targets_figure(whole, table.number, names)
    if len(common_nrmse(whole, sort_rows(whole))):
        yield "nrmse_against_parameters", parameters_figure(whole)
        if figure := imus_figure(whole):
            yield "nrmse_against_imus", figure
    else:
        print(
            f"{results.name}: no figures of NRMSE against parameters and IMUs, because the rows "
            "have no test subject in common."
        )
    rows = agreement_rows or default_agreement_rows(whole)
    yield from _draw_stances(whole, [row for row in rows if row in set(metrics["row"])])
    for row in rows:
        yield from _draw_agreement(whole, stances, row)
    for script, history in load_histories(results).items():
        title = f"Learning curves, {script}, {results.label}"
        yield f"learning_curves-{script}", plots.learning_curves(history, title)


def models_figure(results: Results, number: str, rows: dict[str, list[str]]) -> Figure:
    """Draw the NRMSE of a table's rows, a point per subject, with boxes if there are enough.

    Each line ends with the mean, and with its difference from that of the paper's network. Each
    sensor set has a panel of its own, with the subjects that its rows have in common.
    """
    counts = [len(names) for names in rows.values()]
    figure = Figure(figsize=(plots.WIDTH_IN, 1.4 + 0.55 * len(rows) + 0.3 * sum(counts)))
    all_axes = figure.subplots(
        len(rows), sharex=True, squeeze=False, height_ratios=[n + 1 for n in counts]
    )[:, 0]
    for axes, (sensor_set, names) in zip(all_axes, rows.items(), strict=True):
        nrmse, positions = common_nrmse(results, names), range(len(names))
        if len(nrmse) >= MIN_SUBJECTS_FOR_BOXES:
            axes.boxplot(
                nrmse.to_numpy(), positions=positions, orientation="horizontal", widths=0.65,
                showfliers=False, patch_artist=True, boxprops={"facecolor": "#a9c6e3"},
                medianprops={"color": "black"},
            )  # fmt: skip
        places = np.tile(positions, (len(nrmse), 1))
        axes.scatter(nrmse, places, s=16, color="0.25", alpha=0.6, zorder=3, linewidths=0)
        means = nrmse.mean()
        ours = [row for row in names if paper.kind(row) in paper.OURS][-1:]
        for position, row in enumerate(names if nrmse.size else ()):
            text = f"{means[row]:.2f}"
            if ours and row != ours[0]:
                text += f" ({means[row] - means[ours[0]]:+.2f})"
            place = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(1.01, position, text, fontsize=8, **place)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(positions, [paper.label(row) for row in names], fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        tested = plural(len(nrmse), "common subject")
        axes.set_title(f"{sensor_set}, {tested}", fontsize=9, loc="left")
    all_axes[-1].set_xlabel(NRMSE_LABEL)
    figure.suptitle(
        f"Models of Table {number}, {results.label}\nA point per subject; at the right, mean and "
        "difference from Kinetics-MFFM-Net (T) or (S) + SD\nBoxes (for at least "
        f"{MIN_SUBJECTS_FOR_BOXES} subjects) show quartiles, whiskers reach up to 1.5 IQR",
        fontsize=10,
    )
    return figure


def targets_figure(results: Results, number: str, rows: Sequence[str]) -> Figure:
    """Draw the mean NRMSE of each row and target, over common subjects if there are any."""
    metrics = results.select(rows)
    tested = "the test subjects of each row"
    if subjects := list(common_nrmse(results, rows).index):
        metrics = metrics[metrics["test_subject"].isin(subjects)]
        tested = plural(len(subjects), "common subject")
    title = f"NRMSE per target, Table {number}, {results.label}\nMean over {tested}"
    return plots.nrmse_heat_map(overall(metrics), rows, title)


def _points(results: Results) -> tuple[pd.DataFrame, str]:
    """Return a line per row with mean and SD of NRMSE over the common subjects; their number."""
    nrmse = common_nrmse(results, sort_rows(results))
    points = results.metrics.drop_duplicates("row").set_index("row").loc[nrmse.columns]
    points = points.rename(columns={"sensor_set": "sensor set"})
    points["model"] = points.index.map(paper.label)
    points = points.assign(mean=nrmse.mean(), sd=nrmse.std().fillna(0))
    return points, plural(len(nrmse), "test subject")


def parameters_figure(results: Results) -> Figure:
    """Draw NRMSE, mean over common subjects, against the number of used parameters."""
    points, tested = _points(results)
    is_ablation = points.index.map(paper.kind).isin(ABLATIONS)
    points["model"] = points["model"].mask(is_ablation, "ablation")
    figure = Figure(figsize=(plots.WIDTH_IN, 5))
    axes = figure.subplots()
    palette = {**_colors(results), "ablation": "black"}
    sns.scatterplot(
        points, x="parameters", y="mean", hue="model", style="sensor set", s=55, palette=palette,
        ax=axes,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.minorticks_off()
    axes.set(xlabel="used parameters", ylabel=NRMSE_LABEL)
    figure.suptitle(f"NRMSE against parameters, {results.label}, {tested}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    axes.get_legend().remove()
    return figure


def imus_figure(results: Results) -> Figure | None:
    """Draw NRMSE against the number of IMUs, mean and SD over common subjects, a line per model.

    Sensor sets with a third modality are drawn separately, on the right; a dashed line continues
    the teacher. Ablations, which have one sensor set, are left out.

    Returns:
        The figure; None if there are fewer than two numbers of IMUs.
    """
    points, tested = _points(results)
    is_drawn = points["sensor set"].isin(results.imus)
    points = points[is_drawn & ~points.index.map(paper.kind).isin(ABLATIONS)]
    imus = points["sensor set"].map(results.imus)
    third = points["modalities"].str.split("+").str[2:].str.join("+")
    points = points.assign(position=imus + (third != ""), third=third).sort_values("position")
    if points["position"].nunique() < 2:
        return None
    colors = _colors(results)
    names = [name for name in colors if name in set(points["model"])]
    step = min(0.05, 0.7 / len(names))  # error bars side by side
    figure = Figure(figsize=(plots.WIDTH_IN, 4.5))
    axes = figure.subplots()
    for i, name in enumerate(names):
        of_model = points[points["model"] == name]
        for is_alone, part in of_model.groupby(of_model["third"] != ""):
            axes.errorbar(
                part["position"] + step * (i - (len(names) - 1) / 2), part["mean"],
                yerr=part["sd"], color=colors[name], linestyle="none" if is_alone else "-",
                marker="o", capsize=3,
            )  # fmt: skip
    if "teacher" in points.index:
        color = colors[paper.label("teacher")]
        axes.axhline(points.loc["teacher", "mean"], color=color, linestyle="--", zorder=0)
    ticks = dict(zip(points["position"], imus[points.index].astype(str), strict=True))
    ticks |= {p: f"{ticks[p]}\n+ {m}" for p, m in points[["position", "third"]].to_numpy() if m}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set(xlabel="number of IMUs", ylabel=NRMSE_LABEL)
    title = f"NRMSE against number of IMUs, {results.label}\n{tested}; mean and SD"
    figure.suptitle(title, fontsize=10)
    handles = [Line2D([], [], color=colors[name], marker="o") for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def default_agreement_rows(results: Results) -> list[str]:
    """Return the teacher and the distilled student with the fewest IMUs, else the best row."""
    present = set(results.metrics["row"])
    students = [name for name in map("distilled-{}".format, results.imus) if name in present]
    chosen = [*({"teacher"} & present), *students[:1]]
    return chosen or [subject_means(results.metrics, "nrmse_percent").mean(axis=1).idxmin()]


def _draw_stances(results: Results, rows: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Draw mean and SD over the stances of some rows, over all activities and for each."""
    truth = "simulated" if results.is_synthetic else "measured"
    names = [name for name in results.metrics["activity"].unique() if name != ALL]
    activities = [None, *(names if len(names) > 1 else [])]
    curves: dict[str | None, dict[str, MeanCurves]] = {activity: {} for activity in activities}
    for row in rows:
        files = load_row(results, row)
        arrays = [file.arrays for file in files]
        for activity in activities if files else ():
            found = mean_curves(arrays, files[0].targets, files[0].rate_hz, activity)
            if found.count:
                curves[activity][row] = found
    for activity, by_row in curves.items():
        if by_row:
            first = next(iter(by_row.values()))
            title = f"{plural(first.count, 'stance')}, {results.label}"
            figure = plots.stance_curves(
                {truth: first.truth},
                {row: found.estimates for row, found in by_row.items()},
                first.targets,
                f"{title}, {activity}" if activity else title,
            )
            name = re.sub(r"\W+", "_", activity or "")
            yield f"stance_curves{'-' if activity else ''}{name}", figure


def _draw_agreement(
    results: Results, stances: pd.DataFrame, row: str
) -> Iterator[tuple[str, Figure]]:
    of_row = stances[stances["row"] == row]
    if of_row.empty:
        print(f"{row}: no Bland-Altman and scatter plots, because it has no stances.")
        return
    title = f"{row}, {results.label}, {plural(of_row['test_subject'].nunique(), 'test subject')}"
    truth = "simulated" if results.is_synthetic else "measured"
    for name, is_difference in (("bland_altman", True), ("scatter", False)):
        yield f"{name}-{row}", agreement.agreement_figure(title, of_row, truth, is_difference)


def _colors(results: Results) -> dict[str, tuple[float, float, float]]:
    """Return a color for each model, the same in all figures; dark ones for the paper's own."""
    names = [*reversed(paper.MODELS.values()), *map(paper.label, results.metrics["row"].unique())]
    pairs = sns.color_palette("tab20")  # dark and light in turn
    return dict(zip(dict.fromkeys(names), cycle([*pairs[::2], *pairs[1::2]]), strict=False))
