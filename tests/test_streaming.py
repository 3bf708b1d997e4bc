"""Streaming students and the balanced loss: networks, losses, sequences, and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as paper_a
import Dataset_B_sensor_distillation as paper_b
from beyond import Dataset_A_streaming as script_a
from beyond import Dataset_B_streaming as script_b
from beyond.sequences import cut_sequences, predict_stream
from common.files import load_checkpoint
from common.training import DivergedError
from common.windows import make_fold
from tests.conftest import Files, Patch
from tests.networks import count_parameters, meta_network, record_trainings, row_named, run_script
from tests.reference import (
    FORWARD,
    Parameters,
    gru,
    linear,
    lstm,
    parameters_of,
    part_of,
    sigmoid,
)
from tests.running import outcome
from tests.test_windows import recording

SCRIPTS = pytest.mark.parametrize("script", [script_a, script_b], ids=["a", "b"])


def small_network(lookahead: int = 2, channels: tuple[int, ...] = (3, 2)) -> nn.Module:
    """Return a small network with two targets and random input statistics, in eval mode."""
    torch.manual_seed(0)
    network = script_a.StreamingMFFMNet(
        channels, 2, lookahead=lookahead, hidden_sizes=(5, 4), projection=True
    )
    with torch.no_grad():
        network(*(torch.randn(4, 50, count) * 3 + 1 for count in channels))
    return network.eval()


def sequence(samples: int, channels: Sequence[int] = (3, 2), batch: int = 2) -> list[Tensor]:
    """Return random inputs, `(batch, samples, C)` each."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, samples, count, generator=generator) * 3 for count in channels]


# The network --------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 13])
def test_a_stream_equals_the_whole_sequence(most: int) -> None:
    """What runs in real time, sample by sample or in chunks, must be what was trained."""
    network, x = small_network(channels=(3, 2, 4)), sequence(100, (3, 2, 4))
    sizes = np.random.default_rng(0).integers(1, most + 1, size=100)
    ends = np.cumsum(sizes)
    state, outputs = None, []
    for part in np.split(np.arange(100), ends[ends < 100]):
        output, state = network.stream(*(values[:, part] for values in x), state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), network(*x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_no_output_depends_on_a_later_sample() -> None:
    """A network that looks into the future is useless in real time, and too good in a test."""
    network, x = small_network(), sequence(60)
    before = network.features(*x)
    for t in (1, 30, 59):
        after = network.features(*(torch.cat([v[:, :t], v[:, t:] + 100], dim=1) for v in x))
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[:, :t], new[:, :t])
            assert (old[:, t] != new[:, t]).any(dim=-1).all()


def encode(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Encode one sequence `(T, C)` with two unidirectional LSTM and GRU layers, and the gate."""
    from_lstm = from_gru = x
    for layer in (0, 1):
        from_lstm = lstm(from_lstm, p, f"lstm.{layer}", FORWARD)
        from_gru = gru(from_gru, p, f"gru.{layer}", FORWARD)
    gate = sigmoid(linear(np.hstack([from_lstm, from_gru]), p, "gate"))
    return gate * from_lstm + (1 - gate) * from_gru


def fuse(x: np.ndarray, p: Parameters, modalities: int) -> np.ndarray:
    """Fuse one sequence `(T, M * size)` with MWFF, MWFS and the gate MMF."""
    mwff = sigmoid(linear(x, p, "feature_weights")) * x
    blocks = np.split(x, modalities, axis=1)
    mwfs = sum(sigmoid(linear(block, p, "modality_weight")) * block for block in blocks)
    z = np.hstack([mwff, mwfs])
    return sigmoid(linear(z, p, "gate")) * z


@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
def test_the_network_equals_a_computation_in_numpy(channels: tuple[int, ...]) -> None:
    """Norm with fixed statistics, an encoder per modality, fusion, head, and the projection."""
    network, x = small_network(channels=channels), sequence(7, channels, batch=1)
    p, parts = parameters_of(network), []
    for m, (values, norm) in enumerate(zip(x, network.norms, strict=True)):
        mean, variance = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
        normalized = (values[0].double().numpy() - mean) / np.sqrt(variance + 1e-5)
        parts.append(encode(normalized, part_of(p, f"encoders.{m}")))
    encoded, outputs = np.hstack(parts), network.features(*x)
    expected = linear(fuse(encoded, part_of(p, "fusion"), len(channels)), p, "head")
    assert outputs.output[0].detach().numpy() == pytest.approx(expected, abs=1e-5)
    projected = linear(encoded, p, "projection")
    assert outputs.feature[0].detach().numpy() == pytest.approx(projected, abs=1e-5)
    assert torch.equal(network(*x), outputs.output)


def test_the_sizes_of_the_networks() -> None:
    """The page states these numbers of parameters."""
    sizes = {"foot": 1_388_808, "foot_trunk": 1_396_872, "feet": 1_396_102, "feet_pelvis": 1404166}
    for script in (script_a, script_b):
        for name in sizes.keys() & script.STUDENT_SETS:
            assert count_parameters(meta_network(script, f"streaming-{name}")) == sizes[name]


# Losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", [0, 3])
def test_delayed_rmse_equals_numpy(lookahead: int) -> None:
    """Comparing an output with the wrong sample trains another latency than the stated one."""
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 5, 11, 4)).astype(np.float32)
    is_scored = np.arange(11) < np.array([11, 7, 2, 3, 4])[:, None]
    arguments = [torch.from_numpy(values) for values in (output, target, is_scored)]
    found = float(script_a.delayed_rmse(*arguments, lookahead))
    assert found == pytest.approx(delayed_error(*arguments, lookahead), rel=1e-6)


def delayed_error(output: Tensor, target: Tensor, is_scored: Tensor, lookahead: int) -> float:
    """Return the RMSE, collected sample by sample."""
    errors = [
        (output[b, t] - target[b, t - lookahead]).double().numpy()
        for b, t in is_scored.nonzero().tolist()
        if t >= lookahead
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def test_delayed_rmse_without_samples_is_zero() -> None:
    """A batch of very short steps must not turn the weights into NaN."""
    output = torch.ones(1, 5, 2, requires_grad=True)
    is_scored = torch.tensor([[True, True, False, False, False]])
    loss = script_a.delayed_rmse(output, torch.zeros(1, 5, 2), is_scored, 2)
    loss.backward()
    assert loss == 0
    assert not output.grad.any()


@torch.no_grad()
def test_fold_scale_into_head_undoes_the_standardization() -> None:
    """A network saved with standardized outputs would be wrong by a factor in every use."""
    mean, sd, x = torch.tensor([3.0, -1.0]), torch.tensor([10.0, 0.1]), sequence(20)
    expected = small_network()(*x) * sd + mean
    network, diverged = small_network(), small_network()
    with script_a.fold_scale_into_head(network, mean, sd):
        pass
    torch.testing.assert_close(network(*x), expected, rtol=1e-5, atol=1e-5)
    for best in ({}, diverged.state_dict()):  # without and with a best epoch
        with pytest.raises(DivergedError), script_a.fold_scale_into_head(diverged, mean, sd):
            raise DivergedError("epoch 2", best)
    torch.testing.assert_close(diverged(*x), expected, rtol=1e-5, atol=1e-5)


# Sequences and streams ----------------------------------------------------------------------------


def test_sequences_contain_every_sample_once_and_never_cross_a_stretch() -> None:
    """A missing sample is not tested; a state carried across a gap is wrong."""
    lengths = np.random.default_rng(0).integers(1, 40, size=60).tolist()
    made = recording({"1": lengths[:20], "2": lengths[20:45], "3": lengths[45:]})
    samples, is_scored = cut_sequences(made, ["1", "3"], 16, "paper")
    assert samples[is_scored].tolist() == np.flatnonzero(made.subject != 1).tolist()
    assert (made.stretch[samples] == made.stretch[samples][:, :1]).all()
    assert (np.diff(is_scored.astype(int), axis=1) <= 0).all()  # filled at the end
    assert (np.diff(samples, axis=1) == is_scored[:, 1:]).all()  # with the last sample
    counts = np.unique(made.stretch[samples[:, 0]], return_counts=True)[1]
    assert counts.tolist() == [-(-length // 16) for length in [*lengths[:20], *lengths[45:]]]


@torch.no_grad()
@pytest.mark.parametrize("lookahead", [0, 1, 7])
def test_predict_stream_starts_cold_and_shifts_by_the_lookahead(lookahead: int) -> None:
    """A streaming row must be tested the way it is used: no state of another trial, no future."""
    network, made = small_network(lookahead), recording({"1": [5], "2": [40, 7, 3, 32], "3": [4]})
    generator = torch.Generator().manual_seed(2)
    signals = [torch.randn(len(made.subject), count, generator=generator) for count in (3, 2)]
    fold = make_fold(made, signals, "2", 16, "strict", 0, cut_sequences)
    prediction, is_estimated = predict_stream(network, fold.test, made.stretch)
    samples, expected = [], []
    for stretch in range(1, 5):
        numbers = np.flatnonzero(made.stretch == stretch)
        alone = network(*(signal[numbers][None] for signal in signals))[0]
        samples += numbers[: max(len(numbers) - lookahead, 0)].tolist()
        expected.append(alone[lookahead:])
    assert fold.test.samples[is_estimated].tolist() == samples
    torch.testing.assert_close(prediction[is_estimated], torch.cat(expected), rtol=1e-5, atol=1e-6)


# Runs ---------------------------------------------------------------------------------------------


@SCRIPTS
def test_rows_and_the_teachers_they_need(script: ModuleType) -> None:
    """A student of the balanced loss must learn from a teacher of the balanced loss."""
    needs = {row.name: row.needs for row in script.ROWS}
    for sensor_set in script.STUDENT_SETS:
        for loss in ("", "_balanced", "_augmented"):
            for student in ("student", "streaming"):
                assert needs[f"{student}{loss}-{sensor_set}"] == ()
        for loss in ("", "_balanced"):
            for student in ("distilled", "distilled_streaming"):
                assert needs[f"{student}{loss}-{sensor_set}"] == (f"teacher{loss}",)
    assert len(needs) == 2 + 10 * len(script.STUDENT_SETS)
    assert script.LOOKAHEAD / script.RATE_HZ == 0.05


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("script", "paper"), [(script_a, paper_a), (script_b, paper_b)])
def test_rows_with_the_papers_loss_are_those_of_the_paper(
    script: ModuleType, paper: ModuleType, synthetic_files: Files, tmp_path: Path
) -> None:
    """Otherwise the comparison with the windowed students would be one with other networks."""
    name = script.STUDENT_SETS[0]
    flags = ("--rows", f"student-{name}", f"distilled-{name}", "--epochs", "1")
    data = synthetic_files[script.DATASET]
    one, two = (run_script(module, data, tmp_path, "run", *flags) for module in (script, paper))
    assert outcome(one) == outcome(two)
    assert len([*one.glob("checkpoints/*")]) == 3  # with the teacher


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("row", ["student_balanced-feet", "streaming_balanced-feet"])
def test_balanced_targets_are_standardized_and_the_network_is_in_units(
    row: str, synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """All targets count alike in training; the checkpoint estimates moments and forces."""
    after_training, train = {}, script_b.train

    def train_and_copy(network: nn.Module, *arguments: object) -> None:
        train(network, *arguments)
        after_training.update({n: v.clone() for n, v in network.state_dict().items()})

    monkeypatch.setattr(script_b, "train", train_and_copy)
    calls = record_trainings(script_b, monkeypatch)
    folder = run_script(script_b, synthetic_files["b"], tmp_path, "run", "--rows", row)
    (fold,) = (call.fold for call in calls)
    made = script_b.read(synthetic_files["b"])
    targets = made.samples["targets"][fold.train.samples[fold.train.is_scored]].double()
    mean, sd = targets.mean(dim=0), targets.std(dim=0)
    for part, scale in ((fold.train, sd), (fold.validation, sd), (fold.test, None)):
        expected = made.samples["targets"][part.samples].double()
        expected = expected if scale is None else (expected - mean) / scale
        torch.testing.assert_close(part.targets.double(), expected, rtol=1e-4, atol=1e-4)
    network, outputs = row_named(script_b, row).network().eval(), []
    x = script_b.inputs(made.samples, "feet")
    (checkpoint,) = folder.glob("checkpoints/*")
    for weights in (after_training, load_checkpoint(checkpoint).tensors):
        network.load_state_dict(weights)
        with torch.no_grad():
            outputs.append(network(*(values[None, :200] for values in x))[0].double())
    torch.testing.assert_close(outputs[1], outputs[0] * sd + mean, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("narrow")
@SCRIPTS
@pytest.mark.parametrize("loss_name", ["", "_balanced"])
def test_a_distilled_student_gets_the_teachers_outputs_of_its_samples(
    loss_name: str, script: ModuleType, synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The teacher's knowledge of later samples helps only if it is compared at the same sample."""
    calls = record_trainings(script, monkeypatch)
    row = f"distilled_streaming{loss_name}-{script.STUDENT_SETS[0]}"
    flags = ("--rows", row, "--alpha", "0.3", "--beta", "2")
    data = synthetic_files[script.DATASET]
    folder = run_script(script, data, tmp_path, "run", *flags)
    _, call = calls
    (checkpoint,) = folder.glob("checkpoints/teacher*")
    teacher = row_named(script, "teacher").network().eval()
    teacher.load_state_dict(load_checkpoint(checkpoint).tensors)
    made, train = script.read(data), call.fold.train
    targets = made.samples["targets"][train.samples[train.is_scored]]
    mean, sd = (targets.mean(dim=0), targets.std(dim=0)) if loss_name else (0, 1)
    chosen = torch.tensor([0, len(train) - 1, 2])
    batch, windows = train[chosen], train.samples[chosen].reshape(-1, script.WINDOW)
    is_scored, output, feature = batch.cached
    with torch.no_grad():
        signals = script.inputs(made.samples, script.TEACHER_SET)
        expected = teacher.features(*(signal[windows] for signal in signals))
        for found, wanted in ((output, (expected.output - mean) / sd), (feature, expected.feature)):
            torch.testing.assert_close(found, wanted.reshape(found.shape), atol=1e-4, rtol=1e-3)
        network = call.network.eval()
        student = network.features(*batch.inputs)
        errors = [
            delayed_error(found, wanted, is_scored, script.LOOKAHEAD)
            for found, wanted in (
                (student.output, batch.targets),
                (student.output, output),
                (student.feature, feature),
            )
        ]
        expected = errors[0] + 0.3 * errors[1] + 2 * errors[2]
        assert float(call.loss(network, batch)) == pytest.approx(expected, rel=1e-5)
