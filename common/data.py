"""Read an HDF5 file of Dataset A or B, or user-supplied data, into tensors by modality."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from common.files import InputError, read_problem, shorten

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DATASET_A_ACTIVITIES = ("Treadmill", "Levelground", "Ramp", "Stair")
IMU_SENSORS = ("foot", "shank", "thigh", "trunk")  # right side
MUSCLES = (
    *("gastrocmed", "tibialisanterior", "soleus", "vastusmedialis", "vastuslateralis"),
    *("rectusfemoris", "bicepsfemoris", "semitendinosus", "gracilis", "gluteusmedius"),
    "rightexternaloblique",
)
DATASET_A_WIDTH = 129  # columns
DATASET_A_POSITIONS = {  # of the inputs and targets, in a file that does not name its columns
    **{
        f"{sensor}_{kind}_{axis}": 6 * i + 3 * j + k
        for i, sensor in enumerate(IMU_SENSORS)
        for j, kind in enumerate(("Accel", "Gyro"))
        for k, axis in enumerate("XYZ")
    },
    **{"hip_flexion_r_moment": 53, "hip_adduction_r_moment": 54},
    **{"knee_angle_r_moment": 62, "ankle_angle_r_moment": 64},
    **{"right_vx": 70, "right_vy": 71, "right_vz": 72},
    **{muscle: 95 + i for i, muscle in enumerate(MUSCLES)},  # processed EMG
}
BODY_PREFIX = "body "  # names of columns with a subject's constants in Dataset B start with it
MATLAB_5 = b"MATLAB 5.0 MAT-file"  # first bytes of a .mat file that is not HDF5
NUMBER = r"\d+"  # id of a subject of Dataset A or B
NAME = r"\w(?:[\w .+-]*\w)?"  # a user-supplied id or activity, which becomes part of file names
LEAST_BYTES, MOST_EXPANSION = 2**26, 200  # in memory; measured data are compressed to 1/20 at most
LARGEST_ATTRIBUTE = 2**23  # bytes
ALL = "all"  # a reserved name: all subjects, or all activities

Groups = Mapping[str, Sequence[str]]
"""Name of a group of columns (a modality, `"targets"`) -> names of its columns, in order."""

Convert = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Computes modalities and `"targets"`, `(samples, C)` each, from groups of columns."""


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


def read_dataset_a(path: Path, columns: Groups) -> Recording:
    """Read Dataset A: `/All_subjects/Subject_<id>/<activity>`, each `(samples, 129)`, at 200 Hz.

    The attribute `columns` of the file names its columns; without it, the file must have the
    129 columns of the paper's file, in that order. The attribute `trial_starts` of an activity
    (sample indices) is used if it exists.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        tables = dataset_a_tables(path, file)
        has_trials = all("trial_starts" in table.dataset.attrs for table in tables)
        return _read(file, path, tables, columns, None, has_trials, NUMBER)


def read_dataset_b(path: Path, columns: Groups, convert: Convert) -> Recording:
    """Read Dataset B: `/subject_<id>`, each `(steps, 152, 256)`, at 100 Hz.

    The attribute `columns` of the file names the columns. A step ends with its last sample that has
    a nonzero column; the rest is padding. Columns named `body ...` do not count if they are
    constant in the step, because some files repeat the subject's weight and height in the padding.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        return _read(file, path, dataset_b_tables(path, file), columns, convert, True, NUMBER)


def read_trials(
    path: Path, columns: Groups, rate_hz: float, convert: Convert | None = None
) -> Recording:
    """Read user-supplied data: `/All_subjects/Subject_<id>/<activity>`, each `(samples, columns)`.

    Ids and activities are text. The attribute `columns` of the file names its columns, and the
    attribute `trial_starts` of an activity (sample indices) says where its trials start.

    Args:
        path: the file; docs/your_own_data.md describes how to write it.
        columns: the columns to read.
        rate_hz: sampling rate that the script reads; the attribute `rate_hz` of the file, if it
            exists, must be the same.
        convert: computes modalities and targets from the columns, if they are not the same.

    Raises:
        InputError: The file does not have this layout; the message says where, and how to fix it.
    """
    with open_hdf5(path) as file:
        file_hz = file.attrs.get("rate_hz", rate_hz)
        if file_hz != rate_hz:
            raise InputError(
                f"{path}: recorded at {file_hz:g} Hz, but RATE_HZ of the script is {rate_hz:g}; "
                "resample the data, or change RATE_HZ"
            )
        return _read(file, path, trial_tables(path, file), columns, convert, True, NAME)


# Tables -------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """An HDF5 dataset with samples of one subject.

    Attributes:
        subject: subject id.
        activity: name of the activity; empty in Dataset B.
        dataset: `(samples, columns)` in Dataset A, `(steps, samples, columns)` in Dataset B.
        positions: column name -> position.
    """

    subject: str
    activity: str
    dataset: h5py.Dataset
    positions: dict[str, int]

    def read(
        self, columns: Groups, fill_missing: bool = False
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Read groups of columns, without the padding of Dataset B.

        Returns:
            Group -> `(samples, C)` float32, and the index of each sample's trial (A) or step (B),
            `(samples,)`.

        Raises:
            InputError: The table is damaged, has infinite values, lacks a column, or its attribute
                `trial_starts` cannot be used.
        """
        try:
            values = self.dataset[()]
        except (OSError, RuntimeError) as error:
            raise _error(self.dataset, f"damaged ({error}); copy the file again") from error
        if values.ndim == 2:
            trial = _trials(self.dataset)
        else:
            body = [i for name, i in self.positions.items() if name.startswith(BODY_PREFIX)]
            is_valid = samples_before_padding(values, body)
            trial = np.repeat(np.arange(len(values)), np.count_nonzero(is_valid, axis=1))
            values = values[is_valid]
        place = _place(self.dataset)
        return select_columns(values, self.positions, columns, place, fill_missing), trial


def select_columns(
    values: np.ndarray,
    positions: Mapping[str, int],
    columns: Groups,
    place: str,
    fill_missing: bool = False,
) -> dict[str, np.ndarray]:
    """Return group -> `(samples, C)` float32 from a table `(samples, width)`.

    Args:
        values: the table.
        positions: column name -> position in the table.
        columns: the columns to return, by group.
        place: file and dataset, for errors.
        fill_missing: whether a missing column is returned as NaN instead of raising an error.

    Raises:
        InputError: A column is missing or has infinite values.
    """
    groups = {}
    for group, names in columns.items():
        missing = [name for name in names if name not in positions]
        if missing and not fill_missing:
            raise InputError(
                f"{place}: no column {', '.join(missing)}; the attribute `columns` must name every "
                "column that the script reads"
            )
        selected = values.take([positions.get(name, 0) for name in names], axis=1)
        with np.errstate(over="ignore"):  # overflow gives infinity, which is rejected below
            selected = selected.astype(np.float32, copy=False)
        selected[:, [name in missing for name in names]] = np.nan
        if not np.isfinite(selected).all() and np.isinf(selected).any():
            infinite = np.isinf(selected).sum(axis=0)
            counts = [f"{n} in {name}" for name, n in zip(names, infinite, strict=True) if n]
            raise InputError(
                f"{place}: infinite values: {', '.join(counts)}; replace them with the measured "
                "values, or with NaN to have these samples dropped"
            )
        groups[group] = selected
    return groups


def dataset_a_tables(path: Path, file: h5py.File, all_activities: bool = True) -> list[Table]:
    """Return the activities of all subjects, in numeric order of the subjects.

    Args:
        path: the file.
        file: the open file.
        all_activities: whether every subject must have every activity, as for training.

    Raises:
        InputError: The file does not have the layout of Dataset A.
    """
    is_named = "columns" in file.attrs
    positions = _positions(path, file) if is_named else DATASET_A_POSITIONS
    width = len(positions) if is_named else DATASET_A_WIDTH
    return [
        _table(subject, activity, _member(group, activity), positions, width)
        for subject, group in _subjects(_member(file, "All_subjects"), "Subject_")
        for activity in DATASET_A_ACTIVITIES
        if all_activities or activity in group
    ]


def trial_tables(path: Path, file: h5py.File) -> list[Table]:
    """Return the activities of all subjects of user-supplied data, sorted by subject.

    Raises:
        InputError: The file does not have the layout that `read_trials` describes.
    """
    positions = _positions(path, file)
    tables = []
    for subject, group in _subjects(_member(file, "All_subjects"), "Subject_", NAME):
        if not isinstance(group, h5py.Group) or not len(group):
            raise _error(group, "no activities; add a dataset for each")
        for activity in group:
            dataset = _member(group, activity)
            tables.append(_table(subject, activity, dataset, positions, len(positions)))
            if activity == ALL:
                raise _error(dataset, "a reserved name; rename it")
            if "trial_starts" not in dataset.attrs:
                raise _error(
                    dataset,
                    "no attribute `trial_starts`; add the indices of the samples at which its "
                    "trials start, [0] if there is one trial",
                )
    return tables


def dataset_b_tables(path: Path, file: h5py.File) -> list[Table]:
    """Return the steps of all subjects, in numeric order of the subjects.

    Raises:
        InputError: The file does not have the layout of Dataset B.
    """
    positions = _positions(path, file)
    return [
        _table(subject, "", steps, positions, len(positions))
        for subject, steps in _subjects(file["/"], "subject_")
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


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading, after checking all of its content.

    Raises:
        InputError: The file does not exist, is not an HDF5 file, is truncated, would read another
            file, or declares far more than it stores.
    """
    problem = read_problem(path)
    if problem:
        raise InputError(f"{path}: {problem}; pass an HDF5 file with --data, or use --sample")
    try:
        file = h5py.File(path)
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; change the file's permissions") from error
    except OSError as error:
        with path.open("rb") as raw:
            is_matlab = raw.read(len(MATLAB_5)) == MATLAB_5
        problem = "truncated" if "truncated" in str(error) else "not an HDF5 file"
        problem += "; download or copy the file again"
        if is_matlab:
            problem = (
                "a MATLAB 5.0 file (.mat before version 7.3), not HDF5; write the data with "
                "h5write, or save them with -v7.3, in the layout of docs/data.md"
            )
        raise InputError(f"{path}: {problem}") from error
    with file:
        try:
            _check_content(path, file)
        except (KeyError, OSError, OverflowError, RuntimeError, TypeError) as error:
            problem = f"damaged ({shorten(error)})"
            raise InputError(f"{path}: {problem}; download or copy the file again") from error
        yield file


def check_expansion(place: object, needed: int, stored: int) -> None:
    """Check that content needs no more memory than measured data of that size on disk can need.

    Raises:
        InputError: It does.
    """
    if needed > LEAST_BYTES + MOST_EXPANSION * stored:
        raise InputError(
            f"{place}: needs at least {needed:,} bytes of memory, but has {stored:,} in the file; "
            "damaged, or not measured data"
        )


def _check_content(path: Path, file: h5py.File) -> None:
    """Check every object of a file, so that reading it opens no other file and fits into memory."""
    found, visited, soft_links, total = [file["/"]], set(), [], 0
    while found:
        item = found.pop()
        if isinstance(item, h5py.Datatype) or item.id in visited:
            continue
        visited.add(item.id)
        for name in item.attrs:
            attribute = item.attrs.get_id(name)
            size = max(attribute.get_storage_size(), math.prod(attribute.shape or ()))
            if size > LARGEST_ATTRIBUTE:
                problem = f"attribute {shorten(name, 60)} of {size:,} bytes"
                raise _error(item, f"{problem}; remove it, or store it as a dataset")
        if isinstance(item, h5py.Dataset):
            layout = item.id.get_create_plist()
            if layout.get_external_count():
                raise _error(item, "stored in another file; copy the data into this file")
            if layout.get_layout() == h5py.h5d.VIRTUAL:
                raise _error(item, "a virtual dataset; copy the data into this file")
            for shape in (item.chunks, item.shape):  # a chunk is read as a whole
                needed = item.dtype.itemsize * math.prod(shape or ())
                check_expansion(_place(item), needed, item.id.get_storage_size())
            total += needed
            check_expansion(path, total, path.stat().st_size)
            continue
        for name in item:
            link = item.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _error(item, "links to another file; copy the data into this file", name)
            if isinstance(link, h5py.SoftLink):
                soft_links.append((item, name))
            else:
                found.append(item[name])
    for group, name in soft_links:  # now that no link leads out of the file
        try:
            group.get(name)
        except RuntimeError as error:
            raise _error(group, "its links form a loop; remove it", name) from error


def _place(item: h5py.Group | h5py.Dataset, member: str = "") -> str:
    """Return file and name of an HDF5 object, or of a member of a group, for errors."""
    name = f"{item.name.rstrip('/')}/{member}" if member else item.name
    return f"{item.file.filename}: {shorten(name)}"


def _error(item: h5py.Group | h5py.Dataset, problem: str, member: str = "") -> InputError:
    return InputError(f"{_place(item, member)}: {problem}")


def _positions(path: Path, file: h5py.File) -> dict[str, int]:
    """Return column name -> position from `columns`, a JSON list or an array of strings."""
    if "columns" not in file.attrs:
        raise InputError(f"{path}: no attribute `columns` (a JSON list of names); add it")
    stored = file.attrs["columns"]
    try:
        if isinstance(stored, np.ndarray) and stored.size > 1 and stored.dtype.kind in "OSU":
            texts = [text.decode() if isinstance(text, bytes) else text for text in stored.flat]
            names = [text.strip() for text in texts]  # fixed-length strings may end with blanks
        else:
            names = [str(name) for name in json.loads(stored)]
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the attribute `columns` must be a JSON list of names or an array of strings"
        ) from error
    positions = {name: i for i, name in enumerate(names)}
    if len(positions) < len(names):
        twice = next(name for i, name in enumerate(names) if positions[name] != i)
        raise InputError(f"{path}: the attribute `columns` names {twice} twice; rename one")
    return positions


def _subjects(
    group: h5py.Group | h5py.Dataset, prefix: str, pattern: str = NUMBER
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yield id and member for every member named `<prefix><id>`, sorted by id."""
    if not isinstance(group, h5py.Group):
        raise _error(group, "is a dataset; it must be a group of subjects")
    matches = [re.fullmatch(f"{prefix}(?!{ALL}$)({pattern})", key) for key in group]
    keys = {match[1]: match[0] for match in matches if match}
    if not keys:
        members = f"; it contains {shorten(', '.join(group), 100)}" if len(group) else ""
        wanted = f"{prefix} followed by {'a number' if pattern == NUMBER else 'an id'}"
        raise _error(group, f"no subjects found; their names must be {wanted}{members}")
    subjects = sort_subjects(keys)
    for first, second in pairwise(subjects):
        if pattern == NUMBER and int(first) == int(second):
            both = f"{keys[first]} and {keys[second]}"
            raise _error(group, f"{both} have the same number; rename one of them")
    for subject in subjects:
        yield subject, _member(group, keys[subject])


def sort_subjects(subjects: Iterable[str]) -> list[str]:
    """Sort ids; numbers, also those within a text, count as numbers: S2 comes before S10."""

    def key(subject: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", subject)  # text and digits in turn
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], subject

    return sorted(subjects, key=key)


def find_subject(subjects: Collection[str], wanted: str) -> str | None:
    """Return the id equal to `wanted`, or to the same number (`7` matches `07`); None if none."""
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 20 else None
    equal = {int(subject): subject for subject in subjects if subject.isdecimal()}
    return wanted if wanted in subjects else equal.get(number)


def ignored_members(file: h5py.File, pattern: str = NUMBER) -> list[str]:
    """Return the members that seem to be subjects but are not read because of their names.

    In Dataset A and user-supplied data, these are all other members of `/All_subjects`; in Dataset
    B, those whose name begins with "subject" and the arrays with three axes.
    """
    if "All_subjects" in file:
        wanted = f"Subject_(?!{ALL}$){pattern}"
        return [name for name in file["All_subjects"] if not re.fullmatch(wanted, name)]
    others = [name for name in file if not re.fullmatch(f"subject_{pattern}", name)]
    return [
        name
        for name in others
        if name.lower().startswith("subject") or getattr(file.get(name), "ndim", None) == 3
    ]


def describe_ignored(ignored: Sequence[str]) -> str:
    """Return a line about ignored members and the names that subjects must have."""
    return (
        f"ignored {shorten(', '.join(ignored))}: a subject must be named Subject_<number> in "
        "Dataset A, subject_<number> in Dataset B and Subject_<id> in user-supplied data"
    )


def _member(group: h5py.Group | h5py.Dataset, name: str) -> h5py.Group | h5py.Dataset:
    """Return `group[name]`."""
    found = group.get(name) if isinstance(group, h5py.Group) else None  # also for a broken link
    if found is None:
        raise _error(group, f"{name} is missing; see docs/data.md for the layout")
    return found


def _table(
    subject: str, activity: str, dataset: h5py.Dataset, positions: dict[str, int], width: int
) -> Table:
    """Return a table after checking its type and shape."""
    axes = 2 if activity else 3
    if not isinstance(dataset, h5py.Dataset):
        raise _error(dataset, "expected a dataset of samples, found a group")
    if dataset.dtype.kind not in "fiu":
        raise _error(dataset, f"{dataset.dtype} values; store it as float32")
    if dataset.ndim == axes and dataset.shape[0] == width != dataset.shape[-1]:
        order = " ".join(map(str, range(axes, 0, -1)))
        raise _error(
            dataset,
            f"shape {dataset.shape}: its axes are reversed, as MATLAB's h5write stores them; write "
            f"permute(x, [{order}]) in MATLAB, or transpose the dataset in Python "
            f"(numpy.transpose), so that its last axis has the {width} columns",
        )
    if dataset.ndim != axes or dataset.shape[-1] != width:
        expected = f"expected {axes} axes, the last one with {width} columns"
        raise _error(dataset, f"shape {dataset.shape}; {expected}")
    return Table(subject, activity, dataset, positions)


def _trials(dataset: h5py.Dataset) -> np.ndarray:
    """Return the index of the trial of each sample."""
    starts = np.asarray(dataset.attrs.get("trial_starts", [0]))
    is_numbers = starts.ndim == 1 and starts.dtype.kind in "iu"
    if not is_numbers or (np.diff(starts.astype(int)) <= 0).any():  # unsigned ones wrap around
        raise _error(dataset, "the attribute `trial_starts` must contain increasing sample indices")
    return np.searchsorted(starts, np.arange(len(dataset)), side="right")


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
    columns: Groups,
    convert: Convert | None,
    has_trials: bool,
    pattern: str,
) -> Recording:
    """Read the usable samples of all tables, one table at a time."""
    subjects = list(dict.fromkeys(table.subject for table in tables))
    ignored = ignored_members(file, pattern)
    if len(subjects) < 2:
        note = f" ({describe_ignored(ignored)})" if ignored else ""
        raise InputError(
            f"{path}: only one subject; add another, since training and testing need different "
            f"subjects{note}"
        )
    activities = list(dict.fromkeys(table.activity for table in tables))
    samples: dict[str, list[np.ndarray]] = {}
    stretches: list[np.ndarray] = []
    dropped: dict[str, int] = {}
    empty: dict[str, list[str]] = {}  # subject -> columns that are NaN in all of its tables
    first = 0
    for table in tables:
        groups, trial = table.read(columns)
        if len(trial):
            names = _empty_columns(groups, columns)
            empty[table.subject] = [n for n in empty.get(table.subject, names) if n in names]
        converted = _convert(groups, convert, _place(table.dataset))
        is_kept = np.ones(len(trial), bool)
        for values in converted.values():
            if not np.isfinite(values).all():
                is_kept &= ~np.isnan(values).any(axis=1)
        stretch = number_stretches(is_kept, trial, first)[is_kept]
        first = max(first, int(stretch.max(initial=-1)) + 1)
        stretches.append(stretch.astype(np.int32))
        for name, values in converted.items():
            samples.setdefault(name, []).append(values if is_kept.all() else values[is_kept])
        if len(stretch) < len(trial):
            dropped[table.dataset.name] = len(trial) - len(stretch)
    for subject, names in empty.items():
        if names:
            raise InputError(
                f"{path}: subject {subject}: {names[0]} is all NaN; add the values or remove the "
                "subject from the file"
            )
    import torch  # slow to import, and not needed to run a network live

    counts = [len(stretch) for stretch in stretches]
    subject = np.array([subjects.index(table.subject) for table in tables], np.int32)
    activity = np.array([activities.index(table.activity) for table in tables], np.int32)
    return Recording(
        path=path,
        samples={name: torch.from_numpy(_join(parts)) for name, parts in samples.items()},
        subjects=subjects,
        activities=activities,
        subject=subject.repeat(counts),
        activity=activity.repeat(counts),
        stretch=_join(stretches),
        dropped=dropped,
        has_trials=has_trials,
        is_synthetic=bool(file.attrs.get("synthetic", False)),
        ignored=ignored,
    )


def _empty_columns(groups: dict[str, np.ndarray], columns: Groups) -> list[str]:
    """Return the names of the columns that are NaN in every sample."""
    names = []
    for group, values in groups.items():
        if not np.isfinite(values).all():
            names += [columns[group][i] for i in np.flatnonzero(np.isnan(values).all(axis=0))]
    return names


def _convert(
    groups: dict[str, np.ndarray], convert: Convert | None, place: str
) -> dict[str, np.ndarray]:
    """Return the modalities and targets; reject infinite values, which come from division by 0."""
    if convert is None:
        return groups
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 gives NaN, and x/0 infinity
        converted = convert(groups)
    for name, values in converted.items():
        if not np.isfinite(values).all() and np.isinf(values).any():
            infinite = np.count_nonzero(np.isinf(values).any(axis=1))
            raise InputError(
                f"{place}: {name} divided by 0 in {infinite} samples; add the body weight and "
                "height"
            )
    return converted


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays; release them, so that memory holds at most one group twice."""
    joined = np.concatenate(parts)
    parts.clear()
    return joined
