"""From the download of Dataset A to its HDF5 file: the truth comes back; calls may be stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from common.columns import DATASET_A_COLUMNS

import Dataset_A_lmfn_tfn_fusion_models as script
from common.files import InputError
from tests import raw_tree
from tests.conftest import ROOT
from tools.prepare_dataset_a import main
from tools.raw import output, parallel
from tools.raw.matlab import Person
from tools.raw.subject import Activity, Subject

# Columns to the largest error that is allowed, in the unit of the file.
TOLERANCES = {
    "IMU, m/s² and rad/s": (range(24), 1e-5),
    "joint angles, degrees": (range(24, 47), 1e-4),
    "joint moments, BW·BH": (range(47, 70), 1e-6),
    "force, BW: heel strike is rounded by the low-pass": (range(70, 73), 0.03),
    "free moment, BW·m": (range(73, 76), 0.01),
    "centre of pressure, m": (range(76, 79), 0.001),
    "goniometers, degrees": (range(79, 84), 0.01),
    "raw EMG, mV, of at most 0.3": (range(84, 95), 0.02),
    "EMG envelope": (range(95, 106), 0.05),
    "power, W, of up to 500": (range(106, 129), 1e-4),
}


def convert(raw: Path, out: Path, *more: str) -> int:
    """Run the command in this process."""
    return main(["--raw", str(raw), "--out", str(out), "--jobs", "1", *more])


@pytest.fixture(scope="module")
def converted(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file made of both walkers."""
    path = tmp_path_factory.mktemp("converted") / "a.h5"
    assert convert(raw, path) == 0
    return path


def contents(path: Path) -> dict[str, np.ndarray]:
    """Return every dataset of a file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {})
        )
    return found


def same(one: Path, other: Path) -> bool:
    """Return whether two files hold the same datasets."""
    a, b = contents(one), contents(other)
    return list(a) == list(b) and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def test_every_column_is_recovered(converted: Path, walkers: list[raw_tree.Walker]) -> None:
    """Else a column has another unit, order, time or place than the scripts take it for."""
    with h5py.File(converted) as file:
        assert json.loads(file.attrs["columns"]) == list(DATASET_A_COLUMNS)
        for walker in walkers:
            expected = raw_tree.truth(walker)
            group = file[f"All_subjects/Subject_{walker.number}"]
            for trial in walker.trials:
                table = group[trial.activity]
                number = json.loads(table.attrs["trial_names"]).index(trial.name)
                starts = [*table.attrs["trial_starts"], len(table)]
                rows = table[starts[number] : starts[number + 1]]
                assert rows.dtype == np.float32
                assert rows.shape == expected[trial.name].shape
                np.testing.assert_array_equal(np.isnan(rows), np.isnan(expected[trial.name]))
                for what, (columns, tolerance) in TOLERANCES.items():
                    np.testing.assert_allclose(
                        rows[:, columns], expected[trial.name][:, columns],
                        rtol=1e-5, atol=tolerance, err_msg=f"{trial.name}: {what}",
                    )  # fmt: skip


def test_the_file_says_what_it_was_made_of(converted: Path, walkers: list[raw_tree.Walker]) -> None:
    """Else nobody can tell which units and plates the converter found, and whose mass it took."""
    with h5py.File(converted) as file:
        group = file["All_subjects/Subject_7"]
        assert group.attrs["mass_kg"] == walkers[0].body.mass_kg
        assert group.attrs["height_m"] == walkers[0].body.height_m
        assert json.loads(group.attrs["accelerometer_unit"]) == {"g": 7}
        assert json.loads(group.attrs["gyroscope_unit"]) == {"rad/s": 7}
        assert json.loads(group.attrs["cop_unit"]) == {"mm": 7}
        assert "Levelground: FP1" in json.loads(group.attrs["plates"])
        assert json.loads(group.attrs["skipped_trials"]) == {}
        assert group["Ramp"].compression == "gzip"
        assert group["Ramp"].chunks is not None


def test_envelope_is_normalised_per_subject(converted: Path) -> None:
    """Else activities of one subject are on different scales."""
    with h5py.File(converted) as file:
        for group in file["All_subjects"].values():
            emg = np.concatenate([table[:, 95:106] for table in group.values()])
            np.testing.assert_allclose(emg.max(axis=0), 1.0)


def test_a_script_trains_on_it(converted: Path, tmp_path: Path) -> None:
    """Else the file is one that only its maker reads."""
    result = script.main(
        ["--data", str(converted), "--rows", "lmfn-foot", "--epochs", "1", "--device", "cpu",
         "--output-dir", str(tmp_path)]
    )  # fmt: skip
    assert result["test_subject"].unique().tolist() == ["8"]
    assert np.isfinite(result.loc[result["activity"] == "all", "rmse"]).all()


def test_zips_give_the_same(raw: Path, converted: Path, tmp_path: Path) -> None:
    """Else the 22 GB must be unpacked first."""
    root = tmp_path / "zips"
    root.mkdir()
    for number, prefix in ((7, "Dataset/AB07"), (8, "")):  # with folders above, and without
        with zipfile.ZipFile(root / f"Ab{number:02d}.zip", "w") as archive:
            for path in sorted((raw / f"AB{number:02d}").rglob("*.mat")):
                inner = path.relative_to(raw / f"AB{number:02d}").as_posix()
                archive.write(path, f"{prefix}/{inner}".lstrip("/"))
    shutil.copy(raw / "SubjectInfo.mat", root)
    assert convert(root, tmp_path / "a.h5") == 0
    assert same(tmp_path / "a.h5", converted)


def test_capitals_do_not_matter(raw: Path, converted: Path, tmp_path: Path) -> None:
    """Else subjects whose folders are written otherwise are silently missing."""
    root = tmp_path / "camargo"
    for i, path in enumerate(sorted(raw.rglob("*.mat"))):
        name = path.relative_to(raw).as_posix()
        stem = name.removesuffix(".mat")
        target = root / ((stem.upper() if i % 2 else stem.lower()) + ".mat")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    assert convert(root, tmp_path / "a.h5") == 0
    assert same(tmp_path / "a.h5", converted)


def test_a_stopped_call_goes_on(
    raw: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else hours are lost, or the second call makes another file than one call would."""
    out = tmp_path / "a.h5"
    attempt, seen = parallel.attempt, []

    def watched(trial: raw_tree.Trial, person: Person) -> parallel.Outcome:
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.append(trial.subject)
        return attempt(trial, person)

    monkeypatch.setattr(parallel, "attempt", watched)
    with pytest.raises(KeyboardInterrupt):
        convert(raw, out)
    assert not out.exists()
    assert (tmp_path / "a.h5.parts" / "Subject_7.h5").exists()
    seen[:] = []
    assert convert(raw, out) == 0
    assert seen == [8, 8, 8, 8]  # subject 7 was not converted again
    assert out.read_bytes() == converted.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    seen[:] = []
    assert convert(raw, out) == 0
    assert not seen  # nothing was left to do
    assert out.read_bytes() == converted.read_bytes()


def test_changed_raw_files_are_not_mixed_in(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed call mixes two downloads in one file."""
    root, out = tmp_path / "camargo", tmp_path / "a.h5"
    shutil.copytree(raw, root)
    assert convert(root, out) == 0
    os.utime(next((root / "AB08").rglob("*.mat")), (1, 1))
    attempt, seen = parallel.attempt, []
    monkeypatch.setattr(
        parallel, "attempt", lambda t, person: seen.append(t.subject) or attempt(t, person)
    )
    assert convert(root, out) == 0
    assert set(seen) == {8}


def test_two_calls_at_once_are_refused(raw: Path, tmp_path: Path) -> None:
    """Else two calls write over each other's subjects."""
    out = tmp_path / "a.h5"
    with output.Output(out).locked(), pytest.raises(InputError, match="another call"):
        convert(raw, out)


def test_files_of_others_are_not_replaced(raw: Path, tmp_path: Path) -> None:
    """Else a slip in --out costs a user the paper's own file."""
    out = tmp_path / "a.h5"
    with h5py.File(out, "w") as file:
        file["All_subjects/Subject_7/Ramp"] = 1
    with pytest.raises(InputError, match="not made by this command"):
        convert(raw, out)
    assert h5py.is_hdf5(out)


def test_subjects_of_an_earlier_call_are_not_lost(raw: Path, tmp_path: Path) -> None:
    """Else asking for one more subject silently drops the others."""
    out = tmp_path / "a.h5"
    assert convert(raw, out) == 0
    with pytest.raises(InputError, match="has Subject_8, not asked for now"):
        convert(raw, out, "--subjects", "AB07")
    part = tmp_path / "camargo"  # AB08's zip deleted to free space
    shutil.copytree(raw / "AB07", part / "AB07")
    shutil.copy(raw / "SubjectInfo.mat", part)
    with pytest.raises(InputError, match="or not in --raw any more"):
        convert(part, out)
    with h5py.File(out) as file:
        assert list(file["All_subjects"]) == ["Subject_7", "Subject_8"]


def test_more_trials_than_an_attribute_usually_holds(tmp_path: Path) -> None:
    """Else a subject with hundreds of trials ends the conversion: attributes hold 64 KB."""
    names = [f"levelground_ccw_normal_{i:03d}_01" for i in range(500)]
    rows = np.zeros((1000, len(DATASET_A_COLUMNS)), np.float32)
    none = Activity([], [], rows[:0])
    activities = {"Treadmill": none, "Levelground": Activity(names, [*range(0, 1000, 2)], rows)}
    skipped = {f"10_14_18/{name}": "truncated or damaged .mat" for name in names}
    subject = Subject(7, Person(70.0, 1.7), activities, {"cop_unit": {"mm": 500}}, skipped)
    work = output.Output(tmp_path / "a.h5")
    with work.locked():
        work.assemble({7: work.write_subject(subject, "fingerprint")})
    assert output.trials_in(work.path, 7) == 500
    assert output.skipped_in(work.path, 7) == skipped
    with h5py.File(work.path) as file:
        table = file["All_subjects/Subject_7/Levelground"]
        assert json.loads(table.attrs["trial_names"]) == names
        assert table.attrs["trial_starts"].tolist() == [*range(0, 1000, 2)]


@pytest.mark.slow
def test_many_jobs_give_the_same_bytes(raw: Path, converted: Path, tmp_path: Path) -> None:
    """Else the file depends on the machine that made it."""
    assert convert(raw, tmp_path / "a.h5", "--jobs", "2") == 0
    assert (tmp_path / "a.h5").read_bytes() == converted.read_bytes()


@pytest.mark.slow
def test_a_killed_call_loses_the_subject_in_work_only(
    raw: Path, converted: Path, tmp_path: Path
) -> None:
    """Else a cut of power leaves half a file, or workers that never end."""
    out = tmp_path / "a.h5"
    command = [sys.executable, "-m", "tools.prepare_dataset_a", "--raw", raw, "--out", out]
    with subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_until(lambda: (tmp_path / "a.h5.parts" / "Subject_7.h5").exists())
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    if out.exists():
        pytest.fail("the call was over before it could be killed")
    assert convert(raw, out) == 0
    assert out.read_bytes() == converted.read_bytes()


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for at most half a minute."""
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
