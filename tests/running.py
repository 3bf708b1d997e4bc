"""A small script to run in tests, what a run leaves behind, and waiting for a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import Dataset_B_lmfn_tfn_fusion_models as script
from common import plots
from common.files import load_checkpoint

NAME = script.__name__
ROWS = ["lmfn-feet", "lmfn-feet_pelvis"]


def usual_flags(data: Path, output_dir: Path) -> list[str]:
    """Return the flags of a small run of two rows, four steps each."""
    return [
        *("--data", str(data), "--output-dir", str(output_dir), "--device", "cpu"),
        *("--jobs", "1", "--epochs", "2", "--batch-size", "16", "--rows", *ROWS),
    ]


def outcome(folder: Path) -> dict[str, object]:
    """Return every number of a run: metrics, losses, predictions and weights, bit for bit."""
    numbers: dict[str, object] = {"metrics": (folder / "metrics.csv").read_text()}
    lines = (folder / "history.csv").read_text().splitlines()
    numbers["history"] = [line.rpartition(",")[0] for line in lines]  # without the seconds
    for path in sorted(folder.glob("predictions/*.npz")):
        numbers[path.name] = np.load(path)["prediction"].tobytes()
    for path in sorted(folder.glob("checkpoints/*")):
        tensors = load_checkpoint(path).tensors
        numbers[path.name] = [(name, value.numpy().tobytes()) for name, value in tensors.items()]
    return numbers


def left_overs(folder: Path) -> list[Path]:
    """Return the files of a run that are half written, or states of unfinished trainings."""
    return [*folder.rglob("*.part"), *folder.glob("unfinished/*.pt")]


@contextmanager
def no_figures() -> Iterator[None]:
    """Draw no figures: they take most of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("comparison_figures", "distillation_figures", "ablation_figures"):
            patch.setattr(plots, name, lambda run, rows, test_subjects: None)
        yield


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for a condition; fail if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
