"""The command line of the scripts: shared flags, argument types and exit status."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from common import interrupt
from common.files import (
    MAX_NAME_BYTES,
    FailedTasksError,
    InputError,
    plural,
    printable,
    shorten,
)

# Flags that cannot change a result. All others are settings, which a run never mixes. The content
# of the data file is a setting, too.
NOT_SETTINGS = (
    *("data", "sample", "test_subjects", "rows", "output_dir", "run_name", "resume"),
    *("save_every", "no_checkpoints", "figure_format", "jobs", "scheduler"),
)
NOT_RESTORED = ("sample", "output_dir", "resume", "jobs", "scheduler")  # by --resume
SYNTHETIC_SEED = 42
FIGURE_FORMATS = ("png", "pdf", "svg")


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that keeps the line breaks of its description and prints short errors."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"error: {shorten(message, 1000)}; see --help\n")


def file_path(text: str) -> Path:
    """Parse a path, which need not exist."""
    path = Path(text)
    if "\0" in text or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise argparse.ArgumentTypeError(f"not a path: {shorten(repr(text), 60)}")
    return path


def whole_number(text: str, minimum: int = 0) -> int:
    """Parse a whole number from `minimum` to 2^32 - 1, the range of a seed."""
    if not text.isdecimal() or not minimum <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {minimum} to 2^32 - 1, not {text!r}"
        )
    return int(text)


def finite_number(text: str, is_zero_allowed: bool = True) -> float:
    """Parse a finite number greater than 0, or 0 if allowed."""
    with suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and (value > 0 or (value == 0 and is_zero_allowed)):
            return value
    least = "0 or greater" if is_zero_allowed else "greater than 0"
    raise argparse.ArgumentTypeError(f"must be a finite number, {least}, not {text!r}")


positive_int = partial(whole_number, minimum=1)
positive_float = partial(finite_number, is_zero_allowed=False)


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
        The flags, with the path of the data and the names of the rows to run.

    Raises:
        InputError: A flag cannot be used, there are no data, or there is no run to resume.
    """
    from common.folder import find_run, last_flags  # imports PyTorch, which is slow

    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`
    module = spec.name if spec else ""
    parser = ArgumentParser(
        prog=f"python -m {module}" if module.endswith(Path(script).stem) else None,
        description=(description or "").partition("\nSPDX-")[0],
        epilog="\n  ".join(["rows of the results table:", *rows]),
    )
    default_data = Path("data") / f"dataset_{dataset}.h5"
    paper = {"epochs": epochs or "those of the paper", "batch_size": batch_size}
    _add_shared_flags(parser, default_data, patience, learning_rate, **paper)
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    if args.resume is not None:
        folder = find_run(args.output_dir / Path(script).stem, args.resume or args.run_name or "")
        left_out = {*NOT_RESTORED, *(["data"] if args.sample else [])}
        flags = {k: v for k, v in last_flags(folder).items() if k not in left_out}
        given = sys.argv[1:] if argv is None else argv
        args = parser.parse_args([*_as_arguments(parser, flags), *given])
        args.run_name = folder.name
    chosen = args.rows or ["all"]
    if unknown := [name for name in chosen if name not in (*rows, "all")]:
        names = shorten(" ".join(unknown), 100)
        raise InputError(f"--rows: no such row: {names}; choose from {' '.join([*rows, 'all'])}")
    if args.data and args.sample:
        raise InputError("use either --data or --sample, not both")
    if not args.data and default_data.is_file() and not args.sample:
        args.data = default_data
    if is_quick := args.data is None:
        args.data = synthetic_file(default_data, dataset, quick_look)
        chosen = args.rows or quick_look.get("rows", ["all"])
        args.epochs = args.epochs or quick_look["epochs"]
        args.batch_size = args.batch_size or quick_look.get("batch_size")
    args.epochs = args.epochs or epochs
    args.batch_size = args.batch_size or batch_size
    args.rows = [row for row in rows if "all" in chosen or row in chosen]
    if is_quick:
        rest = "" if len(args.rows) == len(rows) else " (--rows all runs them all)"
        print(
            f"Quick look: {len(args.rows)} of the table's {len(rows)} rows{rest}, at most "
            f"{plural(args.epochs, 'epoch')}, batches of {args.batch_size} windows; the paper uses "
            f"{epochs or 'more'} epochs and batches of {batch_size}. See --rows, --epochs and "
            "--batch-size.",
            flush=True,
        )
    return args


def _as_arguments(parser: ArgumentParser, flags: Mapping[str, object]) -> Iterator[str]:
    """Yield flags as on the command line, so that they are checked as if they were given there."""
    for action in parser._actions:
        value = flags.get(action.dest)
        if action.nargs == "+" and isinstance(value, list):
            yield from (action.option_strings[-1], *map(str, value))
        elif action.nargs == 0 and value is True:
            yield action.option_strings[-1]
        elif action.nargs != 0 and value is not None:
            yield f"{action.option_strings[-1]}={value}"


def synthetic_file(default_data: Path, dataset: str, quick_look: Mapping[str, Any]) -> Path:
    """Return a file of synthetic data, named after its content; write it if it does not exist.

    Raises:
        InputError: There are no synthetic data of this dataset, or the file cannot be written.
    """
    from synthetic_gait import MAX_SUBJECTS, write_file  # slow to import

    if dataset not in MAX_SUBJECTS:
        advice = "see --help and docs/your_own_data.md for how to create it, or pass --data FILE"
        note = "synthetic data exist for Datasets A and B only"
        raise InputError(f"{default_data}: no such file; {advice} ({note})")
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
    patience: int,
    learning_rate: float,
    epochs: object,
    batch_size: int,
) -> None:
    from common.windows import PROTOCOLS  # imports PyTorch, which is slow

    def add(flag: str, text: str, default: object = None, **options: object) -> None:
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(flag, help=text, default=default, **options)

    path, count = {"type": file_path}, {"type": positive_int, "metavar": "N"}
    text = f"HDF5 file (default: {default_data} if it exists, else synthetic data)"
    add("--data", text, metavar="FILE", **path)
    add("--sample", "use synthetic data even if there is a data file", action="store_true")
    text = "subjects to hold out, one fold each, or `all` (default: last subject of the file)"
    add("--test-subjects", text, nargs="+", metavar="ID")
    text = "rows to run, from the list below, or `all` (default: all; fewer on synthetic data)"
    add("--rows", text, nargs="+", metavar="NAME")
    text = (
        "paper: windows cut from one stream, 20 %% of them for validation; strict: windows within "
        "a trial or step, 20 %% of the training subjects for validation"
    )
    add("--protocol", text, "paper", choices=PROTOCOLS)
    text = f"maximum number of epochs (default: {epochs}; fewer on synthetic data)"
    add("--epochs", text, **count)
    add("--patience", "stop after N epochs without a lower validation loss", patience, **count)
    text = f"windows per batch (default: {batch_size}; smaller on synthetic data in some scripts)"
    add("--batch-size", text, **count)
    rate = {"type": positive_float, "metavar": "X"}
    add("--learning-rate", "learning rate of Adam", learning_rate, **rate)
    text = "random seed, reset for every row and fold"
    add("--seed", text, 42, type=whole_number, metavar="N")
    add_device(parser)
    text = "results are written to DIR/<script>/<run>/"
    add("--output-dir", text, Path("outputs"), metavar="DIR", **path)
    text = "name of the run, resumed if it exists with the same settings (default: date and time)"
    add("--run-name", text, metavar="NAME")
    text = "resume a run of this script (default: the most recent one) with its flags"
    add("--resume", text, nargs="?", const="", metavar="RUN")
    text = "save the state of training at the end of an epoch, at most every SECONDS"
    add("--save-every", text, 180.0, type=positive_float, metavar="SECONDS")
    text = "delete the weights of a finished row as soon as no unfinished row needs them"
    add("--no-checkpoints", text, action="store_true")
    add_figure_format(parser)
    text = "rows to train in parallel, each in its own process, spread over the GPUs"
    add("--jobs", text, 1, **count)
    add("--threads", "CPU threads per row; the number affects rounding", 1, **count)
    text = "address of a Dask scheduler whose workers train the rows; see docs/cluster.md"
    add("--scheduler", text, metavar="ADDRESS")


def add_device(parser: ArgumentParser) -> None:
    """Add the flag `--device`."""
    text = "auto (CUDA if available, else the CPU), cuda, cuda:N or cpu (default: auto)"
    parser.add_argument("--device", default="auto", help=text)


def add_figure_format(
    parser: ArgumentParser, text: str = "format of the figures, png, pdf or svg (default: png)"
) -> None:
    """Add the flag `--figure-format`."""
    parser.add_argument("--figure-format", default="png", choices=FIGURE_FORMATS, help=text)


def add_weight(parser: ArgumentParser, flag: str, default: float, term: str) -> None:
    """Add a flag for a weight in the loss, a finite number, 0 or greater."""
    text = f"weight in the loss of {term} (default: {default:g})"
    parser.add_argument(flag, type=finite_number, default=default, metavar="X", help=text)


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run `main` and exit with the status that it returns; anything but an int counts as 0.

    Errors that the user can fix print one line to standard error and exit with status 2, Ctrl-C
    with 130. Characters that the terminal cannot show are replaced. If standard output is closed
    (`| head -1`) or its disk is full, the printing stops but not the work; a full disk is an error
    at the end.
    """
    interrupt.catch(interrupt.interrupt_once)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start: `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    message: object = None
    output = None if sys.stdout.isatty() else _Output(sys.stdout)  # a debugger needs a terminal
    with redirect_stdout(output) if output else nullcontext():
        try:
            result = main()
            status = result if isinstance(result, int) else 0
        except InputError as error:
            message, status = error, 2
        except FailedTasksError as error:
            message, status = error, 1
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            message = None if isinstance(error.code, int) else error.code
        except KeyboardInterrupt as error:
            interrupt.report(printable(": ".join(map(str, error.args))))
            status = interrupt.STATUS
    if output and output.error and not status:
        message, status = f"standard output: {output.error.strerror}; some of it is missing", 1
    if message is not None:
        with suppress(OSError):  # standard error may be closed, too
            print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(status)


class _Output(io.TextIOBase):
    """Standard output that discards everything once its reader has closed it or its disk is full.

    Attributes:
        error: why the output is incomplete.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write and flush, so that an error is noticed here and not at exit."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.error = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)
