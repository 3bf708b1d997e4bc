"""Measure speed and memory on this machine: training, inference and streaming.

  training   seconds per epoch of a script's loop and of the published loop, which loads batches
             with a DataLoader, copies them to the device, reads the loss back and runs the teacher
             in every step; both train the same network on the same windows, alternately, and end
             with the same losses. An epoch has only a few batches of random windows: its time grows
             with their number
  inference  time to compute one window, and 64, in PyTorch and, if installed, in onnxruntime;
             latency of a live estimate; parameters, multiply-adds; memory to estimate and to train
  streaming  time per sample of the streaming students in beyond/, on the CPU, in NumPy, onnxruntime
             and PyTorch, measured alternately

Results are written one by one:

  DIR/benchmark.json    all measurements
  DIR/benchmark.md      the tables that are printed
  DIR/latency.png       time to compute one window, for every row

Rerunning with the same --out replaces the results that are measured again and keeps the others, so
an interruption loses nothing. The CPU is always measured, CUDA if there is a device.
With its defaults the command takes about an hour on two CPU cores. Do not run anything else at the
same time.

  python -m tools.benchmark
  python -m tools.benchmark --parts inference --rows 'student-*' --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.cli import ArgumentParser, file_path, positive_int, run_main
from common.files import InputError, read_json, write_figure, write_text
from common.training import choose_device
from tools.benchmark import inference, streaming, tables, training
from tools.benchmark.training import Case
from tools.output import check_writable, explain_write_errors

PARTS = tuple(tables.TITLES)
SETTINGS = ("threads", "batch_size", "batches", "repeats", "hop")
KEYS = ("dataset", "row", "device")  # of a result


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the results and write them.

    Raises:
        InputError: A flag cannot be used, or the results cannot be written to the folder.
    """
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    names = (
        ["cpu", "cuda"][: 1 + torch.cuda.is_available()] if args.device == "auto" else [args.device]
    )
    devices = [choose_device(name) for name in names]
    results = _load_results(args, devices)
    is_live_only = args.parts == ["streaming"]
    cases = [] if is_live_only else training.choose_cases(args.datasets, args.rows)
    with explain_write_errors(args.out, "--out"):
        try:
            for part in args.parts:
                measured = _measure(part, cases, devices, args)
                for result in tqdm(measured, part, unit="result", disable=None):
                    key = [result[name] for name in KEYS]
                    others = [r for r in results[part] if [r[name] for name in KEYS] != key]
                    results[part] = [*others, result]
                    write_text(args.out / "benchmark.json", json.dumps(results, indent=1) + "\n")
        finally:
            text = tables.markdown(results)
            write_text(args.out / "benchmark.md", text)
            if results["inference"]:
                figure = tables.latency_figure(results["inference"])
                write_figure(args.out / "latency.png", figure)
    print(f"{text}\nResults: {args.out}")


def _measure(
    part: str, cases: Sequence[Case], devices: Sequence[torch.device], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Measure a part; yield its results."""
    if part == "streaming":
        for case in streaming.streaming_cases(args.datasets, args.rows):
            yield streaming.measure_streaming(case, args.threads)
        return
    for device in devices:
        for case in cases:
            if part == "inference":
                yield inference.measure(case, args.hop, args.batch_size, args.threads, device)
            elif training.choose_losses(case.script, case.row):
                sizes = args.batches, args.batch_size, args.repeats
                yield training.measure_training(case, *sizes, device)


def _load_results(args: argparse.Namespace, devices: Sequence[torch.device]) -> dict[str, Any]:
    """Return the results of earlier calls, empty if there are none.

    Raises:
        InputError: They cannot be mixed: another machine or other settings; or files of another
            origin would be overwritten.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    has_gpu, gpus = torch.cuda.is_available(), [d for d in devices if d.type == "cuda"]
    machine = {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "gpu": torch.cuda.get_device_name(gpus[0] if gpus else None) if has_gpu else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    settings = {name: getattr(args, name) for name in SETTINGS}
    path, is_same = args.out / "benchmark.json", True
    measured: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    if path.exists():
        try:
            earlier = read_json(path)
            del earlier["machine"]["date"]
            is_same = (earlier["machine"], earlier["settings"]) == (machine, settings)
            measured = {part: list(earlier.get(part, ())) for part in PARTS}
        except InputError as error:
            raise InputError(f"{error}; delete it or use another --out") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: damaged ({error}); delete it or use another --out"
            ) from error
    else:
        for name in ("benchmark.md", "latency.png"):
            check_writable(args.out / name, (), lambda _: False)
    if not is_same:
        raise InputError(
            f"{path}: measured on another machine or with other settings; use another --out"
        )
    machine["date"] = time.strftime("%Y-%m-%d")
    return {"machine": machine, "settings": settings, **measured}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    add = parser.add_argument
    text = f"parts to measure: {', '.join(PARTS)} (default: all)"
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=text)
    text, letters = "a, b or both (default: both)", ("a", "b")
    add("--datasets", nargs="+", choices=letters, default=letters, metavar="LETTER", help=text)
    text = (
        "rows of the scripts, or patterns such as 'student-*'; '*' for all (default: all rows of "
        "sensor distillation and, for every other model, the row with the most sensors)"
    )
    add("--rows", nargs="+", metavar="NAME", help=text)
    text = "auto (the CPU, and CUDA if there is a device), cpu, cuda or cuda:N (default: auto)"
    add("--device", default="auto", help=text)
    for flag, default, text in (
        ("--threads", 1, "CPU threads"),
        ("--batch-size", 64, "windows per batch"),
        ("--batches", 2, "batches per epoch"),
        ("--repeats", 3, "repetitions of each measurement"),
    ):
        text += f" (default: {default})"
        add(flag, type=positive_int, default=default, metavar="N", help=text)
    text = "samples from one live estimate to the next (default: half a window)"
    add("--hop", type=positive_int, metavar="SAMPLES", help=text)
    text = "folder of the results (default: outputs/benchmark)"
    add("--out", type=file_path, default=Path("outputs/benchmark"), metavar="DIR", help=text)
    return parser


if __name__ == "__main__":
    run_main(main)
