"""Faulty, swapped or wrongly scaled sensors are reported before anyone trusts the estimates."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines_a
import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
from common.data import DATASET_A_ACTIVITIES
from tests.conftest import MEASURED, Capture, Files, Folders
from tests.faults import Fault, exchange, fill, freeze, scale
from tests.predicting import predict, random_network, target_values
from tools.dataset_a import DATASET_A_COLUMNS
from tools.predict.sensors import training_statistics
from tools.trained import load_trained

SENSORS = ("foot", "trunk")
NAMES = [f"{s}_{kind}_{axis}" for s in SENSORS for kind in ("Accel", "Gyro") for axis in "XYZ"]


@pytest.fixture(scope="module")
def network(synthetic_files: Files, tmp_path_factory: Folders) -> Path:
    """A network for foot and trunk with the statistics of the synthetic subjects 8 and 9."""
    recording = fusion_a.read(synthetic_files["a"])
    folder = tmp_path_factory.mktemp("network")
    return random_network(fusion_a, "lmfn-foot_trunk", folder, recording)


@pytest.fixture(scope="module")
def walk(synthetic_files: Files) -> pd.DataFrame:
    """1.6 s on a treadmill of the held-out subject."""
    with h5py.File(synthetic_files["a"]) as file:
        values = file["All_subjects/Subject_7/Treadmill"][:320]
    columns = {name: values[:, DATASET_A_COLUMNS.index(name)] for name in NAMES}
    return pd.DataFrame({"time": np.arange(320) / 200, **columns})


def warnings(printed: str) -> list[str]:
    """Return the warnings on the screen."""
    return [line for line in printed.splitlines() if line.startswith("WARNING: ")]


def remove_gravity(frame: pd.DataFrame) -> None:
    """Subtract the mean acceleration of both sensors."""
    acc = [name for name in NAMES if "Accel" in name]
    frame[acc] -= frame[acc].mean()


FAULTS: dict[str, tuple[Fault, str]] = {
    "dead": (fill(NAMES[:1], 0.0), "foot_Accel_X (SD * in training): constant (0) throughou"),
    "frozen": (
        freeze(NAMES[:6], slice(10, 310)),
        "foot: all six channels unchanged for 1.5 s from 0.050 s on, 93.8 % of the samples; almost",
    ),
    "held": (
        freeze(NAMES[6:], slice(40, 60)),
        "trunk: all six channels unchanged for 0.1 s from 0.200 s on, 6.25 % of the samples; "
        "almost certainly lost samples filled with the last value",
    ),
    "zeros": (
        fill(NAMES, 0.0, slice(100, 180)),
        "foot, trunk: all six channels exactly 0 for 0.4 s from 0.500 s on, 25 % of the samples",
    ),
    "zeros of an accelerometer": (
        fill(NAMES[:3], 0.0, slice(100, None, 100)),
        "foot: accelerometer exactly 0 in 3 places, 0.938 % of the samples; the longest, 0.005 s*",
    ),
    "a gyroscope repeats itself": (
        freeze(NAMES[9:], slice(80, 140)),
        "trunk: gyroscope unchanged for 0.3 s from 0.400 s on, 18.8 % of the samples; almost*",
    ),
    "half the rate": (
        lambda frame: frame.__setitem__(NAMES, frame[NAMES].to_numpy()[np.arange(320) // 2 * 2]),
        "foot, trunk: all six channels unchanged from one sample to the next in 50 %*",
    ),
    "clipped": (
        lambda frame: frame.update(frame["foot_Gyro_Z"].clip(-3.5, 3.5)),
        "foot_Gyro_Z (SD * in training): clipped at -3.5 and 3.5, * % of the samples",
    ),
    "sentinel": (fill(["trunk_Gyro_X"], -9999.0, slice(0, None, 40)), "trunk_Gyro_X: -9999 in 2.5"),
    "gravity removed": (
        remove_gravity,
        "accelerometer trunk: median norm * far from 9.8; gravity removed?*"
        "foot_Accel_X, foot_Accel_Y, foot_Accel_Z: mean acceleration * in training; gravity remove",
    ),
    "axes of an accelerometer": (
        exchange(["trunk_Accel_X"], ["trunk_Accel_Y"]),
        "trunk: cannot tell whether * as in training: axes seem to be reversed or exchanged",
    ),
    "axes of a gyroscope": (
        exchange(["foot_Gyro_X"], ["foot_Gyro_Z"]),
        "foot: cannot tell whether * as in training: axes seem to be reversed or exchanged",
    ),
    "sensors": (
        exchange(NAMES[:6], NAMES[6:]),
        "foot: swapped, trunk has its signals (*trunk: swapped, foot has its signals (",
    ),
    "unit of an accelerometer": (
        scale(NAMES[:3], 1 / 9.80665),
        "accelerometer foot: median norm *; see --acc-u",
    ),
    "unit of the gyroscopes": (
        scale(["foot_Gyro", "trunk_Gyro"], 180 / np.pi),
        "gyroscope foot: 99th percentile * rad/s; in deg/s?; see --gyr-unit",
    ),
    "unit of a gyroscope": (
        scale(NAMES[9:], 30.0),
        "trunk_Gyro_X, trunk_Gyro_Y, trunk_Gyro_Z: SD * rad/s, but * in training; another sensor,",
    ),
    "rest": (
        lambda frame: frame.__setitem__(NAMES, frame[NAMES].mean() + 0.02 * frame[NAMES]),
        "SD 0.0* times that in training; another movement, or another unit?",
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_sensor_is_reported(
    spoil: Fault, expected: str, walk: pd.DataFrame, network: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A plausible curve would be computed from a dead, clipped or swapped sensor."""
    frame = walk.copy()
    spoil(frame)
    frame.to_csv(tmp_path / "walk.csv", index=False)
    predict(network, tmp_path / "walk.csv")
    found = warnings(capsys.readouterr().out)
    assert fnmatchcase("\n".join(found), f"*{expected}*")
    assert len(found) <= 6


@pytest.mark.parametrize("dataset", ["a", "b", "measured b"])
def test_no_warning_on_a_new_subject(
    dataset: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: Capture
) -> None:
    """Warnings about intact sensors, simulated or real, would be ignored where it matters."""
    if dataset == "measured b":
        data = request.getfixturevalue("example_b")
    else:
        data = request.getfixturevalue("synthetic_files")[dataset]
    script, third = (fusion_a, "emg") if dataset == "a" else (fusion_b, "video")
    recording = script.read(data)
    for subject in recording.subjects:
        flags = ["--subject", subject, "--out", str(tmp_path / "out")]
        row = f"lmfn-all_imus_{third}"
        checkpoint = random_network(script, row, tmp_path, recording, subject)
        predict(checkpoint, data, *flags)
        for activity in DATASET_A_ACTIVITIES if dataset == "a" else ():
            predict(checkpoint, data, *flags, "--activity", activity, "--hop", "100")
    found = warnings(capsys.readouterr().out)
    # The network is not trained: the size of its estimates says nothing about the unit of a target.
    assert not [warning for warning in found if "measured values are" not in warning]


def test_a_network_without_statistics_of_channels_checks_the_faults(
    walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """The statistics of handcrafted features would be mistaken for those of channels."""
    checkpoint = random_network(baselines_a, "ffn_hf-foot_trunk", tmp_path)
    frame = walk.copy()
    frame["foot_Gyro_X"] = 0.0
    frame.to_csv(tmp_path / "walk.csv", index=False)
    predict(checkpoint, tmp_path / "walk.csv")
    assert warnings(capsys.readouterr().out) == [
        "WARNING: foot_Gyro_X: constant (0) throughout; dead or frozen?"
    ]


def test_statistics_are_those_of_the_training_data(synthetic_files: Files, network: Path) -> None:
    """A network that was trained for a few steps would find every recording unlike its data."""
    recording = fusion_a.read(synthetic_files["a"])
    inputs = np.hstack([x.numpy() for x in fusion_a.inputs(recording.samples, "foot_trunk")])
    inputs = inputs[recording.subject != 0]
    statistics = training_statistics(load_trained(network), inputs.shape[1])
    np.testing.assert_allclose(statistics.mean, inputs.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(statistics.sd, inputs.std(axis=0), rtol=0.02)


FIELD_FILES = {
    "plain.csv": "",
    "dead_channel.csv": "foot_Accel_X (SD",
    "clipped.csv": "foot_Gyro_Z (SD",
    "sensors_swapped.csv": "foot_Accel_X, foot_Accel_Y, foot_Accel_Z: SD",
}
SAME = ("semicolon_decimal_comma.csv", "tab.txt", "preamble.csv", "unit_row.csv", "clock_times.csv")


@pytest.fixture
def field() -> Path:
    """Return the folder with small recordings as devices write them."""
    path = MEASURED.parent / "field"
    if not path.exists():
        pytest.skip(f"the field recordings are not at {path}")
    return path


@pytest.mark.parametrize(("name", "expected"), FIELD_FILES.items())
def test_field_recordings_with_faulty_sensors(
    name: str, expected: str, field: Path, network: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Faults as they were found in the field would go unnoticed."""
    predict(network, field / name, "--out", str(tmp_path))
    found = warnings(capsys.readouterr().out)
    assert not any("not mounted" in warning for warning in found)
    assert any(expected in warning for warning in found) if expected else not found


def test_field_recordings_in_other_formats(field: Path, network: Path, tmp_path: Path) -> None:
    """Files as users have them would be refused."""
    where = ["--out", str(tmp_path)]
    expected = target_values(predict(network, field / "plain.csv", *where))
    for name in SAME:
        found = target_values(predict(network, field / name, *where))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    kinds = {"Accel": "Acc", "Gyro": "Gyr"}
    places = {"foot": "LeftShoe", "trunk": "Chest"}
    pairs = [f"{n}={places[s]} {kinds[k]}_{a}" for n in NAMES for s, k, a in [n.split("_")]]
    clock = ["--time-column", "SampleTimeFine", "--time-unit", "us"]
    lines = predict(network, field / "own_names.csv", *where, *clock, "--columns", *pairs)
    np.testing.assert_allclose(target_values(lines), expected, atol=1e-6)
