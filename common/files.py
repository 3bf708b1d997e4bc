"""Atomic writes, checkpoints, and the error for unusable input."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

CHECKPOINT_SUFFIX = ".safetensors"
CHECKPOINT_FORMAT = 1  # version of the description in a checkpoint
PART_SUFFIX = ".part"  # of a file that is being written
MAX_NAME_BYTES = 255  # of a file name, on all common file systems


class InputError(ValueError):
    """A flag or a file cannot be used; the message says what is wrong and how to fix it."""


class FailedTasksError(RuntimeError):
    """Some rows could not be trained; the message lists them with their reasons."""


def printable(text: object) -> str:
    """Return `text` without characters that control a terminal or the direction of text."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in str(text))


def shorten(text: object, limit: int = 200) -> str:
    """Return `text` as one printable line of at most `limit` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 trial`, `2 trials`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def name_problem(name: str, more_bytes: int = 0) -> str | None:
    """Return why a text cannot be the name of a file or folder, or None.

    Args:
        name: the text.
        more_bytes: length of what is added to it.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return "is a path"
    if not name.isprintable():
        return "has characters that cannot be printed"
    if len(os.fsencode(name)) + more_bytes > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES - more_bytes} bytes"
    return None


def read_problem(path: Path) -> str | None:
    """Return why a path is not a file that can be read (missing, a folder, a pipe), or None."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # ValueError: the name contains NUL
        return shorten(getattr(error, "strerror", None) or error)
    if stat.S_ISDIR(mode):
        return "is a folder"
    return None if stat.S_ISREG(mode) else "is a pipe or a device, not a file"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; its entry `digest`, if it has one, is checked and removed.

    Raises:
        InputError: The file cannot be read, contains anything else, or its digest differs.
    """
    problem = read_problem(path)
    try:
        content = None if problem else json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            if content.pop("digest", None) in (None, _json_digest(content)):
                return content
            problem = "damaged (its digest differs)"
        problem = problem or "damaged (not a JSON object)"
    except (OSError, ValueError, RecursionError) as error:
        problem = f"damaged ({shorten(error, 100)})"
    raise InputError(f"{path}: {problem}")


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object atomically, with a digest of its content."""
    text = json.dumps({**content, "digest": _json_digest(content)}, indent=indent)
    write_text(path, text + "\n")


def _json_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file; it is computed again only if the file has changed.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    return _file_digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


@cache
def _file_digest(path: Path, *_: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def set_aside(path: Path, problem: object) -> None:
    """Rename a file or folder to `<name>.unusable`, with a number if that is taken, with a notice.

    Args:
        path: the file or folder.
        problem: path and reason, for the notice.

    Raises:
        OSError: It cannot be renamed.
    """
    new, number = path.with_name(f"{path.name}.unusable"), 1
    while os.path.lexists(new):
        number += 1
        new = path.with_name(f"{path.name}.unusable{number}")
    path.rename(new)
    print(f"NOTICE: {problem}; renamed to {new.name}", flush=True)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` once it has been written.

    Missing folders are created. After an error, no partial file remains and an existing file is
    unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # as the umask allows
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file with this name
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
    import torch  # slow to import, and not needed to run a network live

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
    from safetensors.torch import save_file  # imports PyTorch

    text = json.dumps({"format": CHECKPOINT_FORMAT, **description})
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
    if problem := read_problem(path):
        advice = "checkpoints are in the folder checkpoints/ of a run"
        raise InputError(f"{path}: {problem}; {advice}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        problem = f"damaged, or not a checkpoint ({shorten(error)})"
        raise InputError(f"{path}: {problem}; copy it again") from error
    try:
        description = json.loads(metadata["about"])
        version = dict(description)["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        advice = "use a checkpoint that was written by this project"
        raise InputError(f"{path}: has no description of its network; {advice}") from error
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
