"""Fixtures: one torch thread, tiny sample files, and the measured data where it exists."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from common.sample import write_sample

if TYPE_CHECKING:
    from tests.raw_tree import Walker

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

ROOT = Path(__file__).resolve().parents[1]
MEASURED = Path(os.environ.get("MEASURED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny sample files of both datasets, by letter."""
    folder = tmp_path_factory.mktemp("sample")
    for dataset, minutes in (("a", 0.11), ("b", 0.15)):
        write_sample(folder / f"{dataset}.h5", dataset, subjects=3, minutes=minutes, seed=1)
    return {dataset: folder / f"{dataset}.h5" for dataset in "ab"}


@pytest.fixture(scope="session")
def walkers() -> list[Walker]:
    """Two simulated subjects before they are measured: every kind of trial, and one of each."""
    from tests import raw_tree  # here, since it skips where mat-io is missing

    few = [raw_tree.NAMES[i] for i in (0, 1, 3, 5)]
    return [raw_tree.simulate_walker(7), raw_tree.simulate_walker(8, few)]


@pytest.fixture(scope="session")
def raw(walkers: list[Walker], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The download of the two walkers, the second one as MATLAB of 2018 wrote it. Do not change."""
    from tests import raw_tree

    root = tmp_path_factory.mktemp("camargo")
    for walker in walkers:
        raw_tree.write_walker(root, walker, of_2018=walker.number == 8)
    raw_tree.write_people(root, walkers)
    return root


@pytest.fixture(scope="session")
def example_b() -> Path:
    """The two measured subjects that Dataset B's authors publish as an example."""
    path = MEASURED / "dataset_b" / "example_data.h5"
    if not path.exists():
        pytest.skip(f"the example file of Dataset B is not at {path}")
    return path


@pytest.fixture
def few(raw: Path, tmp_path: Path) -> Path:
    """A download of two trials of subject 8, on the ramp and on the treadmill, to be spoilt."""
    root = tmp_path / "camargo"
    for activity in ("ramp", "treadmill"):
        shutil.copytree(raw / "AB08/10_14_18" / activity, root / "AB08/10_14_18" / activity)
    shutil.copy(raw / "SubjectInfo.mat", root)
    return root
