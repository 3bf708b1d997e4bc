"""Bland-Altman and scatter plots of the estimates of a row, per target and activity."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import InputError
from tools.report.statistics import limits_of_agreement

DRAWN_SAMPLES = 60_000  # per panel, over all subjects
HEXAGONS = 45  # across a panel
LINE_COLOR = "#d1682b"

Panels = dict[tuple[str, str, str], list[np.ndarray]]
"""Target, its unit, activity -> truth and estimates, `(samples, 2)` for each subject."""


def load_panels(paths: Sequence[Path]) -> Panels:
    """Load the estimates of a row, one file per subject.

    Raises:
        InputError: A file is damaged, or its targets differ from those of the others.
    """
    panels: Panels = {}
    targets: list[tuple[str, str]] = []
    for path in paths:
        try:
            with np.load(path) as file:
                names = list(zip(file["target"].tolist(), file["unit"].tolist(), strict=True))
                pairs = np.stack((file["truth"], file["prediction"]), axis=-1)  # (samples, K, 2)
                activities = file["activity"]
            if targets and names != targets:
                raise ValueError("its targets differ from those of the other subjects")
            targets = names
            for activity in dict.fromkeys(activities.tolist()):
                of_activity = pairs[activities == activity]
                for k, target in enumerate(targets):
                    panels.setdefault((*target, activity), []).append(of_activity[:, k])
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: damaged predictions ({error}); delete the file and resume its run"
            ) from error
    return panels


def agreement_figure(title: str, panels: Panels, truth: str, is_difference: bool) -> Figure:
    """Draw estimates against the truth: activities side by side, or targets if there is only one.

    Args:
        title: end of the title.
        panels: the estimates.
        truth: label of the truth, `measured` or `simulated`.
        is_difference: draw a Bland-Altman plot, of the difference of both against their mean.
    """
    targets = dict.fromkeys(place[:2] for place in panels)
    activities = dict.fromkeys(place[2] for place in panels)
    places = [(*target, activity) for target in targets for activity in activities]
    across = len(activities) if len(activities) > 1 else min(3, len(targets))
    down = math.ceil(len(places) / across)
    figure = Figure(figsize=(3.0 * across, 2.5 * down + 0.9))
    x_label, y_label, heading = truth, "estimated", f"Estimated against {truth}, {title}"
    heading += "\nLine: identity"
    if is_difference:
        x_label, y_label = f"mean of estimated and {truth}", f"estimated − {truth}"
        heading = f"Bland-Altman plot, {title}\nSolid: bias, dashed: 95% limits of agreement\n"
        heading += "from the variances within and between subjects"
    figure.suptitle(heading, fontsize=10)
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes, place in zip_longest(all_axes, places):
        if place not in panels:  # a subject may lack an activity
            axes.set_axis_off()
            continue
        target, unit, activity = place
        limits = _draw(axes, panels[place], is_difference)
        axes.set_title(", ".join(filter(None, (target, activity))) + limits, fontsize=9)
        axes.set_xlabel(f"{x_label} ({unit})", fontsize=7)
        axes.set_ylabel(f"{y_label} ({unit})", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=5)
    return figure


def _draw(axes: Axes, pairs: Sequence[np.ndarray], is_difference: bool) -> str:
    """Draw some samples, equally many from each subject; return text on the limits of all."""
    random, count = np.random.default_rng(0), DRAWN_SAMPLES // len(pairs)
    drawn = [random.choice(part, min(count, len(part)), replace=False) for part in pairs]
    truth, estimate = np.concatenate(drawn).astype(float).T
    places = ((truth + estimate) / 2, estimate - truth) if is_difference else (truth, estimate)
    axes.hexbin(*places, gridsize=HEXAGONS, bins="log", mincnt=1, cmap="crest", linewidths=0.1)
    if not is_difference:
        ends = np.min(places), np.max(places)
        axes.plot(ends, ends, color=LINE_COLOR, linewidth=1.2)
        return ""
    limits = limits_of_agreement([np.diff(part.astype(float)).ravel() for part in pairs])
    for value, style in zip(limits, ("-", "--", "--"), strict=True):
        axes.axhline(value, color=LINE_COLOR, linestyle=style, linewidth=1.2)
    return "\nbias {:.2g}, limits {:.2g} to {:.2g}".format(*limits)
