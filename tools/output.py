"""Errors of commands that cannot write their output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.files import InputError


@contextmanager
def explain_write_errors(path: Path, flag: str) -> Iterator[None]:
    """Turn an OSError into an InputError that names the path and the flag to change."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another {flag}"
        ) from error
