"""The figures that every run draws, whatever its rows: losses, estimates over time, stances, NRMSE.

No figure is wider than a page of two columns, and no text is smaller than 7 points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH_IN = 7.16  # of a figure: both columns of an IEEE journal
SMALL_PT, TITLE_PT = 7, 9  # sizes of text
ESTIMATES_S = 3.0  # duration of the estimates that are drawn
ESTIMATES_ACROSS = 3  # rows of the table side by side
STANCES_ACROSS = 4  # targets side by side
STANCES_TOGETHER = 4  # rows of the table in a panel
ESTIMATE_COLOR = "#d1682b"
STANCE_COLORS = ("#d1682b", "#2a6fb0", "#2f8f5b", "#8b5fb0")  # of the rows in a panel
LOSS_COLORS = {"training": "#d1682b", "validation": "#2a6fb0"}

Curves = tuple[np.ndarray, np.ndarray]
"""Mean and SD over stances, `(101, K)` each."""


def figure_style() -> AbstractContextManager[None]:
    """Return the matplotlib context for all figures."""
    sizes = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), SMALL_PT)
    sizes |= {"font.size": SMALL_PT, "axes.labelsize": SMALL_PT + 1, "axes.titlesize": 8}
    sizes |= {"figure.titlesize": TITLE_PT, "pdf.fonttype": 42}  # text of a PDF stays text
    style = {**sns.axes_style("whitegrid"), "figure.constrained_layout.use": True}
    return mpl.style.context(["default", {**style, **sizes}])  # without the user's matplotlibrc


def learning_curves(history: pd.DataFrame, title: str = "Learning curves") -> Figure:
    """Draw training and validation loss over epochs: a panel per row, a line per fold.

    All panels have the same axes. The loss has a logarithmic axis, because the training loss of
    some rows is a sum of several terms, and the first epochs lie far above the others.

    Args:
        history: columns as in `history.csv`, in the order of the table.
        title: title of the figure.
    """
    rows = dict(list(history.groupby("row", sort=False)))
    across = min(3, len(rows))
    down = math.ceil(len(rows) / across)
    figure = Figure(figsize=(WIDTH_IN, 1.7 * down + 1.1))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (row, epochs) in zip(grid, rows.items(), strict=False):
        _draw_losses(axes, epochs)
        axes.set_title(row)
    for axes in grid[len(rows) :]:
        axes.remove()
    for axes in grid[max(len(rows) - across, 0) : len(rows)]:  # some are above an empty place
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch")
    grid[0].set_xlim(0.5, history["epoch"].max() + 0.5)
    grid[0].xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    grid[0].set_yscale("log")
    low, high = grid[0].get_ylim()
    is_narrow = high < 10 * low
    grid[0].yaxis.set_major_locator(MaxNLocator(5) if is_narrow else LogLocator(subs=(1, 2, 5)))
    grid[0].yaxis.set_major_formatter("{x:g}")
    grid[0].minorticks_off()
    figure.supylabel("loss", fontsize=8)
    folds = history["fold"].nunique()
    mark = "point" if history["epoch"].max() == 1 else "line"
    note = f"\nA {mark} for each of {folds} folds" if folds > 1 else ""
    figure.suptitle(f"{title}{note}")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_losses(axes: Axes, epochs: pd.DataFrame) -> None:
    """Draw the losses of a row and mark the best epoch of every fold."""
    width, size = (1.4, 16) if epochs["fold"].nunique() == 1 else (0.6, 5)
    losses = epochs.pivot(index="epoch", columns="fold")
    marker = "o" if len(losses) == 1 else ""  # a single point has no line
    for part, color in LOSS_COLORS.items():
        style = {"color": color, "linewidth": width, "marker": marker, "markersize": 6}
        lines = axes.plot(losses.index, losses[f"{part}_loss"], **style)
        lines[0].set_label(part)
    best = epochs.loc[epochs.groupby("fold")["validation_loss"].idxmin()]
    places = best["epoch"], best["validation_loss"]
    axes.scatter(*places, s=size, color="black", zorder=3, label="best epoch")


def estimates_over_time(
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    targets: Sequence[tuple[str, str]],
    rate_hz: float,
    window_s: float,
    truth: str,
    title: str,
) -> Figure:
    """Draw targets and estimates over a few seconds of a test subject: a column of panels per row.

    The curves have a gap where the recording is not continuous (another trial or step, or dropped
    samples).

    Args:
        predictions: row -> arrays as in its file in `predictions/`.
        targets: name and unit of each target.
        rate_hz: sampling rate.
        window_s: duration of a window.
        truth: label of the true curve: `measured` or `simulated`.
        title: title of the figure.
    """
    first = next(iter(predictions.values()))
    shown = first["sample"][_longest_part(first["stretch"], first["activity"], rate_hz)]
    across = min(ESTIMATES_ACROSS, len(predictions))
    blocks, count = math.ceil(len(predictions) / across), len(targets)
    figure = Figure(figsize=(WIDTH_IN, 1.0 + blocks * (0.9 * count + 0.4)))
    grid = figure.subplots(blocks * count, across, sharex=True, squeeze=False)
    for i, (row, arrays) in enumerate(predictions.items()):
        first_line = i // across * count
        panels = grid[first_line : first_line + count, i % across]
        chosen = np.isin(arrays["sample"], shown)  # some rows estimate fewer samples than others
        time_s = (arrays["sample"][chosen] - shown[0]) / rate_hz
        breaks = np.flatnonzero(np.diff(arrays["stretch"][chosen])) + 1
        for kind, color, width in (("truth", "black", 1.8), ("prediction", ESTIMATE_COLOR, 1.1)):
            values = np.insert(arrays[kind][chosen], breaks, np.nan, axis=0)
            for axes, curve in zip(panels, values.T, strict=True):
                label = {"truth": truth, "prediction": "estimated"}[kind]
                x = np.insert(time_s, breaks, np.nan)
                axes.plot(x, curve, color=color, linewidth=width, label=label)
        panels[0].set_title(row)
        panels[-1].tick_params(labelbottom=True)
        for axes, of_target in zip(panels, grid[:count, 0], strict=True):
            axes.margins(x=0)
            axes.locator_params(axis="y", nbins=4)
            if axes is not of_target:
                axes.sharey(of_target)
                axes.tick_params(labelleft=i % across == 0)
    for axes in grid[-count:, (len(predictions) - 1) % across + 1 :].ravel():
        axes.remove()
    for k, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(
            "\n".join([*short_lines(targets[k % count][0]), f"({targets[k % count][1]})"])
        )
    figure.align_ylabels(grid[:, 0])
    figure.supxlabel("time (s)", fontsize=8)
    figure.suptitle(
        f"{title}\nThe estimates may have steps every {window_s:g} s, because the windows are "
        "estimated one by one"
    )
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    return figure


def short_lines(name: str) -> list[str]:
    """Return the name of a target in short lines."""
    return name.replace("-", "-\n").replace(" ", "\n").split("\n")


def _longest_part(stretch: np.ndarray, activity: np.ndarray, rate_hz: float) -> slice:
    """Return a few seconds from the start of the longest stretch, within its activity."""
    _, starts, counts = np.unique(stretch, return_index=True, return_counts=True)
    start = int(starts[np.argmax(counts)])
    stop = min(start + int(ESTIMATES_S * rate_hz), len(stretch))
    others = np.flatnonzero(activity[start:stop] != activity[start])
    return slice(start, start + int(others[0]) if len(others) else stop)


def stance_curves(
    truth: Mapping[str, Curves],
    estimates: Mapping[str, Curves],
    targets: Sequence[tuple[str, str]],
    title: str,
) -> Figure:
    """Draw mean and SD over stances, 0 to 100 % of stance: a panel per target.

    Of many curves, four share a panel with the true curve, and the panels are repeated.

    Args:
        truth: label (`measured` or `simulated`) -> true curves; empty to draw the others alone.
        estimates: label, such as the row -> curves.
        targets: name and unit of each target.
        title: title of the figure, with the number of stances.
    """
    labels, down = list(estimates), math.ceil(len(targets) / STANCES_ACROSS)
    groups = [labels[i : i + STANCES_TOGETHER] for i in range(0, len(labels), STANCES_TOGETHER)]
    across = math.ceil(len(targets) / down)
    figure = Figure(figsize=(WIDTH_IN, 0.7 + (1.5 * down + 0.3) * len(groups)))
    parts = figure.subfigures(len(groups), squeeze=False).ravel()
    of_target: dict[int, Axes] = {}  # all panels of a target have the same scale
    for part, group in zip(parts, groups, strict=True):
        colors = {**dict.fromkeys(truth, "black"), **dict(zip(group, STANCE_COLORS, strict=False))}
        all_axes = part.subplots(down, across, sharex=True, squeeze=False).ravel()
        for k, (axes, (target, unit)) in enumerate(zip(all_axes, targets, strict=False)):
            axes.axhline(0.0, color="0.6", linewidth=0.8)
            for label, color in colors.items():
                mean, sd = (values[:, k] for values in ({**truth, **estimates})[label])
                percent = np.linspace(0, 100, len(mean))
                axes.fill_between(
                    percent, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0
                )
                axes.plot(percent, mean, color=color, linewidth=1.3, label=label)
            if of_target.setdefault(k, axes) is not axes:
                axes.sharey(of_target[k])
            axes.set_title(f"{target}\n({unit})")
            axes.set(xlim=(0, 100), xticks=range(0, 101, 25))
            axes.locator_params(axis="y", nbins=5)
        for axes in all_axes[max(len(targets) - across, 0) : len(targets)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("% of stance")
        handles = all_axes[0].get_legend_handles_labels()
        empty = all_axes[len(targets) :]
        for axes in empty:
            axes.set_axis_off()
        if len(empty):
            empty[-1].legend(*handles, loc="center")
        else:
            part.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle(f"{title}\nMean and SD over stances")
    return figure


def nrmse_heat_map(metrics: pd.DataFrame, rows: Sequence[str], title: str) -> Figure:
    """Draw NRMSE per row and target, and its mean over targets, averaged over subjects.

    Args:
        metrics: columns as in `metrics.csv`, over all activities.
        rows: the rows to draw, in order.
        title: title of the figure.
    """
    by_target = metrics.pivot_table(
        index="row", columns="target", values="nrmse_percent", sort=False
    )
    table = by_target.loc[list(rows)]
    table["mean"] = table.mean(axis=1, skipna=False)
    figure = Figure(figsize=(WIDTH_IN, 1.6 + 0.24 * len(table)))
    axes = figure.subplots()
    sns.heatmap(
        table, annot=True, fmt=".1f", annot_kws={"fontsize": SMALL_PT}, cmap="crest",
        linewidths=0.5, robust=True,  # keep one outlier from using up the color scale
        cbar_kws={"label": "NRMSE (%)"}, ax=axes,
    )  # fmt: skip
    axes.vlines(table.shape[1] - 1, 0, len(table), color="white", linewidth=4)
    axes.set_xticklabels(["\n".join(short_lines(name)) for name in table.columns], rotation=0)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.tick_params(axis="both", labelsize=SMALL_PT, left=False, bottom=False)
    axes.set(xlabel="", ylabel="")
    axes.set_title(title, fontsize=TITLE_PT)
    return figure
