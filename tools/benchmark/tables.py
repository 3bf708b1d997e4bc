"""The results as Markdown tables, and a figure of the latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tabulate import tabulate

from common.plots import figure_style

NOT_MEASURED = "not measured"
TITLES = {
    "training": "Training: seconds per epoch of {batches} batches",
    "inference": "Inference, {threads} CPU thread(s)",
    "streaming": "Sample by sample, {threads} CPU thread(s)",
}
COLUMNS = {  # part -> heading -> cell, filled in from a result
    "training": {
        "published loop (s)": "{published_s:.2f}",
        "ours (s)": "{ours_s:.2f}",
        "once per fold (s)": "{once_per_fold_s:.2f}",
        "ratio": "{ratio:.2f} ({lowest_ratio:.2f}-{highest_ratio:.2f})",
        "repeats": "{repeats}",
    },
    "inference": {
        "parameters": "{parameters:,}",
        "10⁶ multiply-adds": "{million_multiply_adds:,.1f}",
        "1 window: ms (95th percentile)": "{window_1_ms:.2f} ({window_1_p95_ms:.2f})",
        "in onnxruntime": "{onnx_window_1_ms:.2f}",
        "64 windows: ms per window": "{window_64_ms:.2f}",
        "in onnxruntime, per window": "{onnx_window_64_ms:.2f}",
        "windows/s": "{windows_per_s:,.0f}",
        "latency: window + hop + computation (ms)": "{window_ms:.0f} + {hop_ms:.0f} + "
        "{window_1_ms:.0f}",
        "MB to estimate a batch": "{estimating_mb:,.0f}",
        "MB to train on one": "{training_mb:,.0f}",
    },
    "streaming": {
        "NumPy: µs per sample (99th percentile)": "{numpy_us:,.0f} ({numpy_p99_us:,.0f})",
        "onnxruntime": "{onnx_us:,.0f} ({onnx_p99_us:,.0f})",
        "PyTorch": "{torch_us:,.0f} ({torch_p99_us:,.0f})",
        "NumPy relative to PyTorch": "{numpy_ratio:.2f}",
        "onnxruntime relative to PyTorch": "{onnx_ratio:.2f}",
    },
}


def markdown(results: dict[str, Any]) -> str:
    """Return a table for each part that has results."""
    machine = results["machine"]
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in machine.items() if value]
    sections = ["# Benchmark", "; ".join(facts) + "."]
    for part, found in ((part, results[part]) for part in COLUMNS if results[part]):
        columns = {"dataset": "{dataset}", "row": "`{row}`", "device": "{device}", **COLUMNS[part]}
        lines = [[_fill(cell, result) for cell in columns.values()] for result in found]
        table = tabulate(lines, list(columns), "github", disable_numparse=True)
        sections += [f"## {TITLES[part].format_map(found[0])}", table]
    if not machine["gpu"]:
        sections.append(
            f"CUDA: {NOT_MEASURED}; there is no CUDA device here. On a machine with one, the same "
            "command measures it too."
        )
    return "\n\n".join(sections) + "\n"


def _fill(cell: str, result: dict[str, Any]) -> str:
    try:
        return cell.format_map(result)
    except KeyError:
        return NOT_MEASURED


def latency_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Draw the time to compute one window for every row, in PyTorch and onnxruntime."""
    points = pd.DataFrame(
        {
            "": f"{result['row']} ({result['dataset']}, {result['parameters'] / 1e6:,.1f} M)",
            "ms to compute one window": result[key],
            "computed by": f"{name}, {result['device']}",
        }
        for result in results
        for name, key in (("PyTorch", "window_1_ms"), ("ONNX Runtime", "onnx_window_1_ms"))
        if key in result
    )
    rows = points[""].nunique()
    with figure_style():
        figure = Figure(figsize=(7.5, 0.22 * rows + 1.6))
        axes = figure.subplots()
        names = {"x": "ms to compute one window", "y": "", "hue": "computed by"}
        sns.scatterplot(points, **names, style="computed by", s=50, ax=axes, legend="full")
        axes.set(xscale="log", ylim=(rows - 0.5, -0.5))
        axes.tick_params(axis="y", labelsize=8)
        handles = axes.get_legend_handles_labels()
        axes.get_legend().remove()
        figure.legend(*handles, loc="outside upper center", ncols=4)
    return figure
