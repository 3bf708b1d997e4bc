"""Bad input of every kind: named with the reason and skipped, and the rest is converted."""

from __future__ import annotations

import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from common.files import InputError
from tests import raw_tree
from tests.test_prepare_dataset_a import convert
from tools.command import start
from tools.raw import plates

TRIAL = "treadmill_01_01.mat"
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def tree(raw: Path, tmp_path: Path) -> Path:
    """A copy of the download with one good trial, on the ramp, and one on the treadmill."""
    root = tmp_path / "camargo"
    for activity in ("ramp", "treadmill"):
        shutil.copytree(raw / "AB08/10_14_18" / activity, root / "AB08/10_14_18" / activity)
    shutil.copy(raw / "SubjectInfo.mat", root)
    return root


def treadmill(root: Path, sensor: str) -> Path:
    """Return the file of a sensor of the treadmill trial."""
    return root / "AB08/10_14_18/treadmill" / sensor / TRIAL


def rewrite(root: Path, walkers: list[raw_tree.Walker], sensor: str, change: Change) -> None:
    """Write a changed table of the treadmill trial."""
    table = raw_tree.tables(walkers[1].trials[0])[sensor]
    raw_tree.write_table(treadmill(root, sensor), change(table.copy()))


def scale(prefix: str, factor: float) -> Change:
    """Return a change of all columns with `prefix` in their names."""
    return lambda table: table.mul(
        [factor if prefix in name else 1.0 for name in table.columns], axis=1
    )


def put(row: int, column: str, value: float) -> Change:
    """Return a change of one value."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def delayed(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose time begins long after the others end."""
    return table.assign(Header=table["Header"] + 100.0)


BAD_TABLES = {
    "column missing": ("imu", lambda t: t.drop(columns="shank_Gyro_Y"), "no shank_Gyro_Y"),
    "plate missing": ("fp", lambda t: t.drop(columns="Treadmill_R_vy"), "column missing"),
    "no Header": ("ik", lambda t: t.drop(columns="Header"), "no Header"),
    "time goes back": ("id", put(50, "Header", 0.1), "non-monotonic Header"),
    "time is NaN": ("id", put(50, "Header", np.nan), "non-monotonic Header"),
    "gap": ("emg", lambda t: t.drop(index=range(500, 700)).reset_index(drop=True), "gap in Header"),
    "100 Hz": ("imu", lambda t: t[::2].reset_index(drop=True), "100 Hz where 200 Hz belong"),
    "no rows": ("gon", lambda t: t[:0], "empty table"),
    "another time": ("jp", delayed, "sensors do not overlap"),
    "acceleration": ("imu", scale("Accel", 4.0), "accelerometer, median norm"),
    "one in m/s²": ("imu", scale("foot_Accel", 9.8), "accelerometers in g and m/s²"),
    "angular rate": ("imu", scale("Gyro", 5.0), "gyroscope of the foot"),
    "CoP": ("fp", scale("_p", 1e-6), "centre of pressure"),
    "zero plate": ("fp", scale("Treadmill_R_v", 0.0), "all-zero plate"),
    "infinite": ("ik", put(3, "knee_angle_r", np.inf), "infinite values"),
    "text": ("ik", lambda t: t.assign(knee_angle_r="bent"), "no numbers"),
}


@pytest.mark.parametrize(("sensor", "change", "reason"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_costs_its_trial_only(
    tree: Path,
    walkers: list[raw_tree.Walker],
    sensor: str,
    change: Change,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else one bad file of thousands ends the night's work, or goes into the data unseen."""
    rewrite(tree, walkers, sensor, change)
    assert_treadmill_is_skipped(tree, reason, capsys)


def assert_treadmill_is_skipped(
    tree: Path, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Convert, and check that the treadmill trial is named with the reason, and the other used."""
    out = tree.with_name("a.h5")
    assert convert(tree, out) == 0
    said = capsys.readouterr()
    skipped = [line for line in said.err.splitlines() if "skipped: " in line]
    assert len(skipped) == 1
    assert reason in skipped[0]
    assert "treadmill_01_01" in skipped[0]
    assert "Used: 1 trials of 1 subjects\nSkipped: 1\n  1 x " in said.out
    with h5py.File(out) as file:
        group = file["All_subjects/Subject_8"]
        assert len(group["Treadmill"]) == 0
        assert len(group["Ramp"]) > 500


def no_table(path: Path) -> None:
    """Write a MATLAB file that holds a matrix."""
    savemat(path, {"data": np.eye(3)})


def struct(path: Path) -> None:
    """Write a MATLAB file that holds a struct."""
    savemat(path, {"data": {"Header": np.arange(3.0)}})


def other_variable(path: Path) -> None:
    """Write a MATLAB file that holds nothing named `data`."""
    savemat(path, {"speed": np.eye(3)})


def truncate(path: Path) -> None:
    """Cut a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_to_header(path: Path) -> None:
    """Leave the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:100])


BAD_FILES = {
    "missing": (Path.unlink, "no emg (missing sensor file)"),
    "truncated": (truncate, "truncated or damaged .mat"),
    "header only": (cut_to_header, "truncated or damaged .mat"),
    "empty": (lambda path: path.write_bytes(b""), "truncated or damaged .mat"),
    "a web page": (lambda path: path.write_text("<html>" * 100), "truncated or damaged .mat"),
    "matrix": (no_table, "no MATLAB table"),
    "struct": (struct, "no MATLAB table"),
    "another variable": (other_variable, "no variable `data`"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_costs_its_trial_only(
    tree: Path,
    spoil: Callable[[Path], object],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else one download that broke off ends everything."""
    spoil(treadmill(tree, "emg"))
    assert_treadmill_is_skipped(tree, reason, capsys)


def test_a_gyroscope_in_degrees_is_converted(
    tree: Path, walkers: list[raw_tree.Walker], tmp_path: Path
) -> None:
    """Else a subject whose file is in deg/s, and in m/s², looks 57 times as fast."""
    rewrite(tree, walkers, "imu", lambda t: scale("Gyro", 180 / np.pi)(scale("Accel", 9.80665)(t)))
    assert convert(tree, tmp_path / "a.h5") == 0
    expected = raw_tree.truth(walkers[1])["treadmill_01_01"]
    with h5py.File(tmp_path / "a.h5") as file:
        rows = file["All_subjects/Subject_8/Treadmill"][:, :24]
    np.testing.assert_allclose(rows, expected[:, :24], rtol=1e-5, atol=1e-5)


def test_moments_that_no_origin_explains_are_left_out(
    walkers: list[raw_tree.Walker], tree: Path, tmp_path: Path
) -> None:
    """Else a number that is no free moment stands in its column."""
    rewrite(tree, walkers, "fp", scale("moment_x", -3.0))
    assert convert(tree, tmp_path / "a.h5") == 0
    with h5py.File(tmp_path / "a.h5") as file:
        rows = file["All_subjects/Subject_8/Treadmill"][:]
    assert np.isnan(rows[:, 74]).all()
    assert np.isfinite(rows[:, 70:73]).all()


@pytest.mark.parametrize(
    ("activity", "name", "expected"),
    [
        ("Treadmill", "treadmill_02_01", ("Treadmill_R",)),
        ("Levelground", "levelground_ccw_fast_01_01", ("FP1",)),
        ("Levelground", "levelground_cw_fast_01_01", ("Combined", "FP2", "FP5")),
        ("Ramp", "ramp_3_r_01_01", ("FP2", "FP4")),
        ("Ramp", "ramp_3_l_01_01", ("FP1", "FP3", "FP5")),
        ("Stair", "stair_1_r_01_01", ("FP2", "FP3", "FP4")),
        ("Stair", "stair_1_l_01_01", ("FP1", "FP5")),
    ],
)
def test_right_foots_plates(activity: str, name: str, expected: tuple[str, ...]) -> None:
    """Else the force of the left foot is learned as that of the right one."""
    assert plates.under_right_foot(activity, name) == expected


def test_a_name_that_tells_no_plates_is_skipped(
    raw: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the plates are guessed."""
    for path in (tree / "AB08/10_14_18/treadmill").rglob("*.mat"):
        path.unlink()
    folder = tree / "AB08/10_14_18/levelground"
    shutil.copytree(raw / "AB08/10_14_18/levelground", folder)
    for path in list(folder.rglob("*.mat")):
        path.rename(path.with_name("levelground_treadmill_01_01.mat"))
    assert_treadmill_is_skipped(tree, "no _ccw_ or _cw_ in its name", capsys)


def test_a_subject_without_a_usable_trial_is_skipped(
    raw: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the file has a subject without rows, at which every script stops."""
    folder = tree / "AB07/10_14_18/treadmill"
    shutil.copytree(raw / "AB07/10_14_18/treadmill", folder)
    (folder / "fp" / TRIAL).unlink()
    assert convert(tree, tmp_path / "a.h5") == 0
    said = capsys.readouterr()
    assert "skipped: AB07: all 1 are skipped (no usable trial)" in said.err
    assert "Used: 2 trials of 1 subjects\nSkipped: 2\n" in said.out


def test_strict_writes_nothing_and_ends_with_2(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a script that calls this one takes a file with holes for a whole one."""
    truncate(treadmill(tree, "imu"))
    out = tmp_path / "a.h5"
    assert convert(tree, out, "--strict") == 2
    assert not out.exists()
    assert "  1 x truncated or damaged .mat" in capsys.readouterr().out
    assert convert(tree, out) == 0  # from what the strict call has finished
    assert "1 x truncated or damaged .mat" in capsys.readouterr().out
    assert out.exists()


def test_unknown_subjects_are_skipped(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a slip in --subjects goes unnoticed: not in the tree, or not in SubjectInfo.mat."""
    assert convert(tree, tmp_path / "a.h5", "--subjects", "AB08", "ab11") == 0
    assert "AB11: not in" in capsys.readouterr().err
    shutil.copytree(tree / "AB08", tree / "AB12")
    assert convert(tree, tmp_path / "b.h5") == 0
    assert "AB12: not in SubjectInfo.mat (unknown subject)" in capsys.readouterr().err


def test_a_mass_that_is_none_is_skipped(
    tree: Path, walkers: list[raw_tree.Walker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else pounds or centimetres become the body weight and height of everything."""
    body = walkers[1].body
    people = pd.DataFrame({"Subject": ["AB08"], "Height": [170.0], "Weight": [body.mass_kg]})
    raw_tree.write_table(tree / "SubjectInfo.mat", people)
    with pytest.raises(InputError, match="no usable trial"):
        convert(tree, tmp_path / "a.h5")
    assert "height 170; kg and m are expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("AB20", "refused, it has no ground reaction forces"), ("Anna", "no subject")],
)
def test_subjects_that_cannot_be_are_refused(tree: Path, wanted: str, reason: str) -> None:
    """Else AB20, which has no forces, is looked for in vain."""
    with pytest.raises(InputError, match=reason):
        convert(tree, tree.with_name("a.h5"), "--subjects", wanted)


def test_ab06_is_taken_on_request_only(raw: Path, tmp_path: Path) -> None:
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


def test_damaged_zips_are_named(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a download that broke off looks like one without these subjects."""
    (tree / "AB09.zip").write_bytes(b"PK" + bytes(100))
    with zipfile.ZipFile(tree / "fcgm3chfff-1.zip", "w") as archive:
        archive.writestr("AB10.zip", b"PK")
    assert convert(tree, tmp_path / "a.h5") == 0
    said = capsys.readouterr().err
    assert "AB09.zip: File is not a zip file (truncated or damaged zip)" in said
    assert "fcgm3chfff-1.zip: unpack it and leave the zips in it" in said


def test_a_damaged_member_of_a_zip_costs_its_trial_only(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a bad byte in 10 GB ends everything."""
    path = tree / "AB08.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tree / "AB08").rglob("*.mat")):
            archive.write(file, file.relative_to(tree))
        bad = archive.getinfo(f"AB08/10_14_18/treadmill/ik/{TRIAL}").header_offset + 2000
    shutil.rmtree(tree / "AB08")
    content = bytearray(path.read_bytes())
    content[bad] ^= 255
    path.write_bytes(content)
    assert_treadmill_is_skipped(tree, "truncated or damaged .mat", capsys)


def test_folders_without_what_is_needed_are_refused(tree: Path, tmp_path: Path) -> None:
    """Else the wrong --raw ends with an empty file."""
    out = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such folder"):
        convert(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no trial in it"):
        convert(tmp_path / "empty", out)
    (tree / "SubjectInfo.mat").unlink()
    with pytest.raises(InputError, match=r"no SubjectInfo\.mat"):
        convert(tree, out)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_full_disk_leaves_nothing_half_written(tree: Path, tmp_path: Path) -> None:
    """Else half a file looks like a whole one. A limit on the size of files stands for the disk."""
    out = tmp_path / "a.h5"
    with largest_file(200_000), pytest.raises(InputError, match="AB08 cannot be written .*free"):
        convert(tree, out)
    assert not out.exists()
    assert not out.with_name("a.h5.parts").exists()
    assert convert(tree, out) == 0


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
