"""The results: the printed table, and a CSV, a JSON file and a figure."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common import plots
from common.data import Target, number_stretches
from common.files import plural, write_atomically, write_figure, write_text
from common.metrics import aligned_table, score
from common.stances import (
    NO_VERTICAL_FORCE,
    MeanCurves,
    find_in,
    mean_curves,
    stance_table,
    vertical_force,
)
from tools.opensim import write_opensim
from tools.output import explain_write_errors
from tools.predict.prediction import Prediction
from tools.predict.recording import TIME, TIME_DIGITS

JSON = "prediction.json"
OPENSIM = ("prediction_grf.mot", "prediction_moments.sto")
OPENSIM_AXES = {"antero-posterior": "x", "vertical": "y", "medio-lateral": "z"}  # of forces
RATE = "sampling rate (Hz)"
FIGURE_S = 5.0
COLOR = "#2a6fb0"


def table(result: Prediction, targets: Sequence[Target]) -> str:
    """Return the range of each target, and its errors where the targets were measured."""
    lowest, highest = np.nanmin(result.prediction, axis=0), np.nanmax(result.prediction, axis=0)
    rmse, nrmse = _errors(result, targets)
    body = [
        [target.name, target.unit, *(f"{n:.3g}" if np.isfinite(n) else "-" for n in numbers)]
        for target, *numbers in zip(targets, lowest, highest, rmse, nrmse, strict=True)
    ]
    if np.isfinite(nrmse).any():
        per_target = pd.Series(nrmse, [target.name for target in targets]).groupby(level=0).first()
        body.append(["mean", "", "", "", "", f"{per_target.mean():.3g}"])
    return aligned_table(["target", "unit", "lowest", "highest", "RMSE", "NRMSE %"], body)


def save(
    folder: Path,
    result: Prediction,
    targets: Sequence[Target],
    rate_hz: int,
    description: Mapping[str, Any],
    suffix: str = "png",
    shown: Sequence[int] | None = None,
) -> None:
    """Write the estimates, a description of their source, the stances, and figures.

    Removes the files of an earlier recording that are not written again.

    Args:
        folder: where to write.
        result: the estimates.
        targets: names and units; the same target may be given in several units.
        rate_hz: sampling rate of the estimates.
        description: the content of the JSON file; the figure shows `title` and `latency`, too.
        suffix: format of the figures.
        shown: the targets to draw; None for all.

    Raises:
        InputError: They cannot be written.
    """
    shown = list(range(len(targets))) if shown is None else shown
    drawn = result._replace(prediction=result.prediction[:, shown], truth=result.truth[:, shown])
    drawn_targets = [targets[k] for k in shown]
    columns = [f"{target.name} ({target.unit})" for target in targets]
    predicted = pd.DataFrame(result.prediction, columns=columns)
    labels = result.labels.copy()
    labels.insert(labels.columns.get_loc(TIME), RATE, rate_hz)
    lines = pd.concat([labels, predicted], axis=1)
    paths = [folder / name for name in files(suffix)]
    with explain_write_errors(folder, "--out"), plots.figure_style():
        write_text(paths[0], json.dumps(description, indent=2, ensure_ascii=False) + "\n")
        with write_atomically(paths[1]) as part:
            lines.to_csv(part, index=False, encoding="utf-8")
        write_figure(paths[2], draw(drawn, drawn_targets, rate_hz, description))
        for path in paths[3:]:
            path.unlink(missing_ok=True)
        if (stances := find_stances(result, targets, rate_hz)) is None:
            return
        with write_atomically(paths[3]) as part:
            stances.table.to_csv(part, index=False, float_format="%.6g", encoding="utf-8")
        write_figure(paths[4], draw_stances(stances, shown, description))


def save_opensim(
    folder: Path,
    result: Prediction,
    targets: Sequence[Target],
    columns: Sequence[str],
    rate_hz: int,
) -> None:
    """Write forces in N and moments in N·m for OpenSim, after `save`.

    Args:
        folder: where to write.
        result: the estimates.
        targets: names and units; those in N with a direction in their names, and those in N·m, are
            written.
        columns: columns of the script's targets, in the order of the first targets; those that are
            named like OpenSim's keep their names.
        rate_hz: sampling rate of the estimates.

    Raises:
        InputError: They cannot be written.
    """
    time_s = result.labels[TIME].to_numpy()
    if (np.diff(time_s) <= 0).any():
        time_s = np.arange(len(time_s)) / rate_hz
        print("NOTICE: the OpenSim files have several trials in succession, with times from 0 on")
    ours = {t.name: column for t, column in zip(targets, columns, strict=False)}
    forces: dict[str, np.ndarray] = {}
    moments: dict[str, np.ndarray] = {}
    for target, values in zip(targets, result.prediction.T, strict=True):
        axis = next((axis for part, axis in OPENSIM_AXES.items() if part in target.name), "")
        if target.unit == "N" and axis:
            forces[f"ground_force_v{axis}"] = values
        elif target.unit == "N·m":
            name = ours[target.name]
            is_opensim = name.endswith("_moment")
            moments[name if is_opensim else re.sub(r"\W+", "_", f"{target.name}_moment")] = values
    with explain_write_errors(folder, "--out"):
        for name, curves in zip(OPENSIM, (forces, moments), strict=True):
            if curves:
                table = {"time": time_s.round(TIME_DIGITS), **dict(sorted(curves.items()))}
                write_opensim(folder / name, pd.DataFrame(table))
    print(
        "OpenSim files: the moments have the signs of the dataset (A: internal, B: external). "
        "Without centers of pressure, the files cannot drive inverse dynamics"
    )


def files(suffix: str) -> list[str]:
    """Return the names of the files that are written, in the order of writing."""
    names = [JSON, "prediction.csv", f"prediction.{suffix}", "stances.csv", f"stances.{suffix}"]
    return [*names, *OPENSIM]


class Stances(NamedTuple):
    """The stances of a recording.

    Attributes:
        table: columns as in the `stances.csv` of a run, with the time in the recording as
            `start_s`; without measured targets, only those of the estimates.
        curves: mean and SD over the stances.
        is_measured: whether they were found in the measured force, or else in the estimated one.
    """

    table: pd.DataFrame
    curves: MeanCurves
    is_measured: bool


def find_stances(result: Prediction, targets: Sequence[Target], rate_hz: float) -> Stances | None:
    """Find the stances in the measured vertical force, or in the estimated one if none is measured.

    Prints their number, or why there are none.
    """
    vertical = vertical_force(targets)
    if vertical is None:
        print(NO_VERTICAL_FORCE)
        return None
    is_measured = bool(np.isfinite(result.truth).all(axis=1).any())
    truth = result.truth if is_measured else result.prediction
    is_known = np.isfinite(result.prediction).all(axis=1) & np.isfinite(truth).all(axis=1)
    labels = result.labels[is_known].reset_index(drop=True)
    arrays = {
        "truth": truth[is_known],
        "prediction": result.prediction[is_known],
        "activity": labels.get("activity", pd.Series("", index=labels.index)).to_numpy(),
        "stretch": number_stretches(is_known, result.stretch)[is_known],
    }
    found = find_in(arrays, targets, rate_hz)
    force = "measured" if is_measured else "estimated"
    print(f"{plural(len(found), 'complete stance')}, found in the {force} vertical force")
    if not len(found):
        return None
    table = stance_table(arrays, found, targets, rate_hz)
    table["start_s"] = labels[TIME].to_numpy()[found[:, 0]].repeat(len(targets))
    table["stretch"] = result.stretch[is_known][found[:, 0]].repeat(len(targets)) + 1
    if not is_measured:
        table = table.loc[:, ~table.columns.str.startswith("measured_")]
    return Stances(table, mean_curves([arrays], targets, rate_hz), is_measured)


def draw_stances(stances: Stances, shown: Sequence[int], description: Mapping[str, Any]) -> Figure:
    """Draw mean and SD over the stances, of the targets with these indices."""
    truth = "simulated" if description["synthetic"] else "measured"
    title = f"{figure_title(description)}\n{plural(stances.curves.count, 'stance')}"
    if not stances.is_measured:
        title += ", found in the estimated vertical force"
    mean_sds = {"estimated": stances.curves.estimates, truth: stances.curves.truth}
    curves = {name: tuple(part[:, shown] for part in both) for name, both in mean_sds.items()}
    estimated = {"estimated": curves.pop("estimated")}
    targets = [stances.curves.targets[k] for k in shown]
    return plots.stance_curves(curves if stances.is_measured else {}, estimated, targets, title)


def is_in_own_folder(path: Path) -> bool:
    """Return whether a file is in a folder that `save` has written into."""
    try:
        description = json.loads(path.with_name(JSON).read_text(encoding="utf-8"))
        return {"checkpoint", "data"} <= set(description)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


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
    figure = Figure(figsize=(plots.WIDTH_IN, 1.2 * len(targets) + 1.0))
    all_axes = np.atleast_1d(figure.subplots(len(targets), sharex=True))
    rmse, nrmse = _errors(result, targets)
    for k, (axes, target) in enumerate(zip(all_axes, targets, strict=True)):
        if np.isfinite(result.truth[part, k]).any():
            axes.plot(time_s, np.insert(result.truth[part, k], breaks, np.nan), **truth_style)
        curve = np.insert(result.prediction[part, k], breaks, np.nan)
        axes.plot(time_s, curve, color=COLOR, label="estimated")
        for position in breaks:
            axes.axvline(position / rate_hz, color="0.6", linewidth=0.8)
        axes.set_ylabel("\n".join([*plots.short_lines(target.name), f"({target.unit})"]))
        axes.margins(x=0.01)
        if np.isfinite(nrmse[k]):
            text = f"RMSE {rmse[k]:.3g} {target.unit}, NRMSE {nrmse[k]:.1f} % over all samples"
            axes.set_title(text, loc="right", pad=2)
    figure.align_ylabels(all_axes)
    place = result.labels.iloc[[part.start]].items()
    start = ", ".join(f"{name.split(' (')[0]} {column.iloc[0]}" for name, column in place)
    all_axes[-1].set_xlabel(f"time (s) from {start}")
    notes = ["Gray line: end of a stretch"] if len(breaks) else []
    if description.get("window") and not description["hop"]:
        seconds = description["window"] / rate_hz
        notes.append(f"Steps every {seconds:g} s: the windows are estimated one by one")
    notes += [result.latency] if result.latency else []
    figure.suptitle(figure_title(description))
    figure.supxlabel("\n".join(notes), fontsize=plots.SMALL_PT)
    all_axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def figure_title(description: Mapping[str, Any]) -> str:
    """Return the title of the figure, with all caveats."""
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


def _errors(result: Prediction, targets: Sequence[Target]) -> np.ndarray:
    """Return RMSE and NRMSE in % per target, `(2, K)`, over samples with truth and estimate.

    They are NaN for targets that were not measured.
    """
    errors = np.full((2, len(targets)), np.nan)
    measured = np.flatnonzero(np.isfinite(result.truth).any(axis=0))
    truth, names = result.truth[:, measured], [targets[k].name for k in measured]
    both = np.isfinite(result.prediction).all(axis=1) & np.isfinite(truth).all(axis=1)
    if len(measured) and both.any():
        with warnings.catch_warnings():  # about a constant target, whose NRMSE is NaN
            warnings.simplefilter("ignore", RuntimeWarning)
            scores = score(truth[both], result.prediction[both][:, measured], names)
        errors[:, measured] = scores["rmse"], scores["nrmse_percent"]
    return errors
