"""Figures of a report: models, NRMSE per target, against size and IMUs, agreement, losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

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
from tools.report.tables import common_subjects, rows_by_table, subject_means

MIN_SUBJECTS_FOR_BOXES = 5
ABLATIONS = {**paper.ABLATION, **paper.MORE_ABLATION}
NRMSE_LABEL = "NRMSE (%), mean over targets"


class Image(NamedTuple):
    """A figure that has been written.

    Attributes:
        path: its PNG file.
        title: its title; further lines explain it.
    """

    path: Path
    title: str


def write_figures(
    results: Results, folder: Path, agreement_rows: Sequence[str] | None = None
) -> list[Image]:
    """Write the figures as PNG files, leaving out networks that are parts of another row.

    Args:
        results: the results to draw.
        folder: folder of the figures.
        agreement_rows: rows with Bland-Altman and scatter plots; None for the default choice.

    Raises:
        InputError: Predictions or losses are damaged.
    """
    images = []
    with plots.figure_style():
        for name, figure in _draw_figures(results, agreement_rows):
            path = folder / f"{name}.png"
            write_figure(path, figure)
            images.append(Image(path, figure.get_suptitle() or figure.axes[0].get_title()))
    return images


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
        yield f"targets_{table.stem}", targets_figure(whole, table.number, rows)
    if subjects := common_subjects(metrics):
        yield "nrmse_against_parameters", parameters_figure(whole, subjects)
        if figure := imus_figure(whole, subjects):
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

    Each line ends with the mean, and with its difference from that of the paper's network.

    Args:
        results: the results to draw.
        number: number of the paper's table.
        rows: the rows of each sensor set, which has a panel of its own with the subjects that
            its rows have in common.
    """
    counts = [len(names) for names in rows.values()]
    figure = Figure(figsize=(8, 1.4 + 0.55 * len(rows) + 0.3 * sum(counts)))
    all_axes = figure.subplots(
        len(rows), sharex=True, squeeze=False, height_ratios=[n + 1 for n in counts]
    )[:, 0]
    for axes, (sensor_set, names) in zip(all_axes, rows.items(), strict=True):
        metrics, title = _select_common(results, sensor_set, names)
        nrmse = subject_means(metrics, "nrmse_percent").reindex(names)
        positions = np.arange(len(names))
        if nrmse.shape[1] >= MIN_SUBJECTS_FOR_BOXES:
            axes.boxplot(
                nrmse.T.to_numpy(), positions=positions, orientation="horizontal", widths=0.65,
                showfliers=False, patch_artist=True,
                boxprops={"facecolor": "#a9c6e3", "edgecolor": "0.4"},
                medianprops={"color": "0.4"},
                whiskerprops={"color": "0.4"}, capprops={"color": "0.4"},
            )  # fmt: skip
        axes.scatter(
            nrmse, np.repeat(positions, nrmse.shape[1]), s=16, color="0.25", alpha=0.6, zorder=3,
            linewidths=0,
        )  # fmt: skip
        means = nrmse.mean(axis=1)
        ours = [row for row in names if paper.kind(row) in paper.OURS][-1:]
        for position, row in zip(positions, names, strict=True):
            text = f"{means[row]:.2f}" if nrmse.size else ""
            if nrmse.size and ours and row != ours[0]:
                text += f" ({means[row] - means[ours[0]]:+.2f})"
            axes.text(
                1.01, position, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8
            )
        axes.set_yticks(positions, [paper.label(row) for row in names], fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_title(title, fontsize=9, loc="left")
    all_axes[-1].set_xlabel(NRMSE_LABEL)
    figure.suptitle(
        f"Models of Table {number}, {results.label}\nA point per subject; at the right, mean and "
        "difference from Kinetics-MFFM-Net (T) or (S) + SD\nBoxes (for at least "
        f"{MIN_SUBJECTS_FOR_BOXES} subjects) show quartiles, whiskers reach up to 1.5 IQR",
        fontsize=10,
    )
    return figure


def targets_figure(results: Results, number: str, rows: dict[str, list[str]]) -> Figure:
    """Draw bars of NRMSE per target and model with the SD over subjects, in the same panels."""
    colors = _colors(results)
    figure = Figure(figsize=(10, 2.2 * len(rows) + 1.6))
    all_axes = figure.subplots(len(rows), sharey=True, squeeze=False)[:, 0]
    handles = {}
    for axes, (sensor_set, names) in zip(all_axes, rows.items(), strict=True):
        metrics, title = _select_common(results, sensor_set, names)
        sns.barplot(
            metrics.assign(model=metrics["row"].map(paper.label)), x="target",
            y="nrmse_percent", hue="model", errorbar="sd", ax=axes,
            hue_order=[paper.label(row) for row in names], palette=colors, saturation=1,
            err_kws={"linewidth": 1},
        )  # fmt: skip
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        if axes.get_legend():
            axes.get_legend().remove()
        axes.set(xlabel="", ylabel="NRMSE (%)")
        axes.set_title(title, fontsize=9, loc="left")
        ticks = [label.get_text().replace(" ", "\n") for label in axes.get_xticklabels()]
        axes.set_xticks(axes.get_xticks(), ticks, fontsize=8)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8)
    title = f"NRMSE per target, Table {number}, {results.label}\nMean and SD over subjects"
    figure.suptitle(title, fontsize=10)
    return figure


def _select_common(
    results: Results, sensor_set: str, rows: Sequence[str]
) -> tuple[pd.DataFrame, str]:
    """Return the metrics of rows on their common subjects over all activities, and a title."""
    metrics = results.select(rows)
    subjects = common_subjects(metrics)
    chosen = metrics["test_subject"].isin(subjects) & (metrics["activity"] == "all")
    return metrics[chosen], f"{sensor_set}, {plural(len(subjects), 'common subject')}"


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no smaller or equally large one beats, in order of size.

    Args:
        points: has the columns `parameters` and `nrmse`.
    """
    ordered = points.sort_values(["parameters", "nrmse"])
    best_so_far = ordered["nrmse"].cummin().shift(fill_value=float("inf"))
    return ordered[ordered["nrmse"] < best_so_far]


def parameters_figure(results: Results, subjects: Sequence[str]) -> Figure:
    """Draw NRMSE, mean over common subjects, against parameters, with the Pareto front."""
    metrics = results.metrics[results.metrics["test_subject"].isin(subjects)]
    points = metrics.groupby("row")[["parameters", "sensor_set"]].first()
    points["nrmse"] = subject_means(metrics, "nrmse_percent").mean(axis=1)
    pairs = zip(points.index, points["sensor_set"], strict=True)
    points = points.loc[[row for row, _ in paper.sort_rows(list(results.imus), pairs)]]
    points["model"] = [
        "ablation" if paper.kind(row) in ABLATIONS else paper.label(row) for row in points.index
    ]
    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots()
    sns.scatterplot(
        points.rename(columns={"sensor_set": "sensor set"}), x="parameters", y="nrmse",
        hue="model", style="sensor set", s=55, ax=axes,
        palette={**_colors(results), "ablation": "0.5"},
    )  # fmt: skip
    front = pareto_front(points)
    axes.plot(
        front["parameters"], front["nrmse"], color="0.3", linewidth=1, zorder=0,
        drawstyle="steps-post", label="Pareto front",
    )  # fmt: skip
    for number, place in enumerate(front[["parameters", "nrmse"]].to_numpy(), start=1):
        shift = (4, 4 if number % 2 else -11)  # points on the front can be close
        axes.annotate(str(number), place, xytext=shift, textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.minorticks_off()
    axes.set(xlabel="used parameters", ylabel=NRMSE_LABEL)
    title = f"NRMSE against parameters, {results.label}, {plural(len(subjects), 'test subject')}"
    axes.set_title(title, fontsize=10)
    handles, texts = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    figure.legend(handles, texts, loc="outside right upper", fontsize=8)
    names = [f"{number}  {row}" for number, row in enumerate(front.index, start=1)]
    figure.legend(
        [Line2D([], [], linestyle="none") for _ in names], names, loc="outside lower left",
        ncols=4, fontsize=8, handlelength=0, title="on the Pareto front", title_fontsize=8,
    )  # fmt: skip
    return figure


def imus_figure(results: Results, subjects: Sequence[str]) -> Figure | None:
    """Draw NRMSE against the number of IMUs, mean and SD over common subjects, a line per model.

    Sensor sets with a third modality are drawn separately, on the right; a dashed line continues
    the teacher. Ablations, which have one sensor set, are left out.

    Returns:
        The figure; None if there are fewer than two numbers of IMUs.
    """
    metrics = results.metrics[results.metrics["sensor_set"].isin(results.imus)]
    metrics = metrics[~metrics["row"].map(paper.kind).isin(ABLATIONS)]
    points = metrics.drop_duplicates("row").set_index("row")
    imus = points["sensor_set"].map(results.imus)
    third = points["modalities"].str.split("+").str[2:].str.join("+")
    position = imus + (third != "")
    if position.nunique() < 2:
        return None
    nrmse = subject_means(metrics, "nrmse_percent").loc[points.index, list(subjects)]
    means, sds = nrmse.mean(axis=1), nrmse.std(axis=1).fillna(0)
    models = points.index.to_series().map(paper.label)
    colors = _colors(results)
    names = [name for name in colors if name in set(models)]
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    for i, name in enumerate(names):
        shift = 0.05 * (i - (len(names) - 1) / 2)  # error bars side by side
        for part, style in (((third == ""), "-"), ((third != ""), "none")):
            rows = position[part & (models == name)].sort_values()
            axes.errorbar(
                rows + shift, means[rows.index], yerr=sds[rows.index], color=colors[name],
                linestyle=style, marker="o", capsize=3, label=name if style == "-" else None,
            )  # fmt: skip
    if "teacher" in means:
        axes.axhline(means["teacher"], color=colors[models["teacher"]], linestyle="--", zorder=0)
    labels = imus.astype(str) + np.where(third == "", "", "\n+ " + third)
    ticks = dict(sorted(zip(position, labels, strict=True)))
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set(xlabel="number of IMUs", ylabel=NRMSE_LABEL)
    tested = plural(len(subjects), "test subject")
    axes.set_title(
        f"NRMSE against number of IMUs, {results.label}\n{tested}; mean and SD", fontsize=10
    )
    figure.legend(loc="outside right upper", fontsize=8)
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
    yield f"bland_altman-{row}", agreement.bland_altman_figure(title, panels, truth)
    yield f"scatter-{row}", agreement.scatter_figure(title, panels, truth)


def _colors(results: Results) -> dict[str, tuple[float, float, float]]:
    """Return a color for each model, the same in all figures; dark ones for the paper's own."""
    names = [*reversed(paper.MODELS.values()), *map(paper.label, results.metrics["row"].unique())]
    pairs = sns.color_palette("tab20")  # dark and light in turn
    return dict(zip(dict.fromkeys(names), cycle([*pairs[::2], *pairs[1::2]]), strict=False))
