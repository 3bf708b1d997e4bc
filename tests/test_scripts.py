"""Every script from end to end on small data: what a user runs, and what it writes."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType

import numpy as np
import pandas as pd
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

import Dataset_A_Sensor_Distillation as distillation_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
import Dataset_B_model_ablation as ablation_b
import Dataset_B_sensor_distillation as distillation_b
from common import metrics, plots
from common.cli import run_main
from common.files import load_checkpoint
from common.stances import find_in, in_stance
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.networks import SCRIPTS, chosen_rows, narrow_networks, row_named

OF_B = [script for script in SCRIPTS if script.DATASET == "b"]
QUICK = ["--epochs", "1", "--device", "cpu"]
ACTIVITIES = {"a": {"all", "Treadmill", "Levelground", "Ramp", "Stair"}, "b": {"all"}}


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Use small networks."""
    with narrow_networks():
        yield


@contextmanager
def first_optimizer_step() -> Iterator[list[CodeType]]:
    """Record the calls, the outermost first, that lead to the first step of Adam."""
    calls: list[CodeType] = []

    def record(*_: object) -> None:
        if not calls:
            calls.extend(frame.f_code for frame, _ in traceback.walk_stack(sys._getframe(1)))
            calls.reverse()

    hook = register_optimizer_step_pre_hook(record)
    try:
        yield calls
    finally:
        hook.remove()


class Finished:
    """A finished run of a script on small data.

    Args:
        script: the script.
        data: the file.
        output_dir: where the run is written.
    """

    def __init__(self, script: ModuleType, data: Path, output_dir: Path) -> None:
        self.script, self.data, self.output_dir = script, data, output_dir
        self.rows = chosen_rows(script)
        with first_optimizer_step() as self.calls:
            self.metrics = self.run("whole", "--rows", *self.rows)
        self.subject = self.metrics["test_subject"].iloc[0]
        self.folder = output_dir / script.__name__ / "whole"

    def run(self, run_name: str, *flags: str) -> pd.DataFrame:
        """Run the script on the same data."""
        where = ["--data", str(self.data), "--output-dir", str(self.output_dir)]
        return self.script.main([*where, *QUICK, "--run-name", run_name, *flags])

    def saved(self, row: str, run_name: str = "whole") -> dict[str, np.ndarray]:
        """Return the saved truth and prediction of a row."""
        folder = self.folder.with_name(run_name) / "predictions"
        return dict(np.load(folder / f"{row}-subject_{self.subject}.npz"))


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda script: script.__name__)
def finished(
    request: pytest.FixtureRequest, synthetic_files: Files, tmp_path_factory: Folders
) -> Finished:
    """Run a script once."""
    data = synthetic_files[request.param.DATASET]
    return Finished(request.param, data, tmp_path_factory.mktemp("outputs"))


# Training has the same steps in A and B, see test_copies.py.
only_b = pytest.mark.parametrize("finished", OF_B, indirect=True, ids=lambda s: s.__name__)

# A finished run ----------------------------------------------------------------------------------


def test_the_folder_holds_everything(finished: Finished) -> None:
    """What the README promises to find after a run, and nothing half written."""
    files = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*.*")}
    expected = {".lock", "config.json", "history.csv", "metrics.csv", "stances.csv"}
    for row in finished.rows:
        name = f"{row}-subject_{finished.subject}"
        expected |= {f"predictions/{name}.npz", f"results/{name}.json"}
        expected |= {f"checkpoints/{name}.safetensors"}
    names = "learning_curves", "estimates", "nrmse", "stance_curves"
    assert files == expected | {f"figures/{name}.png" for name in names}


def test_the_run_can_be_repeated_from_its_config(finished: Finished) -> None:
    """Flags, versions, device and data must be on record with the numbers."""
    config = json.loads((finished.folder / "config.json").read_text())
    settings, (call,) = config["settings"], config["calls"]
    assert settings["data"]["file"] == finished.data.name
    assert settings["data"]["bytes"] == finished.data.stat().st_size
    assert len(settings["data"]["subjects"]) == 3
    assert settings["learning_rate"] == finished.script.LEARNING_RATE
    assert settings.get("alpha") == (0.5 if "distilled" in str(finished.rows) else None)
    assert call["flags"]["epochs"] == 1
    assert {"torch", "numpy", "python"} <= set(call["versions"])
    assert call["device_name"].startswith("CPU")
    assert "git" in call


def test_metrics_are_those_of_the_saved_predictions(finished: Finished) -> None:
    """The table and the arrays that a user analyzes further must agree."""
    table = pd.read_csv(finished.folder / "metrics.csv", dtype={"test_subject": str})
    assert tuple(table.columns) == metrics.COLUMNS
    assert len(table) == len(finished.metrics)
    assert list(dict.fromkeys(table["row"])) == finished.rows
    assert set(table["activity"]) == ACTIVITIES[finished.script.DATASET]
    for row, lines in table.groupby("row"):
        saved = finished.saved(row)
        assert saved["truth"].dtype == saved["prediction"].dtype == np.float32
        stances = find_in(saved, finished.script.TARGETS, saved["rate_hz"])
        is_stance = in_stance(stances, len(saved["truth"]))
        assert set(lines["phase"]) == {"all", "stance"}
        for (activity, phase), part in lines.groupby(["activity", "phase"]):
            chosen = (saved["activity"] == activity) | (activity == "all")
            chosen &= is_stance | (phase == "all")
            names = list(saved["target"])
            scores = metrics.score(saved["truth"][chosen], saved["prediction"][chosen], names)
            assert list(part["target"]) == names
            assert list(part["unit"]) == list(saved["unit"])
            assert (part["n"] == chosen.sum()).all()
            for name, values in scores.items():
                assert part[name].to_numpy() == pytest.approx(values, nan_ok=True)


def test_every_sample_of_the_test_subject_is_scored_once(finished: Finished) -> None:
    """The published code scores some samples twice; samples left out would be as bad."""
    recording = finished.script.read(finished.data)
    is_tested = recording.subject == recording.subjects.index(finished.subject)
    truth = recording.samples["targets"][is_tested].numpy()
    for row in finished.rows:
        assert np.array_equal(finished.saved(row)["truth"], truth)
    overall = metrics.overall(finished.metrics)
    assert (overall["n"] == is_tested.sum()).all()
    assert is_tested.sum() % finished.script.WINDOW  # there is a tail that could count twice


def test_the_history_has_every_epoch(finished: Finished) -> None:
    """Losses per epoch show whether training was long enough; a regression has none."""
    history = pd.read_csv(finished.folder / "history.csv")
    assert set(history["row"]) == {row for row in finished.rows if not row.startswith("dlr-")}
    columns = ["row", "fold", "epoch", "training_loss", "validation_loss", "seconds"]
    assert list(history.columns) == columns
    assert np.isfinite(history[["training_loss", "validation_loss", "seconds"]]).all(axis=None)


def test_a_checkpoint_gives_the_prediction(finished: Finished) -> None:
    """The saved network must be the one that was tested."""
    row = row_named(finished.script, finished.rows[-1])
    folder = finished.folder / "checkpoints"
    checkpoint = load_checkpoint(folder / f"{row.name}-subject_{finished.subject}.safetensors")
    assert checkpoint.description["row"] == row.name
    assert checkpoint.description["test_subject"] == finished.subject
    network = row.network().eval()
    network.load_state_dict(checkpoint.tensors)
    recording = finished.script.read(finished.data)
    first = np.flatnonzero(recording.subject == recording.subjects.index(finished.subject))
    window = slice(first[0], first[0] + finished.script.WINDOW)
    inputs = finished.script.inputs(recording.samples, row.sensor_set)
    prediction = network(*(values[window][None] for values in inputs))[0].detach().numpy()
    expected = finished.saved(row.name)["prediction"][: finished.script.WINDOW]
    assert prediction == pytest.approx(expected, rel=1e-4, abs=1e-5)


@only_b
@pytest.mark.usefixtures("without_figures")
def test_order_and_choice_of_rows_change_nothing(finished: Finished, capsys: Capture) -> None:
    """A row that is run alone gets the same numbers; rows that it needs are added and named."""
    row = finished.rows[2]
    finished.run("alone", "--rows", row)
    printed = capsys.readouterr().out
    needs = row_named(finished.script, row).needs
    assert bool(needs) == (row.split("-")[0] in ("distilled", "dlr"))
    note = f"Rows added because others depend on them: {', '.join(needs)}\n"
    assert (note in printed) == bool(needs)
    for name in (row, *needs):
        prediction = finished.saved(name)["prediction"]
        assert np.array_equal(prediction, finished.saved(name, "alone")["prediction"])


@only_b
@pytest.mark.usefixtures("without_figures")
def test_the_strict_protocol_runs(finished: Finished) -> None:
    """It validates on another subject: other losses, and a result."""
    strict = finished.run("strict", "--rows", finished.rows[0], "--protocol", "strict")
    assert np.isfinite(strict["rmse"]).all()
    losses = [
        pd.read_csv(finished.folder.with_name(name) / "history.csv")["validation_loss"][0]
        for name in ("whole", "strict")
    ]
    assert losses[0] != losses[1]


def test_few_calls_lie_between_main_and_the_training(finished: Finished) -> None:
    """Readers must find training in the script, and `breakpoint()` must reach the terminal.

    In the default run, `main` calls `Run.each`, which calls `train_and_test`, which calls `train`,
    all in this process: otherwise, no optimizer step would have been seen.
    """
    script, calls = finished.script, finished.calls
    calls = calls[calls.index(script.main.__code__) :]
    ours = [code for code in calls if Path(code.co_filename).is_relative_to(ROOT)]
    assert [code.co_name for code in ours] == ["main", "each", "train_and_test", "train"]
    assert [code.co_filename == script.__file__ for code in ours] == [True, False, True, True]


# Synthetic data, and measured data ----------------------------------------------------------------


@pytest.mark.usefixtures("without_figures")
def test_without_data_scripts_use_their_own_synthetic_file(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """The first command works without data, and nobody can mistake its results for real ones.

    Two scripts, together or in turn, do not change each other's data, and no file is written twice.
    """
    monkeypatch.chdir(tmp_path)
    times = {}
    for script, subjects in ((fusion_b, 2), (ablation_b, 3), (fusion_b, 2)):
        row = chosen_rows(script)[0]
        is_partial = "rows" in script.QUICK_LOOK
        quick = {"subjects": subjects, "minutes": 0.1, "epochs": 1}
        quick |= {"rows": (row,)} if is_partial else {}
        monkeypatch.setattr(script, "QUICK_LOOK", {**script.QUICK_LOOK, **quick})
        flags = [] if is_partial else ["--rows", row]
        result = script.main([*flags, "--device", "cpu"])
        assert len(result) == 2 * len(script.TARGETS)  # all samples and stance
        printed = capsys.readouterr().out
        assert printed.count("SYNTHETIC DATA") == 2
        assert "NOTICE: no CUDA device is in use; training on the CPU is slow." in printed
        look = f"Quick look: 1 of the table's {len(script.ROWS)} rows (--rows all runs them all), "
        assert f"{look}at most 1 epoch" in printed
        assert "the paper uses 40 epochs and batches of 64" in printed
        path = tmp_path / "data" / f"synthetic_b_{subjects}x0.1_seed42.h5"
        assert (f"Writing synthetic data to {path.relative_to(tmp_path)}" in printed) == (
            path not in times
        )
        assert times.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert sorted(tmp_path.glob("data/*")) == sorted(times)


@pytest.mark.usefixtures("without_figures")
def test_both_folds_of_the_measured_example(example_b: Path, tmp_path: Path) -> None:
    """The published example of Dataset B runs through, each subject held out once."""
    rows = chosen_rows(distillation_b)[-1:]
    flags = ["--data", str(example_b), "--test-subjects", "all", "--output-dir", str(tmp_path)]
    result = distillation_b.main([*flags, *QUICK, "--rows", *rows])
    counts = result.groupby(["row", "test_subject"])["n"].max().unstack()
    assert rows[0] in counts.index
    assert (counts[["01", "02"]] == [964, 991]).all(axis=None)
    assert np.isfinite(result["nrmse_percent"]).all()


# Flags that cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--test-subjects", "7", "99"], "no subject 99; for --test-subjects, choose from"),
        (["--rows", "student"], "--rows: no such row: student; choose from teacher student-"),
        (["--device", "gpu"], "--device gpu: no such device"),
        (["--device", "meta"], "--device meta: no such device"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--run-name", "a/b"], "--run-name 'a/b': must be a folder name, but is a path"),
        (["--run-name", ""], "--run-name '': must be a folder name, but is a path"),
        (["--epochs", "2.5"], "--epochs: must be a whole number from 1"),
        (["--learning-rate", "inf"], "--learning-rate: must be a finite number"),
        (["--batch-size", "0"], "--batch-size: must be a whole number from 1"),
        (["--patience", "-1"], "--patience: must be a whole number from 1"),
        (["--seed", "99999999999"], "--seed: must be a whole number from 0"),
        (["--beta", "x"], "--beta: must be a finite number, 0 or greater"),
        (["--rows"], "--rows: expected at least one argument"),
        (["--sample"], "use either --data or --sample, not both"),
        (["--resume"], "no run to resume; leave out --resume to start one"),
        (["--device", "cpu:"], "--device cpu:: no such device"),
        (["--threads", "99999"], "--threads 99999: this machine has"),
    ],
)
def test_flags_that_cannot_be_used_end_with_status_2(
    flags: list[str], message: str, synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """One line that says how to fix it, and no result written."""
    where = ["--data", str(synthetic_files["a"]), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: distillation_a.main([*where, *flags]))
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Figures -----------------------------------------------------------------------------------------


def test_learning_curves_show_every_fold_and_its_best_epoch() -> None:
    """They show whether training was long enough, on each fold and in each row."""
    validation = {
        ("tfn-foot", "7"): [3.0, 1.0, 2.0],
        ("tfn-foot", "8"): [4.0, 2.0],
        ("dl-foot", "7"): [0.5, 0.25],
    }
    lines = [
        {"row": row, "fold": fold, "epoch": i, "training_loss": 2 * loss, "validation_loss": loss}
        for (row, fold), losses in validation.items()
        for i, loss in enumerate(losses, start=1)
    ]
    figure = plots.learning_curves(pd.DataFrame(lines))
    assert [axes.get_title() for axes in figure.axes] == ["tfn-foot", "dl-foot"]
    first, second = figure.axes
    expected = [[6, 2, 4], [8, 4], [3, 1, 2], [4, 2]]  # training, then validation
    losses = [np.asarray(line.get_ydata()) for line in first.lines]
    assert [values[np.isfinite(values)].tolist() for values in losses] == expected
    assert first.collections[0].get_offsets().tolist() == [[2, 1], [2, 2]]
    assert second.collections[0].get_offsets().tolist() == [[2, 0.25]]
    assert first.get_ylim() == second.get_ylim()
    assert "2 folds" in figure.get_suptitle()


def test_estimates_are_drawn_at_their_time() -> None:
    """A row may lack samples at the end of a stretch: its later estimates must not be shifted."""
    stretch = np.repeat([0, 1], [5, 20])
    values = np.arange(25.0)[:, None] * np.ones(2)
    shared = {"activity": np.full(25, ""), "stretch": stretch, "sample": np.arange(25)}
    shared |= {"truth": values, "prediction": values + 1}
    chosen = np.r_[0:3, 5:23]
    rows = {"any": shared, "other": {name: array[chosen] for name, array in shared.items()}}
    targets = [("KFM", "%"), ("KAM", "%")]
    panels = plots.estimates_over_time(rows, targets, 100, 0.5, "measured", "title").axes[:2]
    assert [panel.get_title() for panel in panels] == ["any", "other"]
    for panel, count in zip(panels, (20, 18), strict=True):  # of the longest stretch
        truth, estimates = (line.get_xydata().T for line in panel.lines)
        assert truth[0] == pytest.approx(np.arange(count) / 100)
        assert truth[1].tolist() == values[5 : 5 + count, 0].tolist()
        assert estimates[1].tolist() == (values[5 : 5 + count, 0] + 1).tolist()


def test_the_heat_map_shows_the_numbers_of_the_table() -> None:
    """A figure is what readers remember: means over subjects, each row in its own place."""
    values = {  # row: NRMSE of both targets on subject 1, and on subject 2
        "tfn-foot": ((40.0, 60.0), (20.0, 40.0)),
        "any name": ((10.0, 20.0), (30.0, 20.0)),
        "tfn = all": ((5.0, 15.0), (15.0, 25.0)),
    }
    lines = pd.DataFrame(
        [
            {"row": row, "test_subject": subject, "target": target, "nrmse_percent": value}
            for row, subjects in values.items()
            for subject, pair in zip("12", subjects, strict=True)
            for target, value in zip(("KFM", "KAM"), pair, strict=True)
        ]
    )
    order = ["any name", "tfn = all", "tfn-foot"]
    (axes, _) = plots.nrmse_heat_map(lines, order, "title").axes
    shown = np.array([float(text.get_text()) for text in axes.texts]).reshape(3, 3)
    assert shown.tolist() == [[20, 20, 20], [10, 20, 15], [30, 50, 40]]
    assert [label.get_text() for label in axes.get_yticklabels()] == order
    assert [label.get_text() for label in axes.get_xticklabels()] == ["KFM", "KAM", "mean"]
