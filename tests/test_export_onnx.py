"""Exported models: what onnxruntime gives, against PyTorch, of every row that can be exported."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import Dataset_B_ffn_hf_ffn_bilstm_convnet as script_b
from common import about, checkpoints
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
SHORT = 4  # samples of a window: the exporter goes through a recurrent layer step by step
SHORT_CONVOLVED = 16  # the fewest that four poolings leave something of
SCRIPTS = [importlib.import_module(path.stem) for path in sorted(ROOT.glob("Dataset_*.py"))]
ROWS = [pytest.param(script, row, id=row) for script in SCRIPTS for row in script.STUDY.rows]
FEW = {  # a row of each class of network, and of each number of inputs
    "Dataset_A_Sensor_Distillation": ["distilled-foot"],
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
    usual = script.STUDY.experiment(row)
    described = about.model(script.STUDY, usual)
    arguments, window = described["arguments"], SHORT
    if "window" in arguments:
        window = arguments["window"] = SHORT_CONVOLVED
    monkeypatch.setattr(script, "STUDY", dataclasses.replace(script.STUDY, window=window))
    torch.manual_seed(0)
    model = usual.model.func(**arguments).eval().requires_grad_(False)
    for name, values in model.named_buffers():
        if name.endswith(("running_mean", "slope", "offset")):
            values.normal_()
        elif name.endswith("running_var"):
            values.uniform_(0.5, 2.0)
    return Trained(model, script, row, described)


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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of a small network, as a run writes it."""
    study, path = script_b.STUDY, tmp_path / "ffn.safetensors"
    experiment = study.experiment("ffn-feet")
    torch.manual_seed(0)
    described = about.checkpoint(study, experiment, "02", {"protocol": "paper"})
    checkpoints.save(experiment.model().state_dict(), described, path)
    return path


def export(checkpoint: Path, *more: str) -> Path:
    """Run the command; return where the ONNX file is to be."""
    path = checkpoint.with_name("model.onnx")
    export_onnx.main(["--checkpoint", str(checkpoint), "--out", str(path), *more])
    return path


@needs_onnx
def test_the_command_leaves_a_file_that_tells_what_it_is(
    checkpoint: Path, sample_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Who gets the file alone must know which channels to give, in which order and unit."""
    import onnx

    path = export(checkpoint, "--data", str(sample_files["b"]))
    printed = capsys.readouterr().out
    assert "random windows: differs from PyTorch by" in printed
    assert "measured windows: differs from PyTorch by" in printed
    model = onnx.load(path)
    onnx.checker.check_model(model)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["about"] == restore(checkpoint).about
    sensors = ("R_FOOT", "L_FOOT")
    assert metadata["channels"]["acc"] == [f"Accel{axis}_{s}" for s in sensors for axis in "XYZ"]
    acc, gyr = model.graph.input
    assert acc.doc_string.startswith("(batch, samples, channels) in m/s²: AccelX_R_FOOT, ")
    assert gyr.doc_string.startswith("(batch, samples, channels) in deg/s: GyroX_R_FOOT, ")
    assert "KAM (%BW·BH)" in model.graph.output[0].doc_string
    shape = [d.dim_param or d.dim_value for d in acc.type.tensor_type.shape.dim]
    assert shape == ["batch", 50, 6]


@needs_onnx
def test_measured_windows_give_the_same(checkpoint: Path, example_b: Path) -> None:
    """Random numbers are not walking: on measured windows the file must agree as well."""
    assert export(checkpoint, "--data", str(example_b)).exists()


@needs_onnx
def test_a_file_that_differs_is_not_left(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was exported wrongly must not end up on a device."""
    usual = runtime.run
    monkeypatch.setattr(runtime, "run", lambda *given: usual(*given) + np.float32(2e-4))
    with pytest.raises(InputError, match="onnxruntime and PyTorch differ by 2.0e-04 on random"):
        export(checkpoint)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_missing_packages_are_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in requirements.txt: the remedy must be said in one line."""
    monkeypatch.setattr(runtime, "PACKAGES", ("onnx_that_is_not_there",))
    with pytest.raises(InputError, match=r"onnx_that_is_not_there not .* requirements-export\.txt"):
        export(checkpoint)


def test_a_network_too_large_for_a_file_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before minutes of work that end in the exporter's own words."""
    monkeypatch.setattr(network, "LARGEST_BYTES", 1e6)
    with pytest.raises(InputError, match="more than an ONNX file can hold"):
        network.export(restore(checkpoint), checkpoint.with_name("model.onnx"))
