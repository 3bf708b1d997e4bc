"""Estimates in newtons and newton meters, for OpenSim, and from c3d files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
from common.files import InputError
from tests.conftest import Capture, Files, Folders
from tests.predicting import predict, random_network
from tests.test_trial_sources import write_c3d
from tools.opensim import read_opensim
from tools.predict import output
from tools.predict.prediction import Prediction
from tools.predict.units import add_units
from tools.units import Person

MASS_KG, HEIGHT_M = 60.0, 1.5
BODY = ("--mass", str(MASS_KG), "--height", str(HEIGHT_M))
FOOT = [f"foot_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in "XYZ"]
TARGETS = fusion_a.COLUMNS["targets"]
UNITS = ["N·m", "Nmm", "Nm/kg", "BW*BH", "N", "kN", "BW"]  # as files state them
PER_UNIT = [882.0, 882e3, 14.7, 1.0, 588.0, 0.588, 1.0]  # in BW·BH and BW, for this person


@pytest.fixture(scope="module")
def network(tmp_path_factory: Folders) -> Path:
    """A small network of Dataset A with random weights."""
    return random_network(fusion_a, "lmfn-foot", tmp_path_factory.mktemp("network"))


@pytest.fixture
def trial(synthetic_files: Files) -> pd.DataFrame:
    """One simulated trial with its targets, as in the dataset."""
    with h5py.File(synthetic_files["a"]) as file:
        columns = json.loads(file.attrs["columns"])
        values = file["All_subjects/Subject_7/Treadmill"][:]
    table = pd.DataFrame(values, columns=columns)[[*FOOT, *TARGETS]]
    table.insert(0, "time", np.arange(len(table)) / fusion_a.RATE_HZ)
    return table


@pytest.fixture
def laboratory(trial: pd.DataFrame, tmp_path: Path) -> Path:
    """The same trial in the units of a laboratory, which a line below the names states."""
    trial = trial.astype(float)
    trial[TARGETS] *= PER_UNIT
    units = ["s", *["m/s²"] * 3, *["rad/s"] * 3, *UNITS]
    path = tmp_path / "laboratory.csv"
    pd.concat([pd.DataFrame([units], columns=trial.columns), trial]).to_csv(path, index=False)
    return path


def printed_table(capsys: Capture) -> dict[tuple[str, str], list[str]]:
    """Return (target, unit) -> lowest, highest, RMSE and NRMSE as printed."""
    lines = [line.rsplit(maxsplit=5) for line in capsys.readouterr().out.splitlines()]
    names = {target.name for target in fusion_a.TARGETS}
    return {(line[0], line[1]): line[2:] for line in lines if line and line[0] in names}


def test_measured_targets_are_compared_in_the_units_of_a_laboratory(
    network: Path, trial: pd.DataFrame, laboratory: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Newtons would be compared with body weights, or an error in N·m have another body's size."""
    trial.to_csv(tmp_path / "dataset.csv", index=False)
    predict(network, tmp_path / "dataset.csv")
    expected = printed_table(capsys)
    lines = predict(network, laboratory, *BODY)
    found = printed_table(capsys)
    assert {key: found[key] for key in expected} == expected
    assert len(found) == 7 + 2 * 4 + 3
    for name, unit, new, factor in (
        ("knee moment", "BW·BH", "N·m", 9.8 * MASS_KG * HEIGHT_M),
        ("knee moment", "BW·BH", "N·m/kg", 9.8 * HEIGHT_M),
        ("GRF vertical", "BW", "N", 9.8 * MASS_KG),
    ):
        own, other = lines[f"{name} ({unit})"], lines[f"{name} ({new})"]
        np.testing.assert_allclose(other, factor * own, rtol=1e-5)
        rmse, nrmse = (float(number) for number in found[name, new][2:])
        assert rmse == pytest.approx(factor * float(found[name, unit][2]), rel=0.01)
        assert nrmse == float(found[name, unit][3])
    stances = pd.read_csv(laboratory.parent / "laboratory-out" / "stances.csv")
    peaks = stances[(stances["stance"] == 1) & (stances["target"] == "GRF vertical")]
    assert peaks["unit"].tolist() == ["BW", "N"]
    assert peaks["measured_maximum"].iloc[1] == pytest.approx(
        588 * peaks["measured_maximum"].iloc[0], rel=1e-4
    )


def test_targets_in_other_units_are_not_compared_without_mass_and_height(
    network: Path, laboratory: Path, capsys: Capture
) -> None:
    """An NRMSE of newtons against body weights would be believed."""
    predict(network, laboratory)
    printed = capsys.readouterr().out
    assert (
        "their units differ from the network's: hip_flexion_r_moment in N·m, not BW·BH" in printed
    )
    assert "NRMSE" in printed
    predict(network, laboratory, "--mass", "60")
    found = printed_table(capsys)
    assert found["GRF vertical", "N"][3] == found["GRF vertical", "BW"][3] != "-"
    assert found["knee moment", "BW·BH"][2:] == ["-", "-"]
    assert not any(unit.startswith("N·m") for _, unit in found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mass", "60", "--height", "150"], "--height 150: not between 0.5 and 2.5; state the"),
        (["--mass", "60000", "--height", "1.5"], "--mass 60000: not between"),
        (["--height", "1.5"], "--height: needs --mass"),
        (["--opensim", "--mass", "60"], "--opensim: needs --mass and --height"),
    ],
)
def test_implausible_bodies_are_refused(
    flags: list[str], message: str, network: Path, laboratory: Path
) -> None:
    """Centimeters or grams would give plausible curves of another size."""
    with pytest.raises(InputError, match=message):
        predict(network, laboratory, *flags)


@pytest.mark.parametrize(
    ("script", "units"),
    [(fusion_a, ["N·m/kg"] * 4 + ["N"] * 3), (fusion_b, ["N·m/kg"] * 2 + ["N"] * 3)],
)
def test_figures_show_newtons(script: object, units: list[str]) -> None:
    """The figures would stay in body weights, or show every target three times."""
    targets, values = script.TARGETS, np.zeros((200, len(script.TARGETS)), np.float32)
    vertical = [target.name for target in targets].index("GRF vertical")
    values[50:140, vertical] = 1.0
    labels = pd.DataFrame({"stretch": 1, "time (s)": np.arange(200) / 100})
    result = Prediction(labels, np.zeros(200, int), values, values)
    result, targets, shown = add_units(result, targets, Person(MASS_KG, HEIGHT_M))
    assert [targets[k].unit for k in shown] == units
    assert [targets[k].name for k in shown] == [target.name for target in script.TARGETS]
    np.testing.assert_allclose(result.truth[100, shown[vertical]], 588.0)
    description = {"title": "", "synthetic": False, "trained_on_synthetic_data": False}
    description["warnings"] = []
    stances = output.find_stances(result, targets, 100)
    panel = output.draw_stances(stances, shown, description).axes[vertical]
    assert panel.get_title() == "GRF vertical\n(N)"
    assert panel.get_ylim()[1] == pytest.approx(588, rel=0.1)


# OpenSim ------------------------------------------------------------------------------------------


def write_for_opensim(network: Path, trial: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Run the command on a trial with a gap and a late start; return its CSV."""
    trial = trial.assign(time=trial["time"] + 2.5).drop(index=range(150, 200))
    trial[["time", *FOOT]].to_csv(folder / "walk.csv", index=False)
    return predict(network, folder / "walk.csv", *BODY, "--opensim")


def test_files_for_opensim(
    network: Path, trial: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """Axes, units or times would differ, or files of another recording be left in the folder."""
    lines = write_for_opensim(network, trial, tmp_path)
    assert "centers of pressure, the files cannot drive inverse dynamics" in capsys.readouterr().out
    folder = tmp_path / "walk-out"
    forces = read_opensim(folder / "prediction_grf.mot", [f"ground_force_v{a}" for a in "xyz"])
    moments = read_opensim(folder / "prediction_moments.sto", TARGETS)
    assert forces.names == ["time", *(f"ground_force_v{axis}" for axis in "xyz")]
    assert {*moments.names} == {"time", *TARGETS[:4]}
    assert {*forces.units.values()} == {"N"}
    assert {*moments.units.values()} == {"N·m"}
    for file, column, target in (
        (forces, "ground_force_vx", "GRF antero-posterior (N)"),
        (forces, "ground_force_vy", "GRF vertical (N)"),
        (forces, "ground_force_vz", "GRF medio-lateral (N)"),
        (moments, "knee_angle_r_moment", "knee moment (N·m)"),
    ):
        np.testing.assert_allclose(file.table[column], lines[target], rtol=1e-5)
        np.testing.assert_allclose(file.table["time"], lines["time (s)"], atol=1e-9)
    predict(network, tmp_path / "walk.csv", *BODY)
    assert not [*folder.glob("prediction_*")]


def test_several_trials_for_opensim(
    synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """OpenSim refuses times that start again; KFM would be taken for an internal moment."""
    checkpoint = random_network(fusion_b, "lmfn-feet", tmp_path)
    out = ["--out", str(tmp_path / "b")]
    lines = predict(checkpoint, synthetic_files["b"], "--subject", "1", *BODY, "--opensim", *out)
    assert "the OpenSim files have several trials in succession" in capsys.readouterr().out
    moments = read_opensim(tmp_path / "b" / "prediction_moments.sto", ["KFM_moment"])
    assert moments.names == ["time", "KAM_moment", "KFM_moment"]
    np.testing.assert_allclose(moments.table["time"], np.arange(len(lines)) / 100, atol=1e-9)
    forces = read_opensim(tmp_path / "b" / "prediction_grf.mot", ["ground_force_vx"])
    np.testing.assert_allclose(forces.table["ground_force_vx"], lines["GRF antero-posterior (N)"])


def test_opensim_reads_the_files(network: Path, trial: pd.DataFrame, tmp_path: Path) -> None:
    """OpenSim would refuse the files, or drop the samples without an estimate."""
    opensim = pytest.importorskip("opensim")
    trial.loc[170:180, "foot_Accel_X"] = np.nan  # splits the trial: 170 samples and the rest
    trial = trial.iloc[:240]
    lines = write_for_opensim(network, trial, tmp_path)
    assert lines["GRF vertical (N)"].isna().any()
    for name in ("prediction_grf.mot", "prediction_moments.sto"):
        path = str(tmp_path / "walk-out" / name)
        table, storage = opensim.TimeSeriesTable(path), opensim.Storage(path)
        assert table.getNumRows() == storage.getSize() == len(lines)
        assert not storage.isInDegrees()
        np.testing.assert_allclose(table.getIndependentColumn(), lines["time (s)"], atol=1e-9)
        columns = dict(zip(table.getColumnLabels(), table.getMatrix().to_numpy().T, strict=True))
        for column, target in (
            ("ground_force_vy", "GRF vertical (N)"),
            ("knee_angle_r_moment", "knee moment (N·m)"),
        ):
            if column in columns:
                np.testing.assert_allclose(columns[column], lines[target], rtol=1e-5)


# c3d ----------------------------------------------------------------------------------------------


def test_a_c3d_file_with_analog_imus(
    network: Path, trial: pd.DataFrame, tmp_path: Path, capsys: Capture
) -> None:
    """Laboratories that record IMUs on analog channels would have to export them first."""
    ms = np.interp(np.arange(0, 1, 1e-3), trial["time"], np.arange(len(trial)))
    channels = {}
    for name in FOOT:
        unit, size = ("g", 1 / 9.80665) if "Accel" in name else ("deg/s", 180 / np.pi)
        channels[name] = (unit, size * np.interp(ms, np.arange(len(trial)), trial[name]))
    markers = {"RHEE": np.ones((100, 3))}
    write_c3d(tmp_path / "walk.c3d", markers, channels, {}, {})
    table = {name: values for name, (_, values) in channels.items()}
    pd.DataFrame({"time": np.arange(0, 1, 1e-3), **table}).to_csv(tmp_path / "same.csv")
    units = ["--acc-unit", "g", "--gyr-unit", "deg/s"]
    expected = predict(network, tmp_path / "same.csv", *units)
    capsys.readouterr()
    found = predict(network, tmp_path / "walk.c3d")
    assert "Recorded at 1000 Hz" in capsys.readouterr().out
    np.testing.assert_allclose(found.iloc[:, 2:], expected.iloc[:, 2:], atol=1e-3)
    with pytest.raises(InputError, match=r"no column Ax \(for foot_Accel_X\).*among time, RHEE_X"):
        predict(network, tmp_path / "walk.c3d", "--columns", "foot_Accel_X=Ax")
