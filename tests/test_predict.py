"""A trained network on a new recording: required columns, samples left out, one smooth curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines_a
import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
from common.files import InputError, load_checkpoint, save_checkpoint
from common.windows import Windows
from tests.conftest import Capture, Files, Folders
from tests.networks import narrow_networks, run_script
from tests.predicting import copy_columns, predict, random_network, target_values
from tools.predict import output, prediction
from tools.trained import find_script, input_columns, load_trained, target_columns

FOOT = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
TREADMILL = "All_subjects/Subject_7/Treadmill"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: Folders) -> dict[str, Path]:
    """A small network with random weights for each dataset, by letter."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "a": random_network(fusion_a, "lmfn-foot", folder),
        "b": random_network(fusion_b, "lmfn-feet", folder),
    }


@pytest.fixture
def walk(synthetic_files: Files, tmp_path: Path) -> Path:
    """A recording as users have it: one subject on a treadmill, the IMU of the foot, no forces."""
    return copy_columns(synthetic_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT)


@pytest.mark.parametrize(
    "name", ["Dataset_A_ffn_hf_ffn_bilstm_convnet", "Dataset_B_lmfn_tfn_fusion_models"]
)
def test_only_the_columns_of_the_inputs_are_needed(
    name: str, synthetic_files: Files, tmp_path: Path
) -> None:
    """Users with two sensors would have to invent columns for other sensors and force plates."""
    script = find_script(name)
    with narrow_networks():
        checkpoint = random_network(script, script.ROWS[-1].name, tmp_path)
        needed = input_columns(script, load_trained(checkpoint).sensor_set)
        targets = target_columns(script)
        assert targets
        table = TREADMILL if script.DATASET == "a" else "subject_01"
        part = slice(0, 300 if script.DATASET == "a" else 2)  # in B: steps
        data = synthetic_files[script.DATASET]
        everything = copy_columns(data, tmp_path / "all.h5", table, [*needed, *targets], part)
        least = copy_columns(data, tmp_path / "least.h5", table, needed, part)
        found = target_values(predict(checkpoint, least))
        assert np.isfinite(found).any()
        np.testing.assert_array_equal(found, target_values(predict(checkpoint, everything)))
        too_few = copy_columns(data, tmp_path / "few.h5", table, needed[:-1], part)
        with pytest.raises(InputError, match=f"no column {needed[-1]}, which the network reads"):
            predict(checkpoint, too_few)


def test_samples_with_nan_and_short_stretches_stay_empty(
    walk: Path, networks: dict[str, Path], capsys: Capture
) -> None:
    """Windows would span a lost signal, or lines would vanish and times would no longer match."""
    before = target_values(predict(networks["a"], walk))
    with h5py.File(walk, "r+") as file:
        file[TREADMILL][150, 2] = np.nan
        file[TREADMILL][200, 2] = np.nan
    lines = predict(networks["a"], walk)
    after = target_values(lines)
    assert len(after) == len(before)
    is_empty = np.isnan(after).any(axis=1)
    assert is_empty[150:201].all()
    assert not is_empty[:150].any()
    assert lines["stretch"].isna().sum() == 2
    np.testing.assert_array_equal(after[:50], before[:50])  # from a window that ends before
    printed = capsys.readouterr().out
    assert "49 are in stretches shorter than a window of 100 samples (0.5 s)" in printed
    assert "2 lack a value" in printed
    with h5py.File(walk, "r+") as file:
        file[TREADMILL][99:] = np.nan
    with pytest.raises(InputError, match=r"any of [\d,]+ samples: 99 are in stretches"):
        predict(networks["a"], walk)


def test_no_window_crosses_trials(
    networks: dict[str, Path], synthetic_files: Files, tmp_path: Path
) -> None:
    """The end of one trial would be estimated from the start of the next."""
    data = synthetic_files["a"]
    apart = [
        copy_columns(data, tmp_path / f"{i}.h5", TREADMILL, FOOT, slice(150 * i, 150 * i + 150))
        for i in range(2)
    ]
    both = copy_columns(data, tmp_path / "both.h5", TREADMILL, FOOT, slice(0, 300))
    with h5py.File(both, "r+") as file:
        file[TREADMILL].attrs["trial_starts"] = [0, 150]
    expected = np.concatenate([target_values(predict(networks["a"], path)) for path in apart])
    lines = predict(networks["a"], both)
    np.testing.assert_allclose(target_values(lines), expected, rtol=1e-5, atol=1e-6)
    assert lines["trial"].tolist() == [1] * 150 + [2] * 150
    assert lines["time (s)"][150] == 0
    assert lines["time (s)"][299] == pytest.approx(149 / 200)


def test_units_are_converted_and_a_csv_is_read(
    walk: Path, networks: dict[str, Path], capsys: Capture
) -> None:
    """A recording in g and deg/s would give nonsense; a device's CSV, other estimates."""
    expected = target_values(predict(networks["a"], walk))
    assert "WARNING" not in capsys.readouterr().out
    with h5py.File(walk, "r+") as file:
        file[TREADMILL][:, :3] /= 9.80665
        file[TREADMILL][:, 3:] *= 180 / np.pi
        frame = pd.DataFrame(file[TREADMILL][:], columns=FOOT)
    units = ["--acc-unit", "g", "--gyr-unit", "deg/s"]
    found = target_values(predict(networks["a"], walk, *units))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert "WARNING" not in capsys.readouterr().out
    predict(networks["a"], walk)
    printed = capsys.readouterr().out
    assert "far from 9.8" in printed
    assert "see --acc-unit" in printed
    assert "see --gyr-unit" in printed
    frame.insert(0, "T", 1000 * frame.index / 200)
    frame = frame.assign(x=-frame["foot_Accel_X"]).drop(columns="foot_Accel_X")
    below = pd.DataFrame([["ms", *"gg", *["deg/s"] * 3, "g"]], columns=frame.columns)
    data = walk.with_suffix(".csv")
    pd.concat([below, frame]).to_csv(data, index=False)
    own = ["--time-column", "T", "--columns", "foot_Accel_X=-x"]
    lines = predict(networks["a"], data, *own)
    np.testing.assert_allclose(target_values(lines), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="no column X"):
        predict(networks["a"], data, "--time-column", "T", "--columns", "foot_Accel_X=-X")
    assert "\nyours,ours\n,foot_Accel_X\n" in capsys.readouterr().out
    pd.concat([below, frame.drop(index=range(120, 160))]).to_csv(data, index=False)
    lines = predict(networks["a"], data, *own)
    assert "NOTICE: gaps split the recording into 2 stretches" in capsys.readouterr().out
    assert lines["stretch"].tolist() == [1] * 120 + [2] * (len(frame) - 160)
    assert lines["time (s)"][120] == 0.8
    with pytest.raises(InputError, match="--subject cannot be used with a CSV"):
        predict(networks["a"], data, "--subject", "1")


def test_no_input_is_overwritten(walk: Path, networks: dict[str, Path], tmp_path: Path) -> None:
    """The recording, or the table of column names, would be lost."""
    data = tmp_path / "walk-out" / "prediction.csv"
    data.parent.mkdir()
    data.write_text("time,x\n0,1\n")
    for recording, flags in ((data, ["--out", str(data.parent)]), (walk, ["--columns", str(data)])):
        with pytest.raises(InputError, match=r"prediction\.csv: is an input and would be overwr"):
            predict(networks["a"], recording, *flags)
    assert data.read_text() == "time,x\n0,1\n"
    assert len(list(data.parent.iterdir())) == 1


def test_windows_cover_every_long_stretch_to_its_end() -> None:
    """The end of every recording would be missing, or a window would lie on two stretches."""
    stretch = np.repeat([0, -1, 1, 2, 3], [25, 3, 9, 10, 23])
    for hop in (1, 3, 5, 10):
        windows = prediction.overlapping_windows(stretch, 10, hop)
        assert (np.diff(windows) == 1).all()
        assert (stretch[windows] == stretch[windows[:, :1]]).all()
        assert set(windows.flatten()) == set(np.flatnonzero(np.isin(stretch, [0, 2, 3])))
        assert len(np.unique(windows[:, 0])) == len(windows)
        assert np.diff(windows[:, 0])[windows[1:, 0] < 15].max(initial=0) <= hop


def blend(network: Callable[[Tensor], Tensor], samples: int, window: int, hop: int) -> np.ndarray:
    """Blend the outputs of a function of `(B, T, 1)`, on a signal that rises from -1 to 1."""
    trained = SimpleNamespace(script=SimpleNamespace(TARGETS=["one"]), network=network)
    signal = torch.linspace(-1, 1, samples)[:, None]
    numbers = prediction.overlapping_windows(np.zeros(samples, int), window, hop)
    return prediction.blend(trained, Windows([signal], signal, numbers))[:, 0]


@pytest.mark.parametrize("hop", [1, 7, 10, 20])
def test_blending_does_not_change_a_curve_on_which_windows_agree(hop: int) -> None:
    """Blending would bend the curve, most of all at the ends of a stretch."""
    curve = blend(lambda values: values**3, samples=93, window=20, hop=hop)
    np.testing.assert_allclose(curve, np.linspace(-1, 1, 93) ** 3, atol=1e-6)


def test_no_seam_shows_where_windows_disagree() -> None:
    """A step every quarter of a second would look like foot contact."""

    def alternate(hop: int) -> Callable[[Tensor], Tensor]:
        def constant(values: Tensor) -> Tensor:
            first_sample = ((values[:, :1] + 1) * 102).round()
            return (1 - 2 * (first_sample // hop % 2)).expand_as(values)

        return constant

    curves = {hop: blend(alternate(hop), samples=205, window=20, hop=hop) for hop in (10, 20)}
    steps = {hop: np.abs(np.diff(curve)).max() for hop, curve in curves.items()}
    assert np.ptp(curves[10]) > 1
    assert steps[20] == 2  # side by side
    assert steps[10] < 0.2 * steps[20]  # the slope of the weights times the difference
    assert (prediction.blending_weights(20) > 0).all()


def test_subject_and_activities_are_chosen(
    networks: dict[str, Path], synthetic_files: Files, walk: Path
) -> None:
    """The first subject would be used and mistaken for another."""
    with pytest.raises(InputError, match="several subjects; choose one with --subject: 01 02 03"):
        predict(networks["b"], synthetic_files["b"])
    with pytest.raises(InputError, match="no subject 9; choose one with --subject: 01 02 03"):
        predict(networks["b"], synthetic_files["b"], "--subject", "9")
    lines = predict(networks["b"], synthetic_files["b"], "--subject", "2")
    assert (lines["subject"] == "02").all()
    assert lines["step"].iloc[0] == 1
    lines = predict(networks["a"], synthetic_files["a"], "--subject", "7", "--activity", "Ramp")
    assert set(lines["activity"]) == {"Ramp"}
    with pytest.raises(InputError, match="no Ramp; choose from Treadmill with --activity"):
        predict(networks["a"], walk, "--activity", "Ramp")
    with pytest.raises(InputError, match="a file of Dataset B, but the network reads Dataset A"):
        predict(networks["a"], synthetic_files["b"])
    with pytest.raises(InputError, match="a file of Dataset A, but the network reads Dataset B"):
        predict(networks["b"], walk)


FLAGS = {
    ("--hop", "101"): "at most a window, 100 samples",
    ("--as-tested", "--hop", "5"): "--hop cannot be used with --as-tested",
    ("--time-unit", "ms"): "--time-unit cannot be used with a HDF5 file",
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.items(), ids=" ".join)
def test_flags_that_do_not_fit_are_refused(
    flags: tuple[str, ...], message: str, walk: Path, networks: dict[str, Path]
) -> None:
    """A flag that is silently ignored is believed."""
    with pytest.raises(InputError, match=message):
        predict(networks["a"], walk, *flags)
    assert not (walk.parent / "walk-out").exists()


def test_a_diverged_network_is_refused(
    walk: Path, networks: dict[str, Path], tmp_path: Path
) -> None:
    """An empty file would look like stretches that are too short."""
    tensors, description = load_checkpoint(networks["a"])
    for name in (name for name in tensors if "head" in name):
        tensors[name][:] = torch.nan
    save_checkpoint(tmp_path / "x.safetensors", tensors, description)
    with pytest.raises(InputError, match="the output of the network is not finite"):
        predict(tmp_path / "x.safetensors", walk)


def test_measured_targets_are_scored(
    networks: dict[str, Path], synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """NRMSE on the screen would not be that of the CSV against the file."""
    found = target_values(predict(networks["b"], synthetic_files["b"], "--subject", "1"))
    recording = fusion_b.read(synthetic_files["b"])
    truth = recording.samples["targets"][recording.subject == 0].numpy()
    assert nrmse_on_screen(capsys, "KFM") == f"{nrmse(found[:, 0], truth[:, 0]):.3g}"
    columns = [*FOOT, *fusion_a.COLUMNS["targets"]]
    whole = copy_columns(synthetic_files["a"], tmp_path / "all.h5", TREADMILL, columns)
    with h5py.File(whole) as file:
        frame = pd.DataFrame(file[TREADMILL][:], columns=columns)
    frame.insert(0, "time", frame.index / 200)
    frame.loc[200:, "right_vy"] = np.nan  # off the plates
    frame.to_csv(tmp_path / "walk.csv", index=False)
    found = target_values(predict(networks["a"], tmp_path / "walk.csv"))
    expected = nrmse(found[:200, 5], frame["right_vy"][:200].to_numpy())
    assert nrmse_on_screen(capsys, "GRF vertical") == f"{expected:.3g}"


def nrmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the NRMSE in percent where there is an estimate."""
    found, truth = found[np.isfinite(found)], truth[np.isfinite(found)]
    return float(100 * np.sqrt(((found - truth) ** 2).mean()) / np.ptp(truth))


def nrmse_on_screen(capsys: Capture, target: str) -> str:
    """Return the last number in the line of a target."""
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if line.startswith(target)).split()[-1]


def test_the_files_state_units_and_latency(
    networks: dict[str, Path], synthetic_files: Files, tmp_path: Path
) -> None:
    """Users would have to guess the units; live applications would not know the latency."""
    data = Path(shutil.copy(synthetic_files["b"], tmp_path))
    lines = predict(networks["b"], data, "--subject", "1", draw=True)
    labels = ["subject", "step", "stretch", "sampling rate (Hz)", "time (s)"]
    assert lines.columns[:5].tolist() == labels
    assert "KFM (%BW·BH)" in lines.columns
    folder = tmp_path / "b-out"
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json", ".png"}
    assert (folder / "prediction.png").read_bytes().startswith(b"\x89PNG")
    description = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    assert description["hop"] == 25
    assert "window 0.5 s + hop 0.25 s + computation" in description["latency"]


def test_the_title_of_the_figure_warns() -> None:
    """Curves look plausible whatever the network was trained on, and are shown on their own."""
    for is_synthetic, is_trained_on_it, warnings, expected in (
        (False, False, [], "student on walk.csv"),
        (True, True, [], "student on walk.csv, SYNTHETIC DATA"),
        (False, True, ["g?"], "student on walk.csv, network trained on SYNTHETIC DATA (1 warning)"),
    ):
        description = {"title": "student on walk.csv", "warnings": warnings}
        description |= {"synthetic": is_synthetic, "trained_on_synthetic_data": is_trained_on_it}
        assert output.figure_title(description) == expected


# The test of the run ------------------------------------------------------------------------------

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
