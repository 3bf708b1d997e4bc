"""Files of synthetic gait: layout, names, units, repeatability, and the command's errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from synthetic_gait import dataset_a, write_file
from synthetic_gait.__main__ import main
from tests.conftest import ROOT, Capture, Folders, Patch
from tools.dataset_a import DATASET_A_COLUMNS

TARGETS_B = ("EXT_KM_X", "EXT_KM_Y", "plate_2_force_x", "plate_2_force_y", "plate_2_force_z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Folders) -> Path:
    """Return a folder with a small file of each dataset, a.h5 and b.h5."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_file(folder / "a.h5", "a", subjects=2, minutes=0.4, seed=5)
    write_file(folder / "b.h5", "b", subjects=3, minutes=0.3, seed=5)
    return folder


def columns(file: h5py.File) -> list[str]:
    """Return the column names that a file states."""
    return json.loads(file.attrs["columns"])


def test_the_columns_of_a_are_those_that_are_read() -> None:
    """Else a synthetic file of Dataset A is read by wrong names."""
    assert tuple(DATASET_A_COLUMNS) == dataset_a.DATASET_A_COLUMNS


def test_the_package_stands_alone() -> None:
    """Else the simulator cannot be copied and used without the rest of the collection."""
    code = "import sys, synthetic_gait; print({'common', 'tools', 'torch'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()", result.stderr


def test_a_has_the_layout_of_the_real_file(folder: Path) -> None:
    """Else a script that reads Dataset A by position or by name stops at the synthetic file."""
    names_by_position = {
        **{0: "foot_Accel_X", 23: "trunk_Gyro_Z", 24: "pelvis_tilt", 46: "lumbar_rotation"},
        **{47: "pelvis_tilt_moment", 53: "hip_flexion_r_moment", 69: "mtp_angle_l_moment"},
        **{71: "right_vy", 79: "ankle_sagittal", 84: "gastrocmed_raw", 95: "gastrocmed"},
    }
    with h5py.File(folder / "a.h5") as file:
        names = columns(file)
        assert len(names) == len(set(names)) == 129
        assert {i: names[i] for i in names_by_position} == names_by_position
        assert file.attrs["synthetic"]
        assert "Synthetic" in file.attrs["description"]
        assert set(file["All_subjects"]) == {"Subject_7", "Subject_8"}
        for subject in file["All_subjects"].values():
            assert set(subject) == {"Treadmill", "Levelground", "Ramp", "Stair"}
            assert 40 < subject.attrs["mass_kg"] < 120
            assert 1.4 < subject.attrs["height_m"] < 2.1
            for data in subject.values():
                starts, labels = data.attrs["trial_starts"], json.loads(data.attrs["trial_names"])
                assert data.shape == (0.4 * 60 / 4 * 200, 129)
                assert starts[0] == 0
                assert len(starts) == len(labels) >= 2
                assert np.all(np.diff([*starts, len(data)]) >= 100)  # a window of half a second


def test_a_is_in_the_stated_units_and_climbs_and_descends(folder: Path) -> None:
    """Else a user's own model is in other units, or ramps and stairs have one direction only."""
    with h5py.File(folder / "a.h5") as file:
        index = columns(file).index
        for subject in file["All_subjects"].values():
            table = subject["Treadmill"][:]
            assert np.ptp(table[:, index("pelvis_tx")]) < 0.5  # m, relative to the room
            peak = -table[:, index("ankle_angle_r_moment")].min()
            assert 1.0 < peak * 9.80665 * subject.attrs["height_m"] < 2.1  # Nm/kg
            assert -80 < table[:, index("knee_angle_r")].min() < -35  # degrees
            for data in (subject["Ramp"], subject["Stair"]):
                heights_m = np.split(data[:, index("pelvis_ty")], data.attrs["trial_starts"][1:])
                for name, path_m in zip(
                    json.loads(data.attrs["trial_names"]), heights_m, strict=True
                ):
                    climbed_m = path_m[-1] - path_m[0]
                    assert climbed_m > 0.2 if "up" in name else climbed_m < -0.2


def test_b_has_the_layout_of_the_real_file(folder: Path) -> None:
    """Else a script that reads Dataset B by name and by step stops at the synthetic file."""
    with h5py.File(folder / "b.h5") as file:
        names = columns(file)
        assert len(names) == len(set(names)) == 256
        assert set(file) == {"subject_01", "subject_02", "subject_03"}
        phase = names.index("force_phase")
        for data in file.values():
            assert data.dtype == np.float32
            assert data.shape[1:] == (152, 256)
            assert len(data) >= 8  # 18 s of walking
            assert np.isfinite(data[:]).all()
            for step in data[:]:
                has_values = (step != 0).any(axis=1)
                count = np.flatnonzero(has_values).max() + 1
                contact = np.flatnonzero(step[:, phase])
                assert has_values[:count].all()
                np.testing.assert_array_equal(contact, np.arange(20, count - 20))


def test_b_resembles_the_measured_file(folder: Path, example_b: Path) -> None:
    """Else a name, sign, axis or unit differs, and code tried on synthetic data fails on real."""
    with h5py.File(example_b) as real_file, h5py.File(folder / "b.h5") as file:
        names = columns(file)
        assert names == columns(real_file)
        real, synthetic = (
            np.concatenate([step[20:80] for key in f for step in f[key][:]])
            for f in (real_file, file)
        )
    for name in (*TARGETS_B, "AccelY_R_SHANK", "AccelZ_R_FOOT", "GyroX_R_FOOT", "RAnkle_x_90"):
        i = names.index(name)
        limit = 2 if name in TARGETS_B else 3
        assert 1 / limit < synthetic[:, i].std() / real[:, i].std() < limit, name
    for name in (*TARGETS_B[:2], "plate_2_force_z", "AccelY_WAIST", "AccelY_CHEST", "RAC_Z"):
        i = names.index(name)
        difference = synthetic[:, i].mean() - real[:, i].mean()
        assert abs(difference) < real[:, i].std() + 0.1 * abs(real[:, i].mean()), name


def test_b_columns_agree_with_each_other(folder: Path) -> None:
    """Else the markers, force plate and knee moments of a step belong to different motions."""
    with h5py.File(folder / "b.h5") as file:
        names = columns(file)
        step = file["subject_02"][3].astype(float)

    def pick(*wanted: str) -> np.ndarray:
        return step[:, [names.index(name) for name in wanted]]

    contact = pick("force_phase")[:, 0] > 0
    knee_mm = sum(pick(*(f"{marker}_{a}" for a in "XYZ")) for marker in ("RFME", "RFLE")) / 2
    force_n = -pick(*(f"plate_2_force_{a}" for a in "xyz"))
    arm_m = (pick(*(f"plate_2_cop_{a}" for a in "xyz")) - knee_mm) / 1000.0
    scale_nm = step[0, 0] * 9.80665 * step[0, 1] / 100.0
    moment = np.cross(arm_m, force_n) / scale_nm * [-1.0, 1.0, 1.0]
    stated = pick("EXT_KM_X", "EXT_KM_Y", "EXT_KM_Z")
    np.testing.assert_allclose(moment[contact], stated[contact], atol=0.25)
    quaternions = pick(*(f"Quat{i}_WAIST" for i in range(1, 5)))[contact]
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, dataset: str) -> None:
    """Else a result on synthetic data cannot be repeated or compared by checksum."""
    contents = []
    for seed in (5, 5, 6):
        write_file(tmp_path / "x.h5", dataset, subjects=1, minutes=0.06, seed=seed)
        contents.append((tmp_path / "x.h5").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_more_subjects_leave_the_first_ones_unchanged(folder: Path, tmp_path: Path) -> None:
    """Else adding a subject changes the data of all, and folds cannot be compared."""
    write_file(tmp_path / "b.h5", "b", subjects=1, minutes=0.3, seed=5)
    with h5py.File(tmp_path / "b.h5") as few, h5py.File(folder / "b.h5") as many:
        first = many["subject_01"][:]
        np.testing.assert_array_equal(few["subject_01"][:], first)
        assert not np.array_equal(first[:8, :, 6], many["subject_02"][:8, :, 6])


@pytest.mark.parametrize(("dataset", "seconds"), [("a", 2.0), ("b", 3.0)])
def test_the_shortest_file_has_data(tmp_path: Path, dataset: str, seconds: float) -> None:
    """Else the smallest number of minutes gives a file without a window or a step."""
    for seed in range(3):
        write_file(tmp_path / "x.h5", dataset, subjects=1, minutes=seconds / 60, seed=seed)
        with h5py.File(tmp_path / "x.h5") as file:
            if dataset == "a":
                shapes = [data.shape for data in file["All_subjects/Subject_7"].values()]
                assert shapes == [(100, 129)] * 4
            else:
                assert len(file["subject_01"]) >= 1


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: Patch) -> None:
    """Else an unfinished file is mistaken for a complete one, or an older good one is lost."""
    target = tmp_path / "b.h5"
    write_file(target, "b", subjects=1, minutes=0.05, seed=0)
    older = target.read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("synthetic_gait.dataset_b.write_subjects", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_file(target, "b", subjects=1, minutes=0.2, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5"]
    assert target.read_bytes() == older


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 21, 1.0, 0), "subjects must be from 1 to 20"),
        (("a", 1, 0.033, 0), r"minutes per subject must be at least 2/60 \(2 seconds\)"),
        (("b", 1, float("nan"), 0), "minutes per subject must"),
        (("b", 1, 1001.0, 0), "at most 1000"),
        (("b", 1, 1.0, -1), "seed must be at least 0"),
        (("c", 1, 1.0, 0), "dataset must be 'a' or 'b'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: tuple, message: str) -> None:
    """Else a typing error gives an empty or wrong file."""
    with pytest.raises(ValueError, match=message):
        write_file(tmp_path / "new" / "x.h5", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--subjects", "21"), "subjects must be"),
        (("--minutes", "x"), "argument --minutes: "),
        (("--subjects", "1", "--minutes", "0.1", "--out", "file/x.h5"), "cannot write the file"),
    ],
)
def test_the_command_explains_errors_in_one_line(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture, flags: tuple[str, ...], message: str
) -> None:
    """Else a typing error ends in a traceback instead of one clear line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    try:
        status = main(["--dataset", "a", "--out", "x.h5", *flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
