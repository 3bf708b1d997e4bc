"""One page: the average stride of every target (rows) and activity (columns), with its SD."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from common.files import written_whole
from tools.check.layout import Layout
from tools.check.strides import POINTS, Strides

COLOR = "#2a6fb0"


def save(path: Path, layout: Layout, strides: Strides, title: str) -> None:
    """Draw the page and write it, whole, as the format of its suffix."""
    with mpl.rc_context({**sns.axes_style("whitegrid"), "figure.constrained_layout.use": True}):
        figure = _page(layout, strides, title)
        with written_whole(path) as part:
            figure.savefig(part, format=path.suffix[1:] or "png", dpi=110)


def _page(layout: Layout, strides: Strides, title: str) -> Figure:
    activities = list(strides.counts)
    rows, columns = len(layout.targets), len(activities)
    figure = Figure(figsize=(max(2.7 * columns, 5.5) + 0.8, 1.45 * rows + 1.0))
    all_axes = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    percent = np.linspace(0.0, 100.0, POINTS)
    span = "stance" if layout.study.dataset == "b" else "stride"
    for column, activity in enumerate(activities):
        count = strides.counts[activity]
        mean, sd = strides.mean_and_sd(activity)
        all_axes[0, column].set_title(f"{activity}, {count:,} {span}s", fontsize=10)
        all_axes[-1, column].set_xlabel(f"% of the right foot's {span}")
        for row, axes in enumerate(all_axes[:, column]):
            axes.axhline(0.0, color="0.6", linewidth=0.8)
            axes.set(xlim=(0.0, 100.0), xticks=range(0, 100, 20))
            if not count:
                place = {"transform": axes.transAxes, "ha": "center", "va": "bottom"}
                axes.text(0.5, 0.55, f"no whole {span}", color="0.4", fontsize=8, **place)
                continue
            low, high = mean[:, row] - sd[:, row], mean[:, row] + sd[:, row]
            axes.fill_between(percent, low, high, color=COLOR, alpha=0.25, linewidth=0)
            axes.plot(percent, mean[:, row], color=COLOR, linewidth=1.6)
    for target, axes in zip(layout.targets, all_axes[:, 0], strict=True):
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
    figure.align_ylabels(all_axes[:, 0])
    figure.suptitle(f"{title}: mean and SD over {span}s")
    return figure
