"""Classes that can be copied, copies that stay the same, and how little else a reader needs."""

from __future__ import annotations

import ast
import builtins
import doctest
import graphlib
import importlib
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

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


CLASSES = {script: classes(source) for script, source in SCRIPTS.items()}
MODELS = [
    (script, name)
    for script, found in CLASSES.items()
    for name, node in found.items()
    if any(ast.unparse(base) == "nn.Module" for base in node.bases)
]
FIRST_COPIES = {name: (script, name) for script, name in reversed(MODELS)}.values()


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
def test_a_model_needs_exactly_the_names_on_its_needs_line(script: str, name: str) -> None:
    """A user who copies the class must learn from its docstring what else to copy."""
    found = CLASSES[script]
    imported = {need.rpartition(".")[2] for need in needs(found[name]) if "." in need}
    listed = {need for need in needs(found[name]) if "." not in need}
    reached, new = set(), {name}
    while new:
        reached |= new
        used = set().union(*(used_names(found[one]) for one in new if one in found))
        new = used - set(ALLOWED) - imported - reached
    assert reached - {name} == listed


def standalone(script: str, name: str) -> dict[str, object]:
    """Execute a class and the names that it needs in an empty namespace, as in an empty file."""
    found = CLASSES[script]
    namespace = dict(ALLOWED)
    for need in needs(found[name]):
        module, _, member = need.rpartition(".")
        if module:
            namespace[member] = getattr(importlib.import_module(module), member)
    for class_name, node in found.items():
        if class_name in {name, *needs(found[name])}:
            text = ast.get_source_segment(SCRIPTS[script], node)
            exec(compile(text, class_name, "exec", dont_inherit=True), namespace)
    return namespace


@pytest.mark.parametrize(("script", "name"), FIRST_COPIES)
def test_a_model_copied_into_an_empty_file_works(script: str, name: str) -> None:
    """The README promises it; the example in the docstring is run."""
    namespace = standalone(script, name)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    test = parser.get_doctest(namespace[name].__doc__, namespace, name, None, 0)
    assert test.examples
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def signature(node: ast.FunctionDef) -> list[str]:
    """Return the names of a function's arguments, without `self`."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in arguments if argument.arg != "self"]


def documented(docstring: str) -> list[str]:
    """Return the names in the `Args:` section; each must begin a line of its own."""
    section = re.search(r"^Args:\n((?: {4}.*\n)+)", docstring + "\n", re.MULTILINE)[1]
    return re.findall(r"^ {4}(\w+): ", section, re.MULTILINE)


@pytest.mark.parametrize(("script", "name"), MODELS)
def test_a_model_documents_its_arguments_one_per_line(script: str, name: str) -> None:
    """A user finds every argument where they expect it, as in the docs of PyTorch."""
    node = CLASSES[script][name]
    docstring = ast.get_docstring(node)
    for section in ("Source:", "Needs:", "Args:", "Shape:", "Example:"):
        assert re.search(f"^{section}", docstring, re.MULTILINE), section
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    assert documented(docstring) == signature(init)
    assert len(init.args.args) <= 4  # past three arguments, keyword only


def test_copies_are_the_same() -> None:
    """Ten copies that drift apart are ten models: run `python tests/twins.py --write`."""
    done = subprocess.run(
        [sys.executable, "-S", twins.__file__], capture_output=True, text=True, check=False
    )  # -S: a plain Python without packages must be enough
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("Dataset_A")])
def test_both_datasets_are_trained_in_the_same_steps(name: str) -> None:
    """Many tests train only one script of a pair; correlation networks of B have more epochs."""
    other = next(n for n in SCRIPTS if n.lower() == name.lower().replace("_a_", "_b_"))
    steps = [twins.definitions(SCRIPTS[script]) for script in (name, other)]
    one, two = (next(d.text for d in found if d.name == "train_and_test") for found in steps)
    assert one == two.replace(
        "epochs, criterion = args.correlation_epochs, correlation_loss",
        "criterion = correlation_loss",
    )


SOURCE = '''"""A script."""

# Data ----

WINDOW = 100  # samples
LEARNING_RATE = 1e-3

def convert():
    return "a"

# Models ----

class Net:
    def forward(self, x):
        return x * 2

# Losses ----

def rmse(x):
    return x * 2

# Rows of the table ----

def inputs(x):
    return [x]

# Training ----

def train(network):
    return network(1)

# Running ----

def main():
    return train
'''


def change(*changes: tuple[str, str]) -> str:
    """Return the source with some texts replaced."""
    changed = SOURCE
    for old, new in changes:
        assert changed.count(old) == 1
        changed = changed.replace(old, new)
    return changed


def differing(*changes: tuple[str, str], script: str = "Dataset_B_x.py") -> list[str]:
    """Return the names that differ between a script and an edited copy of it; repair them."""
    committed = {"Dataset_A_x.py": SOURCE, script: SOURCE}
    edited = {**committed, script: change(*changes)}
    lines = twins.differences(edited)
    repaired, problems = twins.repair(edited, committed)
    assert problems == twins.differences(repaired) == []
    assert repaired[script] == edited[script]  # an edit is never lost
    return [line.split(" ")[1] for line in lines]


def test_twins_finds_and_repairs_a_difference() -> None:
    """The check must see a change of one character in a class, a loss and the training loop."""
    assert differing(("network(1)", "network(2)")) == ["train"]
    assert differing(("return x * 2\n\n# Losses", "return x * 3\n\n# Losses")) == ["Net"]
    assert differing(("return x * 2\n\n# Rows", "return x * 3\n\n# Rows")) == ["rmse"]


def test_twins_never_overwrites_an_edit() -> None:
    """The alphabetically first script used to replace an edit anywhere else."""
    edit, other = ("network(1)", "network(2)"), ("network(1)", "network(3)")
    names = "Dataset_A_x.py", "Dataset_B_x.py", "Dataset_B_y.py"
    committed = dict.fromkeys(names, SOURCE)
    for script in names:
        repaired, problems = twins.repair({**committed, script: change(edit)}, committed)
        assert (repaired, problems) == (dict.fromkeys(names, change(edit)), [])
    same = {**committed, names[1]: change(edit), names[2]: change(edit)}
    assert twins.repair(same, committed) == (dict.fromkeys(names, change(edit)), [])
    new = {**committed, "Dataset_A_new.py": SOURCE, names[0]: change(edit)}
    assert set(twins.repair(new, committed)[0].values()) == {change(edit)}
    loss = ("return x * 2\n\n# Rows", "return x * 3\n\n# Rows")
    conflict = {**committed, names[1]: change(edit, loss), names[2]: change(other)}
    repaired, (problem,) = twins.repair(conflict, committed)
    assert problem.startswith("train: edited differently in Dataset_B_x.py, Dataset_B_y.py since")
    assert repaired == {**conflict, names[0]: change(loss), names[2]: change(other, loss)}
    problems = twins.repair(conflict, conflict)[1]
    assert all(": not edited since the last" in line for line in problems)


def test_twins_writes_the_edited_copy_or_nothing(tmp_path: Path) -> None:
    """`--write` must find the edit through git, and must not guess without it."""
    folder = tmp_path / "tests"
    folder.mkdir()
    shutil.copy(twins.__file__, folder)
    paths = [tmp_path / name for name in ("Dataset_A_x.py", "Dataset_B_x.py")]
    for path in paths:
        path.write_text(SOURCE)

    def write() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", str(folder / "twins.py"), "--write"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    edited = change(("network(1)", "network(2)"))
    paths[1].write_text(edited)
    done = write()
    assert (done.returncode, paths[0].read_text(), done.stderr) == (1, SOURCE, "")
    assert "no git history to find the edited copy" in done.stdout
    paths[1].write_text(SOURCE)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    paths[1].write_text(edited)
    done = write()
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.read_text() for path in paths] == [edited, edited]


def test_twins_compares_data_within_a_dataset_and_allows_a_family_its_own() -> None:
    """Rows of other sensors cannot be compared; learning rate, rows and `main` may differ."""
    changes = ('return "a"', 'return "b"'), ("100  # samples", "50  # samples")
    assert differing(*changes) == []
    assert differing(*changes, script="Dataset_A_y.py") == ["WINDOW", "convert"]
    changes = ("1e-3", "3e-4"), ("return [x]", "return x"), ("return train", "return 1")
    assert differing(*changes, script="Dataset_A_y.py") == []


def test_twins_wants_all_sections_and_a_training_loop_in_every_script() -> None:
    """A script whose loop has moved elsewhere, or a heading that is misspelt, is not guarded."""
    assert twins.missing(SOURCE) == []
    for text in ("# Losses ----", "# Training ----", "# Running ----"):
        (problem,) = twins.missing(SOURCE.replace(text, ""))[:1]
        assert problem.startswith("the sections must be Models, Losses, ")
    renamed = SOURCE.replace("def train(", "def fit(")
    assert twins.missing(renamed) == ["no train in the section Training"]


# What a reader needs besides the script ----------------------------------------------------------


def common_imports(source: str) -> list[tuple[str, str]]:
    """Return the names that a file imports from `common`, with their modules."""
    return [
        (node.module if node.module != "common" else f"common.{alias.name}", alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "common"
        for alias in node.names
    ]


COMMON = {f"common.{path.stem}": path.read_text() for path in sorted(ROOT.glob("common/[a-z]*.py"))}
DEPENDS_ON = {name: {module for module, _ in common_imports(COMMON[name])} for name in COMMON}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_needs_few_names(script: str) -> None:
    """To read a script, a newcomer must learn at most a dozen helpers, of them eight types."""
    names = [name for _, name in common_imports(SCRIPTS[script])]
    assert len(names) <= 12
    assert sum(name[0].isupper() for name in names) <= 8


def test_helpers_can_be_read_one_after_the_other() -> None:
    """A module is understood once those it imports are: no cycles, and at most five levels."""
    graphlib.TopologicalSorter(DEPENDS_ON).prepare()  # CycleError for a cycle

    def level(module: str) -> int:
        return 1 + max(map(level, DEPENDS_ON[module]), default=0)

    assert max(map(level, DEPENDS_ON)) <= 5


@pytest.mark.parametrize("file", [*SCRIPTS, *COMMON])
def test_nothing_but_the_paper(file: str) -> None:
    """Whoever reads the paper's code must not have to know about what goes beyond it."""
    text = {**SCRIPTS, **COMMON}[file]
    assert not re.findall(r"(?i)streaming|lookahead|balanc(?:ed|ing)", text)
    if file in COMMON:  # which knows no script, no row and no network
        assert not re.findall(r"(?m)^class .*nn\.Module|Dataset_[AB]_|teacher|student", text)
        assert not re.findall(r"(?:import|from) (?:tools|beyond)", text)


IMPORT_ALL = """
import importlib, sys
import torch
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
sys.path.insert(0, {root!r})
state = torch.get_rng_state()
for script in {scripts}:
    importlib.import_module(script)
    assert torch.equal(state, torch.get_rng_state()), script
data = [path for path in opened if path.endswith((".h5", ".csv", ".json", ".safetensors"))]
assert not [path for path in data if path.startswith((".", "data", "outputs", {root!r}))], data
"""


def test_importing_a_script_does_nothing(tmp_path: Path) -> None:
    """`from Dataset_A_... import KineticsMFFMNet` must not read, write, print or seed."""
    code = IMPORT_ALL.format(root=str(ROOT), scripts=list(SCRIPTS))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
