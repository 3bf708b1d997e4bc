"""Kinetics-MFFM-Net, its losses and the rows of both sensor-distillation scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.files import load_checkpoint
from common.runs import find_row
from common.windows import Batch
from tests.narrow import narrow_networks
from tests.networks import (
    Training,
    check_dependence,
    check_dropout,
    parameters_of_rows,
    random_batch,
    record_trainings,
    run_script,
    unused_parameters,
)
from tests.reference import (
    gated_dual_encoder,
    linear,
    mffm,
    normalized,
    parameters_of,
    part_of,
)

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]
PROJECTION = 32_896  # of a student
TEACHER_PROJECTION = 49_280
USED = {  # the paper's networks: teacher, then students
    script_a: [3_275_144, 1_863_304, 1_874_056, 1_884_808, 1_895_560],
    script_b: [3_375_494, 1_872_774, 1_883_526, 1_905_030, 1_926_534, 1_937_286],
}


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks(script_a, script_b):
        yield


@pytest.mark.parametrize("script", SCRIPTS)
def test_rows_and_parameter_counts(script: ModuleType) -> None:
    """Every row of the table must be there, with a network of the paper's size."""
    teacher, *students = USED[script]
    expected = {"teacher": teacher + TEACHER_PROJECTION}
    for name, count in zip(script.STUDENT_SETS, students, strict=True):
        expected |= {f"student-{name}": count, f"distilled-{name}": count + PROJECTION}
    assert parameters_of_rows(script) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_the_projections_are_unused(script: ModuleType) -> None:
    """The size in the table is that of the prediction: the projection serves training only."""
    rows = [row for row in script.ROWS if row.sensor_set in ("foot", "feet") or not row.needs][:3]
    assert [row.name.split("-")[0] for row in rows] == ["teacher", "student", "distilled"]
    expected = {"teacher": TEACHER_PROJECTION, rows[2].name: PROJECTION}
    assert unused_parameters(script, rows) == expected


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_sees_its_own_sensors_only(script: ModuleType) -> None:
    """A result for few sensors that used others is wrong."""
    check_dependence(script, script.ROWS)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("windows", [1, 3])
def test_rows_have_their_shape_and_finite_gradients(script: ModuleType, windows: int) -> None:
    """A last batch of one window, or a layer without a gradient, must not spoil a training."""
    teacher = find_row(script, "teacher").network().eval().requires_grad_(False)
    outputs = teacher.features(*random_batch(script, "teacher", windows).inputs)
    for row in script.ROWS[:3]:
        network, batch = row.network(), random_batch(script, row.name, windows)
        shape = (windows, script.WINDOW, len(script.TARGETS))
        assert network(*batch.inputs).shape == shape
        loss = script.supervised_loss
        if row.needs:
            loss, batch = script.distillation_loss(0.5, 1.0), batch._replace(cached=outputs)
        loss(network, batch).backward()
        for name, parameter in network.named_parameters():
            if row.name == "teacher" and name.startswith("projection"):
                assert parameter.grad is None
            else:
                assert parameter.grad.isfinite().all(), name
                assert windows == 1 or parameter.grad.any(), name


@pytest.mark.usefixtures("narrow")
def test_dropout_is_on_in_training_and_off_in_eval() -> None:
    """A prediction that changes from call to call is no result; a training needs dropout."""
    row = "student-foot"
    check_dropout(find_row(script_a, row).network(), random_batch(script_a, row, 2).inputs)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dropout_is_the_papers(script: ModuleType) -> None:
    """0.25 after every recurrent layer of every row."""
    for row in script.ROWS[:3]:
        dropouts = {m.p for m in row.network().modules() if isinstance(m, nn.Dropout)}
        assert dropouts == {0.25}


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


def test_the_gate_chooses_between_lstm_and_gru() -> None:
    """Open, the encoder is the BiLSTM; closed, the BiGRU; a swapped gate would be another model."""
    module = script_a.GatedDualEncoder(3, hidden_sizes=(5, 4)).eval()
    x = torch.randn(2, 7, 3)
    nn.init.zeros_(module.gate.weight)
    for bias, layers in ((50.0, module.lstm), (-50.0, module.gru)):
        nn.init.constant_(module.gate.bias, bias)
        expected = layers[1](layers[0](x)[0])[0]
        assert torch.allclose(module(x), expected, atol=1e-6)


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


def test_input_is_normalized_per_channel_over_batch_and_time() -> None:
    """Signals in deg/s and m/s² must reach the encoders on one scale, without a learned factor."""
    model = script_a.KineticsMFFMNet(channels=(3, 3), targets=2)
    seen = []
    model.encoders[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    acc, gyr = torch.randn(2, 4, 20, 3) * torch.tensor([1.0, 50.0, 0.1]) + 9.8
    model.train()(acc, gyr)
    expected = (acc - acc.mean(dim=(0, 1))) / torch.sqrt(acc.var(dim=(0, 1), correction=0) + 1e-5)
    assert torch.allclose(seen[0], expected, atol=1e-4)
    assert not list(model.norms.parameters())


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


@pytest.mark.usefixtures("narrow")
def test_distillation_loss_is_its_formula() -> None:
    """The weights must be those of the flags, each on its own term."""
    torch.manual_seed(0)
    student = find_row(script_a, "distilled-foot").network().eval()
    batch = random_batch(script_a, "distilled-foot", 3)
    output, feature = torch.randn_like(batch.targets), torch.randn(3, script_a.WINDOW, 8)
    batch = Batch(batch.inputs, batch.targets, (output, feature))
    own = student.features(*batch.inputs)
    expected = (
        root_mean_square(own.output - batch.targets)
        + 0.3 * root_mean_square(own.output - output)
        + 2.0 * root_mean_square(own.feature - feature)
    )
    value = script_a.distillation_loss(alpha=0.3, beta=2.0)(student, batch)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


class TeacherCall(NamedTuple):
    """One call of the teacher's `features` during the training of a student."""

    weights: dict[str, Tensor]
    windows: int
    is_frozen: bool


class Finished(NamedTuple):
    """A run of teacher, student and distilled student, two epochs on each of two folds."""

    script: ModuleType
    data: Path
    folder: Path
    rows: list[str]
    subjects: list[str]
    calls: list[TeacherCall]

    def tensors(self, row: str, subject: str) -> dict[str, Tensor]:
        """Return the tensors in the checkpoint of a row."""
        path = self.folder / "checkpoints" / f"{row}-subject_{subject}.safetensors"
        return load_checkpoint(path).tensors


def run_rows(script: ModuleType, data: Path, output_dir: Path, folds: int, *flags: str) -> Finished:
    """Run the teacher and the first student, and record the calls of the teacher's `features`."""
    rows = [row.name for row in script.ROWS[:3]]
    subjects, calls = script.read(data).subjects[:folds], []
    features = script.KineticsMFFMNet.features

    def recorded(network: nn.Module, *modalities: Tensor) -> NamedTuple:
        outputs = features(network, *modalities)
        if len(modalities) == 3:
            modes = [m.training for m in network.modules()]
            modes += [p.requires_grad for p in network.parameters()]
            modes += [values.requires_grad for values in outputs]
            weights = {name: values.clone() for name, values in network.state_dict().items()}
            calls.append(TeacherCall(weights, len(modalities[0]), not any(modes)))
        return outputs

    with narrow_networks(script), pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.KineticsMFFMNet, "features", recorded)
        flags = ("--rows", *rows, "--test-subjects", *subjects, "--epochs", "2", *flags)
        folder = run_script(script, data, output_dir, "run", *flags)
    return Finished(script, data, folder, rows, subjects, calls)


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(
    request: pytest.FixtureRequest,
    synthetic_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """A finished run of a script."""
    script = request.param
    return run_rows(script, synthetic_files[script.DATASET], tmp_path_factory.mktemp("run"), 2)


def test_a_student_learns_from_the_trained_teacher_of_its_fold(finished: Finished) -> None:
    """An untrained teacher, or one that has seen the test subject, spoils every distilled row."""
    for subject, call in zip(finished.subjects, finished.calls, strict=True):
        teacher = finished.tensors("teacher", subject)
        assert teacher.keys() == call.weights.keys()
        assert all(torch.equal(teacher[name], call.weights[name]) for name in teacher)
    first, second = (call.weights["head.weight"] for call in finished.calls)
    assert not torch.equal(first, second)


def test_the_teacher_is_frozen_and_in_eval_mode(finished: Finished) -> None:
    """A teacher with dropout is a noisy target, and one that learns is no teacher."""
    assert all(call.is_frozen for call in finished.calls)


def test_the_teachers_outputs_are_computed_once_per_fold(finished: Finished) -> None:
    """Every epoch of every student would otherwise run the largest network of the table."""
    recording = finished.script.read(finished.data)
    for subject, call in zip(finished.subjects, finished.calls, strict=True):  # of two epochs
        training = recording.subject != recording.subjects.index(subject)
        windows = math.ceil(training.sum() / finished.script.WINDOW)
        assert call.windows == windows - math.ceil(0.2 * windows)  # the rest is for validation


def test_the_teachers_projection_stays_as_initialized(finished: Finished) -> None:
    """Its own loss does not reach it: a fixed random projection, saved with the teacher."""
    torch.manual_seed(42)
    with narrow_networks(finished.script):
        initial = find_row(finished.script, "teacher").network().state_dict()
    saved = finished.tensors("teacher", finished.subjects[0])
    for name in ("projection.weight", "projection.bias"):
        assert torch.equal(initial[name], saved[name])
    assert not torch.equal(initial["head.weight"], saved["head.weight"])


def test_the_projection_of_a_student_is_trained(finished: Finished) -> None:
    """Its feature is what is compared with the teacher's."""
    row = finished.rows[2]
    torch.manual_seed(42)
    with narrow_networks(finished.script):
        initial = find_row(finished.script, row).network().state_dict()
    saved = finished.tensors(row, finished.subjects[0])
    assert not torch.equal(initial["projection.weight"], saved["projection.weight"])


def test_without_weights_distillation_is_plain_training(finished: Finished, tmp_path: Path) -> None:
    """alpha = beta = 0 must give the plain student bit for bit: nothing else may differ."""
    zero = run_rows(finished.script, finished.data, tmp_path, 1, "--alpha", "0", "--beta", "0")
    _, student, distilled = finished.rows
    (subject,) = zero.subjects
    plain = finished.tensors(student, subject)
    without_weights, with_weights = (run.tensors(distilled, subject) for run in (zero, finished))
    assert all(torch.equal(plain[name], without_weights[name]) for name in plain)
    assert not torch.equal(plain["head.weight"], with_weights["head.weight"])


@pytest.fixture(scope="module")
def trainings(
    synthetic_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Training]:
    """The trainings of teacher, student and distilled student with other weights."""
    rows = ("--rows", "student-foot", "distilled-foot", "--alpha", "0.3", "--beta", "2")
    with narrow_networks(script_a), pytest.MonkeyPatch.context() as patch:
        trainings = record_trainings(script_a, patch)
        run_script(script_a, synthetic_files["a"], tmp_path_factory.mktemp("run"), "run", *rows)
    return trainings


def check_loss(training: Training, alpha: float, beta: float) -> None:
    """Compare the loss of a training on some of its windows with the formula."""
    batch, network = training.windows[torch.tensor([3, 0, 5])], training.network.eval()
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


def test_a_batch_has_the_teachers_outputs_for_its_own_windows(trainings: list[Training]) -> None:
    """A student that learns from outputs for other windows learns noise, without an error."""
    teacher, _, distilled = trainings
    indices = torch.tensor([4, 0, 2])
    full = teacher.windows[indices]
    assert torch.equal(full.targets, distilled.windows[indices].targets)
    with torch.no_grad():
        expected = teacher.network.eval().features(*full.inputs)
    for values, cached in zip(expected, distilled.windows[indices].cached, strict=True):
        assert torch.allclose(values, cached, atol=1e-6)
