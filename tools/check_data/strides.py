"""The average stride of every target and activity, and its figure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.files import write_figure
from common.plots import figure_style
from tools.check_data.layout import LOADED_BW, Layout, Part

POINTS = 101  # of a stride, 0 to 100 %
DURATION_S = (0.6, 2.0)  # of a stride; a longer one includes a contact off the force plates
COLOR = "#2a6fb0"


class Strides:
    """Sums over the strides (A) or stances (B) of each activity; no stride is stored.

    Attributes:
        layout: layout of the file.
        counts: activity -> number of strides.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.counts: dict[str, int] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, part: Part) -> None:
        """Add the complete strides or stances of an activity."""
        activity = part.activity or "walking"
        targets = part.samples["targets"].astype(float)
        self.counts.setdefault(activity, 0)
        self._sums.setdefault(activity, np.zeros((2, POINTS, targets.shape[1])))
        fraction = np.linspace(0.0, 1.0, POINTS)
        for start, stop in self._bounds(part):
            stride = targets[start:stop]
            if not np.isfinite(stride).all():
                continue
            samples = np.arange(len(stride))
            position = fraction * samples[-1]
            curve = np.column_stack([np.interp(position, samples, k) for k in stride.T])
            self.counts[activity] += 1
            self._sums[activity] += np.stack([curve, curve**2])

    def mean_and_sd(self, activity: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and SD over strides, `(POINTS, K)` each."""
        mean, square = self._sums[activity] / max(self.counts[activity], 1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def _bounds(self, part: Part) -> Iterator[tuple[int, int]]:
        """Yield start and stop of each stride or stance.

        A stride (A) lasts from one contact of the right foot to the next in the same trial, a
        stance (B) as long as `force_phase` is positive.
        """
        if self.layout.is_b:
            has_contact = part.columns["force_phase"][:, 0] > 0  # of the right foot
            edges = np.diff(has_contact.astype(int), prepend=0, append=0)
            yield from zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True)
            return
        if self.layout.vertical is None:
            return
        vertical = part.samples["targets"][:, self.layout.vertical]
        is_loaded = vertical > LOADED_BW  # False for NaN
        was_unloaded = vertical[:-1] <= LOADED_BW  # False for NaN, too
        is_same_trial = np.diff(part.trial) == 0
        contacts = np.flatnonzero(is_loaded[1:] & was_unloaded & is_same_trial) + 1
        shortest, longest = (seconds * self.layout.script.RATE_HZ for seconds in DURATION_S)
        for start, stop in pairwise(contacts):
            if part.trial[start] == part.trial[stop] and shortest <= stop - start <= longest:
                yield start, stop


def save_figure(path: Path, strides: Strides, title: str) -> None:
    """Write a page with the average stride of every target (rows) and activity (columns)."""
    with figure_style():
        write_figure(path, _draw(strides, title), dpi=110)


def _draw(strides: Strides, title: str) -> Figure:
    targets, activities = strides.layout.script.TARGETS, list(strides.counts)
    rows, columns = len(targets), len(activities)
    figure = Figure(figsize=(max(2.7 * columns, 5.5) + 0.8, 1.45 * rows + 1.0))
    all_axes = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    percent = np.linspace(0.0, 100.0, POINTS)
    span = "stance" if strides.layout.is_b else "stride"
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
                axes.text(0.5, 0.55, f"no complete {span}", color="0.4", fontsize=8, **place)
                continue
            low, high = mean[:, row] - sd[:, row], mean[:, row] + sd[:, row]
            axes.fill_between(percent, low, high, color=COLOR, alpha=0.25, linewidth=0)
            axes.plot(percent, mean[:, row], color=COLOR, linewidth=1.6)
    for target, axes in zip(targets, all_axes[:, 0], strict=True):
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
    figure.align_ylabels(all_axes[:, 0])
    figure.suptitle(f"{title}: mean and SD over {span}s")
    return figure
