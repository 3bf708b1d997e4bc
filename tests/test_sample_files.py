"""The sample's files: layout, names, units, repeatability, and what happens on an error."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.sample import write_sample
from tests.conftest import MEASURED, ROOT

EXAMPLE_B = MEASURED / "dataset_b" / "example_data.h5"
ACTIVITIES = ("Treadmill", "Levelground", "Ramp", "Stair")
USED_A = (*range(24), 53, 54, 62, 64, 70, 71, 72, *range(95, 106))
TARGETS_B = ("EXT_KM_X", "EXT_KM_Y", "plate_2_force_x", "plate_2_force_y", "plate_2_force_z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small file of each dataset: 3 subjects, seed 5."""
    folder = tmp_path_factory.mktemp("sample")
    for dataset, minutes in (("a", 0.4), ("b", 0.3)):
        write_sample(folder / f"{dataset}.h5", dataset, subjects=3, minutes=minutes, seed=5)
    return folder


def columns(file: h5py.File) -> list[str]:
    """The column names that a file states."""
    return json.loads(file.attrs["columns"])


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments: str) -> subprocess.CompletedProcess:
    """`python -m common.sample` with arguments."""
    command = [sys.executable, "-m", "common.sample", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_has_the_layout_of_the_real_file(folder: Path) -> None:
    """Else the scripts that read Dataset A by position or name stop at the sample."""
    with h5py.File(folder / "a.h5") as file:
        names = columns(file)
        assert len(names) == len(set(names)) == 129
        assert [names[i] for i in (0, 3, 6, 23)] == [
            "foot_Accel_X",
            "foot_Gyro_X",
            "shank_Accel_X",
            "trunk_Gyro_Z",
        ]
        assert [names[i] for i in (24, 30, 33, 46)] == [
            "pelvis_tilt",
            "hip_flexion_r",
            "knee_angle_r",
            "lumbar_rotation",
        ]
        assert [names[i] for i in (47, 50, 53, 54, 62, 64, 69)] == [
            "pelvis_tilt_moment",
            "pelvis_tx_force",
            "hip_flexion_r_moment",
            "hip_adduction_r_moment",
            "knee_angle_r_moment",
            "ankle_angle_r_moment",
            "mtp_angle_l_moment",
        ]
        assert names[79] == "ankle_sagittal"
        assert names[84] == "gastrocmed_raw"
        assert names[95] == "gastrocmed"
        assert all(name.endswith("_power") for name in names[106:])
        assert file.attrs["synthetic"]
        assert "Synthetic" in file.attrs["description"]
        assert set(file["All_subjects"]) == {"Subject_7", "Subject_8", "Subject_9"}
        for subject in file["All_subjects"].values():
            assert tuple(sorted(subject)) == tuple(sorted(ACTIVITIES))
            assert 40 < subject.attrs["mass_kg"] < 120
            assert 1.4 < subject.attrs["height_m"] < 2.1
            for data in subject.values():
                starts, labels = data.attrs["trial_starts"], json.loads(data.attrs["trial_names"])
                assert data.shape == (0.4 * 60 / 4 * 200, 129)
                assert starts[0] == 0
                assert len(starts) == len(labels) >= 2
                assert np.all(np.diff([*starts, len(data)]) >= 100)  # a window of half a second


def test_a_used_columns_live(folder: Path) -> None:
    """Else a model trains on NaN or on a channel that never moves."""
    with h5py.File(folder / "a.h5") as file:
        for subject in file["All_subjects"].values():
            for data in subject.values():
                table = data[:]
                assert np.isfinite(table).all()
                assert (table[:, USED_A].std(axis=0) > 1e-4).all()


def test_a_is_in_the_stated_units(folder: Path) -> None:
    """Else results come out in another unit than the tables say."""
    with h5py.File(folder / "a.h5") as file:
        names = columns(file)
        for subject in file["All_subjects"].values():
            table = subject["Treadmill"][:]
            for start in range(0, 24, 6):
                rest = np.median(np.linalg.norm(table[:, start : start + 3], axis=1))
                assert 8.0 < rest < 16.0  # m/s², not g
                assert 0.2 < np.abs(table[:, start + 3 : start + 6]).max() < 15.0  # rad/s
            assert np.abs(table[:, 3:6]).max() > 4.0  # the foot: 300-500 degrees/s in swing
            assert np.ptp(table[:, names.index("pelvis_tx")]) < 0.5  # m, the belt brings it back
            assert 0.9 < table[:, 71].max() < 1.5  # body weights, y is vertical
            peak = -table[:, names.index("ankle_angle_r_moment")].min()
            assert 1.0 < peak * 9.80665 * subject.attrs["height_m"] < 2.1  # Nm/kg
            assert -80 < table[:, names.index("knee_angle_r")].min() < -35  # degrees
        emg = np.concatenate(
            [v[:, 95:106] for s in list(file["All_subjects"].values())[:1] for v in s.values()]
        )
        np.testing.assert_allclose(emg.max(axis=0), 1.0)
        assert emg.min() > 0


def test_a_climbs_and_descends(folder: Path) -> None:
    """Else ramp and stair hold one direction only, and results by activity mislead."""
    with h5py.File(folder / "a.h5") as file:
        height = columns(file).index("pelvis_ty")
        for activity in ("Ramp", "Stair"):
            data = file["All_subjects/Subject_7"][activity]
            starts = [*data.attrs["trial_starts"], len(data)]
            rise = [
                data[b - 1, height] - data[a, height]
                for a, b in zip(starts[:-1], starts[1:], strict=True)
            ]
            for label, gained_m in zip(json.loads(data.attrs["trial_names"]), rise, strict=True):
                assert gained_m > 0.2 if "up" in label else gained_m < -0.2


def test_b_has_the_layout_of_the_real_file(folder: Path) -> None:
    """Else the scripts that read Dataset B by name and step stop at the sample."""
    with h5py.File(folder / "b.h5") as file:
        names = columns(file)
        assert len(names) == len(set(names)) == 256
        assert set(file) == {"subject_01", "subject_02", "subject_03"}
        phase = names.index("force_phase")
        for data in file.values():
            assert data.dtype == np.float32
            assert data.shape[1:] == (152, 256)
            assert len(data) >= 8  # 18 s of walking
            for step in data[:]:
                rows = np.flatnonzero((step != 0).any(axis=1)).max() + 1
                contact = np.flatnonzero(step[:, phase])
                assert contact[0] == 20
                assert rows == contact[-1] + 21
                assert len(contact) == contact[-1] - contact[0] + 1
                assert (step[:rows] != 0).any(axis=1).all()
                assert np.isfinite(step).all()


def test_b_has_the_names_of_the_measured_file(folder: Path) -> None:
    """Else one of 256 names is misspelt and a script fails only on real data."""
    if not EXAMPLE_B.exists():
        pytest.skip(f"measured data not here: {EXAMPLE_B}")
    with h5py.File(EXAMPLE_B) as real, h5py.File(folder / "b.h5") as file:
        assert columns(file) == columns(real)


def test_b_has_the_sizes_of_the_measured_file(folder: Path) -> None:
    """Else a sign, an axis or a unit differs, and code tried on the sample breaks on the data."""
    if not EXAMPLE_B.exists():
        pytest.skip(f"measured data not here: {EXAMPLE_B}")
    with h5py.File(EXAMPLE_B) as real, h5py.File(folder / "b.h5") as file:
        names = columns(file)
        real_rows, rows = (
            np.concatenate([s[20:80] for k in f for s in f[k][:]]) for f in (real, file)
        )
    for name in (*TARGETS_B, "AccelY_R_SHANK", "AccelZ_R_FOOT", "GyroX_R_FOOT", "RAnkle_x_90"):
        i = names.index(name)
        ratio = rows[:, i].std() / real_rows[:, i].std()
        assert 1 / 3 < ratio < 3, (name, ratio)
    for name in (*TARGETS_B[:2], "plate_2_force_z", "AccelY_WAIST", "AccelY_CHEST", "RAC_Z"):
        i = names.index(name)
        difference = rows[:, i].mean() - real_rows[:, i].mean()
        assert abs(difference) < real_rows[:, i].std() + 0.1 * abs(real_rows[:, i].mean()), name


def test_b_columns_agree_with_each_other(folder: Path) -> None:
    """Else markers, plate and knee moments of a step belong to different motions."""
    with h5py.File(folder / "b.h5") as file:
        names = columns(file)
        step = file["subject_02"][3].astype(float)

    def pick(*wanted: str) -> np.ndarray:
        return step[:, [names.index(name) for name in wanted]]

    contact = pick("force_phase")[:, 0] > 0
    knee_mm = sum(pick(*(f"{m}_{a}" for a in "XYZ")) for m in ("RFME", "RFLE")) / 2
    force_n = -pick(*(f"plate_2_force_{a}" for a in "xyz"))
    arm_m = (pick(*(f"plate_2_cop_{a}" for a in "xyz")) - knee_mm) / 1000.0
    scale = step[0, 0] * 9.80665 * step[0, 1] / 100.0
    moment = np.cross(arm_m, force_n) / scale * [-1.0, 1.0, 1.0]
    stated = pick("EXT_KM_X", "EXT_KM_Y", "EXT_KM_Z")
    np.testing.assert_allclose(moment[contact], stated[contact], atol=0.25)
    quaternions = pick(*(f"Quat{i}_WAIST" for i in range(1, 5)))[contact]
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_same_arguments_same_bytes(folder: Path, tmp_path: Path, dataset: str) -> None:
    """Else a result on the sample cannot be repeated or compared with a checksum."""
    minutes = {"a": 0.4, "b": 0.3}[dataset]
    write_sample(tmp_path / "again.h5", dataset, subjects=3, minutes=minutes, seed=5)
    assert digest(tmp_path / "again.h5") == digest(folder / f"{dataset}.h5")
    write_sample(tmp_path / "other.h5", dataset, subjects=3, minutes=minutes, seed=6)
    assert digest(tmp_path / "other.h5") != digest(folder / f"{dataset}.h5")


def test_more_subjects_leave_the_first_ones(folder: Path, tmp_path: Path) -> None:
    """Else adding a subject changes the data of all, and folds cannot be compared."""
    write_sample(tmp_path / "b.h5", "b", subjects=1, minutes=0.3, seed=5)
    with h5py.File(tmp_path / "b.h5") as few, h5py.File(folder / "b.h5") as many:
        np.testing.assert_array_equal(few["subject_01"][:], many["subject_01"][:])
        assert not np.array_equal(many["subject_01"][:, :, 6], many["subject_02"][:8, :, 6])


def test_more_sensors_help(folder: Path) -> None:
    """Else the tables by sensor set would be flat on the sample, and a mix-up of sets invisible."""
    with h5py.File(folder / "b.h5") as file:
        names = columns(file)
        steps = [s[20:80] for k in file for s in file[k][:]]
    target = np.concatenate([s[:, names.index("EXT_KM_Y")] for s in steps])
    train = np.arange(len(target)) % 600 < 400  # blocks of whole steps
    error = {}
    sets = {"foot": ("R_FOOT",), "all": ("R_FOOT", "R_SHANK", "WAIST", "CHEST")}
    for label, sensors in sets.items():
        signals = tuple(f"{k}{a}_{s}" for s in sensors for k in ("Accel", "Gyro") for a in "XYZ")
        used = [names.index(signal) for signal in signals]
        inputs = np.concatenate([np.c_[s[:, used], np.ones(len(s))] for s in steps])
        fit = np.linalg.lstsq(inputs[train], target[train], rcond=None)[0]
        error[label] = np.sqrt(np.mean((inputs[~train] @ fit - target[~train]) ** 2))
    assert error["all"] < 0.9 * error["foot"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a half-written file is taken for a sample, or an older good one is lost."""
    target = tmp_path / "b.h5"
    target.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("common.sample.dataset_b.write", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_sample(target, "b", subjects=1, minutes=0.2, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["b.h5"]
    assert target.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--dataset", "a", "--subjects", "0", "--minutes", "1"), "subjects"),
        (("--dataset", "a", "--subjects", "21", "--minutes", "1"), "subjects"),
        (("--dataset", "a", "--subjects", "1", "--minutes", "0.01"), "minutes"),
        (("--dataset", "b", "--subjects", "1", "--minutes", "nan"), "minutes"),
        (("--dataset", "b", "--subjects", "1", "--minutes", "1", "--seed", "-1"), "seed"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    """Else a typo costs a traceback or an empty file instead of one plain line."""
    result = run(*arguments, "--out", str(tmp_path / "x.h5"))
    assert result.returncode == 2
    assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unwritable_path_is_refused(tmp_path: Path) -> None:
    """Else the user learns of a wrong folder by a traceback."""
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "x.h5"
    result = run("--dataset", "b", "--subjects", "1", "--minutes", "0.1", "--out", str(target))
    assert result.returncode == 2
    assert str(tmp_path / "file") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    """Else the user has to open the file to know whether it worked."""
    target = tmp_path / "x.h5"
    result = run("--dataset", "b", "--subjects", "1", "--minutes", "0.1", "--out", str(target))
    assert result.returncode == 0, result.stderr
    assert str(target) in result.stdout
    assert h5py.is_hdf5(target)
    assert result.stderr == ""


@pytest.mark.parametrize(("dataset", "minutes"), [("a", 2.0 / 60), ("b", 3.0 / 60)])
def test_the_shortest_sample_has_data(tmp_path: Path, dataset: str, minutes: float) -> None:
    """Else the stated least number of minutes gives a file without a window or a step."""
    for seed in range(3):
        write_sample(tmp_path / "x.h5", dataset, subjects=1, minutes=minutes, seed=seed)
        with h5py.File(tmp_path / "x.h5") as file:
            if dataset == "a":
                shapes = [file["All_subjects/Subject_7"][k].shape for k in ACTIVITIES]
                assert shapes == [(100, 129)] * 4
            else:
                assert len(file["subject_01"]) >= 1
