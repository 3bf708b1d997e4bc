"""ONNX export: same numbers as PyTorch, and a file that describes how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from beyond import Dataset_A_streaming as streaming
from common.cli import run_main
from common.files import InputError, save_checkpoint
from tests.conftest import MEASURED, ROOT, Capture, Files, Patch
from tests.files import write_random_a
from tests.networks import SCRIPTS, row_named
from tests.predicting import describe
from tools.export_onnx import graph, runtime
from tools.export_onnx.__main__ import main
from tools.trained import Trained

BY_NAME = {script.__name__: script for script in SCRIPTS}
ROWS = [(name, row.name) for name, script in BY_NAME.items() for row in script.ROWS]


def kind(script: str, row: str) -> tuple[str, int]:
    """Return what distinguishes the network of a row, apart from its sensors."""
    sensor_set = row_named(BY_NAME[script], row).sensor_set
    return row.split("-")[0], len(BY_NAME[script].SENSOR_SETS[sensor_set].modalities)


QUICK = [  # seconds each; the students are in tests of their own
    ("Dataset_B_model_ablation", "early_gru"),
    ("Dataset_B_lmfn_tfn_fusion_models", "lmfn-all_imus_video"),
    ("Dataset_B_lmfn_tfn_fusion_models", "tfn-all_imus_video"),
    ("Dataset_A_ffn_hf_ffn_bilstm_convnet", "ffn_hf-all_imus_emg"),
    ("Dataset_B_ffn_hf_ffn_bilstm_convnet", "lstm-feet_pelvis"),
    ("Dataset_B_kinetics_fm_models", "dl-feet_pelvis"),
]
ONE_OF_EACH_KIND = [
    place if place in QUICK else pytest.param(*place, marks=pytest.mark.slow)
    for place in {kind(*place): place for place in [*reversed(ROWS), *QUICK]}.values()
]
pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def packages() -> None:
    """Skip the test if the packages for exporting are not installed."""
    for name in runtime.PACKAGES:
        pytest.importorskip(name, reason=f"{name} of requirements-export.txt is not installed")


@pytest.fixture
def data(synthetic_files: Files) -> dict[str, Path]:
    """Files of both datasets, a measured one if there is one."""
    measured = MEASURED / "dataset_b" / "example_data.h5"
    return {**synthetic_files, "b": measured} if measured.exists() else synthetic_files


def untrained(script: ModuleType, row_name: str) -> Trained:
    """Build the network of a row with random weights and statistics, none of them 0 or 1."""
    torch.manual_seed(0)
    row = row_named(script, row_name)
    network = row.network().eval().requires_grad_(False)
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2)
        elif values.is_floating_point() and values.unique().numel() == 1:
            values.normal_()
    return Trained(network, script, row, describe(script, row_name))


@pytest.fixture
def student(tmp_path: Path) -> tuple[Trained, Path]:
    """A student of Dataset A and its checkpoint."""
    trained = untrained(BY_NAME["Dataset_A_Sensor_Distillation"], "student-foot_trunk")
    path = tmp_path / "student.safetensors"
    save_checkpoint(path, trained.network.state_dict(), trained.description)
    return trained, path


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("script", "row"), ONE_OF_EACH_KIND)
def test_onnx_agrees_with_pytorch(script: str, row: str, data: Files, tmp_path: Path) -> None:
    """A swapped gate or a missing statistic would mean wrong forces in somebody's application."""
    trained, path = untrained(BY_NAME[script], row), tmp_path / "network.onnx"
    graph.write(trained, path)
    assert runtime.BATCH_SIZES == (1, 2, 64)
    recorded = runtime.recorded_windows(trained.script, data[trained.script.DATASET], 64)
    runtime.check_difference(trained, path, runtime.random_windows(trained.script, 64), "random")
    runtime.check_difference(trained, path, recorded, "recorded")


@pytest.mark.usefixtures("packages")
def test_file_describes_its_inputs_and_outputs(
    student: tuple[Trained, Path],
    tmp_path: Path,
    capfd: Capture,
    recwarn: pytest.WarningsRecorder,
    synthetic_files: Files,
) -> None:
    """Users who get only the file could not tell which channels, in which units, to feed it."""
    import onnx

    trained, checkpoint = student
    out = tmp_path / "exported" / "student.onnx"
    data = str(synthetic_files["a"])
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), "--data", data]) == 0
    printed, errors = capfd.readouterr()
    assert "recorded windows" in printed
    assert errors == ""  # the exporter's messages are for its developers
    assert not recwarn.list
    session = runtime.open_session(out)
    values = (*session.get_inputs(), *session.get_outputs())
    assert {value.name: value.shape for value in values} == {
        "acc": ["batch", 100, 6],
        "gyr": ["batch", 100, 6],
        "targets": ["batch", 100, 7],
    }
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["about"]) == {"format": 1, **trained.description}
    assert json.loads(metadata["inputs"])["gyr"] == {
        "unit": "rad/s",
        "channels": [f"{sensor}_Gyro_{axis}" for sensor in ("foot", "trunk") for axis in "XYZ"],
    }
    exported = onnx.load(out).graph
    assert "m/s²: foot_Accel_X, foot_Accel_Y" in exported.input[0].doc_string
    assert "ankle moment (BW·BH), GRF antero-posterior (BW)" in exported.output[0].doc_string
    assert str(ROOT).encode() not in out.read_bytes()  # the exporter notes where the code is


@pytest.mark.usefixtures("packages")
def test_streaming_network_carries_its_state(tmp_path: Path) -> None:
    """A device would get wrong forces from the second sample on, or forces of another moment."""
    trained = untrained(streaming, "distilled_streaming-foot")
    checkpoint, out = tmp_path / "student.safetensors", tmp_path / "student.onnx"
    save_checkpoint(checkpoint, trained.network.state_dict(), trained.description)
    assert main(["--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    session = runtime.open_session(out)
    values = (*session.get_inputs(), *session.get_outputs())
    assert {value.name: value.shape for value in values} == {
        "acc": ["batch", "samples", 3],
        "gyr": ["batch", "samples", 3],
        "state": ["batch", 84],  # per modality an LSTM (two states) and a GRU of 6 and of 8 units
        "targets": ["batch", "samples", 7],
        "new_state": ["batch", 84],
    }
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["inputs"])["state"] == {"units": 84, "start": 0}
    assert metadata["lookahead"] == "10"  # samples: 50 ms at 200 Hz
    assert json.loads(metadata["about"])["arguments"]["lookahead"] == 10
    acc, gyr = torch.randn(2, 3, 40, 3, generator=torch.Generator().manual_seed(1))
    expected = trained.network(acc, gyr)
    state, outputs = np.zeros((3, 84), np.float32), []
    for part in (slice(0, 1), slice(1, 2), slice(2, 9), slice(9, 40)):
        inputs = {"acc": acc[:, part].numpy(), "gyr": gyr[:, part].numpy(), "state": state}
        output, state = session.run(None, inputs)
        outputs.append(output)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), expected, atol=1e-5)

    class Forgetful:  # the command's own comparison must fail if the state gets lost
        def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return session.run(names, inputs | {"state": np.zeros_like(inputs["state"])})

    windows = runtime.random_windows(trained.script, 2)
    assert runtime.streamed_difference(trained, Forgetful(), windows) > runtime.TOLERANCE


@pytest.fixture
def quick_export(monkeypatch: Patch) -> None:
    """Replace the writing of the graph, which takes seconds."""
    monkeypatch.setattr(runtime, "check_installed", lambda: None)
    monkeypatch.setattr(graph, "write", lambda trained, path: path.write_text(trained.row.name))
    monkeypatch.setattr(graph, "is_exported", lambda _: True)
    monkeypatch.setattr(runtime, "open_session", lambda path: None)
    monkeypatch.setattr(runtime, "difference", lambda *_: 0.0)


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize("difference", [1.1e-4, float("nan")])
@pytest.mark.parametrize(
    ("row", "function"),
    [("student-foot", "difference"), ("streaming-foot", "streamed_difference")],
)
def test_network_that_differs_is_not_written(
    row: str, function: str, difference: float, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Somebody would use a wrong network, or lose the right one that was there before."""
    trained = untrained(streaming, row)
    checkpoint, out = tmp_path / "student.safetensors", tmp_path / "network.onnx"
    save_checkpoint(checkpoint, trained.network.state_dict(), trained.description)
    out.write_text("the one before")
    monkeypatch.setattr(runtime, function, lambda *_: difference)
    with pytest.raises(InputError, match=rf"{row}: onnxruntime differs .* nothing"):
        main(["--checkpoint", str(checkpoint), "--out", str(out)])
    assert out.read_text() == "the one before"
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["network.onnx", "student.safetensors"]


@pytest.mark.usefixtures("quick_export")
def test_unusable_files_are_named(student: tuple[Trained, Path], tmp_path: Path) -> None:
    """A traceback names no fix; with the flags swapped, the checkpoint would be overwritten."""
    out = tmp_path / "network.onnx"
    out.mkdir()
    data = write_random_a(tmp_path / "short.h5", samples=60)
    arguments = ["--checkpoint", str(student[1]), "--out", str(out)]
    for flags, message in (
        ([], r"network\.onnx: exists and is not a file; choose another --out"),
        (
            ["--data", str(data), "--out", str(tmp_path / "new.onnx")],
            r"short\.h5: no trial or step as long as a window",
        ),
        (["--out", str(student[1])], r"student\.safetensors: not the name of an ONNX file"),
    ):
        with pytest.raises(InputError, match=message):
            main([*arguments, *flags])


def test_missing_packages_are_one_line(
    student: tuple[Trained, Path], tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """The packages are not in requirements.txt, so this is the first thing most users see."""
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    arguments = ["--checkpoint", str(student[1]), "--out", str(tmp_path / "network.onnx")]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: main(arguments))
    assert capsys.readouterr().err == (
        "error: onnx, onnxruntime, onnxscript: not installed; "
        "python -m pip install -r requirements-export.txt\n"
    )
    lines = (ROOT / "requirements-export.txt").read_text().splitlines()
    required = {line.partition(">")[0] for line in lines if not line.startswith("#")}
    assert set(runtime.PACKAGES) == required
