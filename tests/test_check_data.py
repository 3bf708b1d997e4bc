"""The check of a data file: silent if all is right, a warning for every fault."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.data import DATASET_A_ACTIVITIES
from common.files import InputError
from common.windows import PROTOCOLS, cut_windows
from synthetic_gait import write_file
from synthetic_gait.dataset_b import DATASET_B_COLUMNS
from tests.conftest import Capture, Files, Patch
from tests.faults import Fault, exchange, fill, freeze, scale
from tools.check_data.__main__ import Summary, main
from tools.check_data.layout import DataFile
from tools.check_data.stances import Stances
from tools.dataset_a import DATASET_A_COLUMNS

Edit = Callable[[h5py.File], None]
CheckCopy = Callable[[str, Edit], tuple[list[str], str]]


def check(path: Path, folder: Path) -> int:
    """Run the command in this process; the figure is written to `folder`."""
    return main([str(path), "--figure", str(folder / "page.png")])


@pytest.fixture
def check_copy(
    synthetic_files: Files, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> CheckCopy:
    """Return a function that checks an edited copy; it returns the warnings and the output."""
    monkeypatch.setattr("tools.check_data.__main__.save_figure", lambda *_: None)  # takes a second

    def edit_and_check(dataset: str, edit: Edit) -> tuple[list[str], str]:
        path = copy(synthetic_files[dataset], tmp_path / f"{dataset}.h5", edit)
        status, output = check(path, tmp_path), capsys.readouterr().out
        warnings = [line for line in output.splitlines() if line.startswith("WARNING")]
        assert status == bool(warnings)
        return warnings, output

    return edit_and_check


def copy(good: Path, path: Path, edit: Edit) -> Path:
    """Copy a file and edit the copy."""
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


# Files without a fault ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_synthetic_data_are_plausible(
    dataset: str, synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Otherwise users learn to overlook the warnings."""
    assert check(synthetic_files[dataset], tmp_path) == 0
    output = capsys.readouterr().out
    assert f"Dataset {dataset.upper()}, SYNTHETIC DATA, 3 subjects" in output
    assert "WARNING" not in output
    assert "Everything is plausible." in output
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_measured_example_is_plausible(
    example_b: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Otherwise the limits are those of the simulation and not of people."""
    assert check(example_b, tmp_path) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["01", "0.2", "0.2", "20", "10"] in lines  # the paper's windows, as in the README
    assert ["02", "0.2", "0.2", "20", "14"] in lines


def test_windows_are_those_that_the_scripts_cut(synthetic_files: Files) -> None:
    """Otherwise the number on the screen is not that of a run."""
    recording = script_a.read(synthetic_files["a"])
    with h5py.File(synthetic_files["a"]) as file:
        data = DataFile(synthetic_files["a"], file)
        summary = Summary(data.layout)
        for subject, parts in data.subjects():
            amount = summary.add(subject, parts)
            for protocol in PROTOCOLS:
                windows, _ = cut_windows(recording, [subject], script_a.WINDOW, protocol)
                assert amount[protocol] == len(windows)


# Faults in the values -----------------------------------------------------------------------------


def put(fault: Fault) -> Edit:
    """Return an edit that puts a fault into the first subject: 7 of A, 01 of B."""

    def edit(file: h5py.File) -> None:
        is_a = "All_subjects" in file
        for values in file["All_subjects/Subject_7"].values() if is_a else [file["subject_01"]]:
            names = DATASET_A_COLUMNS if is_a else DATASET_B_COLUMNS
            table = pd.DataFrame(values[:].reshape(-1, len(names)), columns=[*names])
            fault(table)
            values[:] = table.to_numpy().reshape(values.shape)

    return edit


KNEE = ["knee_angle_r_moment"]
FOOT = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
STEP = 152  # samples of a step of B
FAULTS_A = {
    "newton": (scale(["right_v"], 700.0), "GRF vertical: median of the loaded foot 6"),
    "no force": (scale(["right_v"], 0.0), "the foot is never loaded"),
    "trial without force": (scale(["right_v"], 0.0), "exactly 0 in Ramp, trial 1"),
    "z is vertical": (
        exchange(["right_vy"], ["right_vz"]),
        "GRF medio-lateral is the largest, not GRF vertical; axes swap",
    ),
    "g": (scale(["foot_Accel"], 1 / 9.8), "m/s², far from 9.8; in g?"),
    "deg/s": (scale(["foot_Gyro"], 57.3), "rad/s; in deg/s?"),
    "Nm": (scale(["knee_angle_r_moment"], 1200.0), "knee moment: 99th percentile of its"),
    "EMG": (scale(["soleus"], 300.0), "an envelope divided by its maximum is from 0 to 1"),
    "dead": (fill(["thigh_Gyro_Z"], 0.5), "thigh_Gyro_Z: constant, 0.5"),
    "frozen": (
        freeze(FOOT, slice(10, 250)),
        "Stair: foot: all six channels unchanged for 1.2 s from 0.050 s of trial 1 on, ",
    ),
    "zeros": (
        fill(DATASET_A_COLUMNS[:24], 0, slice(5, 8)),
        "trunk: all six channels exactly 0 for 0.015 s from 0.025 s of trial 1 on, ",
    ),
    "sentinel": (fill(["foot_Gyro_X"], -9999.0, slice(0, None, 50)), "foot_Gyro_X: -9999 in 2"),
    "nothing": (fill(["gracilis"], np.nan), "gracilis: nothing but NaN"),
    "exchanged": (
        exchange(["shank_Accel_X"], ["shank_Accel_Y"]),
        "shank: cannot tell whether it is mounted as in the other subjects: axes seem to be",
    ),
}
FAULTS_B = {
    "rad/s": (scale(["Gyro"], 1 / 57.3), "deg/s; in rad/s?"),
    "pounds": (scale(["body weight"], 2.2), "GRF vertical: median of the loaded foot 0.4"),
    "cm": (scale(["body height"], 100.0), "m; in cm?"),
    "step without force": (
        fill([f"plate_2_force_{axis}" for axis in "xyz"], 0, slice(2 * STEP, 3 * STEP)),
        "ground reaction: exactly 0 in step 3, although the KFM reaches",
    ),
    "no mass": (fill(["body weight"], 0.0), "infinite values, divided by 0"),
    "joint in one view": (fill(["RAnkle_x_90"], 0.0), "joint RAnkle: exactly 0 in x_90 in 100 %"),
    "joint not found": (
        fill([f"LKnee_{view}" for view in script_b.VIEWS], 0, slice(0, None, 5)),
        "video joint LKnee: exactly 0 in all views in 20",
    ),
}


@pytest.mark.parametrize(
    ("dataset", "name"), [*(("a", name) for name in FAULTS_A), *(("b", name) for name in FAULTS_B)]
)
def test_a_fault_is_found(dataset: str, name: str, check_copy: CheckCopy) -> None:
    """Otherwise a network trains for days on a wrong unit, a dead channel or a turned sensor."""
    fault, warning = (FAULTS_A if dataset == "a" else FAULTS_B)[name]
    warnings, _ = check_copy(dataset, put(fault))
    assert any(warning in line for line in warnings), warnings
    assert all(f"subject {'7' if dataset == 'a' else '01'}" in line for line in warnings)


def test_pixels_are_not_taken_for_sentinels(check_copy: CheckCopy) -> None:
    """Otherwise a knee at pixel 999, in the middle of the image, is called a missing value."""
    assert not check_copy("b", put(fill(["RKnee_y_90"], 999.0, slice(1))))[0]


def test_missing_values_are_counted_and_a_subject_without_a_window_is_named(
    check_copy: CheckCopy,
) -> None:
    """Otherwise nobody notices that half of the moments are missing, or every script stops."""

    warnings, output = check_copy("a", put(fill(KNEE, np.nan, slice(None, None, 2))))
    knee = next(line for line in output.splitlines() if line.startswith("knee moment"))
    assert knee.split()[3] == "16.67"  # half of one subject of three
    subject = next(line for line in output.splitlines() if line.split()[:1] == ["7"])
    assert subject.split()[1:3] == ["0.1", "0.1"]
    assert warnings == ["WARNING: subject 7: no full window of 100 samples under --protocol strict"]
    _, output = check_copy("a", put(fill(KNEE, np.nan, slice(1, None))))
    assert "subject 7: no full window of 100 samples under --protocol paper" in output


# Faults in the layout -----------------------------------------------------------------------------


def test_trial_starts_beyond_the_table_are_reported(check_copy: CheckCopy) -> None:
    """Otherwise starts counted at 1000 Hz join trials, and windows of `strict` cross them."""

    def edit(file: h5py.File) -> None:
        file["All_subjects/Subject_8/Ramp"].attrs["trial_starts"] = [0, 100, 10**6]

    [warning], _ = check_copy("a", edit)
    assert "subject 8: Ramp: `trial_starts` has [1000000], but the table has" in warning


def replace_tables(file: h5py.File, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace every table of a file, whose attributes are kept."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    for name in names:
        values, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        file[name] = change(values)
        file[name].attrs.update(attributes)


@pytest.mark.parametrize(("dataset", "order"), [("a", "[2 1]"), ("b", "[3 2 1]")])
def test_reversed_axes_are_named(
    dataset: str, order: str, synthetic_files: Files, tmp_path: Path
) -> None:
    """Otherwise users of MATLAB search for the fault in the number of columns."""
    edit = partial(replace_tables, change=np.transpose)
    path = copy(synthetic_files[dataset], tmp_path / "reversed.h5", edit)
    message = f"reversed, as MATLAB's h5write stores them; write permute(x, {order})"
    with pytest.raises(InputError, match=re.escape(message)):
        check(path, tmp_path)


def test_column_names_may_be_an_array_of_strings(synthetic_files: Files, tmp_path: Path) -> None:
    """Otherwise a file written by MATLAB or R, which have no JSON at hand, is refused."""

    def edit(file: h5py.File) -> None:
        names = json.loads(file.attrs["columns"])
        del file.attrs["columns"]
        file.attrs.create("columns", names, dtype="S40")

    path = copy(synthetic_files["b"], tmp_path / "b.h5", edit)
    assert script_b.read(path).digest() == script_b.read(synthetic_files["b"]).digest()


@pytest.mark.parametrize(
    ("dataset", "old", "new"),
    [("a", "All_subjects/Subject_7", "Subject_AB07"), ("b", "subject_02", "subject_S02")],
)
def test_subjects_with_other_names_are_reported(
    dataset: str, old: str, new: str, check_copy: CheckCopy, tmp_path: Path, capsys: Capture
) -> None:
    """Otherwise a subject is left out of training without notice."""
    group = old.rpartition("/")[0]
    [warning], _ = check_copy(dataset, lambda file: file.move(old, f"{group}/{new}"))
    assert f"ignored {new}: a subject must be named" in warning
    path = tmp_path / f"{dataset}.h5"
    with h5py.File(path, "r+") as file:
        others = file[group or "/"]
        del others[sorted(name for name in others if name != new)[0]]
    assert check(path, tmp_path) == 1
    assert "WARNING: one subject; the scripts need one to train on" in capsys.readouterr().out


def test_padding_is_not_data_or_is_reported(
    check_copy: CheckCopy, synthetic_files: Files, tmp_path: Path
) -> None:
    """Otherwise a third of the samples are zeros, and the errors look better than they are."""

    def fill_padding(*columns: str) -> Edit:
        def change(steps: np.ndarray) -> np.ndarray:
            for column in map(DATASET_B_COLUMNS.index, columns):
                steps[..., column] = steps[:, :1, column]
            return steps

        return lambda file: replace_tables(file, change)

    assert not check_copy("b", fill_padding("body weight", "body height"))[0]
    assert script_b.read(tmp_path / "b.h5").digest() == script_b.read(synthetic_files["b"]).digest()
    warnings, _ = check_copy("b", fill_padding("RAC_Z"))
    for subject in ("01", "02", "03"):
        assert any(
            f"subject {subject}: CHEST, " in line and "exactly 0 in" in line for line in warnings
        )


# Files that cannot be used ------------------------------------------------------------------------


def test_other_files_are_refused(synthetic_files: Files, tmp_path: Path) -> None:
    """Otherwise a traceback ends the check, or the check passes a file that no script reads."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = 1
    with pytest.raises(InputError, match="neither All_subjects"):
        check(tmp_path / "other.h5", tmp_path)
    savemat(tmp_path / "a.mat", {"subject_01": np.ones((2, 3))})
    with pytest.raises(InputError, match=r"a MATLAB 5\.0 file .*not HDF5; .*-v7\.3"):
        check(tmp_path / "a.mat", tmp_path)
    with pytest.raises(InputError, match="nowhere.h5: no such file"):
        check(tmp_path / "nowhere.h5", tmp_path)
    with pytest.raises(InputError, match="is a folder; give the path of an HDF5 file"):
        check(tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["x" * 300])
    with pytest.raises(InputError, match="not a figure format"):
        main([str(synthetic_files["a"]), "--figure", str(tmp_path / "page.txt")])


# The figure ---------------------------------------------------------------------------------------


def add_stances(path: Path) -> tuple[Stances, int]:
    """Return the stances of a file, and its number of steps or trials."""
    with h5py.File(path) as file:
        data = DataFile(path, file)
        stances, trials = Stances(data.layout), 0
        for _, parts in data.subjects():
            for part in parts:
                stances.add(part)
                trials += len(np.unique(part.trial))
    return stances, trials


def test_stances_are_averaged_within_a_trial(tmp_path: Path) -> None:
    """Otherwise the figure shows stances that nobody walked."""
    write_file(tmp_path / "a.h5", "a", subjects=1, minutes=0.5, seed=3)
    stances, _ = add_stances(tmp_path / "a.h5")
    vertical = stances.layout.vertical
    assert list(stances.counts) == list(DATASET_A_ACTIVITIES)
    assert 3 <= stances.counts["Treadmill"] <= 6  # two trials of 3.75 s
    mean, sd = stances.mean_and_sd("Treadmill")
    assert 0.9 < mean[5:40, vertical].max() < 1.5  # BW, weight acceptance
    assert mean[[0, -1], vertical].max() < 0.2
    assert sd[:, vertical].max() < 0.2
    assert -0.15 < mean[60:95, 3].min() < -0.05  # ankle: push-off


def test_each_step_of_b_has_one_stance(synthetic_files: Files) -> None:
    """Otherwise the average of B is smeared by the different starts of the steps."""
    stances, steps = add_stances(synthetic_files["b"])
    mean, _ = stances.mean_and_sd("walking")
    assert stances.counts == {"walking": steps}
    assert mean[0, stances.layout.vertical] < 0.2
    assert mean[50, stances.layout.vertical] > 0.6
    assert mean[-1, stances.layout.vertical] < 0.2
