"""Models as ONNX: the same numbers as in PyTorch, and all that is needed to use the file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from common import about, checkpoints
from common.files import InputError
from tests.conftest import MEASURED, ROOT
from tests.files import usual_a
from tests.narrow import narrow_networks
from tools import export_onnx
from tools.command import start
from tools.exporting import graph, runtime
from tools.trained import Trained

SCRIPTS = [path.stem for path in sorted(ROOT.glob("Dataset_*.py"))]
STUDIES = {name: importlib.import_module(name).STUDY for name in SCRIPTS}
ROWS = [(name, row) for name, study in STUDIES.items() for row in study.rows]


def kind(name: str, row: str) -> tuple[str, int]:
    """Return what makes a row's network another one than those of other sensors."""
    study = STUDIES[name]
    modalities = study.sensor_sets[study.experiment(row).sensor_set].modalities
    return row.split("-")[0], len(modalities)


ONE_OF_EACH_KIND = list({kind(*place): place for place in reversed(ROWS)}.values())
QUICK = [  # seconds each; what they lack is in the test of the command, and in all rows
    ("Dataset_B_model_ablation", "early_gru"),
    ("Dataset_B_lmfn_tfn_fusion_models", "lmfn-all_imus_video"),
    ("Dataset_B_lmfn_tfn_fusion_models", "tfn-all_imus_video"),
    ("Dataset_A_ffn_hf_ffn_bilstm_convnet", "ffn_hf-all_imus_emg"),
    ("Dataset_B_ffn_hf_ffn_bilstm_convnet", "lstm-feet_pelvis"),
    ("Dataset_B_kinetics_fm_models", "dl-feet_pelvis"),
]
LIMIT_BYTES = 2**31  # of a protobuf message, which an ONNX file is


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make networks small; what they do stays."""
    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        for script in map(importlib.import_module, SCRIPTS):
            for network in ("BiLSTM", "KineticsMFFMNet", "AblationNet"):
                if hasattr(script, network):
                    defaults = getattr(script, network).__init__.__kwdefaults__
                    patch.setitem(defaults, "hidden_sizes", (8, 6))
        yield


@pytest.fixture
def packages() -> None:
    """Skip where there are no packages for exporting."""
    for name in runtime.PACKAGES:
        pytest.importorskip(name, reason=f"{name} of requirements-export.txt is not installed")


@pytest.fixture
def data(sample_files: dict[str, Path]) -> dict[str, Path]:
    """Files of both datasets, measured where there is one."""
    measured = MEASURED / "dataset_b" / "example_data.h5"
    return {**sample_files, "b": measured} if measured.exists() else sample_files


def untrained(script: ModuleType, row: str) -> Trained:
    """Build the model of a row with weights and statistics of which none is 0, 1 or forgotten."""
    torch.manual_seed(0)
    experiment = script.STUDY.experiment(row)
    model = experiment.model().eval().requires_grad_(False)
    for name, values in model.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2)
        elif values.is_floating_point() and values.unique().numel() == 1:
            values.normal_()
    return Trained(model, script, row, about.checkpoint(script.STUDY, experiment, "7", {}))


def save(trained: Trained, path: Path) -> Path:
    """Write the model's checkpoint."""
    checkpoints.save(trained.model.state_dict(), trained.about, path)
    return path


@pytest.fixture
def student(tmp_path: Path) -> tuple[Trained, Path]:
    """A student of Dataset A, and its checkpoint."""
    script = importlib.import_module("Dataset_A_Sensor_Distillation")
    trained = untrained(script, "student-foot_trunk")
    return trained, save(trained, tmp_path / "student.safetensors")


def check_parity(name: str, row: str, data: dict[str, Path], folder: Path) -> None:
    """Compare a row with PyTorch in several batches of random and of recorded windows."""
    trained = untrained(importlib.import_module(name), row)
    graph.write(trained, folder / "model.onnx")
    model = runtime.session(folder / "model.onnx")
    for windows in (
        export_onnx.random_windows(trained, 64),
        export_onnx.measured_windows(trained, data[trained.study.dataset], 64),
    ):
        for count in (1, 2, 64):
            part = {modality: values[:count] for modality, values in windows.items()}
            assert runtime.difference(trained, model, part) < runtime.TOLERANCE, count


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("name", "row"), QUICK)
def test_kinds_of_network_give_what_they_give_in_pytorch(
    name: str, row: str, data: dict[str, Path], tmp_path: Path
) -> None:
    """A wrong gate or a forgotten statistic would be a wrong force in somebody's application."""
    check_parity(name, row, data, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("name", "row"), ONE_OF_EACH_KIND)
def test_every_kind_of_row_gives_what_it_gives_in_pytorch(
    name: str, row: str, data: dict[str, Path], tmp_path: Path
) -> None:
    """Of every table; rows of other sensors have the same network with other channels."""
    check_parity(name, row, data, tmp_path)


@pytest.mark.usefixtures("packages")
def test_the_file_tells_what_it_reads_and_gives(
    student: tuple[Trained, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    sample_files: dict[str, Path],
) -> None:
    """Someone who is handed the file alone must feed it the right channels in the right units."""
    import onnx

    trained, checkpoint = student
    out = tmp_path / "exported" / "student.onnx"
    data = str(sample_files["a"])
    assert (
        export_onnx.main(["--checkpoint", str(checkpoint), "--out", str(out), "--data", data]) == 0
    )
    said = capfd.readouterr()
    assert [line.split(":")[0].strip() for line in said.out.splitlines()] == [
        "Exporting student-foot_trunk (KineticsMFFMNet) ...",
        "random windows",
        "measured windows",
        "ONNX",
    ]
    assert said.err == ""
    assert not recwarn.list
    model = runtime.session(out)
    shapes = {value.name: value.shape for value in (*model.get_inputs(), *model.get_outputs())}
    assert shapes == {
        "acc": ["batch", 100, 6],
        "gyr": ["batch", 100, 6],
        "targets": ["batch", 100, 7],
    }
    told = model.get_modelmeta().custom_metadata_map
    assert json.loads(told["about"]) == json.loads(json.dumps({"format": 1, **trained.about}))
    assert json.loads(told["inputs"])["gyr"] == {
        "unit": "rad/s",
        "channels": [f"{sensor}_Gyro_{axis}" for sensor in ("foot", "trunk") for axis in "XYZ"],
    }
    inner = onnx.load(out).graph
    assert "m/s²: foot_Accel_X, foot_Accel_Y" in inner.input[0].doc_string
    assert "ankle moment (BW·BH), GRF x (BW)" in inner.output[0].doc_string
    assert str(ROOT).encode() not in out.read_bytes()  # the exporter notes where the code lies


def write_at_once(trained: Trained, path: Path) -> None:
    """Stand in for what writes the graph, which takes seconds."""
    path.write_text(trained.row)


def test_a_file_that_differs_is_not_left(
    student: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may take it for the model; a file that was there before stays."""
    out = tmp_path / "model.onnx"
    out.write_text("the one before")
    monkeypatch.setattr(runtime, "check_installed", lambda: None)
    monkeypatch.setattr(graph, "write", write_at_once)
    monkeypatch.setattr(runtime, "session", lambda path: None)
    for difference in (1.1e-4, float("nan")):
        monkeypatch.setattr(runtime, "difference", lambda *_, found=difference: found)
        with pytest.raises(InputError, match=r"student-foot_trunk: onnxruntime differs .* nothing"):
            export_onnx.main(["--checkpoint", str(student[1]), "--out", str(out)])
    assert out.read_text() == "the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "student.safetensors"]


def test_what_cannot_be_written_or_read_is_named(
    student: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback names neither flag nor remedy, and a comparison on no window would pass."""
    monkeypatch.setattr(runtime, "check_installed", lambda: None)
    monkeypatch.setattr(graph, "write", write_at_once)
    monkeypatch.setattr(export_onnx, "compare", lambda *_: None)
    out = tmp_path / "model.onnx"
    out.mkdir()
    arguments = ["--checkpoint", str(student[1]), "--out", str(out)]
    with pytest.raises(InputError, match=r"model\.onnx: cannot be written .* another --out"):
        export_onnx.main(arguments)
    data = usual_a(tmp_path / "short.h5", rows=60)
    with pytest.raises(InputError, match=r"short\.h5: no trial as long as a window"):
        export_onnx.main([*arguments, "--data", str(data)])


def test_missing_packages_are_one_line(
    student: tuple[Trained, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are not in requirements.txt, so that most users meet this first."""
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    arguments = ["--checkpoint", str(student[1]), "--out", str(tmp_path / "model.onnx")]
    with pytest.raises(SystemExit, match="2"):
        start(lambda: export_onnx.main(arguments))
    assert capsys.readouterr().err == (
        "error: onnx, onnxruntime, onnxscript: not installed; "
        "python -m pip install -r requirements-export.txt\n"
    )
    assert {f"{name}>" for name in runtime.PACKAGES} == {
        line.partition(">")[0] + ">"
        for line in (ROOT / "requirements-export.txt").read_text().splitlines()
        if not line.startswith("#")
    }


def test_a_name_that_is_not_of_onnx_is_refused(student: tuple[Trained, Path]) -> None:
    """With the flags mixed up the checkpoint itself would be overwritten."""
    with pytest.raises(InputError, match=r"student\.safetensors: no name of an ONNX file"):
        export_onnx.main(["--checkpoint", str(student[1]), "--out", str(student[1])])


def test_no_row_is_too_large_for_a_file() -> None:
    """Above 2 GB the weights would have to be in files of their own."""
    script = importlib.import_module("Dataset_A_kinetics_fm_models")
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setitem(script.KineticsFMNet.__init__.__kwdefaults__, "hidden_sizes", (512, 256))
        largest = script.STUDY.experiment("dl-all_imus").model()
    assert sum(p.nbytes for p in largest.parameters()) < LIMIT_BYTES
