"""Bad input of every kind: named with the reason and skipped, and the rest is converted."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from tests import raw_tree
from tests.test_prepare_dataset_a import convert
from tools.raw import plates

TRIAL = "treadmill_01_01.mat"
Change = Callable[[pd.DataFrame], pd.DataFrame]


def rewrite(root: Path, walkers: list[raw_tree.Walker], sensor: str, change: Change) -> None:
    """Write a changed table of the treadmill trial."""
    table = raw_tree.tables(walkers[1].trials[0])[sensor]
    raw_tree.write_table(raw_tree.treadmill(root, sensor), change(table.copy()))


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
    few: Path,
    walkers: list[raw_tree.Walker],
    sensor: str,
    change: Change,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else one bad file of thousands ends the night's work, or goes into the data unseen."""
    rewrite(few, walkers, sensor, change)
    assert_treadmill_is_skipped(few, reason, capsys)


def assert_treadmill_is_skipped(few: Path, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Convert, and check that the treadmill trial is named with the reason, and the other used."""
    out = few.with_name("a.h5")
    assert convert(few, out) == 0
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


def cut_to_header(path: Path) -> None:
    """Leave the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:100])


BAD_FILES = {
    "missing": (Path.unlink, "no emg (missing sensor file)"),
    "truncated": (raw_tree.truncate, "truncated or damaged .mat"),
    "header only": (cut_to_header, "truncated or damaged .mat"),
    "empty": (lambda path: path.write_bytes(b""), "truncated or damaged .mat"),
    "a web page": (lambda path: path.write_text("<html>" * 100), "truncated or damaged .mat"),
    "matrix": (no_table, "no MATLAB table"),
    "struct": (struct, "no MATLAB table"),
    "another variable": (other_variable, "no variable `data`"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_costs_its_trial_only(
    few: Path,
    spoil: Callable[[Path], object],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else one download that broke off ends everything."""
    spoil(raw_tree.treadmill(few, "emg"))
    assert_treadmill_is_skipped(few, reason, capsys)


def test_a_gyroscope_in_degrees_is_converted(
    few: Path, walkers: list[raw_tree.Walker], tmp_path: Path
) -> None:
    """Else a subject whose file is in deg/s, and in m/s², looks 57 times as fast."""
    rewrite(few, walkers, "imu", lambda t: scale("Gyro", 180 / np.pi)(scale("Accel", 9.80665)(t)))
    assert convert(few, tmp_path / "a.h5") == 0
    expected = raw_tree.truth(walkers[1])["treadmill_01_01"]
    with h5py.File(tmp_path / "a.h5") as file:
        rows = file["All_subjects/Subject_8/Treadmill"][:, :24]
    np.testing.assert_allclose(rows, expected[:, :24], rtol=1e-5, atol=1e-5)


def test_moments_that_no_origin_explains_are_left_out(
    walkers: list[raw_tree.Walker], few: Path, tmp_path: Path
) -> None:
    """Else a number that is no free moment stands in its column."""
    rewrite(few, walkers, "fp", scale("moment_x", -3.0))
    assert convert(few, tmp_path / "a.h5") == 0
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
    raw: Path, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the plates are guessed."""
    for path in (few / "AB08/10_14_18/treadmill").rglob("*.mat"):
        path.unlink()
    folder = few / "AB08/10_14_18/levelground"
    shutil.copytree(raw / "AB08/10_14_18/levelground", folder)
    for path in list(folder.rglob("*.mat")):
        path.rename(path.with_name("levelground_treadmill_01_01.mat"))
    assert_treadmill_is_skipped(few, "no _ccw_ or _cw_ in its name", capsys)


def test_a_subject_without_a_usable_trial_is_skipped(
    raw: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the file has a subject without rows, at which every script stops."""
    folder = few / "AB07/10_14_18/treadmill"
    shutil.copytree(raw / "AB07/10_14_18/treadmill", folder)
    (folder / "fp" / TRIAL).unlink()
    assert convert(few, tmp_path / "a.h5") == 0
    said = capsys.readouterr()
    assert "skipped: AB07: all 1 are skipped (no usable trial)" in said.err
    assert "Used: 2 trials of 1 subjects\nSkipped: 2\n" in said.out


def test_damaged_zips_are_named(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a download that broke off looks like one without these subjects."""
    (few / "AB09.zip").write_bytes(b"PK" + bytes(100))
    with zipfile.ZipFile(few / "fcgm3chfff-1.zip", "w") as archive:
        archive.writestr("AB10.zip", b"PK")
    assert convert(few, tmp_path / "a.h5") == 0
    said = capsys.readouterr().err
    assert "AB09.zip: File is not a zip file (truncated or damaged zip)" in said
    assert "fcgm3chfff-1.zip: unpack it and leave the zips in it" in said


def test_a_damaged_member_of_a_zip_costs_its_trial_only(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a bad byte in 10 GB ends everything."""
    path = few / "AB08.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((few / "AB08").rglob("*.mat")):
            archive.write(file, file.relative_to(few))
        bad = archive.getinfo(f"AB08/10_14_18/treadmill/ik/{TRIAL}").header_offset + 2000
    shutil.rmtree(few / "AB08")
    content = bytearray(path.read_bytes())
    content[bad] ^= 255
    path.write_bytes(content)
    assert_treadmill_is_skipped(few, "truncated or damaged .mat", capsys)
