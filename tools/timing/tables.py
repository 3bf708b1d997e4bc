"""The measurements as Markdown tables, and the chart of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import plots

NOT_MEASURED = "not measured"
Found = dict[str, Any]


def markdown(results: Found) -> str:
    """Return everything as Markdown; a part that was not run is left out."""
    machine = results["machine"]
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in machine.items() if value]
    parts = ["# Benchmark\n", "; ".join(facts) + ".\n"]
    for name, table in _TABLES.items():
        if results.get(name):
            parts.append(table(results[name]))
    if not machine["gpu"]:
        parts.append(
            f"CUDA: {NOT_MEASURED}, there is no device here; with one the same command measures "
            "it.\n"
        )
    return "\n".join(parts)


def _table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines)]
    return f"## {title}\n\n" + "\n".join(rows) + "\n"


def _training(found: Sequence[Found]) -> str:
    lines = [
        [
            f["dataset"],
            f"`{f['row']}`",
            f["device"],
            f"{f['published_s']:.2f}",
            f"{f['ours_s']:.2f}",
            f"{f['once_per_fold_s']:.2f}" if f["once_per_fold_s"] else "",
            f"{f['ratio']:.2f} ({min(f['ratios']):.2f}-{max(f['ratios']):.2f})",
        ]
        for f in found
    ]
    header = ["", "row", "device", "published loop (s)", "ours (s)", "once per fold (s)", "ratio"]
    count, repeats = found[0]["batches"], max(f["repeats"] for f in found)
    title = f"Training: epochs of {count} batches and one of validation, {repeats} repeats at most"
    return _table(title, header, lines)


def _inference(found: Sequence[Found]) -> str:
    lines = [
        [
            f["dataset"],
            f"`{f['row']}`",
            f["device"],
            f"{f['parameters']:,}",
            f"{f['multiply_adds'] / 1e6:,.1f}",
            f"{f['batch_1_ms']:.2f} ({f['batch_1_p95_ms']:.2f})",
            _number(f, "onnx_batch_1_ms"),
            f"{f['batch_64_ms'] / 64:.2f}",
            _number(f, "onnx_batch_64_ms", 64),
            f"{f['batch_64_windows_per_s']:,.0f}",
            f"{f['window_ms']:.0f} + {f['hop_ms']:.0f} + {f['batch_1_ms']:.0f}",
            f"{f['prediction_bytes'] / 1e6:,.0f}",
            f"{f['training_bytes'] / 1e6:,.0f}" if f["training_bytes"] is not None else "",
        ]
        for f in found
    ]
    header = [
        *("", "row", "device", "parameters", "10⁶ multiply-adds", "1 window: ms (95th)", "ONNX"),
        *("in 64: ms per window", "ONNX", "windows/s", "delay: window + hop + compute (ms)"),
        *("MB to predict a batch", "MB to train on one"),
    ]
    return _table(f"Inference, {found[0]['threads']} CPU thread(s)", header, lines)


def _number(found: Found, name: str, windows: int = 1) -> str:
    return f"{found[name] / windows:.2f}" if name in found else NOT_MEASURED


def _reading(found: Sequence[Found]) -> str:
    lines = [
        [
            f["dataset"],
            f["stored"],
            f"{f['rows']:,}",
            f"{f['rows_per_s'] / 1e6:.2f}",
            f"{f['over_h5py']:.2f}",
            f"{f['appending_over_ours']:,.0f}" if "appending_s" in f else NOT_MEASURED,
            f"{f['kept_bytes'] / 1e6:,.0f}",
            f"{f['peak_bytes'] / 1e6:,.0f}",
            f"{f['appending_peak_bytes'] / 1e6:,.0f}" if "appending_s" in f else NOT_MEASURED,
        ]
        for f in found
    ]
    header = [
        *(
            "",
            "stored as",
            "rows",
            "10⁶ rows/s",
            "time over h5py's alone",
            "appending's time over ours",
        ),
        *("MB kept", "MB peak", "MB peak, appending one dataset"),
    ]
    return _table("Reading a file", header, lines)


def _options(found: Sequence[Found]) -> str:
    lines = []
    for f in found:
        name = [f["dataset"], f"`{f['row']}`", f["device"], f["way"]]
        if f["seconds_per_epoch"] is None:
            lines.append([*name, *[NOT_MEASURED] * 3])
            continue
        nrmse = f["nrmse_percent"]
        spread = f" ± {np.std(nrmse, ddof=1):.2f}" if len(nrmse) > 1 else ""
        seconds = f"{f['seconds_per_epoch']:.2f}"
        lines.append([*name, seconds, f"{f['ratio']:.2f}", f"{np.mean(nrmse):.2f}{spread}"])
    header = ["", "row", "device", "`--faster`", "s per epoch", "ratio", "NRMSE % (seeds)"]
    return _table("Ways to be faster, on the synthetic sample", header, lines)


def _jobs(found: Sequence[Found]) -> str:
    lines = [
        [
            f["dataset"],
            f"`{f['row']}`",
            f["device"],
            str(f["jobs"]),
            str(f["threads"]),
            f"{f['windows_per_s']:.0f}",
            f"{f['ratio']:.2f}",
        ]
        for f in found
    ]
    header = ["", "row", "device", "`--jobs`", "threads of each", "windows/s", "ratio"]
    return _table("Trainings side by side", header, lines)


_TABLES = {
    "training": _training,
    "inference": _inference,
    "reading": _reading,
    "options": _options,
    "jobs": _jobs,
}


def latency_figure(found: Sequence[Found]) -> Figure:
    """Draw the time to compute one window, a line per row; PyTorch and ONNX, CPU and GPU."""
    names = list(dict.fromkeys(_name(f) for f in found))
    with plots.style():
        figure = Figure(figsize=(7.5, 0.22 * len(names) + 1.6), layout="constrained")
        axes = figure.subplots()
        series = {"PyTorch": ("batch_1_ms", "o"), "ONNX Runtime": ("onnx_batch_1_ms", "^")}
        for name, (key, marker) in series.items():
            chosen = [f for f in found if key in f]
            for device in dict.fromkeys(f["device"] for f in chosen):
                points = [f for f in chosen if f["device"] == device]
                rows = [names.index(_name(f)) for f in points]
                axes.plot([f[key] for f in points], rows, marker, label=f"{name}, {device}")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set(xscale="log", xlabel="ms to compute one window of 0.5 s")
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def _name(found: Found) -> str:
    return f"{found['row']} ({found['dataset']}, {found['parameters'] / 1e6:,.1f} M)"
