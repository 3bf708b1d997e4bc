"""Read an HDF5 file of Dataset A or B, or your own: named columns, checks, tensors by modality."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from common.files import InputError, shorten

# The 129 columns of Dataset A, in the order of the file -------------------------------------------

DATASET_A_ACTIVITIES = ("Treadmill", "Levelground", "Ramp", "Stair")
IMU_SENSORS = ("foot", "shank", "thigh", "trunk")  # right side
MUSCLES = (
    *("gastrocmed", "tibialisanterior", "soleus", "vastusmedialis", "vastuslateralis"),
    *("rectusfemoris", "bicepsfemoris", "semitendinosus", "gracilis", "gluteusmedius"),
    "rightexternaloblique",
)
GONIOMETERS = ("ankle_sagittal", "ankle_frontal", "knee_sagittal", "hip_sagittal", "hip_frontal")

PELVIS = tuple(f"pelvis_{name}" for name in ("tilt", "list", "rotation", "tx", "ty", "tz"))
HIP = ("hip_flexion", "hip_adduction", "hip_rotation")
BELOW_HIP = ("knee_angle", "ankle_angle", "subtalar_angle", "mtp_angle")
LUMBAR = ("lumbar_extension", "lumbar_bending", "lumbar_rotation")
COORDINATES = (  # joint angles, in OpenSim's order
    *PELVIS,
    *(f"{name}_{side}" for side in "rl" for name in HIP + BELOW_HIP),
    *LUMBAR,
)
TREE_COORDINATES = (  # the same coordinates in the order of OpenSim's inverse dynamics
    *PELVIS,
    *(f"{name}_{side}" for side in "rl" for name in HIP),
    *LUMBAR,
    *(f"{name}_{side}" for name in BELOW_HIP for side in "rl"),
)


def load_name(coordinate: str) -> str:
    """Return OpenSim's name of the generalized force of a coordinate."""
    is_translation = coordinate in PELVIS[3:]
    return f"{coordinate}_{'force' if is_translation else 'moment'}"


DATASET_A_COLUMNS = (
    *(f"{sensor}_{kind}_{axis}" for sensor in IMU_SENSORS for kind in ("Accel", "Gyro")
      for axis in "XYZ"),
    *COORDINATES,
    *map(load_name, TREE_COORDINATES),
    *(f"right_v{axis}" for axis in "xyz"),
    *(f"right_moment_{axis}" for axis in "xyz"),
    *(f"right_p{axis}" for axis in "xyz"),
    *GONIOMETERS,
    *(f"{muscle}_raw" for muscle in MUSCLES),
    *MUSCLES,
    *(f"{coordinate}_power" for coordinate in TREE_COORDINATES),
)  # fmt: skip

# Recordings ---------------------------------------------------------------------------------------

BLOCK_BYTES = 4 * 2**20  # size of a block to read; larger blocks do not fit in the CPU cache
BODY_PREFIX = "body "  # names of columns with a subject's constants in Dataset B start with it
MATLAB_5 = b"MATLAB 5.0 MAT-file"  # first bytes of a .mat file that is not HDF5
NUMBER = r"\d+"  # a subject of Dataset A or B
NAME = r"\w(?:[\w .+-]*\w)?"  # a subject or an activity of your own; it stands in file names
ALL = "all"  # in the place of a subject or an activity, it stands for all of them


class SensorSet(NamedTuple):
    """The IMUs of a sensor set and the modalities that a network reads from it."""

    sensors: tuple[str, ...]
    modalities: tuple[str, ...] = ("acc", "gyr")


class Target(NamedTuple):
    """A quantity to estimate, with the name and unit shown in tables and figures."""

    name: str
    unit: str


@dataclass(frozen=True)
class Recording:
    """All usable samples of a file, sorted by subject.

    Attributes:
        path: the file.
        samples: modality, or `"targets"`, -> `(samples, C)` float32.
        subjects: subject ids, sorted.
        activities: names of the activities; `[""]` if the file has none.
        subject: `(samples,)` index into `subjects`.
        activity: `(samples,)` index into `activities`.
        stretch: `(samples,)` index of the stretch. A stretch consists of consecutive samples of
            one trial or step, with no dropped sample between them.
        dropped: HDF5 dataset -> number of its samples that were dropped because of NaN.
        has_trials: whether the file states where its trials (A) or steps (B) start.
        is_synthetic: whether the file is marked as simulated (attribute `synthetic`).
        ignored: members that seem to be subjects but are not read because of their names.
    """

    path: Path
    samples: dict[str, Tensor]
    subjects: list[str]
    activities: list[str]
    subject: np.ndarray
    activity: np.ndarray
    stretch: np.ndarray
    dropped: dict[str, int]
    has_trials: bool
    is_synthetic: bool = False
    ignored: list[str] = field(default_factory=list)

    def to(self, device: torch.device) -> Recording:
        """Return the recording with its samples on `device`."""
        moved = {name: values.to(device) for name, values in self.samples.items()}
        return replace(self, samples=moved)

    def digest(self) -> str:
        """Return a hash of everything that was read, to recognize the same data later."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.samples):
            digest.update(np.ascontiguousarray(self.samples[name].cpu().numpy()).data)
        for labels in (self.subject, self.activity, self.stretch):
            digest.update(np.ascontiguousarray(labels).data)
        return digest.hexdigest()


@dataclass
class Columns:
    """Samples of one HDF5 dataset, looked up by column name.

    `columns["a"]` is `(samples, 1)`, `columns[["a", "b"]]` is `(samples, 2)`.

    Attributes:
        path: the file.
        place: name of the HDF5 dataset.
        positions: column name -> position.
        values: `(samples, width)` as stored.
        fill_missing: whether a missing column is read as NaN instead of being an error.
        nan_counts: column name -> number of NaN, for the columns that were looked up.
    """

    path: Path
    place: str
    positions: dict[str, int]
    values: np.ndarray
    fill_missing: bool = False
    nan_counts: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, key: str | Sequence[str]) -> np.ndarray:
        """Return the named columns as float32.

        Raises:
            InputError: A column is missing or has infinite values.
        """
        names = [key] if isinstance(key, str) else list(key)
        missing = [name for name in names if name not in self.positions]
        if missing and not self.fill_missing:
            raise InputError(
                f"{self.path}: {self.place}: no column {', '.join(missing)}; "
                "the attribute `columns` must name every column that the script reads"
            )
        selected = self.values.take([self.positions.get(name, 0) for name in names], axis=1)
        with np.errstate(over="ignore"):  # overflow gives infinity, which is rejected below
            selected = selected.astype(np.float32, copy=False)
        if missing:
            selected[:, [name in missing for name in names]] = np.nan
        self.nan_counts.update(dict.fromkeys(names, 0))
        if not np.isfinite(selected).all():
            self._check_finite(names, selected)
        return selected

    def _check_finite(self, names: list[str], selected: np.ndarray) -> None:
        """Reject infinite values and count NaN."""
        infinite = np.isinf(selected)
        if infinite.any():
            sums = infinite.sum(axis=0)
            counts = [f"{n} in {name}" for name, n in zip(names, sums, strict=True) if n]
            raise InputError(
                f"{self.path}: {self.place}: infinite values: {', '.join(counts)}; replace them "
                "with the measured values, or with NaN to have these samples dropped"
            )
        counts = np.isnan(selected, order="F").sum(axis=0)  # "F": sums along contiguous memory
        self.nan_counts.update(zip(names, counts.tolist(), strict=True))


Prepare = Callable[[Columns], dict[str, np.ndarray]]
"""Converts columns to `(samples, C)` per modality and `"targets"` `(samples, K)`."""


class Block(NamedTuple):
    """Samples of one table.

    Attributes:
        columns: the samples, by column name.
        trial: `(samples,)` index of the trial (A) or step (B) within the table.
    """

    columns: Columns
    trial: np.ndarray


class Table(NamedTuple):
    """An HDF5 dataset with samples of one subject.

    Attributes:
        path: the file.
        subject: subject id.
        activity: name of the activity; empty in Dataset B.
        dataset: `(samples, columns)` in Dataset A, `(steps, samples, columns)` in Dataset B.
        positions: column name -> position.
    """

    path: Path
    subject: str
    activity: str
    dataset: h5py.Dataset
    positions: dict[str, int]

    def read(self, part: slice = slice(None)) -> Block:
        """Read the table or a slice of its first axis, without the padding of Dataset B.

        Raises:
            InputError: The table is damaged or its attribute `trial_starts` cannot be used.
        """
        try:
            values = self.dataset[part]
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: {self.dataset.name}: damaged ({error}); copy the file again"
            ) from error
        if values.ndim == 2:
            trial = _trials(self.path, self.dataset, part)
        else:
            is_valid = samples_before_padding(
                values, [i for name, i in self.positions.items() if name.startswith(BODY_PREFIX)]
            )
            steps = np.arange(*part.indices(len(self.dataset)))
            trial = np.repeat(steps, np.count_nonzero(is_valid, axis=1))
            values = values[is_valid]
        return Block(Columns(self.path, self.dataset.name, self.positions, values), trial)

    def blocks(self) -> Iterator[Block]:
        """Yield the table in blocks of a few MB.

        Blocks hold whole chunks, so each chunk is decompressed once.
        """
        chunk = self.dataset.chunks[0] if self.dataset.chunks else 1
        chunk_bytes = chunk * self.dataset.dtype.itemsize * math.prod(self.dataset.shape[1:])
        size = chunk * max(1, BLOCK_BYTES // max(1, chunk_bytes))
        for start in range(0, max(1, len(self.dataset)), size):  # an empty table: one block
            yield self.read(slice(start, start + size))


def read_dataset_a(path: Path, prepare: Prepare) -> Recording:
    """Read Dataset A: `/All_subjects/Subject_<id>/<activity>`, each `(samples, 129)`, at 200 Hz.

    The attribute `columns` of the file names its columns; without it, the file must have the
    columns of `DATASET_A_COLUMNS`, in that order. The attribute `trial_starts` of an activity
    (sample indices) is used if it exists.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        tables = dataset_a_tables(path, file)
        has_trials = all("trial_starts" in table.dataset.attrs for table in tables)
        return _read(file, path, tables, prepare, has_trials)


def read_dataset_b(path: Path, prepare: Prepare) -> Recording:
    """Read Dataset B: `/subject_<id>`, each `(steps, 152, 256)`, at 100 Hz.

    The attribute `columns` of the file names the columns. A step ends with its last sample that has
    a nonzero column; the rest is padding. Columns named `body ...` do not count if they are
    constant in the step, because some files repeat the subject's weight and height in the padding.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        return _read(file, path, dataset_b_tables(path, file), prepare, has_trials=True)


def read_trials(path: Path, prepare: Prepare, rate_hz: float) -> Recording:
    """Read a file of your own: `/All_subjects/Subject_<id>/<activity>`, each `(samples, columns)`.

    Ids and activities are text. The attribute `columns` of the file names its columns, and the
    attribute `trial_starts` of an activity (sample indices) says where its trials start.

    Args:
        path: the file, as `python -m tools.make_dataset` writes it.
        prepare: returns the modalities and the targets.
        rate_hz: the rate that the script reads; the attribute `rate_hz` of the file, if it exists,
            must be the same.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        own_hz = file.attrs.get("rate_hz", rate_hz)
        if own_hz != rate_hz:
            raise InputError(
                f"{path}: made at {own_hz:g} Hz, but RATE_HZ of the script is {rate_hz:g}; make "
                "the file again with python -m tools.make_dataset"
            )
        return _read(file, path, trial_tables(path, file), prepare, True, NAME)


def dataset_a_tables(path: Path, file: h5py.File, all_activities: bool = True) -> list[Table]:
    """Return the activities of all subjects, in numeric order of the subjects.

    Args:
        path: the file.
        file: the open file.
        all_activities: whether every subject must have every activity, as for training.

    Raises:
        InputError: The file does not have the layout of Dataset A.
    """
    root = _member(path, file, "All_subjects")
    names = _column_names(path, file) or DATASET_A_COLUMNS
    positions = {name: i for i, name in enumerate(names)}
    tables = []
    for subject, key in _subject_keys(path, root, "Subject_").items():
        group = _member(path, root, key)
        for activity in DATASET_A_ACTIVITIES:
            if all_activities or activity in group:
                dataset = _member(path, group, activity)
                tables.append(_table(path, subject, activity, dataset, positions))
    return tables


def trial_tables(path: Path, file: h5py.File) -> list[Table]:
    """Return the activities of all subjects of a file of your own, sorted by subject.

    Raises:
        InputError: The file does not have the layout that `read_trials` describes.
    """
    root = _member(path, file, "All_subjects")
    positions = _required_columns(path, file)
    tables = []
    for subject, key in _subject_keys(path, root, "Subject_", NAME).items():
        group = _member(path, root, key)
        if not isinstance(group, h5py.Group) or not len(group):
            raise InputError(f"{path}: {group.name}: no activities; add a dataset for each")
        for activity in group:
            table = _table(path, subject, activity, _member(path, group, activity), positions)
            if activity == ALL:
                raise InputError(f"{path}: {table.dataset.name}: stands for all; rename it")
            if "trial_starts" not in table.dataset.attrs:
                raise InputError(
                    f"{path}: {table.dataset.name}: no attribute `trial_starts`; add the numbers "
                    "of the samples at which its trials start, [0] if there is one trial"
                )
            tables.append(table)
    return tables


def dataset_b_tables(path: Path, file: h5py.File) -> list[Table]:
    """Return the steps of all subjects, in numeric order of the subjects.

    Raises:
        InputError: The file does not have the layout of Dataset B.
    """
    positions = _required_columns(path, file)
    return [
        _table(path, subject, "", _member(path, file, key), positions)
        for subject, key in _subject_keys(path, file, "subject_").items()
    ]


def samples_before_padding(steps: np.ndarray, body: Sequence[int] = ()) -> np.ndarray:
    """Return a mask `(steps, samples)`, True up to the last sample with a nonzero column.

    Args:
        steps: `(steps, samples, columns)`; NaN does not count as zero.
        body: positions of the columns that do not count in a step in which they are constant.
    """
    is_nonzero = steps != 0
    for position in body:
        values = steps[..., position]
        is_nonzero[..., position] &= (values != values[:, :1]).any(axis=1, keepdims=True)
    filled = is_nonzero.any(axis=-1)
    return np.flip(np.logical_or.accumulate(np.flip(filled, axis=1), axis=1), axis=1)


def is_synthetic(path: Path) -> bool:
    """Return whether a file says that its data are simulated (HDF5 attribute `synthetic`)."""
    if not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return bool(file.attrs.get("synthetic", False))


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading.

    Raises:
        InputError: The file does not exist, is not an HDF5 file or is truncated.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; pass an HDF5 file with --data, or use --sample")
    try:
        file = h5py.File(path)
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; change the file's permissions") from error
    except OSError as error:
        with path.open("rb") as raw:
            if raw.read(len(MATLAB_5)) == MATLAB_5:
                raise InputError(
                    f"{path}: a MATLAB 5.0 file (.mat before version 7.3), not HDF5; write the "
                    "data with h5write, or save them with -v7.3, in the layout of the README"
                ) from error
        problem = "truncated" if "truncated" in str(error) else "not an HDF5 file"
        raise InputError(f"{path}: {problem}; download or copy the file again") from error
    with file:
        yield file


def _column_names(path: Path, file: h5py.File) -> list[str] | None:
    """Return the names in the file's attribute `columns`, None if it has none.

    The attribute is a JSON list or an array of strings.
    """
    if "columns" not in file.attrs:
        return None
    stored = file.attrs["columns"]
    try:
        if isinstance(stored, np.ndarray) and stored.size > 1 and stored.dtype.kind in "OSU":
            texts = [text.decode() if isinstance(text, bytes) else text for text in stored.flat]
            names = [text.strip() for text in texts]  # fixed-length strings may end with blanks
        else:
            names = [str(name) for name in json.loads(stored)]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the attribute `columns` must be a JSON list of names or an array of strings"
        ) from error
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: the attribute `columns` names {repeated[0]} twice; rename one")
    return names


def _required_columns(path: Path, file: h5py.File) -> dict[str, int]:
    """Return the position of every column that the file names."""
    names = _column_names(path, file)
    if names is None:
        raise InputError(f"{path}: no attribute `columns` (a JSON list of names); add it")
    return {name: i for i, name in enumerate(names)}


def _subject_keys(
    path: Path, group: h5py.Group, prefix: str, pattern: str = NUMBER
) -> dict[str, str]:
    """Return id -> key for every member named `<prefix><id>`, sorted."""
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: {group.name}: is a dataset; it must be a group of subjects")
    matches = [re.fullmatch(f"{prefix}({pattern})", key) for key in group]
    keys = {match[1]: match[0] for match in matches if match and match[1] != ALL}
    if not keys:
        members = f"; it contains {shorten(', '.join(group), 100)}" if len(group) else ""
        wanted = "a number" if pattern == NUMBER else "an id"
        raise InputError(
            f"{path}: {group.name}: no subjects found; their names must be {prefix} followed by "
            f"{wanted}{members}"
        )
    subjects = sort_subjects(keys)
    for first, second in pairwise(subjects):
        if pattern == NUMBER and int(first) == int(second):
            raise InputError(
                f"{path}: {keys[first]} and {keys[second]} have the same number; rename one of them"
            )
    return {subject: keys[subject] for subject in subjects}


def sort_subjects(subjects: Iterable[str]) -> list[str]:
    """Sort ids; numbers, also those within a text, count as numbers: S2 comes before S10."""

    def key(subject: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", subject)  # text and digits in turn
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], subject

    return sorted(subjects, key=key)


def find_subject(subjects: Collection[str], wanted: str) -> str | None:
    """Return the id equal to `wanted`, or to the same number (`7` matches `07`); None if none."""
    number = int(wanted) if wanted.isdecimal() else None
    equal = {int(subject): subject for subject in subjects if subject.isdecimal()}
    return wanted if wanted in subjects else equal.get(number)


def ignored_members(file: h5py.File, pattern: str = NUMBER) -> list[str]:
    """Return the members that seem to be subjects but are not read because of their names.

    In Dataset A and files of your own, these are all other members of `/All_subjects`; in Dataset
    B, those whose name begins with "subject" and the arrays with three axes.
    """
    if "All_subjects" in file:
        return [
            key
            for key in file["All_subjects"]
            if not re.fullmatch(f"Subject_{pattern}", key) or key == f"Subject_{ALL}"
        ]
    return [
        key
        for key in file
        if not re.fullmatch(r"subject_\d+", key)
        and (key.lower().startswith("subject") or getattr(file.get(key), "ndim", None) == 3)
    ]


def describe_ignored(ignored: Sequence[str]) -> str:
    """Return a line that names ignored members and the names that subjects must have."""
    return (
        f"ignored {shorten(', '.join(ignored))}: a subject must be named Subject_<number> in "
        "Dataset A, subject_<number> in Dataset B and Subject_<id> in a file of your own"
    )


def _member(path: Path, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return `group[name]`."""
    if isinstance(group, h5py.Group):
        found = group.get(name)  # None also for a broken link
        if found is not None:
            return found
    raise InputError(f"{path}: {group.name}: {name} is missing; see docs/data.md for the layout")


def _table(
    path: Path, subject: str, activity: str, dataset: h5py.Dataset, positions: dict[str, int]
) -> Table:
    """Return a table after checking its type and shape."""
    axes, width = (2 if activity else 3), len(positions)
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{path}: {dataset.name}: is a group; it must be a dataset of samples")
    if dataset.dtype.kind not in "fiu":
        raise InputError(f"{path}: {dataset.name}: {dataset.dtype} values; store it as float32")
    if dataset.ndim == axes and dataset.shape[0] == width != dataset.shape[-1]:
        order = " ".join(map(str, range(axes, 0, -1)))
        raise InputError(
            f"{path}: {dataset.name}: shape {dataset.shape}: its axes are reversed, as MATLAB's "
            f"h5write stores them; write permute(x, [{order}]) in MATLAB, or transpose the dataset "
            f"in Python (numpy.transpose), so that its last axis has the {width} columns"
        )
    if dataset.ndim != axes or dataset.shape[-1] != width:
        raise InputError(
            f"{path}: {dataset.name}: shape {dataset.shape}; expected {axes} axes, the last one "
            f"with {width} columns"
        )
    return Table(path, subject, activity, dataset, positions)


def _trials(path: Path, dataset: h5py.Dataset, part: slice) -> np.ndarray:
    """Return the index of the trial of each sample in `part`."""
    starts = np.asarray(dataset.attrs.get("trial_starts", [0]))
    is_numbers = starts.ndim == 1 and starts.dtype.kind in "iu"
    starts = starts.astype(int) if is_numbers else starts  # unsigned differences wrap around
    if not is_numbers or (np.diff(starts) <= 0).any():
        raise InputError(
            f"{path}: {dataset.name}: the attribute `trial_starts` must contain increasing sample "
            "indices"
        )
    first, stop, _ = part.indices(len(dataset))
    lengths = np.diff(np.clip(starts, first, stop), prepend=first, append=stop)
    return np.repeat(np.arange(len(lengths)), lengths)


# From tables to a recording -----------------------------------------------------------------------


def number_stretches(is_usable: np.ndarray, trial: np.ndarray, first: int = 0) -> np.ndarray:
    """Number the stretches of usable samples within a trial, from `first`; -1 elsewhere."""
    starts = is_usable.copy()
    starts[1:] &= ~is_usable[:-1] | (np.diff(trial) != 0)
    return np.where(is_usable, np.cumsum(starts, dtype=np.int32) - 1 + first, -1)


def _read(
    file: h5py.File,
    path: Path,
    tables: list[Table],
    prepare: Prepare,
    has_trials: bool,
    pattern: str = NUMBER,
) -> Recording:
    """Read the usable samples of all tables.

    Raises:
        InputError: A column of a subject is all NaN, or the file has only one subject.
    """
    size = sum(math.prod(table.dataset.shape[:-1]) for table in tables)
    buffer = _Buffer(size)
    for table in tables:
        buffer.add(table, prepare)
    for (subject, column), count in buffer.value_counts.items():
        if count == 0 and buffer.sample_counts[subject]:
            raise InputError(
                f"{path}: subject {subject}: {column} is all NaN; "
                "add the values or remove the subject from the file"
            )
    ignored = ignored_members(file, pattern)
    if len(buffer.subjects) < 2:
        note = f" ({describe_ignored(ignored)})" if ignored else ""
        raise InputError(
            f"{path}: only one subject; add another, since training and testing need different "
            f"subjects{note}"
        )
    samples, labels = buffer.trimmed()
    return Recording(
        path=path,
        samples={name: torch.from_numpy(array) for name, array in samples.items()},
        subjects=list(buffer.subjects),
        activities=list(buffer.activities),
        **labels,
        dropped=buffer.dropped,
        has_trials=has_trials,
        is_synthetic=bool(file.attrs.get("synthetic", False)),
        ignored=ignored,
    )


class _Buffer:
    """Arrays for all samples of a file, filled from the front.

    They are allocated once, for the largest possible number of samples; the operating system
    provides memory for a page only when it is written to.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = 0
        self.stretches = 0
        self.samples: dict[str, np.ndarray] = {}
        self.labels = {
            name: np.empty(size, np.int32) for name in ("subject", "activity", "stretch")
        }
        self.subjects: dict[str, int] = {}  # name -> index
        self.activities: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.sample_counts: Counter[str] = Counter()  # by subject, including dropped samples
        self.value_counts: Counter[tuple[str, str]] = Counter()  # not NaN, by subject and column

    def add(self, table: Table, prepare: Prepare) -> None:
        """Append, block by block, the samples without NaN in any of the prepared arrays."""
        start = self.filled
        try:
            parts = [self._append(table, block, prepare) for block in table.blocks()]
        except InputError:
            self._append(table, table.read(), prepare)  # raises it with counts for the whole table
            raise
        is_kept, trial = map(np.concatenate, zip(*parts, strict=True))
        stretch = number_stretches(is_kept, trial, first=self.stretches)
        self.labels["stretch"][start : self.filled] = stretch[is_kept]
        self.stretches = max(self.stretches, int(stretch.max(initial=-1)) + 1)

    def _append(
        self, table: Table, block: Block, prepare: Prepare
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append a block; return a mask `(samples,)` of the kept samples, and their trials."""
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 gives NaN; x/0 is rejected below
            prepared = prepare(block.columns)
        is_kept = np.ones(len(block.trial), bool)
        for name, array in prepared.items():
            if not np.isfinite(array).all():
                if infinite := np.count_nonzero(np.isinf(array).any(axis=1)):
                    raise InputError(
                        f"{table.path}: {block.columns.place}: {name} divided by 0 in {infinite} "
                        "samples; add the body weight and height"
                    )
                is_kept &= ~np.isnan(array, order="F").any(axis=1)
        count = np.count_nonzero(is_kept)
        place = slice(self.filled, self.filled + count)
        for name, array in prepared.items():
            if name not in self.samples:
                self.samples[name] = np.empty((self.size, array.shape[1]), np.float32)
            usable = array if count == len(is_kept) else array.compress(is_kept, axis=0)
            self.samples[name][place] = usable
        for label, names, name in (
            ("subject", self.subjects, table.subject),
            ("activity", self.activities, table.activity),
        ):
            self.labels[label][place] = names.setdefault(name, len(names))
        self.filled = place.stop
        if count < len(is_kept):
            name = block.columns.place
            self.dropped[name] = self.dropped.get(name, 0) + len(is_kept) - count
        self.sample_counts[table.subject] += len(is_kept)
        for column, nan_count in block.columns.nan_counts.items():
            self.value_counts[table.subject, column] += len(is_kept) - nan_count
        return is_kept, block.trial

    def trimmed(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return samples and labels, truncated in place to the filled length."""
        for array in (*self.samples.values(), *self.labels.values()):
            array.resize((self.filled, *array.shape[1:]), refcheck=False)
        return self.samples, self.labels
