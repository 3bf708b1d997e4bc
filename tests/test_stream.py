"""A streaming network on a recording and in real time: the same estimates, each at its sample."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from beyond import Dataset_A_streaming as script_a
from beyond import Dataset_B_streaming as script_b
from beyond.sequences import describe_columns
from common.files import InputError, load_checkpoint, save_checkpoint
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.networks import narrow_networks, run_script
from tests.predicting import copy_columns, predict, random_network, target_values
from tools.predict import output
from tools.stream.__main__ import main
from tools.stream.lines import read_lines
from tools.stream.stream import Stream
from tools.trained import load_trained

FOOT = [*script_a.COLUMNS["acc"][:3], *script_a.COLUMNS["gyr"][:3]]
HEADER = ",".join(["time", *FOOT])
TREADMILL = "All_subjects/Subject_7/Treadmill"
ROW, LATE = "streaming-foot", script_a.LOOKAHEAD


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks():
        yield


@pytest.fixture(scope="module")
def network(tmp_path_factory: Folders) -> Path:
    """A small streaming network with random weights."""
    with narrow_networks():
        return random_network(script_a, ROW, tmp_path_factory.mktemp("network"))


@pytest.fixture
def walk(synthetic_files: Files) -> pd.DataFrame:
    """300 samples of the IMU of the foot, with their time."""
    with h5py.File(synthetic_files["a"]) as file:
        foot = pd.DataFrame(file[TREADMILL][:300, :6], columns=FOOT)
    foot.insert(0, "time", foot.index / script_a.RATE_HZ)
    return foot


def stream(checkpoint: Path, lines: str | pd.DataFrame, *flags: str) -> pd.DataFrame:
    """Run the command in this process on lines of text or a table; return what it prints."""
    text = lines if isinstance(lines, str) else lines.to_csv(index=False)
    out = io.StringIO()
    assert main(["--checkpoint", str(checkpoint), *flags], text.splitlines(keepends=True), out) == 0
    return pd.read_csv(io.StringIO(out.getvalue()))


def check_equal(found: pd.DataFrame, expected: pd.DataFrame | np.ndarray) -> None:
    """Compare estimates, within 1e-5 of the largest of a target, and times if there are any."""
    if isinstance(expected, pd.DataFrame):
        np.testing.assert_allclose(found["time (s)"], expected["time (s)"], atol=1e-9)
        expected = target_values(expected)
    difference = np.abs(target_values(found) - expected).max(axis=0)
    assert (difference <= 1e-5 * np.abs(expected).max(axis=0)).all()


def forward(checkpoint: Path, table: pd.DataFrame) -> np.ndarray:
    """Return the output of the network on a whole table, `(samples, K)`."""
    values = torch.tensor(table[FOOT].to_numpy(np.float32))[None]
    with torch.no_grad():
        return load_trained(checkpoint).network(*values.split(3, dim=-1))[0].numpy()


# On a recording and in real time ------------------------------------------------------------------


def test_stream_predict_and_forward_give_the_same_estimates(
    network: Path, walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """What was tested on recordings must be what a device shows."""
    live = stream(network, walk)
    assert "Latency of an estimate: lookahead 50 ms + computation" in capsys.readouterr().err
    walk.to_csv(tmp_path / "walk.csv", index=False)
    recorded = predict(network, tmp_path / "walk.csv").dropna()
    assert live.columns.tolist() == recorded.columns.drop(["stretch", output.RATE]).tolist()
    assert len(live) == len(recorded) == 300 - LATE
    check_equal(live, recorded)
    check_equal(live, forward(network, walk)[LATE:])  # an estimate belongs to its sample
    np.testing.assert_allclose(live["time (s)"], walk["time"][: 300 - LATE], atol=1e-9)


def test_every_stretch_starts_cold(
    network: Path, walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """The state before a gap is unrelated to the walking after it."""
    parts = [walk[:120], walk[160:175], walk[200:205], walk[220:]]
    live = stream(network, pd.concat(parts))
    printed = capsys.readouterr().err
    assert "line 122: 0.205 s after the last complete line" in printed
    assert printed.count("the network is reset") == 3
    pd.concat(parts).to_csv(tmp_path / "walk.csv", index=False)
    recorded = predict(network, tmp_path / "walk.csv").dropna()
    assert len(recorded) == sum(max(len(part) - LATE, 0) for part in parts)  # 5 samples: none
    check_equal(live, recorded)
    check_equal(live[-80 + LATE :], forward(network, walk[220:])[LATE:])


def test_each_trial_of_a_file_is_a_stream(
    network: Path, synthetic_files: Files, tmp_path: Path
) -> None:
    """Even if it is shorter than a window; its last samples have no estimate."""
    path = copy_columns(synthetic_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT, slice(0, 180))
    with h5py.File(path, "r+") as file:
        file[TREADMILL].attrs["trial_starts"] = [0, 60, 68]
        foot = pd.DataFrame(file[TREADMILL][:], columns=FOOT)
    lines = predict(network, path)
    assert lines["trial"].tolist() == [1] * 60 + [2] * 8 + [3] * 112
    for start, stop in ((0, 60), (60, 68), (68, 180)):
        outputs = forward(network, foot[start:stop])[LATE:]
        expected = np.vstack([outputs, np.full((stop - start - len(outputs), 7), np.nan)])
        found = target_values(lines)[start:stop]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_short_gaps_are_interpolated(network: Path, walk: pd.DataFrame, capsys: Capture) -> None:
    """A lost packet would reset the state; a line with an empty cell counts as lost."""
    broken = walk.copy()
    broken.loc[100:103, FOOT[2]] = np.nan  # 25 ms from one complete line to the next
    lost = walk.drop(index=range(200, 205))  # 30 ms
    for table, gone in ((broken, [*range(100, 104)]), (lost, [*range(200, 205)])):
        filled = walk.copy()
        filled.loc[gone, FOOT] = np.nan
        check_equal(stream(network, table), stream(network, filled.interpolate("linear")))
        printed = capsys.readouterr().err
        assert f"Samples: 300, of which {len(gone)} were missing" in printed
        assert "reset" not in printed
    lines = stream(network, broken, "--max-gap", "0.02")
    assert "line 106: 0.025 s after the last complete line" in capsys.readouterr().err
    assert len(lines) == 300 - 4 - 2 * LATE


def test_columns_units_and_formats_of_devices(network: Path, walk: pd.DataFrame) -> None:
    """A stream in g with other names would need another program in between."""
    names = ["Acc_X", "Acc_Y", "Acc_Z", "Gyr_X", "Gyr_Y", "Gyr_Z"]
    device = walk.set_axis(["T", *names], axis=1)
    device[names[:3]] /= 9.80665
    device[names[3:]] *= 180 / np.pi
    device["Gyr_Y"] *= -1
    device["T"] = 1_700_000_000_000 + (1000 * device["T"]).round()
    device.insert(3, "battery", "full")
    pairs = [f"{ours}={yours}" for ours, yours in zip(FOOT, names, strict=True)]
    pairs[4] = pairs[4].replace("=", "=-")
    flags = ["--time-column", "T", "--time-unit", "ms", "--acc-unit", "g", "--gyr-unit", "deg/s"]
    text = device.to_csv(index=False, sep=";", decimal=",").replace("\n", "\r\n\r\n")
    found, expected = stream(network, text, *flags, "--columns", *pairs), stream(network, walk)
    check_equal(stream(network, walk[FOOT]), expected)  # many devices send no time
    np.testing.assert_allclose(found["time (s)"] - 1_700_000_000, expected["time (s)"], atol=1e-6)
    np.testing.assert_allclose(target_values(found), target_values(expected), rtol=1e-3, atol=1e-5)


# The process --------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path: Path, monkeypatch: Patch) -> Iterator[subprocess.Popen[str]]:
    """The command in another process, which waits for lines."""
    sizes = script_a.StreamingMFFMNet.__init__.__kwdefaults__
    monkeypatch.setitem(sizes, "hidden_sizes", (192, 128))  # the process has full-size networks
    checkpoint = random_network(script_a, ROW, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "tools.stream", "--checkpoint", str(checkpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        bufsize=1,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored
    ) as process:
        process.stdin.write(f"{HEADER}\n")
        yield process
        process.kill()


@pytest.mark.timeout(120)
def test_an_estimate_is_printed_before_the_next_sample(process: subprocess.Popen[str]) -> None:
    """A buffer would hold back seconds of estimates; Ctrl-C ends it with a summary."""
    assert process.stdout.readline().startswith("time (s),hip flexion moment (BW·BH),")
    for i in range(LATE + 4):
        process.stdin.write(f"{i / 200},1,2,3,4,5,{i}\n")
        if i >= LATE:
            assert float(process.stdout.readline().split(",")[0]) == (i - LATE) / 200
    process.send_signal(signal.SIGINT)
    rest, messages = process.communicate(timeout=60)
    assert (rest, process.returncode) == ("", 0)
    assert re.search("Samples: 1[34], of which 0 were missing", messages)  # the last is printed
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_ends_quietly_if_its_output_is_closed(process: subprocess.Popen[str]) -> None:
    """`| head` ends after the requested lines, without a traceback."""
    process.stdout.readline()
    process.stdout.close()
    for i in range(LATE + 2):
        process.stdin.write(f"{i / 200},1,2,3,4,5,6\n")
    assert process.wait(timeout=60) == 0
    assert len(process.stderr.read().splitlines()) == 2  # the network, and what it waits for


WITHOUT_PYTORCH = """
import io, sys
from tools.stream.__main__ import main
assert main(["--checkpoint", sys.argv[1]], open(sys.argv[2]), sys.stdout) == 0
assert "torch" not in sys.modules, "PyTorch was imported"
"""


def test_a_checkpoint_with_its_columns_is_streamed_without_pytorch(
    network: Path, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """PyTorch takes seconds to import, and most of the time that a sample lasts."""
    tensors, description = load_checkpoint(network)
    inputs = partial(script_a.inputs, sensor_set="foot")
    columns = describe_columns(script_a.COLUMNS, script_a.UNITS, inputs)
    path, data = tmp_path / "network.safetensors", tmp_path / "walk.csv"
    save_checkpoint(path, tensors, {**description, **columns})
    walk.to_csv(data, index=False)
    command = [sys.executable, "-c", WITHOUT_PYTORCH, str(path), str(data)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(result.stdout)), stream(network, walk))


# What is refused ----------------------------------------------------------------------------------

GOOD = f"{HEADER}\n0,1,2,3,4,5,6\n"
REFUSED = {
    "missing column": ("time,foot_Accel_X\n", "line 1: no column foot_Accel_Y, .*--columns"),
    "few cells": (f"{GOOD}0.005,1,2,3\n", "line 3: 4 cells, but 7 column"),
    "text": (f"{GOOD}\n0.005,1,x,3,4,5,6\n", "line 4: foot_Accel_Y: x is not a"),
    "infinity": (f"{GOOD}1,1,2,3,4,5,inf\n", "line 3: foot_Gyro_Z: inf is not a number"),
    "two columns": (f"{HEADER},{FOOT[0]}\n", "line 1: two columns are named foot_Accel_X; rename"),
    "no time": (f"{GOOD},1,2,3,4,5,6\n", "line 3: no time in time"),
    "earlier time": (
        f"{GOOD}-1,1,2,3,4,5,6\n",
        "line 3: the time falls back by 1 s; the clock",
    ),
    "too large": (f"{GOOD}1,1,2,3,4,5,1e300\n", "line 3: foot_Gyro_Z: 1e300 is far too large"),
    "long cell": (f"{GOOD[:-1]},{'1' * 131_073}\n", "line 2: not a line of a CSV"),
    "binary": ("\x00\x01\x7f\n", "line 1: no column foot_Accel_X"),
    "empty": ("", "standard input: empty; the first line must have the column names"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_the_line_of_an_error_is_stated(text: str, message: str, network: Path) -> None:
    """Users could not find it among thousands of lines that are gone."""
    with pytest.raises(InputError, match=message):
        stream(network, text)


@pytest.mark.parametrize(("rate_hz", "unit"), [(148, "s"), (200, "ms")])
def test_a_wrong_rate_is_refused(
    rate_hz: float, unit: str, network: Path, walk: pd.DataFrame
) -> None:
    """Every estimate would be wrong: the network would see slow or fast walking."""
    walk["time"] = walk.index / rate_hz
    with pytest.raises(InputError, match=r"line 22: .* per second, but the network reads 200"):
        stream(network, walk, "--time-unit", unit)


def test_times_of_arrival_are_refused(network: Path, walk: pd.DataFrame) -> None:
    """Lines that arrive in bursts would be taken as a fast sensor with gaps, and interpolated."""
    for samples in (4, 16):  # at a time
        walk["time"] = walk.index // samples * samples / 200 + walk.index % samples * 1e-5
        with pytest.raises(InputError, match="line 22: .* in bursts .*leave the time column out"):
            stream(network, walk)
    walk["time"] = np.floor(walk.index / 2) / 100  # in whole hundredths of a second
    with pytest.raises(InputError, match="line 22: .*rounded; .*leave the time column out"):
        stream(network, walk)


@pytest.mark.parametrize("seed", [0, 6, 13, 21])
def test_times_that_jitter_are_accepted(
    seed: int, network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """A sensor at 200 Hz, with intervals around 3 to 7 ms, was refused as one at 245 Hz."""
    walk["time"] += np.random.default_rng(seed).uniform(0, 0.004, len(walk))
    estimates = stream(network, walk)
    assert 0 <= len(estimates) - (300 - LATE) <= 3  # few intervals look like a lost line
    assert "reset" not in capsys.readouterr().err


def test_a_repeated_time_does_not_end_a_session(
    network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """A device that sends a packet twice would stop the exoskeleton."""
    twice = pd.concat([walk[:50], walk[49:120], walk[119:]])
    check_equal(stream(network, twice), stream(network, walk))
    printed = capsys.readouterr().err
    assert printed.count("NOTICE: line 52 has the same time as the line before") == 1
    assert "skipped: 2 lines" in printed


@pytest.mark.parametrize(("period_s", "unit_s"), [(86400, 1), (2**32 * 1e-6, 1e-6)])
def test_a_clock_that_starts_again_does_not_end_a_session(
    period_s: float, unit_s: float, network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """At midnight, or when a counter of microseconds overflows, the exoskeleton would stop."""
    expected = stream(network, walk)
    time_s = (walk["time"] + period_s - 0.5) % period_s
    flags = ["--time-unit", {1: "s", 1e-6: "us"}[unit_s]]
    found = stream(network, walk.assign(time=(time_s / unit_s).round(9)), *flags)
    check_equal(found, target_values(expected))
    assert (np.diff(found["time (s)"]) > 0).all()
    printed = capsys.readouterr().err
    assert f"NOTICE: line 102: the clock starts again after {period_s:.10g} s" in printed


def test_a_counter_shows_lost_lines(network: Path, walk: pd.DataFrame, capsys: Capture) -> None:
    """Without times, the walking before and after them would be joined silently."""
    counted = walk.drop(columns="time").assign(PacketCounter=(walk.index + 60_000) % 2**16)
    stream(network, counted)
    assert capsys.readouterr().err.count("NOTICE: no time column") == 1
    stream(network, counted.drop(index=range(100, 120)))
    printed = capsys.readouterr().err
    assert "NOTICE: PacketCounter counts on by 21 instead of 1 after line 101: almost" in printed
    assert printed.count("PacketCounter") == 1


def damage(kind: str, walk: pd.DataFrame) -> pd.DataFrame:
    """Return a stream with a mistake that estimates do not show."""
    factors = {"acc in g": 1 / 9.80665, "gyr in deg/s": 180 / np.pi, "zeros": 0.0}
    axes = {"acc in g": FOOT[:3], "gyr in deg/s": FOOT[3:]}.get(kind, FOOT)
    lines = slice(230, 250) if kind in ("zeros", "held") else slice(None)
    changed = walk.copy()
    if kind == "held":
        changed.loc[lines, axes] = changed.loc[230, axes].to_numpy()
    else:
        changed.loc[lines, axes] *= factors[kind]
    return changed


@pytest.mark.parametrize("samples", [150, 300])
@pytest.mark.parametrize("kind", ["acc in g", "gyr in deg/s", "zeros", "held"])
def test_implausible_samples_are_noticed_once(
    kind: str, samples: int, network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """Wrong units and lost data gave estimates without a word, in the first second and later."""
    table = damage(kind, walk)[-samples:]
    assert len(stream(network, table)) == samples - LATE
    (notice,) = [line for line in capsys.readouterr().err.splitlines() if "NOTICE" in line]
    assert {
        "acc in g": "accelerometer foot: median norm",
        "gyr in deg/s": "in deg/s?",
        "zeros": "exactly 0 for 0.105 s from 1.15 s on",
        "held": "unchanged for 0.105 s from 1.15 s on",
    }[kind] in notice


def test_a_plausible_stream_has_no_notice(
    network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """A warning that appears without a cause is not read when there is one."""
    stream(network, walk)
    assert "NOTICE" not in capsys.readouterr().err


def test_a_long_gap_is_never_filled(network: Path, walk: pd.DataFrame) -> None:
    """Interpolating hours after a reconnection would take hours and all memory."""
    with pytest.raises(InputError, match="--max-gap 1e.09: at most 10 s can be interpolated"):
        stream(network, walk, "--max-gap", "1e9")


ENDS = {"LF": b"\n", "CR LF": b"\r\n", "CR": b"\r", "LF CR": b"\n\r"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_may_end_as_devices_end_them(end: bytes, size: int) -> None:
    """CR and LF CR ended in a traceback; a line must not wait for the next one either."""
    content = end.join([b"\xef\xbb\xbfa,b", b"1,2", b"", "3,µ".encode(), b"4"])
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    assert list(read_lines(iter([*parts, b""]).__next__)) == ["a,b", "1,2", "", "3,µ", "4"]
    arrived = iter([b"a" + end, b"b" + end])
    lines = read_lines(arrived.__next__)
    assert next(lines) == "a"
    assert next(arrived) == b"b" + end  # not read yet


def test_a_line_without_end_is_refused() -> None:
    """A device that sends no line ends would fill the memory."""
    parts = iter([b"a\n", *[b"1" * 8192] * 100])
    with pytest.raises(InputError, match="standard input, line 2: longer than 131,072 bytes"):
        list(read_lines(parts.__next__))
    assert len(list(parts)) > 50


def test_inexact_clocks_and_lost_lines_are_accepted(network: Path, walk: pd.DataFrame) -> None:
    """Times in whole milliseconds, a clock that is slightly fast, a line lost at the start."""
    walk["time"] = (walk.index / 204).to_series().round(3).to_numpy()
    assert len(stream(network, walk.drop(index=[3, 4, 9]))) == 300 - LATE


def test_unusable_flags_and_networks_are_refused(
    network: Path, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """A flag that is silently ignored is believed, and NaN reaches the device."""
    with pytest.raises(InputError, match="student-foot reads whole windows, .*streaming-foot"):
        stream(random_network(script_a, "student-foot", tmp_path), walk)
    with pytest.raises(InputError, match=r"no column Acc_X \(for foot_Accel_X\), which the"):
        stream(network, walk, "--columns", "foot_Accel_X=-Acc_X")
    with pytest.raises(InputError, match="no column Clock; correct --time-column"):
        stream(network, walk, "--time-column", "Clock")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe or a device, not a file"):
        stream(tmp_path / "pipe", walk)
    save_file({"x": np.zeros(1)}, tmp_path / "deep.safetensors", {"about": "[" * 100_000})
    with pytest.raises(InputError, match="has no description of its network"):
        stream(tmp_path / "deep.safetensors", walk)
    tensors, description = load_checkpoint(network)
    tensors["head.bias"][:] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", tensors, description)
    with pytest.raises(InputError, match="the output of the network is not finite"):
        stream(tmp_path / "nan.safetensors", walk)


# The class and the files --------------------------------------------------------------------------


def test_the_class_takes_arrays_and_modalities(network: Path, walk: pd.DataFrame) -> None:
    """Other programs must get the numbers of the command, and errors for wrong samples."""
    live, values = Stream.load(network), walk[FOOT].to_numpy()
    assert (live.column_names, live.rate_hz, live.lookahead) == (FOOT, 200, LATE)
    as_arrays = [live.push(sample) for sample in values[:20]]
    live.reset()
    with pytest.raises(ValueError, match=r"shape \(5,\), but the network reads 6 values"):
        live.push(values[0, :5])
    with pytest.raises(ValueError, match="NaN or infinity"):
        live.push(values[0] * np.nan)
    as_modalities = [live.push({"gyr": s[3:], "acc": s[:3].tolist()}) for s in values[:20]]
    assert as_modalities[:LATE] == as_arrays[:LATE] == [None] * LATE
    assert [estimate.sample for estimate in as_arrays[LATE:]] == [*range(20 - LATE)]
    for one, other in zip(as_arrays[LATE:], as_modalities[LATE:], strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert other.sample == one.sample + 20


@pytest.mark.parametrize(("module", "row"), [(script_a, ROW), (script_b, "streaming-feet")])
def test_as_tested_repeats_the_test_of_the_run(
    module: ModuleType, row: str, synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Nobody could tell whether a checkpoint belongs to a table."""
    data = synthetic_files[module.DATASET]
    folder = run_script(module, data, tmp_path, "run", "--rows", row, "--epochs", "1")
    (checkpoint,), (saved,) = folder.glob("checkpoints/*"), folder.glob("predictions/*")
    saved = np.load(saved)["prediction"]
    out = ("--out", str(tmp_path / "out"))
    found = target_values(predict(checkpoint, data, "--as-tested", *out))
    np.testing.assert_array_equal(found, saved)
    assert "bit for bit" in capsys.readouterr().out
    subject = module.read(data).subjects[-1]
    lines = predict(checkpoint, data, "--subject", subject, *out)
    found = target_values(lines.dropna())
    assert len(found) < len(lines)
    np.testing.assert_allclose(found, saved, rtol=1e-4, atol=1e-5)
