"""The columns of a file that a model reads, found out by trying: no script has to list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common.hdf5 import Columns
from torch import Tensor

from common.data import Prepare
from common.files import InputError
from tools.trained import Trained


class Needs(NamedTuple):
    """Names of columns.

    Args:
        looked_up: All that the script looks up. inputs: Those that the model's inputs depend on.
        targets: Those that the measured targets depend on.
    """

    looked_up: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]

    def found_in(self, names: Iterable[str], path: Path) -> tuple[str, ...]:
        """Return the columns to read of a file: `inputs`, and `targets` if all of them are there.

        Args:
            names: Of the file's columns. path: The file, for errors.

        Raises:
            InputError: Columns that the model reads are missing.
        """
        there = set(names)
        missing = [name for name in self.inputs if name not in there]
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(missing)}, which the model reads; add what was "
                "measured, rename the columns so, or use the checkpoint of a smaller sensor set"
            )
        targets = self.targets if set(self.targets) <= there else ()
        return tuple(dict.fromkeys((*self.inputs, *targets)))


def needs_of(trained: Trained) -> Needs:
    """Find out what a model reads.

    A table has as many rows as columns, and NaN in its diagonal: the columns whose row has become
    NaN in the model's inputs are those that it reads.
    """
    prepare = trained.script.prepare
    names = _looked_up(prepare)
    values = np.ones((len(names), len(names)), np.float32)
    np.fill_diagonal(values, np.nan)
    positions = {name: i for i, name in enumerate(names)}
    samples = as_tensors(prepare(Columns(Path(), "", positions, values)))
    inputs = torch.cat(trained.study.inputs(samples, trained.sensor_set), dim=-1)

    def with_nan(tensor: Tensor) -> tuple[str, ...]:
        is_nan = tensor.isnan().any(dim=-1)
        return tuple(name for name, found in zip(names, is_nan, strict=True) if found)

    return Needs(names, with_nan(inputs), with_nan(samples["targets"]))


class _Recorder:
    """Stands in for `Columns`, and remembers which names are looked up."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def __getitem__(self, key: str | Sequence[str]) -> np.ndarray:
        names = [key] if isinstance(key, str) else list(key)
        self.names.update(dict.fromkeys(names))
        return np.ones((1, len(names)), np.float32)


def _looked_up(prepare: Prepare) -> tuple[str, ...]:
    recorder = _Recorder()
    prepare(recorder)
    return tuple(recorder.names)


def filled(columns: Columns, needs: Needs, known: Sequence[str]) -> Columns:
    """Return the columns `known`; all others that the script looks up are 1.

    That lets the script prepare what no model input depends on, and divide by it.
    """
    values = columns.values[..., [columns.positions[name] for name in known]]
    ones = np.ones((*values.shape[:-1], 1), values.dtype)
    positions = dict.fromkeys(needs.looked_up, len(known))
    positions |= {name: i for i, name in enumerate(known)}
    return replace(columns, positions=positions, values=np.concatenate([values, ones], axis=-1))


def as_tensors(samples: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return what a script has prepared as tensors of float32."""
    return {name: torch.from_numpy(v.astype(np.float32)) for name, v in samples.items()}
