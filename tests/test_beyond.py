"""The comparison of the rows of several runs: its samples, its statistics and its tables."""

from __future__ import annotations

import json
import shutil
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


def write_predictions(run: Path, row: str, samples: range, **settings: object) -> None:
    """Write the predictions of a row for subject 3, with a large error in the last samples."""
    chosen = np.array(samples)
    prediction = TRUTH[chosen] + 0.1 + 9.0 * (chosen >= 10)[:, None]
    path = run / "predictions" / f"{row}-subject_3.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, truth=TRUTH[chosen], prediction=prediction, sample=chosen, target=["KFM", "KAM"])
    settings = {"script": script.__name__.rpartition(".")[2], "seed": 1, **settings}
    (run / "config.json").write_text(json.dumps({"settings": settings, "calls": []}))


def test_all_rows_are_scored_on_the_same_samples(tmp_path: Path) -> None:
    """A windowed student must not win or lose by samples that a streaming one does not estimate."""
    rows = ["streaming-feet", "student-feet"]
    for seed, count in ((1, 12), (42, 10)):
        for row in rows:
            write_predictions(tmp_path / str(seed), row, range(count), seed=seed)
    predictions = evidence.find_predictions([tmp_path / "1", tmp_path / "42"])
    scores = evidence.score_predictions(predictions)
    expected = score(TRUTH[:10], TRUTH[:10] + 0.1, ["KFM", "KAM"])["nrmse_percent"]
    assert scores["row"].tolist() == np.repeat(rows, 4).tolist()
    for _, lines in scores.groupby(["row", "seed"]):
        np.testing.assert_allclose(lines["nrmse_percent"], expected)


def test_seeds_are_averaged_before_subjects_are_compared() -> None:
    """Two seeds of a person are not two persons: the interval would be too narrow."""
    lines = [
        {"row": row, "test_subject": subject, "seed": seed, "nrmse_percent": base + better * step}
        for subject, base, steps in (("1", 10.0, (1, 3)), ("2", 30.0, (2, 4)), ("3", 20.0, (6, 6)))
        for seed, step in zip((1, 42), steps, strict=True)
        for row, better in (("student_balanced-feet", 0), ("streaming_balanced-feet", -1))
    ]
    lines.append({**lines[0], "seed": 7})  # without the other row
    table = evidence.paired_differences(pd.DataFrame(lines))
    assert list(table["difference"]) == ["streaming_balanced-feet - student_balanced-feet"]
    assert table["mean"].item() == pytest.approx(-11 / 3)
    half = 4.302653 * np.std([2, 3, 6], ddof=1) / np.sqrt(3)  # t with 2 degrees of freedom
    assert table["95 % CI ±"].item() == pytest.approx(half)
    assert table["below 0"].item() == "3 of 3"
    assert table["seeds"].item() == 2


def test_runs_of_an_ablation_are_compared_with_the_first_run(tmp_path: Path) -> None:
    """Runs with different settings would be averaged as if they were seeds."""
    common = {"windows": "shifted", "max_rotation": 20.0, "epoch_factor": 2}
    for row in ("student-feet", "student_augmented-feet"):
        write_predictions(tmp_path / "all", row, range(12), **common)
        write_predictions(tmp_path / "no", row, range(10), **{**common, "max_rotation": 0.0})
    predictions = evidence.find_predictions([tmp_path / "all", tmp_path / "no"])
    varied = "student_augmented-feet (max_rotation 0.0)"
    assert sorted(predictions["row"]) == ["student-feet", "student_augmented-feet", varied]
    scores = evidence.score_predictions(predictions)
    table = evidence.paired_differences(scores).loc["other training - augmented"]
    assert table["difference"] == f"{varied} - student_augmented-feet"
    write_predictions(tmp_path / "other", "student-feet", range(12), **common, protocol="strict")
    with pytest.raises(InputError, match="protocol differs from"):
        evidence.find_predictions([tmp_path / "all", tmp_path / "other"])
    with pytest.raises(InputError, match="pass folders such as"):
        evidence.find_predictions([tmp_path])


def test_multiply_adds_are_those_of_the_layers() -> None:
    """The page states the cost of a streaming student; PyTorch misses fused layers."""
    network = row_named(script, "streaming-feet").network()
    inputs = [torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)]
    weights = sum(p.numel() for name, p in network.named_parameters() if ".weight" in name)
    shared = network.fusion.modality_weight.weight.numel()  # used once per modality
    assert evidence.count_multiply_adds(network, inputs) == weights + shared


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_tables_of_two_runs(synthetic_files: Files, tmp_path: Path) -> None:
    """The tables of the page could not be reproduced."""
    rows = ["student_balanced-feet", "streaming_balanced-feet", "student_augmented-feet"]
    flags = ["--data", str(synthetic_files["b"]), "--output-dir", str(tmp_path), "--epochs", "1"]
    flags += ["--batch-size", "16", "--rows", *rows, "--test-subjects", "2", "3"]
    runs = [tmp_path / "Dataset_B_streaming" / f"seed_{seed}" for seed in (1, 2)]
    with no_figures():
        for run, seed in zip(runs, (1, 2), strict=True):
            script.main([*flags, "--seed", str(seed), "--run-name", run.name])
    command = [*map(str, runs), "--out", str(tmp_path / "out")]
    assert evidence.main(command) == 0
    assert evidence.main([*command, "--data", str(synthetic_files["b"])]) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    overlapping = [row.replace("-", "_overlapping-") for row in rows if "student" in row]
    assert set(scores["row"]) == {*rows, *overlapping}
    assert (scores.groupby("row").size() == 2 * 2 * 5).all()
    assert (scores.groupby("test_subject")["n"].nunique() == 1).all()
    error = scores.groupby("row")["nrmse_percent"].mean()
    assert 0 < abs(error[overlapping[0]] - error[rows[0]]) < 0.3 * error[rows[0]]
    text = (tmp_path / "out" / "beyond.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    latency = {line[1]: line[-2] for line in lines if len(line) == 12}
    assert latency["student_balanced-feet"] == "750"
    assert latency["streaming_balanced-feet"] == "50"
    assert "| augmented - balanced " in text
    other = Path(shutil.copy(synthetic_files["a"], tmp_path / "other.h5"))
    with pytest.raises(InputError):
        evidence.main([*command, "--data", str(other)])
