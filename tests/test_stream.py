"""A streaming network on a recording and live: the same estimates, each at its sample, at once."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as script
import Dataset_B_sensor_distillation as script_b
from common.data import DATASET_A_COLUMNS
from common.files import InputError, load_checkpoint, save_checkpoint
from common.runs import find_row
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.networks import narrow_networks, run_script
from tests.predicting import copy_columns, predict, random_network, target_values
from tools.predict import __main__ as predict_command
from tools.stream.__main__ import main
from tools.stream.stream import Stream
from tools.trained import Trained, load_trained

FOOT = list(DATASET_A_COLUMNS[:6])
TREADMILL = "All_subjects/Subject_7/Treadmill"
ROW = "streaming-foot"
LATE = 10  # samples: the default lookahead of A


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks():
        yield


@pytest.fixture(scope="module")
def network(synthetic_files: Files, tmp_path_factory: Folders) -> Path:
    """A small streaming network with random weights, and the statistics of the data."""
    recording = script.read(synthetic_files["a"])
    with narrow_networks():
        return random_network(script, ROW, tmp_path_factory.mktemp("network"), recording)


@pytest.fixture
def walk(synthetic_files: Files) -> pd.DataFrame:
    """300 samples of the IMU of the foot, with their time."""
    with h5py.File(synthetic_files["a"]) as file:
        foot = pd.DataFrame(file[TREADMILL][:300, :6], columns=FOOT)
    foot.insert(0, "time", foot.index / script.RATE_HZ)
    return foot


def stream(checkpoint: Path, text: str, *flags: str) -> pd.DataFrame:
    """Run the command in this process on lines of text; return what it prints."""
    out = io.StringIO()
    lines = text.splitlines(keepends=True)
    assert main(["--checkpoint", str(checkpoint), *flags], lines, out) == 0
    return pd.read_csv(io.StringIO(out.getvalue()))


def stream_table(checkpoint: Path, table: pd.DataFrame, *flags: str) -> pd.DataFrame:
    """Run the command on a table."""
    return stream(checkpoint, table.to_csv(index=False), *flags)


def predict_table(checkpoint: Path, table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Run `tools.predict` on a table; return the lines that are predicted."""
    table.to_csv(folder / "walk.csv", index=False)
    return predict(checkpoint, folder / "walk.csv").dropna().reset_index(drop=True)


def check_equal(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Compare times and estimates, within 1e-5 of the largest of a target."""
    np.testing.assert_allclose(found["time (s)"], expected["time (s)"], atol=1e-9)
    found, expected = target_values(found), target_values(expected)
    assert (np.abs(found - expected).max(axis=0) <= 1e-5 * np.abs(expected).max(axis=0)).all()


def forward(checkpoint: Path, table: pd.DataFrame) -> np.ndarray:
    """Return the output of the network on a whole table, `(samples, K)`."""
    values = torch.tensor(table[FOOT].to_numpy(np.float32))[None]
    with torch.no_grad():
        return load_trained(checkpoint).network(*values.split(3, dim=-1))[0].numpy()


class Echo(nn.Module):
    """A streaming network whose output is its input, as late as its lookahead."""

    def __init__(self, lookahead: int) -> None:
        super().__init__()
        self.lookahead = lookahead

    def stream(
        self, *modalities: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the inputs of `lookahead` samples before, -1 before the first, and the state."""
        x = torch.cat([*modalities, modalities[0][..., :1]], dim=-1)  # seven targets
        before = torch.full_like(x[:, :1], -1.0).expand(-1, self.lookahead, -1)
        joined = torch.cat([before if state is None else state[0], x], dim=1)
        Output = script.StreamedOutput  # noqa: N806
        return Output(joined[:, : x.shape[1]], (joined[:, x.shape[1] :],))


def echo(lookahead: int) -> Trained:
    """Return that network in the place of a trained one."""
    return Trained(Echo(lookahead), script, find_row(script, ROW), {})


# On a recording and live --------------------------------------------------------------------------


def test_live_recorded_and_whole_give_the_same_estimates(
    network: Path, walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """What was tested on recordings must be what a device shows."""
    live = stream_table(network, walk)
    printed = capsys.readouterr().err
    assert "Samples: 300, of which 0 were missing" in printed
    assert "99th percentile" in printed
    assert "Delay of an estimate: lookahead 50 ms + computation" in printed
    recorded = predict_table(network, walk, tmp_path)
    assert "10 are among the last 10 samples (0.05 s) of a stretch" in capsys.readouterr().out
    assert live.columns.tolist() == recorded.columns.tolist()[1:]
    assert len(live) == len(recorded) == 300 - LATE
    check_equal(live, recorded)
    expected = forward(network, walk)[LATE:]
    difference = np.abs(target_values(live) - expected).max(axis=0)
    assert (difference <= 1e-5 * np.abs(expected).max(axis=0)).all()


@pytest.mark.parametrize("lookahead", [0, 1, 7])
def test_an_estimate_belongs_to_its_sample(
    lookahead: int, walk: pd.DataFrame, tmp_path: Path, monkeypatch: Patch
) -> None:
    """One sample too early or too late is 5 ms of delay that nobody sees."""
    trained = echo(lookahead)
    monkeypatch.setattr("tools.stream.stream.load_trained", lambda path: trained)
    monkeypatch.setattr(predict_command, "load_trained", lambda path: trained)
    expected = walk[[*FOOT, FOOT[0]]].to_numpy(np.float32)[: 300 - lookahead]
    live = Stream.load("x")
    pushed = [live.push(values) for values in walk[FOOT].to_numpy()]
    assert pushed[:lookahead] == [None] * lookahead
    for i, estimate in enumerate(pushed[lookahead:]):
        assert estimate.sample == i
        np.testing.assert_array_equal(estimate.values, expected[i])
    for lines in (stream_table(Path("x"), walk), predict_table(Path("x"), walk, tmp_path)):
        np.testing.assert_allclose(target_values(lines), expected, rtol=1e-6)
        np.testing.assert_allclose(lines["time (s)"], walk["time"][: 300 - lookahead], atol=1e-9)


def test_every_stretch_starts_cold(
    network: Path, walk: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """The state before a gap says nothing about the walking after it."""
    parts = [walk[:120], walk[160:175], walk[200:205], walk[220:]]
    table = pd.concat(parts)
    live = stream_table(network, table)
    printed = capsys.readouterr().err
    assert "line 122: 0.205 s after the last complete line" in printed
    assert printed.count("the network starts anew") == 3
    recorded = predict_table(network, table, tmp_path)
    assert len(recorded) == sum(max(len(part) - LATE, 0) for part in parts)  # 5 samples: none
    check_equal(live, recorded)
    alone = forward(network, walk[220:])[LATE:]
    np.testing.assert_allclose(target_values(live)[-len(alone) :], alone, rtol=1e-4, atol=1e-6)


def test_trials_and_steps_of_a_file_are_streams_of_their_own(
    network: Path, synthetic_files: Files, tmp_path: Path
) -> None:
    """Also those that are shorter than a window; their last samples stay empty."""
    path = copy_columns(synthetic_files["a"], tmp_path / "walk.h5", TREADMILL, FOOT, slice(0, 180))
    with h5py.File(path, "r+") as file:
        file[TREADMILL].attrs["trial_starts"] = [0, 60, 68]
        foot = pd.DataFrame(file[TREADMILL][:], columns=FOOT)
    lines = predict(network, path)
    found = target_values(lines)
    assert lines["trial"].tolist() == [1] * 60 + [2] * 8 + [3] * 112
    for start, stop in ((0, 60), (60, 68), (68, 180)):
        expected = np.full((stop - start, 7), np.nan)
        outputs = forward(network, foot[start:stop])[LATE:]
        expected[: len(outputs)] = outputs
        np.testing.assert_allclose(found[start:stop], expected, rtol=1e-4, atol=1e-6)


def test_short_gaps_are_interpolated(
    network: Path, walk: pd.DataFrame, capsys: Capture, tmp_path: Path
) -> None:
    """A lost packet would cost the state; a line with an empty cell is a lost one."""
    broken = walk.copy()
    broken.loc[100:103, FOOT[2]] = np.nan  # 25 ms from one complete line to the next
    lost = walk.drop(index=range(200, 205))  # 30 ms
    for table in (broken, lost):
        gone = [*range(100, 104)] if table is broken else [*range(200, 205)]
        filled = walk.copy()
        filled.loc[gone, FOOT] = np.nan
        check_equal(
            stream_table(network, table), stream_table(network, filled.interpolate("linear"))
        )
        printed = capsys.readouterr().err
        assert f"Samples: 300, of which {len(gone)} were missing" in printed
        assert "anew" not in printed
    lines = stream_table(network, broken, "--max-gap", "0.02")
    assert "line 106: 0.025 s after the last complete line" in capsys.readouterr().err
    assert len(lines) == 300 - 4 - 2 * LATE


def test_without_a_time_every_line_is_the_next_sample(
    network: Path, walk: pd.DataFrame, capsys: Capture
) -> None:
    """Many devices send no time."""
    check_equal(stream_table(network, walk[FOOT]), stream_table(network, walk))
    assert "no time column" in capsys.readouterr().err


def test_columns_units_and_formats_of_devices(network: Path, walk: pd.DataFrame) -> None:
    """A stream in g with other names would need a program in between."""
    expected = stream_table(network, walk)
    device = walk.set_axis(["T", "Acc_X", "Acc_Y", "Acc_Z", "Gyr_X", "Gyr_Y", "Gyr_Z"], axis=1)
    device[["Acc_X", "Acc_Y", "Acc_Z"]] /= 9.80665
    device[["Gyr_X", "Gyr_Y", "Gyr_Z"]] *= 180 / np.pi
    device["Gyr_Y"] *= -1
    device["T"] = 1_700_000_000_000 + (1000 * device["T"]).round()
    device.insert(3, "battery", "full")
    signs = {"Gyr_Y": "-"}
    pairs = [
        f"{FOOT[i]}={signs.get(n, '')}{n}"
        for i, n in enumerate(device.columns.drop(["T", "battery"]))
    ]
    flags = ["--time-column", "T", "--time-unit", "ms", "--acc-unit", "g", "--gyr-unit", "deg/s"]
    text = device.to_csv(index=False, sep=";", decimal=",").replace("\n", "\r\n\r\n")
    found = stream(network, text, *flags, "--columns", *pairs)
    np.testing.assert_allclose(found["time (s)"] - 1_700_000_000, expected["time (s)"], atol=1e-6)
    np.testing.assert_allclose(target_values(found), target_values(expected), rtol=1e-3, atol=1e-5)


# The process --------------------------------------------------------------------------------------


class Process:
    """The command in a process of its own, on a network of two samples of lookahead."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:  # the process has networks of full size
            patch.setitem(
                script.StreamingMFFMNet.__init__.__kwdefaults__, "hidden_sizes", (192, 128)
            )
            self.checkpoint = random_network(script, ROW, folder, lookahead=2)
        command = [sys.executable, "-m", "tools.stream", "--checkpoint", str(self.checkpoint)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored
        )

    def write(self, line: str) -> None:
        """Write a line to it."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def read(self) -> str:
        """Read a line from it; wait until it is there."""
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """The command, waiting for lines."""
    process = Process(tmp_path)
    yield process
    process.process.kill()
    process.process.communicate()


@pytest.mark.timeout(120)
def test_an_estimate_is_there_before_the_next_sample(process: Process) -> None:
    """A buffer would hold back seconds of estimates; Ctrl-C ends it with a summary."""
    process.write(",".join(["time", *FOOT]))
    assert process.read().startswith("time (s),hip flexion moment (BW·BH),")
    for i in range(6):
        process.write(f"{i / 200},1,2,3,4,5,{i}")
        if i >= 2:
            assert float(process.read().split(",")[0]) == (i - 2) / 200
    process.process.send_signal(signal.SIGINT)
    rest, messages = process.process.communicate(timeout=60)
    assert rest == ""
    assert process.process.returncode == 0
    assert re.search("Samples: [56], of which 0 were missing", messages)  # the last is printed
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_ends_quietly_when_nobody_reads(process: Process) -> None:
    """`| head` ends with the lines that were asked for, and not with a traceback."""
    process.write(",".join(["time", *FOOT]))
    process.read()
    process.process.stdout.close()
    for i in range(4):
        process.write(f"{i / 200},1,2,3,4,5,6")
    assert process.process.wait(timeout=60) == 0
    messages = process.process.stderr.read().splitlines()
    assert len(messages) == 2, messages  # the network, and what it waits for


# What is refused ----------------------------------------------------------------------------------

HEADER = ",".join(["time", *FOOT])
REFUSED = {
    "missing column": ("time,foot_Accel_X\n", "line 1: no column foot_Accel_Y, .*name yours by"),
    "nothing": ("", "line 1: no column"),
    "few cells": (f"{HEADER}\n0,1,2,3,4,5,6\n0.005,1,2,3\n", "line 3: 4 cells, but 7 column"),
    "text": (f"{HEADER}\n0,1,2,3,4,5,6\n\n0.005,1,x,3,4,5,6\n", "line 4: foot_Accel_Y: x is not a"),
    "infinity": (f"{HEADER}\n0,1,2,3,4,5,inf\n", "line 2: foot_Gyro_Z: inf is not a number"),
    "units": (f"{HEADER}\ns,g,g,g,rad/s,rad/s,rad/s\n", "line 2: foot_Accel_X: g is not a number"),
    "no time": (f"{HEADER}\n,1,2,3,4,5,6\n", "line 2: no time in time"),
    "same time": (
        f"{HEADER}\n0,1,2,3,4,5,6\n0,1,2,3,4,5,6\n",
        "line 3: the time does not increase",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_line_is_named(text: str, message: str, network: Path) -> None:
    """Users could not find it among thousands of lines that are gone."""
    with pytest.raises(InputError, match=message):
        stream(network, text)


@pytest.mark.parametrize(("rate_hz", "unit"), [(100, "s"), (148, "s"), (1000, "s"), (200, "ms")])
def test_a_wrong_rate_is_said_at_once(
    rate_hz: float, unit: str, network: Path, walk: pd.DataFrame
) -> None:
    """Every estimate would be wrong: the network would see slow or fast walking."""
    walk["time"] = walk.index / rate_hz
    with pytest.raises(InputError, match=r"line 22: .* per second, but the network reads 200.*set"):
        stream_table(network, walk, "--time-unit", unit)


def test_inexact_clocks_and_lost_lines_are_no_wrong_rate(network: Path, walk: pd.DataFrame) -> None:
    """Times in whole milliseconds, a clock that is a little fast, a line lost at the start."""
    walk["time"] = (walk.index / 204 * 1000).to_series().round().to_numpy() / 1000
    assert len(stream_table(network, walk.drop(index=[3, 4, 9]))) == 300 - LATE


def test_flags_and_networks_that_do_not_fit_are_refused(
    network: Path, walk: pd.DataFrame, tmp_path: Path
) -> None:
    """A flag that is silently ignored is believed."""
    windowed = random_network(script, "student-foot", tmp_path)
    with pytest.raises(InputError, match="student-foot reads whole windows, .*streaming-foot"):
        stream_table(windowed, walk)
    with pytest.raises(
        InputError, match=r"no column Acc_X \(for foot_Accel_X\), which the network"
    ):
        stream_table(network, walk, "--columns", "foot_Accel_X=-Acc_X")
    with pytest.raises(InputError, match="no column Clock; correct --time-column"):
        stream_table(network, walk, "--time-column", "Clock")
    walk.to_csv(tmp_path / "walk.csv", index=False)
    with pytest.raises(InputError, match="--hop 5: streaming-foot has no windows"):
        predict(network, tmp_path / "walk.csv", "--hop", "5")
    walk[:LATE].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match="none of 10 samples .* 10 are among the last 10 samples"):
        predict(network, tmp_path / "short.csv")
    walk.loc[:, FOOT] = np.nan
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file.attrs["columns"] = json.dumps(FOOT)
        file[TREADMILL] = walk[FOOT].to_numpy()
    with pytest.raises(InputError, match="300 lack a value"):
        predict(network, tmp_path / "nan.h5")
    tensors, description = load_checkpoint(network)
    tensors["head.bias"][:] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", tensors, description)
    with pytest.raises(InputError, match="the output of the network is not finite"):
        stream(
            tmp_path / "nan.safetensors",
            HEADER
            + "\n0,1,2,3,4,5,6"
            + "".join(f"\n{i},1,2,3,4,5,6" for i in np.arange(1, 12) / 200),
        )


# The class and the files --------------------------------------------------------------------------


def test_the_class_takes_arrays_and_modalities(network: Path, walk: pd.DataFrame) -> None:
    """Programs of one's own must get the numbers of the command, and errors for wrong samples."""
    live = Stream.load(network)
    assert live.column_names == FOOT
    assert (live.rate_hz, live.lookahead) == (200, LATE)
    values = walk[FOOT].to_numpy()
    as_arrays = [live.push(sample) for sample in values[:20]]
    live.reset()
    with pytest.raises(ValueError, match=r"shape \(5,\), but the network reads 6 values"):
        live.push(values[0, :5])
    with pytest.raises(ValueError, match="NaN or infinity"):
        live.push(values[0] * np.nan)
    as_modalities = [live.push({"gyr": s[3:], "acc": s[:3].tolist()}) for s in values[:20]]
    assert as_modalities[:LATE] == as_arrays[:LATE] == [None] * LATE
    for one, other in zip(as_arrays[LATE:], as_modalities[LATE:], strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert other.sample == one.sample + 20


def test_onednn_is_off_for_a_sample_only(monkeypatch: Patch) -> None:
    """With it, a sample takes longer than it lasts; without it, the user's other networks slow."""
    seen, trained = [], echo(1)

    def spy(*modalities: Tensor, state: object = None) -> None:
        seen.append(torch.backends.mkldnn.enabled)
        raise RuntimeError("stop")

    monkeypatch.setattr(trained.network, "stream", spy)
    assert torch.backends.mkldnn.enabled
    with pytest.raises(RuntimeError, match="stop"):
        Stream(trained).push(np.zeros(6))
    assert seen == [False]
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize(("module", "row"), [(script, ROW), (script_b, "streaming-feet")])
def test_as_tested_repeats_the_test_of_the_run(
    module: object, row: str, synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Nobody could tell whether a checkpoint belongs to a table; also with another lookahead."""
    data = Path(shutil.copy(synthetic_files[module.DATASET], tmp_path))
    flags = ["--rows", row, "--epochs", "1", "--lookahead", "30"]
    folder = run_script(module, data, tmp_path, "run", *flags)
    (checkpoint,), (saved,) = folder.glob("checkpoints/*"), folder.glob("predictions/*")
    saved = np.load(saved)
    lines = predict(checkpoint, data, "--as-tested")
    np.testing.assert_array_equal(target_values(lines), saved["prediction"])
    printed = capsys.readouterr().out
    assert "bit for bit" in printed
    assert "WARNING" not in printed
    description = json.loads((tmp_path / f"{data.stem}-out" / "prediction.json").read_text("utf-8"))
    late = 30 * module.RATE_HZ // 1000
    assert description["lookahead"] == late
    assert not {"window", "hop"} & set(description)
    again = predict(checkpoint, data, "--subject", str(lines["subject"][0]))
    is_estimated = again.iloc[:, -1].notna()
    assert is_estimated.sum() == len(lines) < len(again)
    np.testing.assert_allclose(
        target_values(again[is_estimated]), saved["prediction"], rtol=1e-4, atol=1e-5
    )
    recording = module.read(data)
    _, counts = np.unique(
        recording.stretch[recording.subject == len(recording.subjects) - 1], return_counts=True
    )
    assert len(lines) == np.maximum(counts - late, 0).sum()
