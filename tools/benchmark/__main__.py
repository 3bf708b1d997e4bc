"""Measure speed and memory on this machine: training, inference, reading, --faster and --jobs.

  training   seconds per epoch of a script's loop and of the published loop, which loads batches by
             a DataLoader, copies them to the device, reads the loss back and runs the teacher in
             every step; both train the same network on the same windows, in turn, and end with the
             same losses. An epoch has only a few batches of random windows: its time grows with
             their number.
  inference  time to compute one window and 64, in PyTorch and, if it is installed, in onnxruntime;
             delay of a live estimate; parameters, multiply-adds; memory to predict and to train.
             Of a streaming row, the time per sample on the CPU, with its state carried
  reading    samples per second, compared with h5py alone and with appending sample by sample
  options    every way of --faster: seconds per epoch and NRMSE on synthetic data
  jobs       windows per second of several trainings at the same time

Results are written one by one:

  DIR/benchmark.json    everything that was measured
  DIR/benchmark.md      the tables that are printed
  DIR/latency.png       time to compute one window, for every row

A later call with the same --out replaces the results that it measures again and keeps the others,
so that an interrupted call loses nothing. The CPU is always measured, CUDA if there is a device.
With its defaults the command takes about an hour on two CPU cores; nothing else should run
meanwhile.

  python -m tools.benchmark
  python -m tools.benchmark --parts training inference --rows 'student-*' --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.cli import ArgumentParser, positive_int, run_main
from common.files import InputError, explain_write_errors, write_figure, write_text
from common.training import choose_device, set_up
from tools.benchmark import inference, reading, tables, training
from tools.benchmark.training import Case

PARTS = ("training", "inference", "reading", "options", "jobs")
SETTINGS = ("threads", "batch_size", "batches", "repeats", "epochs", "hop")
KEYS = ("dataset", "row", "device", "way", "jobs", "threads", "rows", "stored")  # of a result
Task = Callable[[], Iterable[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return the exit status, 0."""
    args = _parser().parse_args(argv)
    set_up(args.threads, faster=())
    results = _load_results(args)
    tasks = [(part, task) for part in args.parts for task in _tasks(part, args)]
    with explain_write_errors(args.out, "--out"):
        try:
            for part, task in tqdm(tasks, "benchmark", unit="task", disable=None):
                for result in task():
                    others = [r for r in results[part] if _key(r) != _key(result)]
                    results[part] = [*others, result]
                    write_text(args.out / "benchmark.json", json.dumps(results, indent=1) + "\n")
        finally:
            text = tables.markdown(results)
            write_text(args.out / "benchmark.md", text)
            windowed = [result for result in results["inference"] if "batch_1_ms" in result]
            if windowed:
                figure = tables.latency_figure(windowed)
                write_figure(args.out / "latency.png", figure)
    print(f"{text}\nResults: {args.out}")
    return 0


def _tasks(part: str, args: argparse.Namespace) -> Iterator[Task]:
    """Return the measurements of a part; each yields one or several results."""
    if part == "reading":
        yield from (partial(reading.measure, dataset, args.repeats) for dataset in args.datasets)
        return
    cases = training.choose_cases(args.datasets, args.rows)
    if part != "inference":  # a streaming network has no published loop to compare with
        cases = [case for case in cases if not case.row.is_beyond_paper]
    if part in ("options", "jobs"):  # one row is enough
        cases = [case for case in cases if not case.row.needs]
        cases = [case for case in cases if case.row.name.startswith("student")] or cases
        cases = cases[:1]
    for device in _devices(args.device):
        for case in cases:
            if case.row.is_beyond_paper and device.type != "cpu":
                continue  # one sample at a time is work for the CPU
            yield partial(_measure_case, part, case, device, args)


def _measure_case(
    part: str, case: Case, device: torch.device, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    sizes = {"batches": args.batches, "batch_size": args.batch_size, "repeats": args.repeats}
    if part == "training":
        yield from training.measure_training(case, **sizes, device=device)
    elif part == "inference" and case.row.is_beyond_paper:
        yield inference.measure_stream(case, threads=args.threads)
    elif part == "inference":
        yield inference.measure(
            case, hop=args.hop, batch_size=args.batch_size, threads=args.threads, device=device
        )
    elif part == "options":
        yield from training.measure_options(
            case, epochs=args.epochs, seeds=args.repeats, threads=args.threads, device=device
        )
        set_up(args.threads, faster=())
    else:
        yield from training.measure_jobs(case, **sizes, epochs=args.epochs, device=device)


def _devices(name: str) -> list[torch.device]:
    if name != "auto":
        return [choose_device(name)]
    return [torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]


# Results ------------------------------------------------------------------------------------------


def _load_results(args: argparse.Namespace) -> dict[str, Any]:
    """Return the results of earlier calls, empty if there are none.

    Raises:
        InputError: They cannot be mixed: another machine or other settings.
    """
    results: dict[str, Any] = {
        "machine": _describe_machine(args.threads),
        "settings": {name: getattr(args, name) for name in SETTINGS},
    }
    path = args.out / "benchmark.json"
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        is_same = all(_undated(earlier[name]) == _undated(results[name]) for name in results)
        measured = {part: list(earlier[part]) for part in PARTS}
    except FileNotFoundError:
        return results | {part: [] for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it or use another --out") from error
    if not is_same:
        raise InputError(
            f"{path}: measured on another machine or with other settings; use another --out"
        )
    return results | measured


def _undated(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "date"}


def _key(result: dict[str, Any]) -> list[Any]:
    """Return what distinguishes a result from others of its part."""
    return [result.get(name) for name in KEYS]


def _describe_machine(threads: int) -> dict[str, Any]:
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


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    add = parser.add_argument
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"parts to measure, from {' '.join(PARTS)} (default: all)",
    )
    add(
        "--datasets",
        nargs="+",
        choices=("a", "b"),
        default=("a", "b"),
        metavar="LETTER",
        help="a, b or both (default: both)",
    )
    add(
        "--rows",
        nargs="+",
        metavar="NAME",
        help="rows of the scripts, or patterns such as 'student-*'; '*' for all (default: all rows "
        "of sensor distillation and, for every other model, the row with most sensors)",
    )
    add(
        "--device",
        default="auto",
        help="auto (the CPU, and CUDA if there is a device), cpu, cuda or cuda:N (default: auto)",
    )
    numbers = {
        "--threads": (1, "CPU threads, except in the part jobs"),
        "--batch-size": (64, "windows per batch"),
        "--batches": (2, "batches per epoch"),
        "--repeats": (3, "repeats of every time, and seeds in the part options"),
        "--epochs": (4, "epochs per training in the parts options and jobs"),
    }
    for flag, (default, text) in numbers.items():
        help_text = f"{text} (default: {default})"
        add(flag, type=positive_int, default=default, metavar="N", help=help_text)
    add(
        "--hop",
        type=positive_int,
        metavar="SAMPLES",
        help="samples from one live estimate to the next (default: half a window)",
    )
    add(
        "--out",
        type=Path,
        default=Path("outputs/benchmark"),
        metavar="DIR",
        help="folder of the results (default: outputs/benchmark)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
