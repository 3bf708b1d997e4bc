"""The targets over a few seconds, as predicted and, where that is known, as measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common.charts import KINDS
from common.experiments import Target
from matplotlib.figure import Figure

from common.files import written_whole
from common.plots import style

if TYPE_CHECKING:
    from tools.prediction.result import Result

SHOWN_S = 5.0


def save(
    path: Path, result: Result, targets: Sequence[Target], rate_hz: int, about: Mapping[str, Any]
) -> None:
    """Draw the figure and write it, whole, as PNG."""
    with style():
        figure = _draw(result, targets, rate_hz, about)
        with written_whole(path) as part:
            figure.savefig(part, format="png", dpi=150)


def _draw(
    result: Result, targets: Sequence[Target], rate_hz: int, about: Mapping[str, Any]
) -> Figure:
    part = _part_to_show(result, rate_hz)
    breaks = np.flatnonzero(np.diff(result.stretch[part])) + 1
    time_s = np.insert(np.arange(part.stop - part.start) / rate_hz, breaks, np.nan)
    figure = Figure(figsize=(10, 1.5 * len(targets) + 1.2))
    all_axes = figure.subplots(len(targets), sharex=True)
    nrmse = result.nrmse_percent(targets)
    for k, (axes, target) in enumerate(zip(all_axes, targets, strict=True)):
        truth, predicted = (
            np.insert(values[part, k], breaks, np.nan)
            for values in (result.truth, result.prediction)
        )
        if np.isfinite(truth).any():
            axes.plot(time_s, truth, color="black", linestyle="--", linewidth=1.3, label="measured")
        axes.plot(time_s, predicted, color=KINDS["distilled"], linewidth=1.8, label="predicted")
        axes.margins(x=0.01)
        for position in breaks:
            axes.axvline(position / rate_hz, color="0.6", linewidth=0.8)
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
        if np.isfinite(nrmse[k]):
            text = f"NRMSE {nrmse[k]:.1f} % of the whole recording"
            axes.set_title(text, loc="right", fontsize=8, pad=2)
    figure.align_ylabels(all_axes)
    all_axes[-1].set_xlabel(f"time (s) from {_place(result, part.start)}")
    figure.suptitle(about["title"], fontsize=11)
    if about["delay"]:
        figure.supxlabel(about["delay"], fontsize=8)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
    return figure


def _part_to_show(result: Result, rate_hz: int) -> slice:
    """Choose a few seconds from the start of the longest predicted stretch."""
    has_some = np.isfinite(result.prediction).all(axis=1)
    numbers, starts, counts = np.unique(
        np.where(has_some, result.stretch, -1), return_index=True, return_counts=True
    )
    counts[numbers < 0] = 0
    start = int(starts[np.argmax(counts)])
    return slice(start, min(start + int(SHOWN_S * rate_hz), len(has_some)))


def _place(result: Result, row: int) -> str:
    """Tell where a row is from."""
    return ", ".join(
        f"{name.split(' (')[0]} {value}" for name, value in result.where.iloc[row].items()
    )
