"""A CSV at any rate gives the same prediction as one at the network's rate, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline

import Dataset_A_lmfn_tfn_fusion_models as script
from common.data import DATASET_A_COLUMNS
from common.files import InputError
from tests.predicting import predict, random_network, target_values
from tools.predict import output
from tools.predict.csv_file import split_at_gaps
from tools.signals import filter_zero_phase

FOOT = list(DATASET_A_COLUMNS[:6])
SMOOTH_HZ = 20.0  # cut-off of the movement; all rates below can represent it
# Largest difference of a target, relative to the range of its prediction; a delay of one sample
# makes a difference ten times as large.
CLOSE = 0.004


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes a second."""
    monkeypatch.setattr(output, "draw", lambda *_: Figure(figsize=(1, 1)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights."""
    return random_network(script, "lmfn-foot", tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def movement(sample_files: dict[str, Path]) -> CubicSpline:
    """The IMU of the foot in the synthetic data, smoothed, as a function of time over 1.495 s."""
    with h5py.File(sample_files["a"]) as file:
        foot = file["All_subjects/Subject_7/Treadmill"][:300, :6]
    return CubicSpline(np.arange(300) / 200, filter_zero_phase(foot, 200, SMOOTH_HZ))


def write(path: Path, time: np.ndarray, values: np.ndarray) -> Path:
    """Write a CSV with the IMU of the foot."""
    pd.DataFrame({"time": time, **dict(zip(FOOT, values.T, strict=True))}).to_csv(path, index=False)
    return path


@pytest.fixture
def expected(movement: CubicSpline, network: Path, tmp_path: Path) -> np.ndarray:
    """The prediction at the network's own rate, `(300, 7)`."""
    time_s = np.arange(300) / 200
    lines = predict(network, write(tmp_path / "own.csv", time_s, movement(time_s)))
    np.testing.assert_allclose(lines["time (s)"], time_s, atol=1e-9)
    return target_values(lines)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of any target, relative to the range of that target."""
    assert len(found) == len(expected)
    return float((np.abs(found - expected).max(axis=0) / np.ptp(expected, axis=0)).max())


def times_at(rate_hz: float, jitter: float, seed: int = 0) -> np.ndarray:
    """Return times over 1.495 s, each shifted by up to `jitter` intervals, except both ends."""
    time_s = np.linspace(0, 1.495, round(1.495 * rate_hz) + 1)
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, len(time_s)) / rate_hz
    noise[[0, -1]] = 0
    return time_s + noise


@pytest.mark.parametrize(("rate_hz", "jitter"), [(148, 0.3), (100, 0.0), (250, 0.4), (1000, 0.3)])
def test_another_rate_gives_nearly_the_same(
    rate_hz: float,
    jitter: float,
    movement: CubicSpline,
    network: Path,
    expected: np.ndarray,
    tmp_path: Path,
) -> None:
    """Sensors of two manufacturers would give different moments for the same step."""
    time_s = times_at(rate_hz, jitter)
    lines = predict(network, write(tmp_path / "walk.csv", time_s, movement(time_s)))
    assert difference(target_values(lines), expected) < CLOSE
    late = write(tmp_path / "late.csv", time_s, movement(np.maximum(time_s - 1 / 200, 0)))
    assert difference(target_values(predict(network, late)), expected) > 10 * CLOSE


def test_frequencies_above_the_networks_rate_are_filtered_out(
    movement: CubicSpline, network: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """A hum at 170 Hz would be aliased to 30 Hz, within the frequencies of a step."""
    time_s = times_at(1000, 0.0)
    hum = 5 * np.sin(2 * np.pi * 170 * time_s)[:, None]
    lines = predict(network, write(tmp_path / "walk.csv", time_s, movement(time_s) + hum))
    assert (
        difference(target_values(lines)[10:-10], expected[10:-10]) < 2 * CLOSE
    )  # the ends ring a little
    thinned = write(tmp_path / "thin.csv", time_s[::5], (movement(time_s) + hum)[::5])
    assert difference(target_values(predict(network, thinned)), expected) > 20 * CLOSE


def test_times_in_other_units_and_with_another_origin(
    movement: CubicSpline, network: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """The milliseconds since 1970 of a phone would make a recording of a million years."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    frame = pd.read_csv(path).rename(columns={"time": "Clock"})
    frame["Clock"] = 1_700_000_000_000 + (1000 * time_s).round().astype(int)
    frame.to_csv(path, index=False)
    lines = predict(network, path, "--time-column", "Clock", "--time-unit", "ms")
    assert difference(target_values(lines), expected) < CLOSE
    assert lines["time (s)"][0] == 1_700_000_000


def test_short_gaps_are_filled_and_long_ones_split(
    movement: CubicSpline,
    network: Path,
    expected: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A lost packet would cost a window, or a lost second would be invented."""
    time_s = np.arange(300) / 200
    values = movement(time_s)
    values[50:53, 1] = np.nan  # 20 ms without a value
    lines = predict(network, write(tmp_path / "small.csv", time_s, values))
    assert lines["stretch"].unique().tolist() == [1]
    assert difference(target_values(lines), expected) < 20 * CLOSE
    assert "WARNING" not in capsys.readouterr().out
    kept = (time_s < 0.6) | (time_s > 0.8)
    lines = predict(network, write(tmp_path / "long.csv", time_s[kept], movement(time_s)[kept]))
    assert lines["stretch"].tolist() == [1] * 120 + [2] * 139
    np.testing.assert_allclose(lines["time (s)"], time_s[kept], atol=1e-6)
    assert not lines.isna().any(axis=None)
    filled = predict(network, tmp_path / "long.csv", "--max-gap", "0.25")
    assert filled["stretch"].tolist() == [1] * 300


def test_a_slow_recording_has_no_gaps() -> None:
    """A recording at 25 Hz would be split into single samples."""
    assert split_at_gaps(np.arange(10) / 25, max_gap_s=0.03) == [slice(0, 10)]
    parts = split_at_gaps(np.array([0.0, 0.01, 0.02, 5.0, 9.0, 9.01]), max_gap_s=0.03)
    assert parts == [slice(0, 3), slice(4, 6)]  # the lone sample at 5 s is left out


def test_measured_targets_in_a_csv_are_scored(
    movement: CubicSpline, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forces that were measured for a part of the time would not be compared."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    frame = pd.read_csv(path)
    for k, name in enumerate(script.TARGET_COLUMNS):
        frame[name] = np.sin(time_s + k)
    frame.loc[:200, "right_vy"] = np.nan
    frame.to_csv(path, index=False)
    predict(network, path)
    lines = capsys.readouterr().out.splitlines()
    assert float(next(line for line in lines if line.startswith("GRF y")).split()[-1]) > 0
    frame.drop(columns="right_vy").to_csv(path, index=False)
    predict(network, path)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("GRF x")).split()[-1] == "-"


Spoil = Callable[[pd.DataFrame], pd.DataFrame]


def put(name: str, row: int, value: object) -> Spoil:
    """Return a function that puts a value into one cell."""

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame

    return spoil


FAULTS: dict[str, tuple[Spoil, str]] = {
    "no column": (
        lambda frame: frame.rename(columns={"foot_Gyro_Y": "foot_gyro_y"}),
        "no column foot_Gyro_Y, which the network reads; add",
    ),
    "no time": (
        lambda frame: frame.rename(columns={"time": "t"}),
        "no time column time; name it by --time-column, one of t, foot_Accel_X",
    ),
    "twice": (
        lambda frame: frame.assign(x=1.0).rename(columns={"x": "foot_Accel_X"}),
        "two columns are named foot_Accel_X; rename one",
    ),
    "text": (
        put("foot_Accel_Y", 7, "1,5\x1b[2J"),
        r"foot_Accel_Y, line 8 below the names: 1,5 \[2J is not a number; correct it",
    ),
    "infinite": (put("foot_Gyro_X", 0, "inf"), "foot_Gyro_X, line 1 below the names: inf is not"),
    "units below the names": (
        put("time", 0, "s"),
        "time, line 1 below the names: s is not a number",
    ),
    "time stands": (
        put("time", 3, 0.01),
        "time, line 4 below the names: the time does not increase",
    ),
    "time is lost": (put("time", 9, None), "line 10 below the names: the time does not increase"),
    "one line": (lambda frame: frame[:1], "fewer than two lines .*; supply a longer recording"),
    "empty column": (
        lambda frame: frame.assign(foot_Accel_Z=np.nan),
        "every column that the network reads; supply foot_Accel_Z",
    ),
    "another unit of time": (
        lambda frame: frame.assign(time=1000 * frame["time"]),
        "samples per second, but the network reads 200; check --time-unit",
    ),
    "no lines": (lambda frame: frame[:0], "no lines; it must have names in the first line"),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(
    spoil: Spoil, message: str, movement: CubicSpline, network: Path, tmp_path: Path
) -> None:
    """Users would get a traceback of pandas, or forces computed from nonsense."""
    time_s = np.arange(150) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    spoil(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=message) as caught:
        predict(network, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "walk-out").exists()


FILES = {
    "semicolons": (b"time;foot_Accel_X\n0;1\n", "one column, time;foot_Accel_X; save it with"),
    "empty": (b"", "no lines"),
    "no text": (b"\xff\xfe\x00,\x80\n" * 5, "not a CSV"),
    "more cells": (b"time,x\n0,1\n0,1,2,3\n", "no column foot_Accel_X"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_a_csv_is_refused(
    content: bytes, message: str, network: Path, tmp_path: Path
) -> None:
    """Users would get a traceback for a file that was saved in another way."""
    path = tmp_path / "walk.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        predict(network, path)
    with pytest.raises(InputError, match="--subject is not for a CSV"):
        predict(network, path, "--subject", "1")
