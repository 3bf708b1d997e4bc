"""The download of Dataset A: its trials, in folders or zips, and the MATLAB tables in its files.

mat-io reads numbers and text and executes nothing in a file: it uses neither `eval` nor `pickle`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from common.data import DATASET_A_ACTIVITIES, check_expansion
from common.files import InputError
from tools.matlab_file import check_expanded_size

_TRIAL_FILE = re.compile(
    r"(?:^|/)ab(?P<subject>\d+)/(?P<date>[^/]+)/(?P<activity>[^/]+)/(?P<sensor>[^/]+)"
    r"/(?P<trial>[^/]+)\.mat$"
)
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    InputError,  # a zip bomb
)
_ACTIVITIES = [activity.lower() for activity in DATASET_A_ACTIVITIES]


class UnusableError(Exception):
    """A file, trial or subject of the download cannot be used.

    Attributes:
        kind: the reason in a few words, by which skips are counted.
        detail: the place and what was found there.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)  # both, so that the exception can be pickled
        self.kind = kind
        self.detail = detail


class RawFile(NamedTuple):
    """A file of the download.

    Attributes:
        container: the file itself, or the zip that contains it.
        place: its name in messages.
        member: its name in the zip, or None.
    """

    container: Path
    place: str
    member: str | None = None

    @contextmanager
    def extracted(self) -> Iterator[Path]:
        """Yield a path to read from; a file in a zip is extracted to a temporary folder.

        Raises:
            UnusableError: The zip is damaged.
        """
        if self.member is None:
            yield self.container
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "member.mat"
            try:
                archive = _open_zip(self.container)
                member = archive.getinfo(self.member)
                check_expansion(self.place, member.file_size, member.compress_size)
                with archive.open(member) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except _DAMAGED as error:
                detail = f"{self.place}: {error}"
                raise UnusableError("truncated or damaged .mat", detail) from error
            yield path


@lru_cache(maxsize=4)  # the directory of a zip has thousands of entries: read it once per process
def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


class RawTrial(NamedTuple):
    """The files of one trial.

    Attributes:
        subject: number of the subject.
        activity: activity, spelled as in the HDF5 file.
        date: name of the folder of that date, in lower case.
        name: name of the trial, in lower case.
        files: file per sensor.
    """

    subject: int
    activity: str
    date: str
    name: str
    files: dict[str, RawFile]

    @property
    def place(self) -> str:
        """Return its name in messages."""
        return f"{format_subject(self.subject)} {self.date} {self.name}"


class Download(NamedTuple):
    """The contents of a download.

    Attributes:
        trials: trials per subject number, ordered by activity, date and name.
        subject_info: the file `SubjectInfo.mat`.
        problems: zips that cannot be searched.
    """

    trials: dict[int, list[RawTrial]]
    subject_info: RawFile
    problems: list[UnusableError]


class Person(NamedTuple):
    """Body mass and height of a subject."""

    mass_kg: float
    height_m: float


def format_subject(number: int) -> str:
    """Return the name of a subject in the download, such as AB06."""
    return f"AB{number:02d}"


def scan(root: Path) -> Download:
    """Find the trials in a folder, its subfolders and their zips, ignoring case.

    A file that exists both in a folder and in a zip is read from the folder.

    Raises:
        InputError: The folder does not exist, or has no trial or no `SubjectInfo.mat`.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; pass --raw the folder of the download")
    problems: list[UnusableError] = []
    trials: dict[tuple[int, int, str, str], RawTrial] = {}
    subject_info = None
    for name, file in _find_files(root.resolve(), problems):
        if name.endswith("/subjectinfo.mat"):
            subject_info = subject_info or file
        match = _TRIAL_FILE.search(name)
        if match is None or match["activity"] not in _ACTIVITIES:
            continue
        activity = _ACTIVITIES.index(match["activity"])
        key = (int(match["subject"]), activity, match["date"], match["trial"])
        trial = RawTrial(key[0], DATASET_A_ACTIVITIES[activity], *key[2:], files={})
        trials.setdefault(key, trial).files.setdefault(match["sensor"], file)
    if not trials:
        expected = "<subject>/<date>/<mode>/<sensor>/<trial>.mat, in folders or zips"
        raise InputError(f"{root}: contains no trial; pass --raw a folder with {expected}")
    if subject_info is None:
        raise InputError(
            f"{root}: no SubjectInfo.mat, which lists the mass and height of the subjects; "
            "copy it there from the top of the download"
        )
    by_subject: dict[int, list[RawTrial]] = {}
    for key in sorted(trials):
        by_subject.setdefault(key[0], []).append(trials[key])
    return Download(by_subject, subject_info, problems)


def _find_files(root: Path, problems: list[UnusableError]) -> Iterator[tuple[str, RawFile]]:
    """Yield the full name in lower case and the file; files in zips last."""
    paths = sorted(p for p in root.rglob("*") if not p.name.startswith(".") and p.is_file())
    for path in paths:
        if path.suffix.lower() == ".mat":
            yield path.as_posix().lower(), RawFile(path, str(path.relative_to(root)))
    for path in paths:
        if path.suffix.lower() == ".zip":
            yield from _find_members(root, path, problems)


def _find_members(
    root: Path, path: Path, problems: list[UnusableError]
) -> Iterator[tuple[str, RawFile]]:
    """Yield the members of a zip as if it had been unpacked into a folder of its name."""
    place = str(path.relative_to(root))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        problems.append(UnusableError("truncated or damaged zip", f"{place}: {error}"))
        return
    if any(member.filename.lower().endswith(".zip") for member in members):
        detail = f"{place}: unpack it; the zips inside can stay as they are"
        problems.append(UnusableError("zip of zips", detail))
    folder = path.with_suffix("").as_posix().lower()
    for member in sorted(members, key=lambda member: member.filename):
        name = member.filename
        if name.lower().endswith(".mat") and not name.rsplit("/", 1)[-1].startswith("."):
            yield f"{folder}/{name.lower()}", RawFile(path, f"{place}:{name}", name)


def read_table(file: RawFile) -> pd.DataFrame:
    """Read the MATLAB table `data` of a file.

    Raises:
        UnusableError: The file is damaged or holds no table.
        InputError: mat-io is not installed.
    """
    with file.extracted() as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mat-io, and of tables written in 2018; see _to_frame
        try:
            check_expanded_size(path)
            from matio import load_from_mat  # changes a setting of pandas

            variables = load_from_mat(str(path), variable_names=["data"])
        except ImportError as error:
            raise InputError(
                "mat-io, which reads MATLAB tables, is not installed; python -m pip install mat-io "
                "(Python 3.11 or newer)"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # arbitrary bytes can raise anything in a parser
            detail = f"{file.place}: {error or type(error).__name__}"
            raise UnusableError("truncated or damaged .mat", detail) from error
    if "data" not in variables:
        raise UnusableError("no MATLAB table", f"{file.place}: no variable `data`")
    return _to_frame(variables["data"], file.place)


def _to_frame(value: Any, place: str) -> pd.DataFrame:  # noqa: ANN401
    """Return a table; one written by MATLAB in 2018 comes as an object with its parts."""
    if isinstance(value, pd.DataFrame):
        return value
    parts = getattr(value, "properties", None)
    if not isinstance(parts, dict) or not {"varnames", "data"} <= parts.keys():
        raise UnusableError("no MATLAB table", f"{place}: {type(value).__name__}")
    try:
        names = [str(np.asarray(name).item()) for name in np.ravel(parts["varnames"])]
        columns = [np.ravel(column) for column in np.ravel(parts["data"])]
        return pd.DataFrame(dict(zip(names, columns, strict=True)))
    except (TypeError, ValueError) as error:
        raise UnusableError("no MATLAB table", f"{place}: {error}") from error


def to_numbers(table: pd.DataFrame, names: Sequence[str], place: str) -> np.ndarray:
    """Return the named columns as float64 `(n, len(names))`.

    Args:
        table: a table of the download.
        names: names of columns.
        place: name of the table in messages.

    Raises:
        UnusableError: A column is missing, not numeric, or contains infinity.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise UnusableError("column missing", f"{place}: no {', '.join(missing)}")
    for name in names:
        if table[name].dtype.kind not in "fiub":
            raise UnusableError("not numeric", f"{place}: {name} is {table[name].dtype}")
    values = table[list(names)].to_numpy(dtype=float)
    has_infinity = np.isinf(values).any(axis=0)
    if has_infinity.any():
        found = ", ".join(np.array(names)[has_infinity])
        raise UnusableError("infinite values", f"{place}: {found}")
    return values


def read_people(file: RawFile) -> dict[int, Person]:
    """Read `SubjectInfo.mat` and return the person per subject number.

    Raises:
        InputError: It cannot be read.
    """
    try:
        table = read_table(file)
        values = to_numbers(table, ("Weight", "Height"), file.place)
        if "Subject" not in table.columns:
            raise UnusableError("column missing", f"{file.place}: no Subject")
    except UnusableError as error:
        raise InputError(f"{error.kind}: {error.detail}; download SubjectInfo.mat again") from error
    people = {}
    for name, (mass_kg, height_m) in zip(table["Subject"], values, strict=True):
        number = str(np.asarray(name).item())[2:]  # the name, such as AB06, is in a cell
        if number.isdecimal():
            people[int(number)] = Person(float(mass_kg), float(height_m))
    return people


def check_person(person: Person | None, name: str) -> None:
    """Check that a person is known, with a mass in kg and a height in m.

    Raises:
        UnusableError: The person is unknown, or the units are implausible.
    """
    if person is None:
        raise UnusableError("unknown subject", f"{name}: not in SubjectInfo.mat")
    if not (30.0 <= person.mass_kg <= 200.0 and 1.2 <= person.height_m <= 2.3):
        found = f"weight {person.mass_kg:g}, height {person.height_m:g}"
        raise UnusableError("unknown unit", f"{name}: {found}, which should be in kg and m")
