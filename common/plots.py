"""Figures of a run: measured against predicted, NRMSE per target, NRMSE against number of IMUs.

Rows are of a kind, the part of their name before the first hyphen: in distillation runs teacher,
student and distilled, else the model. A kind has one colour in all figures of a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.experiments import Study
from common.runs import Run

KINDS = {"teacher": "#7f7f7f", "student": "#d1682b", "distilled": "#2a6fb0"}
NAMES = {
    "teacher": "teacher, all sensors",
    "student": "student, IMUs only",
    "distilled": "distilled student, IMUs only",
}
TRACE_SECONDS = 4.0


def distillation_figures(
    study: Study, results: Run, rows: Sequence[str], test_subjects: Sequence[str]
) -> None:
    """Write the figures of a sensor-distillation run into its folder `figures/`."""
    lines = _describe(study, results.metrics, rows, test_subjects)
    with style():
        _save_traces(study, results, rows, test_subjects, KINDS)
        results.save_figure("nrmse_per_target", nrmse_per_target(lines))
        if (lines["kind"] != "teacher").any():
            results.save_figure("nrmse_against_imus", nrmse_against_imus(lines))


def comparison_figures(
    study: Study, results: Run, rows: Sequence[str], test_subjects: Sequence[str]
) -> None:
    """Write the figures of a run that compares models into its folder `figures/`."""
    lines = _describe(study, results.metrics, rows, test_subjects)
    models = list(dict.fromkeys(_kind(experiment.row) for experiment in study.experiments))
    palette = sns.color_palette("colorblind", len(models)).as_hex()
    colors = dict(zip(models, palette, strict=True))
    with style():
        _save_traces(study, results, rows, test_subjects, colors)
        results.save_figure("nrmse_per_target", nrmse_heat_map(lines, rows))
        results.save_figure("nrmse_against_imus", nrmse_of_models(lines, colors))


def style() -> AbstractContextManager[None]:
    """Return the context that all figures are drawn in."""
    return mpl.rc_context({**sns.axes_style("whitegrid"), "figure.constrained_layout.use": True})


def _save_traces(
    study: Study,
    results: Run,
    rows: Sequence[str],
    test_subjects: Sequence[str],
    colors: dict[str, str],
) -> None:
    drawn = _traced_rows(study, rows, colors)
    for subject in test_subjects:
        figure = traces(study, results, drawn, subject, colors)
        results.save_figure(f"traces-subject_{subject}", figure)


def _describe(
    study: Study, metrics: pd.DataFrame, rows: Sequence[str], test_subjects: Sequence[str]
) -> pd.DataFrame:
    """Return the metrics over all activities with each row's kind, IMUs and third modality."""
    chosen = metrics["row"].isin(rows) & metrics["test_subject"].isin(test_subjects)
    lines = metrics[chosen & (metrics["activity"] == "all")]
    imus = {name: len(sensor_set.sensors) for name, sensor_set in study.sensor_sets.items()}
    third = {name: "".join(s.modalities[2:]) for name, s in study.sensor_sets.items()}
    return lines.assign(
        kind=lines["row"].map(_kind),
        imus=lines["sensor_set"].map(imus),
        third=lines["sensor_set"].map(third),
    )


def _kind(row: str) -> str:
    return row.split("-")[0]


def _traced_rows(study: Study, rows: Sequence[str], kinds: Iterable[str]) -> list[str]:
    """Choose the row of each kind with the fewest IMUs, of those that were run."""

    def imus(row: str) -> int:
        return len(study.sensor_sets[study.experiment(row).sensor_set].sensors)

    fewest = {
        kind: min((row for row in rows if _kind(row) == kind), key=imus, default=None)
        for kind in kinds
    }
    return [row for row in fewest.values() if row is not None]


def traces(
    study: Study, results: Run, rows: Sequence[str], subject: str, colors: dict[str, str]
) -> Figure:
    """Draw measured and predicted targets over a few seconds of the test subject.

    Where the recording was not continuous (another trial or step, dropped rows) the curves are
    interrupted and a vertical line stands.
    """
    saved = {row: np.load(results.predictions(row, subject)) for row in rows}
    first = next(iter(saved.values()))
    part = _interesting_part(first["stretch"], first["activity"], study.rate_hz)
    breaks = np.flatnonzero(np.diff(first["stretch"][part])) + 1
    time_s = np.insert(np.arange(part.stop - part.start) / study.rate_hz, breaks, np.nan)
    figure = Figure(figsize=(10, 1.6 * len(study.targets) + 0.8))
    all_axes = figure.subplots(len(study.targets), sharex=True)
    for k, (axes, target) in enumerate(zip(all_axes, study.targets, strict=True)):
        measured = np.insert(first["truth"][part, k], breaks, np.nan)
        axes.plot(time_s, measured, color="black", linewidth=2.2, label="measured")
        for row, arrays in saved.items():
            predicted = np.insert(arrays["prediction"][part, k], breaks, np.nan)
            axes.plot(time_s, predicted, color=colors[_kind(row)], linewidth=1.3, label=row)
        for position in breaks:
            axes.axvline(position / study.rate_hz, color="0.6", linewidth=0.8)
        axes.set_ylabel(f"{target.name}\n({target.unit})", fontsize=8)
    all_axes[-1].set_xlabel("time (s)")
    activity = first["activity"][part.start]
    figure.suptitle(
        f"Measured and predicted, test subject {subject}" + (f", {activity}" if activity else "")
    )
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _interesting_part(stretch: np.ndarray, activity: np.ndarray, rate_hz: int) -> slice:
    """Choose a few seconds from the start of the longest stretch, within its activity."""
    numbers, starts, counts = np.unique(stretch, return_index=True, return_counts=True)
    start = int(starts[np.argmax(counts)])
    stop = min(start + int(TRACE_SECONDS * rate_hz), len(stretch))
    others = np.flatnonzero(activity[start:stop] != activity[start])
    return slice(start, start + int(others[0]) if len(others) else stop)


def nrmse_per_target(lines: pd.DataFrame) -> Figure:
    """Draw NRMSE per target for teacher, naive and distilled students, a panel per sensor set."""
    teacher = lines[lines["kind"] == "teacher"]
    sets = list(dict.fromkeys(lines.loc[lines["kind"] != "teacher", "sensor_set"])) or [None]
    figure = Figure(figsize=(10, 2.3 * len(sets) + 1.2))
    all_axes = np.atleast_1d(figure.subplots(len(sets), sharex=True, sharey=True))
    present = [kind for kind in KINDS if (lines["kind"] == kind).any()]
    for axes, sensor_set in zip(all_axes, sets, strict=True):
        shown = pd.concat([teacher, lines[lines["sensor_set"] == sensor_set]]).drop_duplicates()
        sns.barplot(
            shown, x="target", y="nrmse_percent", hue="kind", hue_order=present,
            palette=KINDS, errorbar="sd", err_kws={"linewidth": 1.2}, ax=axes,
        )  # fmt: skip
        axes.get_legend().remove()
        axes.set(xlabel="", ylabel="NRMSE (%)")
        axes.set_title(f"students: {sensor_set}" if sensor_set else "teacher", fontsize=10)
    all_axes[-1].set_xticks(
        all_axes[-1].get_xticks(),
        [label.get_text().replace(" ", "\n") for label in all_axes[-1].get_xticklabels()],
    )
    handles, kinds = all_axes[0].get_legend_handles_labels()
    names = [NAMES[kind] for kind in kinds]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.suptitle(f"NRMSE per target{_bars_note(lines)}")
    return figure


def nrmse_against_imus(lines: pd.DataFrame) -> Figure:
    """Draw the mean NRMSE over targets against the number of IMUs, naive and distilled."""
    means = _means_over_targets(lines)
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for kind, shift in (("student", -0.04), ("distilled", 0.04)):  # bars side by side
        chosen = means[means["kind"] == kind]
        _error_bars(axes, chosen["imus"] + shift, chosen, color=KINDS[kind], label=NAMES[kind])
    teacher = means.loc[means["kind"] == "teacher", "nrmse_percent"]
    if len(teacher):
        axes.axhline(teacher.mean(), color=KINDS["teacher"], linestyle="--", label=NAMES["teacher"])
    axes.set_xticks(sorted(means["imus"].unique()))
    _label_against_imus(axes, lines)
    axes.legend()
    return figure


def nrmse_of_models(lines: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw the mean NRMSE over targets against the number of IMUs, a line per model.

    All IMUs with the third modality stand apart, to the right.
    """
    means = _means_over_targets(lines)
    is_full = means["third"] != ""
    position = means["imus"] + is_full  # there is no set with one IMU more than all
    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.subplots()
    present = [kind for kind in colors if (means["kind"] == kind).any()]
    for i, kind in enumerate(present):
        x = position + 0.05 * (i - (len(present) - 1) / 2)  # bars side by side
        for part, linestyle in ((~is_full, "-"), (is_full, "none")):
            chosen = part & (means["kind"] == kind)
            if chosen.any():
                color, label = colors[kind], kind if kind not in _labels(axes) else None
                _error_bars(
                    axes, x[chosen], means[chosen], color=color, label=label, linestyle=linestyle
                )
    names = means["imus"].astype(str) + np.where(is_full, "\n+ " + means["third"], "")
    ticks = dict(sorted(zip(position, names, strict=True)))
    axes.set_xticks(list(ticks), list(ticks.values()))
    _label_against_imus(axes, lines)
    figure.legend(loc="outside right center")
    return figure


def nrmse_heat_map(lines: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """Draw NRMSE per row and target, and its mean over targets, as a heat map; mean of subjects."""
    by_target = lines.pivot_table(index="row", columns="target", values="nrmse_percent", sort=False)
    table = by_target.loc[list(rows)]
    table["mean"] = table.mean(axis=1, skipna=False)
    figure = Figure(figsize=(2.5 + table.shape[1], 1.6 + 0.28 * len(table)))
    axes = figure.subplots()
    sns.heatmap(
        table, annot=True, fmt=".1f", annot_kws={"fontsize": 8}, cmap="crest", linewidths=0.5,
        robust=True,  # one row that went astray must not take all the colours
        cbar_kws={"label": "NRMSE (%)"}, ax=axes,
    )  # fmt: skip
    kinds = [_kind(row) for row in rows]
    borders = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    axes.hlines(borders, 0, table.shape[1], color="white", linewidth=4)
    axes.vlines(table.shape[1] - 1, 0, len(table), color="white", linewidth=4)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    axes.tick_params(axis="both", labelsize=8, left=False, bottom=False)
    axes.set(xlabel="", ylabel="")
    axes.set_title(f"NRMSE per target{_bars_note(lines, spread=False)}", fontsize=10)
    return figure


def _means_over_targets(lines: pd.DataFrame) -> pd.DataFrame:
    keys = ["kind", "imus", "third", "test_subject"]
    return lines.groupby(keys, as_index=False)["nrmse_percent"].mean()


def _error_bars(axes: Axes, x: pd.Series, means: pd.DataFrame, **style: str | None) -> None:
    """Draw mean and SD over subjects at each place `x`."""
    spread = means.groupby(x)["nrmse_percent"].agg(["mean", "std"])
    bars = spread["std"].fillna(0)
    axes.errorbar(spread.index, spread["mean"], yerr=bars, marker="o", capsize=3, **style)


def _label_against_imus(axes: Axes, lines: pd.DataFrame) -> None:
    axes.set(xlabel="number of IMUs", ylabel="NRMSE (%), mean over targets")
    axes.set_title(f"NRMSE against number of IMUs{_bars_note(lines)}", fontsize=10)


def _labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def _bars_note(lines: pd.DataFrame, spread: bool = True) -> str:
    subjects = sorted(lines["test_subject"].unique())
    if len(subjects) == 1:
        return f", test subject {subjects[0]}"
    return f", mean {'and SD ' if spread else ''}over {len(subjects)} test subjects"
