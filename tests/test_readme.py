"""The README: every command and snippet in it is run, here or by `.ci/run`."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import flags
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
SCRIPT_COMMANDS = [line for line in COMMANDS if line.startswith("python Dataset_")]
SET_UP = "python -m pip install -r requirements.txt && "
OTHERS = [line for line in COMMANDS if line not in SCRIPT_COMMANDS and SET_UP not in line]


def test_set_up_commands_are_those_of_ci() -> None:
    """The two commands a stranger starts with must be the two that are run before every landing."""
    ci = (ROOT / ".ci" / "run").read_text()
    set_up = [line for line in COMMANDS if line.startswith(SET_UP)]
    assert len(set_up) == 2
    for line in set_up:
        assert f"\n{line} || exit 1\n" in ci  # `set -e` does not see what stands before &&


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
    result = script.main([*arguments, *rows, "--epochs", "1", "--device", "cpu"])
    assert result["test_subject"].nunique() == (3 if "all" in arguments else 1)


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


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_run(snippet: str) -> None:
    """The snippet that shows how to use a model."""
    namespace: dict[str, object] = {}
    exec(snippet, namespace)
    assert tuple(namespace["moments_and_forces"].shape) == (64, 100, 7)


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
