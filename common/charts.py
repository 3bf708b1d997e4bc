"""Charts of NRMSE: per target, against the number of IMUs, per row. They draw `lines`, the metrics
over all activities, with each row's kind, IMUs and third modality (`common.plots` makes them)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

KINDS = {"teacher": "#7f7f7f", "student": "#d1682b", "distilled": "#2a6fb0"}
NAMES = {
    "teacher": "teacher, all sensors",
    "student": "student, IMUs only",
    "distilled": "distilled student, IMUs only",
}


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
    kinds = lines.drop_duplicates("row").set_index("row")["kind"].loc[list(rows)].tolist()
    borders = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    axes.hlines(borders, 0, table.shape[1], color="white", linewidth=4)
    axes.vlines(table.shape[1] - 1, 0, len(table), color="white", linewidth=4)
    axes.set_xticklabels([name.replace(" ", "\n") for name in table.columns], rotation=0)
    axes.tick_params(axis="both", labelsize=8, left=False, bottom=False)
    axes.set(xlabel="", ylabel="")
    axes.set_title(f"NRMSE per target{_bars_note(lines, spread=False)}", fontsize=10)
    return figure


def nrmse_of_ablation(lines: pd.DataFrame, full: str) -> Figure:
    """Draw the mean NRMSE over targets of each row, and how far it is from the full network's.

    Args:
        lines: A panel is drawn for each of their sensor sets.
        full: The kind of the full network's row, drawn in another colour.
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
    figure.suptitle(f"Ablation{_bars_note(lines)}", fontsize=11)
    return figure


def _ablation_panel(axes: Axes, means: pd.DataFrame, full: str) -> None:
    """Draw a bar per row; beside it the mean and the change, both over the test subjects."""
    by_row = means.pivot_table(index="kind", columns="test_subject", values="nrmse_percent")
    by_row = by_row.loc[means["kind"].unique()]
    mean, spread = by_row.mean(axis=1, skipna=False), by_row.std(axis=1).fillna(0)
    colors = [KINDS["distilled"] if row == full else "#b9c4cf" for row in by_row.index]
    beside = axes.get_yaxis_transform()
    axes.barh(by_row.index, mean, xerr=spread, color=colors, ecolor="0.35", height=0.7)
    for position, row in enumerate(by_row.index):
        text = f"{mean[row]:.2f}"
        if full in by_row.index and row != full:
            text += f" ({mean[row] - mean[full]:+.2f})"
        axes.text(1.01, position, text, transform=beside, va="center", fontsize=8)
    if full in by_row.index:
        axes.axvline(mean[full], color=KINDS["distilled"], linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")


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
