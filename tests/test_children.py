"""The twelve children: from c3d files to stances, folds and runs; augmentation and ridge."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from beyond import augmentation, children
from beyond.augmentation import cut_shifted, rotate_sensors
from beyond.Dataset_A_streaming import supervised_loss, train_augmented
from beyond.ridge import LaggedRegression, fit_ridge
from common.data import Recording
from common.files import InputError
from common.training import Progress
from common.windows import Batch, Windows
from tests.conftest import MEASURED, Capture, Patch
from tests.running import no_figures
from tools.c3d_file import read_c3d
from tools.trained import load_trained

FOLDER = MEASURED / "children"
STRAIGHT = (
    *("HC002D06", "HC030A05", "HC031A06", "HC032A03", "HC033A10", "HC036A10", "HC038A11"),
    *("HC039A17", "HC040A14", "HC044A15", "HC050A11", "HC055A09"),
)
TRIALS = ("HC002D25", "HC030A05", "HC031A06")


@pytest.fixture(scope="session")
def c3d_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three of the files: one person turns, two walk straight."""
    if not FOLDER.exists():
        pytest.skip(f"the c3d files of the children are not at {FOLDER}")
    folder = tmp_path_factory.mktemp("children") / "HC002D"  # in folders, as in the repository
    folder.mkdir()
    for name in TRIALS:
        (folder / f"{name}.c3d").symlink_to(FOLDER / f"{name}.c3d")
    return folder.parent


@pytest.fixture(scope="session")
def recording(c3d_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Return the stances of these files."""
    path = tmp_path_factory.mktemp("data") / "children.h5"
    children.convert_files(c3d_folder, path)
    return children.read(path)


def test_people_activities_and_stances(recording: Recording) -> None:
    """Trials of a person end up in different folds, or stances off the plates are used."""
    assert recording.subjects == ["HC002D", "HC030A", "HC031A"]
    assert recording.activities == ["turning", "straight"]
    assert len(np.unique(recording.stretch)) == 6  # one of each leg per trial
    assert not recording.dropped
    vertical = recording.samples["targets"][:, -1]
    assert 1.0 < vertical.max() < 1.4
    assert ((vertical == 0).float().mean() - 0.3).abs() < 0.1  # swing before and after
    assert recording.samples["emg"].amax() == 1


@pytest.mark.slow
def test_all_files(tmp_path: Path, capsys: Capture) -> None:
    """The page and its results are about 43 stances of twelve people."""
    if not FOLDER.exists():
        pytest.skip(f"the c3d files of the children are not at {FOLDER}")
    children.convert_files(FOLDER, tmp_path / "children.h5")
    assert "43 stances of 12 people" in capsys.readouterr().out
    recording = children.read(tmp_path / "children.h5")
    assert (len(recording.subject), len(recording.subjects)) == (3438, 12)


def test_mirrored_left_legs_move_like_right_legs() -> None:
    """A wrong sign in a channel of the left legs, which are half of the data."""
    if not FOLDER.exists():
        pytest.skip(f"the c3d files of the children are not at {FOLDER}")
    curves: dict[str, list[np.ndarray]] = {"R": [], "L": []}
    for name in STRAIGHT:
        for stance in children.find_stances(read_c3d(FOLDER / f"{name}.c3d")):
            assert stance.activity == "straight"
            old, new = np.linspace(0, 1, len(stance.values)), np.linspace(0, 1, 50)
            curves[stance.side].append([np.interp(new, old, values) for values in stance.values.T])
    right, left = np.mean(curves["R"], axis=0), np.mean(curves["L"], axis=0)
    correlations = [np.corrcoef(*pair)[0, 1] for pair in zip(right, left, strict=True)]
    emg = slice(30, 34)  # muscles of the two sides may differ
    assert min(np.delete(correlations, emg)) > 0.6
    assert min(correlations[34:]) > 0.9  # targets


def test_braking_is_backward_also_in_a_turn(recording: Recording) -> None:
    """Forces in a fixed direction of the laboratory cannot be estimated from IMUs in a turn."""
    for stretch in np.unique(recording.stretch):
        targets = recording.samples["targets"][recording.stretch == stretch].numpy()
        forward, vertical = targets[:, 4], targets[:, 6]
        stance = forward[vertical > 0.3]
        assert stance[: len(stance) // 3].mean() < -0.03
        assert stance[-len(stance) // 3 :].mean() > 0.03


def test_sensors_feel_gravity(recording: Recording) -> None:
    """Millimeters taken as meters, or gravity left out."""
    acc = recording.samples["acc"].unflatten(1, (5, 3))[:, 3:]  # pelvis and trunk
    np.testing.assert_allclose(acc.mean(dim=0).norm(dim=-1), 9.8, atol=1.0)
    assert acc[:, 0, 2].min() > 0  # Z of the pelvis points up, that of the trunk down
    assert acc[:, 1, 2].max() < 0


def test_files_that_cannot_be_used(tmp_path: Path, capsys: Capture) -> None:
    """A missing segment or a damaged file stops the conversion of all others, or is not noticed."""
    (tmp_path / "HC001A01.c3d").write_bytes(b"\x02P" + bytes(600))
    with pytest.raises(InputError, match="stances of fewer than two people; pass a folder of c3d"):
        children.convert_files(tmp_path, tmp_path / "x.h5")
    assert "NOTICE: HC001A01.c3d skipped: " in capsys.readouterr().out
    if FOLDER.exists():
        with pytest.raises(InputError, match="no point TRXO"):
            children.find_stances(read_c3d(FOLDER / "HC038A27.c3d"))


def test_files_of_another_laboratory(c3d_folder: Path) -> None:
    """Stances at another rate, or a muscle without EMG, would spoil the data of all people."""
    file = read_c3d(c3d_folder / "HC002D" / "HC030A05.c3d")
    silent = {"Voltage.L Gast": np.zeros_like(file.analog["Voltage.L Gast"])}
    lost = {"PELA": np.full_like(file.points["PELA"], np.nan)}
    for changed, message in (
        ({"point_hz": 200.0}, "200 Hz and units mm, Nmm, Nmm; it must have 100 Hz, mm and Nmm"),
        ({"units": {**file.units, "PELO": "m"}}, "100 Hz and units m, Nmm, Nmm; it must"),
        ({"units": {**file.units, "LKneeMoment": "Nm"}}, "units mm, Nmm, Nm; it must have"),
        ({"analog_hz": 500.0}, "analog channels at 500 Hz, too few for EMG"),
        ({"analog": file.analog | silent}, "no signal in Voltage.L Gast"),
        ({"points": file.points | lost}, "the pelvis is missing in all frames"),
    ):
        with pytest.raises(InputError, match=message):
            children.find_stances(file._replace(**changed))


def test_a_left_leg_has_the_muscles_of_its_side(c3d_folder: Path) -> None:
    """After mirroring, a left stance must not get the EMG of the right leg."""
    file = read_c3d(c3d_folder / "HC002D" / "HC030A05.c3d")
    louder = {name: 3 * v for name, v in file.analog.items() if name.startswith("Voltage.L ")}
    assert len(louder) >= len(children.MUSCLES)
    old = children.find_stances(file)
    new = children.find_stances(file._replace(analog=file.analog | louder))
    for one, two in zip(old, new, strict=True):
        factor = {"L": 3.0, "R": 1.0}[one.side]
        np.testing.assert_allclose(two.values[:, 30:34], factor * one.values[:, 30:34])
    assert {stance.side for stance in old} == {"L", "R"}


def test_a_copy_of_a_file_counts_once(c3d_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """Copies of a trial would count twice; other systems write .C3D."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for trial in TRIALS:
            source = c3d_folder / "HC002D" / f"{trial}.c3d"
            suffix = "c3d" if name == "one" else "C3D"
            (tmp_path / name / f"{trial}.{suffix}").symlink_to(source.resolve())
    children.convert_files(tmp_path, tmp_path / "x.h5")
    printed = capsys.readouterr().out
    assert printed.count("skipped: it has the same name as") == len(TRIALS)
    assert "6 stances of 3 people" in printed


@pytest.mark.usefixtures("narrow")
def test_command_on_a_folder(c3d_folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """The command of the page, its folds, and checkpoints for the tools."""
    monkeypatch.chdir(tmp_path)
    rows = ["ridge-foot", "distilled_streaming-foot", "student_augmented-foot"]
    rows += ["streaming_augmented-foot_trunk"]
    flags = ["--rows", *rows, "--test-subjects", "HC030A", "--epochs", "1", "--run-name", "first"]
    with no_figures():
        metrics = children.main(["--data", str(c3d_folder), *flags])
        again = children.main(["--resume"])
    pd.testing.assert_frame_equal(metrics, again)
    assert set(metrics["row"]) == {"teacher", *rows}
    data = children.read(tmp_path / "data" / "dataset_children.h5")
    run = tmp_path / "outputs" / "children" / "first"
    for row in rows:
        arrays = np.load(run / "predictions" / f"{row}-subject_HC030A.npz")
        assert (data.subject[arrays["sample"]] == 1).all()
        trained = load_trained(run / "checkpoints" / f"{row}-subject_HC030A.safetensors")
        window = {name: values[None, :50] for name, values in data.samples.items()}
        assert trained.predict(window).shape == (1, 50, 7)
    history = pd.read_csv(run / "history.csv").groupby("row")["epoch"].max()
    assert history["student_augmented-foot"] == 2
    assert history["teacher"] == 1


# Augmentation -------------------------------------------------------------------------------------


def made_recording(lengths: tuple[int, ...]) -> Recording:
    """Return stretches of these lengths, the first one of another subject."""
    stretch = np.repeat(np.arange(len(lengths)), lengths)
    count = len(stretch)
    subject = (stretch > 0).astype(int)
    samples = {"targets": torch.zeros(count, 1)}
    zeros = np.zeros(count, int)
    return Recording(Path(), samples, ["1", "2"], [""], subject, zeros, stretch, {}, True)


@pytest.mark.parametrize("offset", [0, 1, 7, 9])
@pytest.mark.parametrize(("protocol", "is_sequence"), [("paper", False), ("strict", True)])
def test_shifted_windows_contain_every_sample_once(
    offset: int, protocol: str, is_sequence: bool
) -> None:
    """Samples are lost in some epochs, or those of the test subject are trained on."""
    recording = made_recording((20, 25, 8, 10, 31))
    samples, is_scored = cut_shifted(recording, ["2"], 10, protocol, offset, is_sequence)
    assert samples.shape[1] == 10
    assert sorted(samples[is_scored]) == [*range(20, 94)]
    if is_sequence:
        assert (np.diff(recording.stretch[samples], axis=1) == 0).all()
        assert samples[0, 0] == 20
        assert samples[1, 0] == (20 + offset if offset else 30)
    else:
        assert samples[0, 0] == 20 + offset


def test_shifted_windows_within_a_trial_lose_no_window() -> None:
    """A large offset leaves short trials out."""
    recording = made_recording((20, 25, 8, 10, 31))
    for offset in range(10):
        samples, _ = cut_shifted(recording, ["2"], 10, "strict", offset, False)
        assert len(samples) == 6
        assert (np.diff(recording.stretch[samples], axis=1) == 0).all()
    assert samples[0, 0] == 23  # 9 of 0 to 5 samples left over


def test_rotated_sensors() -> None:
    """Rotations that distort signals, differ within a window, or between acc and gyr."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(64, 5, 6, generator=generator) for _ in range(2))
    batch = Batch(inputs, torch.zeros(64, 5, 1), ())
    rotated = rotate_sensors(batch, 20.0, generator)
    before, after = (torch.stack(one.inputs).unflatten(-1, (2, 3)) for one in (batch, rotated))
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    grams = [torch.einsum("mbtsi,nbusi->mnbtus", signal, signal) for signal in (before, after)]
    torch.testing.assert_close(*grams, atol=1e-4, rtol=1e-4)  # one rotation per window and sensor
    cosine = nn.functional.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
    angle = torch.rad2deg(torch.acos(cosine)).amax(dim=(0, 2))  # (windows, sensors)
    assert 15 < angle.max() < 20.01
    assert angle.std() > 3
    for one, same in zip(rotate_sensors(batch, 0.0, generator).inputs, inputs, strict=True):
        torch.testing.assert_close(one, same)


class StopError(Exception):
    """Stands for a kill."""


def train_small(folder: Path, stop_at: int = 100) -> dict[str, Tensor]:
    """Train a small network for six epochs, with data that change; return its weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    network.forward = lambda acc, gyr: network[2](network[1](network[0](acc + gyr)))
    signals = [torch.randn(60, 6), torch.randn(60, 6)]
    recording = made_recording((20, 20, 20))
    args = argparse.Namespace(seed=1, learning_rate=0.1, batch_size=2, max_rotation=20.0)
    offsets: list[int] = []

    def draw(offset: int) -> Windows:
        offsets.append(offset)
        if len(offsets) == stop_at:
            raise StopError
        return Windows(
            signals, signals[0][:, :1], *cut_shifted(recording, ["2"], 10, "paper", offset, False)
        )

    progress = Progress("small", folder / "state.pt", save_every=0.0)
    train_augmented(network, draw, 10, supervised_loss, 6, args, progress)
    assert len(progress.history) == 6
    assert progress.best_epoch == 6
    assert stop_at < 100 or len(set(offsets)) > 1
    return network.state_dict()


def test_augmented_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    """After a power cut, offsets, rotations and the learning rate would start from scratch."""
    (tmp_path / "whole").mkdir()
    whole = train_small(tmp_path / "whole")
    with pytest.raises(StopError):
        train_small(tmp_path, stop_at=4)
    resumed = train_small(tmp_path)
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=0)


def test_flags_of_augmented_rows_are_settings() -> None:
    """Runs for an ablation would be mixed with others."""
    from common.cli import NOT_SETTINGS, ArgumentParser

    parser = ArgumentParser()
    augmentation.add_flags(parser)
    args = vars(parser.parse_args([]))
    assert args == {"windows": "shifted", "max_rotation": 20.0, "epoch_factor": 2}
    assert not set(args) & set(NOT_SETTINGS)


# Ridge --------------------------------------------------------------------------------------------


def test_ridge_finds_the_filter() -> None:
    """The baseline that networks are compared with is weaker than a linear filter can be."""
    generator = torch.Generator().manual_seed(0)
    truth = LaggedRegression(channels=(2, 3), targets=2, lags=5, step=3)
    lengths = (60, 40, 50, 30)
    stretch = np.repeat(np.arange(4), lengths)
    signals = [torch.randn(180, 2, generator=generator), torch.randn(180, 3, generator=generator)]
    parts = zip(*(signal.split(lengths) for signal in signals), strict=True)
    with torch.no_grad():
        targets = torch.cat([truth(*(one[None] for one in part))[0] for part in parts])
    fitted = LaggedRegression(channels=(2, 3), targets=2, lags=5, step=3)
    penalty = fit_ridge(fitted, signals, 10 * targets + 3, stretch, stretch // 2)
    assert penalty == 1.0  # the smallest: there is no noise
    with torch.no_grad():
        estimates = fitted(*(signal[None, :60] for signal in signals))[0]
    torch.testing.assert_close(estimates, 10 * targets[:60] + 3, atol=0.3, rtol=0.05)
