"""Figures of a report: models, NRMSE against size and IMUs, agreement, learning curves."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common import plots
from common.files import InputError, plural, write_figure
from tools.report import paper
from tools.report.runs import Results, load_histories
from tools.report.statistics import limits_of_agreement
from tools.report.tables import common_subjects, rows_by_table, subject_means

MIN_SUBJECTS_FOR_BOXES = 5
DRAWN_SAMPLES = 60_000  # per panel of an agreement plot, over all subjects
HEXAGONS = 45  # across such a panel
LINE_COLOR = "#d1682b"
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
        InputError: predictions or losses are damaged.
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
    """Draw one figure after the other; yield its name and the figure."""
    metrics = results.metrics
    metrics = metrics[~metrics["row"].map(paper.kind).isin(paper.PARTS)]
    if metrics.empty:
        reason = "all rows are parts of other rows, or not in the paper"
        print(f"{results.name}: no figures, because {reason}.")
        return
    whole = replace(results, metrics=metrics)
    for table, rows in rows_by_table(whole).items():
        yield f"models_{table.stem}", models_figure(whole, table.number, rows)
    if common_subjects(metrics):
        yield "nrmse_against_parameters", parameters_figure(whole)
    else:
        print(
            f"{results.name}: no figure of NRMSE against parameters, because the rows have no "
            "test subject in common."
        )
    yield from _draw_against_imus(whole)
    for row in agreement_rows or default_agreement_rows(whole):
        yield from _draw_agreement(whole, row)
    for script, history in load_histories(results).items():
        title = f"Learning curves, {script}, {results.label}"
        yield f"learning_curves-{script}", plots.learning_curves(history, title)


def models_figure(results: Results, number: str, rows: dict[str, list[str]]) -> Figure:
    """Draw the NRMSE of a table's rows, a point per subject, with boxes if there are enough.

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
        metrics = results.select(names)
        subjects = common_subjects(metrics)
        nrmse = subject_means(metrics, "nrmse_percent").loc[names, subjects].to_numpy()
        positions = np.arange(len(names))
        if len(subjects) >= MIN_SUBJECTS_FOR_BOXES:
            axes.boxplot(
                nrmse.T, positions=positions, orientation="horizontal", widths=0.65,
                showfliers=False, patch_artist=True,
                boxprops={"facecolor": "#a9c6e3", "edgecolor": "0.4"},
                medianprops={"color": "0.4"},
                whiskerprops={"color": "0.4"}, capprops={"color": "0.4"},
            )  # fmt: skip
        axes.scatter(
            nrmse, np.repeat(positions, len(subjects)), s=16, color="0.25", alpha=0.6, zorder=3,
            linewidths=0,
        )  # fmt: skip
        axes.set_yticks(positions, [paper.label(row) for row in names], fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        title = f"{sensor_set}, {plural(len(subjects), 'common subject')}"
        axes.set_title(title, fontsize=9, loc="left")
    all_axes[-1].set_xlabel(NRMSE_LABEL)
    figure.suptitle(
        f"Models of Table {number}, {results.label}\nA point per subject; boxes (for at least "
        f"{MIN_SUBJECTS_FOR_BOXES} subjects) show quartiles, whiskers reach up to 1.5 IQR",
        fontsize=10,
    )
    return figure


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no smaller or equally large one beats, in order of size.

    Args:
        points: has the columns `parameters` and `nrmse`.
    """
    ordered = points.sort_values(["parameters", "nrmse"])
    best_so_far = ordered["nrmse"].cummin().shift(fill_value=float("inf"))
    return ordered[ordered["nrmse"] < best_so_far]


def parameters_figure(results: Results) -> Figure:
    """Draw NRMSE, mean over common subjects, against parameters, with the Pareto front."""
    subjects = common_subjects(results.metrics)
    metrics = results.metrics[results.metrics["test_subject"].isin(subjects)]
    points = metrics.groupby("row")[["parameters", "sensor_set"]].first()
    points["nrmse"] = subject_means(metrics, "nrmse_percent").mean(axis=1)
    pairs = zip(points.index, points["sensor_set"], strict=True)
    points = points.loc[[row for row, _ in paper.sort_rows(list(results.imus), pairs)]]
    points["model"] = [paper.MODELS.get(paper.kind(row), "ablation") for row in points.index]
    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots()
    sns.scatterplot(
        points.rename(columns={"sensor_set": "sensor set"}), x="parameters", y="nrmse",
        hue="model", style="sensor set", s=55, ax=axes,
        palette=sns.color_palette("tab20", points["model"].nunique()),
    )  # fmt: skip
    front = pareto_front(points)
    axes.plot(
        front["parameters"], front["nrmse"], color="0.3", linewidth=1, zorder=0,
        drawstyle="steps-post", label="Pareto front",
    )  # fmt: skip
    for number, place in enumerate(front[["parameters", "nrmse"]].to_numpy(), start=1):
        axes.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
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


def _draw_against_imus(results: Results) -> Iterator[tuple[str, Figure]]:
    """Draw naive and distilled students and the teacher on the subjects they have in common."""
    imus = results.imus
    metrics = results.metrics.assign(kind=results.metrics["row"].map(paper.kind))
    students = metrics["kind"].isin(["student", "distilled"]) & metrics["sensor_set"].isin(imus)
    if not students.any():
        return
    metrics = metrics[students | (metrics["kind"] == "teacher")]
    subjects = common_subjects(metrics)
    if not subjects:
        print(
            f"{results.name}: no figure of NRMSE against IMUs, because the students have no test "
            "subject in common."
        )
        return
    metrics = metrics[metrics["test_subject"].isin(subjects) & (metrics["activity"] == "all")]
    metrics = metrics.assign(imus=metrics["sensor_set"].map(imus), third="")
    figure = plots.nrmse_against_imus(metrics)
    figure.axes[0].set_title(
        f"NRMSE against number of IMUs, {results.label}\n"
        f"{plural(len(subjects), 'test subject')}; mean and SD",
        fontsize=10,
    )
    yield "nrmse_against_imus", figure


def default_agreement_rows(results: Results) -> list[str]:
    """Return the teacher and the distilled student with the fewest IMUs, else the best row."""
    students = [f"distilled-{name}" for name in results.imus]
    present = set(results.metrics["row"])
    chosen = [row for row in ["teacher"] if row in present]
    chosen += [row for row in students if row in present][:1]
    return chosen or [subject_means(results.metrics, "nrmse_percent").mean(axis=1).idxmin()]


@dataclass
class Panel:
    """Predictions of one target and activity.

    Attributes:
        unit: unit of the target.
        samples: truth and prediction to be drawn, `(samples, 2)` for each subject.
        moments: number, mean and sum of squared deviations of all differences of each subject.
    """

    unit: str
    samples: list[np.ndarray] = field(default_factory=list)
    moments: list[tuple[int, float, float]] = field(default_factory=list)


Panels = dict[tuple[str, str], Panel]  # by target and activity


def load_panels(paths: Sequence[Path]) -> Panels:
    """Load the predictions of a row, one file per subject, in bounded memory.

    The moments cover all samples. For drawing, at most `DRAWN_SAMPLES` are drawn at random for each
    panel, equally many from each subject.

    Raises:
        InputError: a file is damaged, or its targets differ from those of the others.
    """
    panels: Panels = {}
    targets: list[tuple[str, str]] = []
    random = np.random.default_rng(0)
    for path in paths:
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            names = list(zip(arrays["target"].tolist(), arrays["unit"].tolist(), strict=True))
            if targets and names != targets:
                raise ValueError("its targets differ from those of the other subjects")
            targets = names
            _add_subject(panels, targets, arrays, DRAWN_SAMPLES // len(paths), random)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: damaged predictions ({error}); delete the file and resume its run"
            ) from error
    return panels


def _add_subject(
    panels: Panels,
    targets: Sequence[tuple[str, str]],
    arrays: dict[str, np.ndarray],
    max_drawn: int,
    random: np.random.Generator,
) -> None:
    truth, prediction = arrays["truth"], arrays["prediction"]
    for activity in dict.fromkeys(arrays["activity"].tolist()):
        samples = np.flatnonzero(arrays["activity"] == activity)
        drawn = random.choice(samples, min(max_drawn, len(samples)), replace=False)
        difference = prediction[samples].astype(float) - truth[samples]
        means = difference.mean(axis=0)
        squares = ((difference - means) ** 2).sum(axis=0)
        for k, (target, unit) in enumerate(targets):
            panel = panels.setdefault((target, activity), Panel(unit))
            panel.samples.append(np.column_stack((truth[drawn, k], prediction[drawn, k])))
            panel.moments.append((len(samples), means[k], squares[k]))


def _draw_agreement(results: Results, row: str) -> Iterator[tuple[str, Figure]]:
    metrics = results.select([row])
    if metrics.empty:
        return
    sources = metrics.drop_duplicates("test_subject")[["folder", "test_subject"]]
    paths = [run / "predictions" / f"{row}-subject_{name}.npz" for run, name in sources.values]
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"{row}: no Bland-Altman and scatter plots, because {missing[0]} is missing.")
        return
    panels = load_panels(paths)
    title = f"{row}, {results.label}, {plural(len(paths), 'test subject')}"
    yield f"bland_altman-{row}", bland_altman_figure(title, panels)
    yield f"scatter-{row}", scatter_figure(title, panels)


def bland_altman_figure(title: str, panels: Panels) -> Figure:
    """Draw prediction minus measurement against their mean."""
    labels = "mean of predicted and measured", "predicted − measured"
    figure = _panels_figure(panels, _draw_bland_altman, *labels)
    figure.suptitle(
        f"Bland-Altman plot, {title}\nSolid: bias, dashed: 95% limits of agreement\n"
        "from the variances within and between subjects",
        fontsize=10,
    )
    return figure


def scatter_figure(title: str, panels: Panels) -> Figure:
    """Draw prediction against measurement."""
    figure = _panels_figure(panels, _draw_scatter, "measured", "predicted")
    figure.suptitle(f"Predicted against measured, {title}\nLine: identity", fontsize=10)
    return figure


def _panels_figure(
    panels: Panels, draw: Callable[[Axes, Panel], None], x_label: str, y_label: str
) -> Figure:
    """Draw all panels, with activities side by side, or targets if there is one activity."""
    targets, activities = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    places = [(target, activity) for target in targets for activity in activities]
    across = len(activities) if len(activities) > 1 else min(3, len(targets))
    down = math.ceil(len(places) / across)
    figure = Figure(figsize=(3.0 * across, 2.5 * down + 0.9))
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (target, activity) in zip_longest(all_axes, places, fillvalue=("", "")):
        panel = panels.get((target, activity))
        if panel is None:
            axes.set_axis_off()
            continue
        draw(axes, panel)
        name = f"{target}, {activity}" if activity else target
        axes.set_title("\n".join(filter(None, [name, axes.get_title()])), fontsize=9)
        axes.set_xlabel(f"{x_label} ({panel.unit})", fontsize=8)
        axes.set_ylabel(f"{y_label} ({panel.unit})", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=5)
    return figure


def _draw_hexagons(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    axes.hexbin(x, y, gridsize=HEXAGONS, bins="log", mincnt=1, cmap="crest", linewidths=0.1)


def _draw_bland_altman(axes: Axes, panel: Panel) -> None:
    truth, prediction = np.concatenate(panel.samples).astype(float).T
    _draw_hexagons(axes, (truth + prediction) / 2, prediction - truth)
    bias, low, high = limits_of_agreement(panel.moments)
    for value, style in ((bias, "-"), (low, "--"), (high, "--")):
        axes.axhline(value, color=LINE_COLOR, linestyle=style, linewidth=1.2)
    axes.set_title(f"bias {bias:.2g}, limits {low:.2g} to {high:.2g}")


def _draw_scatter(axes: Axes, panel: Panel) -> None:
    truth, prediction = np.concatenate(panel.samples).astype(float).T
    _draw_hexagons(axes, truth, prediction)
    ends = min(truth.min(), prediction.min()), max(truth.max(), prediction.max())
    axes.plot(ends, ends, color=LINE_COLOR, linewidth=1.2)
