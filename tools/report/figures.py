"""Figures of a report: models, NRMSE per target, against size and IMUs, agreement, losses."""

from __future__ import annotations

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
from common.files import plural, write_figure
from tools.report import agreement, paper
from tools.report.runs import Results, load_histories
from tools.report.tables import common_nrmse, rows_by_table, sort_rows, subject_means

MIN_SUBJECTS_FOR_BOXES = 5
ABLATIONS = {**paper.ABLATION, **paper.MORE_ABLATION}
NRMSE_LABEL = "NRMSE (%), mean over targets"


def write_figures(
    results: Results, folder: Path, agreement_rows: Sequence[str] | None = None
) -> list[Path]:
    """Write the figures as PNG files, leaving out networks that are parts of another row.

    Args:
        results: the results to draw.
        folder: folder of the figures.
        agreement_rows: rows with Bland-Altman and scatter plots; None for the default choice.

    Raises:
        InputError: Predictions or losses are damaged.
    """
    paths = []
    with plots.figure_style():
        for name, figure in _draw_figures(results, agreement_rows):
            paths.append(folder / f"{name}.png")
            write_figure(paths[-1], figure)
    return paths


def _draw_figures(
    results: Results, agreement_rows: Sequence[str] | None
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
    for row in agreement_rows or default_agreement_rows(whole):
        yield from _draw_agreement(whole, row)
    for script, history in load_histories(results).items():
        title = f"Learning curves, {script}, {results.label}"
        yield f"learning_curves-{script}", plots.learning_curves(history, title)


def models_figure(results: Results, number: str, rows: dict[str, list[str]]) -> Figure:
    """Draw the NRMSE of a table's rows, a point per subject, with boxes if there are enough.

    Each line ends with the mean, and with its difference from that of the paper's network. Each
    sensor set has a panel of its own, with the subjects that its rows have in common.
    """
    counts = [len(names) for names in rows.values()]
    figure = Figure(figsize=(8, 1.4 + 0.55 * len(rows) + 0.3 * sum(counts)))
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
    return plots.nrmse_heat_map(metrics[metrics["activity"] == "all"], rows, title)


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
    figure = Figure(figsize=(9, 6))
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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
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
    figure = Figure(figsize=(9, 5))
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
    figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return figure


def default_agreement_rows(results: Results) -> list[str]:
    """Return the teacher and the distilled student with the fewest IMUs, else the best row."""
    present = set(results.metrics["row"])
    students = [name for name in map("distilled-{}".format, results.imus) if name in present]
    chosen = [*({"teacher"} & present), *students[:1]]
    return chosen or [subject_means(results.metrics, "nrmse_percent").mean(axis=1).idxmin()]


def _draw_agreement(results: Results, row: str) -> Iterator[tuple[str, Figure]]:
    metrics = results.select([row])
    if metrics.empty:
        return
    name = row.partition(" (")[0]  # without the mark of a script
    sources = metrics.drop_duplicates("test_subject")[["folder", "test_subject"]]
    paths = [run / "predictions" / f"{name}-subject_{s}.npz" for run, s in sources.to_numpy()]
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"{row}: no Bland-Altman and scatter plots, because {missing[0]} is missing.")
        return
    panels = agreement.load_panels(paths)
    title = f"{row}, {results.label}, {plural(len(paths), 'test subject')}"
    truth = "simulated" if results.is_synthetic else "measured"
    for name, is_difference in (("bland_altman", True), ("scatter", False)):
        yield f"{name}-{row}", agreement.agreement_figure(title, panels, truth, is_difference)


def _colors(results: Results) -> dict[str, tuple[float, float, float]]:
    """Return a color for each model, the same in all figures; dark ones for the paper's own."""
    names = [*reversed(paper.MODELS.values()), *map(paper.label, results.metrics["row"].unique())]
    pairs = sns.color_palette("tab20")  # dark and light in turn
    return dict(zip(dict.fromkeys(names), cycle([*pairs[::2], *pairs[1::2]]), strict=False))
