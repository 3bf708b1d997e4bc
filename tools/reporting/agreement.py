"""Agreement of prediction and measurement, for Bland-Altman and scatter plots, in bounded memory.

Subjects are read one after another. Bias and limits use every sample; the drawing uses a share of
them, the same number of every subject.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.files import InputError

DRAWN_SAMPLES = 60_000  # per panel


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of one subject's differences."""

    count: int
    mean: float
    squares: float


class Limits(NamedTuple):
    """Bias (prediction less measurement) and limits of agreement, in the target's unit."""

    bias: float
    low: float
    high: float


@dataclass
class Panel:
    """The samples of a target and activity: `drawn` `(samples, 2)` truth and prediction each."""

    drawn: list[np.ndarray] = field(default_factory=list)
    moments: list[Moments] = field(default_factory=list)


def limits_of_agreement(moments: Sequence[Moments]) -> Limits:
    """Return the 95 % limits of agreement with several measurements per subject.

    The variance of a difference is that within subjects plus that between subjects' biases, from a
    one-way analysis of variance with subjects of unequal size. Source: Bland and Altman 2007,
    "Agreement between methods of measurement with multiple observations per individual", section 3
    (doi 10.1080/10543400701329422). With one subject it is the variance within.
    """
    counts, means, squares = (np.array(values, float) for values in zip(*moments, strict=True))
    total = counts.sum()
    bias = (counts * means).sum() / total
    within = squares.sum() / max(total - len(counts), 1)
    between = 0.0
    if len(counts) > 1:
        mean_square = (counts * (means - bias) ** 2).sum() / (len(counts) - 1)
        size = (total - (counts**2).sum() / total) / (len(counts) - 1)
        between = max(0.0, (mean_square - within) / size)
    reach = 1.96 * np.sqrt(within + between)
    return Limits(bias, bias - reach, bias + reach)


class Agreement(NamedTuple):
    """The panels of a row, by target and activity; targets with units; number of subjects."""

    panels: dict[tuple[str, str], Panel]
    targets: list[tuple[str, str]]
    activities: list[str]
    subjects: int


def read(files: Sequence[Path]) -> Agreement:
    """Read the predictions of a row, a file per subject.

    Raises:
        InputError: A file is damaged or of other targets.
    """
    panels: dict[tuple[str, str], Panel] = {}
    targets: list[tuple[str, str]] = []
    random = np.random.default_rng(0)
    for path in files:
        try:
            with np.load(path) as saved:
                arrays = {name: saved[name] for name in saved.files}
            found = list(zip(arrays["target"].tolist(), arrays["unit"].tolist(), strict=True))
            if targets and found != targets:
                raise ValueError("other targets than in the file before")
            _add(panels, arrays, DRAWN_SAMPLES // len(files), random)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: damaged predictions ({error}); delete the file and go on with its run"
            ) from error
        targets = found
    activities = list(dict.fromkeys(activity for _, activity in panels))
    return Agreement(panels, targets, activities, len(files))


def _add(
    panels: dict[tuple[str, str], Panel],
    arrays: dict[str, np.ndarray],
    most: int,
    random: np.random.Generator,
) -> None:
    """Add a subject's samples, at most `most` per panel to be drawn."""
    for activity in dict.fromkeys(arrays["activity"].tolist()):
        rows = np.flatnonzero(arrays["activity"] == activity)
        chosen = random.choice(rows, min(most, len(rows)), replace=False)
        difference = arrays["prediction"][rows].astype(float) - arrays["truth"][rows]
        means = difference.mean(axis=0)
        squares = ((difference - means) ** 2).sum(axis=0)
        for k, target in enumerate(arrays["target"].tolist()):
            panel = panels.setdefault((target, activity), Panel())
            panel.moments.append(Moments(len(rows), means[k], squares[k]))
            pair = arrays["truth"][chosen, k], arrays["prediction"][chosen, k]
            panel.drawn.append(np.column_stack(pair))


def predictions(folder: Path, row: str, subject: str) -> Path:
    """Return the path of a row's predictions in a run's folder."""
    return folder / "predictions" / f"{row}-subject_{subject}.npz"
