"""The README: every command and snippet in it is run, here or by `.ci/run`."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import Dataset_A_lmfn_tfn_fusion_models as fusion_a
from common import flags, study
from tests import predicting
from tests.conftest import ROOT
from tests.made_runs import write_run
from tests.narrow import narrow_networks
from tools import export_onnx, report

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
FULL_COMMANDS = [line for line in COMMANDS if "--run-name full" in line]  # days of training
SCRIPT_COMMANDS = [
    line for line in COMMANDS if line.startswith("python Dataset_") and line not in FULL_COMMANDS
]
REPORT_COMMANDS = [line for line in COMMANDS if line.startswith("python -m tools.report")]
TOOLS = ("predict", "export_onnx", "benchmark")
TOOL_COMMANDS = [
    line for line in COMMANDS if line.startswith(tuple(f"python -m tools.{tool}" for tool in TOOLS))
]
EXPORT_SET_UP = "python -m pip install -r requirements-export.txt"
SET_UP = "python -m pip install -r requirements.txt && "
RUN_ELSEWHERE = [
    *(*SCRIPT_COMMANDS, *FULL_COMMANDS, *REPORT_COMMANDS, *TOOL_COMMANDS),
    EXPORT_SET_UP,
]
OTHERS = [line for line in COMMANDS if line not in RUN_ELSEWHERE and SET_UP not in line]


def test_set_up_commands_are_those_of_ci() -> None:
    """The two commands a stranger starts with must be the two that are run before every landing."""
    ci = (ROOT / ".ci" / "run").read_text()
    set_up = [line for line in COMMANDS if line.startswith(SET_UP)]
    assert len(set_up) == 2
    for line in set_up:
        assert f"\n{line} || exit 1\n" in ci  # `set -e` does not see what stands before &&
    assert EXPORT_SET_UP in COMMANDS
    assert f"\n{EXPORT_SET_UP}\n" in ci


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    """Make the Kinetics-FM networks small."""
    with narrow_networks():
        yield


@pytest.mark.parametrize("command", SCRIPT_COMMANDS)
def test_script_commands_run(
    command: str,
    sample_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command copied from the README must do what stands beside it; here for one epoch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for dataset, path in sample_files.items():
        shutil.copy(path, tmp_path / "data" / f"dataset_{dataset}.h5")
    shutil.copy(sample_files["b"], tmp_path / "example_data.h5")
    name, *arguments = shlex.split(command)[1:]
    script = importlib.import_module(name.removesuffix(".py"))
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            script.main(arguments)
        assert "--test-subjects" in capsys.readouterr().out
        return
    rows = [] if "--rows" in arguments else ["--rows", script.EXPERIMENTS[1].row]
    if "--resume" in arguments:
        folder = tmp_path / "outputs" / script.STUDY.script.stem / "night"
        before = ["--run-name", folder.name, "--test-subjects", "all", *rows]
        script.main([*before, "--epochs", "1", "--device", "cpu", "--jobs", "1"])
    result = script.main([*arguments, *rows, "--epochs", "1", "--device", "cpu", "--jobs", "1"])
    is_whole = {"all", "--resume"} & set(arguments)
    assert result["test_subject"].nunique() == (3 if is_whole else 1)


def test_the_full_commands_are_the_ten_scripts() -> None:
    """A table of the paper whose script is not among them cannot be rebuilt."""
    scripts = sorted(shlex.split(command)[1] for command in FULL_COMMANDS)
    assert len(set(scripts)) == 10
    assert {path.name for path in ROOT.glob("Dataset_*.py")} <= set(scripts)


@pytest.mark.parametrize("command", FULL_COMMANDS)
def test_full_commands_ask_for_every_row_and_fold(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what they ask for: training it takes days. A script that is not there fails here."""
    asked = []
    monkeypatch.setattr(study, "run", lambda its_study, options: asked.append((its_study, options)))
    name, *arguments = shlex.split(command)[1:]
    importlib.import_module(name.removesuffix(".py")).main(arguments)
    [(its_study, options)] = asked
    assert options.data == flags.default_file(its_study.dataset)
    assert options.test_subjects == ["all"]
    assert options.rows is None
    assert options.run_name == "full"


@pytest.mark.parametrize("command", REPORT_COMMANDS)
def test_report_commands_run(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On runs where the ten commands leave theirs, and on those kept in `docs/results/`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    for script, row in (("Dataset_A_x", "lmfn-foot"), ("Dataset_B_x", "lmfn-feet")):
        folder = tmp_path / "outputs" / script / "full"
        rows = [(row, row.split("-")[1], 154545)]
        write_run(folder, script, rows, lambda row, subject, k: 5.0 + k, subjects=["7", "8"])
    arguments = [
        str(path)
        for argument in shlex.split(command)[3:]
        for path in (sorted(Path().glob(argument)) if "*" in argument else [argument])
    ]
    report.main(arguments)
    printed = capsys.readouterr().out
    if "--readme" in arguments:
        assert (tmp_path / "README.md").read_text() == README
    else:
        assert "lmfn-foot" in printed
        assert "lmfn-feet" in printed
        assert (tmp_path / "outputs" / "report" / "report.md").exists()


@pytest.mark.parametrize("command", TOOL_COMMANDS)
def test_tool_commands_run(
    command: str, sample_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small network with random weights; the benchmark on one row."""
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    if module == "tools.export_onnx":
        pytest.importorskip("onnxruntime", reason="requirements-export.txt is not installed")
    if module == "tools.benchmark":
        small = ["--batches", "1", "--repeats", "1", "--batch-size", "2", "--device", "cpu"]
        small = [*small, "--datasets", "a", "--rows", "ffn_hf-foot", "--parts", "training"]
        assert importlib.import_module(module).main([*arguments, *small]) == 0
        assert "`ffn_hf-foot`" in Path("outputs/benchmark/benchmark.md").read_text()
        return
    predicting.random_model(fusion_a, "lmfn-foot", tmp_path).rename("student.safetensors")
    Path("data").mkdir()
    shutil.copy(sample_files["a"], "data/dataset_a.h5")
    names = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
    with h5py.File("data/dataset_a.h5") as file:
        walk = file["All_subjects/Subject_7/Treadmill"][:, :6]
    walk = pd.DataFrame(walk, columns=names)
    walk.insert(0, "time", np.arange(len(walk)) / 200)
    walk.to_csv("walk.csv", index=False)
    assert importlib.import_module(module).main(arguments) == 0
    assert Path(arguments[arguments.index("--out") + 1]).exists()


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_run(
    command: str, raw: Path, sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """The commands that are no script, on a copy of the project; a small download is in camargo."""
    copy = tmp_path / "project"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "data", "__pycache__")
    )
    (copy / "data").mkdir()
    (copy / "camargo").symlink_to(raw)
    if "--out data/dataset_a.h5" not in command:  # else it is about to be made
        shutil.copy(sample_files["a"], copy / "data" / "dataset_a.h5")
    arguments = shlex.split(command.replace("--minutes 1", "--minutes 0.1"))
    assert arguments[0] == "python"
    subprocess.run([sys.executable, *arguments[1:]], cwd=copy, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("snippet", "windows"), list(zip(blocks("python"), (64, 1), strict=True)), ids=["torch", "onnx"]
)
def test_snippets_run(
    snippet: str, windows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippets that show how to use a model, in PyTorch and as ONNX."""
    if "onnxruntime" in snippet:
        pytest.importorskip("onnxruntime", reason="requirements-export.txt is not installed")
        checkpoint = predicting.random_model(fusion_a, "lmfn-foot", tmp_path)
        out = str(tmp_path / "student.onnx")
        export_onnx.main(["--checkpoint", str(checkpoint), "--out", out])
        monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(snippet, namespace)
    assert tuple(namespace["moments_and_forces"].shape) == (windows, 100, 7)


def test_every_flag_is_in_the_readme() -> None:
    """A flag that nobody can find does not exist."""
    parser = flags.parser("", dataset="a", rows=[], epochs=40, learning_rate=1e-3)
    flags.add_weight(parser, "--alpha", 0.5, "")
    flags.add_weight(parser, "--beta", 1.0, "")
    for action in parser._actions:
        if "--help" not in action.option_strings:
            assert f"`{action.option_strings[0]}" in README


def test_links_within_the_readme_lead_somewhere() -> None:
    """Headings and files that it points to are there."""
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
