"""The samples of a recording at the model's rate, and the stretches that can be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from common.hdf5 import Columns
from torch import Tensor

from common.files import InputError
from tools.prediction.needs import Needs, as_tensors, filled
from tools.trained import Trained

TIME = "time (s)"
STRETCH = "stretch"


class Piece(NamedTuple):
    """Rows that stand together in a file.

    Args:
        where: Column of the output to `(rows,)`: where a row is from; the last one is the time.
        columns: The measured columns. known: Those to be read of them.
        trial: `(rows,)` number of the trial or step: no window crosses from one to the next.
    """

    where: dict[str, np.ndarray]
    columns: Columns
    known: tuple[str, ...]
    trial: np.ndarray


@dataclass(frozen=True)
class Samples:
    """All rows of a recording, whether they can be predicted or not.

    Attributes:
        where: A line per row: where it is from, number of its stretch (empty for none), time.
        values: Modality, or `"targets"`, to `(rows, C)` float32; NaN where nothing was measured.
        stretch: `(rows,)` number of the row's stretch, from 0; -1 for a row with NaN in a column
            that the model reads.
    """

    where: pd.DataFrame
    values: dict[str, Tensor]
    stretch: np.ndarray


def samples_of(
    path: Path,
    trained: Trained,
    needs: Needs,
    pieces: Iterable[Piece],
    factors: Mapping[str, float],
) -> Samples:
    """Prepare the pieces of a recording as the script does, piece by piece.

    Args:
        path: The file, for errors. trained: The model. needs: What it reads.
        pieces: Of the recording, at the model's rate.
        factors: Modality to what turns its unit into the script's.

    Raises:
        InputError: There is none, values are infinite, or a number was divided by 0.
    """
    where, values, stretches, count = [], [], [], 0
    for piece in pieces:
        prepared = _prepared(trained, needs, piece, factors)
        inputs = torch.cat(trained.study.inputs(prepared, trained.sensor_set), dim=-1)
        if inputs.isinf().any():
            raise InputError(
                f"{piece.columns.path}: {piece.columns.place}: divided by 0; supply the body height"
            )
        stretch = _stretches(inputs.isfinite().all(dim=-1).numpy(), piece.trial) + count
        stretch[stretch < count] = -1
        count = max(count, int(stretch.max(initial=-1)) + 1)
        *labels, time = piece.where
        number = pd.Series(stretch + 1, dtype="Int64").where(stretch >= 0)
        lines = {name: piece.where[name] for name in labels}
        where.append(pd.DataFrame({**lines, STRETCH: number, time: piece.where[time]}))
        values.append(prepared)
        stretches.append(stretch)
    if not values:
        raise InputError(f"{path}: no two samples follow one another; record on, or see --max-gap")
    return Samples(
        pd.concat(where, ignore_index=True),
        {name: torch.cat([part[name] for part in values]) for name in values[0]},
        np.concatenate(stretches),
    )


def _prepared(
    trained: Trained, needs: Needs, piece: Piece, factors: Mapping[str, float]
) -> dict[str, Tensor]:
    with np.errstate(divide="ignore", invalid="ignore"):
        prepared = trained.script.prepare(filled(piece.columns, needs, piece.known))
    samples = as_tensors(prepared)
    for modality, factor in factors.items():
        samples[modality] *= factor
    if not set(needs.targets) <= set(piece.known):
        samples["targets"][:] = torch.nan
    return samples


def _stretches(usable: np.ndarray, trial: np.ndarray) -> np.ndarray:
    """Number the stretches of usable rows within a trial, from 0; -1 for the other rows."""
    begins = np.concatenate([[True], (np.diff(trial) != 0) | ~usable[:-1]])[: len(usable)]
    return np.where(usable, np.cumsum(begins & usable) - 1, -1)
