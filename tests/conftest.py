"""Fixtures: one thread for PyTorch, small data and networks, and measured data if present.

The process that hands out the tests reads this file as well, and needs none of the project: its
modules are imported in the fixtures.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported, here and in other processes
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Folders = pytest.TempPathFactory
Files = dict[str, Path]  # small synthetic files by letter of the dataset
ROOT = Path(__file__).resolve().parents[1]
MEASURED = Path(os.environ.get("MEASURED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def synthetic_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return small synthetic files, by letter of the dataset; three subjects each."""
    from synthetic_gait import write_file

    folder = tmp_path_factory.mktemp("synthetic")
    for dataset, minutes in (("a", 0.11), ("b", 0.15)):
        write_file(folder / f"{dataset}.h5", dataset, subjects=3, minutes=minutes, seed=1)
    return {dataset: folder / f"{dataset}.h5" for dataset in "ab"}


@pytest.fixture(scope="session")
def example_b() -> Path:
    """Return the two measured subjects that the authors of Dataset B publish as an example."""
    path = MEASURED / "dataset_b" / "example_data.h5"
    if not path.exists():
        pytest.skip(f"the example file of Dataset B is not at {path}")
    return path


@pytest.fixture
def narrow() -> Iterator[None]:
    """Make the networks of all scripts small."""
    from tests.networks import narrow_networks

    with narrow_networks():
        yield


@pytest.fixture
def without_figures() -> Iterator[None]:
    """Draw no figures at the end of a run."""
    from tests.running import no_figures

    with no_figures():
        yield
