"""docs/your_own_data.md can be followed with user-supplied trials, from CSV files to a report."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from common.files import InputError
from tests import own_data
from tests.conftest import ROOT, Capture, Folders
from tests.networks import make_narrow
from tests.own_data import BLOCKS, PEOPLE, PYTHON, RECORDED_HZ, G, simulate
from tests.running import no_figures
from tools import trained
from tools.predict.__main__ import main as predict

SCRIPT = "my_gait"
pytestmark = pytest.mark.slow
TESTED = ["P 9", "P 10", "Zoë"]
TINY = ["--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Folders) -> Iterator[Path]:
    """Return the folder in which the page was followed; what was printed is in `printed.txt`."""
    folder = tmp_path_factory.mktemp("laboratory")
    own_data.write_trials(folder)
    (folder / "my_columns.csv").write_text(own_data.MAPPING, encoding="utf-8")
    new_walk = simulate("Anna", 3.0, seed=50).drop(columns=["Knee (Nm)", "Fz"])
    own_data.write_csv(folder / "new_walk.csv", new_walk)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(trained, "PROJECT", folder)  # where the scripts are
        patch.setattr(Figure, "savefig", save_empty)
        for language, block in BLOCKS:
            if language == "python":
                path = Path(f"{SCRIPT}.py")
                path.write_text(own_data.replace_definitions(path.read_text(), block))
            elif language == "bash":
                for command in block.splitlines():
                    run(command, patch)
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
        yield folder


def save_empty(figure: Figure, path: Path, **options: object) -> None:
    """Save an empty picture: figures are drawn, but rendering them takes most of the time."""
    Image.new("L", (1, 1)).save(path, "png")


def run(command: str, patch: pytest.MonkeyPatch) -> None:
    """Run a command of the page, with narrow networks, for one epoch and on fewer folds."""
    program, *arguments = shlex.split(command)
    if program == "cp":
        shutil.copy(ROOT / arguments[0], arguments[1])
    elif arguments[0] == f"{SCRIPT}.py":
        script = importlib.import_module(SCRIPT)
        make_narrow(script, patch)
        with no_figures():
            flags = [
                part for flag in arguments[1:] for part in (TESTED if flag == "all" else [flag])
            ]
            assert len(script.main([*flags, *TINY]))
    elif arguments[1] != "tools.export_onnx":  # has its own test
        command = importlib.import_module(f"{arguments[1]}.__main__")
        assert command.main(arguments[2:]) in (0, None), arguments


def read_file(place: Path) -> dict[tuple[str, str], tuple[pd.DataFrame, list[int]]]:
    """Return the samples and the starts of the trials, by subject and activity."""
    tables = {}
    with h5py.File(place / "data" / f"dataset_{SCRIPT}.h5") as file:
        columns = json.loads(file.attrs["columns"])
        for key, group in file["All_subjects"].items():
            for activity, table in group.items():
                starts = table.attrs["trial_starts"].tolist()
                found = pd.DataFrame(table[:], columns=columns), starts
                tables[key.removeprefix("Subject_"), activity] = found
    return tables


def test_the_file_holds_the_trials_in_the_units_of_the_script(place: Path) -> None:
    """A wrong factor or a wrong subject would go unnoticed until the results are published."""
    tables = read_file(place)
    assert tables.keys() == {(subject, a) for subject in PEOPLE for a in ("level", "fast")}
    for i, (subject, (mass_kg, height_m)) in enumerate(PEOPLE.items()):
        found, starts = tables[subject, "fast"]
        expected = simulate(subject, 3.0, seed=2 * i + 1)
        assert starts == [0]
        for name, values in (
            ("shank_Accel_Z", 9.80665 * expected["Shank acc Z"]),
            ("pelvis_Gyro_X", np.radians(expected["Pelvis gyr X"])),
            ("knee_moment", expected["Knee (Nm)"] / (G * mass_kg * height_m)),
            ("vertical_force", expected["Fz"] / (G * mass_kg)),
        ):
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_gap_splits_a_trial_and_a_short_trial_is_skipped(place: Path) -> None:
    """A movement would be invented, or two would be joined; a lost trial would go unnoticed."""
    tables = read_file(place)
    assert tables["Anna", "level"][1] == [0, 200]
    assert len(tables["Anna", "level"][0]) == int(3 * RECORDED_HZ) - 100
    printed = (place / "printed.txt").read_text(encoding="utf-8")
    gap = Path("trials/Anna/level/01.csv")
    assert f"NOTICE: {gap}: gap of 0.682 s after line 200 below the names: split" in printed
    short = Path("trials/P 9/fast/02.csv")
    assert f"NOTICE: trial skipped: {short}: no stretch is as long as a window" in printed
    assert re.search(r"^P 9 +2 +0\.1 +0\.0$", printed, re.MULTILINE)


def test_the_report_has_all_rows_and_does_not_mention_the_paper(place: Path) -> None:
    """The last step of the page would lack a row or compare with numbers of other data."""
    metrics = pd.read_csv(place / "outputs" / SCRIPT / "full" / "metrics.csv")
    assert metrics["test_subject"].unique().tolist() == TESTED  # P 10 after P 9
    assert set(metrics["activity"]) == {"all", "level", "fast"}
    report = (place / "outputs" / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Dataset my_gait, protocol `paper`" in report
    for row in ("teacher", "student-shank", "distilled-shank"):
        assert re.search(rf"\| {row} +\| [\d, ]+\|  3 of 5 \|", report), row
    assert "paper's" not in report
    assert "of the paper" not in report
    figures = place / "outputs" / "report" / "my_gait-paper" / "figures"
    assert (figures / "nrmse_against_imus.png").exists()


def test_moments_of_a_new_recording_are_estimated(place: Path) -> None:
    """The purpose of a network is to work without force plates, on the columns of the device."""
    lines = pd.read_csv(place / "outputs" / "new_walk" / "prediction.csv")
    assert list(lines.columns[-2:]) == ["knee moment (BW·BH)", "GRF vertical (BW)"]
    assert len(lines) == int(3 * RECORDED_HZ)
    assert lines.iloc[:, -2:].notna().all(axis=None)


def test_the_network_can_be_exported(place: Path) -> None:
    """Users of the exported file have no script to look up its channels."""
    onnx = pytest.importorskip("onnx", reason="requirements-export.txt is not installed")
    pytest.importorskip("onnxruntime", reason="requirements-export.txt is not installed")
    [command] = [line for line in own_data.PAGE.splitlines() if "tools.export_onnx" in line]
    export = importlib.import_module("tools.export_onnx.__main__")
    assert export.main(shlex.split(command)[3:]) == 0
    model = onnx.load(place / "my_gait.onnx")
    assert "rad/s: shank_Gyro_X, shank_Gyro_Y" in model.graph.input[1].doc_string


def checkpoint(place: Path, row: str, subject: str) -> Path:
    """Return the path of a checkpoint."""
    folder = place / "outputs" / SCRIPT / "full" / "checkpoints"
    return folder / f"{row}-subject_{subject}.safetensors"


def test_predict_repeats_the_test_of_the_run(place: Path, capsys: Capture) -> None:
    """It proves that a checkpoint belongs to the results, for ids with spaces and umlauts, too."""
    data = str(place / "data" / f"dataset_{SCRIPT}.h5")
    for subject in ("P 10", "Zoë"):
        network = ["--checkpoint", str(checkpoint(place, "teacher", subject)), "--data", data]
        assert predict([*network, "--as-tested", "--out", str(place / "tested")]) == 0
        assert "bit for bit" in capsys.readouterr().out
        one = ["--subject", subject, "--activity", "fast", "--out", str(place / "one")]
        assert predict([*network, *one]) == 0
        capsys.readouterr()


def test_measured_targets_in_other_units_are_noticed(place: Path, capsys: Capture) -> None:
    """An NRMSE of newtons against body weights looks like a failure of the network."""
    flags = ["--columns", "my_columns.csv", "--time-column", "Time", "--acc-unit", "g"]
    where = ["--checkpoint", str(checkpoint(place, "teacher", "P 9"))]
    where += ["--data", "trials/Anna/fast/01.csv", "--out", "raw"]
    assert predict([*where, *flags, "--gyr-unit", "deg/s"]) == 0
    warning = r"WARNING: GRF vertical: measured values are \d+ times as large as the estimates"
    assert re.search(warning, capsys.readouterr().out)


def test_a_script_without_data_and_another_rate_are_refused(place: Path) -> None:
    """There are no synthetic data for a third dataset; windows of 0.37 s would be trained."""
    script = importlib.import_module(SCRIPT)
    with pytest.raises(InputError, match=r"no.h5: no such file; .*--data"):
        script.main(["--data", str(place / "no.h5"), *TINY])
    with pytest.raises(
        InputError, match=r"see --help and docs/your_own_data.md for how to create it"
    ):
        script.main(["--sample", *TINY])
    with pytest.raises(InputError, match="recorded at 148 Hz, but RATE_HZ of the script is 200"):
        script.read(place / "data" / f"dataset_{SCRIPT}.h5", rate_hz=200)


ROWS = 'IMU_SETS = ("shank",)\n', 'FULL_SET = "both"\n'


@pytest.mark.parametrize("name", [p.name for p in sorted(ROOT.glob("Dataset_A_*.py"))])
def test_every_script_of_dataset_a_can_be_adapted(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page promises that the same blocks fit into all of them."""
    source = (ROOT / name).read_text(encoding="utf-8")
    is_distillation = "TEACHER_SET =" in source
    changes = [block for block in PYTHON if is_distillation or "TEACHER_SET" not in block]
    changes += [row for row in ROWS if f"\n{row.split(' = ')[0]} = " in source]
    own_data.copy_script(name, place / f"my_{name}", changes)
    script = importlib.import_module(f"my_{Path(name).stem}")
    recording = script.read(place / "data" / f"dataset_{SCRIPT}.h5")
    make_narrow(script, monkeypatch)
    window = {name: values[None, : script.WINDOW] for name, values in recording.samples.items()}
    assert script.ROWS
    for row in script.ROWS:
        estimate = row.network().eval()(*script.inputs(window, row.sensor_set))
        assert estimate.shape == (1, script.WINDOW, 2), row.name
