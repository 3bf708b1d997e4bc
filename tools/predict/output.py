"""The results: the table on the screen, and a CSV, a JSON file and a figure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.data import Target
from common.files import plural, write_atomically, write_figure, write_text
from common.metrics import aligned_table, score
from common.plots import figure_style
from tools.output import explain_write_errors
from tools.predict.prediction import Prediction

FILES = ("prediction.csv", "prediction.json", "prediction.png")
FIGURE_S = 5.0
COLOR = "#2a6fb0"


def table(result: Prediction, targets: Sequence[Target]) -> str:
    """Return the range of each target, and its NRMSE where the targets were measured."""
    lowest, highest = np.nanmin(result.prediction, axis=0), np.nanmax(result.prediction, axis=0)
    nrmse = _nrmse_percent(result, targets)
    body = [
        [target.name, target.unit, *(f"{n:.3g}" if np.isfinite(n) else "-" for n in numbers)]
        for target, *numbers in zip(targets, lowest, highest, nrmse, strict=True)
    ]
    if np.isfinite(nrmse).any():
        body.append(["mean", "", "", "", f"{np.mean(nrmse):.3g}"])
    return aligned_table(["target", "unit", "lowest", "highest", "NRMSE %"], body)


def save(
    folder: Path,
    result: Prediction,
    targets: Sequence[Target],
    rate_hz: int,
    description: Mapping[str, Any],
) -> None:
    """Write `FILES`: the estimates, a description of their source, and a figure.

    Args:
        folder: where to write.
        result: the estimates.
        targets: names and units.
        rate_hz: sampling rate of the estimates.
        description: the content of the JSON file; the figure shows `title` and `latency`, too.

    Raises:
        InputError: They cannot be written.
    """
    columns = [f"{target.name} ({target.unit})" for target in targets]
    predicted = pd.DataFrame(result.prediction, columns=columns)
    lines = pd.concat([result.labels, predicted], axis=1)
    with explain_write_errors(folder, "--out"):
        csv_file, json_file, figure_file = (folder / name for name in FILES)
        with write_atomically(csv_file) as part:
            lines.to_csv(part, index=False, encoding="utf-8")
        write_text(json_file, json.dumps(description, indent=2, ensure_ascii=False) + "\n")
        with figure_style():
            write_figure(figure_file, draw(result, targets, rate_hz, description))


def draw(
    result: Prediction, targets: Sequence[Target], rate_hz: int, description: Mapping[str, Any]
) -> Figure:
    """Draw a few seconds of every target, estimated and, where it is known, measured.

    A line marks the end of a stretch.
    """
    part = _part_to_draw(result, rate_hz)
    breaks = np.flatnonzero(np.diff(result.stretch[part])) + 1
    time_s = np.insert(np.arange(part.stop - part.start) / rate_hz, breaks, np.nan)
    truth_style = {"color": "black", "linestyle": "--"}
    truth_style["label"] = "simulated" if description["synthetic"] else "measured"
    figure = Figure(figsize=(10, 1.6 * len(targets) + 0.8))
    all_axes = np.atleast_1d(figure.subplots(len(targets), sharex=True))
    nrmse = _nrmse_percent(result, targets)
    for k, (axes, target) in enumerate(zip(all_axes, targets, strict=True)):
        if np.isfinite(result.truth[part, k]).any():
            axes.plot(time_s, np.insert(result.truth[part, k], breaks, np.nan), **truth_style)
        curve = np.insert(result.prediction[part, k], breaks, np.nan)
        axes.plot(time_s, curve, color=COLOR, label="estimated")
        for position in breaks:
            axes.axvline(position / rate_hz, color="0.6", linewidth=0.8)
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
        axes.margins(x=0.01)
        if np.isfinite(nrmse[k]):
            text = f"NRMSE {nrmse[k]:.1f} % over the whole recording"
            axes.set_title(text, loc="right", fontsize=8, pad=2)
    figure.align_ylabels(all_axes)
    place = result.labels.iloc[part.start]
    start = ", ".join(f"{name.split(' (')[0]} {value}" for name, value in place.items())
    all_axes[-1].set_xlabel(f"time (s) from {start}")
    figure.suptitle(figure_title(description), fontsize=11)
    if result.latency:
        figure.supxlabel(result.latency, fontsize=8)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
    return figure


def figure_title(description: Mapping[str, Any]) -> str:
    """Return the title of the figure, with all reasons not to trust it."""
    title = description["title"]
    if description["synthetic"]:
        title += ", SYNTHETIC DATA"
    elif description["trained_on_synthetic_data"]:
        title += ", network trained on SYNTHETIC DATA"
    count = len(description["warnings"])
    return f"{title} ({plural(count, 'warning')})" if count else title


def _part_to_draw(result: Prediction, rate_hz: int) -> slice:
    """Return a few seconds from the start of the longest stretch that has estimates."""
    is_predicted = np.isfinite(result.prediction).all(axis=1)
    numbers, starts, counts = np.unique(
        np.where(is_predicted, result.stretch, -1), return_index=True, return_counts=True
    )
    counts[numbers < 0] = 0
    start = int(starts[np.argmax(counts)])
    return slice(start, min(start + int(FIGURE_S * rate_hz), len(is_predicted)))


def _nrmse_percent(result: Prediction, targets: Sequence[Target]) -> np.ndarray:
    """Return NRMSE in % per target over samples with both truth and estimate, NaN without any."""
    both = np.isfinite(result.prediction).all(axis=1) & np.isfinite(result.truth).all(axis=1)
    if not both.any():
        return np.full(len(targets), np.nan)
    with warnings.catch_warnings():  # about a constant target, whose NRMSE is NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        names = [target.name for target in targets]
        return score(result.truth[both], result.prediction[both], names)["nrmse_percent"]
