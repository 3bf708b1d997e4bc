"""Every script, end to end on a tiny sample: what a user runs and what he finds afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common import metrics, tables

DISTILLATION = {"a": script_a, "b": script_b}
QUICK = ["--epochs", "1", "--device", "cpu"]


class Finished:
    """One finished run of a script on the tiny sample."""

    def __init__(self, script: ModuleType, data: Path, output_dir: Path) -> None:
        self.script, self.data, self.output_dir = script, data, output_dir
        self.metrics = self.again()
        self.folder = output_dir / Path(script.__file__).stem / "whole"

    def again(self, *more: str, run_name: str = "whole") -> pd.DataFrame:
        """Run the script, with more flags."""
        where = ["--data", str(self.data), "--output-dir", str(self.output_dir)]
        return self.script.main([*where, *QUICK, "--run-name", run_name, *more])

    def outcome(self, row: str, run_name: str = "whole") -> np.ndarray:
        """Return the saved prediction of a row on the last subject."""
        subject = self.metrics["test_subject"].iloc[-1]
        path = self.folder.with_name(run_name) / "predictions" / f"{row}-subject_{subject}.npz"
        return np.load(path)["prediction"]


@pytest.fixture(scope="module", params=DISTILLATION)
def finished(
    request: pytest.FixtureRequest,
    sample_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """Run all rows once."""
    data = sample_files[request.param]
    return Finished(DISTILLATION[request.param], data, tmp_path_factory.mktemp("outputs"))


def test_the_folder_holds_everything(finished: Finished) -> None:
    """What the README promises to find after a run, and nothing half written."""
    rows = [experiment.row for experiment in finished.script.EXPERIMENTS]
    subject = finished.metrics["test_subject"].iloc[0]
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*.*")}
    expected = {"config.json", "history.csv", "metrics.csv"}
    expected |= {f"predictions/{row}-subject_{subject}.npz" for row in rows}
    expected |= {f"checkpoints/{row}-subject_{subject}.pt" for row in rows}
    figures = ("nrmse_per_target", "nrmse_against_imus", f"traces-subject_{subject}")
    expected |= {f"figures/{name}.png" for name in figures}
    assert names == expected


def test_config_tells_how_to_repeat_the_run(finished: Finished) -> None:
    """Flags, versions, device and data must be on record with the numbers."""
    config = json.loads((finished.folder / "config.json").read_text())
    assert config["settings"]["data"]["file"] == finished.data.name
    assert config["settings"]["data"]["bytes"] == finished.data.stat().st_size
    assert len(config["settings"]["data"]["subjects"]) == 3
    assert config["settings"]["alpha"] == 0.5
    assert config["flags"]["epochs"] == 1
    assert {"torch", "numpy", "python"} <= set(config["versions"])
    assert config["device_name"].startswith("CPU")
    assert "git" in config


def test_metrics_are_those_of_the_saved_predictions(finished: Finished) -> None:
    """The table and the arrays a user analyses further must say the same."""
    table = pd.read_csv(finished.folder / "metrics.csv", dtype={"test_subject": str})
    assert tuple(table.columns) == tables.COLUMNS
    assert len(table) == len(finished.metrics)
    for row, lines in table.groupby("row"):
        subject = lines["test_subject"].iloc[0]
        saved = np.load(finished.folder / "predictions" / f"{row}-subject_{subject}.npz")
        assert saved["truth"].dtype == saved["prediction"].dtype == np.float32
        for activity, part in lines.groupby("activity"):
            chosen = (saved["activity"] == activity) | (activity == "all")
            names = list(saved["target"])
            scores = metrics.score(saved["truth"][chosen], saved["prediction"][chosen], names)
            assert list(part["target"]) == names
            assert list(part["unit"]) == list(saved["unit"])
            assert (part["n"] == chosen.sum()).all()
            for name, values in scores.items():
                assert part[name].to_numpy() == pytest.approx(values, nan_ok=True)
    activities = {"a": {"all", "Treadmill", "Levelground", "Ramp", "Stair"}, "b": {"all"}}
    assert set(table["activity"]) == activities[finished.script.STUDY.dataset]


def test_history_has_every_epoch(finished: Finished) -> None:
    """Losses per epoch, to see whether a training was long enough."""
    history = pd.read_csv(finished.folder / "history.csv")
    assert set(history["row"]) == {e.row for e in finished.script.EXPERIMENTS}
    columns = {"row", "fold", "epoch", "training_loss", "validation_loss", "seconds"}
    assert set(history.columns) == columns
    assert np.isfinite(history[["training_loss", "validation_loss", "seconds"]]).all(axis=None)


def test_order_and_choice_of_rows_change_nothing(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student asked for alone gets the same numbers, its teacher first, and the user is told."""
    row = finished.script.EXPERIMENTS[2].row
    assert row.startswith("distilled")
    finished.again("--rows", row, run_name="alone")
    printed = capsys.readouterr().out
    assert "need the teacher of their fold: it comes first" in printed
    assert np.array_equal(finished.outcome(row), finished.outcome(row, "alone"))
    assert np.array_equal(finished.outcome("teacher"), finished.outcome("teacher", "alone"))


def test_a_run_is_gone_on_with_under_its_name(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted run keeps its rows: only what is missing is trained, to the same numbers."""
    rows = [experiment.row for experiment in finished.script.EXPERIMENTS]
    finished.again("--rows", "teacher", run_name="grown")
    grown = finished.again("--rows", *rows[:3], run_name="grown")
    printed = capsys.readouterr().out
    assert f"teacher, subject {grown['test_subject'].iloc[0]}: taken from the run" in printed
    for row in rows[:3]:
        assert np.array_equal(finished.outcome(row), finished.outcome(row, "grown"))
    assert len(grown) == (finished.metrics["row"].isin(rows[:3])).sum()


def test_without_weights_distillation_is_plain_training(finished: Finished) -> None:
    """alpha = beta = 0 must give the naive student bit for bit: nothing else may differ."""
    naive, distilled = (experiment.row for experiment in finished.script.EXPERIMENTS[1:3])
    finished.again("--rows", distilled, "--alpha", "0", "--beta", "0", run_name="zero")
    assert np.array_equal(finished.outcome(naive), finished.outcome(distilled, "zero"))
    assert not np.array_equal(finished.outcome(naive), finished.outcome(distilled))


def test_other_settings_under_the_same_name_are_refused(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds in one table would be averaged as one."""
    with pytest.raises(SystemExit) as end:
        script_a.study.start(lambda: finished.again("--seed", "7"))
    assert end.value.code == 2
    assert "seed: 42 there, 7 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--test-subjects", "7", "99"], "no subject 99; --test-subjects takes all or some of"),
        (["--rows", "student"], "--rows: no row student; there are teacher student-"),
        (["--device", "gpu"], "--device gpu: no such device"),
        (["--run-name", "a/b"], "--run-name a/b: a name of one folder"),
        (["--sample"], "--data and --sample: give one of them"),
    ],
)
def test_flags_that_cannot_be_used_end_with_status_2(
    flags: list[str], message: str, sample_files: dict[str, Path], tmp_path: Path
) -> None:
    """As the shell sees it: the exit status, one line, and no result written."""
    script, data = script_a.__file__, str(sample_files["a"])
    done = subprocess.run(
        [sys.executable, script, "--data", data, "--output-dir", str(tmp_path / "out"), *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_strict_protocol_runs(finished: Finished) -> None:
    """The stricter protocol validates on another subject: other losses, and a result."""
    strict = finished.again("--rows", "teacher", "--protocol", "strict", run_name="strict")
    assert np.isfinite(strict["rmse"]).all()
    losses = [
        pd.read_csv(finished.folder.with_name(name) / "history.csv")["validation_loss"].iloc[0]
        for name in ("whole", "strict")
    ]
    assert losses[0] != losses[1]


def test_the_sample_stands_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a data file the script runs on synthetic data, and nobody can mistake it."""
    monkeypatch.chdir(tmp_path)
    result = script_b.main(["--rows", "student-feet", "--epochs", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert printed.count("SYNTHETIC DATA") == 2
    assert "NOTICE: training on the CPU" in printed
    assert (tmp_path / "data" / "sample_dataset_b.h5").exists()
    assert len(result) == len(script_b.TARGETS)


def test_example_file_runs_both_folds(example_b: Path, tmp_path: Path) -> None:
    """The measured example of Dataset B goes through every row, each subject held out once."""
    flags = ["--data", str(example_b), "--test-subjects", "all", "--output-dir", str(tmp_path)]
    result = script_b.main([*flags, *QUICK])
    assert set(result["test_subject"]) == {"01", "02"}
    counts = result.groupby(["row", "test_subject"])["n"].max().unstack()
    assert counts.shape == (11, 2)
    assert (counts == [964, 991]).all(axis=None)
    assert np.isfinite(result["nrmse_percent"]).all()
