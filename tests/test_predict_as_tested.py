"""The numbers of a run's own test come back, by which a checkpoint is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines_a
import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
from common import checkpoints
from common.files import InputError
from tests.predicting import predicted, random_model, targets_of
from tools.prediction import figure


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes a second."""
    monkeypatch.setattr(figure, "save", lambda *_: None)


RUNS = [
    (fusion_a, "lmfn-foot", "paper"),
    (fusion_a, "lmfn-foot", "strict"),
    (fusion_b, "lmfn-feet", "paper"),
    (fusion_b, "lmfn-feet", "strict"),
    (baselines_a, "ffn_hf-foot", "strict"),
]


@pytest.mark.parametrize(("script", "row", "protocol"), RUNS)
def test_the_runs_own_predictions_come_back(
    script: ModuleType,
    row: str,
    protocol: str,
    sample_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else nobody can tell whether a checkpoint is the one of his results."""
    data = Path(shutil.copy(sample_files[script.STUDY.dataset], tmp_path))
    settings = ["--rows", row, "--protocol", protocol, "--epochs", "1", "--device", "cpu"]
    where = ["--data", str(data), "--output-dir", str(tmp_path), "--run-name", "run"]
    subject = script.main([*settings, *where, "--jobs", "1"])["test_subject"].iloc[0]
    run = tmp_path / script.__name__ / "run"
    saved = np.load(run / "predictions" / f"{row}-subject_{subject}.npz")
    checkpoint = run / "checkpoints" / f"{row}-subject_{subject}.safetensors"
    lines = predicted(checkpoint, data, "--as-tested")
    np.testing.assert_array_equal(targets_of(lines), saved["prediction"])
    assert (lines["subject"] == subject).all()
    said = capsys.readouterr().out
    assert "bit for bit" in said
    assert "WARNING" not in said
    if protocol == "strict":
        window = script.STUDY.window
        anew = targets_of(predicted(checkpoint, data, "--subject", subject, "--hop", str(window)))
        anew = anew[~np.isnan(anew).any(axis=1)]
        alone = in_one_window(saved["stretch"], window)
        assert alone.mean() > 0.3
        np.testing.assert_allclose(anew[alone], saved["prediction"][alone], rtol=1e-5, atol=1e-6)


def in_one_window(stretch: np.ndarray, window: int) -> np.ndarray:
    """Tell of each row if the tail's window and the one before it do not share it."""
    alone = []
    for length in np.unique(stretch, return_counts=True)[1]:
        place = np.arange(length)
        alone.append((place < length - window) | (place >= length // window * window))
    return np.concatenate(alone)


def test_another_data_file_is_noticed(
    sample_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else numbers that differ are blamed on the checkpoint."""
    data = Path(shutil.copy(sample_files["b"], tmp_path))
    flags = ["--rows", "lmfn-feet", "--epochs", "1", "--device", "cpu", "--jobs", "1"]
    where = ["--data", str(data), "--output-dir", str(tmp_path), "--run-name", "run"]
    fusion_b.main([*flags, *where])
    with h5py.File(data, "r+") as file:
        file["subject_03"][:] *= 1.01
    [checkpoint] = (tmp_path / fusion_b.__name__ / "run" / "checkpoints").iterdir()
    predicted(checkpoint, data, "--as-tested")
    said = capsys.readouterr().out
    assert "WARNING" in said
    assert "Differs from" in said


WHOLE = {"protocol": "paper", "batch_size": 64, "threads": 1, "data": {"digest": ""}}
SETTINGS = {
    "none": {},
    "no settings": [1],
    "another protocol": {**WHOLE, "protocol": "mine"},
    "no batches": {**WHOLE, "batch_size": 0},
    "a batch of everything": {**WHOLE, "batch_size": "all"},
    "a million threads": {**WHOLE, "threads": 10**6},
    "no digest": {**WHOLE, "data": "a.h5"},
    "one way": {**WHOLE, "faster": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_tell_no_test_are_refused(
    settings: object, sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """A KeyError is no answer, and a file of somebody else does not choose a million threads."""
    tensors, about = checkpoints.load(random_model(fusion_a, "lmfn-foot", tmp_path))
    checkpoints.save(tensors, {**about, "settings": settings}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not tell how its run was tested"):
        predicted(tmp_path / "x.safetensors", sample_files["a"], "--as-tested")
