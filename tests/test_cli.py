"""Terminals, pipes and environments in which commands are run, and errors that cross processes."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from common.cli import run_main
from common.files import InputError, load_checkpoint
from common.training import DivergedError
from tests.conftest import ROOT, Patch
from tests.running import script


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp932"])
def test_a_terminal_that_lacks_a_character_does_not_end_a_run(
    encoding: str, monkeypatch: Patch
) -> None:
    """The final table has ± and ²; hours of training must not end at them."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    with pytest.raises(SystemExit, match="0"):
        run_main(lambda: print("R² 0.9 ± 0.1"))
    assert shown.getvalue().startswith(b"R")
    assert b" 0.9 " in shown.getvalue()


def test_a_closed_pipe_stops_the_printing_and_not_the_work(tmp_path: Path) -> None:
    """`python Dataset_A_... | head -1` must still train, and save its results."""
    path = tmp_path / "result"
    code = """
from common.cli import run_main
import pathlib, sys
def main():
    for i in range(20000):
        print(i)
    pathlib.Path(sys.argv[1]).write_text(str(i))
run_main(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    assert path.read_text() == "19999"


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">/dev/full 2>&1", "2>&-"])
@pytest.mark.parametrize("is_quiet", [False, True])
def test_output_that_cannot_be_written_stops_the_printing_and_not_the_work(
    redirection: str, is_quiet: bool, tmp_path: Path
) -> None:
    """A log file on a full disk must cost lines, not days of training, and must not pass unseen."""
    path = tmp_path / "result"
    text = "" if is_quiet else "print('text', flush=True);"
    code = (
        "import pathlib, sys; from common.cli import run_main\n"
        f"def main(): {text} pathlib.Path(sys.argv[1]).write_text('done')\n"
        "run_main(main)"
    )
    command = f'"$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert path.read_text() == "done"
    is_lost = "/dev/full" in redirection and not is_quiet
    assert done.returncode == (1 if is_lost else 0)
    line = "error: standard output: No space left on device; some of it is missing\n"
    assert done.stderr == (line if is_lost and "2>" not in redirection else "")


def test_ctrl_c_is_not_changed_for_a_program_that_only_imports(tmp_path: Path) -> None:
    """A user's own program cleans up after Ctrl-C as before; only commands end with one line."""
    path = tmp_path / "program.py"
    path.write_text(
        "import signal, sys\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "from common.cli import ArgumentParser\n"
        "assert signal.getsignal(signal.SIGINT) == before\n"
        "assert sys.excepthook is sys.__excepthook__\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(path)], env=environment, check=True)


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing"])
def test_data_and_checkpoints_that_are_no_files_are_named(kind: str, tmp_path: Path) -> None:
    """A pipe must not hang a script, and a folder exists, whatever is wrong with it."""
    path = tmp_path / "path"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    reason = {"folder": "is a folder", "pipe": "is a pipe or", "missing": "no such file"}[kind]
    with pytest.raises(InputError, match=f"{path}: {reason}.*; pass an HDF5 file with --data"):
        script.main(["--data", str(path), "--output-dir", str(tmp_path)])
    with pytest.raises(InputError, match=f"{path}: {reason}"):
        load_checkpoint(path)


def test_figures_need_no_latex(tmp_path: Path, monkeypatch: Patch) -> None:
    """A matplotlibrc for papers asks for LaTeX, which a cluster lacks, after days of training."""
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\naxes.formatter.limits: 0, 0\nfont.size: 40\n"
    )
    code = (
        "from common import plots, files; from matplotlib.figure import Figure; "
        "from pathlib import Path; import sys\n"
        "with plots.figure_style():\n"
        "    figure = Figure(); figure.subplots().set_title('a_b')\n"
        "    files.write_figure(Path(sys.argv[1]) / 'figure.png', figure)"
    )
    monkeypatch.setenv("PATH", "")  # no LaTeX
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_figures_need_no_backend(backend: str, tmp_path: Path) -> None:
    """A notebook's `!python` inherits MPLBACKEND, whose module need not be installed."""
    code = (
        "from common import plots; from matplotlib.figure import Figure; "
        f"Figure().savefig({str(tmp_path / 'figure.png')!r})"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size


def exceptions() -> list[type[Exception]]:
    """Return every exception class of `common`."""
    modules = [import_module(f"common.{path.stem}") for path in ROOT.glob("common/[a-z]*.py")]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception)
        if value.__module__.startswith("common.")
    }
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", exceptions())
def test_an_error_of_a_worker_reaches_the_user(kind: type[Exception]) -> None:
    """An exception that cannot be unpickled ends as a traceback about something else."""
    error = kind("epoch 2: not finite")
    if kind is DivergedError:
        error.best_weights = {"bias": torch.tensor([1.0, 2.0])}
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "epoch 2: not finite"
    assert repr(vars(copy)) == repr(vars(error))
