"""Trained models as files that hold all that is needed to use them: tensors and JSON, no code.

A checkpoint is a safetensors file. Its metadata have one entry, `about`: JSON that tells the
model's class and arguments, what it reads and gives, and what it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.files import InputError, as_disk_error, brief, written_whole

SUFFIX = ".safetensors"
FORMAT = 1  # of `about`


class Checkpoint(NamedTuple):
    """What a checkpoint holds: tensors by name, and what is to be known of the model."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def save(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all, without a second copy of its tensors in memory.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps({"format": FORMAT, **about}, ensure_ascii=False)
    on_cpu = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
    with written_whole(path) as part:
        try:
            save_file(on_cpu, part, metadata={"about": text})
        except SafetensorError as error:
            raise as_disk_error(path, part) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is ever executed.

    Raises:
        InputError: There is none, it is damaged, or it is not one of this collection.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; give one of the checkpoints in it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; checkpoints are in a run's folder") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged, or no checkpoint ({brief(error)}); copy it again"
        ) from error
    try:
        about = json.loads(metadata["about"])
        known = about["format"] == FORMAT
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: it does not say what model it holds; use a checkpoint of this collection"
        ) from error
    if not known:
        raise InputError(
            f"{path}: of format {brief(about['format'], 20)}, where {FORMAT} is read here; use "
            "the version of this collection that wrote it"
        )
    return Checkpoint(tensors, about)
