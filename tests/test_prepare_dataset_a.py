"""The command that converts the download of Dataset A, on simulated and on recorded files."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

import Dataset_A_lmfn_tfn_fusion_models as script
from common.files import InputError
from tests import raw_tree
from tests.conftest import MEASURED, ROOT, Capture, Folders, Patch
from tests.raw_tree import Walker, make_tables, treadmill_file
from tests.running import wait_until
from tools.dataset_a import DATASET_A_COLUMNS
from tools.prepare_dataset_a import output
from tools.prepare_dataset_a import trial as trial_module
from tools.prepare_dataset_a.__main__ import main
from tools.prepare_dataset_a.download import Person, RawFile, RawTrial, UnusableError, read_people
from tools.prepare_dataset_a.plates import (
    GroundReaction,
    compute_ground_reaction,
    find_right_plates,
)
from tools.prepare_dataset_a.trial import Converted, compute_emg_envelope
from tools.signals import interpolate

FAST_HZ = 1000.0
TREADMILL = "treadmill_01_01.mat"
# Columns and the largest error allowed, in the unit of the file.
TOLERANCES = {
    "IMU, m/s² and rad/s": (range(24), 1e-5),
    "joint angles, degrees": (range(24, 47), 1e-4),
    "joint moments, BW·BH": (range(47, 70), 1e-6),
    "force, BW; the low-pass smooths heel strike": (range(70, 73), 0.03),
    "free moment, BW·m": (range(73, 76), 0.01),
    "center of pressure, m": (range(76, 79), 0.001),
    "goniometers, degrees": (range(79, 84), 0.01),
    "raw EMG, mV, of at most 0.3": (range(84, 95), 0.02),
    "EMG envelope": (range(95, 106), 0.05),
    "power, W, of up to 500": (range(106, 129), 1e-4),
}
Change = Callable[[pd.DataFrame], pd.DataFrame]


@cache
def walkers() -> list[Walker]:
    """Two simulated subjects: 7 with all kinds of trials, 8 with one trial of each activity."""
    one_of_each = [raw_tree.TRIALS[i] for i in (0, 1, 3, 5)]
    return [raw_tree.simulate_walker(7), raw_tree.simulate_walker(8, one_of_each)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: Folders) -> Path:
    """The download of both subjects, 8 as MATLAB wrote it in 2018; not to be changed."""
    root = tmp_path_factory.mktemp("camargo")
    for walker in walkers():
        raw_tree.write_walker(root, walker, of_2018=walker.number == 8)
    raw_tree.write_people(root, walkers())
    return root


@pytest.fixture(scope="module")
def converted(raw: Path, tmp_path_factory: Folders) -> Path:
    """The HDF5 file of both subjects."""
    path = tmp_path_factory.mktemp("converted") / "a.h5"
    assert convert(raw, path) == 0
    return path


@pytest.fixture
def two_trials(raw: Path, tmp_path: Path) -> Path:
    """A download of two trials of subject 8, ramp and treadmill, that a test may damage."""
    root = tmp_path / "camargo"
    for activity in ("ramp", "treadmill"):
        shutil.copytree(raw / "AB08/10_14_18" / activity, root / "AB08/10_14_18" / activity)
    shutil.copy(raw / "SubjectInfo.mat", root)
    return root


def convert(raw: Path, out: Path, *flags: str) -> int:
    """Run the command in this process."""
    return main(["--raw", str(raw), "--out", str(out), "--jobs", "1", *flags])


# The file ---------------------------------------------------------------------------------------


def test_every_column_is_correct(converted: Path) -> None:
    """Otherwise a column has another unit, order, time or place than the scripts expect."""
    assert script.read(converted).subjects == ["7", "8"]
    with h5py.File(converted) as file:
        assert json.loads(file.attrs["columns"]) == list(DATASET_A_COLUMNS)
        for walker in walkers():
            expected = raw_tree.truth(walker)
            group = file[f"All_subjects/Subject_{walker.number}"]
            assert group.attrs["mass_kg"] == walker.body.mass_kg
            assert group.attrs["height_m"] == walker.body.height_m
            for quantity, unit in (("accelerometer", "g"), ("gyroscope", "rad/s"), ("cop", "mm")):
                found = json.loads(group.attrs[f"{quantity}_unit"])
                assert found == {unit: len(walker.trials)}
            for trial in walker.trials:
                table = group[trial.activity]
                number = json.loads(table.attrs["trial_names"]).index(trial.name)
                starts = [*table.attrs["trial_starts"], len(table)]
                values = table[starts[number] : starts[number + 1]]
                assert values.dtype == np.float32
                assert values.shape == expected[trial.name].shape
                np.testing.assert_array_equal(np.isnan(values), np.isnan(expected[trial.name]))
                for block, (columns, tolerance) in TOLERANCES.items():
                    np.testing.assert_allclose(
                        values[:, columns], expected[trial.name][:, columns],
                        rtol=1e-5, atol=tolerance, err_msg=f"{trial.name}: {block}",
                    )  # fmt: skip


def test_envelope_follows_the_emg_band() -> None:
    """Otherwise drift, or the hum of a moving cable, counts as muscle activity."""
    time_s = np.arange(4000) / FAST_HZ
    middle = slice(1000, 3000)

    def tone(frequency_hz: float) -> np.ndarray:
        return np.sin(2 * np.pi * frequency_hz * time_s)[:, None]

    activation, movement = 1.0 + 0.5 * tone(1.0), 5.0 * tone(3.0)
    envelope = compute_emg_envelope(activation * tone(120.0) + movement, FAST_HZ)
    np.testing.assert_allclose(envelope[middle], 2 / np.pi * activation[middle], rtol=0.02)
    assert np.abs(compute_emg_envelope(movement, FAST_HZ)[middle]).max() < 0.01
    assert envelope.min() >= 0


def test_units_are_recognized_and_unexplained_moments_become_nan(two_trials: Path) -> None:
    """Otherwise a subject in deg/s and m/s² is 57 times as fast, or a moment is another number."""
    in_degrees = scale("Gyro", 180 / np.pi)
    change_table(two_trials, "imu", lambda table: in_degrees(scale("Accel", 9.80665)(table)))
    change_table(two_trials, "fp", scale("moment_x", -3.0))
    out = two_trials.with_name("a.h5")
    assert convert(two_trials, out) == 0
    with h5py.File(out) as file:
        values = file["All_subjects/Subject_8/Treadmill"][:]
    expected = raw_tree.truth(walkers()[1])["treadmill_01_01"]
    np.testing.assert_allclose(values[:, :24], expected[:, :24], rtol=1e-5, atol=1e-5)
    assert np.isnan(values[:, 74]).all()
    assert np.isfinite(values[:, 70:73]).all()


def test_hundreds_of_trials_fit_in_the_attributes(tmp_path: Path) -> None:
    """Otherwise a subject with many trials stops the conversion: HDF5 attributes hold 64 KB."""
    names = [f"levelground_ccw_normal_{i:03d}_01" for i in range(500)]
    values = np.zeros((2, len(DATASET_A_COLUMNS)), np.float32)
    trials = [Converted("Levelground", name, values, {"cop_unit": "mm"}) for name in names]
    skipped = {f"10_14_18/{name}": "truncated or damaged .mat" for name in names}
    part, out = tmp_path / "parts" / "Subject_7.h5", tmp_path / "a.h5"
    output.write_subject(part, 7, Person(70.0, 1.7), trials, skipped)
    output.join_subjects(out, {7: part})
    assert output.count_trials(out, 7) == (500, {"truncated or damaged .mat": 500})
    with h5py.File(out) as file:
        table = file["All_subjects/Subject_7/Levelground"]
        assert json.loads(table.attrs["trial_names"]) == names
        assert table.attrs["trial_starts"].tolist() == [*range(0, 1000, 2)]


# The download -----------------------------------------------------------------------------------


def test_zips_need_not_be_unpacked_and_case_does_not_matter(
    raw: Path, converted: Path, tmp_path: Path
) -> None:
    """Otherwise 22 GB must be unpacked, or subjects that are spelled differently are missing."""
    root = tmp_path / "zips"
    root.mkdir()
    for number, prefix in ((7, "Dataset/AB07/"), (8, "")):  # with folders above, and without
        with zipfile.ZipFile(root / f"Ab{number:02d}.zip", "w") as archive:
            for i, path in enumerate(sorted((raw / f"AB{number:02d}").rglob("*.mat"))):
                stem = path.relative_to(raw / f"AB{number:02d}").with_suffix("").as_posix()
                archive.write(path, f"{prefix}{stem.upper() if i % 2 else stem.lower()}.mat")
    shutil.copy(raw / "SubjectInfo.mat", root / "subjectinfo.mat")
    assert convert(root, tmp_path / "a.h5") == 0
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(converted) as b:
        names: list[str] = []
        a.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        assert len(names) == 8
        assert all(np.array_equal(a[name], b[name], equal_nan=True) for name in names)


def test_a_folder_that_exists_twice_is_used_once(two_trials: Path, capsys: Capture) -> None:
    """Trials that are used twice would be in the training and in the validation windows."""
    date = two_trials / "AB08" / "10_14_18"
    shutil.copytree(date, date.with_name("10_14_18 (1)"))
    assert convert(two_trials, two_trials / "a.h5") == 0
    printed = capsys.readouterr()
    assert "Used: 2 trials of 1 subject" in printed.out
    assert "2 x copy of another trial" in printed.out
    assert "AB08 10_14_18 (1) treadmill_01_01: same values as in another folder" in printed.err


# Unusable files ---------------------------------------------------------------------------------


def change_table(root: Path, sensor: str, change: Change) -> None:
    """Replace a table of the treadmill trial with a changed one."""
    table = make_tables(walkers()[1].trials[0])[sensor]
    raw_tree.write_table(treadmill_file(root, sensor), change(table.copy()))


def scale(text: str, factor: float) -> Change:
    """Return a change that scales the columns with `text` in their names."""
    return lambda table: table.mul([factor if text in name else 1.0 for name in table])


def replace(row: int, column: str, value: float) -> Change:
    """Return a change that replaces one value."""
    return lambda table: table.assign(**{column: table[column].where(table.index != row, value)})


BAD_TABLES = {
    "column missing": ("imu", lambda t: t.drop(columns="shank_Gyro_Y"), "no shank_Gyro_Y"),
    "plate missing": ("fp", lambda t: t.drop(columns="Treadmill_R_vy"), "column missing"),
    "no Header": ("ik", lambda t: t.drop(columns="Header"), "no Header"),
    "time decreases": ("id", replace(50, "Header", 0.1), "non-monotonic Header"),
    "gap": ("emg", lambda t: t.drop(index=range(500, 700)).reset_index(drop=True), "gap in Header"),
    "100 Hz": ("imu", lambda t: t[::2].reset_index(drop=True), "100 Hz instead of 200 Hz"),
    "no rows": ("gon", lambda t: t[:0], "empty table"),
    "other time": ("jp", lambda t: t.assign(Header=t["Header"] + 100), "sensors do not overlap"),
    "acceleration": ("imu", scale("Accel", 4.0), "accelerometer, median norm 4.96, expected 0.7"),
    "one in m/s²": ("imu", scale("foot_Accel", 9.8), "accelerometers in g and m/s²"),
    "angular rate": ("imu", scale("Gyro", 5.0), "gyroscope of the foot"),
    "center of pressure": ("fp", scale("_p", 1e-6), "center of pressure"),
    "zero plate": ("fp", scale("Treadmill_R_v", 0.0), "all-zero plate"),
    "infinite": ("ik", replace(3, "knee_angle_r", np.inf), "infinite values"),
    "text": ("ik", lambda t: t.assign(knee_angle_r="bent"), "not numeric"),
}


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "no emg (missing sensor file)": Path.unlink,
    "truncated or damaged .mat": raw_tree.truncate,
    "no MATLAB table": lambda path: savemat(path, {"data": np.eye(3)}),
    "no variable `data`": lambda path: savemat(path, {"speed": np.eye(3)}),
}


@pytest.mark.parametrize("name", [*BAD_TABLES, *BAD_FILES])
def test_bad_file_only_skips_its_trial(name: str, two_trials: Path, capsys: Capture) -> None:
    """Otherwise one bad file among thousands stops the conversion or gets into the data."""
    if name in BAD_TABLES:
        sensor, change, reason = BAD_TABLES[name]
        change_table(two_trials, sensor, change)
    else:
        reason = name
        BAD_FILES[name](treadmill_file(two_trials, "emg"))
    assert_treadmill_is_skipped(two_trials, reason, capsys)


def test_damaged_member_of_a_zip_only_skips_its_trial(two_trials: Path, capsys: Capture) -> None:
    """Otherwise one wrong byte in 10 GB stops everything."""
    path = two_trials / "AB08.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((two_trials / "AB08").rglob("*.mat")):
            archive.write(file, file.relative_to(two_trials))
        bad = archive.getinfo(f"AB08/10_14_18/treadmill/ik/{TREADMILL}").header_offset + 2000
    shutil.rmtree(two_trials / "AB08")
    content = bytearray(path.read_bytes())
    content[bad] ^= 255
    path.write_bytes(content)
    assert_treadmill_is_skipped(two_trials, "truncated or damaged .mat", capsys)


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "MATLAB"])
def test_a_file_that_expands_too_far_only_skips_its_trial(
    in_zip: bool, two_trials: Path, capsys: Capture
) -> None:
    """Otherwise 200 kB fill the memory or the disk."""
    path = treadmill_file(two_trials, "emg")
    if in_zip:
        with zipfile.ZipFile(two_trials / "AB08.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.relative_to(two_trials).as_posix(), bytes(100_000_000))
        path.unlink()
    else:
        savemat(path, {"data": np.zeros(20_000_000)}, do_compression=True)
    assert_treadmill_is_skipped(two_trials, "needs at least", capsys)


def test_a_name_without_direction_is_unusable() -> None:
    """Otherwise the plates under the right foot are guessed."""
    with pytest.raises(UnusableError, match="no _ccw_ or _cw_ in its name"):
        find_right_plates("Levelground", "levelground_fast_01_01")


def assert_treadmill_is_skipped(two_trials: Path, reason: str, capsys: Capture) -> None:
    """Check that the treadmill trial is skipped for the reason, and the ramp trial is used."""
    out = two_trials.with_name("a.h5")
    assert convert(two_trials, out) == 0
    printed = capsys.readouterr()
    skipped = [line for line in printed.err.splitlines() if "skipped: " in line]
    assert len(skipped) == 1
    assert reason in skipped[0]
    assert "treadmill_01_01" in skipped[0]
    assert "Used: 1 trial of 1 subject\nSkipped: 1\n  1 x " in printed.out
    with h5py.File(out) as file:
        group = file["All_subjects/Subject_8"]
        assert len(group["Treadmill"]) == 0
        assert len(group["Ramp"]) > 500


# Subjects and flags -----------------------------------------------------------------------------


def test_unusable_subjects_and_zips_are_skipped_and_named(
    raw: Path, two_trials: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Otherwise they seem never to have been there, or the file has a subject without data."""
    folder = two_trials / "AB07/10_14_18/treadmill"
    shutil.copytree(raw / "AB07/10_14_18/treadmill", folder)
    (folder / "fp" / TREADMILL).unlink()
    shutil.copytree(two_trials / "AB08", two_trials / "AB12")
    (two_trials / "AB09.zip").write_bytes(b"PK" + bytes(100))
    with zipfile.ZipFile(two_trials / "fcgm3chfff-1.zip", "w") as archive:
        archive.writestr("AB10.zip", b"PK")
    assert convert(two_trials, tmp_path / "a.h5") == 0
    printed = capsys.readouterr()
    for problem in (
        "AB07: all of its trials were skipped (no usable trial)",
        "AB12: not in SubjectInfo.mat (unknown subject)",
        "AB09.zip: File is not a zip file (truncated or damaged zip)",
        "fcgm3chfff-1.zip: unpack it; the zips inside can stay as they are",
    ):
        assert f"skipped: {problem}" in printed.err.replace(f"{two_trials}/", "")
    assert "Used: 2 trials of 1 subject\nSkipped: 5\n" in printed.out
    assert convert(two_trials, tmp_path / "a.h5", "--subjects", "AB08", "ab11") == 0
    assert "AB11: not in" in capsys.readouterr().err
    people = pd.DataFrame({"Subject": ["AB08"], "Height": [170.0], "Weight": [70.0]})
    raw_tree.write_table(two_trials / "SubjectInfo.mat", people)
    with pytest.raises(InputError, match="no usable trial"):
        convert(two_trials, tmp_path / "a.h5", "--subjects", "AB08")
    assert "weight 70, height 170, which should be in kg and m" in capsys.readouterr().err


def test_only_ab06_is_converted_on_request(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    """Otherwise the default is not the paper's subjects; AB20, without forces, is none of them."""
    root = tmp_path / "camargo"
    shutil.copytree(raw / "AB08", root / "AB08")
    shutil.copytree(raw / "AB08", root / "AB06")
    people = {"Subject": ["AB06", "AB08"], "Height": [1.7, 1.7], "Weight": [60.0, 60.0]}
    raw_tree.write_table(root / "SubjectInfo.mat", pd.DataFrame(people))
    for flags, expected in (((), ["Subject_8"]), (("--subjects", "6"), ["Subject_6"])):
        out = tmp_path / f"{len(flags)}.h5"
        assert convert(root, out, *flags) == 0
        with h5py.File(out) as file:
            assert list(file["All_subjects"]) == expected
    assert "Subjects of the paper that are not in" in capsys.readouterr().out
    for subject, reason in (("AB20", "has no ground reaction forces"), ("x", "is not a subject")):
        with pytest.raises(SystemExit, match="2"):
            convert(root, tmp_path / "none.h5", "--subjects", subject)
        assert f"error: argument --subjects: {subject} {reason}" in capsys.readouterr().err
    shutil.rmtree(root / "AB08")
    with pytest.raises(InputError, match="it contains AB06; request subjects that the paper"):
        convert(root, tmp_path / "none.h5")


def test_folders_without_a_download_are_refused(two_trials: Path, tmp_path: Path) -> None:
    """Otherwise a wrong --raw gives an empty file; without mat-io, every trial seems damaged."""
    info = two_trials / "SubjectInfo.mat"
    (tmp_path / "empty").mkdir()

    def check(folder: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            convert(tmp_path / folder, tmp_path / "a.h5")

    check("nowhere", "no such folder")
    check("empty", "contains no trial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matio", None)
        check("camargo", "pip install mat-io")
    raw_tree.truncate(info)
    check("camargo", r"download SubjectInfo\.mat again")
    info.unlink()
    check("camargo", r"no SubjectInfo\.mat")


def test_strict_writes_nothing_after_a_skip(
    raw: Path, two_trials: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Otherwise an incomplete file is taken for a complete one; a new download must be used."""
    damaged, out = treadmill_file(two_trials, "imu"), tmp_path / "a.h5"
    raw_tree.truncate(damaged)
    for _ in range(2):
        with pytest.raises(InputError, match="--strict: 1 skipped; .*a.h5 not written"):
            convert(two_trials, out, "--strict")
        assert not out.exists()
        assert "  1 x truncated or damaged .mat" in capsys.readouterr().out
    shutil.copyfile(treadmill_file(raw, "imu"), damaged)
    assert convert(two_trials, out, "--strict") == 0


# Interrupted and repeated calls -----------------------------------------------------------------


def test_interrupted_call_is_resumed(
    raw: Path, converted: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Otherwise work is lost, or the file differs from that of an uninterrupted call."""
    out = tmp_path / "a.h5"
    convert_trial = trial_module.convert

    def interrupt(trial: RawTrial, person: Person) -> Converted:
        if trial.subject == 8:
            raise KeyboardInterrupt
        return convert_trial(trial, person)

    monkeypatch.setattr(trial_module, "convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(raw, out)
    monkeypatch.undo()
    assert not out.exists()
    for reused in (["AB07"], []):  # the second call replaces the complete file
        capsys.readouterr()
        assert convert(raw, out) == 0
        printed = capsys.readouterr().out
        assert [line[:4] for line in printed.splitlines() if ": reused from" in line] == reused
        assert "Used: 11 trials of 2 subjects" in printed
        assert out.read_bytes() == converted.read_bytes()
        assert [*tmp_path.iterdir()] == [out]


def test_data_in_an_existing_file_are_not_lost(raw: Path, converted: Path, tmp_path: Path) -> None:
    """Otherwise a typo in --out, or a request for one more subject, costs a user other data."""
    out = tmp_path / "a.h5"
    shutil.copy(converted, out)
    with pytest.raises(InputError, match="also contains Subject_8, not requested"):
        convert(raw, out, "--subjects", "AB07")
    with h5py.File(out, "a") as file:
        del file.attrs["made_by"]
    with pytest.raises(InputError, match="not written by this command"):
        convert(raw, out)
    with h5py.File(out) as file:
        assert list(file["All_subjects"]) == ["Subject_7", "Subject_8"]


def test_full_disk_is_reported_before_writing(
    two_trials: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Otherwise HDF5 crashes, or half a file looks like a complete one."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    out = tmp_path / "a.h5"
    with pytest.raises(InputError, match="Subject_8.h5: needs up to 1 MB, but 0 MB are free; "):
        convert(two_trials, out)
    assert not out.exists()
    monkeypatch.undo()
    assert convert(two_trials, out) == 0


@pytest.mark.slow
def test_killed_call_leaves_no_workers_and_is_resumed(
    raw: Path, converted: Path, tmp_path: Path
) -> None:
    """Otherwise a power cut leaves half a file, or workers run forever; jobs change no bit."""
    out = tmp_path / "a.h5"
    command = [sys.executable, "-m", "tools.prepare_dataset_a", "--raw", raw, "--out", out]
    with subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_until(lambda: (tmp_path / "a.h5.parts" / "Subject_7.h5").exists())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    if out.exists():
        pytest.fail("the call finished before it could be killed")
    assert convert(raw, out) == 0
    assert out.read_bytes() == converted.read_bytes()


# Recorded files and mat-io ----------------------------------------------------------------------


def recorded(name: str) -> Path:
    """Return a recorded file of Dataset A, or skip the test."""
    path = MEASURED / "dataset_a" / name
    if not path.exists():
        pytest.skip(f"no recorded data: {path}")
    return path


def recorded_ground_reaction(
    name: str, plate_names: dict[int, str], plates: tuple[str, ...]
) -> tuple[pd.DataFrame, GroundReaction]:
    """Return a recorded force file as a table of the download, and its ground reaction."""
    forces = pd.read_csv(recorded(name), sep="\t", skiprows=6)
    time_s = np.arange(len(forces) * 5 - 4) / FAST_HZ + forces["time"].iloc[0]
    columns = {"Header": time_s}
    for number, plate in plate_names.items():
        for kind, stored, factor in (("v", "v", 1.0), ("p", "p", 1000.0), ("moment_", "m", 1.0)):
            for axis in "xyz":
                values = forces[f"ground_force_{number}_{stored}{axis}"].to_numpy() * factor
                columns[f"{plate}_{kind}{axis}"] = np.interp(time_s, forces["time"], values)
    table = pd.DataFrame(columns)
    return table, compute_ground_reaction(table, plates, FAST_HZ, name)


def test_recorded_treadmill_force_is_one_body_weight() -> None:
    """Otherwise units, plates or normalization are wrong: the mean force carries the body."""
    path = recorded("SubjectInfo.mat")
    people = read_people(RawFile(path, path.name))
    assert len(people) == 22
    assert people[30] == (77.03, 1.77)
    belts = ("Treadmill_R", "Treadmill_L")
    table, ground = recorded_ground_reaction(
        "treadmill_01_01_grf.mot", dict(enumerate(belts, 1)), belts
    )
    assert (ground.cop_unit, ground.plates) == ("mm", list(belts))
    time_s = table["Header"].to_numpy()
    force_n = interpolate(ground.values, time_s, time_s[::5])[:, 1]
    assert np.mean(force_n) / (9.8 * people[6].mass_kg) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("plate", ["FP1", "Combined"])
def test_recorded_free_moment_is_plausible(plate: str) -> None:
    """Otherwise the column has the moment about a corner of the laboratory, ten times as large."""
    table, ground = recorded_ground_reaction(
        "levelground_ccw_fast_01_01_grf.mot", {1: "FP1", 2: "Combined"}, (plate,)
    )
    assert ground.plates == [plate]
    assert np.abs(table[f"{plate}_moment_x"]).max() > 100.0
    assert 2.0 < np.percentile(np.abs(ground.values[:, 4]), 99) < 40.0  # Nm


def test_mat_io_cannot_execute_what_it_reads() -> None:
    """Otherwise a file from a stranger could run code; checked again with each mat-io version."""
    dangerous = re.compile(
        r"^\s*(import|from)\b.*\b(pickle|marshal|shelve|subprocess|ctypes|importlib|runpy)\b"
        r"|(?<![\w.])(eval|exec|compile|__import__)\(",
        re.MULTILINE,
    )
    for path in Path(raw_tree.matio.__file__).parent.rglob("*.py"):
        assert not dangerous.search(path.read_text()), path
