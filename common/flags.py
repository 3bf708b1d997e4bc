"""The command line that all scripts share: flags, the data file or its stand-in, the device."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from common import faster
from common.files import InputError
from common.folds import PROTOCOLS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others, and that tells which flags were given."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse; the attribute `given` of the result names the flags that were given."""
        options = super().parse_args(args, namespace)
        absent = object()
        names = [name for name in vars(options) if name != "given"]
        marked = argparse.Namespace(**dict.fromkeys(names, absent))
        super().parse_args(args, marked)
        options.given = [name for name in names if getattr(marked, name) is not absent]
        return options

    def error(self, message: str) -> NoReturn:
        """End with exit status 2."""
        self.exit(2, f"error: {message}; see --help\n")


def parser(
    description: str, *, dataset: str, rows: Sequence[str], epochs: int, learning_rate: float
) -> Parser:
    """Return the parser of a script; the script adds flags of its own.

    Args:
        description: The script's docstring. dataset: `a` or `b`. rows: Names of the table's rows.
        epochs: The paper's number of epochs. learning_rate: The paper's.
    """
    result = Parser(
        description=description,
        epilog="\n  ".join(["rows of the table:", *rows]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help=f"HDF5 file (default: {default_file(dataset)} if it is there, else the sample)",
    )
    add("--sample", action="store_true", help="use the synthetic sample dataset, made afresh")
    add(
        "--test-subjects",
        nargs="+",
        metavar="ID",
        help="subjects to hold out, one fold each, or `all` (default: the file's last subject)",
    )
    add(
        "--rows",
        nargs="+",
        metavar="NAME",
        help="rows of the table to run, from the list below, or `all` (default: all; on the sample "
        "fewer where all take too long for a quick look, which it says)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="paper",
        help="paper: windows of one stream, 20 %% of them for validation; strict: windows within "
        "a trial or step, 20 %% of the training subjects for validation (default: paper)",
    )
    add(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"most epochs of a training (default: {epochs}; fewer on the sample, which says so)",
    )
    add(
        "--patience",
        type=positive_int,
        default=10,
        metavar="N",
        help="epochs without a better validation loss before a training stops (default: 10)",
    )
    add(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="windows of a training step (default: 64)",
    )
    add(
        "--learning-rate",
        type=positive_float,
        default=learning_rate,
        metavar="X",
        help=f"of Adam (default: {learning_rate:g})",
    )
    add(
        "--seed",
        type=whole_number,
        default=42,
        metavar="N",
        help="set again for every model and fold (default: 42)",
    )
    add(
        "--device",
        default="auto",
        help="auto (CUDA if there is one, else the CPU), cuda, cuda:N or cpu (default: auto)",
    )
    add(
        "--output-dir",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="results go to DIR/<script>/<run>/ (default: outputs)",
    )
    add(
        "--run-name",
        metavar="NAME",
        help="name of the run; an existing one with the same settings is gone on with, and what "
        "it has already is taken from it (default: the date and time)",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run of this script (default for RUN: the newest): what is done is "
        "skipped, a training under way continues from its last saved state; flags of the run need "
        "not be given again",
    )
    add(
        "--save-every",
        type=positive_float,
        default=180.0,
        metavar="SECONDS",
        help="how often the state of a training under way is saved (default: 180)",
    )
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="trainings side by side, on several GPUs N on each (default: one on a GPU; on the CPU "
        "as many as there are cores and memory for)",
    )
    add(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads of a training; another number rounds differently (default: 1)",
    )
    add(
        "--faster",
        nargs="+",
        default=[],
        choices=tuple(faster.WAYS),
        metavar="WAY",
        help="train faster, to other numbers: "
        + "; ".join(f"{way}: {text}" for way, text in faster.WAYS.items())
        + " (default: none)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers do the trainings; data and output must be "
        "on a path that they share (default: processes of this machine)",
    )
    return result


def default_file(dataset: str) -> Path:
    """Return the path at which a dataset's file is looked for without `--data`."""
    return Path("data") / f"dataset_{dataset}.h5"


def whole_number(text: str, least: int = 0) -> int:
    """Parse a whole number of at least `least`, less than 2^32 (the range of all seeds)."""
    if not text.isdecimal() or not least <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to 2^32 - 1")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return whole_number(text, least=1)


def finite_number(text: str) -> float:
    """Parse a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number of at least 0")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = finite_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not above 0")
    return value


def add_weight(to: argparse.ArgumentParser, flag: str, default: float, help_text: str) -> None:
    """Add the flag of a weight in a loss, a finite number of at least 0."""
    text = f"weight in the loss {help_text} (default: {default:g})"
    to.add_argument(flag, type=finite_number, default=default, metavar="X", help=text)


def choose_device(wanted: str) -> torch.device:
    """Return the device for `auto`, `cuda`, `cuda:N` or `cpu`.

    Raises:
        InputError: There is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {wanted}: no such device; use auto, cuda, cuda:N or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(
            f"--device {wanted}: PyTorch {torch.__version__} sees {count} CUDA devices; use "
            + ("cpu, or install a PyTorch build with CUDA" if not count else "cuda:0 or auto")
        )
    return device


def device_name(device: torch.device) -> str:
    """Return the name of a device for people."""
    if device.type == "cuda":
        is_here = torch.cuda.is_available()
        return torch.cuda.get_device_name(device) if is_here else "CUDA devices of the workers"
    return f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def choose_rows(wanted: Sequence[str] | None, rows: Sequence[str]) -> list[str]:
    """Return the wanted rows, all for None and `["all"]`, in the table's order.

    Raises:
        InputError: There is no such row.
    """
    if wanted is None or list(wanted) == ["all"]:
        return list(rows)
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        raise InputError(f"--rows: no row {' '.join(unknown)}; there are {' '.join(rows)}")
    return [name for name in rows if name in wanted]
