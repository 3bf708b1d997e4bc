"""The ablation: one network with switches, its rows and its figure."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import Dataset_A_model_ablation as script_a
import Dataset_A_Sensor_Distillation as distillation_a
import Dataset_B_model_ablation as script_b
import Dataset_B_sensor_distillation as distillation_b
from common import plots
from common.runs import find_row
from tests.narrow import narrow_networks
from tests.networks import (
    check_dependence,
    check_dropout,
    meta_network,
    parameters_of_rows,
    random_batch,
    unused_parameters,
)
from tests.reference import Parameters, gru, linear, lstm, normalized, parameters_of, sigmoid

SCRIPTS = [pytest.param(script_a, id="A"), pytest.param(script_b, id="B")]
USED = {  # the paper's networks: A, B with video
    "early_lstm": (334_727, 392_837),
    "early_gru": (251_271, 294_789),
    "concat_lstm": (932_487, 990_085),
    "concat_gru": (700_039, 743_045),
    "mffm_lstm": (2_479_112, 2_535_686),
    "mffm_gru": (2_246_664, 2_288_646),
    "mffm_gated": (3_275_144, 3_375_494),
    "mwfs_lstm": (930_824, 988_934),
    "mwff_lstm": (1_080_327, 1_137_925),
    "maf_lstm": (1_523_847, 1_581_445),
    "maf_mwff_lstm": (1_674_375, 1_731_205),
    "maf_mwff_gate_lstm": (2_264_967, 2_321_797),
    "maf_mwfs_lstm": (1_524_872, 1_582_214),
    "maf_mwfs_gate_lstm": (1_787_528, 1_844_870),
    "mwff_mwfs_lstm": (1_081_352, 1_138_694),
    "mwff_mwfs_gate_lstm": (1_344_008, 1_401_350),
    "maf_mwff_mwfs_lstm": (1_675_400, 1_731_974),
}


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make the networks small."""
    with narrow_networks(script_a, script_b, distillation_a, distillation_b):
        yield


@pytest.mark.parametrize(("script", "column"), [(script_a, 0), (script_b, 1)], ids="AB")
def test_rows_and_parameter_counts(script: ModuleType, column: int) -> None:
    """The rows of Table I and of the subsets, in order, with networks of the paper's size."""
    expected = {name: counts[column] for name, counts in USED.items()}
    counts = parameters_of_rows(script)
    full = {row.name: counts[row.name] for row in script.ROWS if row.sensor_set == script.FULL_SET}
    assert full == expected
    assert list(full) == list(expected)
    rest = list(counts)[len(full) :]
    assert rest == ([] if script is script_a else [f"{name}-all_imus" for name in expected])


def test_parameter_counts_without_video() -> None:
    """Dataset B also has the rows for IMUs alone: two modalities of 24 channels."""
    counts = parameters_of_rows(script_b)
    for encoder, gates in (("lstm", 4), ("gru", 3)):  # video: 44 inputs of two directions of 128
        expected = counts[f"early_{encoder}"] - 2 * gates * 128 * 44
        assert counts[f"early_{encoder}-all_imus"] == expected
    assert counts["mffm_gated-all_imus"] == 1_937_286  # the student with all IMUs


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_parameter_is_used(script: ModuleType) -> None:
    """A layer that the prediction does not depend on inflates the size in the table."""
    assert unused_parameters(script, script.ROWS) == {}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("script", "distillation"),
    [(script_a, distillation_a), (script_b, distillation_b)],
    ids="AB",
)
def test_the_full_row_is_the_teachers_network(script: ModuleType, distillation: ModuleType) -> None:
    """The ablation must take blocks out of the network of the paper, not of a relative of it."""
    torch.manual_seed(0)
    teacher = find_row(distillation, "teacher").network()
    weights = {k: v for k, v in teacher.state_dict().items() if not k.startswith("projection")}
    full = find_row(script, "mffm_gated").network()
    full.load_state_dict(weights)
    batch = random_batch(script, "mffm_gated", 3)
    for is_training in (True, False):  # with the same dropout, and without
        outputs = []
        for model in (teacher, full):
            torch.manual_seed(1)
            outputs.append(model.train(is_training)(*batch.inputs))
        assert torch.equal(*outputs)


@pytest.mark.parametrize("script", SCRIPTS)
def test_rows_differ_in_their_blocks_only(script: ModuleType) -> None:
    """The published rows also differ in dropout, which hides the effect of a block."""
    for row in script.ROWS:
        modules = meta_network(script, row.name).modules()
        assert {m.p for m in modules if isinstance(m, nn.Dropout)} == {0.25}, row.name


@pytest.mark.usefixtures("narrow")
def test_dropout_is_on_in_training_and_off_in_eval() -> None:
    """A prediction that changes from call to call is no result; a training needs dropout."""
    batch = random_batch(script_a, "mffm_lstm", 2)
    check_dropout(find_row(script_a, "mffm_lstm").network(), batch.inputs)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_sees_its_own_sensors_only(script: ModuleType) -> None:
    """The rows for IMUs alone must not see the video."""
    check_dependence(script, script.ROWS)


def encoded(x: np.ndarray, p: Parameters, name: str, kind: str) -> np.ndarray:
    """Normalize and encode by two bidirectional layers, window by window."""
    layer = {"lstm": lstm, "gru": gru}[kind]
    return np.array(
        [layer(layer(h, p, f"{name}.layers.0"), p, f"{name}.layers.1") for h in normalized(x)]
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("early", [True, False])
def test_without_branches_encoders_meet_in_the_head(kind: str, early: bool) -> None:
    """Early fusion is one encoder for all channels; plain concatenation has one per modality."""
    torch.manual_seed(0)
    model = script_a.AblationNet(
        *((3, 2), 4), encoder=kind, early_fusion=early, branches=(), hidden_sizes=(5, 3), dropout=0
    )
    modalities = torch.randn(2, 6, 3) * 3 + 1, torch.randn(2, 6, 2)
    arrays = [x.double().numpy() for x in modalities]
    groups = [np.concatenate(arrays, axis=2)] if early else arrays
    p = parameters_of(model)
    parts = [encoded(x, p, f"encoders.{i}", kind) for i, x in enumerate(groups)]
    expected = linear(np.concatenate(parts, axis=2), p, "head")
    assert model(*modalities).detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("branches", [("mwfs",), ("mwff",), ("maf", "mwfs"), ("mwff", "mwfs")])
@pytest.mark.parametrize("gated", [True, False])
def test_a_subset_of_mffm_is_that_part_of_the_whole(branches: tuple[str, ...], gated: bool) -> None:
    """Each branch must be computed as in the full module; the gate sees the remaining ones."""
    torch.manual_seed(0)
    whole = script_a.MFFM(3, 8, gated=False)
    part = script_a.MFFM(3, 8, branches=branches, gated=gated)
    shared = whole.state_dict()
    part.load_state_dict({k: shared.get(k, v) for k, v in part.state_dict().items()})
    x = torch.randn(2, 6, 24)
    places = {"maf": slice(0, 24), "mwff": slice(24, 48), "mwfs": slice(48, 56)}
    z = torch.cat([whole(x)[..., places[branch]] for branch in branches], dim=-1)
    if gated:
        p = parameters_of(part)
        z = torch.from_numpy(sigmoid(linear(z.detach().double().numpy(), p, "gate"))) * z
    assert torch.allclose(part(x), z.float(), atol=1e-6)
    assert part.out_size == z.shape[-1]


def test_the_figure_shows_the_difference_to_the_full_network() -> None:
    """A row is compared with the full network with the same sensors on the same subjects."""
    values = {  # sensor set and row: NRMSE on two subjects
        ("all", "early_lstm"): (6.0, 8.0),
        ("all", "mffm_gated"): (4.0, 5.0),
        ("imus", "early_lstm-imus"): (9.0, 9.0),
        ("imus", "mffm_gated-imus"): (10.0, 10.5),
    }
    lines = pd.DataFrame(
        [
            {
                **{"sensor_set": sensor_set, "row": row, "kind": row.split("-")[0]},
                **{"test_subject": subject, "target": target, "nrmse_percent": value + shift},
            }
            for (sensor_set, row), pair in values.items()
            for subject, value in zip("12", pair, strict=True)
            for target, shift in (("KFM", -1.0), ("KAM", 1.0))
        ]
    )
    upper, lower = plots.nrmse_of_ablation(lines, "mffm_gated").axes
    assert [text.get_text() for text in upper.texts] == ["7.00 (+2.50)", "4.50"]
    assert [text.get_text() for text in lower.texts] == ["9.00 (-1.25)", "10.25"]
    assert [bar.get_width() for bar in upper.patches] == [7.0, 4.5]
    assert [label.get_text() for label in lower.get_yticklabels()] == ["early_lstm", "mffm_gated"]
