"""What commands check before they write their output, and errors if they cannot write it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from common.files import InputError


def check_writable(
    path: Path, inputs: Iterable[Path], is_ours: Callable[[Path], bool], flag: str = "--out"
) -> None:
    """Check that writing a file replaces neither an input nor a file of another origin.

    Symbolic links, hard links, relative paths and another case of letters do not hide an input.

    Args:
        path: the file to write, which need not exist.
        inputs: the files that the command reads; those that do not exist are ignored.
        is_ours: returns whether this command can have written an existing file.
        flag: the flag that determines `path`, for errors.

    Raises:
        InputError: `path` is an input, is not a regular file, or was not written by this command.
    """
    if not os.path.exists(path):  # noqa: PTH110 (False also for a name that is too long)
        return
    if any(os.path.exists(other) and path.samefile(other) for other in inputs):  # noqa: PTH110
        raise InputError(f"{path}: is an input and would be overwritten; choose another {flag}")
    if not path.is_file():
        raise InputError(f"{path}: exists and is not a file; choose another {flag}")
    if not is_ours(path):
        raise InputError(
            f"{path}: already exists and was not written by this command; move it away or choose "
            f"another {flag}"
        )


def is_made_by(path: Path, command: str) -> bool:
    """Return whether the attribute `made_by` of an HDF5 file names a command."""
    try:
        with h5py.File(path) as file:
            return bool(file.attrs.get("made_by") == command)
    except (OSError, ValueError):
        return False


def is_figure(path: Path) -> bool:
    """Return whether a PNG, PDF or SVG file was drawn by Matplotlib, as all figures here are."""
    return b"Matplotlib" in path.read_bytes()


@contextmanager
def explain_write_errors(path: Path, flag: str) -> Iterator[None]:
    """Turn an OSError into an InputError that names the path and the flag to change."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another {flag}"
        ) from error
