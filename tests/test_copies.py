"""Classes that can be copied out of a script, and copies between scripts that stay the same."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests import twins
from tests.conftest import ROOT

SCRIPTS = {path.stem: path.read_text() for path in sorted(ROOT.glob("Dataset_*.py"))}
ALLOWED = {"torch": torch, "nn": nn, "F": nn.functional, "Tensor": Tensor, "math": math}


def classes(source: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a script by name."""
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


MODELS = [
    pytest.param(script, name, id=f"{script}-{name}")
    for script, source in SCRIPTS.items()
    for name, node in classes(source).items()
    if any(ast.unparse(base) == "nn.Module" for base in node.bases)
]


def needs(node: ast.ClassDef) -> list[str]:
    """Return the names on the `Needs:` line of a docstring."""
    line = re.search(r"^Needs: (.+?)\n\n", ast.get_docstring(node), re.MULTILINE | re.DOTALL)[1]
    return [] if line == "nothing." else re.split(r",\s+", line)


def used_names(node: ast.ClassDef) -> set[str]:
    """Return the global names that the code of a class reads."""
    own = {n.name for n in ast.walk(node) if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    bound = {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    bound |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return read - own - bound - set(dir(builtins))


@pytest.mark.parametrize(("script", "name"), MODELS)
def test_a_model_needs_what_its_needs_line_says(script: str, name: str) -> None:
    """Someone who copies the class must learn from its docstring what else to copy."""
    found = classes(SCRIPTS[script])
    imported = {need.rpartition(".")[2] for need in needs(found[name]) if "." in need}
    wanted = {need for need in needs(found[name]) if "." not in need}
    reached, news = set(), {name}
    while news:
        reached |= news
        used = set().union(*(used_names(found[new]) for new in news if new in found))
        news = used - set(ALLOWED) - imported - reached
    assert reached - {name} == wanted


def standalone(script: str, name: str) -> dict[str, object]:
    """Run a class and what it needs in an empty namespace, as in an empty file."""
    found = classes(SCRIPTS[script])
    namespace = dict(ALLOWED)
    order = [need for need in needs(found[name]) if "." in need]
    for need in order:
        module, _, member = need.rpartition(".")
        namespace[member] = getattr(importlib.import_module(module), member)
    wanted = {name, *(need for need in needs(found[name]) if "." not in need)}
    for class_name, node in found.items():
        if class_name in wanted:
            text = ast.get_source_segment(SCRIPTS[script], node)
            exec(compile(text, class_name, "exec", dont_inherit=True), namespace)
    return namespace


@pytest.mark.parametrize(("script", "name"), MODELS)
def test_a_model_copied_into_an_empty_file_works(script: str, name: str) -> None:
    """The README promises that a class can be copied alone; its docstring's example is run."""
    namespace = standalone(script, name)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    test = parser.get_doctest(namespace[name].__doc__, namespace, name, None, 0)
    assert test.examples
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(("script", "name"), MODELS)
def test_a_model_documents_its_arguments(script: str, name: str) -> None:
    """Every argument of the constructor is in the docstring, which has all its sections."""
    node = classes(SCRIPTS[script])[name]
    docstring = ast.get_docstring(node)
    for section in ("Source:", "Needs:", "Args:", "Shape:", "Example:"):
        assert section in docstring, section
    arguments = docstring.partition("Args:")[2].partition("Shape:")[0]
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    for argument in [*init.args.args[1:], *init.args.kwonlyargs]:
        assert f"{argument.arg}:" in arguments, argument.arg
    assert len(init.args.args) <= 4  # past three arguments, keyword only


def test_copies_are_the_same() -> None:
    """Ten copies that drift apart are ten models: run `python tests/twins.py --write`."""
    assert twins.main([]) == 0


@pytest.mark.parametrize("dataset", ["A", "B"])
def test_the_scripts_of_a_dataset_have_the_same_sensors_and_targets(dataset: str) -> None:
    """A sensor set or a target that drifts in one script makes its rows another experiment."""
    names = ("SENSORS", "SENSOR_SETS", "TARGETS", "RATE_HZ", "WINDOW", "EPOCHS")
    scripts = [script for script in SCRIPTS if script.startswith(f"Dataset_{dataset}_")]
    modules = [importlib.import_module(script) for script in scripts]
    for name in names:
        values = [getattr(module, name) for module in modules]
        assert all(value == values[0] for value in values), name


def test_twins_finds_and_repairs_a_difference() -> None:
    """The check must see a change of one character, in a class and in a loss."""
    sources = {"Dataset_A_x.py": SOURCE, "Dataset_B_x.py": SOURCE.replace("* 2", "* 3")}
    repaired, differences = twins.repair(sources)
    assert [line.split(" ")[1] for line in differences] == ["rmse", "Net"]
    assert repaired["Dataset_B_x.py"] == SOURCE
    assert twins.repair(repaired)[1] == []
    own = {"Dataset_A_x.py": SOURCE, "Dataset_B_x.py": SOURCE.replace("a own", "b own")}
    assert twins.repair(own) == (own, [])
    same_dataset = {"Dataset_A_x.py": SOURCE, "Dataset_A_y.py": own["Dataset_B_x.py"]}
    assert [line.split(" ")[1] for line in twins.repair(same_dataset)[1]] == ["prepare"]


SOURCE = '''"""A script."""

def prepare():
    return "a own"

# Models ----

class Net:
    def forward(self, x):
        return x * 2

# Losses ----

def rmse(x):
    return x * 2

# Rows of the table ----
'''


def test_importing_a_script_does_nothing(tmp_path: Path) -> None:
    """`from Dataset_A_... import KineticsMFFMNet` must not read, write, print or seed."""
    code = f"""
import importlib, sys, torch
sys.path.insert(0, {str(ROOT)!r})
state = torch.get_rng_state()
for script in {list(SCRIPTS)}:
    importlib.import_module(script)
    assert torch.equal(state, torch.get_rng_state()), script
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_importing_brings_the_class() -> None:
    """The import that the README shows."""
    module: ModuleType = importlib.import_module("Dataset_A_Sensor_Distillation")
    assert issubclass(module.KineticsMFFMNet, nn.Module)
