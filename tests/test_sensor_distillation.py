"""Kinetics-MFFM-Net, its losses, and how a student learns from its teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.files import load_checkpoint
from tests.conftest import Files, Folders
from tests.networks import (
    Training,
    narrow_networks,
    record_trainings,
    row_named,
    run_script,
)
from tests.reference import gated_dual_encoder, linear, mffm, normalized, parameters_of, part_of


@pytest.mark.parametrize("modalities", [2, 3])
def test_mffm_equals_a_plain_computation_of_its_formulas(modalities: int) -> None:
    """The fusion is the paper's contribution; its four parts are computed here step by step."""
    torch.manual_seed(modalities)
    module = script_a.MFFM(modalities, size=8)
    x, p = torch.randn(2, 6, modalities * 8), parameters_of(module)
    expected = [mffm(window, p, modalities) for window in x.double().numpy()]
    assert module(x).detach().numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_gated_dual_encoder_equals_a_plain_computation() -> None:
    """Two recurrent layers of each kind, mixed by the gate: `g * lstm + (1 - g) * gru`."""
    torch.manual_seed(1)
    module = script_a.GatedDualEncoder(3, hidden_sizes=(5, 4)).eval()
    x = torch.randn(1, 7, 3)
    expected = gated_dual_encoder(x[0].double().numpy(), parameters_of(module))
    assert module(x)[0].detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
def test_kinetics_mffm_net_equals_a_plain_computation(channels: tuple[int, ...]) -> None:
    """Normalization, an encoder per modality, fusion and head; the projection of the encoded."""
    torch.manual_seed(0)
    model = script_a.KineticsMFFMNet(
        channels, targets=2, hidden_sizes=(5, 4), dropout=0.0, projection=True
    )
    x, p = [torch.randn(2, 6, count) * 3 + 1 for count in channels], parameters_of(model)
    encoded = np.concatenate(
        [
            [gated_dual_encoder(window, part_of(p, f"encoders.{m}")) for window in normalized(one)]
            for m, one in enumerate(modality.double().numpy() for modality in x)
        ],
        axis=2,
    )
    fused = np.array([mffm(window, part_of(p, "fusion"), len(channels)) for window in encoded])
    outputs = model.features(*x)
    assert outputs.output.detach().numpy() == pytest.approx(linear(fused, p, "head"), abs=1e-5)
    projected = linear(encoded, p, "projection")
    assert outputs.feature.detach().numpy() == pytest.approx(projected, abs=1e-5)
    assert torch.equal(model(*x), outputs.output)


def test_rmse_is_the_root_of_the_mean_square_and_safe_at_zero() -> None:
    """A perfect batch must not turn the weights into NaN."""
    prediction = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]], requires_grad=True)
    target = torch.tensor([[[1.0, 0.0], [3.0, 1.0]]])
    assert script_a.rmse(prediction, target).item() == pytest.approx(math.sqrt(20 / 4))
    loss = script_a.rmse(prediction, prediction.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.tolist() == torch.zeros(1, 2, 2).tolist()


def test_rmse_is_accurate_over_a_whole_validation_set() -> None:
    """Float32 sums of millions of values lose digits, and early stopping compares losses."""
    error = torch.full((3_000_000,), 0.1)
    assert script_a.rmse(error, torch.zeros(1)).item() == pytest.approx(error[0].item(), rel=1e-6)


def root_mean_square(x: Tensor) -> float:
    """Return the root of the mean square, computed by NumPy."""
    return float(np.sqrt(np.mean(x.detach().double().numpy() ** 2)))


class TeacherCall(NamedTuple):
    """One call of the teacher's `features` during the training of a student."""

    weights: dict[str, Tensor]
    windows: int
    is_frozen: bool


class Finished(NamedTuple):
    """A run of teacher, student and distilled student, two epochs on each of two folds."""

    data: Path
    folder: Path
    rows: list[str]
    subjects: list[str]
    calls: list[TeacherCall]

    def tensors(self, row: str, subject: str) -> dict[str, Tensor]:
        """Return the tensors in the checkpoint of a row."""
        path = self.folder / "checkpoints" / f"{row}-subject_{subject}.safetensors"
        return load_checkpoint(path).tensors


def run_rows(data: Path, output_dir: Path, folds: int, *flags: str) -> Finished:
    """Run the teacher and the first student, and record the calls of the teacher's `features`."""
    rows = [row.name for row in script_b.ROWS[:3]]
    subjects, calls = script_b.read(data).subjects[:folds], []
    features = script_b.KineticsMFFMNet.features

    def recorded(network: nn.Module, *modalities: Tensor) -> NamedTuple:
        outputs = features(network, *modalities)
        if len(modalities) == 3:
            modes = [m.training for m in network.modules()]
            modes += [p.requires_grad for p in network.parameters()]
            modes += [values.requires_grad for values in outputs]
            weights = {name: values.clone() for name, values in network.state_dict().items()}
            calls.append(TeacherCall(weights, len(modalities[0]), not any(modes)))
        return outputs

    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(script_b.KineticsMFFMNet, "features", recorded)
        flags = ("--rows", *rows, "--test-subjects", *subjects, "--epochs", "2", *flags)
        folder = run_script(script_b, data, output_dir, "run", *flags)
    return Finished(data, folder, rows, subjects, calls)


@pytest.fixture(scope="module")
def finished(synthetic_files: Files, tmp_path_factory: Folders) -> Finished:
    """A finished run on Dataset B."""
    return run_rows(synthetic_files["b"], tmp_path_factory.mktemp("run"), 2)


def test_a_student_learns_from_the_trained_teacher_of_its_fold(finished: Finished) -> None:
    """An untrained teacher, or one that has seen the test subject, spoils every distilled row."""
    for subject, call in zip(finished.subjects, finished.calls, strict=True):
        teacher = finished.tensors("teacher", subject)
        assert teacher.keys() == call.weights.keys()
        assert all(torch.equal(teacher[name], call.weights[name]) for name in teacher)
    first, second = (call.weights["head.weight"] for call in finished.calls)
    assert not torch.equal(first, second)
    assert all(call.is_frozen for call in finished.calls)  # and in eval mode, without dropout


def test_the_teachers_outputs_are_computed_once_per_fold(finished: Finished) -> None:
    """Every epoch of every student would otherwise run the largest network of the table."""
    recording = script_b.read(finished.data)
    for subject, call in zip(finished.subjects, finished.calls, strict=True):  # of two epochs
        training = recording.subject != recording.subjects.index(subject)
        windows = math.ceil(training.sum() / script_b.WINDOW)
        assert call.windows == windows - math.ceil(0.2 * windows)  # the rest is for validation


def test_the_projection_is_trained_in_a_student_only(finished: Finished) -> None:
    """Its feature is compared with the teacher's, which is a fixed random projection."""
    teacher, _, distilled = finished.rows
    is_trained = {}
    for row in (teacher, distilled):
        torch.manual_seed(42)
        with narrow_networks():
            initial = row_named(script_b, row).network().state_dict()
        saved = finished.tensors(row, finished.subjects[0])
        is_trained |= {(row, n): not torch.equal(saved[n], initial[n]) for n in initial}
    assert is_trained[teacher, "head.weight"]
    for name in ("projection.weight", "projection.bias"):
        assert not is_trained[teacher, name]
        assert is_trained[distilled, name]


def test_without_weights_distillation_trains_a_student(finished: Finished, tmp_path: Path) -> None:
    """alpha = beta = 0 must give the same weights as no distillation: nothing else may differ."""
    zero = run_rows(finished.data, tmp_path, 1, "--alpha", "0", "--beta", "0")
    _, student, distilled = finished.rows
    (subject,) = zero.subjects
    expected = finished.tensors(student, subject)
    without_weights, with_weights = (run.tensors(distilled, subject) for run in (zero, finished))
    assert all(torch.equal(values, without_weights[name]) for name, values in expected.items())
    assert not torch.equal(expected["head.weight"], with_weights["head.weight"])


@pytest.fixture(scope="module")
def trainings(synthetic_files: Files, tmp_path_factory: Folders) -> list[Training]:
    """The calls of `train` for teacher, student and distilled student, with other weights."""
    rows = ("--rows", "student-foot", "distilled-foot", "--alpha", "0.3", "--beta", "2")
    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        trainings = record_trainings(script_a, patch)
        run_script(script_a, synthetic_files["a"], tmp_path_factory.mktemp("run"), "run", *rows)
    return trainings


def check_loss(training: Training, alpha: float, beta: float) -> None:
    """Compare the loss of a network on some of its windows with the formula."""
    batch, network = training.fold.train[torch.tensor([3, 0, 5])], training.network.eval()
    expected = root_mean_square(network(*batch.inputs) - batch.targets)
    assert bool(batch.cached) == bool(alpha or beta)
    if batch.cached:
        own = network.features(*batch.inputs)
        expected += alpha * root_mean_square(own.output - batch.cached[0])
        expected += beta * root_mean_square(own.feature - batch.cached[1])
    assert float(training.loss(network, batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_student_is_trained_with_its_own_loss_and_stops_by_rmse(
    trainings: list[Training],
) -> None:
    """Early stopping compares students by their error, not by their distance to the teacher."""
    assert all(training.criterion is script_a.rmse for training in trainings)
    assert all(training.epochs == script_a.EPOCHS for training in trainings)
    teacher, student, distilled = trainings
    check_loss(teacher, alpha=0, beta=0)
    check_loss(student, alpha=0, beta=0)
    check_loss(distilled, alpha=0.3, beta=2)
