"""The average stance of every target and activity, and its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import plots
from common.data import number_stretches
from common.files import plural, write_figure
from common.stances import POINTS, find_stances, resample
from tools.check_data.layout import Layout, Part


class Stances:
    """Sums over the stances of each activity; no stance is stored.

    Attributes:
        layout: layout of the file.
        counts: activity -> number of stances.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.counts: dict[str, int] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, part: Part) -> None:
        """Add the complete stances of an activity."""
        activity = part.activity or "walking"
        targets = part.samples["targets"].astype(float)
        self.counts.setdefault(activity, 0)
        self._sums.setdefault(activity, np.zeros((2, POINTS, targets.shape[1])))
        if self.layout.vertical is None:
            return
        is_usable = np.isfinite(targets).all(axis=1)
        stretch = number_stretches(is_usable, part.trial)[is_usable]
        targets = targets[is_usable]
        vertical, rate_hz = targets[:, self.layout.vertical], self.layout.script.RATE_HZ
        found = find_stances(vertical, stretch, rate_hz)
        curves = resample(targets, found)
        self.counts[activity] += len(curves)
        self._sums[activity] += [curves.sum(axis=0), (curves.astype(float) ** 2).sum(axis=0)]

    def mean_and_sd(self, activity: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and SD over stances, `(POINTS, K)` each."""
        mean, square = self._sums[activity] / max(self.counts[activity], 1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def save_figure(path: Path, stances: Stances, title: str) -> bool:
    """Draw mean and SD of every target over the stances of each activity.

    Returns:
        Whether there are stances; without any, no figure is written.
    """
    curves = {
        f"{activity}, {plural(count, 'stance')}": stances.mean_and_sd(activity)
        for activity, count in stances.counts.items()
        if count
    }
    if not curves:
        return False
    with plots.figure_style():
        figure = plots.stance_curves({}, curves, stances.layout.script.TARGETS, title)
        write_figure(path, figure)
    return True
