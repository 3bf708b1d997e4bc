"""The Kinetics-FM networks, their losses, their epochs and the regression."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import Dataset_A_kinetics_fm_models as script_a
import Dataset_B_kinetics_fm_models as script_b
from common.data import Recording
from common.files import load_checkpoint
from common.runs import Row
from common.training import predict
from common.windows import make_fold
from tests.conftest import Files, Folders, Patch
from tests.networks import (
    Training,
    check_dependence,
    meta_network,
    narrow_networks,
    random_batch,
    record_trainings,
    row_named,
    run_script,
)
from tests.reference import (
    FORWARD,
    Parameters,
    conv_encoder,
    gru,
    imu_planes,
    linear,
    normalized,
    parameters_of,
    part_of,
    relu,
    sigmoid,
)

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]


def rows_of(script: ModuleType, sensor_set: str) -> list[Row]:
    """Return the rows of a sensor set: `dlr_rmse`, `dlr_correlation`, `dlr` and `dl`."""
    return [row for row in script.ROWS if row.sensor_set == sensor_set]


class Finished(NamedTuple):
    """A run of all rows of the first sensor set with the default flags, but one epoch each."""

    folder: Path
    trainings: dict[str, Training]  # by row

    def tensors(self, row: str) -> dict[str, Tensor]:
        """Return the tensors in the checkpoint of a row."""
        (path,) = (self.folder / "checkpoints").glob(f"{row}-subject_*.safetensors")
        return load_checkpoint(path).tensors

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in config.json."""
        return json.loads((self.folder / "config.json").read_text())["settings"]


def run_rows(
    script: ModuleType, data: Path, output_dir: Path, run_name: str, *flags: str
) -> Finished:
    """Run all rows of the first sensor set, except where flags choose others."""
    rows = [row.name for row in rows_of(script, script.IMU_SETS[0])]
    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        trainings = record_trainings(script, patch)
        folder = run_script(script, data, output_dir, run_name, "--rows", *rows, *flags)
    trained = [rows[0], rows[1], rows[3]][: len(trainings)]
    return Finished(folder, dict(zip(trained, trainings, strict=True)))


@pytest.fixture(scope="module")
def finished_b(synthetic_files: Files, tmp_path_factory: Folders) -> Finished:
    """A run on Dataset B."""
    return run_rows(script_b, synthetic_files["b"], tmp_path_factory.mktemp("b"), "run")


def all_outputs(network: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs of all branches of a DL-Kinetics-FM-Net."""
    outputs = network.branches(*inputs)
    return [outputs.output, *outputs.rmse, *outputs.correlation]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_sees_its_own_sensors_only(script: ModuleType) -> None:
    """The published 2D branch for the foot read all four IMUs; a sum of branches can hide that."""
    check_dependence(script, [rows_of(script, name)[0] for name in script.IMU_SETS])
    check_dependence(script, rows_of(script, script.IMU_SETS[0])[3:], all_outputs)
    for row in script.ROWS:  # the input of all rows of a set is the same
        assert row.name.partition("-")[2] == row.sensor_set


def trunk(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    """Apply two BiGRU layers to each window `(T, C)` and flatten, time-major."""
    encoded = []
    for h in x:
        for layer in (0, 1):
            h = gru(h, p, f"{name}.layers.{layer}")
        encoded.append(np.concatenate([*h]))
    return np.array(encoded)


def as_2d(p: Parameters) -> Parameters:
    """Write a kernel over 3 time steps as one of (3, 5) that sees one line only."""
    kernels = {}
    for i in range(4):
        weight = p[f"blocks.{i}.0.weight"]
        kernel = np.zeros((*weight.shape[:2], 3, 5))
        kernel[:, :, 1, 1:4] = weight
        kernels[f"blocks.{i}.0.weight"] = kernel
    return {**p, **kernels}


def plain_branches(x: np.ndarray, p: Parameters) -> list[np.ndarray]:
    """Compute the sum and the three branches of a Kinetics-FM-Net for two IMUs."""
    steps, targets = x.shape[1], len(p["gate.3.bias"])
    x = normalized(x)
    features = [trunk(x, p, f"trunks.{i}") for i in range(3)]
    lines = x.transpose(0, 2, 1)[:, :, None]  # (B, C, 1, T)
    conv1d = conv_encoder(lines, as_2d(part_of(p, "conv1d")), ((1, 2),) * 4)
    pools = ((2, 2), (2, 2), (1, 2), (1, 2))
    conv2d = conv_encoder(imu_planes(x), part_of(p, "conv2d"), pools)
    features[1] = np.hstack([features[1], conv1d])
    features[2] = np.hstack([features[2], conv2d])
    outputs = [
        linear(f, p, f"heads.{i}").reshape(-1, steps, targets) for i, f in enumerate(features)
    ]
    total = np.zeros_like(outputs[0])
    for y in outputs:
        total += sigmoid(linear(relu(linear(y, p, "gate.0")), p, "gate.3")) * y
    return [total, *outputs]


def without_dropout(module: nn.Module) -> nn.Module:
    """Turn off the dropout of a module in training mode, where BatchNorm uses the batch."""
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return module


@pytest.mark.usefixtures("narrow")
def test_kinetics_fm_net_equals_a_plain_computation() -> None:
    """Normalization, three trunks, both convolutions, heads and the shared gate, step by step."""
    torch.manual_seed(0)
    model = script_a.KineticsFMNet(2, targets=3, window=20, trunk_dropouts=(0.1, 0.2, 0.3))
    model = without_dropout(model)
    x = torch.randn(3, 20, 12) * 3 + 1
    expected = plain_branches(x.double().numpy(), parameters_of(model))
    for name, output, wanted in zip(
        script_a.KineticsFMOutputs._fields, model.branches(x), expected, strict=True
    ):
        assert output.detach().numpy() == pytest.approx(wanted, abs=1e-4), name


def dual_gru(rmse: np.ndarray, correlation: np.ndarray, p: Parameters) -> np.ndarray:
    """Compute the weights of one window from two predictions `(T, K)`."""
    parts = [gru(rmse, p, "rmse_gru", FORWARD), gru(correlation, p, "correlation_gru", FORWARD)]
    return linear(gru(np.hstack(parts), p, "gru", FORWARD), p, "linear")


@pytest.mark.usefixtures("narrow")
def test_dl_kinetics_fm_net_equals_a_plain_computation() -> None:
    """Gain and offset come from GRUs of their own, over the outputs of both networks."""
    torch.manual_seed(0)
    model = script_a.DLKineticsFMNet(
        1, targets=2, window=16, rmse_dropouts=(0, 0, 0), correlation_dropouts=(0, 0, 0)
    ).eval()
    x = torch.randn(2, 16, 6)
    outputs = model.branches(x)
    parts = [outputs.rmse.output, outputs.correlation.output]
    assert torch.equal(parts[0], model.rmse_net(x))
    assert torch.equal(parts[1], model.correlation_net(x))
    gains, offsets = parameters_of(model.gain), parameters_of(model.offset)
    expected = []
    for rmse, correlation in zip(*(part.detach().double().numpy() for part in parts), strict=True):
        gain = sigmoid(dual_gru(rmse, correlation, gains))
        expected.append(correlation * gain + relu(dual_gru(rmse, correlation, offsets)))
    assert model(x).detach().numpy() == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dropouts_are_the_papers(script: ModuleType) -> None:
    """Dropout is where the two networks of a row differ, and A from B."""

    def dropouts(network: nn.Module) -> tuple[list[float], float]:
        return [trunk.dropout.p for trunk in network.trunks], network.gate[2].p

    name = script.IMU_SETS[0]
    rmse = [0.1] * 3 if script is script_a else [0.3] * 3
    correlation = [0.5] * 3 if script is script_a else [0.25, 0.3, 0.3]
    dlr, dl = (meta_network(script, f"{row}-{name}") for row in ("dlr", "dl"))
    alone = [meta_network(script, f"dlr_{part}-{name}") for part in ("rmse", "correlation")]
    assert dropouts(dlr.rmse_net) == dropouts(alone[0]) == (rmse, 0.0)
    assert dropouts(dlr.correlation_net) == dropouts(alone[1]) == (correlation, 0.4)
    assert dropouts(dl.rmse_net) == (rmse, 0.0)
    assert dropouts(dl.correlation_net) == ([0.5] * 3, 0.4)
    for network in alone:
        assert network.conv1d.dropout.p == network.conv2d.dropout.p == 0.25


def test_correlation_loss_is_one_minus_pearsons_r_of_each_target() -> None:
    """The published loss pools all targets in one r; SciPy computes it for each."""
    torch.manual_seed(0)
    target = torch.randn(4, 50, 3) * torch.tensor([1.0, 0.02, 30.0]) + torch.tensor([0.0, 1.0, 5.0])
    prediction = 0.5 * target + torch.randn(4, 50, 3) * torch.tensor([1.0, 0.02, 30.0])
    prediction[..., 2] *= -1  # r < 0 counts and is not clipped at 0
    r = [
        scipy.stats.pearsonr(prediction[..., k].flatten(), target[..., k].flatten()).statistic
        for k in range(3)
    ]
    assert r[2] < 0
    loss = script_a.correlation_loss(prediction, target)
    assert loss.item() == pytest.approx(1 - np.mean(r), abs=1e-6)


@pytest.mark.parametrize("constant", ["prediction", "truth", "both"])
def test_correlation_loss_is_finite_for_a_constant(constant: str) -> None:
    """A dead output, or a batch in which a force is zero, must not turn the weights into NaN."""
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 10, 2), torch.randn(2, 10, 2)
    if constant != "truth":
        prediction[..., 0] = 0.3
    if constant != "prediction":
        target[..., 0] = 1.7
    prediction.requires_grad_()
    loss = script_a.correlation_loss(prediction, target)
    loss.backward()
    r = np.corrcoef(prediction[..., 1].detach().flatten(), target[..., 1].flatten())[0, 1]
    assert loss.item() == pytest.approx((1 + 1 - r) / 2, abs=1e-6)
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("row", ["dlr_rmse", "dlr_correlation", "dl"])
def test_losses_are_their_formulas(row: str, finished_b: Finished) -> None:
    """A row must be trained with its own loss: all outputs weigh the same, biases are penalized."""
    training = finished_b.trainings[f"{row}-feet"]
    network = copy.deepcopy(training.network).eval()
    batch = random_batch(script_b, f"{row}-feet", 2)
    for part in [network.rmse_net, network.correlation_net] if row == "dl" else [network]:
        for head in part.heads:
            nn.init.normal_(head.bias)

    def rmse(y: Tensor) -> float:
        return float((y - batch.targets).detach().square().mean().sqrt())

    def correlation(y: Tensor) -> float:
        y, t = y.detach().flatten(0, 1).numpy(), batch.targets.flatten(0, 1).numpy()
        return 1 - np.mean([np.corrcoef(y[:, k], t[:, k])[0, 1] for k in range(t.shape[1])])

    def penalty(part: nn.Module) -> float:
        return 0.001 * sum(float(head.bias.detach().square().sum()) for head in part.heads)

    outputs = network.branches(*batch.inputs)
    if row == "dl":
        expected = rmse(outputs.output) + sum(map(rmse, outputs.rmse))
        expected += sum(map(correlation, outputs.correlation))
        expected += penalty(network.rmse_net) + penalty(network.correlation_net)
    else:
        term = {"dlr_rmse": rmse, "dlr_correlation": correlation}[row]
        expected = sum(map(term, outputs)) + penalty(network)
    assert training.loss(network, batch).item() == pytest.approx(expected, rel=1e-5)
    early_stopping = correlation if row == "dlr_correlation" else rmse
    prediction = outputs.output.detach()
    criterion = training.criterion(prediction, batch.targets)
    assert criterion.item() == pytest.approx(early_stopping(prediction), rel=1e-5)


def test_the_correlation_networks_of_b_have_55_epochs(finished_b: Finished) -> None:
    """They are trained for longer, as published, and config.json must state it."""
    assert [training.epochs for training in finished_b.trainings.values()] == [40, 55, 40]
    settings = finished_b.settings
    assert (settings["epochs"], settings["correlation_epochs"]) == (40, 55)


def test_a_flag_sets_the_epochs_of_all_rows_of_b(synthetic_files: Files, tmp_path: Path) -> None:
    """`--epochs 3` must not train some rows for 55."""
    finished = run_rows(script_b, synthetic_files["b"], tmp_path, "run", "--epochs", "3")
    assert [training.epochs for training in finished.trainings.values()] == [3, 3, 3]
    assert finished.settings["epochs"] == finished.settings["correlation_epochs"] == 3


@pytest.fixture
def regression(narrow: None) -> nn.Module:
    """Return a small Kinetics-FM-DLR-Net of two targets."""
    torch.manual_seed(0)
    return script_a.KineticsFMDLRNet(
        1, targets=2, window=16, rmse_dropouts=(0, 0, 0), correlation_dropouts=(0, 0, 0)
    ).eval()


def test_the_regression_is_numpys(regression: nn.Module) -> None:
    """In float64 and two passes: an offset a million times the spread costs no digits."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 2)) * [1, 1e-3] + [3, 1e3]
    y = 2 * x + generator.normal(size=(500, 2))
    regression.fit(torch.from_numpy(y), torch.from_numpy(x))
    for k in range(2):
        centred = np.polyfit(x[:, k] - x[:, k].mean(), y[:, k], 1)  # polyfit itself is not two-pass
        slope, offset = centred[0], centred[1] - centred[0] * x[:, k].mean()
        assert regression.slope[k].item() == pytest.approx(slope, rel=1e-10)
        assert regression.offset[k].item() == pytest.approx(offset, rel=1e-10)
    windows = torch.randn(3, 16, 6)
    expected = regression.slope * regression.correlation_net(windows) + regression.offset
    assert torch.equal(regression(windows), expected.float())


def test_a_constant_correlation_network_falls_back_to_the_mean(regression: nn.Module) -> None:
    """Without a line, the output is the mean of the RMSE network, and a warning is printed."""
    x, y = torch.randn(100, 2), torch.randn(100, 2)
    x[:, 1] = 0.1
    with pytest.warns(RuntimeWarning, match="a constant for target 2"):
        regression.fit(y, x)
    assert regression.slope[1] == 0
    assert regression.offset[1].item() == pytest.approx(y[:, 1].double().mean().item(), rel=1e-12)
    assert regression.slope[0] != 0


def check_line(finished: Finished, data: Path, protocol: str) -> None:
    """Compare the line of each target with NumPy's, fitted to the windows of the protocol."""
    recording = script_b.read(data)
    signals = script_b.inputs(recording.samples, "feet")
    subject = recording.subjects[-1]
    fold = make_fold(recording, signals, subject, script_b.WINDOW, protocol, seed=42)
    windows = {"paper": fold.test, "strict": fold.validation}[protocol]
    predictions = []
    for row in ("dlr_rmse-feet", "dlr_correlation-feet"):
        with narrow_networks():
            network = row_named(script_b, row).network()
        network.load_state_dict(finished.tensors(row))
        prediction = predict(network, windows, batch_size=64)[windows.is_scored]
        predictions.append(prediction.double().numpy())
    tensors = finished.tensors("dlr-feet")
    for k in range(len(script_b.TARGETS)):
        y, x = (prediction[:, k] for prediction in predictions)
        slope, mean = np.polyfit(x - x.mean(), y, 1)
        assert tensors["slope"][k].item() == pytest.approx(slope, rel=1e-5)
        expected = mean - slope * x.mean()
        assert tensors["offset"][k].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_under_paper_the_line_is_fitted_to_the_test_predictions(
    finished_b: Finished, synthetic_files: Files
) -> None:
    """As published; without measured targets, but with the whole test set."""
    check_line(finished_b, synthetic_files["b"], "paper")


def test_under_strict_no_test_sample_affects_the_fit(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The line is fitted to the validation predictions: other test data must not change it."""
    data, strict = synthetic_files["b"], ("--protocol", "strict", "--rows", "dlr-feet")
    original = run_rows(script_b, data, tmp_path, "original", *strict)
    check_line(original, data, "strict")
    read = script_b.read

    def read_changed(path: Path) -> Recording:
        recording = read(path)
        is_test = torch.from_numpy(recording.subject == len(recording.subjects) - 1)
        for modality in ("acc", "gyr", "targets"):
            recording.samples[modality][is_test] *= 3.0
        return recording

    monkeypatch.setattr(script_b, "read", read_changed)
    changed = run_rows(script_b, data, tmp_path, "changed", *strict)
    for name in ("slope", "offset"):
        assert torch.equal(original.tensors("dlr-feet")[name], changed.tensors("dlr-feet")[name])


def test_a_regression_has_the_trained_networks_and_the_size_of_both(finished_b: Finished) -> None:
    """The size in the table is that of everything that has to be trained for the row."""
    regression = finished_b.tensors("dlr-feet")
    for part, row in (("rmse_net", "dlr_rmse-feet"), ("correlation_net", "dlr_correlation-feet")):
        for name, values in finished_b.tensors(row).items():
            assert torch.equal(regression[f"{part}.{name}"], values)
    metrics = pd.read_csv(finished_b.folder / "metrics.csv")
    sizes = metrics.groupby("row")["parameters"].first()
    assert sizes["dlr-feet"] == sizes["dlr_rmse-feet"] + sizes["dlr_correlation-feet"]
    history = pd.read_csv(finished_b.folder / "history.csv")
    assert set(history["row"]) == {"dlr_rmse-feet", "dlr_correlation-feet", "dl-feet"}
