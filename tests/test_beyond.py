"""The comparison of streaming and windowed students: its data and its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import Dataset_B_sensor_distillation as script
from common.files import InputError
from common.metrics import score
from tools.beyond import __main__ as beyond

TRUTH = np.random.default_rng(0).normal(size=(12, 2))


def write_predictions(folder: Path, run: str, row: str, samples: range, error: float) -> None:
    """Write the predictions of a row for subject 3, wrong by `error` in the last samples."""
    chosen = np.array(samples)
    prediction = TRUTH[chosen] + 0.1
    prediction[chosen >= 10] += error
    path = folder / script.__name__ / run / "predictions" / f"{row}-subject_3.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, truth=TRUTH[chosen], prediction=prediction, sample=chosen, target=["KFM", "KAM"])


def test_all_rows_are_scored_on_the_same_samples(tmp_path: Path) -> None:
    """A windowed student must not win or lose by samples that a streaming one does not estimate."""
    calls = [beyond.Call(f"pooled-seed_{seed}", [], []) for seed in (1, 42)]
    for seed in (1, 42):
        write_predictions(tmp_path, f"pooled-seed_{seed}", "student-feet", range(12), error=9.0)
        write_predictions(tmp_path, f"pooled-seed_{seed}", "streaming-feet", range(10), error=9.0)
    scores = beyond.score_calls(script, tmp_path, calls)
    expected = score(TRUTH[:10], TRUTH[:10] + 0.1, ["KFM", "KAM"])["nrmse_percent"]
    assert set(scores["seed"]) == {"1", "42"}
    for _, lines in scores.groupby(["row", "seed"]):
        np.testing.assert_allclose(lines["nrmse_percent"], expected)


def test_differences_are_those_of_the_same_subject_and_seed() -> None:
    """Unpaired, the spread of the subjects would hide a difference, or show one by chance."""
    lines = [
        {"row": row, "test_subject": subject, "seed": seed, "nrmse_percent": base + better * step}
        for subject, base in (("1", 10.0), ("2", 30.0))
        for seed, step in (("1", 1.0), ("42", 3.0))
        for row, better in (("student-feet", 0), ("streaming-feet", -1))
    ]
    table = beyond.paired_differences(pd.DataFrame(lines), beyond.PLANS["b"])
    assert list(table.index) == ["streaming-feet - student-feet"]
    assert table["mean"].item() == pytest.approx(-2.0)
    assert table["SD"].item() == pytest.approx(np.std([-1, -3, -1, -3], ddof=1))
    assert table["below 0"].item() == "4 of 4"


def test_costs_are_those_of_the_networks(tmp_path: Path) -> None:
    """The delay is what a streaming student is for: 50 ms instead of a window and half of one."""
    folder = tmp_path / script.__name__ / "pooled-seed_42"
    folder.mkdir(parents=True)
    lines = "row,parameters\nstudent-feet,7\nstudent-feet,7\nstreaming-feet,5\n"
    (folder / "metrics.csv").write_text(lines)
    costs = beyond.row_costs(script, tmp_path, beyond.Call(folder.name, [], []))
    assert costs["parameters"].to_dict() == {"student-feet": 7, "streaming-feet": 5}
    assert costs["delay ms"].to_dict() == {"student-feet": 750, "streaming-feet": 50}
    per_sample = costs["multiply-adds per sample"]
    assert per_sample["streaming-feet"] < per_sample["student-feet"]


def test_a_mistyped_data_file_is_not_replaced_by_simulated_walking(tmp_path: Path) -> None:
    """The tables would look like those of people."""
    path = tmp_path / "measured.h5"
    flags = ["--out", str(tmp_path), "--datasets", "b", "--data", str(path)]
    with pytest.raises(InputError, match=r"measured\.h5: no such file"):
        beyond.main(flags)
    assert not path.exists()
