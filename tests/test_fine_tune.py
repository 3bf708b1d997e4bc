"""Fine-tuning: it learns one person, changes nothing unasked, and its checkpoint is usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from beyond import Dataset_A_streaming as script_a
from beyond import Dataset_B_streaming as script_b
from beyond import fine_tuning
from common.files import InputError, load_checkpoint
from common.stances import vertical_force
from tests.conftest import Capture, Files, Folders
from tests.networks import narrow_networks
from tests.predicting import predict, random_network
from tools.export_onnx.__main__ import main as export
from tools.fine_tune.__main__ import main
from tools.fine_tune.data import cut_fold, is_beginning, number_steps
from tools.stream.stream import Stream
from tools.trained import load_trained

SUBJECT = "7"
ROWS = ("student-foot", "streaming-foot", "streaming_balanced-foot")
QUICK = ("--subject", SUBJECT, "--epochs", "4", "--learning-rate", "0.01", "--device", "cpu")


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks():
        yield


@pytest.fixture(scope="module")
def networks(tmp_path_factory: Folders, synthetic_files: Files) -> dict[str, Path]:
    """Small networks with random weights."""
    folder, recording = tmp_path_factory.mktemp("networks"), script_a.read(synthetic_files["a"])
    with narrow_networks():
        return {row: random_network(script_a, row, folder, recording) for row in ROWS}


def tune(checkpoint: Path, data: Path, *flags: str) -> Path:
    """Fine-tune in this process; return the new checkpoint."""
    out = data.parent / f"tuned-{checkpoint.name}"
    where = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)]
    assert main([*where, *flags]) == 0
    return out


@pytest.fixture
def data(synthetic_files: Files, tmp_path: Path) -> Path:
    """A copy of the file of Dataset A, next to which results may be written."""
    path = tmp_path / "a.h5"
    path.write_bytes(synthetic_files["a"].read_bytes())
    return path


@pytest.mark.parametrize(
    "row", [ROWS[0], *(pytest.param(row, marks=pytest.mark.slow) for row in ROWS[1:])]
)
def test_a_tuned_network_predicts_streams_and_exports(
    row: str, networks: dict[str, Path], data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Half a tool chain is of no use to the new person."""
    tuned = tune(networks[row], data, *QUICK, "--steps", "2")
    printed = capsys.readouterr().out
    before, after = (float(x) for x in printed.split("mean")[1].split()[:2])
    assert after < before
    entry = load_checkpoint(tuned).description["fine_tuned"][0]
    assert entry["data"] == {"file": "a.h5", "bytes": data.stat().st_size, "subject": SUBJECT}
    assert (entry["checkpoint"], entry["steps"]) == (networks[row].name, 2)
    predict(tuned, data, "--subject", SUBJECT)
    assert f"trained on subject {SUBJECT}" in capsys.readouterr().out
    predict(networks[row], data, "--subject", SUBJECT)
    assert "trained on subject" not in capsys.readouterr().out
    if "streaming" in row:
        assert Stream.load(tuned).column_names[0] == "foot_Accel_X"
    pytest.importorskip("onnxruntime")
    export(["--checkpoint", str(tuned), "--out", str(tmp_path / "tuned.onnx")])
    assert (tmp_path / "tuned.onnx").is_file()


def test_no_steps_change_nothing(networks: dict[str, Path], data: Path, capsys: Capture) -> None:
    """The evidence for a number of steps starts at 0, the network as it is."""
    for path in networks.values():
        tensors = load_checkpoint(tune(path, data, *QUICK, "--steps", "0")).tensors
        original = load_checkpoint(path).tensors
        assert all(torch.equal(values, original[name]) for name, values in tensors.items())
        before, after = capsys.readouterr().out.split("mean")[1].split()[:2]
        assert before == after


def test_only_the_head_is_trained_and_normalization_never(
    networks: dict[str, Path], data: Path
) -> None:
    """A few steps of one person are too little for the statistics of the inputs."""
    path = networks["streaming-foot"]
    original = load_checkpoint(path).tensors
    for flags, changed in (((), "encoders.0.gate.weight"), (("--head-only",), "head.weight")):
        tensors = load_checkpoint(tune(path, data, *QUICK, "--steps", "2", *flags)).tensors
        differs = {
            name for name, values in tensors.items() if not torch.equal(values, original[name])
        }
        assert changed in differs
        assert not any(name.startswith("norms.") for name in differs)
        if flags:
            assert differs == {"head.weight", "head.bias"}


def test_the_beginning_ends_with_a_step() -> None:
    """A step in both parts would make the error on the rest look smaller."""
    stretch = np.repeat([0, 1, -1, 2], 60)
    assert is_beginning(stretch, 1.0, 2, None).tolist() == [True] * 120 + [False] * 120
    assert is_beginning(stretch, 1.0, None, 2.5).sum() == 120
    assert is_beginning(stretch, 1.0, None, 0.5).sum() == 30  # the first one alone is cut
    assert is_beginning(stretch, 1.0, None, None).sum() == 180
    assert is_beginning(stretch, 1.0, 0, None).sum() == 0


def test_a_step_of_a_long_trial_begins_with_a_stance() -> None:
    """`--steps 5` used whole trials of Dataset A, and left nothing of a continuous recording."""
    targets, stretch = torch.zeros(1000, 7), np.repeat([0, -1, 1], (600, 20, 380))
    vertical = vertical_force(script_a.TARGETS)
    for start in (50, 250, 450, 700):  # the last one is the only stance of its stretch
        targets[start : start + 120, vertical] = 1
    expected = np.repeat([0, 1, 2, -1, 3], (250, 200, 150, 20, 380))
    step = number_steps(stretch, targets, SimpleNamespace(script=script_a))
    np.testing.assert_array_equal(step, expected)
    without = SimpleNamespace(TARGETS=script_a.TARGETS[:4], RATE_HZ=script_a.RATE_HZ)
    step = number_steps(stretch, targets[:, :4], SimpleNamespace(script=without))
    np.testing.assert_array_equal(step, stretch)


@pytest.mark.parametrize(
    ("windows", "sizes"), [(1, (1, 1)), (2, (1, 1)), (3, (2, 1)), (10, (8, 2))]
)
def test_a_fifth_is_held_out(windows: int, sizes: tuple[int, int]) -> None:
    """With a single window, there is nothing else for early stopping."""
    trained, count = SimpleNamespace(script=script_a, lookahead=None), windows * script_a.WINDOW
    values, stretch = torch.zeros(count, 7), np.zeros(count, int)
    fold = cut_fold(Path("walk.h5"), trained, [values], values, stretch)
    assert (len(fold.train), len(fold.validation)) == sizes


def test_sensors_are_checked_and_the_statistics_follow(
    synthetic_files: Files, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A network was tuned on a rotated foot, silently, and warned about that foot ever after."""
    recording = script_a.read(synthetic_files["a"])
    network = random_network(script_a, "student-foot_trunk", tmp_path, recording)
    with h5py.File(data, "r+") as file:
        names = json.loads(file.attrs["columns"])
        for table in file[f"All_subjects/Subject_{SUBJECT}"].values():
            for kind in ("Accel", "Gyro"):
                x, y = (names.index(f"foot_{kind}_{axis}") for axis in "XY")
                values = table[:]
                values[:, x], values[:, y] = table[:, y], -table[:, x]
                table[:] = values
    tuned = tune(network, data, *QUICK, "--steps", "3")
    warning = "WARNING: foot: not mounted as in training; there, X is your -Y, Y is your X, Z is"
    assert warning in capsys.readouterr().out
    predict(tuned, data, "--subject", SUBJECT)
    assert "not mounted" not in capsys.readouterr().out
    tune(network, data, *QUICK, "--steps", "3", "--mounting", "auto")
    assert "CORRECTED: foot" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"only \d+ steps, .*use a smaller --steps"):
        tune(network, data, *QUICK, "--steps", "1000")


def test_other_data_are_refused(
    networks: dict[str, Path], data: Path, synthetic_files: Files, tmp_path: Path
) -> None:
    """The network would be ruined by what it cannot read."""
    path = networks["student-foot"]
    with pytest.raises(InputError, match="a file of Dataset B, but the network reads Dataset A"):
        tune(path, synthetic_files["b"], *QUICK)
    with h5py.File(data) as file:
        walk = pd.DataFrame(
            file[f"All_subjects/Subject_{SUBJECT}/Treadmill"][:500, :6],
            columns=[*script_a.COLUMNS["acc"][:3], *script_a.COLUMNS["gyr"][:3]],
        )
    walk.insert(0, "time", walk.index / script_a.RATE_HZ)
    walk.to_csv(tmp_path / "walk.csv", index=False)
    with pytest.raises(InputError, match=r"no measured hip flexion moment, .*all targets"):
        tune(path, tmp_path / "walk.csv")
    walk.drop(columns="foot_Gyro_Z").to_csv(tmp_path / "walk.csv", index=False)
    with pytest.raises(InputError, match="no column foot_Gyro_Z"):
        tune(path, tmp_path / "walk.csv")
    with pytest.raises(InputError, match="is an input and would be overwritten"):
        main(["--checkpoint", str(path), "--data", str(data), "--out", str(path)])
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        main(["--checkpoint", str(path), "--data", str(data), "--out", str(tmp_path / "new.pt")])


def test_a_step_of_dataset_b_is_a_step(
    synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Its trials are single steps, which are as long as one or two sequences."""
    recording = script_b.read(synthetic_files["b"])
    path = random_network(script_b, "streaming-feet_pelvis", tmp_path, recording, "01")
    copy = tmp_path / "b.h5"
    copy.write_bytes(synthetic_files["b"].read_bytes())
    flags = ("--subject", "1", "--epochs", "2", "--steps", "2", "--device", "cpu")
    description = load_trained(tune(path, copy, *flags)).description
    assert description["fine_tuned"][0]["data"]["subject"] == "01"
    assert "in 2 steps, tested" in capsys.readouterr().out
    options = ["--data", str(copy), "--steps", "0", "1", "1000", "--epochs", "2"]
    assert fine_tuning.main(["--checkpoints", str(path), *options]).empty
    assert "subject 01 left out: no steps after the first" in capsys.readouterr().out
    options[options.index("1000")] = "4"
    options += ["--learning-rate", "0.01"]
    [errors] = fine_tuning.main(["--checkpoints", str(path), *options]).to_numpy()
    assert len(set(errors)) == 3
