"""What every part that reads or writes files shares: errors a user can mend, and whole files."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class InputError(ValueError):
    """Flags or files that cannot be used; the message names the place and the remedy."""


def brief(said: object, most: int = 200) -> str:
    """Return what a file or a library says as one printable line of at most `most` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(said)).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; at the end it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # as any other new file; mkstemp's is for its owner only
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_tensors(values: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain numbers, whole or not at all, tensor by tensor: no second copy.

    Raises:
        OSError: They cannot be written; PyTorch's own error does not tell of a full disk.
    """
    with written_whole(path) as part:
        try:
            torch.save(dict(values), part)
        except RuntimeError as error:
            raise as_disk_error(path, part) from error


def as_disk_error(path: Path, part: Path) -> OSError:
    """Return the error to raise where a library failed to write `part` and did not tell why."""
    is_full = shutil.disk_usage(path.parent).free < part.stat().st_size + 2**20
    number = errno.ENOSPC if is_full else errno.EIO
    return OSError(number, os.strerror(number), str(path))
