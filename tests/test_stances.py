"""Stances: where they begin and end, their curves, peaks and impulses, and what a run reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import Dataset_A_Sensor_Distillation as distillation_a
import Dataset_B_sensor_distillation as distillation_b
from common.data import Target
from common.files import InputError, load_checkpoint, save_checkpoint
from common.stances import (
    find_in,
    find_stances,
    in_stance,
    mean_curves,
    resample,
    stance_table,
    vertical_force,
)
from synthetic_gait.subject import GRAVITY_M_S2, Style, at_speed, make_body, on_ramp, on_stairs
from synthetic_gait.trial import simulate_trial
from tests.conftest import Capture, Files
from tests.made_runs import make_run, write_predictions
from tests.predicting import predict, random_network
from tests.running import NAME, copy_script, load_script, no_figures, script, usual_flags
from tools.report.runs import load_results
from tools.report.stances import load_stances, stance_tables
from tools.trained import RENAMED_TARGETS, load_trained, renamed_targets

RATE_HZ = 200.0
STYLES = {
    "slow": at_speed(Style(), 0.8),
    "level": Style(),
    "uphill": on_ramp(Style(), 0.15),
    "upstairs": on_stairs(Style(), 0.15),
}
TARGETS = [Target("moment", "BW·BH"), Target("GRF vertical", "BW")]


def stances_of(force: np.ndarray, stretch: np.ndarray | None = None) -> list[list[int]]:
    """Return the stances at 100 Hz, in one stretch by default."""
    stretch = np.zeros(len(force), int) if stretch is None else stretch
    return find_stances(force, stretch, 100.0).tolist()


def contact(*parts: tuple[int, float]) -> np.ndarray:
    """Return a force that is constant in each part, given by its samples and value."""
    return np.concatenate([np.full(samples, force) for samples, force in parts])


# Finding stances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STYLES)
def test_stances_are_those_of_simulated_walking(name: str) -> None:
    """Every peak and impulse would be that of another part of the gait cycle."""
    rng = np.random.default_rng(1)
    trial = simulate_trial(rng, make_body(70.0, 1.75), STYLES[name], 8.0, RATE_HZ)
    force = trial.ground["r"].force_n[:, 1] / (70.0 * GRAVITY_M_S2)
    edges = np.diff(trial.contact["r"].astype(int))
    starts, stops = np.flatnonzero(edges > 0) + 1, np.flatnonzero(edges < 0) + 1
    stops = stops[stops > starts[0]]
    expected = np.column_stack([starts[: len(stops)], stops])
    stretch = np.zeros(len(force), int)
    found = find_stances(force, stretch, RATE_HZ)
    assert len(found) == len(expected) >= 4
    assert np.abs(found - expected).max() <= 0.04 * RATE_HZ  # the force grows to 0.05 BW
    noisy = find_stances(force + rng.normal(0, 0.008, len(force)), stretch, RATE_HZ)
    assert np.abs(noisy - expected).max() <= 0.045 * RATE_HZ


def test_a_stance_that_the_stretch_cuts_off_does_not_count() -> None:
    """Half a stance has no push-off; its peak and impulse would be too small."""
    force = contact((50, 1.0), (40, 0.0), (60, 1.0), (40, 0.0), (50, 1.0))
    assert stances_of(force) == [[90, 150]]
    stretch = np.repeat([0, 1], [120, 120])  # two trials meet in the middle of the stance
    assert stances_of(force, stretch) == []
    assert stances_of(contact((60, 1.0))) == stances_of(np.empty(0)) == []


def test_noise_at_the_threshold_does_not_split_a_stance() -> None:
    """A dip in the force of a slow walker would give two peaks per step, or none."""
    dip = contact((20, 0.0), (30, 1.0), (3, 0.03), (30, 1.0), (20, 0.0))
    assert stances_of(dip) == [[20, 83]]
    dip[50:53] = 0.01
    assert stances_of(dip) == []  # two contacts of 0.3 s have 29 intervals each: too short
    rise = contact((20, 0.0), (5, 0.04), (40, 1.0), (5, 0.04), (20, 0.0))
    assert stances_of(rise) == [[25, 65]]


@pytest.mark.parametrize(("samples", "counts"), [(30, 0), (31, 1), (151, 1), (152, 0)])
def test_only_contacts_of_the_length_of_a_step_count(samples: int, counts: int) -> None:
    """Standing on the plate, or a tap on it, is no step."""
    assert len(stances_of(contact((9, 0.0), (samples, 0.8), (9, 0.0)))) == counts


def test_the_vertical_force_is_named_by_the_script() -> None:
    """A script in newtons, or without forces, must not get stances of another target."""
    assert [vertical_force(s.TARGETS) for s in (distillation_a, distillation_b)] == [5, 3]
    assert vertical_force([Target("GRF vertical", "N"), Target("vertical moment", "BW·BH")]) is None
    values = {"truth": np.ones((9, 1)), "stretch": np.zeros(9, int)}
    assert find_in(values, [Target("GRF vertical", "N")], 100.0).shape == (0, 2)


# Curves, peaks and impulses ----------------------------------------------------------------------


def test_curves_peaks_and_impulses_of_known_shapes() -> None:
    """Half a sine of 0.8 s and height 1.2: maximum in the middle, impulse 1.2 * 0.8 * 2 / pi."""
    time = np.linspace(0, 1, 81)
    force, moment = 1.2 * np.sin(np.pi * time), 0.1 * np.cos(2 * np.pi * time)
    step = np.pad(np.column_stack([moment, force]), ((30, 30), (0, 0)))
    truth = np.concatenate([step, step])
    arrays = {
        "truth": truth,
        "prediction": truth * [0.5, 0.9],
        "activity": np.array(["walk"] * len(truth)),
        "stretch": np.repeat([4, 5], len(step)),
    }
    found = find_in(arrays, TARGETS, 100.0)
    first = 30 + int(np.argmax(force > 0.05))
    assert found.tolist() == [[first, 141 - first], [first + 141, 282 - first]]
    table = stance_table(arrays, found, TARGETS, 100.0)
    assert table["stance"].tolist() == [1, 1, 2, 2]
    assert table["stretch"].tolist() == [4, 4, 5, 5]
    assert table["start_s"].tolist() == pytest.approx([first / 100] * 4)
    assert table["duration_s"].tolist() == pytest.approx([(140 - 2 * first) / 100] * 4)
    line = table[table["target"] == "GRF vertical"].iloc[1]
    assert (line["measured_maximum"], line["measured_maximum_percent"]) == pytest.approx((1.2, 50))
    assert line["estimated_maximum"] == pytest.approx(0.9 * 1.2)
    assert line["measured_impulse"] == pytest.approx(1.2 * 0.8 * 2 / np.pi, rel=5e-3)
    assert line["estimated_impulse"] == pytest.approx(0.9 * line["measured_impulse"])
    line = table[table["target"] == "moment"].iloc[0]
    assert (line["measured_minimum"], line["measured_minimum_percent"]) == pytest.approx((-0.1, 50))
    assert line["estimated_minimum"] == pytest.approx(-0.05)

    curves = mean_curves([arrays, arrays], TARGETS, 100.0)
    assert curves.count == 4
    mean, sd = curves.truth
    assert mean.shape == sd.shape == (101, 2)
    assert mean[50] == pytest.approx([-0.1, 1.2], abs=1e-6)
    assert sd == pytest.approx(np.zeros((101, 2)), abs=1e-6)
    assert curves.estimates[0] == pytest.approx(mean * [0.5, 0.9], abs=1e-6)
    assert mean_curves([arrays], TARGETS, 100.0, activity="run").count == 0


def test_curves_of_stances_of_different_length_have_the_same_percentages() -> None:
    """A slow step would smear the mean curve of a fast one."""
    ramps = np.concatenate([np.linspace(0, 1, 40), np.linspace(0, 1, 90)])[:, None]
    curves = resample(ramps, np.array([[0, 40], [40, 130]]))
    assert curves[..., 0] == pytest.approx(np.tile(np.linspace(0, 1, 101), (2, 1)), abs=1e-6)


def test_stances_of_the_measured_example(example_b: Path) -> None:
    """The knee moments of the two people whom the authors of Dataset B publish as an example."""
    recording = distillation_b.read(example_b)
    targets = recording.samples["targets"].numpy()
    arrays = {"truth": targets, "prediction": targets, "stretch": recording.stretch}
    arrays["activity"] = np.full(len(targets), "")
    found = find_in(arrays, distillation_b.TARGETS, distillation_b.RATE_HZ)
    assert len(found) == 20
    table = stance_table(arrays, found, distillation_b.TARGETS, distillation_b.RATE_HZ)
    subject = np.array(recording.subjects)[recording.subject[found[:, 0]]]
    table["subject"] = subject.repeat(len(distillation_b.TARGETS))
    peaks = table.groupby(["target", "subject"])["measured_maximum"].agg(["mean", "max"])
    assert peaks.loc["KFM", "mean"].tolist() == pytest.approx([4.01, 3.88], abs=0.005)
    assert peaks.loc["KAM", "mean"].tolist() == pytest.approx([4.23, 2.77], abs=0.005)
    assert peaks.loc["GRF vertical", "max"].tolist() == pytest.approx([1.247, 1.245], abs=0.0005)


# Runs --------------------------------------------------------------------------------------------


@pytest.fixture
def main(synthetic_files: Files, tmp_path: Path, narrow: None) -> Callable[..., Path]:
    """Return a function that runs a script briefly, and returns its folder."""

    def run(*more: str, run_script: object = script, data: Path = synthetic_files["b"]) -> Path:
        flags = [*usual_flags(data, tmp_path), "--epochs", "1", "--run-name", "mine", *more]
        with no_figures():
            run_script.main(flags)
        return tmp_path / run_script.__name__ / "mine"

    return run


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_a_run_lists_each_stance_once(main: Callable[..., Path], protocol: str) -> None:
    """Windows overlap at the end of a stretch or stream; a stance would be counted twice."""
    folder = main("--protocol", protocol)
    table = pd.read_csv(folder / "stances.csv", dtype={"test_subject": str})
    assert list(dict.fromkeys(table["row"])) == ["lmfn-feet", "lmfn-feet_pelvis"]
    for row, lines in table.groupby("row"):
        saved = dict(np.load(folder / "predictions" / f"{row}-subject_03.npz"))
        assert saved["rate_hz"] == script.RATE_HZ
        for stretch in np.unique(saved["stretch"]):
            samples = saved["sample"][saved["stretch"] == stretch]
            assert (np.diff(samples) == 1).all()
        found = find_in(saved, script.TARGETS, script.RATE_HZ)
        assert len(lines) == len(found) * len(script.TARGETS) > 0
        vertical = lines[lines["target"] == "GRF vertical"]
        for kind, name in (("measured", "truth"), ("estimated", "prediction")):
            highest = [saved[name][start:stop, 3].max() for start, stop in found]
            assert vertical[f"{kind}_maximum"].tolist() == pytest.approx(highest, rel=1e-5)
        metrics = pd.read_csv(folder / "metrics.csv")
        chosen = (metrics["row"] == row) & (metrics["phase"] == "stance")
        assert (metrics.loc[chosen, "n"] == in_stance(found, len(saved["truth"])).sum()).all()


def test_a_subject_without_stances_has_no_stance_results(
    main: Callable[..., Path], synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Its other results must not be lost, and nobody should wonder where its stances are."""
    data = tmp_path / "b.h5"
    data.write_bytes(synthetic_files["b"].read_bytes())
    with h5py.File(data, "r+") as file:
        names = json.loads(file.attrs["columns"])
        file["subject_03"][..., names.index("plate_2_force_z")] = 0.0
    with pytest.warns(RuntimeWarning, match="constant truth"):
        folder = main("--rows", "lmfn-feet", data=data)
    assert "0 complete stances of 1 test subject in stances.csv; none of subject 03" in (
        capsys.readouterr().out
    )
    assert set(pd.read_csv(folder / "metrics.csv")["phase"]) == {"all"}
    assert len(pd.read_csv(folder / "stances.csv")) == 0


def test_a_script_without_vertical_force_gets_a_message(
    main: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    """A user with moments only would look for a file that is never written."""
    copy = load_script(copy_script(tmp_path, "mine_b", ('"GRF vertical"', '"GRF z"')))
    folder = main("--rows", "lmfn-feet", run_script=copy)
    assert "No stance results: no entry of TARGETS has the unit BW and" in capsys.readouterr().out
    assert not (folder / "stances.csv").exists()


def test_stances_are_drawn_in_the_requested_format(
    synthetic_files: Files, tmp_path: Path, narrow: None
) -> None:
    """Journals want vector graphics; the format does not affect the results of a run."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--epochs", "1", "--run-name", "mine"]
    flags += ["--rows", "lmfn-feet"]
    script.main([*flags, "--figure-format", "svg"])
    figures = tmp_path / NAME / "mine" / "figures"
    text = (figures / "stance_curves.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    assert {path.suffix for path in figures.iterdir()} == {".svg"}
    script.main([*flags, "--figure-format", "pdf"])  # the same run
    assert (figures / "stance_curves.pdf").read_bytes().startswith(b"%PDF")


# Report and prediction ---------------------------------------------------------------------------


def test_the_report_compares_peaks_and_impulses(tmp_path: Path) -> None:
    """Bias, error and limits decide whether a laboratory can use a network."""
    run = make_run(tmp_path / "run", [("teacher", "all_imus_emg", 1)])
    for subject in "789":
        write_predictions(run, "teacher", subject, ["Ramp", "Stair"], samples=200)
    [results] = load_results([run])
    tables = {table.stem: table for table in stance_tables(results, load_stances(results))}
    stances = pd.read_csv(run / "stances.csv")
    for measure, plural in (("maximum", "maxima"), ("impulse", "impulses")):
        lines = tables[f"stance_{plural}"].numbers.set_index("target")
        unit = "BW·s" if measure == "impulse" else "BW"
        line = lines.loc[f"GRF vertical ({unit})"]
        part = stances[stances["target"] == "GRF vertical"]
        differences = part[f"estimated_{measure}"] - part[f"measured_{measure}"]
        assert line["stances"] == len(part) > 15
        assert line["bias"] == pytest.approx(differences.mean())
        assert line["MAE"] == pytest.approx(differences.abs().mean())
        assert line["lower limit"] < line["bias"] - 1.96 * differences.std() * 0.8
        expected = np.corrcoef(part[f"measured_{measure}"], part[f"estimated_{measure}"])[0, 1]
        assert line["r"] == pytest.approx(expected)
    assert set(tables["stance_maxima_per_activity"].numbers["activity"]) == {"Ramp", "Stair"}
    plausibility = tables["plausibility"].numbers.iloc[0]
    saved = [np.load(path) for path in sorted(run.glob("predictions/*.npz"))]
    truth, estimated = (
        np.concatenate([file[name][:, 5] for file in saved]) for name in ("truth", "prediction")
    )
    assert plausibility["swing samples"] == (truth < 0.025).sum()
    assert plausibility["loaded %"] == pytest.approx(100 * (estimated[truth < 0.025] > 0.05).mean())
    assert plausibility["lowest estimated force (BW)"] == pytest.approx(estimated.min())


def test_runs_with_the_old_names_of_forces_are_reported(tmp_path: Path, capsys: Capture) -> None:
    """Trained for days with an earlier version, they would be lost."""
    run = make_run(tmp_path / "run", [("teacher", "all_imus_emg", 1)])
    path = write_predictions(run, "teacher", "7", ["Ramp"], samples=200)
    old = {now: before for before, now in RENAMED_TARGETS.items()}
    metrics = pd.read_csv(run / "metrics.csv").drop(columns="phase").replace({"target": old})
    metrics.to_csv(run / "metrics.csv", index=False)
    arrays = dict(np.load(path))
    arrays["target"] = np.array([old.get(name, name) for name in arrays["target"]])
    del arrays["rate_hz"]
    np.savez(path, **arrays)
    (run / "stances.csv").unlink()
    [results] = load_results([run])
    assert results.metrics["target"].tolist()[4:7] == list(old)
    tables = {table.stem: table for table in stance_tables(results, load_stances(results))}
    assert set(tables) == {"plausibility"}
    assert "no stance results, because it has no stances.csv" in capsys.readouterr().out
    assert renamed_targets("my_gait") == {}  # whose names are those of the user


def test_checkpoints_with_the_old_names_of_forces_are_loaded(tmp_path: Path, narrow: None) -> None:
    """Trained for days with an earlier version, they would be lost."""
    path = random_network(distillation_a, "student-foot", tmp_path)
    tensors, description = load_checkpoint(path)
    old = {now: before for before, now in RENAMED_TARGETS.items()}
    for target in description["targets"]:
        target["name"] = old.get(target["name"], target["name"])
    assert [target["name"] for target in description["targets"]][4:] == list(old.values())
    save_checkpoint(path, tensors, description)
    assert load_trained(path).row.name == "student-foot"
    description["targets"].reverse()
    save_checkpoint(path, tensors, description)
    with pytest.raises(InputError, match="targets is"):
        load_trained(path)


def test_peaks_are_estimated_without_a_force_plate(
    synthetic_files: Files, tmp_path: Path, narrow: None, capsys: Capture
) -> None:
    """A walk in the street has no measured force; its stances are those of the estimated one."""
    recording = distillation_a.read(synthetic_files["a"])
    checkpoint = random_network(distillation_a, "student-foot", tmp_path, recording)
    lines = predict(
        checkpoint, synthetic_files["a"], "--subject", "7", "--out", str(tmp_path / "out")
    )
    assert set(lines["sampling rate (Hz)"]) == {200}
    assert "found in the measured vertical force" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "stances.csv")
    starts = lines.set_index(["stretch", "time (s)"]).index
    assert all(place in starts for place in zip(table["stretch"], table["start_s"], strict=True))
    foot = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
    with h5py.File(synthetic_files["a"]) as file:
        names = json.loads(file.attrs["columns"])
        values = file["All_subjects/Subject_7/Treadmill"][:]
    walk = pd.DataFrame(values[:, [names.index(name) for name in foot]], columns=foot)
    walk.insert(0, "time", np.arange(len(walk)) / 200)
    walk.to_csv(tmp_path / "walk.csv", index=False)
    predict(checkpoint, tmp_path / "walk.csv", "--out", str(tmp_path / "street"))
    assert "found in the estimated vertical force" in capsys.readouterr().out
