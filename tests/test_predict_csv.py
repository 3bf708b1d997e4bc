"""A CSV at any rate gives the same estimates as one at the network's rate, or a clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

import Dataset_A_lmfn_tfn_fusion_models as script
from common.files import InputError
from tests.conftest import Capture, Files, Folders
from tests.predicting import predict, random_network, target_values
from tools.dataset_a import DATASET_A_COLUMNS
from tools.signals import filter_zero_phase
from tools.trial_file import split_at_gaps

FOOT = list(DATASET_A_COLUMNS[:6])
SMOOTH_HZ = 20.0  # cut-off of the movement; all rates below can represent it
# Largest difference of a target, relative to the range of its estimates; a delay of one sample
# makes a difference ten times as large.
CLOSE = 0.004


@pytest.fixture(scope="module")
def network(tmp_path_factory: Folders) -> Path:
    """A small network with random weights."""
    return random_network(script, "lmfn-foot", tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def movement(synthetic_files: Files) -> CubicSpline:
    """The IMU of the foot in the synthetic data, smoothed, as a function of time over 1.495 s."""
    with h5py.File(synthetic_files["a"]) as file:
        foot = file["All_subjects/Subject_7/Treadmill"][:300, :6]
    return CubicSpline(np.arange(300) / 200, filter_zero_phase(foot, 200, SMOOTH_HZ))


def write(path: Path, time: np.ndarray, values: np.ndarray) -> Path:
    """Write a CSV with the IMU of the foot."""
    pd.DataFrame({"time": time, **dict(zip(FOOT, values.T, strict=True))}).to_csv(path, index=False)
    return path


@pytest.fixture
def expected(movement: CubicSpline, network: Path, tmp_path: Path) -> np.ndarray:
    """The estimates at the network's own rate, `(300, 7)`."""
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
    inner = slice(10, -10)  # the ends ring a little
    assert difference(target_values(lines)[inner], expected[inner]) < 2 * CLOSE
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
    movement: CubicSpline, network: Path, expected: np.ndarray, tmp_path: Path, capsys: Capture
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
    movement: CubicSpline, network: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Forces that were measured for a part of the time would not be compared."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    frame = pd.read_csv(path)
    for k, name in enumerate(script.COLUMNS["targets"]):
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


# How devices and spreadsheets write files ---------------------------------------------------------


@pytest.fixture
def walk(movement: CubicSpline, tmp_path: Path) -> Path:
    """A plain CSV over 0.745 s with the IMU of the foot, five digits after the point."""
    time_s = np.arange(150) / 200
    return write(tmp_path / "walk.csv", time_s, movement(time_s).round(5))


def with_commas(text: str) -> str:
    """Return a CSV as spreadsheets write it in most of Europe."""
    return text.replace(",", ";").replace(".", ",")


def below_names(text: str, line: str) -> str:
    """Return a CSV with one more line below the names."""
    names, numbers = text.split("\n", 1)
    return f"{names}\n{line}\n{numbers}"


def with_times(convert: Callable[[float], str]) -> Callable[[str], bytes]:
    """Return a function that rewrites the times of a CSV."""

    def rewrite(text: str) -> bytes:
        names, *lines = text.splitlines()
        cells = [line.split(",", 1) for line in lines]
        return "\n".join([names, *(f"{convert(float(t))},{rest}" for t, rest in cells)]).encode()

    return rewrite


def clock_time(time_s: float) -> str:
    """Return a time of day."""
    return f"09:59:{59 + time_s:09.6f}" if time_s < 1 else f"10:00:{time_s - 1:09.6f}"


PREAMBLE = "// General information:\n// Update Rate: 200.0Hz\nTrial, one; of two\n\n"
SI = "s,m/s^2,m/s^2,m/s^2,rad/s,rad/s,rad/s"
FORMATS: dict[str, Callable[[str], bytes]] = {
    "semicolons, decimal commas": lambda text: with_commas(text).encode(),
    "tabs, decimal commas": lambda text: with_commas(text).replace(";", "\t").encode(),
    "lines above the names": lambda text: (PREAMBLE + text).encode(),
    "sep=;": lambda text: f"sep=;\n{with_commas(text)}".encode(),
    "UTF-8 with BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.replace(",", "\t").encode("utf-16"),
    "Windows": lambda text: below_names(text, SI.replace("^2", "²")).encode("cp1252"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "quotes and blanks": lambda text: text.replace("foot_Gyro_X", '" foot_Gyro_X"').encode(),
    "units": lambda text: below_names(text, SI).encode(),
    "units in brackets": lambda text: below_names(
        text, "[s],(m·s⁻²),[m/s/s],[m/s²],[rad s-1],(rad/s),RAD/S"
    ).encode(),
    "columns without a name": lambda text: text.replace("\n", ",,\n").encode(),
    "dates": with_times(lambda t: f"2024-05-01 10:00:0{t:.6f}"),
    "dates in a time zone": with_times(lambda t: f"2024-05-01T10:00:0{t:.6f}+02:00"),
    "dates of a spreadsheet": with_times(lambda t: f"05/13/2024 10:00:0{t:.3f} PM"),
}


@pytest.mark.parametrize("convert", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_estimates(
    convert: Callable[[str], bytes], walk: Path, network: Path
) -> None:
    """Users would have to convert the exports of their device or spreadsheet by hand."""
    expected = predict(network, walk)
    walk.write_bytes(convert(walk.read_text(encoding="utf-8")))
    found = predict(network, walk)
    np.testing.assert_allclose(target_values(found), target_values(expected), atol=1e-6)
    np.testing.assert_allclose(found["time (s)"], expected["time (s)"], atol=1e-9)


def test_times_of_day_pass_the_hour(
    movement: CubicSpline, network: Path, expected: np.ndarray, tmp_path: Path, capsys: Capture
) -> None:
    """Loggers without a date would be refused."""
    time_s = np.arange(300) / 200
    path = write(tmp_path / "walk.csv", time_s, movement(time_s))
    path.write_bytes(with_times(clock_time)(path.read_text(encoding="utf-8")))
    lines = predict(network, path)
    assert difference(target_values(lines), expected) < CLOSE
    assert "Time 0 is 09:59:59.000000" in capsys.readouterr().out
    with pytest.raises(InputError, match="not numbers; omit --time-unit"):
        predict(network, path, "--time-unit", "ms")


def test_a_line_of_units_is_used(walk: Path, network: Path) -> None:
    """Recordings in g and deg/s would have to be converted, or their unit repeated as a flag."""
    expected = predict(network, walk)
    frame = pd.read_csv(walk)
    frame[FOOT[:3]] /= 9.80665
    frame[FOOT[3:]] *= 180 / np.pi
    frame["time"] *= 1000
    text = frame.to_csv(index=False)
    walk.write_text(below_names(text, "ms,g,g,g,°/s,deg/s,dps"), encoding="utf-8")
    found = predict(network, walk)
    np.testing.assert_allclose(target_values(found), target_values(expected), atol=1e-5)
    same = predict(network, walk, "--acc-unit", "g", "--time-unit", "ms")
    pd.testing.assert_frame_equal(found, same)


UNIT_LINES = {
    "contradiction": ("s,g,g,g,rad/s,rad/s,rad/s", "foot_Accel_X: unit g, which contradicts --acc"),
    "time": ("ms" + SI[1:], "time: unit ms, which contradicts --time-unit s"),
    "unknown": (SI.replace("rad/s", "rpm"), "foot_Gyro_X: unit rpm, but --gyr-unit knows rad/s"),
    "unknown time": ("min" + SI[1:], "time: unit min, but --time-unit knows s, ms"),
    "several": ("s,m/s2,m/s2,g,rad/s,rad/s,rad/s", "foot_Accel_Z: unit g, which contradicts"),
}


@pytest.mark.parametrize(("line", "message"), UNIT_LINES.values(), ids=UNIT_LINES)
def test_units_that_cannot_be_right_are_refused(
    line: str, message: str, walk: Path, network: Path
) -> None:
    """One of two contradicting units would be used silently."""
    text = walk.read_text(encoding="utf-8")
    walk.write_text(below_names(text, line), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        predict(network, walk, "--acc-unit", "m/s2", "--time-unit", "s")


def own_names(walk: Path) -> None:
    """Rewrite a CSV with the names of a device, whose X axis points the other way."""
    frame = pd.read_csv(walk)
    frame["foot_Accel_X"] *= -1
    names = [f"Left Shoe {kind}_{axis}" for kind in ("Acc", "Gyr") for axis in "XYZ"]
    frame.rename(columns=dict(zip(FOOT, names, strict=True))).to_csv(walk, index=False)


def test_columns_with_other_names_are_mapped(walk: Path, network: Path, tmp_path: Path) -> None:
    """Users would have to rename and negate the columns of every export."""
    expected = predict(network, walk)
    own_names(walk)
    pairs = [
        f"{name}={'-' if name == 'foot_Accel_X' else ''}Left Shoe "
        f"{'Acc' if 'Accel' in name else 'Gyr'}_{name[-1]}"
        for name in FOOT
    ]
    pd.testing.assert_frame_equal(predict(network, walk, "--columns", *pairs), expected)
    lines = [",".join(reversed(pair.split("="))) for pair in pairs]
    lines.append("Chest Acc_X,trunk_Accel_X")  # for other networks
    mapping = tmp_path / "columns.csv"
    mapping.write_text("\n".join(["yours,ours", *lines]), encoding="utf-8-sig")
    found = predict(network, walk, "--columns", str(mapping))
    pd.testing.assert_frame_equal(found, expected)


def test_a_template_of_the_mapping_is_printed(walk: Path, network: Path, capsys: Capture) -> None:
    """Users would have to find out which names the network reads."""
    own_names(walk)
    with pytest.raises(InputError, match="foot_Gyro_Z, which .* among time, Left Shoe Acc_X"):
        predict(network, walk, "--columns", "foot_Accel_X=-Left Shoe Acc_X")
    template = capsys.readouterr().out
    assert "\nyours,ours\n-Left Shoe Acc_X,foot_Accel_X\n,foot_Accel_Y\n" in template


MAPPINGS = {
    "no such column": (["foot_Accel_X=Acc_Q"], r"no column Acc_Q \(for foot_Accel_X\), which"),
    "unknown name": (["foot_acc_X=time"], "foot_acc_X: not a column of Dataset A such as foot_Acc"),
    "twice": (["foot_Accel_X=a", "foot_Accel_X=b"], "foot_Accel_X is mapped twice"),
    "no file": (["no.csv"], "no.csv: no such file; pass a CSV"),
    "half a pair": (["foot_Accel_X=a", "foot_Accel_Y"], "pass one FILE, or pairs such as"),
}


@pytest.mark.parametrize(("pairs", "message"), MAPPINGS.values(), ids=MAPPINGS)
def test_a_mapping_that_cannot_be_used_is_refused(
    pairs: list[str], message: str, walk: Path, network: Path
) -> None:
    """A misspelled name would be ignored, and another column read."""
    with pytest.raises(InputError, match=message):
        predict(network, walk, "--columns", *pairs)


def test_samples_in_bursts_are_counted(
    movement: CubicSpline, network: Path, expected: np.ndarray, tmp_path: Path, capsys: Capture
) -> None:
    """A radio that sends three samples at a time would seem to record at 1000 Hz."""
    number = np.arange(300)
    time_s = number // 3 * 0.015 + number % 3 * 0.001
    lines = predict(network, write(tmp_path / "walk.csv", time_s, movement(time_s)))
    printed = capsys.readouterr().out
    assert "Recorded at 201" in printed
    assert "NOTICE: the median interval is that of 1000 Hz: samples arrive in bursts" in printed
    assert abs(len(lines) - len(expected)) <= 3


def test_the_recording_is_not_overwritten(walk: Path, network: Path) -> None:
    """The recording would be lost."""
    folder = walk.parent / "walk-out"
    folder.mkdir()
    path = Path(shutil.copy(walk, folder / "prediction.csv"))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"prediction\.csv: is an input and would be overwritten"):
        predict(network, path, "--out", str(folder))
    with pytest.raises(InputError, match="is an input and would be"):
        predict(network, walk, "--columns", str(path))
    assert path.read_bytes() == before
    assert len(list(folder.iterdir())) == 1


# Faults -------------------------------------------------------------------------------------------

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
        "no column foot_Gyro_Y, which the network reads; name yours with --columns, among time",
    ),
    "no time": (
        lambda frame: frame.rename(columns={"time": "t"}),
        "no time column time; name it with --time-column, one of t, foot_Accel_X",
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
    "text as all times": (
        lambda frame: frame.assign(time="noon, or so"),
        "time, line 1 below the names: noon, or so is neither a number nor a date or time",
    ),
    "time stands": (put("time", 3, 0.01), "time, line 4 below the names: the time does not increa"),
    "time is lost": (put("time", 9, None), "line 10 below the names: the time does not increase"),
    "one line": (lambda frame: frame[:1], "fewer than two lines .*; provide a longer recording"),
    "empty column": (
        lambda frame: frame.assign(foot_Accel_Z=np.nan),
        "every column that the network reads; add foot_Accel_Z",
    ),
    "another unit of time": (
        lambda frame: frame.assign(time=1000 * frame["time"]),
        "samples per second, but the network reads 200; check --time-unit",
    ),
    "no lines": (lambda frame: frame[:0], "no lines below the column names; add the numbers"),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(
    spoil: Spoil, message: str, walk: Path, network: Path
) -> None:
    """Users would get a traceback of pandas, or forces computed from nonsense."""
    spoil(pd.read_csv(walk)).to_csv(walk, index=False)
    with pytest.raises(InputError, match=message) as caught:
        predict(network, walk)
    assert str(caught.value).startswith(f"{walk}: ")
    assert str(caught.value).isprintable()
    assert not (walk.parent / "walk-out").exists()


FILES = {
    "one column": (b"time foot_Accel_X\n0 1\n", "one column, time foot_Accel_X; save it with"),
    "empty": (b"", "empty; it must have column names and numbers below"),
    "zeros": (bytes(100), "not a text file"),
    "other columns": (b"time,x\n0,1\n0,1,2,3\n", "no column foot_Accel_X"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_a_csv_is_refused(
    content: bytes, message: str, network: Path, tmp_path: Path
) -> None:
    """Users would get a traceback for another kind of file."""
    path = tmp_path / "walk.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        predict(network, path)
    with pytest.raises(InputError, match="--subject cannot be used with a CSV"):
        predict(network, path, "--subject", "1")
