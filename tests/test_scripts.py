"""Every script, end to end on a tiny sample: what a user runs and what he finds afterwards."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines_a
import Dataset_A_kinetics_fm_models as kinetics_fm_a
import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_A_model_ablation as ablation_a
import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_ffn_hf_ffn_bilstm_convnet as baselines_b
import Dataset_B_kinetics_fm_models as kinetics_fm_b
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
import Dataset_B_model_ablation as ablation_b
import Dataset_B_sensor_distillation as script_b
from common import charts, checkpoints, metrics, tables
from common.training import Maker
from tests.narrow import narrow_networks

DISTILLATION = (script_a, script_b)
BASELINES = (baselines_a, baselines_b)
FUSION = (fusion_a, fusion_b)
KINETICS_FM = (kinetics_fm_a, kinetics_fm_b)
ABLATION = (ablation_a, ablation_b)
SCRIPTS = (*DISTILLATION, *BASELINES, *FUSION, *KINETICS_FM, *ABLATION)
QUICK = ["--epochs", "1", "--device", "cpu", "--jobs", "1"]


def rows_of(script: ModuleType) -> list[str]:
    """Choose the rows to run: all of them only where that is quick."""
    if script in DISTILLATION:  # the teacher, and the students with the fewest and the most IMUs
        rows = script.STUDY.rows
        return [*rows[:3], *rows[-2:]]
    if script in FUSION:
        return script.STUDY.rows
    if script in ABLATION:
        rows = ["early_lstm", "concat_gru", "mffm_gated", "maf_mwff_gate_lstm"]
        return rows if script is ablation_a else [*rows, "mwfs_lstm-all_imus"]
    few = script.IMU_SETS[0]
    if script in KINETICS_FM:
        return [f"dlr_rmse-{few}", f"dlr_correlation-{few}", f"dlr-{few}", f"dl-{few}"]
    full = script.FULL_SET
    return [f"ffn_hf-{few}", f"ffn_hf-{full}", f"ffn-{full}", f"lstm-{few}", f"conv2d-{few}"]


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Make the Kinetics-FM networks small."""
    with narrow_networks():
        yield


class Finished:
    """One finished run of a script on the tiny sample."""

    def __init__(self, script: ModuleType, data: Path, output_dir: Path) -> None:
        self.script, self.data, self.output_dir = script, data, output_dir
        self.rows = rows_of(script)
        self.metrics = self.again("--rows", *self.rows)
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


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda script: script.__name__)
def finished(
    request: pytest.FixtureRequest,
    sample_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """Run a script once."""
    script = request.param
    data = sample_files[script.STUDY.dataset]
    return Finished(script, data, tmp_path_factory.mktemp("outputs"))


def test_the_folder_holds_everything(finished: Finished) -> None:
    """What the README promises to find after a run, and nothing half written."""
    rows = finished.rows
    subject = finished.metrics["test_subject"].iloc[0]
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*.*")} - {
        ".lock"
    }
    expected = {"config.json", "history.csv", "metrics.csv"}
    expected |= {f"predictions/{row}-subject_{subject}.npz" for row in rows}
    expected |= {f"checkpoints/{row}-subject_{subject}.safetensors" for row in rows}
    expected |= {f"results/{row}-subject_{subject}.json" for row in rows}
    chart = "nrmse_of_rows" if finished.script in ABLATION else "nrmse_against_imus"
    figures = ("nrmse_per_target", chart, f"traces-subject_{subject}")
    expected |= {f"figures/{name}.png" for name in figures}
    assert names == expected


def test_config_tells_how_to_repeat_the_run(finished: Finished) -> None:
    """Flags, versions, device and data must be on record with the numbers."""
    config = json.loads((finished.folder / "config.json").read_text())
    assert config["settings"]["data"]["file"] == finished.data.name
    assert config["settings"]["data"]["bytes"] == finished.data.stat().st_size
    assert len(config["settings"]["data"]["subjects"]) == 3
    assert config["settings"]["learning_rate"] == finished.script.LEARNING_RATE
    assert config["settings"].get("alpha") == (0.5 if finished.script in DISTILLATION else None)
    first = config["calls"][0]
    assert first["flags"]["epochs"] == 1
    assert {"torch", "numpy", "python"} <= set(first["versions"])
    assert first["device_name"].startswith("CPU")
    assert "git" in first


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


def test_every_row_of_the_test_subject_is_scored_once(finished: Finished) -> None:
    """Samples that count twice, or never, are the published code's error we are here to avoid."""
    recording = finished.script.STUDY.read(finished.data)
    subject = finished.metrics["test_subject"].iloc[0]
    rows = recording.subject == recording.subjects.index(subject)
    path = finished.folder / "predictions" / f"{finished.rows[0]}-subject_{subject}.npz"
    assert np.array_equal(np.load(path)["truth"], recording.samples["targets"][rows].numpy())
    overall = finished.metrics[finished.metrics["activity"] == "all"]
    assert (overall["n"] == rows.sum()).all()
    assert rows.sum() % finished.script.WINDOW  # there is a tail that could count twice


def test_history_has_every_epoch(finished: Finished) -> None:
    """Losses per epoch, to see whether a training was long enough; a regression has none."""
    history = pd.read_csv(finished.folder / "history.csv")
    assert set(history["row"]) == {row for row in finished.rows if not row.startswith("dlr-")}
    columns = ["row", "fold", "epoch", "training_loss", "validation_loss", "seconds"]
    assert list(history.columns) == columns
    assert np.isfinite(history[["training_loss", "validation_loss", "seconds"]]).all(axis=None)


def test_order_and_choice_of_rows_change_nothing(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row asked for alone gets the same numbers; a student its teacher first, and says so."""
    row = finished.rows[2]
    finished.again("--rows", row, run_name="alone")
    assert np.array_equal(finished.outcome(row), finished.outcome(row, "alone"))
    needs = finished.script.STUDY.experiment(row).needs
    assert bool(needs) == (finished.script in (*DISTILLATION, *KINETICS_FM))
    if needs:
        note = f"Rows that the others need and that come first: {', '.join(needs)}\n"
        assert note in capsys.readouterr().out
    for need in needs:
        assert np.array_equal(finished.outcome(need), finished.outcome(need, "alone"))


def test_a_run_is_gone_on_with_under_its_name(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted run keeps its rows: only what is missing is trained, to the same numbers."""
    rows = finished.rows
    finished.again("--rows", rows[0], run_name="grown")
    grown = finished.again("--rows", *rows[:3], run_name="grown")
    printed = capsys.readouterr().out
    assert f"{rows[0]}, subject {grown['test_subject'].iloc[0]}: taken from the run" in printed
    for row in rows[:3]:
        assert np.array_equal(finished.outcome(row), finished.outcome(row, "grown"))
    assert len(grown) == (finished.metrics["row"].isin(rows[:3])).sum()


@pytest.mark.parametrize(
    "finished", DISTILLATION, indirect=True, ids=lambda script: script.__name__
)
def test_a_student_is_taught_by_the_trained_teacher_of_its_fold(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained teacher, or one that has seen the test subject, spoils every distilled row."""
    study = finished.script.STUDY
    experiment = study.experiments[2]
    teachers = []

    def recorded(teacher: nn.Module) -> Maker:
        if not teacher.head.weight.is_meta:  # one without weights, to count what it will make
            teachers.append({name: value.clone() for name, value in teacher.state_dict().items()})
        return experiment.teaching(teacher)

    changed = dataclasses.replace(experiment, teaching=recorded)
    experiments = [*study.experiments[:2], changed]
    monkeypatch.setattr(
        finished.script, "STUDY", dataclasses.replace(study, experiments=experiments)
    )
    subjects = study.read(finished.data).subjects[:2]
    finished.again("--rows", experiment.row, "--test-subjects", *subjects, run_name="taught")
    for subject, state in zip(subjects, teachers, strict=True):
        path = finished.folder.with_name("taught") / "checkpoints"
        saved = checkpoints.load(path / f"teacher-subject_{subject}.safetensors").tensors
        assert saved.keys() == state.keys()
        assert all(torch.equal(saved[name], state[name]) for name in saved)
    assert not torch.equal(*(state["head.weight"] for state in teachers))


@pytest.mark.parametrize(
    "finished", DISTILLATION, indirect=True, ids=lambda script: script.__name__
)
def test_without_weights_distillation_is_plain_training(finished: Finished) -> None:
    """alpha = beta = 0 must give the naive student bit for bit: nothing else may differ."""
    naive, row = finished.rows[1:3]
    finished.again("--rows", row, "--alpha", "0", "--beta", "0", run_name="zero")
    assert np.array_equal(finished.outcome(naive), finished.outcome(row, "zero"))
    assert not np.array_equal(finished.outcome(naive), finished.outcome(row))


def test_other_settings_under_the_same_name_are_refused(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds in one table would be averaged as one."""
    with pytest.raises(SystemExit) as end:
        script_a.study.start(lambda: finished.again("--seed", "7"))
    assert end.value.code == 2
    assert "seed: 42 in the run, 7 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--test-subjects", "7", "99"], "no subject 99; --test-subjects takes all or some of"),
        (["--rows", "student"], "--rows: no row student; there are teacher student-"),
        (["--device", "gpu"], "--device gpu: no such device"),
        (["--run-name", "a/b"], "--run-name 'a/b': it must be the name of one folder"),
        (["--run-name", ""], "--run-name '': it must be the name of one folder"),
        (["--epochs", "2.5"], "--epochs: 2.5 is no whole number from 1"),
        (["--seed", "99999999999"], "--seed: 99999999999 is no whole number"),
        (["--beta", "x"], "--beta: x is no finite number"),
        (["--rows"], "--rows: expected at least one argument"),
        (["--sample"], "--data and --sample: give one of them"),
    ],
)
def test_flags_that_cannot_be_used_end_with_status_2(
    flags: list[str],
    message: str,
    sample_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that says what to do, and no result written."""
    usual = ["--data", str(sample_files["a"]), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        script_a.study.start(lambda: script_a.main([*usual, *flags]))
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_shell_sees_status_2(sample_files: dict[str, Path], tmp_path: Path) -> None:
    """A job script that goes on after a slip of the pen wastes a night."""
    command = [sys.executable, script_a.__file__, "--data", str(sample_files["a"])]
    where = ["--output-dir", str(tmp_path / "out"), "--rows", "student"]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --rows: no row student;")
    assert done.stderr.count("\n") == 1


def test_strict_protocol_runs(finished: Finished) -> None:
    """The stricter protocol validates on another subject: other losses, and a result."""
    strict = finished.again("--rows", finished.rows[0], "--protocol", "strict", run_name="strict")
    assert np.isfinite(strict["rmse"]).all()
    losses = [
        pd.read_csv(finished.folder.with_name(name) / "history.csv")["validation_loss"].iloc[0]
        for name in ("whole", "strict")
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("script", [script_b, ablation_b], ids=lambda script: script.__name__)
def test_the_sample_stands_in_and_says_so(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a data file a script runs on synthetic data, and nobody can mistake it.

    Where a quick look takes some of the rows only, it says so and how to get the rest.
    """
    monkeypatch.chdir(tmp_path)
    rows = script.STUDY.rows[1:2]
    sample = script.STUDY.sample._replace(subjects=2, minutes=0.1)
    if sample.rows:
        sample = sample._replace(rows=tuple(rows))
    monkeypatch.setattr(script, "STUDY", dataclasses.replace(script.STUDY, sample=sample))
    chosen = [] if sample.rows else ["--rows", *rows]
    result = script.main([*chosen, *QUICK])
    printed = capsys.readouterr().out
    assert printed.count("SYNTHETIC DATA") == 2
    assert "NOTICE: training on the CPU" in printed
    look = f"A quick look: 1 of {len(script.STUDY.rows)} rows; --rows all runs them all"
    assert (look in printed) == bool(sample.rows)
    assert (tmp_path / "data" / "sample_dataset_b.h5").exists()
    assert len(result) == len(script.TARGETS)


@pytest.mark.parametrize(
    "script",
    [script_b, baselines_b, fusion_b, kinetics_fm_b, ablation_b],
    ids=lambda script: script.__name__,
)
def test_example_file_runs_both_folds(script: ModuleType, example_b: Path, tmp_path: Path) -> None:
    """The measured example of Dataset B goes through the rows, each subject held out once."""
    rows = rows_of(script)[:3]
    flags = ["--data", str(example_b), "--test-subjects", "all", "--output-dir", str(tmp_path)]
    result = script.main([*flags, *QUICK, "--rows", *rows])
    assert set(result["test_subject"]) == {"01", "02"}
    counts = result.groupby(["row", "test_subject"])["n"].max().unstack()
    assert counts.shape == (len(rows), 2)
    assert (counts == [964, 991]).all(axis=None)
    assert np.isfinite(result["nrmse_percent"]).all()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_row_that_is_not_there_is_answered_by_those_that_are(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every script must end a slip of the pen with one line and status 2, before any work."""
    with pytest.raises(SystemExit) as end:
        script.study.start(lambda: script.main(["--rows", "ffn_hv-foot"]))
    assert end.value.code == 2
    rows = " ".join(experiment.row for experiment in script.EXPERIMENTS)
    assert capsys.readouterr().err == f"error: --rows: no row ffn_hv-foot; there are {rows}\n"


def test_figures_of_a_comparison_show_the_tables_numbers() -> None:
    """A figure is what a reader remembers: means over subjects, each row in its own place."""
    values = {  # row: IMUs, third modality, NRMSE of both targets on subject 1, and on subject 2
        "tfn-foot": (1, "", (40.0, 60.0), (20.0, 40.0)),
        "tfn-all_imus": (4, "", (10.0, 20.0), (30.0, 20.0)),
        "tfn-all_imus_emg": (4, "emg", (5.0, 15.0), (15.0, 25.0)),
        "lmfn-foot": (1, "", (50.0, 70.0), (50.0, 70.0)),
    }
    lines = pd.DataFrame(
        [
            {
                **{"row": row, "kind": row.split("-")[0], "imus": imus, "third": third},
                **{"test_subject": subject, "target": target, "nrmse_percent": value},
            }
            for row, (imus, third, *subjects) in values.items()
            for subject, pair in zip("12", subjects, strict=True)
            for target, value in zip(("KFM", "KAM"), pair, strict=True)
        ]
    )
    (axes, _) = charts.nrmse_heat_map(lines, list(values)).axes
    shown = np.array([float(text.get_text()) for text in axes.texts]).reshape(4, 3)
    assert shown.tolist() == [[30, 50, 40], [20, 20, 20], [10, 20, 15], [50, 70, 60]]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(values)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["KFM", "KAM", "mean"]

    (axes,) = charts.nrmse_of_models(lines, {"lmfn": "#000000", "tfn": "#ffffff"}).axes
    drawn = [
        (bars.lines[0].get_color(), np.round(bars.lines[0].get_xydata()).tolist())
        for bars in axes.containers
    ]
    assert drawn == [
        ("#000000", [[1, 60]]),
        ("#ffffff", [[1, 40], [4, 20]]),
        ("#ffffff", [[5, 15]]),
    ]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["1", "4", "4\n+ emg"]
