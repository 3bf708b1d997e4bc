"""The error for rotated sensors: nothing changes at 0 degrees, and a rotation keeps lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from beyond import Dataset_A_streaming as script
from beyond import rotations
from tests.conftest import Files
from tests.predicting import random_network


def test_a_rotation_turns_both_signals_of_a_sensor_alike() -> None:
    """A sensor that is mounted differently turns as a whole."""
    acc = torch.randn(20, 6)
    samples = {"acc": acc, "gyr": 2 * acc, "emg": torch.ones(20, 2)}
    rotated = rotations.rotate(samples, 2, 30, seed=1)
    torch.testing.assert_close(rotated["gyr"], 2 * rotated["acc"])
    assert rotated["emg"] is samples["emg"]
    before, after = (values.unflatten(-1, (2, 3)) for values in (acc, rotated["acc"]))
    torch.testing.assert_close(before.norm(dim=-1), after.norm(dim=-1))
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(rotations.rotate(samples, 2, 0, seed=1)["acc"], acc)


@pytest.mark.usefixtures("narrow")
def test_the_table_has_a_column_per_angle(synthetic_files: Files, tmp_path: Path) -> None:
    """The evidence for robust students is read from it."""
    recording = script.read(synthetic_files["a"])
    rows = ["streaming-foot", "student-foot"]
    paths = [str(random_network(script, row, tmp_path, recording)) for row in rows]
    flags = ["--data", str(synthetic_files["a"]), "--degrees", "0", "90", "--draws", "2"]
    table = rotations.main(["--checkpoints", *paths, *flags])
    assert table.index.tolist() == rows
    assert table.columns.tolist() == [0, 90]
    assert (table[0] != table[90]).all()
