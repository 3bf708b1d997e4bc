"""The files that the command writes: one per subject, which are then copied into the HDF5 file."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from common.data import DATASET_A_ACTIVITIES, MUSCLES
from common.files import InputError
from tools.dataset_a import DATASET_A_COLUMNS
from tools.output import check_writable, explain_write_errors, is_made_by
from tools.prepare_dataset_a.checks import RATE_HZ
from tools.prepare_dataset_a.download import Person, RawTrial
from tools.prepare_dataset_a.trial import Converted

_MADE_BY = "tools.prepare_dataset_a"
_CHUNK_SAMPLES = 2048  # 1 MB of 129 float32 columns
_ENVELOPES = [DATASET_A_COLUMNS.index(muscle) for muscle in MUSCLES]


def subject_key(number: int) -> str:
    """Return the name of a subject in the HDF5 file, such as Subject_7."""
    return f"Subject_{number}"


def check_replaceable(path: Path, subjects: Sequence[int], inputs: Iterable[Path]) -> None:
    """Check that no data are lost if an existing file is replaced with one of these subjects.

    Raises:
        InputError: The file is an input, was not written by this command, or has further subjects.
    """
    check_writable(path, inputs, partial(is_made_by, command=_MADE_BY))
    if not path.exists():
        return
    with h5py.File(path) as file:
        existing = list(file.get("All_subjects", ()))
    lost = sorted(set(existing) - set(map(subject_key, subjects)))
    if lost:
        raise InputError(
            f"{path}: also contains {', '.join(lost)}, not requested or no longer in --raw; "
            "request them and restore their raw files, or choose another --out"
        )


def is_finished(path: Path, trials: Sequence[RawTrial]) -> bool:
    """Return whether a subject's file exists and is newer than its raw files."""
    raw_files = {file.container for trial in trials for file in trial.files.values()}
    return h5py.is_hdf5(path) and path.stat().st_mtime > max(f.stat().st_ctime for f in raw_files)


def write_subject(
    path: Path,
    number: int,
    person: Person,
    trials: Sequence[Converted],
    skipped: Mapping[str, str],
) -> None:
    """Write the file of one subject.

    Args:
        path: the file.
        number: number of the subject.
        person: body mass and height.
        trials: the converted trials; their EMG envelopes are normalized in place.
        skipped: the reason for each skipped trial.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    _normalize_envelopes([trial.values for trial in trials])
    detected: dict[str, Counter[str]] = {}
    for trial in trials:
        for quantity, value in trial.detected.items():
            detected.setdefault(quantity, Counter())[value] += 1
    with _create_hdf5(path, sum(trial.values.nbytes for trial in trials)) as file:
        group = file.create_group(f"All_subjects/{subject_key(number)}")
        group.attrs["mass_kg"], group.attrs["height_m"] = person
        for quantity, counts in detected.items():  # JSON: number of trials per value
            group.attrs[quantity] = json.dumps(dict(sorted(counts.items())), ensure_ascii=False)
        group.attrs["skipped_trials"] = json.dumps(skipped)
        for activity in DATASET_A_ACTIVITIES:
            _write_activity(group, activity, [t for t in trials if t.activity == activity])


def count_trials(path: Path, number: int) -> tuple[int, Counter[str]]:
    """Return the number of trials in the file of a subject, and of skipped ones per reason."""
    with h5py.File(path) as file:
        group = file[f"All_subjects/{subject_key(number)}"]
        used = sum(len(table.attrs["trial_starts"]) for table in group.values())
        return used, Counter(json.loads(group.attrs["skipped_trials"]).values())


def join_subjects(path: Path, subject_files: Mapping[int, Path]) -> None:
    """Copy the files of all subjects into one HDF5 file, in numeric order, and remove them.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    folder = next(iter(subject_files.values())).parent
    whole = folder / path.name  # in this folder, so that a killed call leaves nothing elsewhere
    size = sum(source.stat().st_size for source in subject_files.values())
    with _create_hdf5(whole, size) as file:
        file.attrs["made_by"] = _MADE_BY
        file.attrs["columns"] = json.dumps(DATASET_A_COLUMNS)
        file.attrs["rate_hz"] = RATE_HZ
        group = file.create_group("All_subjects")
        for number in sorted(subject_files):
            with h5py.File(subject_files[number]) as source:
                source.copy(f"All_subjects/{subject_key(number)}", group)
    whole.replace(path)
    for source in subject_files.values():
        source.unlink(missing_ok=True)
    with suppress(OSError):  # it is the user's if it has other files
        folder.rmdir()


@contextmanager
def _create_hdf5(path: Path, size: int) -> Iterator[h5py.File]:
    """Yield a new HDF5 file of about `size` bytes, which is renamed to `path` once complete."""
    unfinished = path.with_name("unfinished.h5")
    with explain_write_errors(path, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free  # HDF5 may crash when the disk is full
        if size > free:
            raise InputError(
                f"{path}: needs up to {size / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free; "
                "free disk space and run the command again, which keeps the finished subjects"
            )
        with h5py.File(unfinished, "w") as file:
            yield file
        unfinished.replace(path)


def _normalize_envelopes(trials: Sequence[np.ndarray]) -> None:
    """Divide each EMG envelope by its maximum over all trials; a dead channel stays 0."""
    largest = np.zeros(len(_ENVELOPES), np.float32)
    for values in trials:
        largest = np.fmax(largest, np.fmax.reduce(values[:, _ENVELOPES], axis=0))
    largest[largest == 0] = 1
    for values in trials:
        values[:, _ENVELOPES] /= largest


def _write_activity(group: h5py.Group, activity: str, trials: Sequence[Converted]) -> None:
    empty = np.empty((0, len(DATASET_A_COLUMNS)), np.float32)
    values = np.concatenate([empty, *(trial.values for trial in trials)])
    table = group.create_dataset(
        activity,
        data=values,
        chunks=(max(1, min(len(values), _CHUNK_SAMPLES)), len(DATASET_A_COLUMNS)),
        maxshape=(None, len(DATASET_A_COLUMNS)),  # a fixed size of 0 does not allow chunks
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        track_times=False,
    )
    lengths = [len(trial.values) for trial in trials]
    table.attrs["trial_starts"] = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
    table.attrs["trial_names"] = json.dumps([trial.name for trial in trials])
