"""Reading data files: columns, dropped samples, padding, and files that are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.cli import run_main
from common.data import DATASET_A_ACTIVITIES, Recording, read_dataset_b, select_columns
from common.files import InputError
from common.windows import check_windows
from synthetic_gait.dataset_b import DATASET_B_COLUMNS
from tests.conftest import ROOT, Capture
from tests.files import random_samples, write_a, write_b, write_random_a
from tools.dataset_a import DATASET_A_COLUMNS

# What is read ------------------------------------------------------------------------------------


def read_value(path: Path) -> Recording:
    """Read one column of a small file of Dataset B as the target."""
    return read_dataset_b(path, {"targets": ["value"]}, lambda columns: columns)


def test_inputs_and_targets_of_dataset_b_come_from_their_columns() -> None:
    """Order, signs and normalization of every modality and target, one value at a time."""
    names = DATASET_B_COLUMNS
    values = np.arange(2 * len(names), dtype=float).reshape(2, -1) + 1000
    positions = {name: i for i, name in enumerate(names)}
    read = script_b.convert(select_columns(values, positions, script_b.COLUMNS, "numbered.h5"))

    def value(name: str) -> float:
        return values[1, names.index(name)]

    sensors = ["CHEST", "WAIST", "R_FOOT", "R_SHANK", "R_THIGH", "L_FOOT", "L_SHANK", "L_THIGH"]
    for modality, kind in (("acc", "Accel"), ("gyr", "Gyro")):
        expected = [value(f"{kind}{axis}_{s}") for s in sensors for axis in "XYZ"]
        assert read[modality][1].tolist() == expected
    joints = ["LShoulder", "RShoulder", "MidHip", "RHip", "LHip"]
    joints += ["RKnee", "LKnee", "RAnkle", "LAnkle", "RHeel", "LHeel"]
    views = ("x_90", "x_180", "y_90", "y_180")
    height_m, weight_n = value("body height"), value("body weight") * 9.8
    video = [(value(f"{j}_{v}") - value(f"MidHip_{v}")) / height_m for j in joints for v in views]
    assert read["video"][1] == pytest.approx(video, rel=1e-6)
    forces = [-value(f"plate_2_force_{axis}") / weight_n for axis in "xzy"]
    expected = [value("EXT_KM_X"), value("EXT_KM_Y"), *forces]
    assert read["targets"][1] == pytest.approx(expected, rel=1e-6)


def test_dataset_a_is_read_by_position_and_by_name(tmp_path: Path) -> None:
    """A file that names its columns may order them differently; one without names must work."""
    arrays = {s: [random_samples(110, i) for i in range(4)] for s in ("10", "9")}
    order = np.random.default_rng(0).permutation(129)
    shuffled = {s: [array[:, order] for array in four] for s, four in arrays.items()}
    plain = script_a.read(write_a(tmp_path / "plain.h5", arrays, names=None))
    names = [DATASET_A_COLUMNS[i] for i in order]
    named = script_a.read(write_a(tmp_path / "named.h5", shuffled, names=names))
    assert plain.subjects == ["9", "10"]
    expected = np.concatenate([array for s in ("9", "10") for array in arrays[s]])
    for read in (plain, named):
        assert np.array_equal(read.samples["targets"], expected[:, [53, 54, 62, 64, 70, 71, 72]]
                              .astype(np.float32))  # fmt: skip
        assert np.array_equal(read.samples["emg"], expected[:, 95:106].astype(np.float32))
        acc = [6 * sensor + axis for sensor in range(4) for axis in range(3)]
        assert np.array_equal(read.samples["acc"], expected[:, acc].astype(np.float32))
        assert np.array_equal(
            read.samples["gyr"], expected[:, [3 + i for i in acc]].astype(np.float32)
        )
    assert plain.activities == ["Treadmill", "Levelground", "Ramp", "Stair"]
    assert not plain.has_trials


def test_samples_with_nan_in_a_used_column_are_dropped_and_counted(tmp_path: Path) -> None:
    """A NaN would spread through the network; one in an unused column must cost nothing."""
    arrays = [random_samples(110, i) for i in range(8)]
    arrays[1][[20, 21, 50], 53] = np.nan  # hip flexion moment
    arrays[2][:, 30] = np.nan  # a joint angle, not used
    path = write_a(tmp_path / "a.h5", {"7": arrays[:4], "8": arrays[4:]}, trial_starts=[0, 40])
    read = script_a.read(path)
    assert read.dropped == {"/All_subjects/Subject_7/Levelground": 3}
    assert len(read.subject) == 8 * 110 - 3
    level = (read.subject == 0) & (read.activity == 1)
    lengths = np.unique(read.stretch[level], return_counts=True)[1]
    assert lengths.tolist() == [20, 18, 10, 59]  # cut at the NaN, at sample 40 and at the NaN
    assert read.has_trials


def test_steps_of_dataset_b_end_where_the_padding_starts(tmp_path: Path) -> None:
    """A step cut too short loses data; a full one keeps its last sample, and zeros within stay."""
    steps = np.ones((3, 6, 3), np.float32)
    steps[0, 4:] = 0
    steps[2, 2] = 0
    steps[2, 5:] = 0
    steps[2, 4, 1] = np.nan
    path = write_b(tmp_path / "b.h5", {"02": steps, "01": np.ones((1, 6, 3))})
    read = read_value(path)
    assert read.subjects == ["01", "02"]
    assert np.unique(read.stretch, return_counts=True)[1].tolist() == [6, 4, 6, 4]
    assert read.dropped == {"/subject_02": 1}


def test_measured_targets_and_video_of_dataset_b(example_b: Path) -> None:
    """Signs and units of the measured file itself: forces in body weights, joints at MidHip."""
    read = script_b.read(example_b)
    assert (read.samples["video"][:, 8:12] == 0).all()  # MidHip, relative to itself
    peaks = [float(read.samples["targets"][read.subject == i, 3].max()) for i in range(2)]
    assert peaks == pytest.approx([1.247, 1.245], abs=0.001)


# What is refused ---------------------------------------------------------------------------------


def with_values(**columns: float) -> np.ndarray:
    """Return random samples with some columns set to a value; for infinity, in two samples."""
    array = random_samples(120)
    for name, value in columns.items():
        array[: 2 if np.isinf(value) else None, DATASET_A_COLUMNS.index(name)] = value
    return array


def in_subject_8(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same values for all activities of a subject."""
    return {f"All_subjects/Subject_8/{activity}": values for activity in DATASET_A_ACTIVITIES}


PLACE = "All_subjects/Subject_8/Ramp"
STEPS = np.ones((2, 6, 3))  # of Dataset B
UNSORTED = np.array([0, 60, 30], np.uint32)  # unsigned: no difference is negative
BAD_FILES = {  # what is replaced in a good file, or deleted for None, and the message
    "missing group": ({"All_subjects": None}, "/: All_subjects is missing; see docs/data.md"),
    "no subject": (
        {f"All_subjects/Subject_{subject}": None for subject in (7, 8, 9)},
        "/All_subjects: no subject",
    ),
    "one subject": (
        {f"All_subjects/Subject_{subject}": None for subject in (8, 9)},
        "only one subject; add another",
    ),
    "one number twice": (
        {"All_subjects/Subject_07": h5py.SoftLink("/All_subjects/Subject_7")},
        "Subject_07 and Subject_7 have the same number; rename one",
    ),
    "not a group": ({"All_subjects": np.zeros(3)}, "/All_subjects: is a dataset; it must be a gr"),
    "missing activity": ({PLACE: None}, "/All_subjects/Subject_8: Ramp is missing"),
    "dangling link": ({PLACE: h5py.SoftLink("/nowhere")}, "Subject_8: Ramp is missing"),
    "group": (
        {PLACE: None, f"{PLACE}/left": np.zeros(3)},
        "Subject_8/Ramp: expected a dataset of samples",
    ),
    "wrong width": (
        {PLACE: random_samples(120)[:, :100]},
        r"Subject_8/Ramp: shape \(120, 100\).*129 columns",
    ),
    "text": ({PLACE: np.full((120, 129), b"1.0")}, r"Subject_8/Ramp: \|S3 values"),
    "infinite": (
        {PLACE: with_values(right_vx=np.inf, right_vy=-np.inf)},
        "Subject_8/Ramp: infinite values: 2 in right_vx, 2 in right_vy",
    ),
    "too large for float32": (
        {PLACE: with_values(soleus=1e300)},
        "Subject_8/Ramp: infinite values: 120 in soleus",
    ),
    "all NaN": (in_subject_8(with_values(soleus=np.nan)), "subject 8: soleus is all NaN"),
    "no full window": (
        in_subject_8(random_samples(24)),
        "subject 8: no full window of 100 in 96 usable samples",
    ),
    "trial starts": (
        {f"{PLACE}@trial_starts": UNSORTED},
        "Subject_8/Ramp: the attribute `trial_starts` must contain increasing",
    ),
    "missing column": (
        {"/@columns": json.dumps(["other", *DATASET_A_COLUMNS[1:]])},
        "Subject_7/Treadmill: no column foot_Accel_X",
    ),
    "a name twice": (
        {"/@columns": json.dumps([*DATASET_A_COLUMNS[:-1], "soleus"])},
        "names soleus twice",
    ),
    "bad names": ({"/@columns": "foot, shank"}, "`columns` must be a JSON list"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_end_with_status_2_and_one_line(
    case: str, tmp_path: Path, capsys: Capture
) -> None:
    """A user must learn from one line which file is bad, where, and how to fix it."""
    changes, message = BAD_FILES[case]
    path = write_random_a(tmp_path / "bad.h5")
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            member, _, attribute = name.partition("@")
            if attribute:
                file[member].attrs[attribute] = value
                continue
            if member in file:
                del file[member]
            if value is not None:
                file[member] = value
    assert_refused(["--data", str(path)], f"{path}.*{message}", tmp_path, capsys)


def assert_refused(flags: list[str], message: str, folder: Path, capsys: Capture) -> None:
    """Check for exit status 2, one line that matches, and no results."""
    outputs = folder / "outputs"
    with pytest.raises(SystemExit) as end:
        run_main(lambda: script_a.main([*flags, "--output-dir", str(outputs)]))
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not outputs.exists()


def test_files_that_are_not_hdf5(tmp_path: Path, capsys: Capture) -> None:
    """A broken download or a mistyped name ends with one line that says how to fix it."""
    text = tmp_path / "text.h5"
    text.write_text("time,value\n0,1\n")
    assert_refused(["--data", str(text)], "text.h5: not an HDF5 file", tmp_path, capsys)
    whole = write_random_a(tmp_path / "whole.h5").read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole[: len(whole) // 2])
    assert_refused(["--data", str(cut)], "cut.h5: truncated; download", tmp_path, capsys)
    missing = tmp_path / "missing.h5"
    assert_refused(["--data", str(missing)], "missing.h5: no such file", tmp_path, capsys)


def virtual(file: h5py.File, source: str, name: str) -> None:
    """Add a virtual dataset."""
    layout = h5py.VirtualLayout((100, 129), "f4")
    layout[:] = h5py.VirtualSource(source, name, (100, 129))
    file.create_virtual_dataset(PLACE, layout)


HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "link to a file": (
        lambda file: file.__setitem__("extra", h5py.ExternalLink("fifo", "/x")),
        "/extra: links to another file",
    ),
    "deep link to a file": (
        lambda file: file.__setitem__("a/b/c/d", h5py.ExternalLink("fifo", "/x")),
        "/a/b/c/d: links to another file",
    ),
    "a soft link that leads to a file": (
        lambda file: [
            file.__setitem__("a", h5py.SoftLink("/z/x")),
            file.__setitem__("z", h5py.ExternalLink("fifo", "/x")),
        ],
        "/z: links to another file",
    ),
    "external storage": (
        lambda file: file.create_dataset(
            PLACE, (10, 129), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        ),
        f"/{PLACE}: stored in another file",
    ),
    "virtual, of itself": (lambda file: virtual(file, ".", PLACE), f"/{PLACE}: a virtual dataset"),
    "virtual": (lambda file: virtual(file, "other.h5", "x"), f"/{PLACE}: a virtual dataset"),
    "loop": (
        lambda file: [
            file.__setitem__("a", h5py.SoftLink("/b")),
            file.__setitem__("b", h5py.SoftLink("/a")),
        ],
        "/[ab]: its links form a loop",
    ),
    "1e12 rows": (
        lambda file: file.create_dataset(PLACE, (10**12, 129), "f4", chunks=(1000, 129)),
        f"/{PLACE}: needs at least 516,000,000,000,000 bytes of memory, but has 0 in the file",
    ),
    "contiguous": (
        lambda file: file.create_dataset(PLACE, (10**9, 129), "f4"),
        f"/{PLACE}: needs at least 516,000,000,000 bytes",
    ),
    "compressed zeros": (
        lambda file: file.create_dataset(PLACE, data=np.zeros((2**18, 129)), compression="gzip"),
        f"/{PLACE}: needs at least 270,532,608 bytes",
    ),
    "a chunk larger than the dataset": (
        lambda file: file.create_dataset(
            PLACE, (10, 129), "f4", chunks=(2**22, 129), maxshape=(None, 129)
        ),
        f"/{PLACE}: needs at least 2,164,260,864 bytes",
    ),
    "many small ones": (
        lambda file: [file.create_dataset(f"many/{i}", (2**19, 16), "f8") for i in range(20)],
        "bad.h5: needs at least [0-9,]+ bytes of memory",
    ),
    "attribute": (
        lambda file: file.create_group("new").attrs.create("note", np.zeros(2**21)),
        "/new: attribute note of 16,777,216 bytes",
    ),
    "nested JSON": (
        lambda file: file.attrs.__setitem__("columns", "[" * 20_000),
        "the attribute `columns` must be a JSON list",
    ),
    "compound": (
        lambda file: file.create_dataset(PLACE, (10, 129), [("a", "f4"), ("b", "i4")]),
        f"/{PLACE}: .* values; store it as float32",
    ),
    "references": (
        lambda file: file.create_dataset(PLACE, (10, 129), h5py.ref_dtype),
        f"/{PLACE}: object values; store it as float32",
    ),
    "strings": (
        lambda file: file.create_dataset(PLACE, (10, 129), h5py.string_dtype()),
        f"/{PLACE}: object values; store it as float32",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_reads_others_or_fills_the_memory_is_refused(
    spoil: Callable[[h5py.File], object], message: str, tmp_path: Path
) -> None:
    """A downloaded file could hang or crash the process, or show any file as samples."""
    os.mkfifo(tmp_path / "fifo")  # opening it would wait forever
    path = write_random_a(tmp_path / "bad.h5")
    with h5py.File(path, "a", libver="latest") as file:
        del file[PLACE]
        spoil(file)
    with pytest.raises(InputError, match=message):
        script_a.read(path)


def test_groups_that_contain_themselves_are_walked_once(tmp_path: Path) -> None:
    """A hard link to its own group would make reading endless."""
    path = write_random_a(tmp_path / "a.h5")
    expected = script_a.read(path).digest()
    with h5py.File(path, "a") as file:
        file["again"] = file["/"]
        file["All_subjects/again"] = file["All_subjects"]
    assert script_a.read(path).digest() == expected


def test_damaged_content_names_the_dataset(tmp_path: Path) -> None:
    """A compressed file with a damaged chunk can be opened and fails when it is read."""
    path = write_random_a(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file[PLACE]
        table = file.create_dataset(PLACE, data=random_samples(120), compression="gzip")
        place = table.id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset + place.size // 2)
        raw.write(b"\xff" * 64)
    with pytest.raises(InputError, match="Subject_8/Ramp: damaged"):
        script_a.read(path)


def test_bad_files_of_dataset_b_are_named(tmp_path: Path) -> None:
    """The layout of Dataset B is checked as that of Dataset A."""
    path = write_b(tmp_path / "b.h5", {"01": STEPS, "02": np.ones((2, 6))})
    with pytest.raises(InputError, match=r"b\.h5: /subject_02: shape \(2, 6\)"):
        read_value(path)
    path = write_b(tmp_path / "c.h5", dict.fromkeys(("01", "02"), STEPS), names=["a", "b", "c"])
    with pytest.raises(InputError, match="/subject_01: no column value"):
        read_value(path)
    with h5py.File(path, "a") as file:
        del file.attrs["columns"]
    with pytest.raises(InputError, match="no attribute `columns`"):
        read_value(path)
    path = write_b(tmp_path / "d.h5", {"01": STEPS, "02": STEPS[:0]})
    with pytest.raises(InputError, match="subject 02: no full window of 5 in 0 usable samples"):
        check_windows(read_value(path), 5, "paper")


def test_a_body_weight_of_zero_is_named(tmp_path: Path) -> None:
    """An infinite force would end training with a NaN loss, hours later."""
    names = DATASET_B_COLUMNS
    steps = np.ones((3, 60, len(names)))
    steps[1, 5:8, names.index("body weight")] = 0
    path = write_b(tmp_path / "b.h5", {"01": steps, "02": np.ones_like(steps)}, names=names)
    with pytest.raises(InputError, match="/subject_01: targets divided by 0 in 3 samples"):
        script_b.read(path)


MEASURE_MEMORY = """
import importlib, resource, sys
from pathlib import Path
script = importlib.import_module(sys.argv[1])
def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
script.read(Path(sys.argv[2]))  # memory that the libraries need once
before = peak_bytes()
recording = script.read(Path(sys.argv[3]))
print(peak_bytes() - before, sum(values.nbytes for values in recording.samples.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as on Linux")
@pytest.mark.parametrize("script", [script_a, script_b], ids=["a", "b"])
def test_reading_needs_less_than_four_times_the_memory_of_the_samples(
    script: ModuleType, tmp_path: Path
) -> None:
    """The whole Dataset A has 3.3 GB: many copies of it would not fit into a laptop."""
    paths = tmp_path / "small.h5", tmp_path / "large.h5"
    if script is script_a:
        write_random_a(paths[0])
        table = np.random.default_rng(0).normal(size=(20_000, 129))
        table[:2000, 53] = np.nan
        write_a(paths[1], {str(i): [table] * 4 for i in range(1, 5)})
    else:
        steps = np.ones((200, 152, len(DATASET_B_COLUMNS)), np.float32)
        for path, count in zip(paths, (4, 200), strict=True):
            write_b(path, {str(i): steps[:count] for i in range(1, 7)}, names=DATASET_B_COLUMNS)
    command = [sys.executable, "-c", MEASURE_MEMORY, script.__name__, *map(str, paths)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    peak, samples = map(int, output.split())
    assert peak < 4 * samples
