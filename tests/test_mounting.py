"""How sensors are mounted: found in walking, not guessed at rest, corrected by `tools.predict`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from beyond import Dataset_A_streaming as script_a
from beyond import Dataset_B_streaming as script_b
from common.data import Recording
from common.files import load_checkpoint
from tests.conftest import Capture, Files
from tests.networks import run_script
from tests.predicting import predict
from tools.mounting import (
    ORIENTATIONS,
    RESTS,
    Statistics,
    compare_subjects,
    detect,
    in_training,
    measure,
)

TREADMILL = "All_subjects/Subject_7/Treadmill"
FOOT = [*script_a.COLUMNS["acc"][:3], *script_a.COLUMNS["gyr"][:3]]
Signals = dict[str, np.ndarray]  # sensor -> `(samples, 6)`


def signals(recording: Recording, script: ModuleType, subject: int) -> Signals:
    """Return the signals of all sensors of one subject."""
    is_subject = recording.subject == subject
    acc, gyr = (recording.samples[kind].numpy()[is_subject] for kind in ("acc", "gyr"))
    parts = [slice(3 * i, 3 * i + 3) for i in range(len(script.SENSORS))]
    imus = (np.hstack([acc[:, part], gyr[:, part]]) for part in parts)
    return dict(zip(script.SENSORS, imus, strict=True))


def statistics(imus: Signals) -> dict[str, Statistics]:
    """Return the statistics of all sensors."""
    acc, gyr = (np.hstack([v[:, k : k + 3] for v in imus.values()]) for k in (0, 3))
    return measure(acc, gyr, [*imus])


def turned(values: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return the signals of a sensor that is mounted such that `rotation` undoes it."""
    return np.hstack([values[:, :3] @ rotation, values[:, 3:] @ rotation])


def check_all_orientations(one: Signals, known: dict[str, Statistics], least: float) -> None:
    """Check that no orientation of any sensor is mistaken, and most are found."""
    found = 0
    assert detect(statistics(one), known) == []
    for sensor in one:
        for rotation in ORIENTATIONS[1:]:
            changed = {**one, sensor: turned(one[sensor], rotation)}
            for mounting in detect(statistics(changed), known):
                assert mounting.sensor == sensor
                if mounting.rotation is not None:
                    np.testing.assert_array_equal(mounting.rotation, rotation)
                    found += 1
    assert found >= least * len(one) * 23


def test_each_orientation_of_a_simulated_walk_is_recovered(synthetic_files: Files) -> None:
    """A sensor that is mounted differently would give wrong moments, silently."""
    recording = script_a.read(synthetic_files["a"])
    known = statistics(signals(recording, script_a, 1))
    check_all_orientations(signals(recording, script_a, 0), known, least=1.0)


def test_each_orientation_of_a_recorded_walk_is_recovered(example_b: Path) -> None:
    """Simulated sensors fit together better than real ones on two people."""
    recording = script_b.read(example_b)
    known = statistics(signals(recording, script_b, 1))
    check_all_orientations(signals(recording, script_b, 0), known, least=0.7)


def test_a_sensor_at_rest_is_not_guessed(synthetic_files: Files) -> None:
    """Gravity alone fits four orientations."""
    recording = script_a.read(synthetic_files["a"])
    one, known = (signals(recording, script_a, k) for k in (0, 1))
    noise = np.random.default_rng(0).normal(0, 0.01, one["foot"].shape)
    one["foot"] = one["foot"].mean(axis=0) + noise
    [mounting] = detect(statistics(one), statistics(known))
    assert (mounting.sensor, mounting.rotation) == ("foot", None)
    assert mounting.reason == RESTS


@pytest.mark.parametrize("degrees", [50, 60])
def test_a_tilt_between_two_orientations_is_reported(
    degrees: float, synthetic_files: Files
) -> None:
    """A sensor far from all 24 orientations would go unnoticed."""
    recording = script_a.read(synthetic_files["a"])
    one, known = (signals(recording, script_a, k) for k in (0, 1))
    tilt = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    [mounting] = detect(statistics({**one, "thigh": turned(one["thigh"], tilt)}), statistics(known))
    assert mounting.sensor == "thigh"


def test_swapped_and_turned_sensors_are_found(synthetic_files: Files) -> None:
    """The most frequent mistake is two boxes on the wrong segments."""
    recording = script_a.read(synthetic_files["a"])
    one, known = (signals(recording, script_a, k) for k in (0, 1))
    swapped = {
        **one,
        "foot": turned(one["trunk"], ORIENTATIONS[5]),
        "trunk": turned(one["foot"], ORIENTATIONS[14]),
    }
    found = detect(statistics(swapped), statistics(known))
    assert {m.sensor: m.source for m in found} == {"foot": "trunk", "trunk": "foot"}
    for mounting, k in zip(sorted(found), (14, 5), strict=True):
        np.testing.assert_array_equal(mounting.rotation, ORIENTATIONS[k])


# In checkpoints and in `tools.predict` ------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(synthetic_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run."""
    flags = ("--rows", "streaming-foot", "--epochs", "1", "--test-subjects", "7")
    folder = tmp_path_factory.mktemp("run")
    run = run_script(script_a, synthetic_files["a"], folder, "run", *flags)
    return next(run.glob("checkpoints/*"))


@pytest.fixture
def walk(synthetic_files: Files) -> pd.DataFrame:
    """A few seconds of the IMU of the foot, with their time."""
    with h5py.File(synthetic_files["a"]) as file:
        foot = pd.DataFrame(file[TREADMILL][:, :6], columns=FOOT)
    foot.insert(0, "time", foot.index / script_a.RATE_HZ)
    return foot


def test_a_checkpoint_has_the_statistics_of_its_training_data(
    checkpoint: Path, synthetic_files: Files
) -> None:
    """Those of the test subject would make it look like training."""
    recording = script_a.read(synthetic_files["a"])
    known = in_training(load_checkpoint(checkpoint).description)
    assert [*known] == ["foot"]
    others = np.vstack([signals(recording, script_a, k)["foot"] for k in (1, 2)])
    mean = others.mean(axis=0)  # 20 % of the windows are for validation
    assert np.abs(known["foot"].mean - mean).max() < 0.1 * others.std(axis=0).max()
    assert in_training({"sensor_statistics": {"foot": {"mean": [1], "covariance": 2}}}) == {}


def test_a_turned_sensor_is_reported_and_corrected(
    checkpoint: Path, walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """The mapping is pasted as it is printed; nothing is corrected unasked."""
    path = tmp_path / "walk.csv"
    walk.to_csv(path, index=False)
    expected = predict(checkpoint, path)
    assert "mounted" not in capsys.readouterr().out
    walk[FOOT] = turned(walk[FOOT].to_numpy(), ORIENTATIONS[9])
    walk = walk.rename(columns={"foot_Accel_X": "my acc"})
    walk.to_csv(path, index=False)
    renamed = ["--columns", "foot_Accel_X=my acc"]
    unchanged = predict(checkpoint, path, *renamed)
    printed = capsys.readouterr().out
    assert not np.allclose(unchanged.iloc[:, -7:], expected.iloc[:, -7:], equal_nan=True)
    assert "foot: not mounted as in training" in printed
    pairs = shlex.split(printed.split("or --columns ")[1].splitlines()[0])
    pd.testing.assert_frame_equal(predict(checkpoint, path, "--columns", *pairs), expected)
    out = tmp_path / "corrected"
    corrected = predict(checkpoint, path, *renamed, "--mounting", "auto", "--out", str(out))
    pd.testing.assert_frame_equal(corrected, expected)
    [entry] = json.loads((out / "prediction.json").read_text())["mounting"]
    assert (entry["sensor"], entry["corrected"]) == ("foot", True)


def test_only_the_subject_with_a_turned_sensor_is_named(synthetic_files: Files) -> None:
    """A turned sensor must not make the other subjects look wrong."""
    recording = script_a.read(synthetic_files["a"])
    people = [signals(recording, script_a, k) for k in range(3)]
    people[1]["shank"] = turned(people[1]["shank"], ORIENTATIONS[7])
    names = ["7", "8", "9"]
    measured = {name: [statistics(one)] for name, one in zip(names, people, strict=True)}
    [message] = compare_subjects(measured)
    assert message.startswith("subject 8: shank: not mounted as in the other subjects; there, X is")
