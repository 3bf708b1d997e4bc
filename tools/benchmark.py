"""Measure training, inference, reading, `--faster` and `--jobs` on this machine.

Times stand beside those of the published way of doing it, measured in turns in the same process.
An epoch is one of a few batches of random windows in a dataset's size: an epoch's time grows with
their number. Each result is written as soon as it is there, in the place of an earlier one of its
kind; the others of an earlier call, interrupted or of other parts, stay:

  DIR/benchmark.json    everything that was measured
  DIR/benchmark.md      the tables that are printed
  DIR/latency.png       time to compute one window, row by row

  python -m tools.benchmark
  python -m tools.benchmark --parts training inference --rows 'student-*' --repeats 5

With its defaults it takes about an hour on two CPU cores. The CPU is measured always, CUDA where
there is a device. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common import flags
from common.files import InputError, written_whole
from tools.command import start
from tools.timing import inference, memory, options, reading, side_by_side, tables, training
from tools.timing.rows import Row, choose

PARTS = ("training", "inference", "reading", "options", "jobs")
SETTINGS = ("threads", "batch_size", "batches", "repeats", "epochs", "hop")
KIND = ("dataset", "row", "device", "way", "jobs", "threads", "rows", "stored")  # of a result
Task = Callable[[], Iterator[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return the exit status, 0."""
    chosen = _parser().parse_args(argv)
    torch.set_num_threads(chosen.threads)
    torch.backends.cudnn.allow_tf32 = False
    results = _begin(chosen)
    tasks = [(part, task) for part in chosen.parts for task in _tasks(part, chosen)]
    try:
        for part, task in tqdm(tasks, "benchmark", unit="item", disable=None):
            for found in task():
                results[part] = [f for f in results[part] if _kind(f) != _kind(found)] + [found]
                _write(chosen.out / "benchmark.json", json.dumps(results, indent=1) + "\n")
    finally:
        text = tables.markdown(results)
        _write(chosen.out / "benchmark.md", text)
        if results["inference"]:
            with written_whole(chosen.out / "latency.png") as part:
                tables.latency_figure(results["inference"]).savefig(part, format="png", dpi=150)
    print(f"{text}\nResults: {chosen.out}")
    return 0


def _begin(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the results of earlier calls, or none where there was none.

    Raises:
        InputError: They are of another machine or other settings, which must not be mixed.
    """
    settings = {name: getattr(chosen, name) for name in SETTINGS}
    results = {"machine": _machine(chosen.threads), "settings": settings}
    path = chosen.out / "benchmark.json"
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        same = all(_undated(earlier[name]) == _undated(results[name]) for name in results)
        measured = {part: earlier[part] for part in PARTS}
    except FileNotFoundError:
        return {**results, **{part: [] for part in PARTS}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it or give another --out") from error
    if not same:
        raise InputError(
            f"{path}: measured on another machine or with other settings; give another --out"
        )
    return {**results, **measured}


def _undated(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "date"}


def _kind(found: dict[str, Any]) -> list[Any]:
    return [found.get(name) for name in KIND]


def _tasks(part: str, chosen: argparse.Namespace) -> Iterator[Task]:
    """Return what there is to do for a part, each item giving one result or a few."""
    if part == "reading":
        yield from (
            (lambda dataset=d: reading.measure(dataset, chosen.repeats)) for d in chosen.datasets
        )
        return
    rows = choose(chosen.datasets, chosen.rows)
    if part in ("options", "jobs"):  # one row tells
        rows = [row for row in rows if row.experiment.fit is None and not row.experiment.teacher]
        rows = [row for row in rows if row.name.startswith("student")][:1] or rows[:1]
    for device in _devices(chosen.device):
        for row in rows:
            if part == "training" and row.experiment.fit is not None:
                continue  # made of two others without training
            yield lambda row=row, device=device: _of_row(part, row, device, chosen)


def _of_row(
    part: str, row: Row, device: torch.device, chosen: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    sizes = {"batches": chosen.batches, "batch_size": chosen.batch_size, "device": device}
    if part == "training":
        yield training.measure(row, repeats=chosen.repeats, **sizes)
    elif part == "inference":
        yield _inference(row, device, chosen)
    elif part == "options":
        yield from options.measure(row, epochs=chosen.epochs, seeds=chosen.repeats, device=device)
    else:
        repeats = chosen.repeats
        yield from side_by_side.measure(row, epochs=chosen.epochs, repeats=repeats, **sizes)


def _inference(row: Row, device: torch.device, chosen: argparse.Namespace) -> dict[str, Any]:
    study = row.study
    hop = chosen.hop or study.window // 2
    found = inference.measure(
        row,
        hop_s=hop / study.rate_hz,
        threads=chosen.threads,
        device=device,
    )
    where = (row.script.__name__, row.name, chosen.batch_size, str(device))
    found["prediction_bytes"] = memory.of_prediction(*where)
    is_fitted = row.experiment.fit is not None
    found["training_bytes"] = None if is_fitted else memory.of_training(*where)
    return found


def _devices(wanted: str) -> list[torch.device]:
    if wanted != "auto":
        return [flags.choose_device(wanted)]
    return [torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]


def _machine(threads: int) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _write(path: Path, text: str) -> None:
    try:
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot write ({error.strerror}); give another --out") from error


def _parser() -> flags.Parser:
    parser = flags.Parser(
        prog="python -m tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, count = parser.add_argument, flags.positive_int
    everything = " ".join(PARTS)
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
        help=f"of {everything} (default: all)")  # fmt: skip
    add("--datasets", nargs="+", choices=("a", "b"), default=("a", "b"), metavar="LETTER",
        help="a, b or both (default: both)")  # fmt: skip
    add("--rows", nargs="+", metavar="NAME",
        help="rows of the scripts, also as patterns, '*' for all (default: those of sensor "
        "distillation, and of every other model the one with all of its sensors)")  # fmt: skip
    add("--device", default="auto", help="auto (the CPU, and CUDA where there is one), cpu, cuda")
    add("--threads", type=count, default=1, metavar="N",
        help="CPU threads, but for the part jobs (default: 1, as the scripts)")  # fmt: skip
    add("--batch-size", type=count, default=64, metavar="N", help="windows (default: 64)")
    add("--batches", type=count, default=2, metavar="N", help="of an epoch (default: 2)")
    add("--repeats", type=count, default=3, metavar="N",
        help="of each time, and seeds of the part options (default: 3)")  # fmt: skip
    add("--epochs", type=count, default=4, metavar="N",
        help="of a training in the parts options and jobs (default: 4)")  # fmt: skip
    add("--hop", type=count, metavar="SAMPLES",
        help="from one live estimate to the next (default: half a window)")  # fmt: skip
    add("--out", type=Path, default=Path("outputs/benchmark"), metavar="DIR",
        help="folder of the results (default: outputs/benchmark)")  # fmt: skip
    return parser


if __name__ == "__main__":
    start(main)
