"""The command line of the scripts: shared flags, argument types and exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from common import training
from common.files import InputError
from common.folder import find_run, last_flags
from common.runs import BATCH_SIZE, FailedTasksError, Script, default_data_file, script_folder
from common.windows import PROTOCOLS

# Flags that --resume does not restore; they do not affect the results.
NOT_RESTORED = ("output_dir", "resume", "jobs", "scheduler")


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that keeps the line breaks of its description and prints short errors."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"error: {message}; see --help\n")


def whole_number(text: str, minimum: int = 0) -> int:
    """Parse a whole number from `minimum` to 2^32 - 1, the range of a seed."""
    if not text.isdecimal() or not minimum <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {minimum} to 2^32 - 1, not {text!r}"
        )
    return int(text)


def positive_int(text: str) -> int:
    """Parse a whole number, 1 or greater."""
    return whole_number(text, minimum=1)


def finite_number(text: str) -> float:
    """Parse a finite number, 0 or greater."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a finite number, 0 or greater, not {text!r}")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number greater than 0."""
    value = finite_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


def script_parser(script: Script) -> ArgumentParser:
    """Return a parser with the flags that all scripts share; a script may add its own."""
    beyond = [row.name for row in script.ROWS if row.is_beyond_paper]
    rows = [row.name for row in script.ROWS if not row.is_beyond_paper]
    epilog = "\n  ".join(["rows of the table:", *rows])
    if beyond:
        epilog += "\n\n" + "\n  ".join(["rows beyond the paper:", *beyond])
    parser = ArgumentParser(description=script.__doc__, epilog=epilog)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help=f"HDF5 file (default: {default_data_file(script)} if it exists, else synthetic data)",
    )
    add("--sample", action="store_true", help="use newly generated synthetic data")
    add(
        "--test-subjects",
        nargs="+",
        metavar="ID",
        help="subjects to hold out, one fold each, or `all` (default: last subject of the file)",
    )
    add(
        "--rows",
        nargs="+",
        metavar="NAME",
        help="rows of the table to run, from the list below, or `all` rows of the paper"
        + (", or `beyond` for those beyond the paper" if beyond else "")
        + " (default: all; on synthetic data, some scripts select fewer rows)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="paper",
        help="paper: windows cut from one stream, 20 %% of them for validation; strict: windows "
        "within a trial or step, 20 %% of the training subjects for validation (default: paper)",
    )
    add(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"maximum number of epochs (default: {script.EPOCHS}; fewer on synthetic data)",
    )
    add(
        "--patience",
        type=positive_int,
        default=10,
        metavar="N",
        help="stop after N epochs without a lower validation loss (default: 10)",
    )
    add(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"windows per batch (default: {BATCH_SIZE}; fewer on synthetic data in some scripts)",
    )
    add(
        "--learning-rate",
        type=positive_float,
        default=script.LEARNING_RATE,
        metavar="X",
        help=f"learning rate of Adam (default: {script.LEARNING_RATE:g})",
    )
    add(
        "--seed",
        type=whole_number,
        default=42,
        metavar="N",
        help="random seed, reset for every row and fold (default: 42)",
    )
    add_device(parser)
    add(
        "--output-dir",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="results are written to DIR/<script>/<run>/ (default: outputs)",
    )
    add(
        "--run-name",
        metavar="NAME",
        help="name of the run; an existing run with the same settings is resumed (default: date "
        "and time)",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="resume a run of this script (default: the most recent one) with its flags; finished "
        "rows are skipped, unfinished trainings continue after their last saved epoch",
    )
    add(
        "--save-every",
        type=positive_float,
        default=180.0,
        metavar="SECONDS",
        help="save unfinished trainings at the end of an epoch, at most every SECONDS "
        "(default: 180)",
    )
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="number of trainings to run at the same time, per GPU if there are several (default: "
        "1 on a GPU; on the CPU, as many as there are cores and memory for)",
    )
    add(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads per training; the number affects rounding (default: 1)",
    )
    add(
        "--faster",
        nargs="+",
        default=[],
        choices=tuple(training.FASTER),
        metavar="METHOD",
        help="train faster, with slightly different results: "
        + "; ".join(f"{method}: {text}" for method, text in training.FASTER.items())
        + " (default: none)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers run the trainings; the data and the output "
        "folder must be on a path that all workers can reach (default: processes on this machine)",
    )
    return parser


def add_device(parser: ArgumentParser) -> None:
    """Add the flag `--device`."""
    text = "auto (CUDA if available, else the CPU), cuda, cuda:N or cpu (default: auto)"
    parser.add_argument("--device", default="auto", help=text)


def add_weight(parser: ArgumentParser, flag: str, default: float, term: str) -> None:
    """Add a flag for a weight in the loss, a finite number, 0 or greater."""
    text = f"weight of {term} in the loss (default: {default:g})"
    parser.add_argument(flag, type=finite_number, default=default, metavar="X", help=text)


def parse(script: Script, parser: ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags; with `--resume`, the flags of that run are the defaults.

    Raises:
        InputError: There is no run to resume, or it is damaged.
    """
    args = parser.parse_args(argv)
    if args.resume is None:
        return args
    folder = find_run(script_folder(args.output_dir, script), args.resume or args.run_name or "")
    flags = {name: value for name, value in last_flags(folder).items() if name in vars(args)}
    flags["data"] = flags.get("data") and Path(flags["data"])
    parser.set_defaults(**{name: flags[name] for name in flags if name not in NOT_RESTORED})
    args = parser.parse_args(argv)
    args.run_name = folder.name
    return args


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run `main` and exit with the status that it returns; anything but an int counts as 0.

    Errors that the user can fix print one line to standard error and exit with status 2. Characters
    that the terminal cannot show are replaced, and a closed standard output (`| head -1`) stops the
    printing but not the work.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with contextlib.redirect_stdout(_Output(sys.stdout)):
        try:
            result = main()
            status = result if isinstance(result, int) else 0
        except InputError as error:
            status = _print_error(error, 2)
        except FailedTasksError as error:
            status = _print_error(error, 1)
        except KeyboardInterrupt as interruption:
            status = _print_error(": ".join(["interrupted", *map(str, interruption.args)]), 130)
    sys.exit(status)


def _print_error(message: object, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


class _Output(io.TextIOBase):
    """Standard output that discards everything once its reader has closed it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write and flush, so that a closed pipe is noticed here and not at exit."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)
