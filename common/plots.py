"""Figures of a run: measured against predicted, and the charts of NRMSE that suit its script.

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
from matplotlib.figure import Figure

from common import charts
from common.experiments import Study
from common.runs import Run

TRACE_SECONDS = 4.0
FULL_NETWORK = "mffm_gated"  # the ablation's row with every block
ABLATION_TRACES = ("early_lstm", "concat_lstm", FULL_NETWORK)


def distillation_figures(
    study: Study, results: Run, rows: Sequence[str], test_subjects: Sequence[str]
) -> None:
    """Write the figures of a sensor-distillation run into its folder `figures/`."""
    lines = _describe(study, results.metrics, rows, test_subjects)
    with style():
        _save_traces(study, results, rows, test_subjects, charts.KINDS)
        results.save_figure("nrmse_per_target", charts.nrmse_per_target(lines))
        if (lines["kind"] != "teacher").any():
            results.save_figure("nrmse_against_imus", charts.nrmse_against_imus(lines))


def comparison_figures(
    study: Study, results: Run, rows: Sequence[str], test_subjects: Sequence[str]
) -> None:
    """Write the figures of a run that compares models into its folder `figures/`.

    Networks that are parts of another row stand in the heat map alone: the scale of one trained
    for correlation is arbitrary.
    """
    lines = _describe(study, results.metrics, rows, test_subjects)
    parts = {row for experiment in study.experiments for row in experiment.networks.values()}
    models = [row for row in rows if row not in parts] or list(rows)
    kinds = list(dict.fromkeys(_kind(e.row) for e in study.experiments if e.row not in parts))
    kinds = list(dict.fromkeys([*kinds, *map(_kind, models)]))
    palette = sns.color_palette("colorblind", len(kinds)).as_hex()
    colors = dict(zip(kinds, palette, strict=True))
    with style():
        _save_traces(study, results, models, test_subjects, colors)
        results.save_figure("nrmse_per_target", charts.nrmse_heat_map(lines, rows))
        drawn = lines[lines["row"].isin(models)]
        results.save_figure("nrmse_against_imus", charts.nrmse_of_models(drawn, colors))


def ablation_figures(
    study: Study, results: Run, rows: Sequence[str], test_subjects: Sequence[str]
) -> None:
    """Write the figures of an ablation into its folder `figures/`."""
    lines = _describe(study, results.metrics, rows, test_subjects)
    traced = [row for row in rows if row in ABLATION_TRACES] or rows[:1]
    palette = sns.color_palette("colorblind", len(traced)).as_hex()
    colors = dict(zip(map(_kind, traced), palette, strict=True))
    with style():
        _save_traces(study, results, traced, test_subjects, colors)
        results.save_figure("nrmse_per_target", charts.nrmse_heat_map(lines, rows))
        results.save_figure("nrmse_of_rows", charts.nrmse_of_ablation(lines, FULL_NETWORK))


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
