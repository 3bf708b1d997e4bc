"""Bland-Altman and scatter plots of the peaks of a row: a point per stance."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from common import plots
from tools.report.statistics import limits_of_agreement

LINE_COLOR = "#d1682b"
COLORS = ("#2a6fb0", "#2f8f5b", "#8b5fb0", "#c2486b", "#7a6a53")  # of the activities
ACROSS = 3  # panels


def agreement_figure(title: str, stances: pd.DataFrame, truth: str, is_difference: bool) -> Figure:
    """Draw a peak of every target, a panel per target and a color per activity.

    The peak of a target is its maximum or its minimum, whichever is larger in magnitude in the
    measured stances.

    Args:
        title: end of the title.
        stances: the stances of a row; columns as in `stances.csv`.
        truth: label of the truth, `measured` or `simulated`.
        is_difference: draw a Bland-Altman plot, of the difference of both against their mean.
    """
    panels = dict(list(stances.groupby(["target", "unit"], sort=False)))
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(plots.WIDTH_IN, 2.2 * down + 1.0))
    x_label, y_label, heading = truth, "estimated", f"Peaks in stance, estimated against {truth}"
    note = "A point per stance. Solid: least squares, dashed: identity"
    if is_difference:
        x_label, y_label = "mean of both", f"estimated − {truth}"
        heading = "Bland-Altman plot of peaks in stance"
        note = "A point per stance. Solid: bias, dashed: 95 % limits of agreement\nfrom the "
        note += "variances within and between subjects"
    figure.suptitle(f"{heading}\n{title}\n{note}")
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes, ((target, unit), part) in zip(all_axes, panels.items(), strict=False):
        measure = peak(part)
        text = _draw(axes, part, measure, is_difference)
        axes.set_title(f"{target}, {measure}, n = {len(part)}\n{text}", fontsize=plots.SMALL_PT)
        axes.set_xlabel(f"{x_label} ({unit})")
        axes.set_ylabel(f"{y_label} ({unit})")
        axes.locator_params(nbins=4)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    handles, labels = all_axes[0].get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def peak(stances: pd.DataFrame) -> str:
    """Return whether the larger peak of a target is its `maximum` or its `minimum`."""
    sizes = {name: stances[f"measured_{name}"].abs().mean() for name in ("maximum", "minimum")}
    return max(sizes, key=sizes.__getitem__)


def _draw(axes: Axes, stances: pd.DataFrame, measure: str, is_difference: bool) -> str:
    """Draw the points of a panel; return a line of text about them."""
    measured, estimated = stances[f"measured_{measure}"], stances[f"estimated_{measure}"]
    differences = estimated - measured
    x, y = ((measured + estimated) / 2, differences) if is_difference else (measured, estimated)
    alpha = 0.7 if len(stances) < 500 else 0.2
    for activity, color in zip(stances["activity"].unique(), cycle(COLORS), strict=False):
        chosen = stances["activity"] == activity
        style = {"color": color, "alpha": alpha, "linewidths": 0, "rasterized": True}
        axes.scatter(x[chosen], y[chosen], s=7, label=activity, **style)
    if is_difference:
        by_subject = differences.groupby(stances["test_subject"])
        limits = limits_of_agreement([part.to_numpy() for _, part in by_subject])
        for value, style in zip(limits, ("-", "--", "--"), strict=True):
            axes.axhline(value, color=LINE_COLOR, linestyle=style, linewidth=1.2)
        return "bias {:.2g}, limits {:.2g} to {:.2g}".format(*limits)
    ends = np.array([min(measured.min(), estimated.min()), max(measured.max(), estimated.max())])
    axes.plot(ends, ends, color="0.4", linestyle="--", linewidth=1)
    rmse = f"RMSE {np.sqrt((differences**2).mean()):.2g}"
    if measured.nunique() < 2 or estimated.nunique() < 2:
        return rmse  # no line through points that do not vary
    fit = stats.linregress(measured, estimated)
    inner = np.array([measured.min(), measured.max()])
    axes.plot(inner, fit.intercept + fit.slope * inner, color=LINE_COLOR, linewidth=1.2)
    return f"slope {fit.slope:.2f}, r {fit.rvalue:.2f}, {rmse}"
