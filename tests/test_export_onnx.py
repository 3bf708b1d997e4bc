"""Exported models: what onnxruntime gives, against PyTorch, of every row that can be exported."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import about, checkpoints, training
from common.files import InputError
from tests.conftest import ROOT
from tests.narrow import narrow_networks
from tools import export_onnx
from tools.exporting import network, runtime
from tools.trained import Trained, restore

missing = [name for name in runtime.PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(
    bool(missing), reason=f"{missing} not installed: see requirements-export.txt"
)
SHORT_WINDOW = 16  # samples: the exporter goes through a recurrent layer step by step
SCRIPTS = [importlib.import_module(path.stem) for path in sorted(ROOT.glob("Dataset_*.py"))]
ROWS = [pytest.param(script, row, id=row) for script in SCRIPTS for row in script.STUDY.rows]
FEW = {  # a row of each class of network, and of each number of inputs
    "Dataset_A_Sensor_Distillation": ["teacher"],
    "Dataset_A_ffn_hf_ffn_bilstm_convnet": ["ffn_hf-foot_trunk", "lstm-foot", "conv2d-foot_trunk"],
    "Dataset_A_lmfn_tfn_fusion_models": ["lmfn-foot", "tfn-all_imus_emg"],
    "Dataset_B_kinetics_fm_models": ["dlr-feet"],
    "Dataset_B_model_ablation": ["early_gru"],
}
QUICK = [p for p in ROWS if p.values[1] in FEW.get(p.values[0].__name__, ())]


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make the Kinetics-FM networks small."""
    with narrow_networks():
        yield


def untrained(script: object, row: str, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return a row's network for short windows, in which every tensor matters."""
    study = dataclasses.replace(script.STUDY, window=SHORT_WINDOW)
    monkeypatch.setattr(script, "STUDY", study)
    torch.manual_seed(0)
    usual = study.experiment(row).model
    bound = inspect_arguments(usual)
    model = usual.func(**bound).eval().requires_grad_(False)
    for name, values in model.named_buffers():
        if name.endswith(("running_mean", "slope", "offset")):
            values.normal_()
        elif name.endswith("running_var"):
            values.uniform_(0.5, 2.0)
    return Trained(model, script, row, {"row": row, "model": usual.func.__name__})


def inspect_arguments(network_of: partial[nn.Module]) -> dict[str, object]:
    """Return the arguments of a network, for a short window."""
    arguments = about.arguments(network_of)
    return {**arguments, "window": SHORT_WINDOW} if "window" in arguments else arguments


def check_parity(trained: Trained, path: Path) -> None:
    """Export, and compare on random windows at three numbers of windows."""
    network.export(trained, path)
    session = runtime.session(path)
    assert [i.name for i in session.get_inputs()] == list(trained.sensor_set.modalities)
    batch = network.random_windows(trained, 64)
    for count in (1, 2, 64):
        part = {name: values[:count] for name, values in batch.items()}
        expected = trained.predict(part)
        assert expected.std() > 1e-3
        found = runtime.run(session, runtime.model_inputs(trained, part))
        assert np.abs(found - expected.numpy()).max() < 1e-4 * max(1, expected.abs().max())


@needs_onnx
@pytest.mark.parametrize(("script", "row"), QUICK)
def test_onnxruntime_gives_what_pytorch_gives(
    script: object, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong gate, a forgotten norm or a baked batch would give other moments on the device."""
    check_parity(untrained(script, row, monkeypatch), tmp_path / "model.onnx")


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("script", "row"), ROWS)
def test_every_row_can_be_exported(
    script: object, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README says that every row can."""
    check_parity(untrained(script, row, monkeypatch), tmp_path / "model.onnx")
