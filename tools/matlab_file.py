"""Read the numeric arrays of a MATLAB file (.mat, version 5 to 7)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import io as scipy_io

from common.data import check_expansion
from common.files import InputError, shorten

HEADER_BYTES, TAG_BYTES = 128, 8
COMPRESSED = 15  # type of an element
BLOCK_BYTES = 2**16


def read_matlab(path: Path) -> pd.DataFrame:
    """Read the numeric arrays that are as long as the longest axis of any of them.

    A vector becomes a column with the name of its variable, a matrix `acc` the columns `acc_1`,
    `acc_2` and so on; fields of a structure are named `trial.acc`.

    Raises:
        InputError: The file cannot be read or has no numeric arrays.
    """
    try:
        check_expanded_size(path)
        variables = scipy_io.loadmat(path, simplify_cells=True)
    except InputError:
        raise
    except NotImplementedError as error:  # version 7.3 is HDF5
        raise InputError(f"{path}: saved with -v7.3; save it with -v7 in MATLAB") from error
    except Exception as error:  # damaged files can raise anything
        raise InputError(f"{path}: not a MATLAB file ({shorten(error)}); save it again") from error
    arrays = dict(_numeric_arrays("", variables))
    samples = max((length for array in arrays.values() for length in array.shape), default=0)
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1 and len(array) == samples:
            columns[name] = array
        elif array.ndim == 2 and samples in array.shape:
            array = array if len(array) == samples else array.T
            columns |= {f"{name}_{i}": column for i, column in enumerate(array.T, start=1)}
    objects = "__function_workspace__" in variables
    if objects and samples <= 1 or not columns:
        problem = "a table, timetable or other object" if objects else "no numeric arrays"
        raise InputError(
            f"{path}: {problem}; in MATLAB, write a table T with writetable(T, 'walk.csv') or a "
            "timetable with writetimetable(T, 'walk.csv'), or save vectors and matrices with -v7"
        )
    return pd.DataFrame(columns)


def check_expanded_size(path: Path) -> None:
    """Check that the compressed elements of a file do not expand to far more than measured data.

    They are decompressed block by block and not kept.

    Raises:
        InputError: They do.
        OSError: The file cannot be read.
        zlib.error: It is damaged.
    """
    size, expanded = path.stat().st_size, 0
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        order = "little" if header[126:128] == b"IM" else "big"
        while len(tag := file.read(TAG_BYTES)) == TAG_BYTES:
            kind, length = (int.from_bytes(tag[i : i + 4], order) for i in (0, 4))
            end = file.tell() + length
            if kind == COMPRESSED:
                stream = zlib.decompressobj()
                while data := file.read(min(BLOCK_BYTES, end - file.tell())):
                    while data and not stream.eof:
                        expanded += len(stream.decompress(data, BLOCK_BYTES))
                        check_expansion(path, expanded, size)
                        data = stream.unconsumed_tail
            file.seek(end)


def _numeric_arrays(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays of variables and of the fields of structures."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _numeric_arrays(f"{prefix}{name}.", value)
        elif (
            name != "__function_workspace__"  # of objects
            and getattr(value, "ndim", 0) in (1, 2)
            and value.dtype.kind in "fiub"
        ):
            yield f"{prefix}{name}", value
