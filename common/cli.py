"""The command line: flags that all scripts share, types of arguments, and how a command ends."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from common.files import InputError


class ArgumentParser(argparse.ArgumentParser):
    """A parser that prints its description as it is written and whose errors are one line."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"error: {message}; see --help\n")


def whole_number(text: str, minimum: int = 0) -> int:
    """Parse a whole number from `minimum` to 2^32 - 1, the range of a seed."""
    if not text.isdecimal() or not minimum <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {minimum} to 2^32 - 1")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return whole_number(text, minimum=1)


def finite_number(text: str) -> float:
    """Parse a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = finite_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not above 0")
    return value


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run `main` and exit with the status that it returns; anything but an int counts as 0.

    Errors that the user can mend end with one line on standard error and status 2.
    """
    try:
        status = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status if isinstance(status, int) else 0)
