"""The check of a data file: silent on what is right, a warning for every fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from common.columns import DATASET_A_ACTIVITIES, DATASET_A_COLUMNS
from common.sample import dataset_b, write_sample

from common import folds
from common.data import read_dataset_a
from common.files import InputError
from tools.check import figure, layout, summary
from tools.check.strides import Strides
from tools.check_data import main
from tools.command import start

COLUMNS_B = dataset_b.columns()
Fault = Callable[[np.ndarray, Callable[[str], int]], None]


def check(path: Path, folder: Path) -> int:
    """Run the command in this process; the page of figures, if it is drawn, goes into `folder`."""
    return main([str(path), "--figure", str(folder / "page.png")])


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes a second."""
    monkeypatch.setattr(figure, "save", lambda *_: None)


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_the_sample_is_plausible(
    dataset: str, sample_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else everybody learns to look over the warnings."""
    assert check(sample_files[dataset], tmp_path) == 0
    said = capsys.readouterr().out
    assert f"Dataset {dataset.upper()}, 3 subjects" in said
    assert "WARNING" not in said
    assert "All is plausible." in said
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_measured_example_is_plausible(
    example_b: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the limits are those of the simulation and not of people."""
    assert check(example_b, tmp_path) == 0
    said = capsys.readouterr().out.split("\n")
    assert said[3].split() == ["01", "0.2", "0.2", "20", "10"]  # paper windows as in the README
    assert said[4].split() == ["02", "0.2", "0.2", "20", "14"]


def test_windows_are_those_that_the_scripts_cut(sample_files: dict[str, Path]) -> None:
    """Else the number on the screen is not that of a training."""
    script = layout.script_a
    recording = read_dataset_a(sample_files["a"], script.prepare)
    found, subjects, _ = layout.opened(sample_files["a"])
    for parts in subjects():
        amount = summary.amount(parts, found.study.window)
        for protocol in folds.PROTOCOLS:
            windows = folds.subject_windows(recording, [amount.subject], script.WINDOW, protocol)
            assert amount.windows[protocol] == len(windows.rows)


def spoilt_a(path: Path, good: Path, fault: Fault) -> Path:
    """Copy the sample of A with a fault in every activity of its first subject, 7."""
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        for table in file["All_subjects/Subject_7"].values():
            rows = table[:]
            fault(rows, DATASET_A_COLUMNS.index)
            table[:] = rows
    return path


def spoilt_b(path: Path, good: Path, fault: Fault) -> Path:
    """Copy the sample of B with a fault in its first subject, 01."""
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        names = json.loads(file.attrs["columns"])
        rows = file["subject_01"][:]
        fault(rows, names.index)
        file["subject_01"][:] = rows
    return path


def times(prefix: str, factor: float) -> Fault:
    """Return a fault that multiplies the columns whose names begin with `prefix`."""

    def fault(rows: np.ndarray, index: Callable[[str], int]) -> None:
        names = DATASET_A_COLUMNS if rows.shape[-1] == 129 else COLUMNS_B
        rows[..., [index(name) for name in names if name.startswith(prefix)]] *= factor

    return fault


def swap(one: str, other: str) -> Fault:
    """Return a fault that exchanges two columns."""

    def fault(rows: np.ndarray, index: Callable[[str], int]) -> None:
        rows[..., [index(one), index(other)]] = rows[..., [index(other), index(one)]]

    return fault


def put(name: str, value: float) -> Fault:
    """Return a fault that fills a column."""

    def fault(rows: np.ndarray, index: Callable[[str], int]) -> None:
        rows[..., index(name)] = value

    return fault


FAULTS_A = {
    "newton": (times("right_v", 700.0), "GRF y: median of the loaded foot 6"),
    "wrong mass": (times("right_v", 2.2), "far from a body weight"),
    "no force": (times("right_v", 0.0), "the foot is never loaded"),
    "z is vertical": (
        swap("right_vy", "right_vz"),
        "GRF z is the largest, not GRF y; axes swapped",
    ),
    "g": (times("foot_Accel", 1 / 9.8), "m/s², far from 9.8; in g?"),
    "doubled": (times("trunk_Accel", 2.0), "accelerometer trunk: median norm 19"),
    "deg/s": (times("foot_Gyro", 57.3), "rad/s; in deg/s?"),
    "Nm": (times("knee_angle_r_moment", 1200.0), "knee moment: 99th percentile of its size"),
    "EMG": (times("soleus", 300.0), "an envelope over its maximum is from 0 to 1"),
    "dead": (put("thigh_Gyro_Z", 0.5), "thigh_Gyro_Z: constant, 0.5"),
    "nothing": (put("gracilis", np.nan), "gracilis: nothing but NaN"),
    "turned": (swap("shank_Accel_X", "shank_Accel_Y"), "accelerometer shank: gravity"),
}


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("fault", "warning"), FAULTS_A.values(), ids=FAULTS_A)
def test_a_fault_in_a_is_found(
    fault: Fault,
    warning: str,
    sample_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else a network trains for days on a wrong unit, a dead channel or a turned sensor."""
    assert check(spoilt_a(tmp_path / "a.h5", sample_files["a"], fault), tmp_path) == 1
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert any(warning in line for line in warnings), warnings
    assert all("subject 7" in line for line in warnings)


FAULTS_B = {
    "rad/s": (times("Gyro", 1 / 57.3), "deg/s; in rad/s?"),
    "g": (times("AccelX_CHEST", 0.0), "AccelX_CHEST: constant, 0"),
    "pounds": (times("body weight", 2.2), "GRF vertical: median of the loaded foot 0.4"),
    "Nm": (times("EXT_KM_X", 12.0), "KFM: 99th percentile of its size"),
    "y is vertical": (swap("plate_2_force_y", "plate_2_force_z"), "not GRF vertical; axes swapped"),
    "no mass": (put("body weight", 0.0), "infinite values, divided by 0"),
}


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("fault", "warning"), FAULTS_B.values(), ids=FAULTS_B)
def test_a_fault_in_b_is_found(
    fault: Fault,
    warning: str,
    sample_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same for the other dataset."""
    assert check(spoilt_b(tmp_path / "b.h5", sample_files["b"], fault), tmp_path) == 1
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert any(warning in line for line in warnings), warnings
    assert all("subject 01" in line for line in warnings)


@pytest.mark.usefixtures("no_page")
def test_share_of_nan_is_told(
    sample_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nobody sees that half of the moments are missing."""

    def fault(rows: np.ndarray, index: Callable[[str], int]) -> None:
        rows[: len(rows) // 2, index("knee_angle_r_moment")] = np.nan

    assert check(spoilt_a(tmp_path / "a.h5", sample_files["a"], fault), tmp_path) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("knee moment"))
    assert line.split()[3] == "16.67"  # half of one subject of three
    subject = next(line for line in said.splitlines() if line.split()[:1] == ["7"])
    assert subject.split()[1:3] == ["0.1", "0.1"]


@pytest.mark.usefixtures("no_page")
def test_a_subject_without_a_window_is_named(
    sample_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else every script stops at it."""

    def fault(rows: np.ndarray, index: Callable[[str], int]) -> None:
        rows[1:, index("knee_angle_r_moment")] = np.nan

    assert check(spoilt_a(tmp_path / "a.h5", sample_files["a"], fault), tmp_path) == 1
    said = capsys.readouterr().out
    for protocol in folds.PROTOCOLS:
        assert f"subject 7: no full window of 100 rows under --protocol {protocol}" in said


@pytest.mark.usefixtures("no_page")
def test_one_subject_is_too_few(
    sample_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the check passes a file that every script refuses."""
    path = tmp_path / "a.h5"
    with h5py.File(sample_files["a"]) as good, h5py.File(path, "w") as file:
        good.copy("All_subjects/Subject_7", file.create_group("All_subjects"))
    assert check(path, tmp_path) == 1
    assert "WARNING: one subject; the scripts need one to train on" in capsys.readouterr().out


def test_strides_are_averaged_within_a_trial(tmp_path: Path) -> None:
    """Else the figure shows strides that nobody walked."""
    write_sample(tmp_path / "a.h5", "a", subjects=1, minutes=0.5, seed=3)
    found, subjects, _ = layout.opened(tmp_path / "a.h5")
    strides = Strides(found)
    for parts in subjects():
        for part in parts:
            strides.add(part)
    assert list(strides.counts) == list(DATASET_A_ACTIVITIES)
    assert 3 <= strides.counts["Treadmill"] <= 6  # two trials of 3.75 s
    mean, sd = strides.mean_and_sd("Treadmill")
    vertical = mean[:, found.vertical]
    assert 0.9 < vertical[5:30].max() < 1.5  # BW, weight acceptance
    assert np.abs(vertical[70:95]).max() < 0.02  # swing
    assert sd[70:95, found.vertical].max() < 0.02
    assert -0.15 < mean[35:60, 3].min() < -0.05  # ankle: push-off


def test_stances_of_b_are_those_of_force_phase(sample_files: dict[str, Path]) -> None:
    """Else the average of B is smeared over where the steps begin."""
    found, subjects, _ = layout.opened(sample_files["b"])
    strides = Strides(found)
    steps = 0
    for parts in subjects():
        strides.add(parts[0])
        steps += parts[0].block.trial.max() + 1
    mean, _ = strides.mean_and_sd("walking")
    assert strides.counts == {"walking": steps}
    assert mean[0, found.vertical] < 0.2
    assert mean[50, found.vertical] > 0.6
    assert mean[-1, found.vertical] < 0.2


@pytest.mark.usefixtures("no_page")
def test_what_is_no_data_file_is_refused(sample_files: dict[str, Path], tmp_path: Path) -> None:
    """Else a traceback ends the check, or a check passes what no script reads."""
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match="not an HDF5 file"):
        check(tmp_path / "text.h5", tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = 1
    with pytest.raises(InputError, match="neither All_subjects"):
        check(tmp_path / "other.h5", tmp_path)
    shutil.copy(sample_files["a"], tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["All_subjects/Subject_8/Ramp"]
    with pytest.raises(InputError, match="no Ramp in it"):
        check(tmp_path / "a.h5", tmp_path)
    with pytest.raises(InputError, match="no format of figures"):
        main([str(sample_files["a"]), "--figure", str(tmp_path / "page.txt")])


def test_the_command_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a job that checks first does not notice."""
    with pytest.raises(SystemExit) as end:
        start(lambda: check(tmp_path / "nowhere.h5", tmp_path))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/nowhere.h5: no such file")
    assert said.count("\n") == 1
