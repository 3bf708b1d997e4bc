"""The Kinetics-FM networks, the correlation loss, the regression, and the rows of both scripts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import Dataset_A_kinetics_fm_models as script_a
import Dataset_B_kinetics_fm_models as script_b
from common import checkpoints, training
from tests.conftest import ROOT
from tests.narrow import narrow_networks
from tests.test_baselines import batch_of, check_dependence, convolved, linear, normed, pooled
from tests.test_sensor_distillation import gru_direction, parameters_of, sigmoid

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]
ONE_NETWORK = {  # the design's table of used parameters, by IMU set
    script_a: [126_837_627, 126_901_371, 126_965_115, 127_028_859],
    script_b: [38_358_707, 38_422_451, 38_549_939, 38_677_427, 38_741_171],
}
DUAL = {
    script_a: [254_183_940, 254_311_428, 254_438_916, 254_566_404],
    script_b: [77_222_512, 77_350_000, 77_604_976, 77_859_952, 77_987_440],
}


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks():
        yield


@pytest.mark.parametrize("script", SCRIPTS)
def test_rows_and_parameter_counts(script: ModuleType) -> None:
    """Every row of the table must be there, with the network of the design's size."""
    expected = {}
    for name, one, dual in zip(script.IMU_SETS, ONE_NETWORK[script], DUAL[script], strict=True):
        expected |= {f"dlr_rmse-{name}": one, f"dlr_correlation-{name}": one, f"dl-{name}": dual}
        expected[f"dlr-{name}"] = 2 * one
    counts = {}
    for experiment in script.EXPERIMENTS:
        with torch.device("meta"):  # 254 million take their time
            model = experiment.model()
        counts[experiment.row] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == expected


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_parameter_is_used(script: ModuleType) -> None:
    """A layer that nothing depends on inflates the size that the table states."""
    name = script.IMU_SETS[0]
    for row in (f"dlr_rmse-{name}", f"dlr_correlation-{name}", f"dl-{name}"):
        model = script.STUDY.experiment(row).model()
        used = training.used_parameters(model, script.STUDY.predict(row), batch_of(script, 1))
        assert used == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_sees_its_own_sensors_only(script: ModuleType) -> None:
    """A sparse result that used other sensors is the error we are here to avoid."""
    check_dependence(script, batch_of(script, 1))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_branch_sees_its_own_sensors_only(script: ModuleType) -> None:
    """The published 2D branch of the foot read all four IMUs: no branch may hide that in a sum."""
    name = script.IMU_SETS[0]
    sensor_set = script.SENSOR_SETS[name]
    model = script.STUDY.experiment(f"dlr_rmse-{name}").model().eval()
    batch = batch_of(script, 2)
    before = model.branches(*script.one_input(batch, sensor_set))
    for modality in ("acc", "gyr"):
        for i, sensor in enumerate(script.SENSORS):
            changed = {key: value.clone() for key, value in batch.items()}
            changed[modality][..., 3 * i : 3 * i + 3] += 1
            after = model.branches(*script.one_input(changed, sensor_set))
            for branch in before._fields:
                same = torch.equal(getattr(before, branch), getattr(after, branch))
                assert same == (sensor not in sensor_set.sensors), (branch, sensor, modality)


def trunk(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Read each window `(T, C)` by two BiGRU layers, flat and time-major."""
    read = []
    for h in x:
        for layer in (0, 1):
            ends = ("", "_reverse")
            h = np.hstack([gru_direction(h, p, f"{name}.layers.{layer}", end) for end in ends])
        read.append(np.concatenate([*h]))
    return np.array(read)


def blocks(x: np.ndarray, p: dict[str, np.ndarray], name: str, pools: list) -> np.ndarray:
    """Convolve `(B, S, H, W)`, ReLU, norm over the batch and pool, four times; then two layers."""
    for i, (height, width) in enumerate(pools):
        x = np.maximum(convolved(x, p, f"{name}.blocks.{i}.0"), 0)
        mean, variance = (f(axis=(0, 2, 3), keepdims=True) for f in (x.mean, x.var))
        x = pooled((x - mean) / np.sqrt(variance + 1e-5), height, width)
    x = x[:, :, 0].transpose(0, 2, 1)
    for i in range(2):
        x = np.maximum(linear(x, p, f"{name}.layers.{i}"), 0)
    return x.reshape(len(x), -1)


def as_2d(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write a kernel over 3 time steps as one of (3, 5) that looks at one line only."""
    kernels = {}
    for i in range(4):
        weight = p[f"conv1d.blocks.{i}.0.weight"]
        kernel = np.zeros((*weight.shape[:2], 3, 5))
        kernel[:, :, 1, 1:4] = weight
        kernels[f"conv1d.blocks.{i}.0.weight"] = kernel
    return {**p, **kernels}


def plain_branches(x: np.ndarray, p: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Compute the sum and the three branches of a Kinetics-FM-Net for two IMUs."""
    steps, targets = x.shape[1], len(p["gate.3.bias"])
    x = normed(x)
    features = [trunk(x, p, f"trunks.{i}") for i in range(3)]
    lines = x.transpose(0, 2, 1)  # (B, C, T)
    flat = blocks(lines[:, :, None], as_2d(p), "conv1d", [(1, 2)] * 4)
    features[1] = np.hstack([features[1], flat])
    order = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]  # acc and gyr of the first IMU, the second
    planes = np.stack([lines[:, channels] for channels in order], axis=1)
    flat = blocks(planes, p, "conv2d", [(2, 2), (2, 2), (1, 2), (1, 2)])
    features[2] = np.hstack([features[2], flat])
    outputs = [
        linear(f, p, f"heads.{i}").reshape(-1, steps, targets) for i, f in enumerate(features)
    ]
    total = np.zeros_like(outputs[0])
    for y in outputs:
        total += sigmoid(linear(np.maximum(linear(y, p, "gate.0"), 0), p, "gate.3")) * y
    return [total, *outputs]


def without_dropout(module: nn.Module) -> nn.Module:
    """Turn dropout off in a module that trains, so that its BatchNorms use the batch."""
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return module


@pytest.mark.usefixtures("narrow")
def test_kinetics_fm_net_equals_a_plain_computation() -> None:
    """Norm, three trunks, both convolutions, heads and the shared gate, computed step by step."""
    torch.manual_seed(0)
    model = script_a.KineticsFMNet(2, targets=3, window=20, trunk_dropouts=(0.1, 0.2, 0.3))
    model = without_dropout(model)
    x = torch.randn(3, 20, 12) * 3 + 1
    expected = plain_branches(x.double().numpy(), parameters_of(model))
    for name, output, wanted in zip(
        script_a.KineticsFMOutputs._fields, model.branches(x), expected, strict=True
    ):
        assert output.detach().numpy() == pytest.approx(wanted, abs=1e-4), name


def dual_gru(rmse: np.ndarray, correlation: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the weights of one window from two predictions `(T, K)`."""
    u = np.hstack(
        [
            gru_direction(rmse, p, "rmse_gru", ""),
            gru_direction(correlation, p, "correlation_gru", ""),
        ]
    )
    return linear(gru_direction(u, p, "gru", ""), p, "linear")


@pytest.mark.usefixtures("narrow")
def test_dl_kinetics_fm_net_equals_a_plain_computation() -> None:
    """Gain and offset come from GRUs of their own, over both networks' outputs."""
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
        expected.append(correlation * gain + np.maximum(dual_gru(rmse, correlation, offsets), 0))
    assert model(x).detach().numpy() == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dropouts_are_the_papers(script: ModuleType) -> None:
    """Dropout is what sets the two networks of a row apart, and A from B."""

    def dropouts(network: nn.Module) -> tuple[list[float], float]:
        return [trunk.dropout.p for trunk in network.trunks], network.gate[2].p

    name = script.IMU_SETS[0]
    rmse = [0.1] * 3 if script is script_a else [0.3] * 3
    correlation = [0.5] * 3 if script is script_a else [0.25, 0.3, 0.3]
    with torch.device("meta"):
        models = {row: script.STUDY.experiment(f"{row}-{name}").model() for row in ("dlr", "dl")}
        alone = [
            script.STUDY.experiment(f"dlr_{part}-{name}").model()
            for part in ("rmse", "correlation")
        ]
    assert dropouts(models["dlr"].rmse_net) == dropouts(alone[0]) == (rmse, 0.0)
    assert dropouts(models["dlr"].correlation_net) == dropouts(alone[1]) == (correlation, 0.4)
    assert dropouts(models["dl"].rmse_net) == (rmse, 0.0)
    assert dropouts(models["dl"].correlation_net) == ([0.5] * 3, 0.4)
    assert [e.epochs for e in script.STUDY.experiments[:2]] == [
        None,
        None if script is script_a else 55,
    ]


def test_correlation_loss_is_one_minus_pearsons_r_of_each_target() -> None:
    """The published loss pools all targets in one r; here SciPy says what it is for each."""
    torch.manual_seed(0)
    target = torch.randn(4, 50, 3) * torch.tensor([1.0, 0.02, 30.0]) + torch.tensor([0.0, 1.0, 5.0])
    prediction = 0.5 * target + torch.randn(4, 50, 3) * torch.tensor([1.0, 0.02, 30.0])
    prediction[..., 2] *= -1  # r < 0 counts, and is not cut off at 0
    r = [
        scipy.stats.pearsonr(prediction[..., k].flatten(), target[..., k].flatten()).statistic
        for k in range(3)
    ]
    assert r[2] < 0
    loss = script_a.correlation_loss(prediction, target)
    assert loss.item() == pytest.approx(1 - np.mean(r), abs=1e-6)


@pytest.mark.parametrize("constant", ["prediction", "truth", "both"])
def test_correlation_loss_is_finite_for_a_constant(constant: str) -> None:
    """A dead output, or a batch in which a force is zero, must not turn a training to NaN."""
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


def test_correlation_loss_has_a_gradient_where_r_is_negative() -> None:
    """A network that is born upside down must be able to turn round."""
    target = torch.randn(2, 20, 1)
    prediction = (-target + 0.1 * torch.randn(2, 20, 1)).requires_grad_()
    script_a.correlation_loss(prediction, target).backward()
    assert prediction.grad.abs().max() > 1e-4
    better = prediction.detach() - prediction.grad
    assert script_a.correlation_loss(better, target) < script_a.correlation_loss(prediction, target)


def test_right_means_alone_are_not_rewarded() -> None:
    """Targets that differ in their means give one pooled r near 1 without any correlation."""
    torch.manual_seed(0)
    means = torch.tensor([0.0, 10.0, -20.0, 40.0])
    target, prediction = means + torch.randn(64, 50, 4), means + torch.randn(64, 50, 4)
    pooled = np.corrcoef(prediction.flatten(), target.flatten())[0, 1]
    assert pooled > 0.99
    assert script_a.correlation_loss(prediction, target).item() == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("row", ["dlr_rmse", "dlr_correlation", "dl"])
def test_losses_are_their_formulas(row: str) -> None:
    """Four outputs of a network weigh the same, and the heads' biases are penalised."""
    torch.manual_seed(0)
    experiment = script_a.STUDY.experiment(f"{row}-foot")
    model, batch = experiment.model().eval(), batch_of(script_a, 2)
    (x,) = script_a.one_input(batch, script_a.SENSOR_SETS["foot"])
    target = batch["targets"]
    for network in [model.rmse_net, model.correlation_net] if row == "dl" else [model]:
        for head in network.heads:
            nn.init.normal_(head.bias)

    def rmse(y: Tensor) -> float:
        return float((y - target).detach().square().mean().sqrt())

    def correlation(y: Tensor) -> float:
        y, t = y.detach().flatten(0, 1).numpy(), target.flatten(0, 1).numpy()
        return 1 - np.mean([np.corrcoef(y[:, k], t[:, k])[0, 1] for k in range(t.shape[1])])

    def penalty(network: nn.Module) -> float:
        return 0.001 * sum(float(head.bias.detach().square().sum()) for head in network.heads)

    outputs = model.branches(x)
    if row == "dl":
        expected = rmse(outputs.output) + sum(map(rmse, outputs.rmse))
        expected += sum(map(correlation, outputs.correlation))
        expected += penalty(model.rmse_net) + penalty(model.correlation_net)
    else:
        term = {"dlr_rmse": rmse, "dlr_correlation": correlation}[row]
        expected = sum(map(term, outputs)) + penalty(model)
    assert experiment.loss(None)(model, batch).item() == pytest.approx(expected, rel=1e-5)


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
        centred = np.polyfit(x[:, k] - x[:, k].mean(), y[:, k], 1)  # polyfit itself needs that
        slope, offset = centred[0], centred[1] - centred[0] * x[:, k].mean()
        assert regression.slope[k].item() == pytest.approx(slope, rel=1e-10)
        assert regression.offset[k].item() == pytest.approx(offset, rel=1e-10)
    windows = torch.randn(3, 16, 6)
    expected = regression.slope * regression.correlation_net(windows) + regression.offset
    assert torch.equal(regression(windows), expected.float())


def test_a_constant_correlation_network_falls_back_to_the_mean(regression: nn.Module) -> None:
    """No line goes through one point: the RMSE network's mean stands in, and a warning says so."""
    x, y = torch.randn(100, 2), torch.randn(100, 2)
    x[:, 1] = 0.1
    with pytest.warns(RuntimeWarning, match="a constant for target 2"):
        regression.fit(y, x)
    assert regression.slope[1] == 0
    assert regression.offset[1].item() == pytest.approx(y[:, 1].double().mean().item(), rel=1e-12)
    assert regression.slope[0] != 0


@pytest.fixture
def changed_test_rows(
    narrow: None,
    monkeypatch: pytest.MonkeyPatch,
    sample_files: dict[str, Path],
    tmp_path: Path,
) -> dict[str, dict[str, Tensor]]:
    """Fit the line of a row twice, the second time with other sensor data of the test subject."""
    lines = {}
    read = script_b.STUDY.read

    def changed(path: Path) -> object:
        recording = read(path)
        rows = torch.from_numpy(recording.subject == len(recording.subjects) - 1)
        for modality in ("acc", "gyr", "targets"):
            recording.samples[modality][rows] *= 3.0
        return recording

    for protocol in ("paper", "strict"):
        for name, reader in (("as it was", read), ("changed", changed)):
            study = dataclasses.replace(script_b.STUDY, read=reader)
            monkeypatch.setattr(script_b, "STUDY", study)
            run = f"{protocol} {name}"
            script_b.main(
                [
                    *("--data", str(sample_files["b"]), "--output-dir", str(tmp_path)),
                    *("--rows", "dlr-feet", "--protocol", protocol, "--run-name", run),
                    *("--epochs", "1", "--device", "cpu", "--jobs", "1"),
                ]
            )
            folder = tmp_path / "Dataset_B_kinetics_fm_models" / run / "checkpoints"
            lines[run] = checkpoints.load(next(folder.glob("dlr-feet-*"))).tensors
    return lines


def test_under_strict_no_test_row_takes_part_in_the_fit(
    changed_test_rows: dict[str, dict[str, Tensor]],
) -> None:
    """Fitted to the test subject, a result needs the whole test set; `strict` must not."""
    lines = changed_test_rows
    for name in ("slope", "offset"):
        assert torch.equal(lines["strict changed"][name], lines["strict as it was"][name])
        assert not torch.equal(lines["paper changed"][name], lines["paper as it was"][name])


def peak_gb(code: str) -> float:
    """Run code in a process of its own; return the peak of its memory, in GB."""
    measure = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\n{measure}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]) * 1024 / 1e9  # Linux counts in KiB


SAVING = """
import numpy, pandas, sys, torch
from pathlib import Path
from common import runs
from common.checkpoints import Checkpoint
run = runs.Run(Path({folder!r}))
state = {{"weight": torch.ones(int({gb} * 2.5e8))}}
history = pandas.DataFrame({{"row": ["x"], "fold": ["1"]}})
metrics = pandas.DataFrame({{"row": ["x"], "test_subject": ["1"]}})
if {save}:
    run.add("x", "1", Checkpoint(state, {{}}), {{"truth": numpy.zeros(1)}}, history, metrics, "")
"""


@pytest.mark.slow
def test_a_checkpoint_is_written_without_a_second_copy(tmp_path: Path) -> None:
    """A network of a gigabyte may fill the memory there is: saving it must not end the run."""
    size_gb = 0.3
    idle, saving = (
        peak_gb(SAVING.format(folder=str(tmp_path / str(save)), gb=size_gb, save=save))
        for save in (False, True)
    )
    assert saving - idle < size_gb / 2


STEP = """
import torch
import Dataset_A_kinetics_fm_models as script
torch.set_num_threads(1)
experiment = script.STUDY.experiment("dl-all_imus")
model = experiment.model()
optimiser = torch.optim.Adam(model.parameters())
loss, batch = experiment.loss(None), {}
for name, channels in (("acc", 12), ("gyr", 12), ("targets", 7)):
    batch[name] = torch.randn(64, 100, channels)
for _ in range(2):
    optimiser.zero_grad(set_to_none=True)
    loss(model, batch).backward()
    optimiser.step()
"""


@pytest.mark.slow
def test_a_training_step_of_the_largest_network_fits_in_8_gb() -> None:
    """254 million parameters, their gradients and Adam's two moments are 4 GB of it."""
    assert 4 < peak_gb(STEP) < 8
