"""LMFN, TFN and their fusions, against plain computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import Dataset_A_lmfn_tfn_fusion_models as script_a
from tests.reference import Parameters, linear, lstm, normalized, parameters_of, part_of, relu

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def encoded(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    """Normalize a modality and encode it by a BiLSTM."""
    return np.stack([lstm(window, p, f"{name}.lstm") for window in normalized(x)])


def with_one(features: np.ndarray) -> np.ndarray:
    """Return the features of a time step after a constant 1."""
    return np.concatenate([[1.0], features])


def low_rank(modalities: list[np.ndarray], p: Parameters) -> np.ndarray:
    """Fuse the features of the modalities at one time step, factor by factor."""
    total = p["bias"].copy()
    for r, weight in enumerate(p["rank_weights"].ravel()):
        product = np.ones_like(total)
        for m, features in enumerate(modalities):
            product *= with_one(features) @ p[f"factors.{m}"][r]
        total += weight * product
    return total


def outer_product(modalities: list[np.ndarray]) -> np.ndarray:
    """Return the outer product at one time step, the first modality slowest."""
    return np.array([np.prod(entry) for entry in itertools.product(*map(with_one, modalities))])


def test_low_rank_factors_are_initialized_as_in_the_paper() -> None:
    """A product of three factors explodes or vanishes if their deviation is wrong."""
    torch.manual_seed(0)
    fusion = script_a.LowRankFusion(modalities=3, size=128, out_size=32)
    for factor in fusion.factors:
        assert factor.shape == (10, 129, 32)
        assert float(factor.detach().std()) == pytest.approx(0.0664, abs=0.0007)
        assert abs(float(factor.detach().mean())) < 0.002
    weights = [script_a.LowRankFusion(1, 1, 1).rank_weights.detach().ravel() for _ in range(200)]
    assert float(torch.cat(weights).std()) == pytest.approx((2 / 11) ** 0.5, rel=0.06)
    assert not fusion.bias.any()


@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
def test_lmfn_equals_a_plain_computation(channels: tuple[int, ...]) -> None:
    """Encoders, low-rank fusion at each time step, a layer and the head."""
    torch.manual_seed(0)
    model = script_a.LMFN(channels, targets=2, hidden_size=3, fused_size=4, rank=2, dropout=0.0)
    nn.init.normal_(model.fusion.bias)  # which is initialized as 0
    x, p = [torch.randn(2, 5, count) * 3 + 1 for count in channels], parameters_of(model)
    h = [encoded(one.double().numpy(), p, f"encoders.{m}") for m, one in enumerate(x)]
    output = model(*x).detach().numpy()
    for b, t in np.ndindex(2, 5):
        fused = low_rank([one[b, t] for one in h], part_of(p, "fusion"))
        expected = linear(relu(linear(fused, p, "layer")), p, "head")
        assert output[b, t] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("channels", [(3, 2), (3, 2, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_tfn_equals_a_plain_computation(channels: tuple[int, ...], training: bool) -> None:
    """Encoders, projections, outer product at each time step, two layers and the head."""
    torch.manual_seed(0)
    model = script_a.TFN(channels, targets=2, hidden_size=3, size=2, fused_size=4, dropout=0.0)
    x = [torch.randn(2, 5, count) * 3 + 1 for count in channels]
    for encoder, one in zip(model.encoders, x, strict=True):  # used in eval mode
        encoder.norm.running_mean.copy_(one.mean(dim=(0, 1)))
        encoder.norm.running_var.copy_(one.var(dim=(0, 1), correction=0))
    p = parameters_of(model)
    h = [encoded(one.double().numpy(), p, f"encoders.{m}") for m, one in enumerate(x)]
    g = [linear(one, p, f"projections.{m}") for m, one in enumerate(h)]
    output = model.train(training)(*x).detach().numpy()
    for b, t in np.ndindex(2, 5):
        fused = linear(outer_product([one[b, t] for one in g]), p, "fusion.linear")
        fused = relu(linear(relu(fused), p, "layer"))
        assert output[b, t] == pytest.approx(linear(fused, p, "head"), abs=1e-5)


def at_once(fusion: nn.Module, modalities: list[Tensor]) -> Tensor:
    """Apply dropout, with masks drawn per chunk, and the Linear to the complete outer product."""
    z = [F.pad(x, (1, 0), value=1.0).flatten(0, 1) for x in modalities]
    letters = "ijk"[: len(z)]
    product = torch.einsum(f"{','.join('n' + letter for letter in letters)}->n{letters}", *z)
    product = product.flatten(1)
    kept = [fusion.mask(rows) for rows in z[0].split(fusion.chunk)] if fusion.training else []
    if kept:
        product = torch.where(torch.cat(kept), product / (1 - fusion.dropout), 0.0)
    return fusion.linear(product).unflatten(0, modalities[0].shape[:2])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_tensor_fusion_equals_building_the_product_at_once(
    device: str, modalities: int, training: bool
) -> None:
    """Chunks, recomputation with the same dropout mask, and contraction change no number."""
    torch.manual_seed(0)
    fusion = script_a.TensorFusion(modalities, size=6, out_size=5, dropout=0.3, chunk=7)
    fusion.to(device).train(training)
    inputs = [torch.randn(3, 10, 6, device=device).requires_grad_() for _ in range(modalities)]
    weights = torch.randn(3, 10, 5, device=device)
    results = []
    for forward in (fusion, lambda *x: at_once(fusion, x)):
        torch.manual_seed(1)
        output = forward(*inputs)
        torch.rand(9, device=device)  # numbers drawn before the backward pass must not matter
        leaves = [*inputs, *fusion.parameters()]
        results.append([output, *torch.autograd.grad((output * weights).sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_tensor_fusion_draws_a_new_mask_for_each_chunk_and_step() -> None:
    """Dropping the same entries in every chunk would not be dropout."""
    fusion = script_a.TensorFusion(2, size=6, out_size=50, dropout=0.5, chunk=4)
    x = torch.randn(1, 1, 6).expand(1, 12, 6)
    output = fusion(x, x)[0]
    assert len(output.unique(dim=0)) == 12
    assert not torch.equal(output, fusion(x, x)[0])


def test_tensor_fusion_drops_entries_and_scales_the_others() -> None:
    """Dropout of 0.3 preserves the expected value: 30 % are 0, the others are divided by 0.7."""
    fusion = script_a.TensorFusion(2, size=4, out_size=25, dropout=0.3, chunk=1000)
    nn.init.eye_(fusion.linear.weight)
    nn.init.zeros_(fusion.linear.bias)
    ones = torch.ones(20, 50, 4)
    output = fusion(ones, ones).detach()
    dropped = output == 0
    assert torch.allclose(output[~dropped], torch.tensor(1 / 0.7))
    assert dropped.float().mean((0, 1)).sub(0.3).abs().max() < 0.07  # of 1000 draws each


def largest_tensor(fusion: nn.Module, x: Tensor) -> int:
    """Return the number of elements of the largest tensor that the fusion computes."""
    sizes = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            result = func(*args, **(kwargs or {}))
            sizes.extend(r.numel() for r in [result] if isinstance(r, Tensor))
            return result

    with Recorder():
        output = fusion(x, x, x)
        if fusion.training:
            output.sum().backward()
    return max(sizes)


def test_the_complete_product_is_never_in_memory() -> None:
    """It is 0.92 GB for a batch of 64 in A, too much next to everything else."""
    fusion = script_a.TensorFusion(3, size=9, out_size=2, chunk=8)
    x = torch.randn(4, 50, 9)
    rows, product = 200, 10**3
    assert largest_tensor(fusion, x) == 8 * product
    assert largest_tensor(fusion.eval(), x) < rows * product / 20
