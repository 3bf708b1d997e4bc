"""The command line of the scripts: shared flags, argument types and exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from common.files import FailedTasksError, InputError
from common.folder import find_run, last_flags
from common.windows import PROTOCOLS
from synthetic_gait import MAX_SUBJECTS, write_file

# Flags that cannot change a result. All others are settings, which a run never mixes. The data
# themselves are a setting, whatever the name of their file.
NOT_SETTINGS = (
    *("data", "sample", "test_subjects", "rows", "output_dir", "run_name", "resume"),
    *("save_every", "no_checkpoints", "jobs", "scheduler"),
)
NOT_RESTORED = ("sample", "output_dir", "resume", "jobs", "scheduler")  # by --resume
SYNTHETIC_SEED = 42


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


def parse(
    script: str,
    description: str | None,
    argv: Sequence[str] | None,
    *,
    dataset: str,
    rows: Sequence[str],
    epochs: int | None,
    batch_size: int,
    patience: int,
    learning_rate: float,
    quick_look: Mapping[str, Any],
    add_flags: Callable[[ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Parse the flags of a script; write synthetic data if there are no others.

    Args:
        script: path of the script, `__file__`.
        description: its docstring, shown by `--help`.
        argv: the flags; None for those of the command line.
        dataset: name of the dataset, which is that of the default data file.
        rows: names of all rows of the table.
        epochs: the paper's maximum number of epochs; None if it differs between rows, and then
            `epochs` of the result is None unless a flag or the quick look sets it.
        batch_size: the paper's windows per batch.
        patience: epochs without a lower validation loss before training stops.
        learning_rate: learning rate of Adam.
        quick_look: defaults of a run on synthetic data: `subjects`, `minutes` of walking per
            subject, `epochs`, and optionally `batch_size` and `rows`.
        add_flags: adds the script's own flags, which become settings of the run.

    Returns:
        The flags: `data` is an existing file, unless the user named a missing one, `rows` a list.

    Raises:
        InputError: A flag cannot be used, there are no data, or there is no run to resume.
    """
    epilog = "\n  ".join(["rows of the table:", *rows])
    parser = ArgumentParser(description=description, epilog=epilog)
    default_data = Path("data") / f"dataset_{dataset}.h5"
    _add_shared_flags(parser, default_data, epochs, batch_size, patience, learning_rate)
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    if args.resume is not None:
        folder = find_run(args.output_dir / Path(script).stem, args.resume or args.run_name or "")
        flags = {k: v for k, v in last_flags(folder).items() if k in vars(args)}
        flags["data"] = flags.get("data") and Path(flags["data"])
        parser.set_defaults(**{k: v for k, v in flags.items() if k not in NOT_RESTORED})
        args = parser.parse_args(argv)
        args.run_name = folder.name
    unknown = [name for name in args.rows or () if name not in (*rows, "all")]
    if unknown:
        choices = " ".join([*rows, "all"])
        raise InputError(f"--rows: no such row: {' '.join(unknown)}; choose from {choices}")
    if args.data and args.sample:
        raise InputError("use either --data or --sample, not both")
    if not args.data and default_data.is_file() and not args.sample:
        args.data = default_data
    is_quick = args.data is None
    if is_quick:
        args.data = synthetic_file(default_data, dataset, quick_look)
        args.rows = args.rows or quick_look.get("rows")
        args.epochs = args.epochs or quick_look["epochs"]
        args.batch_size = args.batch_size or quick_look.get("batch_size")
    args.epochs = args.epochs or epochs
    args.batch_size = args.batch_size or batch_size
    chosen = args.rows or ["all"]
    args.rows = [row for row in rows if "all" in chosen or row in chosen]
    if is_quick:
        rest = "" if len(args.rows) == len(rows) else " (--rows all runs them all)"
        print(
            f"Quick look: {len(args.rows)} of the table's {len(rows)} rows{rest}, at most "
            f"{args.epochs} epochs, batches of {args.batch_size} windows; the paper uses "
            f"{epochs or 'more'} epochs and batches of {batch_size}. See --rows, --epochs and "
            "--batch-size.",
            flush=True,
        )
    return args


def synthetic_file(default_data: Path, dataset: str, quick_look: Mapping[str, Any]) -> Path:
    """Return a file of synthetic data, named after its content; write it if it does not exist.

    Raises:
        InputError: There are no synthetic data of this dataset, or the file cannot be written.
    """
    if dataset not in MAX_SUBJECTS:
        raise InputError(
            f"{default_data}: no such file; see docs/your_own_data.md for how to create it, or "
            "name another one with --data (synthetic data exist for Datasets A and B only)"
        )
    subjects, minutes = quick_look["subjects"], quick_look["minutes"]
    name = f"synthetic_{dataset}_{subjects}x{minutes:g}_seed{SYNTHETIC_SEED}.h5"
    path = default_data.with_name(name)
    if not path.is_file():
        print(f"Writing synthetic data to {path} ...", flush=True)
        try:
            write_file(path, dataset, subjects, minutes, SYNTHETIC_SEED)
        except OSError as error:
            raise InputError(f"{path}: cannot write the synthetic data ({error})") from error
    return path


def _add_shared_flags(
    parser: ArgumentParser,
    default_data: Path,
    epochs: int | None,
    batch_size: int,
    patience: int,
    learning_rate: float,
) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help=f"HDF5 file (default: {default_data} if it exists, else synthetic data)",
    )
    add("--sample", action="store_true", help="use synthetic data even if there is a data file")
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
        help="rows of the table to run, from the list below, or `all` (default: all; on synthetic "
        "data, some scripts select fewer rows)",
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
        help=f"maximum number of epochs (default: {epochs or 'those of the paper'}; fewer on "
        "synthetic data)",
    )
    add(
        "--patience",
        type=positive_int,
        default=patience,
        metavar="N",
        help=f"stop after N epochs without a lower validation loss (default: {patience})",
    )
    add(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"windows per batch (default: {batch_size}; fewer on synthetic data in some scripts)",
    )
    add(
        "--learning-rate",
        type=positive_float,
        default=learning_rate,
        metavar="X",
        help=f"learning rate of Adam (default: {learning_rate:g})",
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
        "rows are skipped, unfinished ones continue after their last saved epoch",
    )
    add(
        "--save-every",
        type=positive_float,
        default=180.0,
        metavar="SECONDS",
        help="save the state of training at the end of an epoch, at most every SECONDS "
        "(default: 180)",
    )
    add(
        "--no-checkpoints",
        action="store_true",
        help="delete the weights of a finished row as soon as no unfinished row needs them",
    )
    add(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="number of rows to train at the same time, in N processes, per GPU if there are "
        "several (default: 1, in this process)",
    )
    add(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads per row; the number affects rounding (default: 1)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers train the rows; the data and the output "
        "folder must be on a path that all workers can reach",
    )


def add_device(parser: ArgumentParser) -> None:
    """Add the flag `--device`."""
    text = "auto (CUDA if available, else the CPU), cuda, cuda:N or cpu (default: auto)"
    parser.add_argument("--device", default="auto", help=text)


def add_weight(parser: ArgumentParser, flag: str, default: float, term: str) -> None:
    """Add a flag for a weight in the loss, a finite number, 0 or greater."""
    text = f"weight of {term} in the loss (default: {default:g})"
    parser.add_argument(flag, type=finite_number, default=default, metavar="X", help=text)


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

    def isatty(self) -> bool:
        """Return whether the output goes to a terminal."""
        return self.stream.isatty()

    def write(self, text: str) -> int:
        """Write and flush, so that a closed pipe is noticed here and not at exit."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)
