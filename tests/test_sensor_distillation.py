"""Kinetics-MFFM-Net, its losses and the rows of both sensor-distillation scripts."""

from __future__ import annotations

import copy
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common import training

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]
PROJECTION = 32_896
USED = {  # the design's table of used parameters
    script_a: [3_275_144, 1_863_304, 1_874_056, 1_884_808, 1_895_560],
    script_b: [3_375_494, 1_872_774, 1_883_526, 1_905_030, 1_926_534, 1_937_286],
}
TEACHER_WITH_PROJECTION = {script_a: 3_324_424, script_b: 3_424_774}


def batch_of(script: ModuleType, windows: int, seed: int = 0) -> training.Batch:
    """Return random windows with all modalities of a script."""
    generator = torch.Generator().manual_seed(seed)
    imus = 3 * len(script.SENSORS)
    third = {"emg": 11} if script is script_a else {"video": 44}
    channels = {"acc": imus, "gyr": imus, **third, "targets": len(script.TARGETS)}
    return {
        name: torch.randn(windows, script.WINDOW, count, generator=generator)
        for name, count in channels.items()
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_parameter_counts(script: ModuleType) -> None:
    """Every row must be the network of the paper's size, or its figures mean nothing."""
    rows = {e.row: e for e in script.EXPERIMENTS}
    assert len(rows) == 2 * len(script.STUDENT_SETS) + 1
    students = dict(zip(script.STUDENT_SETS, USED[script][1:], strict=True))
    expected = {"teacher": (USED[script][0], TEACHER_WITH_PROJECTION[script])}
    for name, count in students.items():
        expected[f"student-{name}"] = (count, count)
        expected[f"distilled-{name}"] = (count, count + PROJECTION)
    batch = batch_of(script, 1)
    for row, experiment in rows.items():
        model = experiment.model()
        used = training.used_parameters(model, script.STUDY.predict(row), batch)
        built = sum(parameter.numel() for parameter in model.parameters())
        assert (used, built) == expected[row], row


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("windows", [1, 3])
def test_every_row_has_its_shape_and_finite_gradients(script: ModuleType, windows: int) -> None:
    """A last batch of one window, or a dead layer, must not spoil a training."""
    teacher = script.EXPERIMENTS[0].model()
    options = script.flags.parser("", dataset="a", rows=[], epochs=1, learning_rate=1).parse_args(
        []
    )
    options.alpha, options.beta = 0.5, 1.0
    batch = batch_of(script, windows)
    for experiment in script.EXPERIMENTS:
        model = experiment.model()
        prediction = script.STUDY.predict(experiment.row)(model, batch)
        assert prediction.shape == (windows, script.WINDOW, len(script.TARGETS))
        taught = experiment.teaching(teacher)(batch) if experiment.teaching else {}
        loss = experiment.loss(options)
        loss(model, {**batch, **taught}).backward()
        for name, parameter in model.named_parameters():
            if experiment.row == "teacher" and name.startswith("projection"):
                assert parameter.grad is None  # stays the random projection it was born as
            else:
                assert parameter.grad.isfinite().all(), name
                if windows > 1:
                    assert parameter.grad.any(), name


def test_eval_is_repeatable_and_training_is_not() -> None:
    """A prediction that changes from call to call cannot be a result; dropout must be on before."""
    torch.manual_seed(0)
    model = script_a.network("foot", projection=False)()
    batch = script_a.inputs(batch_of(script_a, 2), script_a.SENSOR_SETS["foot"])
    model.train()
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_student_sees_its_own_sensors_only(script: ModuleType) -> None:
    """A sparse result that used other sensors is the error we are here to avoid."""
    batch = batch_of(script, 2)
    for name, sensor_set in script.SENSOR_SETS.items():
        model = script.network(name, projection=False)().eval()
        before = model(*script.inputs(batch, sensor_set))
        for modality in ("acc", "gyr"):
            for i, sensor in enumerate(script.SENSORS):
                changed = {key: value.clone() for key, value in batch.items()}
                changed[modality][..., 3 * i : 3 * i + 3] += 1
                same = torch.equal(before, model(*script.inputs(changed, sensor_set)))
                assert same == (sensor not in sensor_set.sensors), (name, sensor)


def parameters_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Return weights and biases as float64 NumPy arrays."""
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def attend(x: np.ndarray, p: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """Self-attention of one window `(T, D)`, head by head and time step by time step."""
    steps, width = x.shape
    size = width // heads
    projected = x @ p["attention.in_proj_weight"].T + p["attention.in_proj_bias"]
    query, key, value = np.split(projected, 3, axis=1)
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(steps):
            scores = np.array([query[t, part] @ key[s, part] for s in range(steps)])
            weights = np.exp(scores / math.sqrt(size))
            weights /= weights.sum()
            mixed[t, part] = sum(weights[s] * value[s, part] for s in range(steps))
    return mixed @ p["attention.out_proj.weight"].T + p["attention.out_proj.bias"]


@pytest.mark.parametrize("modalities", [2, 3])
def test_mffm_equals_a_plain_computation_of_its_formulas(modalities: int) -> None:
    """The fusion is the paper's contribution: its four parts are computed here step by step."""
    torch.manual_seed(modalities)
    size = 8
    module = script_a.MFFM(modalities, size)
    x = torch.randn(2, 6, modalities * size)
    p = parameters_of(module)
    expected = []
    for window in x.double().numpy():
        maf = attend(window, p, heads=4)
        fused = []
        for t, features in enumerate(window):
            scores = p["feature_weights.weight"] @ features + p["feature_weights.bias"]
            mwff = sigmoid(scores) * features
            mwfs = np.zeros(size)
            for m in range(modalities):
                block = features[m * size : (m + 1) * size]
                score = p["modality_weight.weight"][0] @ block + p["modality_weight.bias"][0]
                mwfs += sigmoid(score) * block
            z = np.concatenate([maf[t], mwff, mwfs])
            fused.append(sigmoid(p["gate.weight"] @ z + p["gate.bias"]) * z)
        expected.append(fused)
    assert module(x).detach().numpy() == pytest.approx(np.array(expected), abs=1e-5)


def lstm_direction(x: np.ndarray, p: dict[str, np.ndarray], layer: str, end: str) -> np.ndarray:
    """One direction of an LSTM over `(T, C)`; gates in PyTorch's order i, f, g, o."""
    weights = [p[f"{layer}.{kind}_l0{end}"] for kind in ("weight_ih", "weight_hh")]
    bias = p[f"{layer}.bias_ih_l0{end}"] + p[f"{layer}.bias_hh_l0{end}"]
    h = c = np.zeros(len(bias) // 4)
    out = np.zeros((len(x), len(h)))
    for t in reversed(range(len(x))) if end else range(len(x)):
        i, f, g, o = np.split(weights[0] @ x[t] + weights[1] @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out[t] = h
    return out


def gru_direction(x: np.ndarray, p: dict[str, np.ndarray], layer: str, end: str) -> np.ndarray:
    """One direction of a GRU over `(T, C)`; gates in PyTorch's order r, z, n."""
    from_x = x @ p[f"{layer}.weight_ih_l0{end}"].T + p[f"{layer}.bias_ih_l0{end}"]
    h = np.zeros(from_x.shape[1] // 3)
    out = np.zeros((len(x), len(h)))
    for t in reversed(range(len(x))) if end else range(len(x)):
        from_h = p[f"{layer}.weight_hh_l0{end}"] @ h + p[f"{layer}.bias_hh_l0{end}"]
        (xr, xz, xn), (hr, hz, hn) = np.split(from_x[t], 3), np.split(from_h, 3)
        z = sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
        out[t] = h
    return out


def test_gated_dual_encoder_equals_a_plain_computation() -> None:
    """Two recurrent layers of each kind, mixed by the gate: `g * lstm + (1 - g) * gru`."""
    torch.manual_seed(1)
    module = script_a.GatedDualEncoder(3, hidden_sizes=(5, 4)).eval()
    x = torch.randn(1, 7, 3)
    p = parameters_of(module)
    lstm = gru = x[0].double().numpy()
    for layer in (0, 1):
        lstm = np.hstack([lstm_direction(lstm, p, f"lstm.{layer}", e) for e in ("", "_reverse")])
        gru = np.hstack([gru_direction(gru, p, f"gru.{layer}", e) for e in ("", "_reverse")])
    g = sigmoid(np.hstack([lstm, gru]) @ p["gate.weight"].T + p["gate.bias"])
    expected = g * lstm + (1 - g) * gru
    assert module(x)[0].detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_the_gate_chooses_between_lstm_and_gru() -> None:
    """Open, the encoder is the BiLSTM; shut, the BiGRU: the gate is not swapped or ignored."""
    module = script_a.GatedDualEncoder(3, hidden_sizes=(5, 4)).eval()
    x = torch.randn(2, 7, 3)
    nn.init.zeros_(module.gate.weight)
    for bias, layers in ((50.0, module.lstm), (-50.0, module.gru)):
        nn.init.constant_(module.gate.bias, bias)
        expected = layers[1](layers[0](x)[0])[0]
        assert torch.allclose(module(x), expected, atol=1e-6)


def test_input_is_normed_per_channel_over_batch_and_time() -> None:
    """Sensors in deg/s and m/s² must reach the encoders on one scale, without a learned factor."""
    model = script_a.KineticsMFFMNet(channels=(3, 3), targets=2)
    seen = []
    model.encoders[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    acc, gyr = torch.randn(2, 4, 20, 3) * torch.tensor([1.0, 50.0, 0.1]) + 9.8
    model.train()(acc, gyr)
    expected = (acc - acc.mean(dim=(0, 1))) / torch.sqrt(acc.var(dim=(0, 1), correction=0) + 1e-5)
    assert torch.allclose(seen[0], expected, atol=1e-4)
    assert not list(model.norms.parameters())


def test_rmse_is_the_root_of_the_mean_square_and_safe_at_zero() -> None:
    """A perfect batch must not turn the weights to NaN."""
    prediction = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]], requires_grad=True)
    target = torch.tensor([[[1.0, 0.0], [3.0, 1.0]]])
    assert script_a.rmse(prediction, target).item() == pytest.approx(math.sqrt(20 / 4))
    loss = script_a.rmse(prediction, prediction.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.tolist() == torch.zeros(1, 2, 2).tolist()


def test_rmse_is_accurate_over_a_whole_validation_set() -> None:
    """Float32 sums of millions of values lose digits, and early stopping compares strictly."""
    error = torch.full((3_000_000,), 0.1)
    assert script_a.rmse(error, torch.zeros(1)).item() == pytest.approx(error[0].item(), rel=1e-6)


def root_mean_square(x: Tensor) -> float:
    """RMS in NumPy."""
    return float(np.sqrt(np.mean(x.detach().double().numpy() ** 2)))


def test_distillation_loss_is_its_formula_and_leaves_the_teacher_alone() -> None:
    """A teacher in training mode is a noisy target; one that learns is no teacher."""
    torch.manual_seed(0)
    teacher = script_a.network("all_imus_emg", projection=True)()
    student = script_a.network("foot", projection=True)().eval()
    before = copy.deepcopy(teacher.state_dict())
    batch = batch_of(script_a, 3)
    loss = script_a.distillation_loss("foot", alpha=0.3, beta=2.0)
    batch |= script_a.teaching(teacher, "all_imus_emg")(batch)
    value = loss(student, batch)
    assert not teacher.training
    assert all(not module.training for module in teacher.modules())
    taught = teacher.features(*[batch[name] for name in ("acc", "gyr", "emg")])
    own = student.features(batch["acc"][..., :3], batch["gyr"][..., :3])
    expected = (
        root_mean_square(own.output - batch["targets"])
        + 0.3 * root_mean_square(own.output - taught.output)
        + 2.0 * root_mean_square(own.feature - taught.feature)
    )
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    student.train()
    optimiser = torch.optim.Adam(student.parameters())
    loss(student, batch).backward()
    optimiser.step()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
