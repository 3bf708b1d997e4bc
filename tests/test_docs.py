"""README, changelog and docs: commands and snippets run, links work, flags are described.

Commands are the lines of blocks marked `bash`, snippets are blocks marked `python`. Each page is
followed from top to bottom in a folder of its own, with tiny data and narrow networks. What cannot
run here (a download, a cluster) is in blocks without a language.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType

import h5py
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure

import Dataset_A_Sensor_Distillation as distillation_a
from beyond import Dataset_A_streaming as streaming_a
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.made_runs import SCRIPT, make_run
from tests.networks import narrow_networks
from tools.dataset_a import DATASET_A_COLUMNS

PAGES = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.md"))),
]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
PREDICT = "docs/predict_and_export.md"
LONG = (  # pages with long commands
    *("README.md", "docs/beyond.md", "docs/real_time.md"),
    "docs/new_people_and_sensors.md",
)
ELSEWHERE = (PREDICT, "docs/your_own_data.md")  # pages that are followed in tests of their own
INSTALL = "python -m pip install -r "
SET_UP = f"{INSTALL}requirements.txt && "
FULL = "--run-name full"
LOOP = re.compile(r"for script in (\S+); do (.*); done")
TINY = ["--epochs", "1", "--device", "cpu"]
BENCHMARK = "--datasets a --rows ffn_hf-foot --parts training --batches 1 --repeats 1"
MORE_FLAGS = {  # that make a command quick
    "tools.fine_tune": ["--steps", "2", "--epochs", "2"],  # of four in the small file
    "tools.benchmark": [*BENCHMARK.split(), "--batch-size", "2", "--device", "cpu"],
    "tools.prepare_dataset_a": ["--jobs", "1"],
    "tools.report": ["--no-figures"],
    "synthetic_gait": ["--minutes", "0.1"],
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and content of the fenced blocks of a page; the language may be empty."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", TEXT[page], re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(content)) for _, language, content in found]


def lines_to_run(block: str) -> Iterator[str]:
    """Yield the commands of a block, with loops over scripts unrolled."""
    for line in block.splitlines():
        if loop := LOOP.fullmatch(line):
            pattern, command = loop.groups()
            for path in sorted(ROOT.glob(pattern)):
                yield command.replace("$script", path.name)
        else:
            yield line


def commands(page: str) -> list[str]:
    """Return the commands of a page."""
    return [
        command
        for language, block in blocks(page)
        for command in lines_to_run(block)
        if language == "bash"
    ]


ALL_COMMANDS = [command for page in PAGES for command in commands(page)]
FULL_COMMANDS = [command for command in commands("README.md") if FULL in command]


def load_script(name: str) -> ModuleType:
    """Import a script by its file name, or by its module name in `beyond`."""
    return importlib.import_module(name.removesuffix(".py"))


def is_script(name: str) -> bool:
    """Return whether a file or a module is one of the scripts."""
    return re.match(r"(beyond\.)?Dataset_", name) is not None


def load_command(name: str) -> ModuleType:
    """Import the module that `python -m name` runs."""
    is_package = importlib.util.find_spec(name).submodule_search_locations is not None
    return importlib.import_module(f"{name}.__main__" if is_package else name)


# The place where a page is followed ---------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Make the networks of all scripts small, and the files of figures empty."""
    with narrow_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())
        yield


@pytest.fixture(scope="module")
def inputs(synthetic_files: Files, tmp_path_factory: Folders) -> Path:
    """Return a folder with the files that the pages assume: data, a recording, a checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    for letter, path in synthetic_files.items():
        shutil.copy(path, folder / "data" / f"dataset_{letter}.h5")
    with h5py.File(synthetic_files["a"]) as file:
        treadmill = file["All_subjects/Subject_7/Treadmill"][:]
    walk = pd.DataFrame(treadmill[:, :6], columns=DATASET_A_COLUMNS[:6])
    walk.insert(0, "time", walk.index / distillation_a.RATE_HZ)
    walk.to_csv(folder / "walk.csv", index=False)
    names = [f"{kind}_{axis}" for kind in ("Acc", "Gyr") for axis in "YXZ"]
    device = walk.set_axis(["SampleTimeFine", *names], axis="columns")
    device["SampleTimeFine"] *= 1e6
    device.to_csv(folder / "device.csv", index=False)
    mapping = re.search(r"```\n(yours,ours\n.*?)```", TEXT[PREDICT], re.DOTALL)[1]
    (folder / "my_sensor.csv").write_text(mapping, encoding="utf-8")
    where = ["--data", str(synthetic_files["a"]), "--output-dir", str(folder / "outputs")]
    for script, row in ((distillation_a, "student-foot"), (streaming_a, "streaming-foot")):
        script.main([*where, "--rows", row, "--run-name", "first", *TINY])
    for checkpoint in folder.glob("outputs/*/first/checkpoints/*"):
        checkpoint.rename(folder / f"{checkpoint.name.partition('-')[0]}.safetensors")
    shutil.rmtree(folder / "outputs")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: Folders) -> Path:
    """Return a simulated download of Dataset A: two subjects, a trial of each activity."""
    raw_tree = importlib.import_module("tests.raw_tree")
    folder = tmp_path_factory.mktemp("camargo")
    trials = [trial for trial in raw_tree.TRIALS if trial[1].endswith("01_01")]  # one per activity
    walkers = [raw_tree.simulate_walker(number, trials, duration_s=2.0) for number in (7, 8)]
    for walker in walkers:
        raw_tree.write_walker(folder, walker)
    raw_tree.write_people(folder, walkers)
    return folder


@pytest.fixture
def place(inputs: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return a new folder with these files and the docs, as the working directory."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands -----------------------------------------------------------------------------------------


def run_command(command: str) -> None:
    """Run a command of a page, on little data and for one epoch."""
    if command.startswith("cat "):  # cat FILE | COMMAND
        file, _, command = command.removeprefix("cat ").partition(" | ")
        with Path(file).open(encoding="utf-8") as lines, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", lines)
            run_command(command)
        return
    program, *arguments = shlex.split(command)
    assert program == "python", command
    words = arguments[1:] if arguments[0] == "-m" else arguments
    if is_script(words[0]):
        run_script(load_script(words[0]), words[1:])
    elif arguments[0] == "-m":
        name, arguments = words[0], expand(words[1:])
        if name == "tools.prepare_dataset_a":
            if not Path("camargo").exists():  # there is no mat-io for Python 3.10
                return
            Path("data/dataset_a.h5").unlink()  # it is not replaced if another command wrote it
        status = load_command(name).main([*arguments, *MORE_FLAGS.get(name, [])])
        allowed = (0, 1) if name == "tools.check_data" else (0, None)  # 1: it warns
        assert status in allowed, command
    else:  # a file of the repository, on a copy of the scripts
        for path in (*ROOT.glob("Dataset_*.py"), ROOT / arguments[0]):
            copy = Path(path.relative_to(ROOT))
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def run_script(script: ModuleType, arguments: list[str]) -> None:
    """Run a script for one epoch and one test subject, by default with its smallest row."""
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            script.main(arguments)
        return
    if not {"--rows", "--resume"} & set(arguments):
        last = script.ROWS[-1 if script.__name__.endswith("fusion_models") else 1]
        arguments = [*arguments, "--rows", last.name]
    flags = " ".join(arguments).replace("--test-subjects all", "").split()
    metrics = script.main([*flags, *TINY])
    assert len(metrics)


def expand(arguments: list[str]) -> list[str]:
    """Expand `*` as a shell does."""
    return [
        str(path)
        for argument in arguments
        for path in (sorted(Path().glob(argument)) if "*" in argument else [argument])
    ]


def follow(page: str, has_onnx: bool) -> None:
    """Run the commands and snippets of a page from top to bottom."""
    for language, block in blocks(page):
        if language == "bash":
            for command in lines_to_run(block):
                if not command.startswith(INSTALL) and ("onnx" not in command or has_onnx):
                    run_command(command)
        elif language == "python" and ("onnxruntime" not in block or has_onnx):
            namespace: dict[str, object] = {}
            exec(block, namespace)
            result = namespace.get("moments_and_forces")
            assert result is None or tuple(result.shape)[-2:] in ((100, 7), (7,))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in LONG else page
        for page in PAGES
        if page not in ELSEWHERE
    ],
)
def test_page_can_be_followed(page: str, place: Path, request: pytest.FixtureRequest) -> None:
    """A command that is copied from a page must work; the export to ONNX has its own test."""
    if "prepare_dataset_a" in TEXT[page] and importlib.util.find_spec("matio"):
        (place / "camargo").symlink_to(request.getfixturevalue("raw"))
    if "outputs/*/full" in TEXT[page] and FULL not in TEXT[page]:
        make_run(place / "outputs" / SCRIPT / "full")
    follow(page, has_onnx=False)
    if "--readme docs/results.md" in TEXT[page]:
        assert Path("docs/results.md").read_text(encoding="utf-8") == TEXT["docs/results.md"]


def test_export_page_can_be_followed(place: Path) -> None:
    """Prediction, export and the snippet that runs the exported network."""
    pytest.importorskip("onnxruntime", reason="requirements-export.txt is not installed")
    assert (place / "student.safetensors").exists()
    follow(PREDICT, has_onnx=True)
    for name in ("prediction.csv", "prediction.json", "prediction.png"):
        assert (place / "outputs" / "walk" / name).exists()
    assert (place / "outputs" / "device" / "prediction.csv").exists()


def test_copied_class_runs_with_the_imports_of_the_page() -> None:
    """docs/models.md lists the classes and imports that a new file needs."""
    section = (
        TEXT["docs/models.md"].partition("## Use one in your own code")[2].partition("\n## ")[0]
    )
    *_, imports = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    sentence = " ".join(section.split())
    pattern = r"For `(\w+)` these are `(\w+)`, `(\w+)` and `(\w+)`"
    net, *names = re.search(pattern, sentence).groups()
    classes = [inspect.getsource(getattr(distillation_a, name)) for name in (*names, net)]
    namespace: dict[str, object] = {}
    exec(compile("\n".join([imports, *classes]), "copy", "exec", dont_inherit=True), namespace)
    student = namespace[net](channels=(3, 3), targets=7)
    window = torch.zeros(2, 100, 3)
    assert student(window, window).shape == (2, 100, 7)


def test_set_up_commands_are_those_of_ci() -> None:
    """The two commands of a new user must be the two that are run before every change."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    first = [line for line in ALL_COMMANDS if line.startswith(SET_UP)]
    assert first == [
        f"{SET_UP}python Dataset_A_Sensor_Distillation.py --jobs 2",
        f"{SET_UP}python -m pytest",
    ]
    for line in first:
        assert f"\n{line} || exit 1\n" in ci  # `set -e` ignores what stands before &&
    others = {line for line in ALL_COMMANDS if line.startswith(INSTALL) and line not in first}
    for line in others:
        assert f"\n{line}\n" in ci


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("Dataset_*.py"))])
def test_full_commands_ask_for_every_row_and_fold(name: str, monkeypatch: Patch) -> None:
    """A table with a missing row or subject would only be noticed after days of training."""

    class AskedError(Exception):
        pass

    def run(file: str, args: object, *_: object, **__: object) -> None:
        raise AskedError(args)

    [arguments] = [line.split()[2:] for line in FULL_COMMANDS if line.split()[1] == name]
    script = load_script(name)
    monkeypatch.setattr(script, "Run", run)
    with pytest.raises(AskedError) as asked:
        script.main(arguments)
    args = asked.value.args[0]
    assert args.data == Path(f"data/dataset_{script.DATASET}.h5")
    assert args.test_subjects == ["all"]
    assert args.rows == [row.name for row in script.ROWS]
    assert args.epochs == script.EPOCHS
    assert args.run_name == "full"


UNRUN = [
    line
    for page in PAGES
    for language, block in blocks(page)
    for line in block.replace("\\\n", "").splitlines()
    if not language and re.match(r"python (Dataset_|-m tools\.(?!make_dataset))", line)
]


@pytest.mark.parametrize("command", UNRUN)
def test_commands_that_cannot_run_here_have_valid_flags_and_rows(
    command: str, monkeypatch: Patch
) -> None:
    """They need data or a cluster, but a flag or a row that does not exist fails at once."""
    _, *words = shlex.split(command)
    if words[0] == "-m":
        args = load_command(words[1])._parser().parse_args(words[2:])
        rows = getattr(args, "rows", None)
        scripts = [load_script(path.name) for path in ROOT.glob("Dataset_*.py")]
    else:
        scripts, asked = [load_script(words[0])], []
        monkeypatch.setattr(
            scripts[0], "Run", lambda _, args, *__, **___: asked.append(args) or nullcontext()
        )
        with suppress(AttributeError):  # there is no run
            scripts[0].main(words[1:])
        rows = asked[0].rows
    assert set(rows or ()) <= {row.name for script in scripts for row in script.ROWS}


# Text ---------------------------------------------------------------------------------------------


def test_every_flag_is_described(capsys: Capture) -> None:
    """A flag that no page describes will not be found."""
    tools = [f"tools.{p.stem}" for p in ROOT.glob("tools/*") if "ArgumentParser(" in source(p)]
    assert len(tools) >= 6
    text = "".join(TEXT.values())
    commands = [*tools, "synthetic_gait", "beyond.evidence"]
    for module in (distillation_a, *map(load_command, commands)):
        with pytest.raises(SystemExit, match="0"):
            module.main(["--help"])
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out))
        assert flags
        missing = {flag for flag in flags - {"--help"} if f"`{flag}" not in text}
        assert not missing, module.__name__


def source(path: Path) -> str:
    """Return the text of a command, a file or a folder with `__main__.py`; else nothing."""
    file = path / "__main__.py" if path.is_dir() else path
    return file.read_text(encoding="utf-8") if file.is_file() and file.suffix == ".py" else ""


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as repository pages form them."""
    without_code = re.sub(r"^ *```.*?^ *```$", "", TEXT[page], flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    names = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert page == "CHANGELOG.md" or len(names) == len(set(names)), page
    return set(names)


@pytest.mark.parametrize("page", PAGES)
def test_links_work(page: str) -> None:
    """Pages, headings, figures and files that a page points to exist."""
    targets = re.findall(r"\]\(([^)\s]+)\)", TEXT[page])
    for target in [*targets, *re.findall(r'<img src="([^"]+)"', TEXT[page])]:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(str(path.relative_to(ROOT))), target


def test_citation_file_is_valid() -> None:
    """Repository pages and archives read it, and show nothing if it is not."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    for entry in (citation, citation["preferred-citation"]):
        assert {"title", "authors", "type"} <= set(entry)
        assert all({"name", "family-names"} & set(author) for author in entry["authors"])
    assert {"message", "version", "license"} <= set(citation)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])


def test_readme_leads_to_every_page() -> None:
    """A page that cannot be reached from the README will not be read."""
    reached, new = set(), {"README.md"}
    while new:
        reached |= new
        links = {
            ((ROOT / page).parent / target).resolve()
            for page in new
            for target in re.findall(r"\]\(([^)#\s]+\.md)", TEXT[page])
        }
        new = {page for page in PAGES if (ROOT / page).resolve() in links} - reached
    assert reached == set(PAGES)
