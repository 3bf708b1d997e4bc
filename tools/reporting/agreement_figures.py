"""Bland-Altman and scatter plots, a panel per target and, in Dataset A, per activity."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.reporting.agreement import Agreement, Panel, limits_of_agreement

HEXAGONS = 45  # across a panel
LINE = "#d1682b"


def bland_altman(title: str, agreement: Agreement) -> Figure:
    """Draw the difference of prediction and measurement against their mean."""
    figure = _grid(agreement, _draw_bland_altman, "mean of both", "prediction − measured")
    figure.suptitle(
        f"{title}\nBland-Altman, {_subjects(agreement)}; solid: bias, dashed: 95 % limits of\n"
        "agreement from the variance within and between subjects",
        fontsize=10,
    )
    return figure


def scatter(title: str, agreement: Agreement) -> Figure:
    """Draw prediction against measurement."""
    figure = _grid(agreement, _draw_scatter, "measured", "predicted")
    figure.suptitle(
        f"{title}\nPredicted against measured, {_subjects(agreement)}; the line is identity",
        fontsize=10,
    )
    return figure


def _subjects(agreement: Agreement) -> str:
    return f"{agreement.subjects} test subject" + ("s" if agreement.subjects > 1 else "")


def _grid(agreement: Agreement, draw: Callable[[Axes, Panel], None], x: str, y: str) -> Figure:
    """Draw all panels: targets down and activities across, or targets alone, three in a line."""
    activities, targets = agreement.activities, agreement.targets
    places = [(target, activity) for target in targets for activity in activities]
    across = len(activities) if len(activities) > 1 else min(3, len(targets))
    down = math.ceil(len(places) / across)
    figure = Figure(figsize=(3.0 * across, 2.5 * down + 0.9))
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes, ((target, unit), activity) in zip(all_axes, places, strict=False):
        panel = agreement.panels.get((target, activity))
        if panel is None:
            axes.set_axis_off()
            continue
        draw(axes, panel)
        name = f"{target}, {activity}" if activity else target
        axes.set_title("\n".join([name, *filter(None, [axes.get_title()])]), fontsize=9)
        axes.set_xlabel(f"{x} ({unit})", fontsize=8)
        axes.set_ylabel(f"{y} ({unit})", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=5)
    for axes in all_axes[len(places) :]:
        axes.set_axis_off()
    return figure


def _hexagons(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    axes.hexbin(x, y, gridsize=HEXAGONS, bins="log", mincnt=1, cmap="crest", linewidths=0.1)


def _draw_bland_altman(axes: Axes, panel: Panel) -> None:
    truth, prediction = np.concatenate(panel.drawn).astype(float).T
    _hexagons(axes, (truth + prediction) / 2, prediction - truth)
    limits = limits_of_agreement(panel.moments)
    for value, style in zip(limits, ("-", "--", "--"), strict=True):
        axes.axhline(value, color=LINE, linestyle=style, linewidth=1.2)
    axes.set_title(f"bias {limits.bias:.2g}, limits {limits.low:.2g} to {limits.high:.2g}")


def _draw_scatter(axes: Axes, panel: Panel) -> None:
    truth, prediction = np.concatenate(panel.drawn).astype(float).T
    _hexagons(axes, truth, prediction)
    ends = min(truth.min(), prediction.min()), max(truth.max(), prediction.max())
    axes.plot(ends, ends, color=LINE, linewidth=1.2)
