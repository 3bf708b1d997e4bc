"""The results as Markdown tables, and a figure of the latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from common.plots import figure_style

NOT_MEASURED = "not measured"
DELAY = "delay: window + hop + computation (ms)"
Result = dict[str, Any]


def markdown(results: dict[str, Any]) -> str:
    """Return a table per part that has results."""
    machine = results["machine"]
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in machine.items() if value]
    sections = ["# Benchmark", "; ".join(facts) + "."]
    streams = [result for result in results["inference"] if _is_stream(result)]
    windowed = [result for result in results["inference"] if not _is_stream(result)]
    parts = {**results, "inference": windowed, "streams": _beside_windowed(streams, windowed)}
    for part, (title, columns) in TABLES.items():
        if found := parts[part]:
            lines = []
            for result in found:
                labels = {"dataset": result["dataset"]}
                if "row" in result:
                    labels |= {"row": f"`{result['row']}`", "device": result["device"]}
                lines.append(labels | columns(result))
            table = tabulate(lines, "keys", "github", disable_numparse=True)
            sections += [f"## {title.format(**found[0])}", table]
    if not machine["gpu"]:
        sections.append(
            f"CUDA: {NOT_MEASURED}; there is no CUDA device here. On a machine with one, the same "
            "command measures it too."
        )
    return "\n\n".join(sections) + "\n"


def _training(result: Result) -> dict[str, str]:
    ratios, once_s = result["ratios"], result["once_per_fold_s"]
    return {
        "published loop (s)": f"{result['published_s']:.2f}",
        "ours (s)": f"{result['ours_s']:.2f}",
        "once per fold (s)": f"{once_s:.2f}" if once_s else "",
        "ratio": f"{result['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        "repeats": str(result["repeats"]),
    }


def _inference(result: Result) -> dict[str, str]:
    parts_ms = [f"{result[part]:.0f}" for part in ("window_ms", "hop_ms", "batch_1_ms")]
    return {
        "parameters": f"{result['parameters']:,}",
        "10⁶ multiply-adds": f"{result['multiply_adds'] / 1e6:,.1f}",
        "1 window: ms (95th percentile)": (
            f"{result['batch_1_ms']:.2f} ({result['batch_1_p95_ms']:.2f})"
        ),
        "in onnxruntime": _number(result, "onnx_batch_1_ms"),
        "64 windows: ms per window": f"{result['batch_64_ms'] / 64:.2f}",
        "in onnxruntime, per window": _number(result, "onnx_batch_64_ms", 64),
        "windows/s": f"{result['batch_64_windows_per_s']:,.0f}",
        DELAY: " + ".join(parts_ms),
        "MB to predict a batch": _number(result, "prediction_bytes", 1e6, ",.0f"),
        "MB to train on one": _number(result, "training_bytes", 1e6, ",.0f", missing=""),
    }


def _is_stream(result: Result) -> bool:
    return "lookahead_ms" in result


def _beside_windowed(streams: Sequence[Result], windowed: Sequence[Result]) -> list[Result]:
    """Return the streaming students and the windowed students of the same sensors."""

    def sensors(result: Result) -> tuple[str, str]:
        return result["dataset"], result["row"].partition("-")[2]

    chosen = {sensors(result) for result in streams}
    students = [r for r in windowed if "student" in r["row"] or "distilled" in r["row"]]
    return [*streams, *(r for r in students if sensors(r) in chosen and r["device"] == "cpu")]


def _stream(result: Result) -> dict[str, str]:
    if _is_stream(result):
        delay_ms = f"{result['lookahead_ms']:.0f} + {result['sample_us'] / 1e3:.1f}"
        pairs = (("PyTorch", "sample"), ("onnxruntime", "onnx_sample"))
        times = {
            f"{name}: µs per sample (99th percentile)": NOT_MEASURED
            if f"{key}_us" not in result
            else f"{result[f'{key}_us']:.0f} ({result[f'{key}_p99_us']:.0f})"
            for name, key in pairs
        }
    else:
        delay_ms = _inference(result)[DELAY]
        times = {}
    return {
        "parameters": f"{result['parameters']:,}",
        **times,
        "delay: lookahead, or window + hop, + computation (ms)": delay_ms,
    }


def _reading(result: Result) -> dict[str, str]:
    return {
        "stored as": result["stored"],
        "samples": f"{result['rows']:,}",
        "10⁶ samples/s": f"{result['rows_per_s'] / 1e6:.2f}",
        "time / that of h5py alone": f"{result['over_h5py']:.2f}",
        "time of appending / ours": _number(result, "appending_over_ours", 1, ",.0f"),
        "MB kept": f"{result['kept_bytes'] / 1e6:,.0f}",
        "MB at the peak": f"{result['peak_bytes'] / 1e6:,.0f}",
        "MB at the peak, appending one HDF5 dataset": _number(
            result, "appending_peak_bytes", 1e6, ",.0f"
        ),
    }


def _options(result: Result) -> dict[str, str]:
    columns = {
        "`--faster`": result["way"],
        "s per epoch": _number(result, "seconds_per_epoch"),
        "ratio": _number(result, "ratio"),
        "NRMSE % (seeds)": NOT_MEASURED,
    }
    if nrmse := result.get("nrmse_percent"):
        spread = f" ± {np.std(nrmse, ddof=1):.2f}" if len(nrmse) > 1 else ""
        columns["NRMSE % (seeds)"] = f"{np.mean(nrmse):.2f}{spread}"
    return columns


def _jobs(result: Result) -> dict[str, str]:
    return {
        "`--jobs`": str(result["jobs"]),
        "threads of each": str(result["threads"]),
        "windows/s": f"{result['windows_per_s']:.0f}",
        "ratio": f"{result['ratio']:.2f}",
    }


def _number(
    result: Result, name: str, unit: float = 1, style: str = ".2f", missing: str = NOT_MEASURED
) -> str:
    value = result.get(name)
    return missing if value is None else f"{value / unit:{style}}"


TABLES: dict[str, tuple[str, Callable[[Result], dict[str, str]]]] = {
    "training": ("Training: seconds per epoch of {batches} batches", _training),
    "inference": ("Inference, {threads} CPU thread(s)", _inference),
    "streams": ("Sample by sample, beside the windowed students, {threads} CPU thread(s)", _stream),
    "reading": ("Reading a file", _reading),
    "options": ("Ways to train faster, on synthetic data", _options),
    "jobs": ("Several trainings at the same time", _jobs),
}


def latency_figure(results: Sequence[Result]) -> Figure:
    """Draw the time to compute one window for every row, in PyTorch and onnxruntime."""
    names = list(dict.fromkeys(map(_row_label, results)))
    with figure_style():
        figure = Figure(figsize=(7.5, 0.22 * len(names) + 1.6))
        axes = figure.subplots()
        series = {"PyTorch": ("batch_1_ms", "o"), "ONNX Runtime": ("onnx_batch_1_ms", "^")}
        for name, (key, marker) in series.items():
            measured = [result for result in results if key in result]
            for device in dict.fromkeys(result["device"] for result in measured):
                points = [result for result in measured if result["device"] == device]
                rows = [names.index(_row_label(result)) for result in points]
                times_ms = [result[key] for result in points]
                axes.plot(times_ms, rows, marker, label=f"{name}, {device}")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set(xscale="log", xlabel="ms to compute one window of 0.5 s")
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def _row_label(result: Result) -> str:
    return f"{result['row']} ({result['dataset']}, {result['parameters'] / 1e6:,.1f} M)"
