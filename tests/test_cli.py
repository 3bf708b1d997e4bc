"""Terminals, pipes and environments in which commands are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

START = "from common.cli import run_main; import pathlib, sys; "


def run_code(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the project, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", START + code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_a_terminal_that_lacks_a_character_does_not_end_a_run(encoding: str) -> None:
    """The final table has ± and ²; hours of training must not end at them."""
    code = "run_main(lambda: print('R\\u00b2 0.9 \\u00b1 0.1'))"
    done = run_code(code, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("R")


def test_a_closed_pipe_stops_the_printing_and_not_the_work(tmp_path: Path) -> None:
    """`python Dataset_A_... | head -1` must still train, and save its results."""
    path = tmp_path / "result"
    code = (
        "exec('def main():\\n"
        "  for i in range(20000): print(i)\\n"
        "  pathlib.Path(sys.argv[1]).write_text(str(i))\\n'); run_main(main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", START + code, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    assert path.read_text() == "19999"


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_figures_need_no_backend(backend: str, tmp_path: Path) -> None:
    """A notebook's `!python` inherits MPLBACKEND, whose module need not be installed."""
    code = (
        "from common import plots; from matplotlib.figure import Figure; "
        f"Figure().savefig({str(tmp_path / 'figure.png')!r})"
    )
    done = run_code(code, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size
