"""The HDF5 file of Dataset A, and the folder beside it that holds the subjects finished so far.

Every finished subject is written to a file of its own in `<file>.parts/`. At the end they are
copied, in numeric order, to a new file that replaces the output in one step. Each subject carries a
fingerprint of its raw files and of the settings, and is reused only if these are unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock, Timeout

from common.data import DATASET_A_ACTIVITIES, DATASET_A_COLUMNS, MUSCLES
from common.files import InputError, explain_write_errors, shorten, write_atomically
from tools.prepare_dataset_a.checks import RATE_HZ
from tools.prepare_dataset_a.download import Person, RawTrial, format_subject
from tools.prepare_dataset_a.plates import FORCE_CUTOFF_HZ
from tools.prepare_dataset_a.trial import EMG_BAND_HZ, ENVELOPE_CUTOFF_HZ, Converted
from tools.signals import ANTI_ALIASING_CUTOFF, BODY_WEIGHT_M_S2

_MADE_BY = "tools.prepare_dataset_a"
_CHUNK_SAMPLES = 2048  # 1 MB of 129 float32 columns
_ENVELOPES = [DATASET_A_COLUMNS.index(muscle) for muscle in MUSCLES]
_SETTINGS = {  # everything that determines the numbers besides the raw files
    "method": 1,  # increase it when the conversion changes
    "force_cutoff_hz": FORCE_CUTOFF_HZ,
    "emg_band_hz": EMG_BAND_HZ,
    "envelope_cutoff_hz": ENVELOPE_CUTOFF_HZ,
    "alias_cutoff_hz": ANTI_ALIASING_CUTOFF * RATE_HZ,
    "body_weight_m_s2": BODY_WEIGHT_M_S2,
}


def compute_fingerprint(person: Person, trials: Sequence[RawTrial]) -> str:
    """Return a digest of the settings, the person, and the raw files' names, sizes and dates."""
    files = [
        (trial.activity, trial.date, trial.name, sensor, file.stamp)
        for trial in trials
        for sensor, file in sorted(trial.files.items())
    ]
    text = json.dumps([_SETTINGS, person, files])
    return hashlib.sha256(text.encode()).hexdigest()


class Output:
    """The output of one call.

    Args:
        path: the HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts = path.with_name(f"{path.name}.parts")

    def check_replaceable(self, subjects: Sequence[int]) -> None:
        """Check that replacing an existing file by one with these subjects loses nothing.

        Raises:
            InputError: The file was not written by this command, or has further subjects.
        """
        if not self.path.exists():
            return
        try:
            with h5py.File(self.path) as file:
                made_by, existing = file.attrs.get("made_by"), list(file.get("All_subjects", ()))
        except OSError:
            made_by, existing = None, []
        if made_by != _MADE_BY:
            raise InputError(
                f"{self.path}: already exists and was not written by this command; move it away "
                "or choose another --out"
            )
        lost = sorted(set(existing) - set(map(_key, subjects)))
        if lost:
            raise InputError(
                f"{self.path}: also contains {', '.join(lost)}, not requested or no longer in "
                "--raw; request them and restore their raw files, or choose another --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder of parts against other calls; remove it if it stays empty.

        Raises:
            InputError: Another call holds the lock, or the folder cannot be written.
        """
        lock = FileLock(self.parts / "lock", timeout=0)
        with explain_write_errors(self.parts, "--out"):
            self.parts.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise InputError(
                    f"{self.path}: another call is writing it; wait for that or choose another "
                    "--out"
                ) from error
        try:
            for leftover in self.parts.glob(".*.part"):  # of a call that was killed
                leftover.unlink()
            yield
        finally:
            if [path.name for path in self.parts.glob("*")] == ["lock"]:
                shutil.rmtree(self.parts)
            lock.release()

    def find_subject(self, number: int, fingerprint: str) -> Path | None:
        """Return the file that has the subject with this fingerprint, or None."""
        for path in (self._part(number), self.path):
            try:
                with h5py.File(path) as file:
                    if file[f"All_subjects/{_key(number)}"].attrs["fingerprint"] == fingerprint:
                        return path
            except (OSError, KeyError):
                continue
        return None

    def write_subject(
        self,
        number: int,
        person: Person,
        trials: Sequence[Converted],
        skipped: dict[str, str],
        fingerprint: str,
    ) -> Path:
        """Write a subject to a file in the folder of parts and return the path.

        Args:
            number: number of the subject.
            person: body mass and height.
            trials: the converted trials; their EMG envelopes are normalized in place.
            skipped: the reason for each skipped trial.
            fingerprint: result of `compute_fingerprint`.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        _normalize_envelopes([trial.values for trial in trials])
        detected: dict[str, Counter[str]] = {}
        for trial in trials:
            for quantity, value in trial.detected.items():
                detected.setdefault(quantity, Counter())[value] += 1

        path = self._part(number)
        with _create_hdf5(path, format_subject(number)) as file:
            group = file.create_group(f"All_subjects/{_key(number)}")
            group.attrs["mass_kg"], group.attrs["height_m"] = person
            for quantity, counts in detected.items():  # JSON: number of trials per value
                text = json.dumps(dict(sorted(counts.items())), ensure_ascii=False)
                group.attrs[quantity] = text
            group.attrs["skipped_trials"] = json.dumps(skipped)
            for activity in DATASET_A_ACTIVITIES:
                _write_activity(group, activity, [t for t in trials if t.activity == activity])
            group.attrs["fingerprint"] = fingerprint
        return path

    def assemble(self, sources: dict[int, Path]) -> None:
        """Write the output from the files of its subjects and remove the folder of parts.

        Nothing is written if the output already has all subjects.

        Raises:
            InputError: The disk is full or cannot be written.
        """
        if set(sources.values()) != {self.path}:
            whole = self.parts / "whole.h5"  # in this folder, so that the next call cleans up
            with _create_hdf5(whole, "the complete file") as file:
                file.attrs["made_by"] = _MADE_BY
                file.attrs["settings"] = json.dumps(_SETTINGS)
                file.attrs["columns"] = json.dumps(DATASET_A_COLUMNS)
                file.attrs["rate_hz"] = RATE_HZ
                group = file.create_group("All_subjects")
                for number in sorted(sources):
                    with h5py.File(sources[number]) as source:
                        source.copy(f"All_subjects/{_key(number)}", group)
            whole.replace(self.path)
        shutil.rmtree(self.parts)

    def _part(self, number: int) -> Path:
        return self.parts / f"{_key(number)}.h5"


def count_trials(path: Path, number: int) -> tuple[int, Counter[str]]:
    """Return the number of trials of a finished subject, and of skipped ones per reason."""
    with h5py.File(path) as file:
        group = file[f"All_subjects/{_key(number)}"]
        used = sum(len(table.attrs["trial_starts"]) for table in group.values())
        return used, Counter(json.loads(group.attrs["skipped_trials"]).values())


def _key(number: int) -> str:
    return f"Subject_{number}"


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


class _ErrorKeepingFile(io.FileIO):
    """A file that keeps its first write error in `error` instead of raising it.

    HDF5 crashes the process if a write fails while it is closing a file.
    """

    error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view) and self.error is None:  # FileIO may write a part only
            try:
                written += super().write(view[written:])
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def _create_hdf5(path: Path, content: str) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that is renamed to `path` when it is complete.

    Raises:
        InputError: The disk is full or cannot be written; nothing is left behind.
    """
    try:
        with write_atomically(path) as part, _ErrorKeepingFile(part, "w+") as raw:
            try:
                with h5py.File(raw, "w") as file:
                    yield file
            finally:  # an error of HDF5 may be a consequence of this one
                if raw.error is not None:
                    raise raw.error
    except OSError as error:
        raise InputError(
            f"{path}: cannot write {content} ({error.strerror or shorten(error)}); free disk space "
            "and run the command again; finished subjects are kept"
        ) from error
