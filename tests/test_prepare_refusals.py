"""What the converter does not do: subjects, folders, disks and flags that cannot be."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pandas as pd
import pytest

from common.files import InputError
from tests import raw_tree
from tests.test_prepare_dataset_a import convert
from tools.command import start


def test_strict_writes_nothing_and_ends_with_2(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a script that calls this one takes a file with holes for a whole one."""
    raw_tree.truncate(raw_tree.treadmill(few, "imu"))
    out = tmp_path / "a.h5"
    assert convert(few, out, "--strict") == 2
    assert not out.exists()
    assert "  1 x truncated or damaged .mat" in capsys.readouterr().out
    assert convert(few, out) == 0  # from what the strict call has finished
    assert "1 x truncated or damaged .mat" in capsys.readouterr().out
    assert out.exists()


def test_unknown_subjects_are_skipped(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a slip in --subjects goes unnoticed: not in the tree, or not in SubjectInfo.mat."""
    assert convert(few, tmp_path / "a.h5", "--subjects", "AB08", "ab11") == 0
    assert "AB11: not in" in capsys.readouterr().err
    shutil.copytree(few / "AB08", few / "AB12")
    assert convert(few, tmp_path / "b.h5") == 0
    assert "AB12: not in SubjectInfo.mat (unknown subject)" in capsys.readouterr().err


def test_a_mass_that_is_none_is_skipped(
    few: Path, walkers: list[raw_tree.Walker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else pounds or centimetres become the body weight and height of everything."""
    body = walkers[1].body
    people = pd.DataFrame({"Subject": ["AB08"], "Height": [170.0], "Weight": [body.mass_kg]})
    raw_tree.write_table(few / "SubjectInfo.mat", people)
    with pytest.raises(InputError, match="no usable trial"):
        convert(few, tmp_path / "a.h5")
    assert "height 170; kg and m are expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("AB20", "refused, it has no ground reaction forces"), ("Anna", "no subject")],
)
def test_subjects_that_cannot_be_are_refused(few: Path, wanted: str, reason: str) -> None:
    """Else AB20, which has no forces, is looked for in vain."""
    with pytest.raises(InputError, match=reason):
        convert(few, few.with_name("a.h5"), "--subjects", wanted)


def test_ab06_is_taken_on_request_only(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the default is not the paper's twenty."""
    root = tmp_path / "camargo"
    shutil.copytree(raw / "AB08", root / "AB08")
    shutil.copytree(raw / "AB08", root / "AB06")
    people = {"Subject": ["AB06", "AB08"], "Height": [1.7, 1.7], "Weight": [60.0, 60.0]}
    raw_tree.write_table(root / "SubjectInfo.mat", pd.DataFrame(people))
    for more, expected in (((), ["Subject_8"]), (("--subjects", "6"), ["Subject_6"])):
        out = tmp_path / f"{len(more)}.h5"
        assert convert(root, out, *more) == 0
        with h5py.File(out) as file:
            assert list(file["All_subjects"]) == expected
    assert "Of the paper's subjects not in" in capsys.readouterr().out
    shutil.rmtree(root / "AB08")
    with pytest.raises(InputError, match="it has AB06, and --subjects takes others"):
        convert(root, tmp_path / "none.h5")


def test_folders_without_what_is_needed_are_refused(few: Path, tmp_path: Path) -> None:
    """Else the wrong --raw ends with an empty file."""
    out = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such folder"):
        convert(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no trial in it"):
        convert(tmp_path / "empty", out)
    (few / "SubjectInfo.mat").unlink()
    with pytest.raises(InputError, match=r"no SubjectInfo\.mat"):
        convert(few, out)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_full_disk_leaves_nothing_half_written(few: Path, tmp_path: Path) -> None:
    """Else half a file looks like a whole one. A limit on the size of files stands for the disk."""
    out = tmp_path / "a.h5"
    with largest_file(200_000), pytest.raises(InputError, match="AB08 cannot be written .*free"):
        convert(few, out)
    assert not out.exists()
    assert not out.with_name("a.h5.parts").exists()
    assert convert(few, out) == 0


def test_a_disk_that_fills_up_at_the_end_keeps_the_subjects(raw: Path, tmp_path: Path) -> None:
    """Else everything must be converted again for want of the last gigabyte."""
    assert convert(raw, tmp_path / "whole.h5") == 0
    whole = (tmp_path / "whole.h5").stat().st_size
    out = tmp_path / "a.h5"
    with largest_file(whole - 100_000), pytest.raises(InputError, match="the whole file cannot be"):
        convert(raw, out)
    assert not out.exists()
    kept = {path.name for path in (tmp_path / "a.h5.parts").iterdir()}
    assert kept == {"lock", "Subject_7.h5", "Subject_8.h5"}
    assert convert(raw, out) == 0
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_the_command_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a slip ends with a traceback, or with status 0."""
    with pytest.raises(SystemExit) as end:
        start(lambda: convert(tmp_path / "nowhere", tmp_path / "a.h5"))
    assert end.value.code == 2
    place = tmp_path / "nowhere"
    said = f"error: {place}: no such folder; give --raw the folder of the download\n"
    assert capsys.readouterr().err == said
