"""The calculated cost of the whole study, with which a user decides whether to start it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from common.files import InputError
from tools.benchmark.study import cost_of_row, read_measured, seconds_per_window
from tools.benchmark.training import choose_cases


@pytest.mark.slow
def test_cost_of_a_row_follows_from_its_layers() -> None:
    """A wrong count would make a study of weeks look like one of days.

    `student-foot` of A: 190,169,600 multiply-adds per window (confirmed layer by layer in
    test_benchmark.py), 1,863,304 weights, 600 values per window.
    """
    [case] = choose_cases(["a"], ["student-foot"])
    cost = cost_of_row(case, {"a": 320_000, "b": 0}, tera_multiply_adds_per_s=4, gb_per_s=300)
    windows, training, validation = 60_800, 48_640, 12_160  # of 19 subjects
    multiply_adds = 190_169_600 * (3 * training + validation) * 40 * 20
    read = 4 * (600 * windows + 10 * 1_863_304 * training / 64) * 40 * 20
    assert cost["10¹⁵ multiply-adds"] == pytest.approx(multiply_adds / 1e15)
    assert cost["TB"] == pytest.approx(read / 1e12)
    assert cost["GPU, hours, at least"] == pytest.approx(multiply_adds / 4e12 / 3600)
    assert cost["window-epochs"] == training * 40 * 20


def test_unmeasured_rows_are_extrapolated_by_their_multiply_adds() -> None:
    """Rows that nobody measured would count as free, or end the command."""
    rows = pd.DataFrame(
        [("A", "student-foot", 10), ("A", "student-all_imus", 20), ("A", "dl-foot", 100)],
        columns=["dataset", "row", "multiply-adds"],
    )
    measured_s = {("A", "student-foot"): 2.0}
    assert seconds_per_window(rows, measured_s).tolist() == pytest.approx([2.0, 4.0, 20.0])


def test_measurements_are_checked_before_anything_is_counted(tmp_path: Path) -> None:
    """Five minutes of counting would end with the news that the file cannot be used."""
    rows = [
        {"dataset": dataset, "row": "x", "device": "cpu", "batches": 2, "ours_s": 64}
        for dataset in "AB"
    ]
    file = tmp_path / "benchmark.json"
    results = {"settings": {"threads": 1, "batch_size": 16}, "training": rows}
    file.write_text(json.dumps(results))
    assert read_measured(file) == {("A", "x"): 2.0, ("B", "x"): 2.0}
    file.write_text(json.dumps({**results, "training": rows[:1]}))
    with pytest.raises(InputError, match="nothing measured on one CPU thread for dataset B"):
        read_measured(file)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"benchmark.json: not the results of tools.benchmark"):
        read_measured(file)
