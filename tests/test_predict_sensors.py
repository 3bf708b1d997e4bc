"""Faulty, swapped or wrongly scaled sensors are reported before anyone trusts the estimates."""

from __future__ import annotations

from collections.abc import Callable
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
from tests.predicting import predict, random_network, target_values
from tools.dataset_a import DATASET_A_COLUMNS
from tools.predict.sensors import training_statistics
from tools.trained import load_trained

SENSORS = ("foot", "trunk")
NAMES = [f"{s}_{kind}_{axis}" for s in SENSORS for kind in ("Accel", "Gyro") for axis in "XYZ"]
Spoil = Callable[[pd.DataFrame], object]
FIELD = MEASURED.parent / "field"  # small recordings as devices write them


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


def fill(names: list[str], value: float, part: slice = slice(None)) -> Spoil:
    """Return a function that overwrites a part of columns."""

    def spoil(frame: pd.DataFrame) -> None:
        frame.loc[frame.index[part], names] = value

    return spoil


def freeze(frame: pd.DataFrame) -> None:
    """Stop the IMU of the foot for 1.5 s."""
    frame.loc[10:309, NAMES[:6]] = frame.loc[10, NAMES[:6]].to_numpy()


def clip(frame: pd.DataFrame) -> None:
    """Give the gyroscope of the foot a range of 3.5 rad/s."""
    frame["foot_Gyro_Z"] = frame["foot_Gyro_Z"].clip(-3.5, 3.5)


def remove_gravity(frame: pd.DataFrame) -> None:
    """Subtract the mean acceleration of both sensors."""
    acc = [name for name in NAMES if "Accel" in name]
    frame[acc] -= frame[acc].mean()


def exchange(first: list[str], second: list[str]) -> Spoil:
    """Return a function that exchanges columns."""

    def spoil(frame: pd.DataFrame) -> None:
        frame[first + second] = frame[second + first].to_numpy()

    return spoil


def scale(names: list[str], factor: float) -> Spoil:
    """Return a function that scales columns."""

    def spoil(frame: pd.DataFrame) -> None:
        frame[names] *= factor

    return spoil


FAULTS: dict[str, tuple[Spoil, str]] = {
    "dead": (
        fill(["foot_Accel_X"], 0.0),
        "foot_Accel_X (SD * in training): constant (0) throughou",
    ),
    "frozen": (freeze, "foot_Gyro_Z: constant (*) for 1.5 s from sample 10; dead or frozen?"),
    "clipped": (
        clip,
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
        "trunk_Accel_Z: mean * degrees apart; axes swapped or reversed, or sensor turned?",
    ),
    "reversed": (scale(["trunk_Accel_Y"], -1), "trunk_Accel_Z: mean *axes swapped or reversed"),
    "axes of a gyroscope": (
        exchange(["foot_Gyro_X"], ["foot_Gyro_Z"]),
        "foot_Gyro_X, foot_Gyro_Y, foot_Gyro_Z: SD * rad/s, but * in training; axes swapped?",
    ),
    "sensors": (
        exchange(NAMES[:6], NAMES[6:]),
        "foot_Accel_X, foot_Accel_Y, foot_Accel_Z: SD * m/s², but * in training; like trunk: sens",
    ),
    "unit of an accelerometer": (
        scale(NAMES[:3], 1 / 9.80665),
        "accelerometer foot: median norm *; see --acc-u",
    ),
    "unit of the gyroscopes": (
        scale([name for name in NAMES if "Gyro" in name], 180 / np.pi),
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
    spoil: Spoil, expected: str, walk: pd.DataFrame, network: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A plausible curve would be computed from a dead, clipped or swapped sensor."""
    frame = walk.copy()
    spoil(frame)
    frame.to_csv(tmp_path / "walk.csv", index=False)
    predict(network, tmp_path / "walk.csv")
    printed = "\n".join(warnings(capsys.readouterr().out))
    position = 0
    for part in expected.split("*"):
        assert part in printed[position:]
        position = printed.index(part, position) + len(part)
    assert len(printed.splitlines()) <= 4


@pytest.mark.parametrize("dataset", ["a", "b", "measured b"])
def test_no_warning_on_a_new_subject(
    dataset: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: Capture
) -> None:
    """Warnings about intact sensors, simulated or real, would be ignored where it matters."""
    is_measured = dataset.startswith("measured")
    data = request.getfixturevalue("example_b" if is_measured else "synthetic_files")
    data = data if is_measured else data[dataset]
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
    "sensors_swapped.csv": "sensors swapped?",
}
SAME = ("semicolon_decimal_comma.csv", "tab.txt", "preamble.csv", "unit_row.csv", "clock_times.csv")


@pytest.mark.parametrize(("name", "expected"), FIELD_FILES.items())
def test_field_recordings_with_faulty_sensors(
    name: str, expected: str, network: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Faults as they were found in the field would go unnoticed."""
    if not FIELD.exists():
        pytest.skip(f"the field recordings are not at {FIELD}")
    predict(network, FIELD / name, "--out", str(tmp_path))
    found = warnings(capsys.readouterr().out)
    assert len(found) == (1 if expected else 0)
    assert expected in "".join(found)


def test_field_recordings_in_other_formats(network: Path, tmp_path: Path) -> None:
    """Files as users have them would be refused."""
    if not FIELD.exists():
        pytest.skip(f"the field recordings are not at {FIELD}")
    where = ["--out", str(tmp_path)]
    expected = target_values(predict(network, FIELD / "plain.csv", *where))
    for name in SAME:
        found = target_values(predict(network, FIELD / name, *where))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    kinds = {"Accel": "Acc", "Gyro": "Gyr"}
    places = {"foot": "LeftShoe", "trunk": "Chest"}
    pairs = [f"{n}={places[s]} {kinds[k]}_{a}" for n in NAMES for s, k, a in [n.split("_")]]
    clock = ["--time-column", "SampleTimeFine", "--time-unit", "us"]
    lines = predict(network, FIELD / "own_names.csv", *where, *clock, "--columns", *pairs)
    np.testing.assert_allclose(target_values(lines), expected, atol=1e-6)
