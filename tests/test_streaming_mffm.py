"""The streaming student in NumPy alone, against the same network in PyTorch."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from beyond import Dataset_A_streaming as script_a
from beyond import Dataset_B_streaming as script_b
from common.files import save_checkpoint
from tests.networks import row_named
from tests.predicting import describe
from tools.stream import streaming_mffm
from tools.stream.streaming_mffm import StreamingMFFM
from tools.trained import load_trained

ROWS = [
    (script_a, "streaming-foot"),
    (script_a, "distilled_streaming-foot_trunk"),  # with a projection
    (script_b, "streaming-feet_pelvis"),
    (script_b, "distilled_streaming_balanced-feet"),
]
SAMPLES = 1000


def trained_statistics(script: ModuleType, row: str, folder: Path) -> Path:
    """Write a checkpoint whose input statistics and weights are unlike those at the start."""
    torch.manual_seed(0)
    network = row_named(script, row).network()
    for norm in network.norms:
        norm.running_mean.normal_(0, 3)
        norm.running_var.uniform_(0.5, 9)
    for parameter in network.parameters():
        parameter.data *= 2
    path = folder / "network.safetensors"
    save_checkpoint(path, network.state_dict(), describe(script, row))
    return path


@pytest.mark.parametrize(("script", "row"), ROWS)
def test_a_thousand_samples_give_the_estimates_of_pytorch(
    script: ModuleType, row: str, tmp_path: Path
) -> None:
    """A device would show other moments than those that were tested."""
    path = trained_statistics(script, row, tmp_path)
    network, trained = StreamingMFFM(path), load_trained(path)
    assert network.lookahead == trained.lookahead
    samples = np.random.default_rng(0).normal(0, 5, (SAMPLES, sum(network.channels)))
    samples[500:510] *= 1000  # saturates every gate
    found = np.array([network.step(sample) for sample in samples])
    inputs = torch.tensor(samples, dtype=torch.float32)[None].split(network.channels, dim=-1)
    expected = trained.network(*inputs)[0].numpy()
    assert found.dtype == np.float32
    scale = np.abs(expected).max(axis=0)
    assert (np.abs(found - expected).max(axis=0) <= 1e-5 * scale).all()
    assert (np.ptp(expected, axis=0) > 0.1 * scale).all()  # the estimates are not all the same
    network.reset()
    np.testing.assert_array_equal(network.step(samples[0]), found[0])


def test_the_file_needs_nothing_but_numpy_and_safetensors() -> None:
    """It is copied to small devices, where PyTorch cannot be installed."""
    tree = ast.parse(Path(streaming_mffm.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"__future__", "json", "numpy", "pathlib", "safetensors", "typing"}


def test_other_files_are_refused(tmp_path: Path) -> None:
    """The weights of another network could have the same shapes."""
    path = trained_statistics(script_a, "streaming-foot", tmp_path)
    about = describe(script_a, "streaming-foot") | {"model": "KineticsMFFMNet"}
    save_checkpoint(tmp_path / "other.safetensors", load_trained(path).network.state_dict(), about)
    with pytest.raises(ValueError, match="a KineticsMFFMNet, not a StreamingMFFMNet"):
        StreamingMFFM(tmp_path / "other.safetensors")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SafetensorError):
        StreamingMFFM(path)
