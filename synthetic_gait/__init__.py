"""Synthetic gait data in the file layouts of Dataset A and Dataset B.

A body of eight rigid segments walks; ground reaction forces, joint moments and sensor signals
follow from its motion by the laws of mechanics. The modules, in reading order: `subject` (body and
walking style), `motion` (footsteps, and the motion of the body that they can support), `trial`
(forces, joint angles, moments and powers), `sensors` (measured signals), `dataset_a` and
`dataset_b` (the files); `kinematics` has the mathematics of rotations.

Simplifications: head and arms are part of the trunk, the foot is one rigid segment, the knee is a
hinge, stairs and ramps never end, and nobody turns, starts or stops.

The package depends on NumPy, SciPy and h5py only.
"""

import os
import tempfile
from pathlib import Path

import h5py

from . import dataset_a, dataset_b

MAX_SUBJECTS = {"a": len(dataset_a.SUBJECT_IDS), "b": 99}
MIN_SECONDS = {"a": 2.0, "b": 3.0}  # half a second per activity; one step of the right leg
MAX_MINUTES = 1000.0
_TITLE = "Synthetic gait in the layout"  # start of the description in every file


def write_file(
    path: str | os.PathLike[str], dataset: str, subjects: int, minutes: float, seed: int
) -> None:
    """Write an HDF5 file of synthetic gait; the same arguments give the same bytes.

    The file appears only once it is complete. If writing fails, an existing file is unchanged.
    An existing file is replaced only if this function wrote it.

    Args:
        path: file to write or replace; missing folders are created.
        dataset: layout of the file, `a` or `b`.
        subjects: number of subjects; a larger number leaves the first ones unchanged.
        minutes: minutes of walking per subject; Dataset A divides them among four activities.
        seed: seed of the random numbers, at least 0.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: the path exists and is not a file of synthetic gait.
        OSError: the file cannot be written.
    """
    _check_arguments(dataset, subjects, minutes, seed)
    path = Path(path)
    if path.exists() and not _is_synthetic_gait(path):
        raise FileExistsError(
            "already exists and is not a file of synthetic gait; move it away or choose another "
            "name"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    module, source = {
        "a": (dataset_a, "Camargo et al. 2021"),
        "b": (dataset_b, "Tan et al. 2022"),
    }[dataset]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".synthetic_gait_") as folder:
        unfinished = Path(folder) / path.name
        with h5py.File(unfinished, "w") as file:
            file.attrs["synthetic"] = True
            file.attrs["description"] = (
                f"{_TITLE} of Dataset {dataset.upper()} ({source}). Not measured."
            )
            module.write_subjects(file, subjects, minutes, seed)
        unfinished.replace(path)


def _is_synthetic_gait(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with h5py.File(path) as file:
            return str(file.attrs.get("description")).startswith(_TITLE)
    except (OSError, ValueError):
        return False


def _check_arguments(dataset: str, subjects: int, minutes: float, seed: int) -> None:
    if dataset not in MAX_SUBJECTS:
        raise ValueError(f"dataset must be 'a' or 'b', not {dataset!r}")
    if not 1 <= subjects <= MAX_SUBJECTS[dataset]:
        raise ValueError(f"subjects must be from 1 to {MAX_SUBJECTS[dataset]}, not {subjects}")
    seconds = MIN_SECONDS[dataset]
    if not seconds <= minutes * 60.0 <= MAX_MINUTES * 60.0:
        raise ValueError(
            f"minutes per subject must be at least {seconds:g}/60 ({seconds:g} seconds) and at "
            f"most {MAX_MINUTES:g}, not {minutes}"
        )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
