"""FFN (HF), FFN, Bi-LSTM and 2D convolution, and the rows of both baseline scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from common.experiments import Experiment
from torch import Tensor, nn

import Dataset_A_ffn_hf_ffn_bilstm_convnet as script_a
import Dataset_B_ffn_hf_ffn_bilstm_convnet as script_b
from common import folds, training
from tests.test_sensor_distillation import lstm_direction, parameters_of

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]
USED = {  # the design's table of used parameters: IMU sets, then the full set
    script_a: {
        "ffn_hf": [301_116, 347_196, 393_276, 439_356, 523_836],
        "ffn": [9_128_508, 9_131_580, 9_134_652, 9_137_724, 9_143_356],
        "bilstm": [40_596_156, 40_620_732, 40_645_308, 40_669_884, 40_714_940],
        "lstm": [19_774_140, 19_786_428, 19_798_716, 19_811_004, 19_833_532],
        "conv2d": [7_059_740, 7_063_580, 7_067_420, 7_071_260],
    },
    script_b: {
        "ffn_hf": [289_146, 335_226, 427_386, 519_546, 565_626, 903_546],
        "ffn": [1_771_130, 1_774_202, 1_780_346, 1_786_490, 1_789_562, 1_812_090],
        "bilstm": [11_180_282, 11_204_858, 11_254_010, 11_303_162, 11_327_738, 11_507_962],
        "lstm": [5_065_978, 5_078_266, 5_102_842, 5_127_418, 5_139_706, 5_229_818],
        "conv2d": [6_952_730, 6_956_570, 6_964_250, 6_971_930, 6_975_770],
    },
}


def batch_of(script: ModuleType, windows: int, seed: int = 0) -> training.Batch:
    """Return random windows with all modalities of a script."""
    generator = torch.Generator().manual_seed(seed)
    imus = 3 * len(script.SENSORS)
    third = {"a": {"emg": 11}, "b": {"video": 44}}[script.STUDY.dataset]
    channels = {"acc": imus, "gyr": imus, **third, "targets": len(script.TARGETS)}
    return {
        name: torch.randn(windows, script.WINDOW, count, generator=generator)
        for name, count in channels.items()
    }


def check_dependence(
    script: ModuleType, batch: training.Batch, rows: Sequence[Experiment] | None = None
) -> None:
    """Check by its gradient that each row's output depends on its set's channels, and no others."""
    for experiment in rows or script.EXPERIMENTS:
        sensors, modalities = script.SENSOR_SETS[experiment.sensor_set]
        watched = {name: values.clone().requires_grad_() for name, values in batch.items()}
        model = experiment.model().eval().requires_grad_(False)  # gradients of the input suffice
        output = script.STUDY.predict(experiment.row)(model, watched)
        output.square().sum().backward()
        assert watched.pop("targets").grad is None
        for modality, values in watched.items():
            count = values.shape[-1]
            used = torch.zeros(count) if values.grad is None else values.grad.abs().sum((0, 1))
            expected = np.full(count, modality in modalities)
            if modality in ("acc", "gyr"):
                expected = np.repeat([sensor in sensors for sensor in script.SENSORS], 3)
            assert ((used > 0).numpy() == expected).all(), (experiment.row, modality)


def used_parameters(script: ModuleType) -> dict[str, int]:
    """Count by row; the weights stay as the memory was, since drawing 40 million takes its time."""
    batch = batch_of(script, 1)
    counts = {}
    for experiment in script.EXPERIMENTS:
        with torch.device("meta"):
            model = experiment.model().to_empty(device="cpu")
        predict = script.STUDY.predict(experiment.row)
        counts[experiment.row] = training.used_parameters(model, predict, batch)
    return counts


@pytest.mark.parametrize("script", SCRIPTS)
def test_rows_and_parameter_counts(script: ModuleType) -> None:
    """Every row of the table must be there, with the network of the design's size."""
    sets = (*script.IMU_SETS, script.FULL_SET)
    expected = {
        f"{model}-{sensor_set}": count
        for model, counts in USED[script].items()
        for sensor_set, count in zip(sets, counts, strict=model != "conv2d")
    }
    assert used_parameters(script) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_sees_its_own_sensors_only(script: ModuleType) -> None:
    """A sparse result that used other sensors is the error we are here to avoid."""
    check_dependence(script, batch_of(script, 1))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("model", ["conv2d", "ffn_hf"])
def test_the_sparsest_set_ignores_all_other_imus(script: ModuleType, model: str) -> None:
    """The published 2D input of the foot held every IMU; ours must not change with the others."""
    sensor_set = script.IMU_SETS[0]
    row = f"{model}-{sensor_set}"
    network, predict = script.network(model, sensor_set)().eval(), script.STUDY.predict(row)
    batch = batch_of(script, 2)
    before = predict(network, batch)
    for modality in ("acc", "gyr"):
        for i, sensor in enumerate(script.SENSORS):
            changed = {name: values.clone() for name, values in batch.items()}
            changed[modality][..., 3 * i : 3 * i + 3] *= 1.5
            same = torch.equal(before, predict(network, changed))
            assert same == (sensor not in script.SENSOR_SETS[sensor_set].sensors), sensor


def test_a_plane_is_one_imu() -> None:
    """acc xyz over gyr xyz of one sensor, built here sample by sample from the modalities."""
    sensors, window = 3, 16
    acc, gyr = torch.randn(2, window, 3 * sensors), torch.randn(2, window, 3 * sensors)
    model = script_a.Conv2DEncoder(sensors)
    expected = torch.zeros(2, sensors, 6, window)
    for sensor in range(sensors):
        for axis in range(3):
            expected[:, sensor, axis] = acc[:, :, 3 * sensor + axis]
            expected[:, sensor, 3 + axis] = gyr[:, :, 3 * sensor + axis]
    assert torch.equal(model.planes(torch.cat([acc, gyr], dim=-1)), expected)


def looped_features(windows: np.ndarray) -> np.ndarray:
    """Describe `(B, T, C)`, window by window and channel by channel, as the design lists it."""
    described = []
    for window in windows.astype(np.float64):
        features = []
        for x in window.T:
            d = np.array([0.0, *(x[t] - x[t - 1] for t in range(1, len(x)))])
            features += [
                x.mean(),
                np.sqrt(np.mean(x**2)),
                x.min(),
                x.max(),
                np.mean(np.abs(x)),
                x.std(),
                np.mean(np.abs(d)),
                d.mean(),
                np.median(d),
                np.median(np.abs(d)),
                np.percentile(x, 75) - np.percentile(x, 25),
                np.median(x),
                x.var(),
                np.median(np.abs(x - np.median(x))),
                np.mean(np.abs(x - x.mean())),
            ]
        described.append(features)
    return np.array(described)


@pytest.mark.parametrize("length", [2, 3, 4, 49, 50, 100])
def test_features_equal_a_plain_loop_on_random_windows(length: int) -> None:
    """The features are the model's only input: medians of even and odd length, IQR, order."""
    offset_and_scale = torch.tensor([[9.8, 0.0, -40.0], [0.1, 1.0, 5.0]])
    windows = torch.randn(20, length, 3) * offset_and_scale[1] + offset_and_scale[0]
    features = script_a.HandcraftedFFN.features(windows).numpy()
    assert np.allclose(features, looped_features(windows.numpy()), rtol=1e-5, atol=1e-5)


def test_features_of_repeated_values_equal_a_plain_loop() -> None:
    """Sensors that saturate or count in steps repeat values: ties must not move a median."""
    windows = torch.randint(-2, 3, (50, 100, 4)).float()
    features = script_a.HandcraftedFFN.features(windows).numpy()
    assert np.allclose(features, looped_features(windows.numpy()), rtol=1e-5, atol=1e-5)


def check_recorded_features(script: ModuleType, path: Path) -> None:
    """Compare the features of all channels of the last subject with the plain loop."""
    recording = script.STUDY.read(path)
    subject = recording.subjects[-1]
    fold = folds.make_fold(recording, subject, script.WINDOW, "paper", seed=42)
    batch = training.batch_of(recording.samples, fold.test)
    (windows,) = script.one_input(batch, script.SENSOR_SETS[script.FULL_SET])
    features = script.HandcraftedFFN.features(windows).numpy()
    assert np.isfinite(features).all()
    assert np.allclose(features, looped_features(windows.numpy()), rtol=1e-5, atol=1e-5)


def test_features_equal_a_plain_loop_on_measured_windows(example_b: Path) -> None:
    """Measured signals: gyroscopes in deg/s, and video with channels that are exactly zero."""
    check_recorded_features(script_b, example_b)


def test_features_equal_a_plain_loop_on_the_sample(sample_files: dict[str, Path]) -> None:
    """Dataset A's channels, EMG among them."""
    check_recorded_features(script_a, sample_files["a"])


def test_a_constant_channel_gives_finite_features_and_trains() -> None:
    """A dead sensor, or MidHip's zeros, must not turn a training to NaN."""
    windows = torch.randn(4, 50, 6)
    windows[..., 2], windows[..., 5] = 9.81, 0.0
    model = script_a.HandcraftedFFN(6, targets=2, window=50)
    features = model.features(windows)
    assert features.isfinite().all()
    constant = features.unflatten(1, (6, 15))[:, 2]
    assert torch.allclose(constant[:, [0, 1, 2, 3, 4, 11]], torch.tensor(9.81))
    assert not constant[:, [5, 6, 7, 8, 9, 10, 12, 13, 14]].any()
    model(windows).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_training_batch_of_one_window_is_normed_by_the_running_statistics() -> None:
    """BatchNorm crashes on a batch of one: whoever trains with one window must get through."""
    model = script_a.HandcraftedFFN(3, targets=2, window=10, dropout=0.0).train()
    model(torch.randn(8, 10, 3))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    window = torch.randn(1, 10, 3)
    output = model(window)
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert torch.equal(output, model.eval()(window))


def small_training(train_windows: int, batch_size: int) -> tuple[list[training.Epoch], list[int]]:
    """Train FFN (HF) on noise; return the history and the sizes of the batches featured."""
    windows = train_windows + 5
    generator = torch.Generator().manual_seed(0)
    samples = {
        "acc": torch.randn(10 * windows, 3, generator=generator),
        "targets": torch.randn(10 * windows, 2, generator=generator),
    }
    rows = torch.arange(10 * windows).reshape(windows, 10)
    fold = folds.Fold("1", rows[:-5], rows[-5:-2], rows[-2:], torch.ones(2, 10).bool())
    featured = []

    def features(batch: training.Batch) -> Tensor:
        featured.append(len(batch["acc"]))
        return script_a.HandcraftedFFN.features(batch["acc"])

    def predict(model: nn.Module, batch: training.Batch) -> Tensor:
        return model(batch[training.FEATURES])

    history = training.train(
        script_a.HandcraftedFFN(3, targets=2, window=10),
        samples,
        fold,
        loss=script_a.prediction_loss(predict),
        predict=predict,
        criterion=script_a.rmse,
        settings=training.Settings(3, 10, batch_size, 1e-3, seed=0),
        name="test",
        features=features,
    )
    return history, featured


@pytest.mark.parametrize(("windows", "batch_size"), [(9, 4), (9, 8), (1, 64), (3, 1)])
def test_batches_of_one_window_train(windows: int, batch_size: int) -> None:
    """A last batch of one, a training set of one, `--batch-size 1`: none may crash BatchNorm."""
    history, _ = small_training(windows, batch_size)
    assert len(history) == 3
    assert all(math.isfinite(epoch.training_loss) for epoch in history)


def test_features_are_made_once_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 epochs must not pay for the features 40 times, nor hold all windows' copies at once."""
    monkeypatch.setattr(training, "CHUNK", 4)
    history, featured = small_training(train_windows=10, batch_size=8)
    assert len(history) == 3
    assert featured == [4, 4, 2, 3]  # training windows in chunks, then validation


def test_features_stand_with_their_window() -> None:
    """A shuffled batch must hold the features of its own windows, in its own order."""
    samples = {"acc": torch.randn(60, 3), "targets": torch.randn(60, 2)}
    rows = torch.arange(60).reshape(6, 10)
    windows = training.Windows(
        samples, rows, lambda batch: script_a.HandcraftedFFN.features(batch["acc"])
    )
    batch = windows.batch(torch.tensor([4, 0, 5]))
    expected = script_a.HandcraftedFFN.features(batch["acc"])
    assert torch.equal(batch[training.FEATURES], expected)
    assert torch.equal(batch["targets"], samples["targets"].view(6, 10, 2)[[4, 0, 5]])


def test_predictions_from_stored_features_are_those_from_windows() -> None:
    """Whoever predicts with the copied class gives windows; the run gives stored features."""
    row = "ffn_hf-foot_trunk"
    experiment, predict = script_a.STUDY.experiment(row), script_a.STUDY.predict(row)
    model, batch = experiment.model().eval(), batch_of(script_a, 3)
    stored = {**batch, training.FEATURES: experiment.features(batch)}
    (windows,) = script_a.one_input(batch, script_a.SENSOR_SETS["foot_trunk"])
    assert torch.equal(predict(model, batch), model(windows))
    assert torch.equal(predict(model, stored), model(windows))


def normed(x: np.ndarray) -> np.ndarray:
    """Norm each channel of `(B, T, C)` over batch and time."""
    return (x - x.mean(axis=(0, 1))) / np.sqrt(x.var(axis=(0, 1)) + 1e-5)


def linear(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Apply a Linear to the last axis."""
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def flat_head(x: np.ndarray, p: dict[str, np.ndarray], window: int) -> np.ndarray:
    """Flatten time-major, and give all time steps at once."""
    return np.stack([linear(np.concatenate([*one]), p, "head").reshape(window, -1) for one in x])


def test_ffn_equals_a_plain_computation() -> None:
    """Input norm, three layers at each time step, flat head."""
    model = script_a.FFN(3, targets=2, window=5, hidden_sizes=(7, 6, 4), dropout=0.0)
    x, p = torch.randn(4, 5, 3) * 3 + 1, parameters_of(model)
    h = normed(x.double().numpy())
    for i in range(3):
        h = np.maximum(linear(h, p, f"layers.{i}"), 0)
    assert model(x).detach().numpy() == pytest.approx(flat_head(h, p, 5), abs=1e-5)


def test_handcrafted_ffn_equals_a_plain_computation() -> None:
    """Features, normed over the batch, three layers, and a Linear that gives all time steps."""
    model = script_a.HandcraftedFFN(3, targets=2, window=5, hidden_sizes=(7, 6, 4), dropout=0.0)
    x, p = torch.randn(6, 5, 3) * 3 + 1, parameters_of(model)
    h = looped_features(x.numpy())
    h = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
    for i in range(3):
        h = np.maximum(linear(h, p, f"layers.{i}"), 0)
    expected = linear(h, p, "head").reshape(6, 5, 2)
    assert model(x).detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("ends", [("",), ("", "_reverse")])
def test_bilstm_equals_a_plain_computation(ends: tuple[str, ...]) -> None:
    """Two recurrent layers, in one direction for the row `lstm`, and the flat head."""
    model = script_a.BiLSTM(
        3, targets=2, window=6, hidden_sizes=(5, 4), dropout=0.0, bidirectional=len(ends) == 2
    )
    x, p = torch.randn(2, 6, 3) * 3 + 1, parameters_of(model)
    encoded = []
    for h in normed(x.double().numpy()):
        for layer in (0, 1):
            h = np.hstack([lstm_direction(h, p, f"layers.{layer}", end) for end in ends])
        encoded.append(h)
    assert model(x).detach().numpy() == pytest.approx(flat_head(encoded, p, 6), abs=1e-5)


def convolved(x: np.ndarray, p: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Convolve `(B, S, H, W)` by k(3, 5), padded by (1, 2) zeros, output by output."""
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (2, 2)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            patch = padded[:, None, :, i : i + 3, j : j + 5]
            out[:, :, i, j] = (patch * weight).sum(axis=(2, 3, 4)) + bias
    return out


def pooled(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Take the maximum of each whole block; what is left over at the end is left out."""
    rows, columns = x.shape[2] // height, x.shape[3] // width
    out = np.zeros((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            block = x[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
            out[:, :, i, j] = block.max(axis=(2, 3))
    return out


def test_conv2d_equals_a_plain_computation() -> None:
    """Norm per channel, planes, convolution, ReLU, BatchNorm, pooling, layers, flat head."""
    window = 20  # 20, 10, 5, 2, 1: blocks that are left over at the end are met
    model = script_a.Conv2DNet(2, targets=2, window=window)
    model.encoder = script_a.Conv2DEncoder(2, maps=(3, 4, 5, 6), dropout=0.0)
    x = torch.randn(3, window, 12) * 3 + 1
    for block in model.encoder.blocks:  # learned scales that are not 1 and 0
        nn.init.uniform_(block[2].weight, 0.5, 2.0)
        nn.init.uniform_(block[2].bias, -1.0, 1.0)
    p = parameters_of(model)
    h = normed(x.double().numpy()).transpose(0, 2, 1)  # (B, C, T)
    order = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]  # acc and gyr of the first IMU, the second
    h = np.stack([h[:, channels] for channels in order], axis=1)
    for i, (height, width) in enumerate([(2, 2), (2, 2), (1, 2), (1, 2)]):
        h = np.maximum(convolved(h, p, f"encoder.blocks.{i}.0"), 0)
        mean, variance = (f(axis=(0, 2, 3), keepdims=True) for f in (h.mean, h.var))
        scale, shift = (p[f"encoder.blocks.{i}.2.{k}"][:, None, None] for k in ("weight", "bias"))
        h = pooled((h - mean) / np.sqrt(variance + 1e-5) * scale + shift, height, width)
    assert h.shape == (3, 6, 1, 1)
    h = h[:, :, 0].transpose(0, 2, 1)
    for i in range(2):
        h = np.maximum(linear(h, p, f"encoder.layers.{i}"), 0)
    assert model(x).detach().numpy() == pytest.approx(flat_head(h, p, window), abs=1e-4)


@pytest.mark.parametrize(("script", "width"), [(script_a, 192), (script_b, 96)])
def test_conv2d_flattens_to_the_papers_width(script: ModuleType, width: int) -> None:
    """Six time steps of 32 features in A, three in B."""
    assert script.network("conv2d", script.IMU_SETS[0])().head.in_features == width


@pytest.mark.parametrize("model", ["ffn_hf", "ffn", "bilstm", "lstm", "conv2d"])
def test_dropout_is_on_in_training_and_off_in_eval(model: str) -> None:
    """A prediction that changes from call to call cannot be a result; dropout must be on before."""
    network = script_b.network(model, "feet")()
    x = torch.randn(2, script_b.WINDOW, 12)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_learning_rate_is_that_of_the_published_baselines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """3e-4 here and 1e-3 elsewhere, as published: a row must not differ in its training unseen."""
    assert script_a.LEARNING_RATE == script_b.LEARNING_RATE == 3e-4
    with pytest.raises(SystemExit):
        script_a.main(["--help"])
    assert "of Adam (default: 0.0003)" in capsys.readouterr().out
