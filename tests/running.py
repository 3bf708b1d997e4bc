"""A small script to run in tests, copies of it, what a run writes, and other processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import Dataset_B_lmfn_tfn_fusion_models as script
from common.files import load_checkpoint
from common.runs import Run

NAME = script.__name__
ROWS = ["lmfn-feet", "lmfn-feet_pelvis"]


def usual_flags(data: Path, output_dir: Path) -> list[str]:
    """Return the flags of a small run of two rows, four steps each."""
    return [
        *("--data", str(data), "--output-dir", str(output_dir), "--device", "cpu"),
        *("--epochs", "2", "--batch-size", "16", "--rows", *ROWS),
    ]


def copy_script(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """Write a copy of the script with some text replaced, as a user would edit it."""
    text = Path(script.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def load_script(path: Path) -> ModuleType:
    """Import a script from its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(folder: Path) -> dict[str, object]:
    """Return every number of a run: metrics, losses, predictions and weights, bit for bit."""
    numbers: dict[str, object] = {"metrics": (folder / "metrics.csv").read_text()}
    lines = (folder / "history.csv").read_text().splitlines()
    numbers["history"] = [line.rpartition(",")[0] for line in lines]  # without the seconds
    for path in sorted(folder.glob("predictions/*.npz")):
        numbers[path.name] = np.load(path)["prediction"].tobytes()
    for path in sorted(folder.glob("checkpoints/*.safetensors")):
        tensors = load_checkpoint(path).tensors
        numbers[path.name] = [(name, value.numpy().tobytes()) for name, value in tensors.items()]
    return numbers


def left_overs(folder: Path) -> list[Path]:
    """Return the files of a run that are half written, or states of unfinished rows."""
    return [*folder.rglob("*.part"), *folder.glob("unfinished/*.pt")]


@contextmanager
def no_figures() -> Iterator[None]:
    """Draw no figures: they take most of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_draw", lambda run, metrics, rows: None)
        yield


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for a condition; fail if it does not become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


def run_python(
    *arguments: str, folder: Path, seconds: float = 500, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in another process; fail with the stacks of all its processes if they hang.

    Returns when the last process that inherited its output has ended, so that one left behind by a
    process that was killed is found, too.

    Args:
        arguments: arguments of the interpreter.
        folder: working directory.
        seconds: time limit.
        variables: further environment variables.
    """
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **variables, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # each process prints its stacks
            output, complaint = process.communicate(timeout=30)
            pytest.fail(f"still running after {seconds} s: {command}\n{output}\n{complaint}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output, complaint)
