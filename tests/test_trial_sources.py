"""c3d and OpenSim files, trials of several files, virtual IMUs and the rule for valid samples."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import ezc3d
import h5py
import numpy as np
import pandas as pd
import pytest

from common.files import InputError
from tests import own_data
from tests.conftest import MEASURED, Capture
from tests.own_data import MAPPING, PEOPLE, RECORDED_HZ, G, simulate, write_csv
from tools import trained
from tools.c3d_file import read_c3d
from tools.make_dataset.__main__ import main
from tools.make_dataset.sources import c3d_columns
from tools.opensim import read_opensim
from tools.prepare_dataset_a.trial import compute_emg_envelope
from tools.virtual_imus import Placement

UNITS = ["--acc-unit", "g", "--gyr-unit", "deg/s"]
IMUS, TARGETS = [*simulate("Anna", 0.1, 0)][1:13], ["Knee (Nm)", "Fz"]
SUBJECTS = ("Anna", "ben-2")
SHANK = "sensor,origin,x,y,z,marker\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with a script, a mapping and the table of subjects."""
    own_data.copy_script("Dataset_A_Sensor_Distillation.py", tmp_path / "own_sources_script.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trained, "PROJECT", tmp_path)
    people = [(subject, *PEOPLE[subject]) for subject in SUBJECTS]
    write_csv(Path("subjects.csv"), pd.DataFrame(people, columns=["id", "mass_kg", "height_m"]))
    Path("columns.csv").write_text(MAPPING, encoding="utf-8")
    return tmp_path


def make(*flags: str) -> dict[str, pd.DataFrame]:
    """Run the command and return the samples by `<subject>/<activity>`."""
    where = ["--script", "own_sources_script.py", "--trials", "trials", "--out", "made.h5"]
    assert main([*where, "--columns", "columns.csv", *flags]) == 0
    tables: dict[str, pd.DataFrame] = {}
    with h5py.File("made.h5") as file:
        columns = json.loads(file.attrs["columns"])
        for subject, group in file["All_subjects"].items():
            for activity, table in group.items():
                name = f"{subject.removeprefix('Subject_')}/{activity}"
                tables[name] = pd.DataFrame(table[:], columns=columns)
    return tables


# OpenSim ------------------------------------------------------------------------------------------


def write_opensim(
    path: Path,
    table: pd.DataFrame,
    *,
    version: int = 1,
    separator: str = "\t",
    in_degrees: str = "no",
    missing: str = "nan",
) -> Path:
    """Write a `.mot` or `.sto` file; the first column is the time."""
    size = [f"nRows={len(table)}", f"nColumns={len(table.columns)}"]
    header = {
        1: ["Inverse Dynamics Generalized Forces", "version=1", *size, f"inDegrees={in_degrees}"],
        3: [f"inDegrees={in_degrees}", *size, "DataType=double", "version=3", "OpenSimVersion=4.1"],
    }[version]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = table.to_csv(sep=separator, index=False, na_rep=missing, lineterminator="\n")
    path.write_text("\n".join([*header, "endheader", lines]), encoding="utf-8")
    return path


FORCES = pd.DataFrame(
    {
        "time": [0.1, 0.2, 0.3],
        "ground_force_1_vy": [700.0, np.nan, 710.0],
        "knee_angle_r": [1.0, 2.0, np.nan],
    }
)
VARIANTS = {
    "version 1": {},
    "version 3": {"version": 3},
    "spaces": {"separator": " ", "missing": "NaN"},
    "empty cells": {"missing": ""},
    "indefinite": {"missing": "-nan(ind)", "in_degrees": "yes"},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_variants_of_opensim_files(tmp_path: Path, variant: dict[str, str]) -> None:
    """Each version of OpenSim and of the tools around it writes another header."""
    path = write_opensim(tmp_path / "grf.mot", FORCES, **variant)
    file = read_opensim(path, [*FORCES])
    pd.testing.assert_frame_equal(file.table, FORCES)
    angle = "deg" if variant.get("in_degrees") == "yes" else "rad"
    assert file.units == {"ground_force_1_vy": "N", "knee_angle_r": angle}


def test_angles_without_a_stated_unit_are_named(tmp_path: Path) -> None:
    """Radians would be taken for degrees, or the other way round, without a message."""
    state = "/jointset/knee_r/knee_angle_r/value"
    path = write_opensim(tmp_path / "ik.sto", FORCES.assign(**{state: 0.1}), in_degrees="yes")
    assert read_opensim(path, [state]).units[state] == "deg"
    damage_opensim(path, "inDegrees=yes\n", "")
    file = read_opensim(path, ["knee_angle_r"])
    assert "knee_angle_r" not in file.units
    assert file.notices == [
        "`inDegrees` is not stated: the unit of knee_angle_r is that of the script, unless the "
        "--columns file states another one in a column `unit`"
    ]
    assert not read_opensim(path, ["ground_force_1_vy"]).notices


def damage_opensim(path: Path, old: str, new: str) -> None:
    """Replace text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


DAMAGED_OPENSIM = {
    "quaternions": ("version=1", "DataType=Quaternion", "values are of type quaternion, not numb"),
    "no header": ("endheader", "end", "no line `endheader`"),
    "truncated": ("nRows=3", "nRows=3000", "nRows is 3000, but there are 3 lines: cut off?"),
    "two names": ("knee_angle_r", "ground_force_1_vy", "must name the columns, each once"),
    "no time": ("time\t", "t\t", "one of them `time`"),
    "more cells": ("0.2\t", "0.2\t3\t", "more cells in a line than names"),
}


@pytest.mark.parametrize(("old", "new", "message"), DAMAGED_OPENSIM.values(), ids=DAMAGED_OPENSIM)
def test_unusable_opensim_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Orientations or shifted columns would be taken for forces."""
    path = write_opensim(tmp_path / "grf.mot", FORCES)
    damage_opensim(path, old, new)
    with pytest.raises(InputError, match="grf.mot: ") as caught:
        read_opensim(path, [*FORCES])
    assert message in str(caught.value)


def test_recorded_opensim_files() -> None:
    """The files of Dataset A's authors are what most users of OpenSim have."""
    folder = MEASURED / "dataset_a"
    if not folder.exists():
        pytest.skip(f"no recorded data: {folder}")
    force = read_opensim(folder / "treadmill_01_01_grf.mot", ["ground_force_1_vy"])
    assert (len(force.table), len(force.names)) == (28611, 19)
    assert 900 < force.table["ground_force_1_vy"].max() < 1300  # N
    angles = read_opensim(folder / "levelground_ccw_fast_01_01_ik.mot", ["knee_angle_r"])
    assert angles.units["knee_angle_r"] == "rad"


# Several files ------------------------------------------------------------------------------------


def write_parts(subject: str, force_hz: float = RECORDED_HZ, offset_s: float = 0.0) -> pd.DataFrame:
    """Write a trial as IMUs (CSV), force (`.mot`) and moment (`.sto`); return it as one table."""
    trial = simulate(subject, 2.0, seed=3)
    folder = Path("trials", subject, "level")
    write_csv(folder / "01_imu.csv", trial[["Time", *IMUS]])
    time_s = trial["Time"].to_numpy()
    force_s = np.arange(time_s[0], time_s[-1], 1 / force_hz)
    force = {"time": force_s + offset_s, "Fz": np.interp(force_s, time_s, trial["Fz"])}
    write_opensim(folder / "01_grf.mot", pd.DataFrame(force), version=3)
    moment = trial[["Time", "Knee (Nm)"]].iloc[20:-10]
    write_opensim(folder / "01_id.sto", moment.rename(columns={"Time": "time"}))
    return trial


JOINED = [*UNITS, "--time-column", "Time", "--subjects", "subjects.csv", "--normalize"]


@pytest.mark.parametrize("layout", ["prefix", "folder"])
def test_several_files_of_a_trial_are_joined(place: Path, layout: str, capsys: Capture) -> None:
    """Laboratories store IMUs, forces and moments in separate files with a common clock."""
    trials = {subject: write_parts(subject) for subject in SUBJECTS}
    if layout == "folder":
        for subject in SUBJECTS:
            files = [*Path("trials", subject, "level").iterdir()]
            for file in files:
                other = file.parent / "walk 1" / file.name.removeprefix("01_")
                other.parent.mkdir(exist_ok=True)
                file.rename(other)
    tables = make(*JOINED)
    assert "skipped" not in capsys.readouterr().out
    for subject, trial in trials.items():
        mass_kg, height_m = PEOPLE[subject]
        expected = trial.iloc[20:-10].reset_index(drop=True)  # where all files have data
        found = tables[f"{subject}/level"]
        assert len(found) == len(expected)
        moment = expected["Knee (Nm)"] / (G * mass_kg * height_m)
        np.testing.assert_allclose(found["knee_moment"], moment, atol=1e-6)
        force = expected["Fz"] / (G * mass_kg)
        np.testing.assert_allclose(found["vertical_force"], force, atol=1e-6)
        acc = 9.80665 * expected["Pelvis acc Z"]
        np.testing.assert_allclose(found["pelvis_Accel_Z"], acc, rtol=1e-5)


def test_files_of_other_rates_and_with_an_offset(place: Path, capsys: Capture) -> None:
    """A force plate at 1,000 Hz would be aliased, or its clock be wrong by 10 minutes."""
    for subject in SUBJECTS:
        trial = write_parts(subject, force_hz=1000.0, offset_s=600.0)
    with pytest.raises(InputError, match="do not overlap") as caught:
        make(*JOINED)
    message = str(caught.value)
    assert "01_grf.mot from 600 to 601.9" in message
    assert "--offset" in message
    found = make(*JOINED, "--offset", "*_grf.mot=-600")["ben-2/level"]
    force = trial["Fz"].iloc[20:-10] / (G * PEOPLE["ben-2"][0])
    smooth = force.rolling(9, center=True).std().to_numpy() < 0.05  # the low-pass rounds edges
    assert "in all of its files" not in capsys.readouterr().out
    make(*JOINED, "--offset", "*_grf.mot=-601")
    printed = capsys.readouterr().out
    assert "only 0.858 s are in all of its files (01_grf.mot from -1 to 0.993 s, " in printed
    assert "shift one of them with --offset" in printed
    error = (found["vertical_force"] - force.to_numpy())[smooth]
    assert smooth.sum() > 100
    assert error.abs().max() < 0.03


NO_CLOCK = {
    "two files with a column": ("01_id.sto", "both have the column Fz; rename one column"),
    "no times": ("01_imu.csv", "no time column, so it cannot be joined with the other files"),
    "times with another name": (
        "01_imu.csv",
        "pass --time-column time if all files have it, or rename it to Time",
    ),
}


@pytest.mark.parametrize(("name", "message"), NO_CLOCK.values(), ids=NO_CLOCK)
def test_files_that_cannot_be_joined(place: Path, name: str, message: str) -> None:
    """Samples of different moments would be in one line."""
    for subject in SUBJECTS:
        trial = write_parts(subject)
        path = Path("trials", subject, "level", name)
        if path.suffix == ".sto":
            table = trial[["Time", "Knee (Nm)", "Fz"]].rename(columns={"Time": "time"})
            write_opensim(path, table)
        else:
            times = {"time": trial["Time"]} if "rename" in message else {}
            write_csv(path, trial[IMUS].assign(**times))
    with pytest.raises(InputError, match=message):
        make(*JOINED)


@pytest.mark.parametrize(
    ("offset", "message"),
    [("*_grf.mot", "write PATTERN=SECONDS"), ("x*=1", "no file has a name like x")],
)
def test_an_offset_that_shifts_nothing_is_refused(place: Path, offset: str, message: str) -> None:
    """A typo would leave the clocks apart."""
    write_parts("Anna")
    with pytest.raises(InputError, match=message):
        make(*JOINED, "--offset", offset)


def test_numbered_files_are_separate_trials(place: Path) -> None:
    """walk_1 and walk_2 would be joined, although both start at 0."""
    for subject in SUBJECTS:
        for name in ("walk_1.csv", "walk_2.csv"):
            write_csv(Path("trials", subject, "level", name), simulate(subject, 1.0, seed=1))
    assert len(make(*JOINED)["Anna/level"]) == 2 * RECORDED_HZ


# Valid samples ------------------------------------------------------------------------------------


def test_targets_are_valid_in_contacts_only(place: Path, capsys: Capture) -> None:
    """Moments are wrong while the foot is on the ground off the plates."""
    time_s = np.arange(int(6 * RECORDED_HZ)) / RECORDED_HZ
    for subject in SUBJECTS:
        trial = simulate(subject, 6.0, seed=3)
        trial["Knee (Nm)"] = 1.0
        trial["Fz"] = np.nan  # off the plates
        for start_s, stop_s, force in (
            (1.0, 1.6, 800),
            (2.5, 2.6, 800),
            (3, 5, 800),
            (5.2, 5.7, 9),
        ):
            trial.loc[(time_s >= start_s) & (time_s < stop_s), "Fz"] = force
        write_csv(Path("trials", subject, "level", "01.csv"), trial)
    rule = ["--valid-contact", "Fz > 5", "--contact-duration", "0.3", "0.9"]
    found = make(*JOINED, *rule, "--contact-peak", "100", "--contact-around", "0.1", "0.2")
    is_valid = found["Anna/level"]["knee_moment"].notna()
    np.testing.assert_array_equal(is_valid, (time_s > 0.897) & (time_s < 1.798))
    force = found["Anna/level"]["vertical_force"]
    assert (force.isna() == ~is_valid).all()
    assert force[is_valid & ~((time_s >= 1.0) & (time_s < 1.6))].eq(0).all()  # in the air
    assert found["Anna/level"]["shank_Accel_X"].notna().all()
    printed = " ".join(capsys.readouterr().out.split())
    assert "contacts valid s" in printed
    assert "Anna level 1 0.1 84.9 1 0.9 " in printed
    by_target = make(*JOINED, "--valid-contact", "vertical_force > 0.5")
    assert by_target["Anna/level"]["knee_moment"].notna().sum() == 89  # 0.6 s
    with pytest.raises(InputError, match="no contact of the foot by the rule Fz > 5000 for 0.3"):
        make(*JOINED, "--valid-contact", "Fz > 5000")
    for rule, message in {
        ("Fz",): "write the name of a force, > or < and a number",
        ("Fx > 5",): "no column Fx for --valid-contact; name a target of the script",
        ("Fz < -5", "--contact-peak", "100"): "every contact by the rule 'Fz < -5' reaches it",
        ("Fz > 5", "--contact-around", "-0.1", "0.1"): "both numbers must be 0 or more",
    }.items():
        with pytest.raises(InputError, match=message):
            make(*JOINED, "--valid-contact", *rule)


# c3d ----------------------------------------------------------------------------------------------


def write_c3d(
    path: Path,
    points: dict[str, np.ndarray],
    analog: dict[str, tuple[str, np.ndarray]],
    kinds: dict[str, list[str]],
    units: dict[str, str],
    *,
    labels: list[str] | None = None,
    first_frame: int = 0,
    mass_kg: float | None = 61.0,
    height: float = 1680.0,
) -> Path:
    """Write points `(frames, 3)` at 100 Hz and analog channels (unit, values) at 1,000 Hz."""
    file = ezc3d.c3d()
    parameters = file["parameters"]
    parameters["POINT"]["RATE"]["value"] = [100.0]
    parameters["POINT"]["UNITS"]["value"] = [units.get("UNITS", "mm")]
    parameters["POINT"]["LABELS"]["value"] = labels or [*points]
    parameters["ANALOG"]["RATE"]["value"] = [1000.0] if analog else [0.0]
    parameters["ANALOG"]["LABELS"]["value"] = [*analog]
    parameters["ANALOG"]["UNITS"]["value"] = [unit for unit, _ in analog.values()]
    for group, names in kinds.items():
        file.add_parameter("POINT", group, names)
    for name, unit in units.items():
        if name != "UNITS":
            file.add_parameter("POINT", name, [unit])
    if mass_kg:
        file.add_parameter("PROCESSING", "Bodymass", [mass_kg])
        file.add_parameter("PROCESSING", "Height", [height])
    values = np.stack([*points.values()], axis=1)  # (frames, labels, 3)
    file["data"]["points"] = np.concatenate([values.T, np.ones((1, *values.T.shape[1:]))])
    missing = np.isnan(values).any(axis=-1).T
    file["data"]["meta_points"]["residuals"] = np.where(missing, -1.0, 0.0)[None]
    file["data"]["meta_points"]["camera_masks"] = np.zeros((7, *missing.shape), bool)
    if analog:
        file["data"]["analogs"] = np.stack([values for _, values in analog.values()])[None]
    file["header"]["points"]["first_frame"] = first_frame
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write(str(path))
    return path


def write_imu_c3d(path: Path, moment_unit: str = "Nmm", **options: object) -> Path:
    """Write two seconds of IMUs in analog channels, a marker, moments, forces and 300 labels."""
    time_s, fast_s = np.arange(200) / 100, np.arange(2000) / 1000
    wave = np.sin(2 * np.pi * fast_s)
    noise = 50 * np.sin(2 * np.pi * 400 * fast_s)  # would be aliased to 44 Hz at 148 Hz
    analog = {f"Shank.A{axis}": ("m/s²", 9.8 * (axis == "Z") + wave + noise) for axis in "XYZ"}
    analog |= {f"Shank.G{axis}": ("deg/s", 100 * wave) for axis in "XYZ"}
    filler = {f"P{i}": np.ones((200, 3)) for i in range(290)}
    toe = np.full((200, 3), 5.0)
    toe[10:15], toe[50] = np.nan, 0.0
    moment = np.outer(np.cos(np.pi * time_s), [30e3 if moment_unit == "Nmm" else 30, 1, 1])
    moment[150:] = 0.0  # not computed
    force = np.outer(np.sin(np.pi * time_s) ** 2, [0, 0, 700])
    points = {"TOE": toe, **filler, "RKneeMoment": moment, "RForce": force}
    kinds = {"MOMENTS": ["RKneeMoment"], "FORCES": ["RForce"]}
    units = {"MOMENT_UNITS": moment_unit, "FORCE_UNITS": "N"}
    return write_c3d(path, points, analog, kinds, units, **options)


C3D_COLUMNS = [
    "yours,ours",
    *(f"Shank.A{axis},{sensor}_Accel_{axis}" for sensor in ("shank", "pelvis") for axis in "XYZ"),
    *(f"Shank.G{axis},{sensor}_Gyro_{axis}" for sensor in ("shank", "pelvis") for axis in "XYZ"),
    "RKneeMoment_X,knee_moment",
    "RForce_Z,vertical_force",
]


def test_each_kind_of_column_of_a_c3d_file(place: Path, capsys: Capture) -> None:
    """Labels beyond 255, units, rates or the mass of the file would be wrong or lost."""
    Path("columns.csv").write_text("\n".join(C3D_COLUMNS), encoding="utf-8")
    for subject, unit in (("Anna", "Nmm"), ("ben-2", "Nm")):
        write_imu_c3d(Path("trials", subject, "level", "01.c3d"), unit, first_frame=70)
    tables = make("--normalize")
    anna, ben = tables["Anna/level"], tables["ben-2/level"]
    time_s = np.arange(len(anna)) / RECORDED_HZ
    inner = slice(20, -20)
    acc = 9.8 + np.sin(2 * np.pi * time_s)
    np.testing.assert_allclose(anna["shank_Accel_Z"][inner], acc[inner], atol=0.02)
    gyr = np.radians(100 * np.sin(2 * np.pi * time_s))
    np.testing.assert_allclose(anna["shank_Gyro_X"][inner], gyr[inner], atol=0.01)
    moment = 30 * np.cos(np.pi * time_s) / (61 * G * 1.68)
    moment[time_s > 1.49] = np.nan
    np.testing.assert_allclose(anna["knee_moment"][5:200], moment[5:200], atol=0.002)
    np.testing.assert_allclose(ben["knee_moment"], anna["knee_moment"], atol=1e-6)
    force = 700 * np.sin(np.pi * time_s) ** 2 / (61 * G)
    np.testing.assert_allclose(anna["vertical_force"], force, atol=0.01)
    with h5py.File("made.h5") as file:
        attributes = dict(file["All_subjects/Subject_Anna"].attrs)
    assert attributes == {"mass_kg": 61.0, "height_m": pytest.approx(1.68)}
    assert "taken as" not in capsys.readouterr().out


@pytest.mark.parametrize(("height", "height_m"), [(168.0, 1.68), (1.68, 1.68), (0.0, None)])
def test_the_height_may_be_in_another_unit(
    tmp_path: Path, height: float, height_m: float | None, capsys: Capture
) -> None:
    """A height in cm that is taken for mm would multiply all moments by 10."""
    path = write_imu_c3d(tmp_path / "a.c3d", height=height)
    assert read_c3d(path).height_m == (height_m and pytest.approx(height_m))
    with pytest.raises(SystemExit):
        main(["--list", str(path)])
    described = f"{height_m} m" if height_m else "unknown"
    assert f"body mass: 61 kg; height: {described}" in capsys.readouterr().err


def test_a_short_contact_in_newtons_is_not_per_kg(place: Path, capsys: Capture) -> None:
    """Forces that are 0 for most of a trial would be multiplied by the body mass."""
    Path("columns.csv").write_text("\n".join(C3D_COLUMNS), encoding="utf-8")
    for subject in SUBJECTS:
        path = write_imu_c3d(Path("trials", subject, "level", "01.c3d"))
        content = ezc3d.c3d(str(path))
        content["data"]["points"][:3, 291:, 8:] = 0.0  # moments and forces
        content["data"]["points"][2, 292, :8] = 700.0
        content["data"]["points"][2, 292, 8:40] = 10.0
        content["data"]["points"][2, 292, 40:60] = 700.0
        content.write(str(path))
    assert make("--normalize")["Anna/level"]["vertical_force"].max() < 1.6
    assert "forces are below" not in capsys.readouterr().out


def test_time_starts_at_the_first_frame(place: Path) -> None:
    """A c3d file joined with IMUs would be shifted by the part that was cut off."""
    trial = simulate("Anna", 4.0, seed=3)
    for subject in SUBJECTS:
        folder = Path("trials", subject, "level")
        write_csv(folder / "01_imu.csv", trial[["Time", *IMUS]])
        write_imu_c3d(folder / "01_vicon.c3d", first_frame=100)
    mapping = MAPPING.replace("Knee (Nm)", "RKneeMoment_X").replace("\nFz", "\nRForce_Z")
    Path("columns.csv").write_text(mapping, encoding="utf-8")
    found = make(*UNITS, "--time-column", "Time", "--normalize")["Anna/level"]
    assert len(found) == int(1.99 * RECORDED_HZ) + 1
    shank = trial["Shank acc X"][int(RECORDED_HZ) :] * 9.80665
    np.testing.assert_allclose(found["shank_Accel_X"], shank[: len(found)], atol=1e-4)


def test_moments_per_kg_are_recognized(place: Path, capsys: Capture) -> None:
    """Plug-in Gait states Nmm for Nmm/kg: moments would be smaller by the body mass."""
    Path("columns.csv").write_text("\n".join(C3D_COLUMNS), encoding="utf-8")
    for subject in SUBJECTS:
        path = write_imu_c3d(Path("trials", subject, "level", "01.c3d"), "Nmm")
        content = ezc3d.c3d(str(path))
        content["data"]["points"][:3, 291] /= 30.0  # N·mm/kg
        content.write(str(path))
    found = make("--normalize")["Anna/level"]["knee_moment"]
    assert found.max() == pytest.approx(1.0 / (G * 1.68), rel=0.01)
    assert "95 % of the moments are below 997 Nmm: taken as Nmm/kg" in capsys.readouterr().out
    columns = [f"{line}," for line in C3D_COLUMNS[1:]]
    columns = [line.replace("knee_moment,", "knee_moment,Nmm") for line in columns]
    Path("columns.csv").write_text("\n".join(["yours,ours,unit", *columns]), encoding="utf-8")
    stated = make("--normalize")["Anna/level"]["knee_moment"]
    np.testing.assert_allclose(61 * stated, found, rtol=1e-5)


def test_duplicates_gaps_and_zeros_are_reported(tmp_path: Path, capsys: Capture) -> None:
    """Half of a marker would be missing, or at the origin of the laboratory, without a message."""
    labels = ["TOE", "TOE", *(f"P{i}" for i in range(1, 290)), "RKneeMoment", "RForce"]
    path = write_imu_c3d(tmp_path / "b.c3d", labels=labels, mass_kg=None)
    with pytest.raises(SystemExit):
        main(["--list", str(path)])
    printed = capsys.readouterr()
    assert "several points or channels are named TOE; the first of each is read" in printed.err
    assert (
        "TOE: missing in 6 of 200 frames, at most 5 in succession; 1 of them are 0" in printed.err
    )
    with pytest.raises(InputError, match="is a folder; pass one file of a trial"):
        main(["--list", str(tmp_path)])
    table = pd.read_csv(io.StringIO(printed.out)).set_index("yours")
    assert table.loc["TOE_X", ["unit", "rate_hz", "missing_percent"]].tolist() == ["mm", 100, 3]
    assert table.loc["Shank.GX", ["unit", "rate_hz"]].tolist() == ["deg/s", 1000]
    assert table.loc["RKneeMoment_X", ["unit", "missing_percent"]].tolist() == ["Nmm", 25]
    assert table.loc["RForce_Z", "missing_percent"] == 0  # a force may be 0


def test_the_list_of_a_file_is_a_mapping(place: Path, capsys: Capture) -> None:
    """The template must be accepted after filling in some of its lines."""
    for subject in SUBJECTS:
        write_imu_c3d(Path("trials", subject, "level", "01.c3d"))
    with pytest.raises(SystemExit):
        main(["--list", "trials/Anna/level/01.c3d"])
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    ours = dict(line.split(",") for line in C3D_COLUMNS[1:])
    table["ours"] = table["yours"].map(ours)
    second = [line for line in C3D_COLUMNS if ",shank" in line]
    lines = pd.DataFrame([line.split(",") for line in second], columns=["yours", "ours"])
    pd.concat([table, lines]).to_csv("columns.csv", index=False)
    assert make("--normalize").keys() == {"Anna/level", "ben-2/level"}


def test_a_c3d_file_with_other_letters_and_without_points(tmp_path: Path, capsys: Capture) -> None:
    """Old systems write Latin-1, and EMG systems no points."""
    file = ezc3d.c3d()
    file["parameters"]["POINT"]["RATE"]["value"] = [100.0]
    file["parameters"]["ANALOG"]["RATE"]["value"] = [1000.0]
    file["parameters"]["ANALOG"]["LABELS"]["value"] = ["Mxskel"]
    file["data"]["points"] = np.zeros((4, 0, 50))
    file["data"]["analogs"] = np.ones((1, 1, 500))
    path = tmp_path / "a.c3d"
    file.write(str(path))
    path.write_bytes(path.read_bytes().replace(b"Mxskel", b"M\xfcskel"))
    with pytest.raises(SystemExit):
        main(["--list", str(path)])
    assert "Müskel,,,1000,0\n" in capsys.readouterr().out


def test_long_and_late_c3d_files(tmp_path: Path) -> None:
    """The header counts frames with 16 bits: the rest would be lost, or the start be wrong."""
    path = write_c3d(tmp_path / "a.c3d", {"A": np.ones((65_600, 3))}, {}, {}, {})
    with pytest.raises(InputError, match=r"a.c3d: longer than 65,535 frames; export it in several"):
        read_c3d(path)
    path = write_c3d(tmp_path / "b.c3d", {"A": np.ones((300, 3))}, {}, {}, {}, first_frame=70_000)
    content = ezc3d.c3d(str(path))
    content.add_parameter("TRIAL", "ACTUAL_START_FIELD", [70_001 - 2**16, 1])
    content["header"]["points"]["first_frame"] = 70_000
    content.write(str(path))
    file = read_c3d(path)
    assert (file.frames, file.start_s) == (300, 700.0)


def test_a_gap_and_one_opensim_file(place: Path, capsys: Capture) -> None:
    """A gap in one file of a trial must split the trial, as in a single file."""
    for subject in SUBJECTS:
        trial = simulate(subject, 4.0, seed=3).rename(columns={"Time": "time"})
        folder = Path("trials", subject)
        write_opensim(folder / "fast" / "01.sto", trial)
        write_csv(folder / "level" / "01_imu.csv", trial[["time", *IMUS]].drop(range(200, 300)))
        write_opensim(folder / "level" / "01_id.sto", trial[["time", *TARGETS]])
    tables = make(*UNITS, "--subjects", "subjects.csv", "--normalize")
    whole, parts = tables["Anna/fast"], tables["Anna/level"]
    assert (len(whole), len(parts)) == (592, 492)
    expected = whole.drop(range(200, 300)).reset_index(drop=True)
    np.testing.assert_allclose(parts, expected, atol=1e-5)
    with h5py.File("made.h5") as file:
        starts = file["All_subjects/Subject_Anna/level"].attrs["trial_starts"]
    assert starts.tolist() == [0, 200]
    assert "level/01: gap of 0.682 s after sample 200 at 148 Hz, no Shank acc X" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("length", [0, 3, 600, 5_000, 20_000, -4_000])
def test_truncated_c3d_files(tmp_path: Path, length: int) -> None:
    """The library that reads c3d ends the whole process on some damaged files."""
    content = write_imu_c3d(tmp_path / "a.c3d").read_bytes()
    path = tmp_path / "cut.c3d"
    path.write_bytes(content[:length])
    with pytest.raises(InputError, match="cut.c3d: (damaged|not a) c3d file"):
        read_c3d(path)


def test_damaged_parameters_of_c3d_files(tmp_path: Path) -> None:
    """A flipped byte in a parameter must not end the whole process."""
    content = write_imu_c3d(tmp_path / "a.c3d").read_bytes()
    random = np.random.default_rng(0)
    path, messages = tmp_path / "damaged.c3d", []
    path.write_bytes(content.replace(b"OFFSET", b"AFFSET", 1))
    with pytest.raises(InputError, match="ANALOG:OFFSET has fewer numbers than there are channels"):
        read_c3d(path)
    for _ in range(25):
        damaged = bytearray(content)
        for position in random.integers(0, 4000, 3):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_c3d(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 3
    assert not any("\n" in message for message in messages)


# Recorded children --------------------------------------------------------------------------------


def test_recorded_c3d_files_with_virtual_imus(place: Path, capsys: Capture) -> None:
    """Moments of people, IMUs from their segments and mass and height must come from one file."""
    names = {"HC002": "HC002D06", "HC030": "HC030A05", "HC033": "HC033A22"}
    for subject, name in names.items():
        source = MEASURED / "children" / f"{name}.c3d"
        if not source.exists():
            pytest.skip(f"no recorded data: {source}")
        folder = Path("trials", subject, "walk")
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
    lines = "shank,RTIO,RTIA,RTIL,RTIP,RTIB\npelvis,PELO,PELA,PELL,PELP,SACR\n"
    Path("imus.csv").write_text(SHANK + lines, encoding="utf-8")
    Path("columns.csv").write_text(
        "yours,ours\nRKneeMoment_X,knee_moment\nRNormalisedGRF_Z,vertical_force\n"
    )
    rule = ["--valid-contact", "vertical_force > 0.05", "--contact-duration", "0.3", "0.9"]
    rule += ["--contact-peak", "0.7", "--contact-around", "0.15", "0.15"]
    tables = make("--virtual-imus", "imus.csv", "--normalize", *rule)
    assert tables.keys() == {f"{subject}/walk" for subject in names}
    for table in tables.values():
        valid = table.dropna()
        assert 0.7 * 148 < len(valid) < 2.5 * 148
        assert 0.9 < valid["vertical_force"].max() < 1.5  # BW
        assert 0.01 < valid["knee_moment"].abs().max() < 0.12  # BW·BH
        norm = np.linalg.norm(table[[f"pelvis_Accel_{axis}" for axis in "XYZ"]], axis=1)
        assert 9 < np.nanmedian(norm) < 11  # m/s²
    printed = capsys.readouterr().out
    assert "Nmm: taken as Nmm/kg" in printed
    with h5py.File("made.h5") as file:
        assert file["All_subjects/Subject_HC002"].attrs["mass_kg"] == pytest.approx(32.1)
    Path("imus.csv").write_text(f"{SHANK}shank,RTIO,RTIA,RTIL,NONE,RTIB\n", encoding="utf-8")
    with pytest.raises(InputError, match="no point NONE for a virtual IMU"):
        make("--virtual-imus", "imus.csv", "--normalize")
    Path("imus.csv").write_text(f"{SHANK}shank,RTIO,RTIA,RTIL,RTIP,NONE\n", encoding="utf-8")
    with pytest.raises(InputError, match="no point NONE for a virtual IMU"):
        make("--virtual-imus", "imus.csv", "--normalize")


def test_a_file_with_y_up_is_noticed() -> None:
    """Gravity along a horizontal axis is an acceleration of 1 g that nobody felt."""
    source = MEASURED / "children" / "HC002D06.c3d"
    if not source.exists():
        pytest.skip(f"no recorded data: {source}")
    file = read_c3d(source)
    placements = {
        "shank": Placement(("RTIO", "RTIA", "RTIL", "RTIP"), "RTIB"),
        "pelvis": Placement(("PELO", "PELA", "PELL", "PELP"), "SACR"),
    }
    turned = {label: values[:, [1, 2, 0]] for label, values in file.points.items()}
    for points, count in ((file.points, 0), (turned, 1)):
        part = next(c3d_columns(file._replace(points=points), ["RTIB_X"], placements, 0.03))
        assert (
            sum("markers of the virtual IMUs are spread" in text for text in part.notices) == count
        )


def test_recorded_emg_is_joined_with_virtual_imus(place: Path) -> None:
    """Analog channels have ten times the rate of the points, and raw EMG has no mean."""
    source = MEASURED / "children" / "HC002D06.c3d"
    if not source.exists():
        pytest.skip(f"no recorded data: {source}")
    folder = Path("trials", "HC002", "walk")
    folder.mkdir(parents=True)
    shutil.copy(source, folder)
    script = Path("own_sources_script.py").read_text(encoding="utf-8")
    emg = '    "emg": ["gastrocnemius"],\n    "targets"'
    script = script.replace('    "targets"', emg, 1)
    script = script.replace('UNITS = {"acc"', 'UNITS = {"emg": "V", "acc"')
    script = script.replace(
        '"both": SensorSet(SENSORS)', "ALL: SensorSet(SENSORS, (*COLUMNS,)[:3])"
    )
    script = script.replace('TEACHER_SET = "both"', 'TEACHER_SET = "all"').replace("ALL:", '"all":')
    Path("own_emg_script.py").write_text(script, encoding="utf-8")
    Path("imus.csv").write_text(
        f"{SHANK}shank,RTIO,RTIA,RTIL,RTIP,RTIB\npelvis,PELO,PELA,PELL,PELP,SACR\n"
    )
    Path("columns.csv").write_text(
        "yours,ours\nVoltage.R Gast,gastrocnemius\nRKneeMoment_X,knee_moment\n"
        "Force.Fz2,vertical_force\n"
    )
    flags = ["--script", "own_emg_script.py", "--emg-envelope"]
    found = make("--virtual-imus", "imus.csv", *flags)["HC002/walk"]
    content = read_c3d(source)
    start_s = 0.08  # where virtual IMUs begin
    assert len(found) == int((2.54 - 2 * start_s) * 148) + 1
    plate = content.analog["Force.Fz2"]
    assert found["vertical_force"].abs().max() == pytest.approx(np.abs(plate).max(), rel=0.1)
    envelope = compute_emg_envelope(content.analog["Voltage.R Gast"][:, None], 1000)[:, 0]
    time_s = start_s + np.arange(len(found)) / 148
    expected = np.interp(time_s, np.arange(len(envelope)) / 1000, envelope)
    np.testing.assert_allclose(found["gastrocnemius"], expected, atol=0.02 * envelope.max())
