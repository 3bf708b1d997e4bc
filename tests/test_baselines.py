"""FFN (HF), FFN, Bi-LSTM and 2D convolution, against plain computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_ffn_hf_ffn_bilstm_convnet as script_a
import Dataset_B_ffn_hf_ffn_bilstm_convnet as script_b
from common import windows as windows_module
from common.windows import make_fold, precompute
from tests.conftest import Capture, Files, Patch
from tests.networks import run_script
from tests.reference import (
    BOTH,
    FORWARD,
    conv_encoder,
    imu_planes,
    linear,
    lstm,
    normalized,
    parameters_of,
    part_of,
    relu,
)


def looped_features(windows: np.ndarray) -> np.ndarray:
    """Compute the features of `(B, T, C)`, window by window and channel by channel."""
    results = []
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
        results.append(features)
    return np.array(results)


@pytest.mark.parametrize("length", [2, 3, 4, 49, 50, 100])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_features_equal_a_plain_loop_on_random_windows(length: int, is_rounded: bool) -> None:
    """The features are all that the network sees: medians of even and odd lengths, IQR, order.

    Sensors that saturate or quantize repeat values: ties must not move a median.
    """
    offset_and_scale = torch.tensor([[9.8, 0.0, -40.0], [0.1, 1.0, 5.0]])
    windows = torch.randn(20, length, 3) * offset_and_scale[1] + offset_and_scale[0]
    windows = windows.round() if is_rounded else windows
    features = script_a.HandcraftedFFN.features(windows).numpy()
    assert np.allclose(features, looped_features(windows.numpy()), rtol=1e-5, atol=1e-5)


def test_features_equal_a_plain_loop_on_measured_windows(example_b: Path) -> None:
    """Measured signals: gyroscopes in deg/s, and video with channels that are exactly zero."""
    recording = script_b.read(example_b)
    signals = script_b.inputs(recording.samples, script_b.FULL_SET)
    fold = make_fold(recording, signals, recording.subjects[-1], script_b.WINDOW, "paper", seed=42)
    (features,) = precompute(script_b.HandcraftedFFN.features, fold.test)
    expected = looped_features(signals[0][fold.test.samples].numpy())
    assert np.isfinite(features.numpy()).all()
    assert np.allclose(features.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_channel_gives_finite_features_and_trains() -> None:
    """A dead sensor, or the zeros of MidHip, must not turn the weights into NaN."""
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


def test_a_training_batch_of_one_window_is_normalized_by_the_running_statistics() -> None:
    """BatchNorm crashes on a batch of one window; training with one window must work."""
    model = script_a.HandcraftedFFN(3, targets=2, window=10, dropout=0.0).train()
    model(torch.randn(8, 10, 3))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    window = torch.randn(1, 10, 3)
    output = model(window)
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert torch.equal(output, model.eval()(window))


@pytest.mark.usefixtures("narrow")
def test_features_are_computed_once_per_window_and_in_chunks(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """40 epochs must not compute them 40 times, nor copy all windows of a dataset at once."""
    counts, features = [], script_a.HandcraftedFFN.features

    def counted(x: Tensor) -> Tensor:
        counts.append(len(x))
        return features(x)

    monkeypatch.setattr(script_a.HandcraftedFFN, "features", staticmethod(counted))
    monkeypatch.setattr(windows_module, "CHUNK", 16)
    data = synthetic_files["a"]
    run_script(script_a, data, tmp_path, "run", "--rows", "ffn_hf-foot", "--epochs", "3")
    recording = script_a.read(data)
    signals = script_a.inputs(recording.samples, "foot")
    fold = make_fold(recording, signals, recording.subjects[-1], script_a.WINDOW, "paper", seed=42)
    assert sum(counts) == sum(map(len, (fold.train, fold.validation, fold.test)))
    assert max(counts) == 16


def flat_head(x: np.ndarray, p: dict[str, np.ndarray], window: int) -> np.ndarray:
    """Flatten the features of all time steps, time-major, into one Linear."""
    return np.stack([linear(np.concatenate([*one]), p, "head").reshape(window, -1) for one in x])


def test_ffn_equals_a_plain_computation() -> None:
    """Input normalization, three layers at each time step, flat head."""
    model = script_a.FFN(3, targets=2, window=5, hidden_sizes=(7, 6, 4), dropout=0.0)
    x, p = torch.randn(4, 5, 3) * 3 + 1, parameters_of(model)
    h = normalized(x.double().numpy())
    for i in range(3):
        h = relu(linear(h, p, f"layers.{i}"))
    assert model(x).detach().numpy() == pytest.approx(flat_head(h, p, 5), abs=1e-5)


def test_handcrafted_ffn_equals_a_plain_computation() -> None:
    """Features, normalized over the batch, three layers, and a Linear for all time steps."""
    model = script_a.HandcraftedFFN(3, targets=2, window=5, hidden_sizes=(7, 6, 4), dropout=0.0)
    x, p = torch.randn(6, 5, 3) * 3 + 1, parameters_of(model)
    h = looped_features(x.numpy())
    h = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
    for i in range(3):
        h = relu(linear(h, p, f"layers.{i}"))
    expected = linear(h, p, "head").reshape(6, 5, 2)
    assert model(x).detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("directions", [FORWARD, BOTH], ids=["lstm", "bilstm"])
def test_bilstm_equals_a_plain_computation(directions: tuple[str, ...]) -> None:
    """Two recurrent layers, in one direction for the rows `lstm`, and the flat head."""
    model = script_a.BiLSTM(
        3, targets=2, window=6, hidden_sizes=(5, 4), dropout=0.0, bidirectional=directions == BOTH
    )
    x, p = torch.randn(2, 6, 3) * 3 + 1, parameters_of(model)
    encoded = []
    for h in normalized(x.double().numpy()):
        for layer in (0, 1):
            h = lstm(h, p, f"layers.{layer}", directions)
        encoded.append(h)
    assert model(x).detach().numpy() == pytest.approx(flat_head(encoded, p, 6), abs=1e-5)


def test_conv2d_equals_a_plain_computation() -> None:
    """Normalization, planes, convolution, ReLU, BatchNorm, pooling, layers, flat head."""
    window = 20  # 20, 10, 5, 2, 1 time steps: pooling drops some at the end
    model = script_a.Conv2DNet(2, targets=2, window=window)
    model.encoder = script_a.Conv2DEncoder(2, maps=(3, 4, 5, 6), dropout=0.0)
    x = torch.randn(3, window, 12) * 3 + 1
    for block in model.encoder.blocks:  # learned scales that are not 1 and 0
        nn.init.uniform_(block[2].weight, 0.5, 2.0)
        nn.init.uniform_(block[2].bias, -1.0, 1.0)
    p = parameters_of(model)
    planes = imu_planes(normalized(x.double().numpy()))
    pools = ((2, 2), (2, 2), (1, 2), (1, 2))
    h = conv_encoder(planes, part_of(p, "encoder"), pools)
    expected = linear(h, p, "head").reshape(3, window, 2)
    assert model(x).detach().numpy() == pytest.approx(expected, abs=1e-4)


def test_learning_rate_is_that_of_the_published_baselines(capsys: Capture) -> None:
    """3e-4 here and 1e-3 elsewhere, as published; --help must show it."""
    assert script_a.LEARNING_RATE == script_b.LEARNING_RATE == 3e-4
    with pytest.raises(SystemExit):
        script_a.main(["--help"])
    assert "of Adam (default: 0.0003)" in capsys.readouterr().out
