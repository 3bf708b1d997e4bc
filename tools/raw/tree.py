"""Which files of the download are there: folders, zips, or both."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from common.columns import DATASET_A_ACTIVITIES

from common.files import InputError
from tools.raw import UnusableError

_FILE = re.compile(
    r"(?:^|/)ab(?P<subject>\d+)/(?P<date>[^/]+)/(?P<activity>[^/]+)/(?P<sensor>[^/]+)"
    r"/(?P<trial>[^/]+)\.mat$"
)
_ACTIVITIES = {activity.lower(): activity for activity in DATASET_A_ACTIVITIES}
_PEOPLE = "subjectinfo.mat"


class RawFile(NamedTuple):
    """A file on the disk or in a zip.

    Args:
        container: The file, or the zip that holds it. member: Its name in the zip, or None.
        place: Its name for people. stamp: Size and time (disk) or checksum (zip): another stamp
            is another file.
    """

    container: Path
    member: str | None
    place: str
    stamp: tuple[int, int]

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give a path to read from; a member of a zip stands there for as long as it is read."""
        if self.member is None:
            yield self.container
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "member.mat"
            try:
                path.write_bytes(_archive(self.container).read(self.member))
            except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
                detail = f"{self.place}: {error}"
                raise UnusableError("truncated or damaged .mat", detail) from error
            yield path


@lru_cache(maxsize=4)  # of each process: a directory of thousands of members is read once
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class RawTrial:
    """The files of one trial.

    Args:
        subject: Number. activity: As in the finished file. date: Folder. name: In small letters.
        files: Sensor, in small letters, to its file.
    """

    subject: int
    activity: str
    date: str
    name: str
    files: dict[str, RawFile] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its name for people."""
        return f"AB{self.subject:02d} {self.date} {self.name}"


class Tree(NamedTuple):
    """What is there.

    Args:
        trials: Subject number to its trials, in the order of activity, date and name.
        people: `SubjectInfo.mat`. problems: Containers that could not be looked into.
    """

    trials: dict[int, list[RawTrial]]
    people: RawFile
    problems: list[UnusableError]


def scan(root: Path) -> Tree:
    """Look through a folder, its subfolders and the zips in them; capitals do not matter.

    A file that is there twice is taken from the folder rather than from the zip.

    Raises:
        InputError: There is no such folder, no trial in it, or no `SubjectInfo.mat`.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give --raw the folder of the download")
    problems: list[UnusableError] = []
    trials: dict[tuple[int, str, str, str], RawTrial] = {}
    people = None
    for name, file in _files(root.resolve(), problems):
        if name.endswith(f"/{_PEOPLE}"):
            people = people or file
        match = _FILE.search(name)
        if match is None or match["activity"] not in _ACTIVITIES:
            continue
        key = (int(match["subject"]), match["activity"], match["date"], match["trial"])
        if key not in trials:
            trials[key] = RawTrial(key[0], _ACTIVITIES[key[1]], key[2], key[3])
        trials[key].files.setdefault(match["sensor"], file)
    if not trials:
        looked_for = "<subject>/<date>/<mode>/<sensor>/<trial>.mat, in folders or zips"
        raise InputError(f"{root}: no trial in it; it must hold {looked_for}")
    if people is None:
        raise InputError(
            f"{root}: no SubjectInfo.mat, which has the subjects' mass and height; "
            "copy it there from the top of the download"
        )
    order = [activity.lower() for activity in DATASET_A_ACTIVITIES]
    by_subject: dict[int, list[RawTrial]] = {}
    for key in sorted(trials, key=lambda key: (key[0], order.index(key[1]), *key[2:])):
        by_subject.setdefault(key[0], []).append(trials[key])
    return Tree(by_subject, people, problems)


def _files(root: Path, problems: list[UnusableError]) -> Iterator[tuple[str, RawFile]]:
    """Give every file with its whole name in small letters; those in zips last."""
    paths = sorted(path for path in root.rglob("*") if not path.name.startswith("."))
    for path in paths:
        if path.suffix.lower() == ".mat" and path.is_file():
            facts = path.stat()
            place = str(path.relative_to(root))
            stamp = (facts.st_size, facts.st_mtime_ns)
            yield path.as_posix().lower(), RawFile(path, None, place, stamp)
    for path in paths:
        if path.suffix.lower() == ".zip" and path.is_file():
            yield from _members(root, path, problems)


def _members(
    root: Path, path: Path, problems: list[UnusableError]
) -> Iterator[tuple[str, RawFile]]:
    """Give the members of a zip, as if it had been unpacked into a folder of its name."""
    place = str(path.relative_to(root))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        problems.append(UnusableError("truncated or damaged zip", f"{place}: {error}"))
        return
    if any(member.filename.lower().endswith(".zip") for member in members):
        detail = f"{place}: unpack it and leave the zips in it as they are"
        problems.append(UnusableError("zip of zips", detail))
    folder = path.with_suffix("").as_posix().lower()
    for member in sorted(members, key=lambda member: member.filename):
        name = member.filename
        if name.lower().endswith(".mat") and not name.rsplit("/", 1)[-1].startswith("."):
            stamp = (member.file_size, member.CRC)
            yield f"{folder}/{name.lower()}", RawFile(path, name, f"{place}:{name}", stamp)
