"""User-supplied trials are converted, and errors say how to fix those that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from common.data import find_subject, sort_subjects
from common.files import InputError
from tests import own_data
from tests.conftest import ROOT, Capture
from tests.own_data import MAPPING, PEOPLE, simulate, write_csv
from tools import trained
from tools.make_dataset.__main__ import main
from tools.trained import find_script

UNITS = ["--time-column", "Time", "--acc-unit", "g", "--gyr-unit", "deg/s"]
ANNA = Path("trials/Anna/level/01.csv")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with one trial of each of two subjects and a script."""
    own_data.copy_script("Dataset_A_Sensor_Distillation.py", tmp_path / "own_trials_script.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trained, "PROJECT", tmp_path)
    for subject in ("Anna", "ben-2"):
        path = Path("trials") / subject / "level" / "01.csv"
        write_csv(path, simulate(subject, 1.5, seed=3))
    people = [(subject, *PEOPLE[subject]) for subject in ("Anna", "ben-2")]
    write_csv(Path("subjects.csv"), pd.DataFrame(people, columns=["id", "mass_kg", "height_m"]))
    Path("columns.csv").write_text(MAPPING, encoding="utf-8")
    return tmp_path


def make(*flags: str, trials: str = "trials", units: list[str] = UNITS) -> dict[str, np.ndarray]:
    """Run the command and return the tables of its file, by place."""
    where = ["--script", "own_trials_script.py", "--trials", trials, "--out", "made.h5"]
    assert main([*where, "--columns", "columns.csv", *units, *flags]) == 0
    tables: dict[str, np.ndarray] = {}
    with h5py.File("made.h5") as file:
        columns = json.loads(file.attrs["columns"])
        assert columns[-2:] == ["knee_moment", "vertical_force"]
        file.visititems(
            lambda name, item: tables.update({name: item[:]}) if hasattr(item, "shape") else None
        )
    return tables


def write_people(*lines: str) -> Callable[[], None]:
    """Return a function that writes the table of subjects."""
    return lambda: Path("subjects.csv").write_text("\n".join(["id,mass_kg,height_m", *lines]))


def move(old: str, new: str) -> Callable[[], None]:
    """Return a function that moves a file."""

    def rename() -> None:
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        Path(old).rename(new)

    return rename


REFUSED = {
    "unknown subject": (write_people("Anna,61,1.68"), "subjects.csv: no line for subject ben-2"),
    "twice": (write_people("Anna,61,1.68", "Anna,61,1.68"), "line 3: subject Anna: listed twice"),
    "centimeters": (write_people("Anna,61,168"), "line 2: subject Anna: height_m 168 is not betw"),
    "no mass": (write_people("Anna,,1.68"), "line 2: subject Anna: mass_kg '' is not a number"),
    "no activity": (
        move(str(ANNA), "trials/Anna/01.csv"),
        "must be in trials/<subject>/<activity>/",
    ),
    "id": (
        move(str(ANNA), "trials/An:na/level/1.csv"),
        "subject 'An:na' cannot be used; rename it",
    ),
    "case": (move(str(ANNA), "trials/BEN-2/level/1.csv"), "differ in case only; rename one"),
}


@pytest.mark.parametrize(("damage", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_names_and_subjects_are_refused(
    damage: Callable[[], object], message: str, place: Path
) -> None:
    """Files would overwrite each other, or moments would be divided by 168 m."""
    damage()
    with pytest.raises(InputError) as caught:
        make("--subjects", "subjects.csv", "--normalize")
    assert message in str(caught.value)
    assert not Path("made.h5").exists()


@pytest.mark.parametrize("name", ["columns.csv", "subjects.csv", "own_trials_script.py", str(ANNA)])
def test_inputs_are_not_overwritten(name: str, place: Path) -> None:
    """A typo in --out would cost users their trials, script or mapping."""
    Path("link.h5").symlink_to(Path(name).resolve())
    for out in (name, "link.h5"):
        before = Path(name).read_bytes()
        with pytest.raises(InputError, match=f"{out}: is an input and would be overwritten"):
            make("--subjects", "subjects.csv", "--out", out)
        assert Path(name).read_bytes() == before


def test_other_files_are_not_overwritten(place: Path) -> None:
    """Notes or the data of another study would be lost."""
    Path("notes.h5").write_text("important")
    with pytest.raises(InputError, match="notes.h5: already exists and was not written by"):
        make("--out", "notes.h5")
    assert Path("notes.h5").read_text() == "important"


SKIPPED = {
    "text": (
        lambda: write_csv(ANNA, simulate("Anna", 1.5, seed=3).assign(**{"Shank acc Y": "x"})),
        f"{ANNA}: Shank acc Y, line 1 below the names: x is not a number",
    ),
    "empty": (
        lambda: write_csv(ANNA, simulate("Anna", 1.5, seed=3).assign(Fz=np.nan)),
        f"{ANNA}: no line has a number in every column; add vertical_force",
    ),
    "column": (
        lambda: write_csv(
            Path("trials/ben-2/level/02.csv"), pd.DataFrame({"Time": [1, 2], "Fz": 3})
        ),
        "02.csv: no column Shank acc X (for shank_Accel_X), Shank acc Y",
    ),
}


@pytest.mark.parametrize(("damage", "message"), SKIPPED.values(), ids=SKIPPED)
def test_an_unusable_trial_is_skipped_and_named(
    damage: Callable[[], object], message: str, place: Path, capsys: Capture
) -> None:
    """One bad file among hundreds would end the conversion, or be dropped silently."""
    damage()
    assert "All_subjects/Subject_ben-2/level" in make()
    printed = capsys.readouterr().out
    assert f"NOTICE: trial skipped: {message}" in printed.replace("trials/ben-2/level/", "")
    assert "skipped, see above" in printed
    Path("made.h5").unlink()
    with pytest.raises(InputError, match="--strict: 1 trial skipped"):
        make("--strict")
    assert not Path("made.h5").exists()


def test_what_is_no_file_is_named(place: Path, capsys: Capture) -> None:
    """The trial of a broken link would be missing from the dataset, and a pipe would hang."""
    ANNA.with_name("02.csv").symlink_to("nowhere.csv")
    os.mkfifo(ANNA.with_name("03.csv"))
    make()
    assert "NOTICE: 2 other files ignored: 02.csv, 03.csv" in capsys.readouterr().out


def test_missing_columns_everywhere_print_a_template(place: Path, capsys: Capture) -> None:
    """Nobody should have to type fourteen names to find out what the script expects."""
    for lines, message in (
        ("device,script\nFz,vertical_force\n", "no column ours and no column yours; its first"),
        ("yours,ours\na,shank_acc_x\n", "not a column of Dataset my_gait such as shank_Accel_X"),
        ("yours,ours\nFz,vertical_force\n", "no column shank_Accel_X"),
        ("yours,ours\nForce,vertical_force\n", "no column shank_Accel_X"),  # none of the file's
    ):
        Path("columns.csv").write_text(lines)
        with pytest.raises(InputError, match=message):
            make()
    assert "yours,ours\n,shank_Accel_X\n" in capsys.readouterr().out


def test_matlab_files_and_files_without_time_are_read(place: Path) -> None:
    """Half of the laboratories have MATLAB files, many of them a rate instead of times."""
    expected = make()["All_subjects/Subject_Anna/level"]
    table = simulate("Anna", 1.5, seed=3)
    names, ours = zip(*(line.split(",") for line in MAPPING.splitlines()[1:]), strict=True)
    imus = [f"trial.{name}_{i}" for name in ("shank", "pelvis") for i in range(1, 7)]
    yours = [*imus, "knee", "force"]
    lines = [",".join(pair) for pair in zip(yours, ours, strict=True)]
    Path("columns.csv").write_text("\n".join(["yours,ours", *lines]))
    arrays = {
        "trial": {
            "shank": table[[*names[:6]]].to_numpy(),
            "pelvis": table[[*names[6:12]]].to_numpy().T,
        },
        "knee": table[names[12]].to_numpy(),
        "force": table[names[13]].to_numpy()[:, None],
        "mass": 61.0,
        "comment": "left shank",
    }
    ANNA.unlink()
    Path("trials/ben-2/level/01.csv").unlink()
    for subject in ("Anna", "ben-2"):
        savemat(f"trials/{subject}/level/01.mat", arrays)
    flags = ["--recorded-hz", "148", *UNITS[2:]]
    found = make(units=flags)["All_subjects/Subject_Anna/level"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_table_may_assign_the_trials(place: Path) -> None:
    """Some users may not move the files of a study."""
    expected = make()
    Path("raw").mkdir()
    lines = ["file;subject;activity"]
    for i, subject in enumerate(("Anna", "ben-2")):
        Path(f"trials/{subject}/level/01.csv").rename(f"raw/{i}.csv")
        lines.append(f"{i}.csv;{subject};level")
    Path("raw/trials.csv").write_text("\n".join(lines))
    found = make(trials="raw/trials.csv")
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])
    Path("raw/trials.csv").write_text("\n".join([*lines, "7.csv;Anna;level"]))
    with pytest.raises(InputError, match=r"trials.csv: line 4: no file raw/7.csv"):
        make(trials="raw/trials.csv")


def test_a_file_written_by_hand_needs_starts_and_columns(place: Path) -> None:
    """Windows would be cut across trials silently."""
    make()
    script = find_script("own_trials_script")
    assert script.read(place / "made.h5").subjects == ["Anna", "ben-2"]
    with h5py.File("made.h5", "a") as file:
        del file["All_subjects/Subject_Anna/level"].attrs["trial_starts"]
    with pytest.raises(InputError, match="Subject_Anna/level: no attribute `trial_starts`; add"):
        script.read(place / "made.h5")
    with h5py.File("made.h5", "a") as file:
        del file.attrs["columns"]
    with pytest.raises(InputError, match="no attribute `columns`"):
        script.read(place / "made.h5")


def test_ids_are_sorted_and_found_as_people_write_them() -> None:
    """The last subject is held out by default, and `7` has always meant `07`."""
    assert sort_subjects(["S10", "S2", "10", "9", "Ann"]) == ["9", "10", "Ann", "S2", "S10"]
    assert find_subject(["07", "11"], "7") == "07"
    assert find_subject(["7", "07"], "07") == "07"
    assert find_subject(["S07"], "7") is None


def test_a_script_of_the_paper_is_refused(place: Path) -> None:
    """Its columns would be looked for in the trials, all 129 of them."""
    path = str(ROOT / "Dataset_A_Sensor_Distillation.py")
    with pytest.raises(InputError, match="reads Dataset A; change DATASET"):
        main(["--script", path, "--trials", "trials", "--out", "made.h5"])


def test_only_files_with_a_table_of_rows_are_imported(place: Path) -> None:
    """A checkpoint from elsewhere could name any file of the folder, which would then run."""
    Path("clean_up.py").write_text("open('deleted', 'w')\n")
    with pytest.raises(ValueError, match=r"clean_up.py has no table of rows"):
        find_script("clean_up")
    for name in ("../x", "os", "tools.predict", 7, None):
        with pytest.raises(ValueError, match="there is no script"):
            find_script(name)
    assert not Path("deleted").exists()


def scale(subject: str, factor: float, *columns: str) -> Callable[[], None]:
    """Return a function that writes a trial of a subject with other units."""

    def write() -> None:
        trial = simulate(subject, 1.5, seed=3)
        trial[[*columns]] *= factor
        write_csv(Path("trials", subject, "level", "01.csv"), trial)

    return write


def hold(value: float | None) -> Callable[[], None]:
    """Return a function that writes a trial in which the IMUs hold a value for 0.4 s."""

    def write() -> None:
        trial = simulate("Anna", 1.5, seed=3)
        imus = trial.columns[1:13]
        trial.loc[60:120, imus] = trial.loc[60, imus].to_numpy() if value is None else value
        write_csv(ANNA, trial)

    return write


GYROSCOPES = [f"{sensor} gyr {axis}" for sensor in ("Shank", "Pelvis") for axis in "XYZ"]
IMPLAUSIBLE = {
    "a copy": (
        lambda: shutil.copy(ANNA, "trials/ben-2/level/02.csv"),
        "Anna, level, 01.csv and subject ben-2, level, 02.csv: 100 % of the samples are equal",
    ),
    "rad/s": (scale("Anna", 1 / 57.3, *GYROSCOPES), "probably rad/s and deg/s mixed up"),
    "kN": (scale("ben-2", 1e-3, "Fz"), "forces in BW: "),
    "held": (hold(None), "almost certainly"),
    "zeros": (hold(0.0), "almost certainly zeros in place of lost samples"),
}


@pytest.mark.parametrize(("damage", "message"), IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
def test_implausible_trials_are_reported(
    damage: Callable[[], object], message: str, place: Path, capsys: Capture
) -> None:
    """Training on them gives wrong results without a message."""
    flags = ["--subjects", "subjects.csv", "--normalize"]
    make(*flags)
    assert "WARNING" not in (before := capsys.readouterr().out)
    damage()
    make(*flags)
    after = capsys.readouterr().out
    assert message not in before
    assert message in after
