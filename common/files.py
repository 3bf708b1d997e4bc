"""Atomic writes, checkpoints, and the error for unusable input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINT_SUFFIX = ".safetensors"
CHECKPOINT_FORMAT = 1  # version of the description in a checkpoint


class InputError(ValueError):
    """A flag or a file cannot be used; the message says what is wrong and how to fix it."""


class FailedTasksError(RuntimeError):
    """Some rows could not be trained; the message lists them with their reasons."""


def shorten(text: object, limit: int = 200) -> str:
    """Return `text` as one printable line of at most `limit` characters."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(printable.split())
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 trial`, `2 trials`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` once it has been written.

    Missing folders are created. After an error, no partial file remains and an existing file is
    unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file with this name
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp makes files readable by the owner only
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with write_atomically(path) as part:
        part.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Figure, dpi: int = 150) -> None:
    """Write a figure atomically, in the format of the suffix."""
    with write_atomically(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=dpi)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain numbers with `torch.save`, without a second copy in memory.

    Raises:
        OSError: The file cannot be written.
    """
    with write_atomically(path) as part:
        try:
            torch.save(dict(state), part)
        except RuntimeError as error:
            raise _disk_error(path, part) from error


class Checkpoint(NamedTuple):
    """A trained network in a file: tensors and JSON, no code.

    Attributes:
        tensors: the state dict of the network.
        description: the network's class and arguments, its inputs and targets, and its training.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write a checkpoint (safetensors) without a second copy of its tensors in memory.

    Args:
        path: the file to write.
        tensors: the state dict of the network.
        description: JSON-serializable values, stored under the key `about` of the file's metadata.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps({"format": CHECKPOINT_FORMAT, **description}, ensure_ascii=False)
    on_cpu = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
    with write_atomically(path) as part:
        try:
            save_file(on_cpu, part, metadata={"about": text})
        except SafetensorError as error:
            raise _disk_error(path, part) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; this never executes code from the file.

    Raises:
        InputError: The file is missing, damaged or not a checkpoint of this project.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; pass the path of one checkpoint in it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; checkpoints are in the folder checkpoints/ of a run"
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or not a checkpoint ({shorten(error)}); copy it again"
        ) from error
    try:
        description = json.loads(metadata["about"])
        version = description["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: has no description of its network; use a checkpoint that was written by this "
            "project"
        ) from error
    if version != CHECKPOINT_FORMAT:
        raise InputError(
            f"{path}: checkpoint format {shorten(version, 20)}, but this version reads format "
            f"{CHECKPOINT_FORMAT}; use the version of this project that wrote it"
        )
    return Checkpoint(tensors, description)


def _disk_error(path: Path, part: Path) -> OSError:
    """Return an OSError for a failed write whose own error does not name the cause."""
    is_full = shutil.disk_usage(path.parent).free < part.stat().st_size + 2**20
    number = errno.ENOSPC if is_full else errno.EIO
    return OSError(number, os.strerror(number), str(path))
