"""The comparison of streaming and windowed students: its data and its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from beyond import Dataset_B_streaming as script
from beyond import evidence
from common.files import InputError
from common.metrics import score
from tests.conftest import Files
from tests.networks import row_named
from tests.running import no_figures

TRUTH = np.random.default_rng(0).normal(size=(12, 2))


def write_predictions(run: Path, row: str, samples: range) -> None:
    """Write the predictions of a row for subject 3, with a large error in the last samples."""
    chosen = np.array(samples)
    prediction = TRUTH[chosen] + 0.1 + 9.0 * (chosen >= 10)[:, None]
    path = run / "predictions" / f"{row}-subject_3.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, truth=TRUTH[chosen], prediction=prediction, sample=chosen, target=["KFM", "KAM"])


def test_all_rows_are_scored_on_the_same_samples(tmp_path: Path) -> None:
    """A windowed student must not win or lose by samples that a streaming one does not estimate."""
    runs, rows = [tmp_path / "seed_1", tmp_path / "seed_42"], ["student-feet", "streaming-feet"]
    for run in runs:
        for row, count in zip(rows, (12, 10), strict=True):
            write_predictions(run, row, range(count))
    scores = evidence.score_runs(runs, rows)
    expected = score(TRUTH[:10], TRUTH[:10] + 0.1, ["KFM", "KAM"])["nrmse_percent"]
    assert scores["row"].tolist() == np.repeat(rows, 4).tolist()
    for _, lines in scores.groupby(["row", "seed"]):
        np.testing.assert_allclose(lines["nrmse_percent"], expected)


def test_differences_are_those_of_the_same_subject_and_seed() -> None:
    """Unpaired, the spread of the subjects would hide a difference, or show one by chance."""
    lines = [
        {"row": row, "test_subject": subject, "seed": seed, "nrmse_percent": base + better * step}
        for subject, base in (("1", 10.0), ("2", 30.0))
        for seed, step in (("1", 1.0), ("42", 3.0))
        for row, better in (("student_balanced-feet", 0), ("streaming_balanced-feet", -1))
    ]
    table = evidence.paired_differences(pd.DataFrame(lines), evidence.PLANS["b"])
    assert list(table.index) == ["streaming_balanced-feet − student_balanced-feet"]
    assert table["mean"].item() == pytest.approx(-2.0)
    assert table["SD"].item() == pytest.approx(np.std([-1, -3, -1, -3], ddof=1))
    assert table["below 0"].item() == "4 of 4"


def test_multiply_adds_are_those_of_the_layers() -> None:
    """The page states the cost of a streaming student; PyTorch misses fused layers."""
    network = row_named(script, "streaming-feet").network()
    inputs = [torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)]
    weights = sum(p.numel() for name, p in network.named_parameters() if ".weight" in name)
    shared = network.fusion.modality_weight.weight.numel()  # used once per modality
    assert evidence.count_multiply_adds(network, inputs) == weights + shared


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_the_command_trains_all_rows_and_writes_the_tables(
    synthetic_files: Files, tmp_path: Path
) -> None:
    """The tables of the page could not be reproduced."""
    flags = ["--out", str(tmp_path), "--datasets", "b", "--data", str(synthetic_files["b"])]
    with no_figures():
        assert evidence.main([*flags, "--test-subjects", "3", "--seeds", "1", "--epochs", "1"]) == 0
    scores = pd.read_csv(tmp_path / "scores_b.csv")
    assert scores["row"].unique().tolist() == evidence.PLANS["b"].rows
    assert scores["n"].nunique() == 1
    text = (tmp_path / "beyond.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    latency = {line[1]: line[-2] for line in lines if len(line) == 11}
    assert latency["student-feet"] == "750"
    assert latency["streaming-feet"] == "50"


def test_a_mistyped_data_file_is_not_replaced_with_simulated_walking(tmp_path: Path) -> None:
    """The tables would look like those of people."""
    path = tmp_path / "measured.h5"
    flags = ["--out", str(tmp_path), "--datasets", "b", "--data", str(path)]
    with pytest.raises(InputError, match=r"measured\.h5: no such file"):
        evidence.main(flags)
    assert not path.exists()
