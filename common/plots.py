"""The figures that every run draws, whatever its rows: losses, estimates over time, and NRMSE."""

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

ESTIMATES_S = 3.0  # duration of the estimates that are drawn
ESTIMATE_COLOR = "#d1682b"
LOSS_COLORS = {"training": "#d1682b", "validation": "#2a6fb0"}


def figure_style() -> AbstractContextManager[None]:
    """Return the matplotlib context for all figures."""
    return mpl.rc_context({**sns.axes_style("whitegrid"), "figure.constrained_layout.use": True})


def learning_curves(history: pd.DataFrame, title: str = "Learning curves") -> Figure:
    """Draw training and validation loss over epochs: a panel per row, a line per fold.

    All panels have the same axes. The loss has a logarithmic axis, because the training loss of
    some rows is a sum of several terms, and the first epochs lie far above the others.

    Args:
        history: columns as in `history.csv`.
        title: title of the figure.
    """
    rows = dict(list(history.groupby("row", sort=False)))
    across = math.ceil(math.sqrt(len(rows)))
    down = math.ceil(len(rows) / across)
    figure = Figure(figsize=(max(2.3 * across, 6), 1.7 * down + 1.1))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (row, epochs) in zip(grid, rows.items(), strict=False):
        _draw_losses(axes, epochs)
        axes.set_title(row, fontsize=8)
    for axes in grid[len(rows) :]:
        axes.remove()
    for axes in grid[max(len(rows) - across, 0) : len(rows)]:  # some are above an empty place
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch", fontsize=8)
    grid[0].set_xlim(0.5, history["epoch"].max() + 0.5)
    grid[0].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    grid[0].set_yscale("log")
    grid[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    grid[0].yaxis.set_major_formatter("{x:g}")
    grid[0].minorticks_off()
    figure.supylabel("loss", fontsize=8)
    folds = history["fold"].nunique()
    note = f"\nA line for each of {folds} folds" if folds > 1 else ""
    figure.suptitle(f"{title}{note}", fontsize=10)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return figure


def _draw_losses(axes: Axes, epochs: pd.DataFrame) -> None:
    """Draw the losses of a row and mark the best epoch of every fold."""
    width, size = (1.4, 16) if epochs["fold"].nunique() == 1 else (0.6, 5)
    losses = epochs.pivot(index="epoch", columns="fold")
    for part, color in LOSS_COLORS.items():
        lines = axes.plot(losses.index, losses[f"{part}_loss"], color=color, linewidth=width)
        lines[0].set_label(part)
    best = epochs.loc[epochs.groupby("fold")["validation_loss"].idxmin()]
    places = best["epoch"], best["validation_loss"]
    axes.scatter(*places, s=size, color="black", zorder=3, label="best epoch")
    axes.tick_params(labelsize=7)


def estimates_over_time(
    predictions: Mapping[str, Mapping[str, np.ndarray]], rate_hz: float, truth: str, title: str
) -> Figure:
    """Draw targets and estimates over a few seconds of a test subject: a line of panels per row.

    The curves have a gap where the recording is not continuous (another trial or step, or dropped
    samples).

    Args:
        predictions: row -> arrays as in its file in `predictions/`.
        rate_hz: sampling rate.
        truth: label of the true curve: `measured` or `simulated`.
        title: title of the figure.
    """
    first = next(iter(predictions.values()))
    shown = first["sample"][_longest_part(first["stretch"], first["activity"], rate_hz)]
    names = [f"{n}\n({u})" for n, u in zip(first["target"], first["unit"], strict=True)]
    figure = Figure(figsize=(1.2 + 1.9 * len(names), 1.2 + 1.25 * len(predictions)))
    grid = figure.subplots(len(predictions), len(names), sharex=True, sharey="col", squeeze=False)
    for panels, (row, arrays) in zip(grid, predictions.items(), strict=True):
        chosen = np.isin(arrays["sample"], shown)  # some rows estimate fewer samples than others
        time_s = (arrays["sample"][chosen] - shown[0]) / rate_hz
        breaks = np.flatnonzero(np.diff(arrays["stretch"][chosen])) + 1
        for kind, color, width in (("truth", "black", 1.8), ("prediction", ESTIMATE_COLOR, 1.2)):
            values = np.insert(arrays[kind][chosen], breaks, np.nan, axis=0)
            for axes, curve in zip(panels, values.T, strict=True):
                label = {"truth": truth, "prediction": "estimated"}[kind]
                x = np.insert(time_s, breaks, np.nan)
                axes.plot(x, curve, color=color, linewidth=width, label=label)
        name = row.replace("-", "\n", 1)  # network and sensor set
        panels[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name, fontsize=9)
    for axes in grid.ravel():
        axes.tick_params(labelsize=7)
    figure.supxlabel("time (s)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=9)
    return figure


def _longest_part(stretch: np.ndarray, activity: np.ndarray, rate_hz: float) -> slice:
    """Return a few seconds from the start of the longest stretch, within its activity."""
    _, starts, counts = np.unique(stretch, return_index=True, return_counts=True)
    start = int(starts[np.argmax(counts)])
    stop = min(start + int(ESTIMATES_S * rate_hz), len(stretch))
    others = np.flatnonzero(activity[start:stop] != activity[start])
    return slice(start, start + int(others[0]) if len(others) else stop)


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
    figure = Figure(figsize=(2.5 + table.shape[1], 1.6 + 0.28 * len(table)))
    axes = figure.subplots()
    sns.heatmap(
        table, annot=True, fmt=".1f", annot_kws={"fontsize": 8}, cmap="crest", linewidths=0.5,
        robust=True,  # keep one outlier from using up the color scale
        cbar_kws={"label": "NRMSE (%)"}, ax=axes,
    )  # fmt: skip
    axes.vlines(table.shape[1] - 1, 0, len(table), color="white", linewidth=4)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.tick_params(axis="both", labelsize=8, left=False, bottom=False)
    axes.set(xlabel="", ylabel="")
    axes.set_title(title, fontsize=10)
    return figure
