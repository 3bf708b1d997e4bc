"""The report's table beyond the paper: streaming students beside the windowed ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.made_runs import TARGETS, make_run
from tools.report.__main__ import main
from tools.report.runs import load_results
from tools.report.streaming import streaming_tables

ROWS = [
    ("student-foot", "foot", 1_863_304),
    ("distilled-foot", "foot", 1_863_304),
    ("streaming-foot", "foot", 1_000_000),
    ("distilled_streaming-foot", "foot", 1_000_000),
    ("teacher", "all_imus_emg", 3_324_424),
]
LATE = 10  # samples of the default delay, 50 ms


def write_predictions(
    run: Path, row: str, subject: str, error: np.ndarray, has_samples: bool = True
) -> None:
    """Write a truth from 0 to 1 in all targets and a prediction with errors `(samples,)`."""
    targets = TARGETS["A"]
    count = len(error)
    truth = np.tile(np.arange(count)[:, None] % 11 / 10, len(targets)).astype(np.float32)
    arrays = {"sample": np.arange(count) + 1000} if has_samples else {}
    (run / "predictions").mkdir(exist_ok=True)
    np.savez(
        run / "predictions" / f"{row}-subject_{subject}.npz",
        truth=truth,
        prediction=truth + error[:, None].astype(np.float32),
        activity=np.full(count, "Ramp"),
        target=np.array(list(targets)),
        unit=np.array(list(targets.values())),
        **arrays,
    )


def alternating(size: float, count: int, last: float | None = None) -> np.ndarray:
    """Return errors of a size, of which the last ones may have another."""
    error = size * (-1.0) ** np.arange(count)
    if last is not None:
        error[-LATE:] = last
    return error


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of streaming and windowed students with one IMU, two of three subjects tested."""
    folder = make_run(tmp_path / "run", rows=ROWS, tested=["7", "8"])
    for i, subject in enumerate(("7", "8")):
        for row in ("student-foot", "distilled-foot"):  # bad where the others estimate nothing
            write_predictions(folder, row, subject, alternating(0.05 + 0.02 * i, 110, last=9.0))
        for row in ("streaming-foot", "distilled_streaming-foot"):
            write_predictions(folder, row, subject, alternating(0.04, 110 - LATE))
    return folder


def table_of(*runs: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells of the table by row, and its notes."""
    [results] = load_results(runs)
    table, _ = streaming_tables(results)
    return pd.DataFrame(table.rows).set_index("row"), table.notes


def test_rows_are_scored_on_the_samples_that_all_estimate(run: Path, tmp_path: Path) -> None:
    """Windowed students would be judged by samples that the streaming ones may leave out."""
    table, _ = table_of(run)
    assert list(table.index) == [row for row, *_ in ROWS[:4]]  # the teacher has other sensors
    assert str(table["NRMSE %"]["student-foot"]) == "6.00 ± 1.41"  # 5 and 7 of a range of 1
    assert str(table["NRMSE %"]["streaming-foot"]) == "4.00 ± 0.00"
    assert table["PCC"]["streaming-foot"].mean > table["PCC"]["student-foot"].mean > 0.9
    assert list(table["folds"].unique()) == ["2 of 3"]
    main([str(run), "--out", str(tmp_path / "report"), "--no-figures"])
    behind = pd.read_csv(tmp_path / "report" / "A-paper" / "streaming_per_subject.csv")
    assert len(behind) == 4 * 2 * 7
    assert set(behind["n"]) == {110 - LATE}
    assert behind.groupby("row")["nrmse_percent"].mean()["student-foot"] == pytest.approx(6)


def test_delay_and_multiply_adds_by_hand(run: Path) -> None:
    """Readers choose a network for a device by them; a window is computed every half a window."""
    table, _ = table_of(run)
    assert list(table["delay ms"]) == ["750", "750", "50", "50"]
    lstm, gru = (gates * (192 * (3 + 192) + 128 * (192 + 128)) for gates in (4, 3))
    encoder = lstm + gru + 256 * 128  # and its gate
    fusion = 256 * 256 + 2 * 128 + 384 * 384  # weights of features and modalities, and the gate
    streaming = 2 * encoder + fusion + 384 * 7
    windowed = 190_169_600 / 50  # of a window of 100 samples; see the tests of the benchmark
    counts = table["multiply-adds per sample"]
    assert list(counts) == [windowed, windowed, streaming, streaming]


def test_predictions_without_sample_numbers_are_left_out(run: Path) -> None:
    """Samples of runs from before cannot be told apart; guessing would compare different ones."""
    write_predictions(run, "student-foot", "7", alternating(0.05, 110), has_samples=False)
    (run / "predictions" / "distilled-foot-subject_7.npz").unlink()
    (run / "predictions" / "distilled-foot-subject_8.npz").unlink()
    table, notes = table_of(run)
    assert "distilled-foot" not in table.index
    assert list(table["folds"].unique()) == ["1 of 3"]
    [note] = [note for note in notes if note.startswith("Left out")]
    assert "student-foot, subject 7; distilled-foot, subject 7, 8." in note
    for subject in ("7", "8"):
        write_predictions(run, "student-foot", subject, alternating(0.05, 110), has_samples=False)
    table, _ = table_of(run)
    assert list(table.index) == ["streaming-foot", "distilled_streaming-foot"]


def test_delays_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    """What a shorter delay costs is the question; the same row of two runs is not one row."""
    other = make_run(tmp_path / "25", rows=ROWS[2:3], tested=["7", "8"], lookahead_ms=25, nrmse=9)
    for subject in ("7", "8"):
        write_predictions(other, "streaming-foot", subject, alternating(0.06, 105))
    table, _ = table_of(run, other)
    assert dict(table["delay ms"])["streaming-foot (25 ms)"] == "25"
    assert dict(table["delay ms"])["streaming-foot"] == "50"
    assert str(table["NRMSE %"]["streaming-foot (25 ms)"]) == "6.00 ± 0.00"


def test_streaming_rows_are_in_no_other_table_or_figure(run: Path, tmp_path: Path) -> None:
    """Table III, its statistics and its figures are the paper's; a row more changes them."""
    [results] = load_results([run])
    assert not results.metrics["row"].str.contains("streaming").any()  # all that figures draw
    main([str(run), "--out", str(tmp_path / "report"), "--no-figures"])
    report = (tmp_path / "report" / "report.md").read_text()
    sections = [part for part in report.split("\n### ") if "streaming-foot" in part]
    assert [part.splitlines()[0] for part in sections] == [
        "Beyond the paper: streaming students, Dataset A"
    ]
    without = make_run(tmp_path / "without", rows=[*ROWS[:2], ROWS[4]], tested=["7", "8"])
    main([str(without), "--out", str(tmp_path / "without_report"), "--no-figures"])
    for path in (tmp_path / "without_report").rglob("*.csv"):
        found = tmp_path / "report" / path.relative_to(tmp_path / "without_report")
        assert found.read_text() == path.read_text()


def test_streaming_rows_alone_can_be_reported(tmp_path: Path) -> None:
    """The first row that somebody trains may be one of them."""
    run = make_run(tmp_path / "run", rows=ROWS[2:3])
    for subject in ("7", "8", "9"):
        write_predictions(run, "streaming-foot", subject, alternating(0.04, 100))
    main([str(run), "--out", str(tmp_path / "report")])
    assert "| Streaming student | streaming-foot |" in (tmp_path / "report/report.md").read_text()
    for file in (run / "predictions").iterdir():
        file.unlink()
    main([str(run), "--out", str(tmp_path / "report"), "--no-figures"])
    assert "the predictions are missing" in (tmp_path / "report/report.md").read_text()
