"""Synthetic gait in the layout of Dataset A and B: what stands in when there is no data file.

Not noise: a body of eight rigid segments walks, and forces, moments and sensor signals follow from
its motion by the laws of mechanics. Read in this order: `body` (who), `style` (how), `feet` (where
the feet go), `balance` (what path of the body they can carry), `dynamics` and `joints` (forces and
moments), `sensors` (what is measured), `trial` (all of it), `dataset_a` and `dataset_b` (the
files).

Simplified: head and arms are part of the trunk, the foot is one rigid piece, the knee is a hinge,
stairs and ramps are endless, nobody turns, starts or stops.
"""

import os
from pathlib import Path

import h5py

from common.files import written_whole

from . import dataset_a, dataset_b

_WRITERS = {"a": dataset_a, "b": dataset_b}
_DESCRIPTION = {
    "a": "Synthetic gait in the layout of Dataset A (Camargo et al. 2021). Not measured.",
    "b": "Synthetic gait in the layout of Dataset B (Tan et al. 2022). Not measured.",
}
_SHORTEST_S = {"a": 4 * 0.5, "b": 3.0}  # half a second per activity; one step of the right leg


def write_sample(
    path: str | os.PathLike[str], dataset: str, subjects: int, minutes: float, seed: int
) -> None:
    """Write a sample file, whole or not at all; the same arguments give the same bytes.

    Args:
        path: the HDF5 file to write. A file of that name is replaced, missing folders are made.
        dataset: `a` or `b`.
        subjects: how many; A has at most 20. The first ones stay the same when more are asked for.
        minutes: minutes of walking per subject, in A shared by the four activities.
        seed: not negative.

    Raises:
        ValueError: an argument is out of range.
        OSError: the file cannot be written.
    """
    _check(dataset, subjects, minutes, seed)
    with written_whole(Path(path)) as part, h5py.File(part, "w") as file:
        file.attrs["synthetic"] = True
        file.attrs["description"] = _DESCRIPTION[dataset]
        _WRITERS[dataset].write(file, subjects, minutes, seed)


def _check(dataset: str, subjects: int, minutes: float, seed: int) -> None:
    """Refuse arguments that cannot give a file."""
    if dataset not in _WRITERS:
        raise ValueError(f"dataset is {dataset!r}, expected a or b")
    most = len(dataset_a.SUBJECT_IDS) if dataset == "a" else 99
    if not 1 <= subjects <= most:
        raise ValueError(f"subjects is {subjects}, expected 1 to {most}")
    if not minutes * 60.0 >= _SHORTEST_S[dataset] or minutes > 1000:
        least = _SHORTEST_S[dataset] / 60.0
        raise ValueError(f"minutes is {minutes}, expected {least:.3f} to 1000")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
