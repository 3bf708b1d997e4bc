"""A trained model on a new recording: what it needs, what is left out, and one smooth curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
from common import checkpoints
from common.files import InputError
from tests.narrow import narrow_networks
from tests.predicting import only, predicted, random_model, targets_of
from tests.test_scripts import SCRIPTS
from tools.prediction import blending, figure
from tools.prediction.needs import needs_of
from tools.trained import restore

FOOT = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
TREADMILL = "All_subjects/Subject_7/Treadmill"


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes a second."""
    monkeypatch.setattr(figure, "save", lambda *_: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each dataset with random weights, by letter."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "a": random_model(fusion_a, "lmfn-foot", folder),
        "b": random_model(fusion_b, "lmfn-feet", folder),
    }


@pytest.fixture
def walk(sample_files: dict[str, Path], tmp_path: Path) -> Path:
    """What a user has: one subject on a treadmill, the foot's IMU and no forces."""
    return only(sample_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_reads_no_more_than_it_needs(
    script: ModuleType, sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """Else a user with two sensors must invent the columns of the others, and of the plates."""
    row = script.EXPERIMENTS[-1].row
    with narrow_networks():
        checkpoint = random_model(script, row, tmp_path)
        needs = needs_of(restore(checkpoint))
        assert not set(needs.inputs) & set(needs.targets)
        table = TREADMILL if script.STUDY.dataset == "a" else "subject_01"
        rows = slice(0, 300 if script.STUDY.dataset == "a" else 2)  # of B: steps
        data = sample_files[script.STUDY.dataset]
        everything = only(data, tmp_path / "all.h5", table, [*needs.inputs, *needs.targets], rows)
        least = only(data, tmp_path / "least.h5", table, needs.inputs, rows)
        found = targets_of(predicted(checkpoint, least))
        assert np.isfinite(found).any()
        np.testing.assert_array_equal(found, targets_of(predicted(checkpoint, everything)))


def test_columns_needed_are_those_of_the_sensor_set(tmp_path: Path) -> None:
    """The same from the other side: too few columns asked for would be filled with ones."""
    feet = random_model(fusion_b, "lmfn-feet", tmp_path)
    kinds = [f"{kind}{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
    assert set(needs_of(restore(feet)).inputs) == {f"{k}_{s}_FOOT" for k in kinds for s in "LR"}
    video = needs_of(restore(random_model(fusion_b, "lmfn-all_imus_video", tmp_path)))
    assert len(video.inputs) == 8 * 6 + 11 * 4 + 1
    assert "body height" in video.inputs
    assert set(video.targets) == {
        *("EXT_KM_X", "EXT_KM_Y", "body weight"),
        *(f"plate_2_force_{axis}" for axis in "xyz"),
    }


def test_a_missing_column_is_named(
    models: dict[str, Path], sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """Else a wrong name is found by guessing."""
    path = only(sample_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT[:-1])
    with pytest.raises(InputError, match="no column foot_Gyro_Z, which the model reads"):
        predicted(models["a"], path)


def test_rows_with_nan_and_short_stretches_stay_empty(
    walk: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Else windows reach over a lost signal, or rows vanish and times no longer fit."""
    before = targets_of(predicted(models["a"], walk))
    rows = len(before)
    with h5py.File(walk, "r+") as file:
        file[TREADMILL][150, 2] = np.nan
        file[TREADMILL][200, 2] = np.nan
    lines = predicted(models["a"], walk)
    after = targets_of(lines)
    assert len(after) == rows
    empty = np.isnan(after).any(axis=1)
    assert empty[150:201].all()
    assert not empty[:150].any()
    assert lines["stretch"].isna().sum() == 2
    np.testing.assert_array_equal(after[:50], before[:50])  # of a window that ends before
    said = capsys.readouterr().out
    assert "49 are in stretches shorter than a window of 100 samples (0.5 s)" in said
    assert "2 lack a column" in said


def test_nothing_to_predict_is_said(
    models: dict[str, Path], sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """Else an empty figure is the answer to a recording of half a second."""
    path = only(sample_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT, slice(0, 99))
    with pytest.raises(InputError, match="99 samples: 99 are in stretches shorter than a window"):
        predicted(models["a"], path)


def test_no_window_crosses_trials(
    models: dict[str, Path], sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """Else the end of one trial is predicted from the start of another."""
    apart = [
        only(
            sample_files["a"], tmp_path / f"{i}.h5", TREADMILL, FOOT, slice(150 * i, 150 * i + 150)
        )
        for i in range(2)
    ]
    both = only(sample_files["a"], tmp_path / "both.h5", TREADMILL, FOOT, slice(0, 300))
    with h5py.File(both, "r+") as file:
        file[TREADMILL].attrs["trial_starts"] = [0, 150]
    expected = np.concatenate([targets_of(predicted(models["a"], path)) for path in apart])
    lines = predicted(models["a"], both)
    np.testing.assert_allclose(targets_of(lines), expected, rtol=1e-5, atol=1e-6)
    assert lines["trial"].tolist() == [1] * 150 + [2] * 150
    assert lines["time (s)"][150] == 0
    assert lines["time (s)"][299] == pytest.approx(149 / 200)


def test_units_are_turned(
    walk: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a recording in g and deg/s gives forces of nobody, without a word."""
    expected = targets_of(predicted(models["a"], walk))
    assert "WARNING" not in capsys.readouterr().out
    with h5py.File(walk, "r+") as file:
        file[TREADMILL][:, :3] /= 9.80665
        file[TREADMILL][:, 3:] *= 180 / np.pi
    units = ["--acc-unit", "g", "--gyr-unit", "deg/s"]
    np.testing.assert_allclose(
        targets_of(predicted(models["a"], walk, *units)), expected, rtol=1e-3, atol=1e-4
    )
    assert "WARNING" not in capsys.readouterr().out
    predicted(models["a"], walk)
    said = capsys.readouterr().out
    assert "far from 9.8; see --acc-unit" in said
    assert "in deg/s?; see --gyr-unit" in said


def test_windows_cover_every_long_stretch_to_its_end() -> None:
    """Else the end of every recording is missing, or a window lies on two stretches."""
    stretch = np.repeat([0, -1, 1, 2, 3], [25, 3, 9, 10, 23])
    for hop in (1, 3, 5, 10):
        windows = blending.overlapping_windows(stretch, 10, hop).numpy()
        assert (np.diff(windows) == 1).all()
        assert (stretch[windows] == stretch[windows[:, :1]]).all()
        assert set(windows.flatten()) == set(np.flatnonzero(np.isin(stretch, [0, 2, 3])))
        assert len(np.unique(windows[:, 0])) == len(windows)
        assert np.diff(windows[:, 0])[windows[1:, 0] < 15].max(initial=0) <= hop


def blended(
    function: Callable[[torch.Tensor], torch.Tensor], rows: int, window: int, hop: int
) -> np.ndarray:
    """Blend what a function of the windows' values `(B, T, 1)` gives."""
    stand_in = SimpleNamespace(
        study=SimpleNamespace(targets=["one"]), predict=lambda batch: function(batch["targets"])
    )
    samples = {"targets": torch.linspace(-1, 1, rows)[:, None]}
    windows = blending.overlapping_windows(np.zeros(rows, int), window, hop)
    return blending.blended(stand_in, samples, windows, 4)[:, 0]


@pytest.mark.parametrize("hop", [1, 7, 10, 20])
def test_where_windows_agree_their_mean_is_what_they_give(hop: int) -> None:
    """Else blending bends the curve, most of all at the ends of a stretch."""
    curve = blended(lambda values: values**3, rows=93, window=20, hop=hop)
    np.testing.assert_allclose(curve, np.linspace(-1, 1, 93) ** 3, atol=1e-6)


def test_where_windows_disagree_no_seam_shows() -> None:
    """Else a step every quarter of a second looks like a contact with the ground."""

    def by_turns(hop: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def constant(values: torch.Tensor) -> torch.Tensor:
            first_row = ((values[:, :1] + 1) * 102).round()
            return (1 - 2 * (first_row // hop % 2)).expand_as(values)

        return constant

    curves = {hop: blended(by_turns(hop), rows=205, window=20, hop=hop) for hop in (10, 20)}
    steps = {hop: np.abs(np.diff(curve)).max() for hop, curve in curves.items()}
    assert np.ptp(curves[10]) > 1
    assert steps[20] == 2  # side by side
    assert steps[10] < 0.2 * steps[20]  # the slope of the weights times the jump
    assert (blending.taper(20) > 0).all()


def test_the_subject_must_be_chosen_where_there_are_several(
    models: dict[str, Path], sample_files: dict[str, Path]
) -> None:
    """Else the first one is predicted and taken for another."""
    with pytest.raises(InputError, match=r"several subjects; --subject takes one of 01 02 03"):
        predicted(models["b"], sample_files["b"])
    with pytest.raises(InputError, match=r"no subject 9; --subject takes one of 01 02 03"):
        predicted(models["b"], sample_files["b"], "--subject", "9")
    lines = predicted(models["b"], sample_files["b"], "--subject", "2")
    assert (lines["subject"] == "02").all()
    assert lines["step"].iloc[0] == 1


def test_an_activity_can_be_chosen(
    models: dict[str, Path], sample_files: dict[str, Path], walk: Path
) -> None:
    """Half a day of stairs need not be predicted to see the ramp."""
    lines = predicted(models["a"], sample_files["a"], "--subject", "7", "--activity", "Ramp")
    assert set(lines["activity"]) == {"Ramp"}
    with pytest.raises(InputError, match=r"no Ramp; --activity takes some of Treadmill"):
        predicted(models["a"], walk, "--activity", "Ramp")


def test_the_other_dataset_is_named(models: dict[str, Path], sample_files: dict[str, Path]) -> None:
    """A model of A on a file of B: the user mixed up two names."""
    with pytest.raises(InputError, match="a file of Dataset B, where the model reads Dataset A"):
        predicted(models["a"], sample_files["b"])
    with pytest.raises(InputError, match="a file of Dataset A, where the model reads Dataset B"):
        predicted(models["b"], sample_files["a"])


FLAGS = {
    ("--hop", "101"): "at most a window, 100 samples",
    ("--as-tested", "--hop", "5"): "--as-tested and --hop",
    ("--time-unit", "ms"): "--time-unit is not for a HDF5",
    ("--device", "tpu"): "no such device",
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.items(), ids=" ".join)
def test_flags_that_do_not_fit_are_refused(
    flags: tuple[str, ...] | str, message: str, walk: Path, models: dict[str, Path]
) -> None:
    """A flag that is silently ignored is believed."""
    with pytest.raises(InputError, match=message):
        predicted(models["a"], walk, *flags)
    assert not (walk.parent / "walk-out").exists()


def test_a_model_gone_astray_is_said(walk: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """Else a diverged checkpoint gives an empty file that looks like short stretches."""
    tensors, about = checkpoints.load(models["a"])
    broken = {name: torch.full_like(v, torch.nan) for name, v in tensors.items() if "head" in name}
    checkpoints.save({**tensors, **broken}, about, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="the model gives no numbers"):
        predicted(tmp_path / "x.safetensors", walk)


def test_measured_targets_are_scored(
    models: dict[str, Path], sample_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """NRMSE on the screen must be that of the CSV against the file."""
    lines = predicted(models["b"], sample_files["b"], "--subject", "1")
    said = capsys.readouterr().out
    found = targets_of(lines)
    trained = restore(models["b"])
    recording = trained.study.read(sample_files["b"])
    truth = recording.samples["targets"][recording.subject == 0].numpy()
    kept = np.isfinite(found).all(axis=1)
    error = found[kept, 0] - truth[kept, 0]
    nrmse = 100 * np.sqrt((error**2).mean()) / np.ptp(truth[kept, 0])
    line = next(line for line in said.splitlines() if line.startswith("KFM"))
    assert line.split()[-1] == f"{nrmse:.3g}"


def test_the_files_tell_units_and_delay(
    models: dict[str, Path],
    sample_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CSV whose columns have no unit is guessed at; a live use needs the delay."""
    monkeypatch.undo()  # draw
    data = Path(shutil.copy(sample_files["b"], tmp_path))
    lines = predicted(models["b"], data, "--subject", "1")
    assert lines.columns[:4].tolist() == ["subject", "step", "stretch", "time (s)"]
    assert "KFM (%BW·BH)" in lines.columns
    folder = tmp_path / "b-out"
    assert {path.name for path in folder.iterdir()} == {
        *("prediction.csv", "prediction.json", "prediction.png")
    }
    assert (folder / "prediction.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((folder / "prediction.json").read_text())
    assert told["hop"] == 25
    assert "window 0.5 s + hop 0.25 s + computation" in told["delay"]
