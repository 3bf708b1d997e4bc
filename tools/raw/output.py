"""The finished file and the folder beside it, in which it grows subject by subject.

While a call works, every finished subject stands as a file of its own in `<file>.parts/`; at the
end they are put together, in numeric order, beside the output, which is replaced in one step. A
subject carries a fingerprint of its raw files and of the settings, and is taken over only by a call
that would make the same of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from common.columns import DATASET_A_COLUMNS

from common.files import InputError
from tools.raw import disk, signals
from tools.raw.matlab import Person
from tools.raw.subject import Subject
from tools.raw.tree import RawTrial
from tools.raw.trial import BODY_WEIGHT_M_S2

MADE_BY = "tools.prepare_dataset_a"
CHUNK_ROWS = 2048  # of 129 float32: 1 MB
_SETTINGS = {  # what else than the raw files decides the numbers; a change of method counts up
    "method": 1,
    "force_cutoff_hz": signals.FORCE_CUTOFF_HZ,
    "emg_band_hz": signals.EMG_BAND_HZ,
    "envelope_cutoff_hz": signals.ENVELOPE_CUTOFF_HZ,
    "alias_cutoff_hz": signals.ALIAS_CUTOFF_HZ,
    "body_weight_m_s2": BODY_WEIGHT_M_S2,
}


def fingerprint(person: Person, trials: Sequence[RawTrial]) -> str:
    """Return a digest of the settings, the person, and names, sizes and dates of the raw files."""
    files = [
        (trial.activity, trial.date, trial.name, sensor, file.stamp)
        for trial in trials
        for sensor, file in sorted(trial.files.items())
    ]
    text = json.dumps([_SETTINGS, person, files])
    return hashlib.sha256(text.encode()).hexdigest()


class Output:
    """An output file in the making.

    Args:
        path: The HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts = path.with_name(f"{path.name}.parts")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder of parts, so that two calls cannot work on one output.

        Raises:
            InputError: Another call holds it, or the folder cannot be written.
        """
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            lock = (self.parts / "lock").open("w")
        except OSError as error:
            raise InputError(f"{self.parts}: cannot be written ({error.strerror})") from error
        with lock:
            try:
                import fcntl  # not on Windows, where two calls at once go unnoticed

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:
                pass
            except OSError as error:
                raise InputError(
                    f"{self.path}: another call is making it; wait for it or choose another --out"
                ) from error
            for stale in self.parts.glob(".*.part"):  # of a call that was killed
                stale.unlink()
            try:
                yield
            finally:
                if [path.name for path in self.parts.glob("*")] == ["lock"]:
                    shutil.rmtree(self.parts)

    def check(self, subjects: Sequence[int]) -> None:
        """Check that replacing an existing file loses nothing.

        Raises:
            InputError: It was not made by this command, or has other subjects than will be made.
        """
        if not self.path.exists():
            return
        try:
            with h5py.File(self.path) as file:
                made_by, there = file.attrs.get("made_by"), list(file.get("All_subjects", ()))
        except OSError:
            made_by, there = None, []
        if made_by != MADE_BY:
            raise InputError(
                f"{self.path}: there already, and not made by this command; move it away or "
                "choose another --out"
            )
        lost = sorted(set(there) - {_key(number) for number in subjects})
        if lost:
            raise InputError(
                f"{self.path}: has {', '.join(lost)}, not asked for now or not in --raw any more; "
                "name them and put their raw files there, or choose another --out"
            )

    def home(self, number: int, fingerprint: str) -> Path | None:
        """Return the file that holds the finished subject of that fingerprint, if there is one."""
        for path in (self._part(number), self.path):
            if path.is_file() and _read_fingerprint(path, number) == fingerprint:
                return path
        return None

    def write_subject(self, subject: Subject, fingerprint: str) -> Path:
        """Write a finished subject, whole, into the folder of parts; return its file.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        path, key = self._part(subject.number), _key(subject.number)
        with disk.new_hdf5(path, f"AB{subject.number:02d}") as file:
            group = file.create_group(f"All_subjects/{key}")
            _fill(group, subject)
            group.attrs["fingerprint"] = fingerprint
        return path

    def assemble(self, homes: dict[int, Path]) -> None:
        """Put the subjects together, in numeric order, and take the folder of parts away.

        Nothing is written if the output holds all of them already.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        if set(homes.values()) != {self.path}:
            self._write_whole(homes)
        shutil.rmtree(self.parts)

    def _write_whole(self, homes: dict[int, Path]) -> None:
        whole = self.parts / "whole.h5"  # there, so that what a killed call leaves is cleared away
        with disk.new_hdf5(whole, "the whole file") as file:
            file.attrs["made_by"] = MADE_BY
            file.attrs["settings"] = json.dumps(_SETTINGS)
            file.attrs["columns"] = json.dumps(DATASET_A_COLUMNS)
            file.attrs["rate_hz"] = signals.RATE_HZ
            group = file.create_group("All_subjects")
            for number in sorted(homes):
                with h5py.File(homes[number]) as home:
                    home.copy(f"All_subjects/{_key(number)}", group)
        whole.replace(self.path)

    def _part(self, number: int) -> Path:
        return self.parts / f"{_key(number)}.h5"


def skipped_in(path: Path, number: int) -> dict[str, str]:
    """Return trial -> reason of the trials that were left out of a finished subject."""
    with h5py.File(path) as file:
        return json.loads(file[f"All_subjects/{_key(number)}"].attrs["skipped_trials"])


def trials_in(path: Path, number: int) -> int:
    """Return the number of trials of a finished subject."""
    with h5py.File(path) as file:
        group = file[f"All_subjects/{_key(number)}"]
        return sum(len(table.attrs["trial_starts"]) for table in group.values())


def _key(number: int) -> str:
    return f"Subject_{number}"


def _read_fingerprint(path: Path, number: int) -> str | None:
    try:
        with h5py.File(path) as file:
            return file[f"All_subjects/{_key(number)}"].attrs["fingerprint"]
    except (OSError, KeyError):
        return None


def _fill(group: h5py.Group, subject: Subject) -> None:
    group.attrs["mass_kg"], group.attrs["height_m"] = subject.person
    for quantity, counts in subject.found.items():  # JSON: value -> number of trials
        group.attrs[quantity] = json.dumps(counts, ensure_ascii=False)
    group.attrs["skipped_trials"] = json.dumps(subject.skipped)
    for name, activity in subject.activities.items():
        rows = len(activity.rows)
        table = group.create_dataset(
            name,
            data=activity.rows,
            chunks=(max(1, min(rows, CHUNK_ROWS)), len(DATASET_A_COLUMNS)),
            maxshape=(None, len(DATASET_A_COLUMNS)),  # else no rows cannot have chunks
            compression="gzip",
            compression_opts=1,
            shuffle=True,
            track_times=False,
        )
        table.attrs["trial_starts"] = np.array(activity.starts, dtype=np.int64)
        table.attrs["trial_names"] = json.dumps(activity.names)
