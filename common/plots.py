"""Figures of a run: losses over epochs, targets over time, and charts of NRMSE.

The *kind* of a row is its name up to the first hyphen: one of `COLORS` in the sensor-distillation
scripts, the model in the others. A kind has the same color in all figures of a
script. Functions that draw charts take `lines`: the metrics over all activities, with the
additional columns `kind`, `imus` (number of IMUs) and `third` (third modality, empty for none).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

if TYPE_CHECKING:
    from common.data import Target
    from common.runs import Run

TRACE_SECONDS = 4.0
FULL_NETWORK = "mffm_gated"  # ablation row with all blocks
ABLATION_TRACES = ("early_lstm", "concat_lstm", FULL_NETWORK)

LOSS_COLORS = {"training": "#d1682b", "validation": "#2a6fb0"}
COLORS = {
    "teacher": "#7f7f7f",
    "student": "#d1682b",
    "distilled": "#2a6fb0",
    "streaming": "#e3b23c",
    "distilled_streaming": "#3f9b7f",
}
LABELS = {
    "teacher": "teacher, all sensors",
    "student": "student, IMUs only",
    "distilled": "distilled student, IMUs only",
    "streaming": "streaming student, IMUs only",
    "distilled_streaming": "distilled streaming student, IMUs only",
}


def figure_style() -> AbstractContextManager[None]:
    """Return the matplotlib context for all figures."""
    return mpl.rc_context({**sns.axes_style("whitegrid"), "figure.constrained_layout.use": True})


# Figures of each family of scripts ----------------------------------------------------------------


def distillation_figures(run: Run, rows: Sequence[str], test_subjects: Sequence[str]) -> None:
    """Write the figures of a sensor-distillation run."""
    lines = _lines(run, rows, test_subjects)
    with figure_style():
        _save_learning_curves(run)
        _save_traces(run, rows, test_subjects, COLORS)
        _save_chart(run, "nrmse_per_target", nrmse_per_target(lines))
        if (lines["kind"] != "teacher").any():
            _save_chart(run, "nrmse_against_imus", nrmse_against_imus(lines))


def comparison_figures(run: Run, rows: Sequence[str], test_subjects: Sequence[str]) -> None:
    """Write the figures of a run that compares models.

    Rows that another row is built from appear only in the heat map, because the output of a network
    trained for correlation has an arbitrary scale.
    """
    lines = _lines(run, rows, test_subjects)
    parts = {need for row in run.script.ROWS for need in row.needs}
    models = [row for row in rows if row not in parts] or list(rows)
    kinds = [_kind(row.name) for row in run.script.ROWS if row.name not in parts]
    kinds = list(dict.fromkeys([*kinds, *map(_kind, models)]))
    palette = sns.color_palette("colorblind", len(kinds)).as_hex()
    colors = dict(zip(kinds, palette, strict=True))
    with figure_style():
        _save_learning_curves(run)
        _save_traces(run, models, test_subjects, colors)
        _save_chart(run, "nrmse_per_target", nrmse_heat_map(lines, rows))
        model_lines = lines[lines["row"].isin(models)]
        _save_chart(run, "nrmse_against_imus", nrmse_of_models(model_lines, colors))


def ablation_figures(run: Run, rows: Sequence[str], test_subjects: Sequence[str]) -> None:
    """Write the figures of an ablation."""
    lines = _lines(run, rows, test_subjects)
    traced = [row for row in rows if row in ABLATION_TRACES] or rows[:1]
    palette = sns.color_palette("colorblind", len(traced)).as_hex()
    colors = dict(zip(map(_kind, traced), palette, strict=True))
    with figure_style():
        _save_learning_curves(run)
        _save_traces(run, traced, test_subjects, colors)
        _save_chart(run, "nrmse_per_target", nrmse_heat_map(lines, rows))
        _save_chart(run, "nrmse_of_rows", nrmse_of_ablation(lines, FULL_NETWORK))


def _save_chart(run: Run, name: str, figure: Figure) -> None:
    """Save a chart, marked if the data are synthetic."""
    if run.recording.is_synthetic:
        figure.text(0.005, 0.005, "SYNTHETIC DATA", fontsize=7, color="0.4")
    run.folder.save_figure(name, figure)


def _kind(row: str) -> str:
    return row.split("-")[0]


def _lines(run: Run, rows: Sequence[str], test_subjects: Sequence[str]) -> pd.DataFrame:
    """Return the metrics over all activities with the columns `kind`, `imus` and `third`."""
    metrics, sensor_sets = run.folder.metrics, run.script.SENSOR_SETS
    chosen = metrics["row"].isin(rows) & metrics["test_subject"].isin(test_subjects)
    lines = metrics[chosen & (metrics["activity"] == "all")]
    imus = {name: len(sensor_set.sensors) for name, sensor_set in sensor_sets.items()}
    third = {name: "".join(sensor_set.modalities[2:]) for name, sensor_set in sensor_sets.items()}
    return lines.assign(
        kind=lines["row"].map(_kind),
        imus=lines["sensor_set"].map(imus),
        third=lines["sensor_set"].map(third),
    )


# Losses over epochs -------------------------------------------------------------------------------


def _save_learning_curves(run: Run) -> None:
    """Draw all trainings of the run, also those of earlier calls."""
    if len(run.folder.history):  # networks without training, such as `dlr`, have no epochs
        _save_chart(run, "learning_curves", learning_curves(run.folder.history))


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


# Measured and predicted over time -----------------------------------------------------------------


def _save_traces(
    run: Run, rows: Sequence[str], test_subjects: Sequence[str], colors: dict[str, str]
) -> None:
    """Draw, for every test subject, the row of each kind that has the fewest IMUs."""
    sensor_sets = {row.name: row.sensor_set for row in run.script.ROWS}

    def imus(row: str) -> int:
        return len(run.script.SENSOR_SETS[sensor_sets[row]].sensors)

    of_kind = {kind: [row for row in rows if _kind(row) == kind] for kind in colors}
    drawn = [min(names, key=imus) for names in of_kind.values() if names]
    for subject in test_subjects:
        run.folder.save_figure(f"traces-subject_{subject}", traces(run, drawn, subject, colors))


def traces(run: Run, rows: Iterable[str], subject: str, colors: dict[str, str]) -> Figure:
    """Draw measured and predicted targets over a few seconds of the test subject.

    A vertical line and a gap in the curves mark where the recording was not continuous (another
    trial or step, or dropped samples).
    """
    targets, rate_hz = run.script.TARGETS, run.script.RATE_HZ
    truth = "synthetic" if run.recording.is_synthetic else "measured"
    saved = {row: np.load(run.folder.predictions_file(row, subject)) for row in rows}
    first = next(iter(saved.values()))
    part = _trace_part(first["stretch"], first["activity"], rate_hz)
    curves = [(first["truth"][part], {"color": "black", "linewidth": 2.2, "label": truth})]
    for row, arrays in saved.items():
        style = {"color": colors[_kind(row)], "linewidth": 1.3, "label": row}
        curves.append((_at_samples_of(first, arrays)[part], style))
    figure = draw_over_time(targets, first["stretch"][part], rate_hz, curves)
    figure.axes[-1].set_xlabel("time (s)")
    activity = first["activity"][part.start]
    figure.suptitle(
        f"{truth.capitalize()} and predicted, test subject {subject}"
        + (f", {activity}" if activity else "")
    )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _at_samples_of(first: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the predictions of a row for the samples of the first row, NaN where it has none.

    A streaming student has none for the last samples of a stretch. Rows of earlier versions have no
    array `sample`; all of them predict the same samples.
    """
    prediction = arrays["prediction"]
    found = np.full_like(first["prediction"], np.nan)
    if "sample" in first and "sample" in arrays:
        _, here, there = np.intersect1d(first["sample"], arrays["sample"], return_indices=True)
        found[here] = prediction[there]
        return found
    return prediction if len(prediction) == len(found) else found


def draw_over_time(
    targets: Sequence[Target],
    stretch: np.ndarray,
    rate_hz: int,
    curves: Sequence[tuple[np.ndarray, dict[str, Any]]],
) -> Figure:
    """Draw curves of every target, one below the other, with a gap and a line between stretches.

    Args:
        targets: names and units.
        stretch: `(samples,)` number of the stretch.
        rate_hz: sampling rate.
        curves: values `(samples, K)` and their style; a target without a value has no curve.
    """
    breaks = np.flatnonzero(np.diff(stretch)) + 1
    time_s = np.insert(np.arange(len(stretch)) / rate_hz, breaks, np.nan)
    figure = Figure(figsize=(10, 1.6 * len(targets) + 0.8))
    all_axes = np.atleast_1d(figure.subplots(len(targets), sharex=True))
    for k, (axes, target) in enumerate(zip(all_axes, targets, strict=True)):
        for values, style in curves:
            if np.isfinite(values[:, k]).any():
                axes.plot(time_s, np.insert(values[:, k], breaks, np.nan), **style)
        for position in breaks:
            axes.axvline(position / rate_hz, color="0.6", linewidth=0.8)
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
    return figure


def _trace_part(stretch: np.ndarray, activity: np.ndarray, rate_hz: int) -> slice:
    """Return a few seconds from the start of the longest stretch, within its activity."""
    _, starts, counts = np.unique(stretch, return_index=True, return_counts=True)
    start = int(starts[np.argmax(counts)])
    stop = min(start + int(TRACE_SECONDS * rate_hz), len(stretch))
    others = np.flatnonzero(activity[start:stop] != activity[start])
    return slice(start, start + int(others[0]) if len(others) else stop)


# Charts of NRMSE ----------------------------------------------------------------------------------


def nrmse_per_target(lines: pd.DataFrame) -> Figure:
    """Draw NRMSE per target for the teacher and the students, a panel per sensor set."""
    teacher = lines[lines["kind"] == "teacher"]
    sets = list(dict.fromkeys(lines.loc[lines["kind"] != "teacher", "sensor_set"])) or [None]
    figure = Figure(figsize=(10, 2.3 * len(sets) + 1.2))
    all_axes = np.atleast_1d(figure.subplots(len(sets), sharex=True, sharey=True))
    present = [kind for kind in COLORS if (lines["kind"] == kind).any()]
    for axes, sensor_set in zip(all_axes, sets, strict=True):
        shown = pd.concat([teacher, lines[lines["sensor_set"] == sensor_set]]).drop_duplicates()
        sns.barplot(
            shown, x="target", y="nrmse_percent", hue="kind", hue_order=present,
            palette=COLORS, errorbar="sd", err_kws={"linewidth": 1.2}, ax=axes,
        )  # fmt: skip
        axes.get_legend().remove()
        axes.set(xlabel="", ylabel="NRMSE (%)")
        axes.set_title(f"students: {sensor_set}" if sensor_set else "teacher", fontsize=10)
    all_axes[-1].set_xticks(
        all_axes[-1].get_xticks(),
        [label.get_text().replace(" ", "\n") for label in all_axes[-1].get_xticklabels()],
    )
    handles, kinds = all_axes[0].get_legend_handles_labels()
    labels = [LABELS[kind] for kind in kinds]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    figure.suptitle(f"NRMSE per target{_subjects_note(lines)}")
    return figure


def nrmse_against_imus(lines: pd.DataFrame) -> Figure:
    """Draw the mean NRMSE over targets against the number of IMUs, a line per kind of student."""
    means = _means_over_targets(lines)
    kinds = [kind for kind in COLORS if kind != "teacher" and (means["kind"] == kind).any()]
    figure = Figure(figsize=(6, 3.5 + 0.25 * len(kinds)))  # with room for the legend
    axes = figure.subplots()
    for i, kind in enumerate(kinds):
        chosen = means[means["kind"] == kind]
        x = chosen["imus"] + 0.08 * (i - (len(kinds) - 1) / 2)  # error bars side by side
        _error_bars(axes, x, chosen, color=COLORS[kind], label=LABELS[kind])
    teacher = means.loc[means["kind"] == "teacher", "nrmse_percent"]
    if len(teacher):
        label = LABELS["teacher"]
        axes.axhline(teacher.mean(), color=COLORS["teacher"], linestyle="--", label=label)
    students = means[means["kind"] != "teacher"]
    ticks = sorted((means if students.empty else students)["imus"].unique())
    axes.set_xticks(ticks)
    axes.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
    _label_against_imus(axes, lines)
    figure.legend(loc="outside lower center")
    return figure


def nrmse_of_models(lines: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw the mean NRMSE over targets against the number of IMUs, a line per model.

    The sensor set with a third modality is drawn separately, on the right.
    """
    means = _means_over_targets(lines)
    is_full = means["third"] != ""
    position = means["imus"] + is_full  # right of all IMUs, where there is room
    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.subplots()
    present = [kind for kind in colors if (means["kind"] == kind).any()]
    for i, kind in enumerate(present):
        x = position + 0.05 * (i - (len(present) - 1) / 2)  # error bars side by side
        for part, linestyle in ((~is_full, "-"), (is_full, "none")):
            chosen = part & (means["kind"] == kind)
            if chosen.any():
                label = kind if kind not in axes.get_legend_handles_labels()[1] else None
                style = {"color": colors[kind], "label": label, "linestyle": linestyle}
                _error_bars(axes, x[chosen], means[chosen], **style)
    names = means["imus"].astype(str) + np.where(is_full, "\n+ " + means["third"], "")
    ticks = dict(sorted(zip(position, names, strict=True)))
    axes.set_xticks(list(ticks), list(ticks.values()))
    _label_against_imus(axes, lines)
    figure.legend(loc="outside right center")
    return figure


def nrmse_heat_map(lines: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """Draw NRMSE per row and target, and its mean over targets, averaged over subjects."""
    by_target = lines.pivot_table(index="row", columns="target", values="nrmse_percent", sort=False)
    table = by_target.loc[list(rows)]
    table["mean"] = table.mean(axis=1, skipna=False)
    figure = Figure(figsize=(2.5 + table.shape[1], 1.6 + 0.28 * len(table)))
    axes = figure.subplots()
    sns.heatmap(
        table, annot=True, fmt=".1f", annot_kws={"fontsize": 8}, cmap="crest", linewidths=0.5,
        robust=True,  # keep one outlier from using up the color scale
        cbar_kws={"label": "NRMSE (%)"}, ax=axes,
    )  # fmt: skip
    kinds = [_kind(row) for row in rows]
    borders = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    axes.hlines(borders, 0, table.shape[1], color="white", linewidth=4)
    axes.vlines(table.shape[1] - 1, 0, len(table), color="white", linewidth=4)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    axes.tick_params(axis="both", labelsize=8, left=False, bottom=False)
    axes.set(xlabel="", ylabel="")
    axes.set_title(f"NRMSE per target{_subjects_note(lines, has_sd=False)}", fontsize=10)
    return figure


def nrmse_of_ablation(lines: pd.DataFrame, full: str) -> Figure:
    """Draw the mean NRMSE over targets of every row and its difference from the full network.

    Args:
        lines: metrics as in the module docstring; each sensor set gets a panel.
        full: kind of the full network's row, drawn in another color.
    """
    means = lines.groupby(["sensor_set", "kind", "test_subject"], sort=False, as_index=False)
    means = means["nrmse_percent"].mean()
    groups = dict(list(means.groupby("sensor_set", sort=False)))
    rows = max(group["kind"].nunique() for group in groups.values())
    figure = Figure(figsize=(8, (0.9 + 0.27 * rows) * len(groups) + 0.4))
    all_axes = np.atleast_1d(figure.subplots(len(groups), sharex=True))
    for axes, (sensor_set, group) in zip(all_axes, groups.items(), strict=True):
        _ablation_panel(axes, group, full)
        axes.set_title(sensor_set, fontsize=10)
    all_axes[-1].set_xlabel("NRMSE (%), mean over targets")
    figure.suptitle(f"Ablation{_subjects_note(lines)}", fontsize=11)
    return figure


def _ablation_panel(axes: Axes, means: pd.DataFrame, full: str) -> None:
    """Draw one bar per row, labeled with its mean over subjects and difference from `full`."""
    by_row = means.pivot_table(index="kind", columns="test_subject", values="nrmse_percent")
    by_row = by_row.loc[means["kind"].unique()]
    mean, sd = by_row.mean(axis=1, skipna=False), by_row.std(axis=1).fillna(0)
    colors = [COLORS["distilled"] if row == full else "#b9c4cf" for row in by_row.index]
    beside = axes.get_yaxis_transform()
    axes.barh(by_row.index, mean, xerr=sd, color=colors, ecolor="0.35", height=0.7)
    for position, row in enumerate(by_row.index):
        text = f"{mean[row]:.2f}"
        if full in by_row.index and row != full:
            text += f" ({mean[row] - mean[full]:+.2f})"
        axes.text(1.01, position, text, transform=beside, va="center", fontsize=8)
    if full in by_row.index:
        axes.axvline(mean[full], color=COLORS["distilled"], linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")


def _means_over_targets(lines: pd.DataFrame) -> pd.DataFrame:
    keys = ["kind", "imus", "third", "test_subject"]
    return lines.groupby(keys, as_index=False)["nrmse_percent"].mean()


def _error_bars(axes: Axes, x: pd.Series, means: pd.DataFrame, **style: str | None) -> None:
    """Draw mean and SD over subjects at every position `x`."""
    by_position = means.groupby(x)["nrmse_percent"].agg(["mean", "std"])
    sd = by_position["std"].fillna(0)
    axes.errorbar(by_position.index, by_position["mean"], yerr=sd, marker="o", capsize=3, **style)


def _label_against_imus(axes: Axes, lines: pd.DataFrame) -> None:
    axes.set(xlabel="number of IMUs", ylabel="NRMSE (%), mean over targets")
    axes.set_title(f"NRMSE against number of IMUs{_subjects_note(lines)}", fontsize=10)


def _subjects_note(lines: pd.DataFrame, has_sd: bool = True) -> str:
    subjects = sorted(lines["test_subject"].unique())
    if len(subjects) == 1:
        return f", test subject {subjects[0]}"
    return f", mean {'and SD ' if has_sd else ''}over {len(subjects)} test subjects"
