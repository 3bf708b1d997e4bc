"""Recordings at any rate, as devices and spreadsheets write them, are read, or a clear error."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline
from scipy.io import savemat

import Dataset_A_lmfn_tfn_fusion_models as script
from common.cli import ArgumentParser
from common.files import InputError
from tests.conftest import MEASURED, Files
from tools.matlab_file import read_matlab
from tools.signals import filter_zero_phase
from tools.trained import input_columns
from tools.trial_file import (
    MissingColumnsError,
    Trial,
    Units,
    add_flags,
    parse_clock,
    parse_mapping,
    read_trial,
    split_at_gaps,
)

SENSORS = script.SENSOR_SETS["foot"]
FOOT = input_columns(script, SENSORS)
TARGETS = script.COLUMNS["targets"]
TIME_S = np.arange(300) / 200
SMOOTH_HZ = 20.0  # cut-off of the movement; all rates below can represent it
# Largest difference of a channel, relative to its range; a delay of one sample makes a difference
# ten times as large.
CLOSE = 0.01


@pytest.fixture(scope="module")
def movement(synthetic_files: Files) -> CubicSpline:
    """The IMU of the foot in the synthetic data, smoothed, as a function of time over 1.495 s."""
    with h5py.File(synthetic_files["a"]) as file:
        foot = file["All_subjects/Subject_7/Treadmill"][:300, :6]
    return CubicSpline(TIME_S, filter_zero_phase(foot, 200, SMOOTH_HZ))


@pytest.fixture
def walk(movement: CubicSpline) -> pd.DataFrame:
    """A recording over 0.745 s at the network's rate, five digits after the point."""
    return table(TIME_S[:150], movement(TIME_S[:150]).round(5))


def table(time_s: np.ndarray, values: np.ndarray, names: Iterable[str] = FOOT) -> pd.DataFrame:
    """Return a recording."""
    return pd.DataFrame({"time": time_s, **dict(zip(names, values.T, strict=True))})


def read(recording: pd.DataFrame | str | bytes, folder: Path, *flags: str) -> Trial:
    """Write a recording as CSV and read it with these flags of a command."""
    path, parser = folder / "walk.csv", ArgumentParser()
    if isinstance(recording, pd.DataFrame):
        recording = recording.to_csv(index=False)
    path.write_bytes(recording.encode() if isinstance(recording, str) else recording)
    add_flags(parser)
    args = parser.parse_args(flags)
    units, mapping = Units(args.acc_unit, args.gyr_unit), parse_mapping(args.columns or (), script)
    return read_trial(path, script, SENSORS, parse_clock(args), units, mapping)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of any channel, relative to its range."""
    assert len(found) == len(expected)
    return float((np.abs(found - expected).max(axis=0) / np.ptp(expected, axis=0)).max())


# Time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate_hz", "jitter"), [(148, 0.3), (100, 0.0), (250, 0.4), (1000, 0.3)])
def test_another_rate_gives_nearly_the_same(
    rate_hz: float, jitter: float, movement: CubicSpline, tmp_path: Path
) -> None:
    """Sensors of two manufacturers would give different moments for the same step."""
    time_s = np.linspace(0, 1.495, round(1.495 * rate_hz) + 1)
    time_s[1:-1] += np.random.default_rng(0).uniform(-jitter, jitter, len(time_s) - 2) / rate_hz
    [stretch] = read(table(time_s, movement(time_s)), tmp_path).stretches
    np.testing.assert_allclose(stretch.time_s, TIME_S, atol=1e-9)
    assert difference(stretch.values, movement(TIME_S)) < CLOSE
    assert difference(movement(np.maximum(TIME_S - 0.005, 0)), movement(TIME_S)) > 10 * CLOSE


def test_frequencies_above_the_networks_rate_are_filtered_out(
    movement: CubicSpline, tmp_path: Path
) -> None:
    """A hum at 170 Hz would be aliased to 30 Hz, within the frequencies of a step."""
    time_s = np.arange(1496) / 1000
    hum = np.sin(2 * np.pi * 170 * time_s)[:, None]
    recording = table(time_s, movement(time_s) + 5 * hum)
    wave = np.sin(4 * np.pi * time_s)[:, None]
    recording[TARGETS] = np.tile(wave + hum, len(TARGETS))
    [stretch] = read(recording, tmp_path).stretches
    inner = slice(10, -10)  # the ends ring a little
    expected = np.hstack([movement(TIME_S), np.tile(wave[::5], len(TARGETS))])[inner]
    assert difference(stretch.values[inner], expected) < 2 * CLOSE


def test_times_in_other_units_and_with_another_origin(walk: pd.DataFrame, tmp_path: Path) -> None:
    """The milliseconds since 1970 of a phone would make a recording of a million years."""
    expected = walk[FOOT].to_numpy()
    walk["time"] = 1_700_000_000_000 + (1000 * walk["time"]).round().astype(int)
    walk = walk.rename(columns={"time": "Clock"})
    trial = read(walk, tmp_path, "--time-column", "Clock", "--time-unit", "ms")
    assert difference(trial.stretches[0].values, expected) < CLOSE
    assert trial.start_s == 1_700_000_000


def test_short_gaps_are_filled_and_long_ones_split(movement: CubicSpline, tmp_path: Path) -> None:
    """A lost packet would cost a window, or a lost second would be invented."""
    recording = table(TIME_S, movement(TIME_S))
    recording.loc[50:52, "foot_Accel_Y"] = np.nan  # 20 ms without a value
    trial = read(recording, tmp_path)
    assert difference(trial.stretches[0].values, movement(TIME_S)) < 20 * CLOSE
    assert not trial.gaps
    recording.loc[120:160, "foot_Gyro_Z"] = np.nan
    trial = read(recording, tmp_path)
    assert trial.gaps == ["gap of 0.21 s after line 120 below the names, no foot_Gyro_Z"]
    assert [len(stretch.values) for stretch in trial.stretches] == [120, 139]
    np.testing.assert_allclose(trial.stretches[1].time_s, TIME_S[161:], atol=1e-9)
    assert len(read(recording, tmp_path, "--max-gap", "0.25").stretches) == 1


def test_a_slow_recording_has_no_gaps() -> None:
    """A recording at 25 Hz would be split into single samples."""
    assert split_at_gaps(np.arange(10) / 25, max_gap_s=0.03) == [slice(0, 10)]
    parts = split_at_gaps(np.array([0.0, 0.01, 0.02, 5.0, 9.0, 9.01]), max_gap_s=0.03)
    assert parts == [slice(0, 3), slice(4, 6)]  # the lone sample at 5 s is left out


@pytest.mark.parametrize("start_s", [1.23, 2.23])  # 1.26 - 1.23 > 0.03, but 2.26 - 2.23 < 0.03
def test_rounding_does_not_split_a_recording(start_s: float) -> None:
    """Two missing frames at 100 Hz would be a gap in one place and none in another."""
    time_s = np.array([start_s - 0.01, start_s, start_s + 0.03, start_s + 0.04])
    assert len(split_at_gaps(time_s, max_gap_s=0.03)) == 1


def test_samples_in_bursts_are_counted(movement: CubicSpline, tmp_path: Path) -> None:
    """A radio that sends three samples at a time would seem to record at 1000 Hz."""
    number = np.arange(300)
    time_s = number // 3 * 0.015 + number % 3 * 0.001
    trial = read(table(time_s, movement(time_s)), tmp_path)
    assert trial.own_hz == pytest.approx(200, rel=0.01)
    assert "the median interval is that of 1000 Hz: samples arrive in bursts" in trial.notices[0]


def test_targets_may_be_measured_for_a_part_of_the_time(walk: pd.DataFrame, tmp_path: Path) -> None:
    """Forces off the plates would be invented, or none would be compared."""
    walk[TARGETS] = np.arange(len(TARGETS))
    walk.loc[100:, "right_vy"] = np.nan
    trial = read(walk, tmp_path)
    assert trial.names == [*FOOT, *TARGETS]
    np.testing.assert_allclose(trial.stretches[0].values, walk[trial.names], atol=1e-5)
    assert read(walk.drop(columns="right_vy"), tmp_path).names == FOOT


@pytest.mark.parametrize(("first", "bits"), [(200, 8), (65_500, 16), (2**32 - 90, 32)])
def test_a_counter_of_samples_is_unwrapped_and_split_where_packets_were_lost(
    first: int, bits: int, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """The steps before and after lost packets would be joined to one that nobody took."""
    count = (first + np.arange(150)) % 2**bits
    recording = walk.drop(columns="time").assign(PacketCounter=count).drop(index=range(100, 115))
    trial = read(recording, tmp_path, "--recorded-hz", "200")
    [notice] = trial.notices
    assert "PacketCounter counts on by 16 instead of 1 after line 100 below the names" in notice
    assert "almost certainly 15 samples lost; see --time-column" in notice
    flags = ["--time-column", "PacketCounter", "--recorded-hz", "200"]
    trial = read(recording, tmp_path, *flags)
    assert [len(stretch.values) for stretch in trial.stretches] == [100, 35]
    np.testing.assert_allclose(trial.stretches[1].time_s, TIME_S[115:150], atol=1e-9)
    assert f"the counter starts again after {2**bits:,}" in trial.notices[0]
    with pytest.raises(InputError, match="no whole number, but with --recorded-hz"):
        read(walk, tmp_path, "--time-column", "time", "--recorded-hz", "200")


@pytest.mark.parametrize(("unit", "ticks_hz", "period"), [("us", 1e6, 2**32), ("ms", 1e3, 2**16)])
def test_a_time_that_starts_again_is_unwrapped(
    unit: str, ticks_hz: float, period: int, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """A sensor that has been on for 72 minutes would be refused, or its lines sorted."""
    ticks = (period - round(0.5 * ticks_hz) + np.arange(150) * round(ticks_hz / 200)) % period
    trial = read(walk.assign(time=ticks), tmp_path, "--time-unit", unit)
    np.testing.assert_allclose(trial.stretches[0].time_s, TIME_S[:150], atol=1e-9)
    assert "the clock starts again after" in trial.notices[0]
    assert "line 101 below the names" in trial.notices[0]


def test_an_empty_time_column_is_named_with_the_stated_rate(
    walk: pd.DataFrame, tmp_path: Path
) -> None:
    """Users would look for the fault in times that do not exist."""
    text = "// Update Rate: 200.0Hz\n" + walk.assign(time=np.nan).to_csv(index=False)
    with pytest.raises(InputError, match="time: empty; .* or state --recorded-hz 200, as the file"):
        read(text, tmp_path)


@pytest.mark.parametrize("offset_s", [0.0, 0.001])
def test_sensors_with_lines_of_their_own_are_joined(
    offset_s: float, movement: CubicSpline, tmp_path: Path
) -> None:
    """The log of a phone, a line per event, would have no complete sample."""
    acc, gyr = (
        table(TIME_S, movement(TIME_S)),
        table(TIME_S + offset_s, movement(TIME_S + offset_s)),
    )
    lines = pd.concat([acc[["time", *FOOT[:3]]], gyr[["time", *FOOT[3:]]]])
    for recording in (lines, lines.sort_values("time", kind="stable")):
        [stretch] = read(recording, tmp_path).stretches
        assert difference(stretch.values, movement(stretch.time_s)) < CLOSE


def test_a_last_line_that_ends_early_is_left_out(walk: pd.DataFrame, tmp_path: Path) -> None:
    """A logger that lost power would leave a file that nothing reads, or a wrong last number."""
    text = walk.to_csv(index=False)
    trial = read(text[: text.rindex(",") - 2], tmp_path)
    assert len(trial.stretches[0].values) == 149
    assert trial.notices == ["the last line is incomplete and was left out"]


def test_a_matlab_file_that_expands_too_far_or_has_a_table_is_refused(tmp_path: Path) -> None:
    """A file of 150 kB would fill the memory; a table would be called a file without arrays."""
    savemat(tmp_path / "bomb.mat", {"a": np.zeros(20_000_000)}, do_compression=True)
    with pytest.raises(InputError, match="needs at least [0-9,]+ bytes of memory"):
        read_matlab(tmp_path / "bomb.mat")
    savemat(
        tmp_path / "cut.mat", {"a": np.random.default_rng(0).normal(size=1000)}, do_compression=True
    )
    (tmp_path / "cut.mat").write_bytes((tmp_path / "cut.mat").read_bytes()[:2000])
    with pytest.raises(InputError, match="not a MATLAB file"):
        read_matlab(tmp_path / "cut.mat")
    path = MEASURED / "dataset_a" / "SubjectInfo.mat"
    if not path.exists():
        pytest.skip(f"the table of the subjects of Dataset A is not at {path}")
    with pytest.raises(InputError, match="a table, timetable or other object; .* writetable"):
        read_matlab(path)


# How devices and spreadsheets write files ---------------------------------------------------------


def with_commas(text: str) -> str:
    """Return a CSV as spreadsheets write it in most of Europe."""
    return text.replace(",", ";").replace(".", ",")


def below_names(text: str, line: str) -> str:
    """Return a CSV with one more line below the names."""
    return text.replace("\n", f"\n{line}\n", 1)


def with_times(convert: Callable[[float], str]) -> Callable[[str], str]:
    """Return a function that rewrites the times of a CSV."""

    def rewrite(text: str) -> str:
        names, *lines = text.splitlines()
        cells = [line.split(",", 1) for line in lines]
        return "\n".join([names, *(f"{convert(float(t))},{rest}" for t, rest in cells)])

    return rewrite


def over(before: str, after: str) -> Callable[[str], str]:
    """Return a function that writes times of which 0.5 s are before a change and the rest after."""
    return with_times(
        lambda t: f"{before}{59.5 + t:09.6f}" if t < 0.5 else f"{after}{t - 0.5:09.6f}"
    )


def quoted_commas(text: str) -> str:
    """Return a CSV with a decimal comma in every quoted cell."""
    rows = [[cell.replace(".", ",") for cell in line.split(",")] for line in text.splitlines()]
    return "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)


PREAMBLE = "// General information:\n// Update Rate: 200.0Hz\nTrial, one; of two\n\n"
SI = "s,m/s^2,m/s^2,m/s^2,rad/s,rad/s,rad/s"
BRACKETS = "[s],(m·s⁻²),[m/s/s],[m/s²],[rad s-1],(rad/s),RAD/S"
FORMATS: dict[str, Callable[[str], str | bytes]] = {
    "semicolons, decimal commas": with_commas,
    "tabs, decimal commas": lambda text: with_commas(text).replace(";", "\t"),
    "decimal commas in quotes": quoted_commas,
    "lines above the names": lambda text: PREAMBLE + text,
    "empty last line": lambda text: text + ",,,,,,\n",
    "sep=;": lambda text: f"sep=;\n{with_commas(text)}",
    "lines of commas": lambda text: text.replace("\n", f"\n{',' * 6}\n" * 2).replace("\n,", "\n ,"),
    "commas behind the last cell": lambda text: text.replace("\n", ",,,\n").replace(",,,", "", 1),
    "NULs at the end": lambda text: text.encode() + bytes(3000),
    "NULs at the end of UTF-16": lambda text: text.encode("utf-16") + bytes(3000),
    "names in two lines": lambda text: (
        "time,foot,,,foot,,\n,Accel_X,Accel_Y,Accel_Z,Gyro_X,Gyro_Y,"
        "Gyro_Z\n" + text.partition("\n")[2]
    ),
    "names, units, types": lambda text: below_names(below_names(text, "float" + ",float" * 6), SI),
    "names twice": lambda text: below_names(text, text.partition("\n")[0]),
    "device above the names": lambda text: f"Device: X; serial 1\n{text}",
    "names of unused columns twice": lambda text: text.replace("\n", ",x,x\n"),
    "UTF-16 without BOM": lambda text: text.encode("utf-16-le"),
    "UTF-8 with BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.replace(",", "\t").encode("utf-16"),
    "Windows": lambda text: below_names(text, SI.replace("^2", "²")).encode("cp1252"),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "quotes and blanks": lambda text: text.replace("foot_Gyro_X", '" foot_Gyro_X"'),
    "units in brackets": lambda text: below_names(text, BRACKETS),
    "columns without a name": lambda text: text.replace("\n", ",,\n"),
    "times of day": with_times(
        lambda t: f"09:59:{59.5 + t:09.6f}" if t < 0.5 else f"10:00:{t - 0.5:09.6f}"
    ),
    "midnight": with_times(lambda t: f"{'23:59' if t < 0.5 else '00:00'}:{(59.5 + t) % 60:09.6f}"),
    "minutes of an hour": with_times(lambda t: f"{59 if t < 0.5 else 0}:{(59.5 + t) % 60:09.6f}"),
    "a day ends, day first": over("12.05.2024 23:59:", "13.05.2024 00:00:"),
    "a month ends, month first": over("05/06/2024 23:59:", "05/07/2024 00:00:"),
    "end of daylight saving time": over("2024-10-27 02:59:", "2024-10-27 02:00:"),
    "seconds of a minute": with_times(lambda t: f"{(59.5 + t) % 60:.6f}"),
    "dates in a time zone": with_times(lambda t: f"2024-05-01T10:00:0{t:.6f}+02:00"),
    "dates of a spreadsheet": with_times(lambda t: f"05/13/2024 10:00:0{t:.3f} PM"),
}


@pytest.mark.parametrize("convert", FORMATS.values(), ids=FORMATS)
def test_every_format_is_read(
    convert: Callable[[str], str | bytes], walk: pd.DataFrame, tmp_path: Path
) -> None:
    """Users would have to convert the exports of their device or spreadsheet by hand."""
    text = convert(walk.to_csv(index=False))
    trial = read(text, tmp_path)
    np.testing.assert_allclose(trial.stretches[0].values, walk[FOOT], atol=1e-6)
    np.testing.assert_allclose(trial.stretches[0].time_s, walk["time"], atol=1e-9)
    assert trial.notes[0].startswith("Time 0 is ") == bool(re.search(r"\d\d?:\d\d", str(text)))


def test_a_line_of_units_is_used(walk: pd.DataFrame, tmp_path: Path) -> None:
    """Recordings in g and deg/s would have to be converted, or their unit repeated as a flag."""
    walk["time"] *= 1000
    trial = read(below_names(walk.to_csv(index=False), "ms,g,g,g,°/s,deg/s,dps"), tmp_path)
    assert trial.units == ("g", "deg/s")
    np.testing.assert_allclose(trial.stretches[0].time_s, TIME_S[:150], atol=1e-9)
    flags = ["--acc-unit", "g", "--gyr-unit", "deg/s", "--time-unit", "ms"]
    assert read(walk, tmp_path, *flags).units == trial.units


def test_columns_with_other_names_are_mapped(walk: pd.DataFrame, tmp_path: Path) -> None:
    """Users would have to rename and negate columns, and find out which the network reads."""
    yours = [f"Left Shoe {kind}_{axis}" for kind in ("Acc", "Gyr") for axis in "XYZ"]
    own = walk.rename(columns=dict(zip(FOOT, yours, strict=True)))
    own[yours[0]] *= -1
    signed = [f"-{yours[0]}", *yours[1:]]
    mapping = tmp_path / "columns.csv"
    lines = [f"{theirs},{ours}" for theirs, ours in zip(signed, FOOT, strict=True)]
    lines.append("Chest Acc_X,trunk_Accel_X")  # for other networks
    mapping.write_text("\n".join(["yours,ours", *lines]), encoding="utf-8-sig")
    pairs = [f"{ours}={theirs}" for ours, theirs in zip(FOOT, signed, strict=True)]
    wrong = tmp_path / "wrong.csv"  # as before a correction that a warning proposes
    wrong.write_text(mapping.read_text("utf-8-sig").replace(yours[1], yours[2], 1), "utf-8")
    for flags in ([str(mapping)], pairs, [str(wrong), pairs[1]]):
        trial = read(own, tmp_path, "--columns", *flags)
        np.testing.assert_allclose(trial.stretches[0].values, walk[FOOT], atol=1e-6)
    with pytest.raises(MissingColumnsError, match="foot_Gyro_Z, which .* among time, Le") as error:
        read(own, tmp_path, "--columns", pairs[0])
    template = pickle.loads(pickle.dumps(error.value)).template
    assert template.startswith("yours,ours\n-Left Shoe Acc_X,foot_Accel_X\n,foot_Accel_Y\n")


# What is refused ----------------------------------------------------------------------------------

Spoil = Callable[[pd.DataFrame], pd.DataFrame | str | bytes]


def put(name: str, row: int, value: object) -> Spoil:
    """Return a function that puts a value into one cell."""

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame

    return spoil


def edit_line(number: int, edit: Callable[[str], str]) -> Spoil:
    """Return a function that edits a line of a CSV; line 0 has the names."""

    def spoil(frame: pd.DataFrame) -> str:
        lines = frame.to_csv(index=False).splitlines()
        lines[number] = edit(lines[number])
        return "\n".join(lines)

    return spoil


def with_units(line: str) -> Spoil:
    """Return a function that adds a line of units."""
    return lambda frame: below_names(frame.to_csv(index=False), line)


FAULTS: dict[str, tuple[Spoil, str]] = {
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
    "no times": (lambda frame: frame.assign(time=np.nan), "time: empty; choose another --time-col"),
    "time stands": (put("time", 3, 0.01), "time, line 4 below the names: the time does not increa"),
    "time is lost": (put("time", 9, None), "line 10 below the names: no time; fill it in or rem"),
    "time falls back": (
        lambda frame: frame.assign(time=frame["time"] % 0.5),
        "time, line 101 below the names: the time falls back by 0.495 s there; .*: split the file",
    ),
    "one damaged time": (
        put("time", 60, 1e6),
        "line 62 below the names: the time falls back by .*: correct or remove the line",
    ),
    "two lines swapped": (
        lambda frame: frame.iloc[[*range(60), 61, 60, *range(62, len(frame))]],
        "line 62 below the names: the time falls back by 0.005 s there; .* out of order: correct",
    ),
    "joined recordings of one second": (
        lambda frame: pd.concat([frame, frame, frame]).assign(time=np.arange(450) % 200 / 200),
        "line 201 below the names: the time falls back by 0.995 s there; .*: split the file there",
    ),
    "coarse times": (
        lambda frame: frame.assign(time=frame["time"].round(1)),
        "as in 9[0-9.]+ % of the lines; the times are too coarse: state --recorded-hz",
    ),
    "extra cell": (edit_line(30, lambda line: f"9,{line}"), "line 31: 8 cells, but 7 column names"),
    "extra cell in all lines": (
        lambda frame: frame.to_csv(index=False).replace("\n", "\n1,"),
        "line 2: 8 cells, but 7 column names; correct the line, .* give every column a name",
    ),
    "decimal commas between commas": (
        edit_line(30, lambda line: line.replace(".", ",")),
        "line 31: 1[0-9] cells, but 7 column names",
    ),
    "a cell is missing": (
        edit_line(30, lambda line: line.rpartition(",")[0]),
        "line 31: 6 cells, but 7 column names",
    ),
    "NUL": (edit_line(30, lambda line: line + "\0"), "not a text file"),
    "a line of 2 MB": (
        lambda frame: frame.to_csv(index=False) + "1," * 2**20,
        "line 152: longer than 1,048,576 characters",
    ),
    "open quotation mark": (
        lambda frame: frame.to_csv(index=False) + '"' + "0,1\n" * 50_000,
        "field larger than field limit .*; is a quotation mark missing above?",
    ),
    "hexadecimal": (put("foot_Gyro_X", 4, "0x1F"), "line 5 below the names: 0x1F is not a number"),
    "thousands": (put("foot_Gyro_X", 4, "1,234.5"), "line 5 below the names: 1,234.5 is not"),
    "names again": (
        edit_line(30, lambda line: ",".join(["time", *FOOT])),
        "time, line 30 below the names: time is not a number",
    ),
    "one line": (lambda frame: frame[:1], "fewer than two lines .*; provide a longer recording"),
    "sensors one after the other": (
        lambda frame: pd.concat([frame.drop(columns=FOOT[0]), frame[["time", FOOT[0]]] + 2]),
        "fewer than two lines .*; record all sensors at the same time",
    ),
    "empty column": (
        lambda frame: frame.assign(foot_Accel_Z=np.nan),
        "every column that the network reads; add foot_Accel_Z",
    ),
    "another unit of time": (
        lambda frame: frame.assign(time=1000 * frame["time"]),
        "samples per second, but the network reads 200; check --time-unit",
    ),
    "units of two columns": (with_units(SI.replace("m/s^2", "g", 1)), "contradicts that of anoth"),
    "unknown unit": (with_units(SI.replace("rad/s", "rpm")), "foot_Gyro_X: unit rpm, but --gyr-un"),
    "no lines": (lambda frame: frame[:0], "no lines below the column names; add the numbers"),
    "one column": (lambda _: "time foot_Accel_X\n0 1\n", "one column, time foot_Accel_X; save it"),
    "empty": (lambda _: "", "empty; it must have column names and numbers below"),
    "zeros": (lambda _: bytes(100), "not a text file"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(
    spoil: Spoil, message: str, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """Users would get a traceback of pandas, or forces computed from nonsense."""
    with pytest.raises(InputError, match=message) as caught:
        read(spoil(walk), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'walk.csv'}: ")
    assert str(caught.value).isprintable()


UNFIT_FLAGS = {
    "--acc-unit m/s2": "foot_Accel_X: unit g, which contradicts --acc-unit m/s2",
    "--time-unit ms": "dates or times of day, not numbers; omit --time-unit",
    "--recorded-hz 200 --time-unit ms": "--recorded-hz is for a file without times; omit one",
    "--columns foot_Accel_X=Acc_Q": r"no column Acc_Q \(for foot_Accel_X\), which",
    "--columns foot_acc_X=time": "foot_acc_X: not a column of Dataset A such as foot_Acc",
    "--columns foot_Accel_X=a foot_Accel_X=b": "foot_Accel_X is mapped twice",
    "--columns no.csv": "no.csv: no such file; pass a CSV",
    "--columns foot_Accel_X=a foot_Accel_Y": "pass one FILE, pairs such as",
}


@pytest.mark.parametrize(("flags", "message"), UNFIT_FLAGS.items())
def test_flags_that_do_not_fit_the_file_are_refused(
    flags: str, message: str, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """One of two contradicting units would be used silently, or a misspelled name ignored."""
    dated = with_times(lambda t: f"2024-05-01 10:00:0{t:.6f}")(walk.to_csv(index=False))
    text = below_names(dated, ",g,g,g,rad/s,rad/s,rad/s")
    with pytest.raises(InputError, match=message):
        read(text, tmp_path, *flags.split())
