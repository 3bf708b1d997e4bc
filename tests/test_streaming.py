"""Streaming students: the network, its losses, its training, and how it is tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common import plots, runs
from common.files import InputError, load_checkpoint
from common.training import DivergedError, predict_stream
from common.windows import Windows, cut_sequences, make_fold
from tests.conftest import Files, Patch
from tests.networks import count_parameters, meta_network, record_trainings, run_script
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


def small_network(lookahead: int = 2, channels: tuple[int, ...] = (3, 2), targets: int = 2):  # noqa: ANN201
    """Return a small network whose input norm has statistics of its own, in eval mode."""
    torch.manual_seed(0)
    network = script_a.StreamingMFFMNet(
        channels, targets, lookahead=lookahead, hidden_sizes=(5, 4), projection=True
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
@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
@pytest.mark.parametrize("most", [1, 13])
def test_a_stream_equals_the_whole_sequence(channels: tuple[int, ...], most: int) -> None:
    """What is used live, sample by sample or in chunks, must be what was trained."""
    network, x = small_network(channels=channels), sequence(100, channels)
    expected = network(*x)
    sizes = np.random.default_rng(0).integers(1, most + 1, size=100)
    parts = np.split(np.arange(100), np.cumsum(sizes)[np.cumsum(sizes) < 100])
    assert len(parts) == 100 or most > 1
    state, outputs = None, []
    for part in parts:
        output, state = network.stream(*(values[:, part] for values in x), state=state)
        outputs.append(output)
    difference = (torch.cat(outputs, dim=1) - expected).abs().max()
    assert difference <= 1e-6 * expected.abs().max()


@torch.no_grad()
def test_no_output_depends_on_a_later_sample() -> None:
    """A network that looks into the future cannot be used live, and would be too good in a test."""
    network, x = small_network(), sequence(60)
    before = network.features(*x)
    for t in (1, 30, 59):
        changed = [values.clone() for values in x]
        for values in changed:
            values[:, t:] += 100
        after = network.features(*changed)
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[:, :t], new[:, :t])
            assert (old[:, t] != new[:, t]).any(dim=-1).all()


def encode(x: np.ndarray, p: Parameters) -> np.ndarray:
    """Encode one sequence `(T, C)` by two LSTM and two GRU layers forward in time, and the gate."""
    from_lstm = from_gru = x
    for layer in (0, 1):
        from_lstm = lstm(from_lstm, p, f"lstm.{layer}", FORWARD)
        from_gru = gru(from_gru, p, f"gru.{layer}", FORWARD)
    gate = sigmoid(linear(np.hstack([from_lstm, from_gru]), p, "gate"))
    return gate * from_lstm + (1 - gate) * from_gru


def fuse(x: np.ndarray, p: Parameters, modalities: int) -> np.ndarray:
    """Fuse one sequence `(T, M * size)` by MWFF, MWFS and the gate MMF."""
    mwff = sigmoid(linear(x, p, "feature_weights")) * x
    mwfs = sum(
        sigmoid(linear(block, p, "modality_weight")) * block
        for block in np.split(x, modalities, axis=1)
    )
    z = np.hstack([mwff, mwfs])
    return sigmoid(linear(z, p, "gate")) * z


@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
def test_the_network_equals_a_plain_computation(channels: tuple[int, ...]) -> None:
    """Norm with fixed statistics, an encoder per modality, fusion, head, and the projection."""
    network = small_network(channels=channels)
    x, p, count = sequence(7, channels, batch=1), parameters_of(network), len(channels)
    encoded = []
    for m, (values, norm) in enumerate(zip(x, network.norms, strict=True)):
        mean, variance = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
        normalized = (values[0].double().numpy() - mean) / np.sqrt(variance + 1e-5)
        encoded.append(encode(normalized, part_of(p, f"encoders.{m}")))
    encoded = np.hstack(encoded)
    outputs = network.features(*x)
    expected = linear(fuse(encoded, part_of(p, "fusion"), count), p, "head")
    assert outputs.output[0].detach().numpy() == pytest.approx(expected, abs=1e-5)
    projected = linear(encoded, p, "projection")
    assert outputs.feature[0].detach().numpy() == pytest.approx(projected, abs=1e-5)
    assert torch.equal(network(*x), outputs.output)


@SCRIPTS
def test_the_sizes_of_the_rows(script: ModuleType) -> None:
    """The page promises fewer parameters than the windowed student has."""
    first, second, modalities = 192, 128, 2
    width, targets = modalities * second, len(script.TARGETS)
    fused = width + second
    fusion = width * (width + 1) + (second + 1) + fused * (fused + 1)
    for sensor_set in script.STUDENT_SETS:
        encoders = 0
        for size, units in (
            (3 * len(script.SENSOR_SETS[sensor_set].sensors), first),
            (first, second),
        ):
            encoders += modalities * (4 + 3) * units * (size + units + 2)  # LSTM and GRU
        encoders += modalities * second * (2 * second + 1)
        expected = encoders + fusion + targets * (fused + 1)
        name = f"streaming-{sensor_set}"
        assert count_parameters(meta_network(script, name)) == expected
        assert expected < count_parameters(meta_network(script, f"student-{sensor_set}"))
        distilled = count_parameters(meta_network(script, f"distilled_{name}"))
        assert distilled == expected + second * (width + 1)
    if script.DATASET == "a":
        assert count_parameters(meta_network(script, "streaming-foot_trunk")) == 1_396_872


# Losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", [0, 3])
def test_late_rmse_equals_numpy(lookahead: int) -> None:
    """An output compared with the wrong sample trains another delay than the stated one."""
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 5, 11, 4)).astype(np.float32)
    is_scored = np.arange(11) < np.array([11, 7, 2, 3, 4])[:, None]
    errors = [
        output[b, t] - target[b, t - lookahead]
        for b in range(5)
        for t in range(lookahead, 11)
        if is_scored[b, t]
    ]
    arguments = (torch.from_numpy(values) for values in (output, target, is_scored))
    found = float(script_a.late_rmse(*arguments, lookahead))
    assert found == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)


def test_late_rmse_of_nothing_is_zero() -> None:
    """A batch of very short steps must not turn the weights into NaN."""
    output = torch.ones(1, 5, 2, requires_grad=True)
    is_scored = torch.tensor([[True, True, False, False, False]])
    loss = script_a.late_rmse(output, torch.zeros(1, 5, 2), is_scored, 2)
    loss.backward()
    assert loss == 0
    assert not output.grad.any()


@torch.no_grad()
def test_restoring_units_undoes_the_standardization() -> None:
    """A network saved with standardized outputs would be wrong by a factor in every use."""
    mean, sd = torch.tensor([3.0, -1.0]), torch.tensor([10.0, 0.1])
    x = sequence(20)
    for is_diverged in (False, True):
        network = small_network()
        expected = network(*x) * sd + mean
        best = {name: values.clone() for name, values in network.state_dict().items()}
        if is_diverged:
            with (
                pytest.raises(DivergedError) as error,
                script_a.restoring_units(network, mean, sd),
            ):
                raise DivergedError("epoch 2", best)
            network.load_state_dict(error.value.best_weights)
        else:
            with script_a.restoring_units(network, mean, sd):
                pass
        torch.testing.assert_close(network(*x), expected, rtol=1e-5, atol=1e-5)
    with (
        pytest.raises(DivergedError, match="epoch 1"),
        script_a.restoring_units(small_network(), mean, sd),
    ):
        raise DivergedError("epoch 1", {})  # no best epoch


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("row", ["student-feet", "streaming-feet"])
def test_balanced_targets_are_standardized_and_the_network_is_in_units(
    row: str, synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """All targets count alike in training; the checkpoint predicts moments and forces."""
    after_training = {}
    train = script_b.train

    def train_and_copy(network: nn.Module, *arguments: object) -> list:
        history = train(network, *arguments)
        after_training.update({n: v.clone() for n, v in network.state_dict().items()})
        return history

    monkeypatch.setattr(script_b, "train", train_and_copy)
    trainings = record_trainings(script_b, monkeypatch)
    flags = ("--rows", row, "--loss", "balanced")
    folder = run_script(script_b, synthetic_files["b"], tmp_path, "run", *flags)
    (training,) = trainings
    made = script_b.read(synthetic_files["b"])
    windows = training.windows
    targets = made.samples["targets"][windows.samples[windows.is_scored]].double()
    mean, sd = targets.mean(dim=0), targets.std(dim=0)
    for part in (windows, training.validation):
        standardized = (made.samples["targets"][part.samples] - mean) / sd
        torch.testing.assert_close(part.targets.double(), standardized, rtol=1e-4, atol=1e-4)
    network = runs.find_row(script_b, row).network().eval()
    x = script_b.inputs(made.samples, "feet")
    outputs = []
    (checkpoint,) = folder.glob("checkpoints/*")
    for weights in (after_training, load_checkpoint(checkpoint).tensors):
        network.load_state_dict(weights)
        with torch.no_grad():
            outputs.append(network(*(values[None, :200] for values in x))[0].double())
    torch.testing.assert_close(outputs[1], outputs[0] * sd + mean, rtol=1e-3, atol=1e-3)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["loss"] == "balanced"


@pytest.mark.usefixtures("narrow")
def test_pooled_trains_the_same_bits_as_without_standardization(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The paper's rows must not move because another loss can be chosen."""
    flags = ("--rows", "distilled-feet", "--epochs", "1")
    found = outcome(run_script(script_b, synthetic_files["b"], tmp_path, "run", *flags))
    monkeypatch.setattr(Windows, "standardized", lambda windows, mean, sd: windows)
    monkeypatch.setattr(script_b, "restoring_units", lambda *_: nullcontext())
    monkeypatch.setattr(script_b, "target_scale", lambda *_: (0, 1))
    plain = outcome(run_script(script_b, synthetic_files["b"], tmp_path, "plain", *flags))
    assert found == plain


# Sequences and streams ----------------------------------------------------------------------------


def test_sequences_cover_every_sample_once_and_never_cross_a_stretch() -> None:
    """A sample that is left out is not tested; a state carried over a gap is no cold start."""
    lengths = np.random.default_rng(0).integers(1, 40, size=60).tolist()
    made = recording({"1": lengths[:20], "2": lengths[20:45], "3": lengths[45:]})
    for protocol in ("paper", "strict"):
        samples, is_scored = cut_sequences(made, ["1", "3"], 16, protocol)
        wanted = np.flatnonzero(made.subject != 1)
        assert samples[is_scored].tolist() == wanted.tolist()  # in order
        assert (made.stretch[samples] == made.stretch[samples][:, :1]).all()
        for numbers, scored in zip(samples, is_scored, strict=True):
            count = scored.sum()
            assert scored[:count].all()
            assert (np.diff(numbers[:count]) == 1).all()
            assert (numbers[count:] == numbers[count - 1]).all()
        starts = made.stretch[samples[:, 0]]
        assert np.unique(starts, return_counts=True)[1].tolist() == [
            -(-length // 16) for length in [*lengths[:20], *lengths[45:]]
        ]


@torch.no_grad()
@pytest.mark.parametrize("lookahead", [0, 1, 7])
def test_predict_stream_starts_cold_and_shifts_by_the_lookahead(lookahead: int) -> None:
    """The test of a streaming row must be the use: no state from another trial, no future."""
    network = small_network(lookahead)
    made = recording({"1": [5], "2": [40, 7, 3, 32, 8], "3": [4]})
    generator = torch.Generator().manual_seed(2)
    signals = [torch.randn(len(made.subject), count, generator=generator) for count in (3, 2)]
    fold = make_fold(made, signals, "2", 16, "strict", 0, cut_sequences)
    prediction, is_estimated = predict_stream(network, fold.test, made.stretch)
    found = {
        int(sample): values
        for sample, values in zip(
            fold.test.samples[is_estimated], prediction[is_estimated], strict=True
        )
    }
    expected = {}
    for stretch in range(1, 6):
        samples = np.flatnonzero(made.stretch == stretch)
        alone = network(*(signal[samples][None] for signal in signals))[0]
        for i in range(len(samples) - lookahead):
            expected[int(samples[i])] = alone[i + lookahead]
    assert found.keys() == expected.keys()
    assert len(found) == is_estimated.sum()
    for sample, values in found.items():
        torch.testing.assert_close(values, expected[sample], rtol=1e-5, atol=1e-6)


# Runs ---------------------------------------------------------------------------------------------


@SCRIPTS
def test_rows_beyond_the_paper_run_only_by_name(script: ModuleType) -> None:
    """The tables of the paper must not change, nor the time of their command."""
    names = [row.name for row in script.ROWS]
    beyond = [name for name in names if "streaming" in name]
    assert len(beyond) == 2 * len(script.STUDENT_SETS)
    paper = [name for name in names if name not in beyond]
    cases = {
        None: paper,
        ("all",): paper,
        ("beyond",): beyond,
        ("all", "beyond"): names,
        ("beyond", "teacher"): ["teacher", *beyond],
        (beyond[1], "teacher", beyond[0]): ["teacher", *beyond[:2]],
    }
    for asked, expected in cases.items():
        assert runs._choose_rows(script, asked) == expected
    assert runs._with_needed(script, [beyond[1]]) == ["teacher", beyond[1]]
    with pytest.raises(InputError, match=r"no such row: stream; choose from .* all beyond"):
        runs._choose_rows(script, ["stream"])


@pytest.mark.parametrize("text", ["505", "ms"])
def test_an_impossible_lookahead_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """More than a window, 500 ms, is a mistake."""
    with pytest.raises(SystemExit, match="2"):
        script_a.main(["--lookahead", text])
    assert "--lookahead" in capsys.readouterr().err


def test_a_lookahead_is_rounded_up_to_whole_samples() -> None:
    """What is recorded must be what is trained: 12 ms are 3 samples of 5 ms."""
    assert [script_a.lookahead(text) for text in ("0", "12", "50", "500")] == [0, 15, 50, 500]
    assert script_b.lookahead("25") == 30


class Interrupted:
    """A loss that does what Ctrl-C does, at one of its steps."""

    def __init__(self, loss: Callable[..., Tensor], at: int) -> None:
        self.loss, self.at, self.steps = loss, at, 0

    def __call__(self, *arguments: object) -> Tensor:
        """Return the loss of a batch."""
        self.steps += 1
        if self.steps == self.at:
            raise KeyboardInterrupt
        return self.loss(*arguments)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_an_interrupted_training_ends_at_the_same_bits(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Streaming rows are resumed like all others, at the epoch after the last saved one."""
    data, loss = synthetic_files["b"], script_b.streaming_loss
    flags = ["--rows", "streaming-feet", "--epochs", "2", "--batch-size", "8"]
    flags += ["--lookahead", "30", "--loss", "balanced", "--save-every", "0.000001"]

    def run(name: str, at: int) -> tuple[Path, int]:
        counted = Interrupted(loss, at)
        monkeypatch.setattr(script_b, "streaming_loss", counted)
        return run_script(script_b, data, tmp_path, name, *flags), counted.steps

    whole, steps = run("whole", at=0)
    assert steps >= 4
    with pytest.raises(KeyboardInterrupt):
        run("stopped", at=steps)
    stopped, resumed_steps = run("stopped", at=0)
    assert resumed_steps == steps // 2  # of the second epoch
    assert outcome(stopped) == outcome(whole)


@pytest.mark.usefixtures("narrow")
@SCRIPTS
def test_a_distilled_student_gets_the_teachers_outputs_of_its_samples(
    script: ModuleType, synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The teacher's future helps only if it is compared at the sample that the output is for."""
    trainings = record_trainings(script, monkeypatch)
    row = f"distilled_streaming-{script.STUDENT_SETS[0]}"
    flags = ("--rows", row, "--lookahead", "30", "--alpha", "0.3", "--beta", "2")
    data = synthetic_files[script.DATASET]
    folder = run_script(script, data, tmp_path, "run", *flags)
    _, training = trainings
    windows, late = training.windows, training.network.lookahead
    assert late == 30 * script.RATE_HZ // 1000
    (checkpoint,) = folder.glob("checkpoints/teacher*")
    teacher = runs.find_row(script, "teacher").network()
    teacher.load_state_dict(load_checkpoint(checkpoint).tensors)
    made = script.read(data)
    signals = script.inputs(
        made.samples, "all_imus_" + ("emg" if script.DATASET == "a" else "video")
    )
    chosen = torch.tensor([0, len(windows) - 1, 2])
    batch = windows[chosen]
    is_scored, output, feature = batch.cached
    with torch.no_grad():
        for b, numbers in enumerate(windows.samples[chosen]):
            for first in range(0, len(numbers), script.WINDOW):
                part = slice(first, first + script.WINDOW)
                of_teacher = teacher.eval().features(*(x[numbers[part]][None] for x in signals))
                torch.testing.assert_close(
                    output[b, part], of_teacher.output[0], atol=1e-5, rtol=1e-4
                )
                torch.testing.assert_close(
                    feature[b, part], of_teacher.feature[0], atol=1e-5, rtol=1e-4
                )
        network = training.network.eval()
        own = network.features(*batch.inputs)

        def late_error(mine: Tensor, target: Tensor) -> float:
            errors = [
                (mine[b, t] - target[b, t - late]).double().numpy()
                for b in range(len(mine))
                for t in range(late, mine.shape[1])
                if is_scored[b, t]
            ]
            return float(np.sqrt(np.mean(np.square(errors))))

        expected = (
            late_error(own.output, batch.targets)
            + 0.3 * late_error(own.output, output)
            + 2 * late_error(own.feature, feature)
        )
        assert float(training.loss(network, batch)) == pytest.approx(expected, rel=1e-5)


def test_curves_of_windowed_and_streaming_students_are_of_the_same_samples() -> None:
    """A streaming student has fewer estimates; its curve would be shifted against the truth."""
    sample = np.arange(100, 160)
    windowed = {"sample": sample, "prediction": np.column_stack([sample, -sample]).astype(float)}
    is_estimated = (sample % 20) < 17  # three are missing at the end of every stretch
    streaming = {name: values[is_estimated] for name, values in windowed.items()}
    part = slice(30, 55)
    for arrays, expected in ((windowed, True), (streaming, is_estimated[part])):
        found = plots._at_samples_of(windowed, arrays)[part]
        np.testing.assert_array_equal(
            found, np.where(np.c_[expected], windowed["prediction"][part], np.nan)
        )
