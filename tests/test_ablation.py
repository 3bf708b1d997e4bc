"""The ablation: one network with switches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import Dataset_A_model_ablation as script_a
import Dataset_A_Sensor_Distillation as distillation_a
from tests.networks import random_batch, row_named
from tests.reference import Parameters, gru, linear, lstm, normalized, parameters_of, sigmoid


@pytest.mark.usefixtures("narrow")
def test_the_full_row_is_the_teachers_network() -> None:
    """The ablation must remove blocks from the network of the paper, not from a similar one."""
    torch.manual_seed(0)
    teacher = row_named(distillation_a, "teacher").network()
    weights = {k: v for k, v in teacher.state_dict().items() if not k.startswith("projection")}
    full = row_named(script_a, "mffm_gated").network()
    full.load_state_dict(weights)
    batch = random_batch(script_a, "mffm_gated", 3)
    for is_training in (True, False):  # with the same dropout, and without
        outputs = []
        for model in (teacher, full):
            torch.manual_seed(1)
            outputs.append(model.train(is_training)(*batch.inputs))
        assert torch.equal(*outputs)


def encoded(x: np.ndarray, p: Parameters, name: str, kind: str) -> np.ndarray:
    """Normalize and encode by two bidirectional layers, window by window."""
    layer = {"lstm": lstm, "gru": gru}[kind]
    return np.array(
        [layer(layer(h, p, f"{name}.layers.0"), p, f"{name}.layers.1") for h in normalized(x)]
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("early", [True, False])
def test_without_branches_encoders_meet_in_the_head(kind: str, early: bool) -> None:
    """Early fusion has one encoder for all channels; concatenation has one per modality."""
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
