"""A CSV of any rate gives what the same movement at the model's rate gives, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from common.columns import DATASET_A_COLUMNS
from scipy.interpolate import CubicSpline
from tools.raw.signals import zero_phase

import Dataset_A_lmfn_tfn_fusion_models as script
from common.files import InputError
from tests.predicting import predicted, random_model, targets_of
from tools.prediction import figure
from tools.prediction.resampling import stretches

FOOT = list(DATASET_A_COLUMNS[:6])
SMOOTH_HZ = 20.0  # of the movement; all rates below can hold it
# Largest difference of a target, of the range of its prediction; a shift of one sample in time
# makes more than ten times as much.
CLOSE = 0.004


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes a second."""
    monkeypatch.setattr(figure, "save", lambda *_: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    return random_model(script, "lmfn-foot", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def movement(sample_files: dict[str, Path]) -> CubicSpline:
    """The foot of the sample, smooth, as a function of time over 1.495 s."""
    with h5py.File(sample_files["a"]) as file:
        foot = file["All_subjects/Subject_7/Treadmill"][:300, :6]
    return CubicSpline(np.arange(300) / 200, zero_phase(foot, 200, SMOOTH_HZ))


def write(path: Path, time: np.ndarray, values: np.ndarray) -> Path:
    """Write a CSV of the foot."""
    pd.DataFrame({"time": time, **dict(zip(FOOT, values.T, strict=True))}).to_csv(path, index=False)
    return path


@pytest.fixture
def expected(movement: CubicSpline, model: Path, tmp_path: Path) -> np.ndarray:
    """Give the prediction at the model's own rate, `(300, 7)`."""
    time_s = np.arange(300) / 200
    lines = predicted(model, write(tmp_path / "own.csv", time_s, movement(time_s)))
    np.testing.assert_allclose(lines["time (s)"], time_s, atol=1e-9)
    return targets_of(lines)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the range of each target, the worst target's."""
    assert len(found) == len(expected)
    return float((np.abs(found - expected).max(axis=0) / np.ptp(expected, axis=0)).max())


def times_at(rate_hz: float, jitter: float, seed: int = 0) -> np.ndarray:
    """Return times over 1.495 s, each off by up to `jitter` of an interval, the ends in place."""
    time_s = np.linspace(0, 1.495, round(1.495 * rate_hz) + 1)
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, len(time_s)) / rate_hz
    noise[[0, -1]] = 0
    return time_s + noise


@pytest.mark.parametrize(("rate_hz", "jitter"), [(148, 0.3), (100, 0.0), (250, 0.4), (1000, 0.3)])
def test_another_rate_gives_nearly_the_same(
    rate_hz: float,
    jitter: float,
    movement: CubicSpline,
    model: Path,
    expected: np.ndarray,
    tmp_path: Path,
) -> None:
    """Else a sensor of another maker gives other moments for the same step."""
    time_s = times_at(rate_hz, jitter)
    lines = predicted(model, write(tmp_path / "walk.csv", time_s, movement(time_s)))
    assert difference(targets_of(lines), expected) < CLOSE
    late = write(tmp_path / "late.csv", time_s, movement(np.maximum(time_s - 1 / 200, 0)))
    assert difference(targets_of(predicted(model, late)), expected) > 10 * CLOSE


def test_what_the_models_rate_cannot_hold_is_filtered_out(
    movement: CubicSpline, model: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """Else a hum at 170 Hz becomes one at 30 Hz, in the midst of the step."""
    time_s = times_at(1000, 0.0)
    hum = 5 * np.sin(2 * np.pi * 170 * time_s)[:, None]
    lines = predicted(model, write(tmp_path / "walk.csv", time_s, movement(time_s) + hum))
    assert difference(targets_of(lines)[10:-10], expected[10:-10]) < 2 * CLOSE  # ends ring a little
    thinned = write(tmp_path / "thin.csv", time_s[::5], (movement(time_s) + hum)[::5])
    assert difference(targets_of(predicted(model, thinned)), expected) > 20 * CLOSE


def test_clocks_in_other_units_and_from_another_zero(
    movement: CubicSpline, model: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """Else a phone's milliseconds since 1970 are a recording of a million years."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    frame = pd.read_csv(path).rename(columns={"time": "Clock"})
    frame["Clock"] = 1_700_000_000_000 + (1000 * time_s).round().astype(int)
    frame.to_csv(path, index=False)
    lines = predicted(model, path, "--time-column", "Clock", "--time-unit", "ms")
    assert difference(targets_of(lines), expected) < CLOSE
    assert lines["time (s)"][0] == 1_700_000_000


def test_small_gaps_are_filled_and_long_ones_part(
    movement: CubicSpline,
    model: Path,
    expected: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else a lost packet costs a window, or a lost second is made up."""
    time_s = np.arange(300) / 200
    values = movement(time_s)
    values[50:53, 1] = np.nan  # 20 ms between what is there
    lines = predicted(model, write(tmp_path / "small.csv", time_s, values))
    assert lines["stretch"].unique().tolist() == [1]
    assert difference(targets_of(lines), expected) < 20 * CLOSE
    assert "WARNING" not in capsys.readouterr().out
    kept = (time_s < 0.6) | (time_s > 0.8)
    lines = predicted(model, write(tmp_path / "long.csv", time_s[kept], movement(time_s)[kept]))
    assert lines["stretch"].tolist() == [1] * 120 + [2] * 139
    np.testing.assert_allclose(lines["time (s)"], time_s[kept], atol=1e-6)
    assert not lines.isna().any(axis=None)
    filled = predicted(model, tmp_path / "long.csv", "--max-gap", "0.25")
    assert filled["stretch"].tolist() == [1] * 300


def test_a_slow_clock_has_no_gaps() -> None:
    """Else a recording at 25 Hz falls into single samples."""
    assert stretches(np.arange(10) / 25, max_gap_s=0.03) == [slice(0, 10)]
    parts = stretches(np.array([0.0, 0.01, 0.02, 5.0, 9.0, 9.01]), max_gap_s=0.03)
    assert parts == [slice(0, 3), slice(4, 6)]  # the lone sample at 5 s is left out


def test_measured_targets_in_a_csv_are_scored(
    movement: CubicSpline, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where forces were measured, even for a part of the time, they are compared."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    frame = pd.read_csv(path)
    for k, name in enumerate(script.TARGETS):
        frame[name] = np.sin(time_s + k)
    frame.loc[:200, "right_vy"] = np.nan
    frame.to_csv(path, index=False)
    predicted(model, path)
    lines = capsys.readouterr().out.splitlines()
    assert float(next(line for line in lines if line.startswith("GRF y")).split()[-1]) > 0
    frame.drop(columns="right_vy").to_csv(path, index=False)
    predicted(model, path)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("GRF x")).split()[-1] == "-"


Spoil = Callable[[pd.DataFrame], pd.DataFrame]


def put(name: str, row: int, value: object) -> Spoil:
    """Return a fault in one cell."""

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame

    return spoil


FAULTS: dict[str, tuple[Spoil, str]] = {
    "no column": (
        lambda frame: frame.rename(columns={"foot_Gyro_Y": "foot_gyro_y"}),
        "no column foot_Gyro_Y, which the model reads; add",
    ),
    "no time": (
        lambda frame: frame.rename(columns={"time": "t"}),
        "no column time for the time; name it by --time-column, of t, foot_Accel_X",
    ),
    "twice": (
        lambda frame: frame.assign(x=1.0).rename(columns={"x": "foot_Accel_X"}),
        "two columns are named foot_Accel_X; rename one",
    ),
    "text": (
        put("foot_Accel_Y", 7, "1,5\x1b[2J"),
        r"foot_Accel_Y, row 8 below the names: 1,5 \[2J is no number; correct it",
    ),
    "infinite": (put("foot_Gyro_X", 0, "inf"), "foot_Gyro_X, row 1 below the names: inf is no"),
    "units below the names": (put("time", 0, "s"), "time, row 1 below the names: s is no number"),
    "time stands": (put("time", 3, 0.01), "time, row 4 below the names: time does not rise there"),
    "time is lost": (put("time", 9, None), "row 10 below the names: time does not rise there"),
    "one row": (lambda frame: frame[:1], "no two rows have a number"),
    "empty column": (
        lambda frame: frame.assign(foot_Accel_Z=np.nan),
        "every column that the model reads; supply them in foot_Accel_Z",
    ),
    "another unit of time": (
        lambda frame: frame.assign(time=1000 * frame["time"]),
        "samples per second, where the model reads 200; look at --time-unit",
    ),
    "no rows": (lambda frame: frame[:0], "no rows; it must have names in the first line"),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(
    spoil: Spoil, message: str, movement: CubicSpline, model: Path, tmp_path: Path
) -> None:
    """Else a user gets a traceback of pandas, or forces made of nonsense."""
    time_s = np.arange(150) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    spoil(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=message) as caught:
        predicted(model, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "walk-out").exists()


FILES = {
    "semicolons": (b"time;foot_Accel_X\n0;1\n", "one column, time;foot_Accel_X; save it with"),
    "empty": (b"", "no rows"),
    "no text": (b"\xff\xfe\x00,\x80\n" * 5, "no CSV"),
    "more cells": (b"time,x\n0,1\n0,1,2,3\n", "no column foot_Accel_X"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_what_is_no_csv_is_refused(
    content: bytes, message: str, model: Path, tmp_path: Path
) -> None:
    """The same for files that were saved in another way."""
    path = tmp_path / "walk.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        predicted(model, path)
    with pytest.raises(InputError, match="--subject is not for a CSV"):
        predicted(model, path, "--subject", "1")
