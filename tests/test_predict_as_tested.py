"""--as-tested repeats the test of the run, which shows which results a checkpoint belongs to."""

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
from common.files import InputError, load_checkpoint, save_checkpoint
from tests.conftest import Capture, Files
from tests.networks import run_script
from tests.predicting import predict, random_network, target_values

RUNS = [
    (fusion_a, "lmfn-foot", "paper"),
    (fusion_b, "lmfn-feet", "strict"),
    (baselines_a, "ffn_hf-foot", "strict"),
]


@pytest.mark.parametrize(("script", "row", "protocol"), RUNS)
def test_the_predictions_of_the_run_are_repeated(
    script: ModuleType,
    row: str,
    protocol: str,
    synthetic_files: Files,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    """Nobody could tell whether a checkpoint belongs to a table of results."""
    data = Path(shutil.copy(synthetic_files[script.DATASET], tmp_path))
    flags = ("--rows", row, "--protocol", protocol, "--epochs", "1")
    run = run_script(script, data, tmp_path, "run", *flags)
    [checkpoint], [prediction] = run.glob("checkpoints/*"), run.glob("predictions/*")
    saved, subject = np.load(prediction), script.read(data).subjects[-1]
    lines = predict(checkpoint, data, "--as-tested")
    np.testing.assert_array_equal(target_values(lines), saved["prediction"])
    assert (lines["subject"] == subject).all()
    printed = capsys.readouterr().out
    assert "bit for bit" in printed
    assert "WARNING" not in printed
    assert "was trained on subject" not in printed
    if protocol == "strict":
        window = script.WINDOW
        new = target_values(predict(checkpoint, data, "--subject", subject, "--hop", str(window)))
        new = new[~np.isnan(new).any(axis=1)]
        alone = in_one_window(saved["stretch"], window)
        assert alone.mean() > 0.3
        np.testing.assert_allclose(new[alone], saved["prediction"][alone], rtol=1e-5, atol=1e-6)


def in_one_window(stretch: np.ndarray, window: int) -> np.ndarray:
    """Return whether a sample is not shared by the window of the tail and the one before it."""
    alone = []
    for length in np.unique(stretch, return_counts=True)[1]:
        place = np.arange(length)
        alone.append((place < length - window) | (place >= length // window * window))
    return np.concatenate(alone)


def test_training_subjects_a_copied_checkpoint_and_other_data_are_reported(
    synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Errors on training data look too good; an uncompared test would look like a proof."""
    data = Path(shutil.copy(synthetic_files["b"], tmp_path))
    run = run_script(fusion_b, data, tmp_path, "run", "--rows", "lmfn-feet", "--epochs", "1")
    [checkpoint] = run.glob("checkpoints/*")
    copy = Path(shutil.copy(checkpoint, tmp_path / "copy.safetensors"))
    capsys.readouterr()
    for subject, is_seen in (("02", True), ("03", False)):
        predict(copy, data, "--subject", subject)
        printed = capsys.readouterr().out
        assert (f"was trained on subject {subject};" in printed) == is_seen
    predict(copy, data, "--as-tested")
    printed = capsys.readouterr().out
    assert "Not compared with the run: there is no " in printed
    assert "was trained on subject" not in printed
    with h5py.File(data, "r+") as file:
        file["subject_03"][:] *= 1.01
    predict(checkpoint, data, "--as-tested")
    printed = capsys.readouterr().out
    assert "WARNING" in printed
    assert "Differs from" in printed


WHOLE = {"protocol": "paper", "batch_size": 64, "threads": 1, "data": {"digest": ""}}
SETTINGS = {
    "none": {},
    "another protocol": {**WHOLE, "protocol": "mine"},
    "no batches": {**WHOLE, "batch_size": 0},
    "a million threads": {**WHOLE, "threads": 10**6},
    "no digest": {**WHOLE, "data": "a.h5"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_do_not_describe_a_test_are_refused(
    settings: object, synthetic_files: Files, tmp_path: Path
) -> None:
    """Users would get a KeyError, or a file from elsewhere would start a million threads."""
    tensors, description = load_checkpoint(random_network(fusion_a, "lmfn-foot", tmp_path))
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, tensors, {**description, "settings": settings})
    with pytest.raises(InputError, match="does not describe how its run was tested"):
        predict(path, synthetic_files["a"], "--as-tested")
