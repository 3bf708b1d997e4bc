"""Open HDF5 files and look up columns by name; every error names the file, place and remedy."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from common.files import InputError

BLOCK_BYTES = 4 * 2**20
"""Larger ones leave a processor's cache, and smaller ones cost more calls."""


@dataclass
class Columns:
    """Rows of one HDF5 dataset, looked up by name: `columns["a"]` or `columns[["a", "b"]]`.

    Attributes:
        path: The file. place: The dataset in it. positions: Column name to its position.
        values: `(rows, width)` as stored.
        nan_counts: Column name to its number of NaN rows, for every column looked up so far.
    """

    path: Path
    place: str
    positions: dict[str, int]
    values: np.ndarray
    nan_counts: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, key: str | Sequence[str]) -> np.ndarray:
        """Return `(rows, 1)` for a name, `(rows, n)` for a list of names, as float32.

        Raises:
            InputError: A column is missing or has infinite values.
        """
        names = [key] if isinstance(key, str) else list(key)
        missing = [name for name in names if name not in self.positions]
        if missing:
            raise InputError(
                f"{self.path}: {self.place}: no column {', '.join(missing)}; "
                "the attribute `columns` must name every column that the script reads"
            )
        selected = self.values.take([self.positions[name] for name in names], axis=1)
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            selected = selected.astype(np.float32, copy=False)
        self.nan_counts.update(dict.fromkeys(names, 0))
        if not np.isfinite(selected).all():
            self._count_not_finite(names, selected)
        return selected

    def _count_not_finite(self, names: list[str], selected: np.ndarray) -> None:
        infinite = np.isinf(selected)
        if infinite.any():
            sums = infinite.sum(axis=0)
            counts = [f"{n} in {name}" for name, n in zip(names, sums, strict=True) if n]
            raise InputError(
                f"{self.path}: {self.place}: infinite values: {', '.join(counts)}; "
                "replace them by the measured value, or by NaN (such rows are dropped)"
            )
        counts = np.isnan(selected, order="F").sum(axis=0)  # "F": sums along the memory
        self.nan_counts.update(zip(names, counts.tolist(), strict=True))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading.

    Raises:
        InputError: No such file, not an HDF5 file, or a truncated one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give --data the path of an HDF5 file, or --sample")
    try:
        file = h5py.File(path)
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it; change its access rights") from error
    except OSError as error:
        problem = "truncated" if "truncated" in str(error) else "not an HDF5 file"
        raise InputError(f"{path}: {problem}; download or copy the file again") from error
    with file:
        yield file


def column_names(path: Path, file: h5py.File) -> list[str] | None:
    """Return the file's attribute `columns` (a JSON list of names), None where it has none."""
    if "columns" not in file.attrs:
        return None
    try:
        names = [str(name) for name in json.loads(file.attrs["columns"])]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the attribute `columns` is no JSON list of names; write it as one"
        ) from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the attribute `columns` names {twice[0]} twice; rename one")
    return names


def subject_keys(path: Path, group: h5py.Group, prefix: str) -> dict[str, str]:
    """Return id -> key of every member named `<prefix><id>`, in the ids' numeric order.

    Raises:
        InputError: There is none, or two ids are the same number.
    """
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: {group.name}: a dataset; it must be a group of subjects")
    matches = [re.fullmatch(rf"{prefix}(\d+)", key) for key in group]
    found = sorted((match for match in matches if match), key=lambda match: int(match[1]))
    if not found:
        raise InputError(
            f"{path}: {group.name}: no subject; their names must be {prefix} and a number"
        )
    for one, other in pairwise(found):
        if int(one[1]) == int(other[1]):
            raise InputError(f"{path}: {one[0]} and {other[0]} have one number; rename one of them")
    return {match[1]: match[0] for match in found}


def member(path: Path, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return `group[name]`.

    Raises:
        InputError: It is missing.
    """
    if isinstance(group, h5py.Group):
        found = group.get(name)  # None for a link that leads nowhere, too
        if found is not None:
            return found
    raise InputError(
        f"{path}: {group.name}: no {name} in it; see the README for the tree a file must have"
    )


def check_table(path: Path, table: h5py.Dataset, axes: int, width: int) -> None:
    """Check that `table` holds numbers and has `axes` axes, the last one of `width` columns.

    Raises:
        InputError: It does not.
    """
    if not isinstance(table, h5py.Dataset):
        raise InputError(f"{path}: {table.name}: a group; put the dataset of its rows there")
    if table.dtype.kind not in "fiu":
        raise InputError(f"{path}: {table.name}: {table.dtype} values; store it as float32")
    if table.ndim != axes or table.shape[-1] != width:
        raise InputError(
            f"{path}: {table.name}: shape {table.shape}; it must have {axes} axes, "
            f"the last one of {width} columns"
        )


def blocks(table: h5py.Dataset) -> Iterator[slice]:
    """Cut the first axis into blocks of some MB, of whole chunks: each is unpacked once."""
    chunk = table.chunks[0] if table.chunks else 1
    chunk_bytes = chunk * table.dtype.itemsize * math.prod(table.shape[1:])
    size = chunk * max(1, BLOCK_BYTES // max(1, chunk_bytes))
    for start in range(0, max(1, len(table)), size):  # an empty one, of a table without rows
        yield slice(start, start + size)


def read_table(path: Path, table: h5py.Dataset, rows: slice) -> np.ndarray:
    """Return `rows` of the first axis of a dataset.

    Raises:
        InputError: A part of them cannot be read.
    """
    try:
        return table[rows]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {table.name}: damaged ({error}); copy the file again") from error
