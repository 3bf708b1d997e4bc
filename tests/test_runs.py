"""A run's folder: what is in it, and that it is never half there."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from common import checkpoints, files, flags, runs
from common.files import InputError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """A metrics file cut by a full disk or a kill would be read as the whole result."""
    path = tmp_path / "folder" / "metrics.csv"
    with files.written_whole(path) as part:
        part.write_text("first")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"):
        write_until_the_disk_is_full(path)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def write_until_the_disk_is_full(path: Path) -> None:
    """Fail in the middle of a file."""
    with files.written_whole(path) as part:
        part.write_text("sec")
        raise OSError("disk full")


def begun(folder: Path, settings: dict[str, object] | None = None, **about: str) -> runs.Run:
    """Begin a run, or open it again as a later process does."""
    run = runs.Run(folder, ["teacher", "student"])
    with run.working(settings or {}, about):
        return run


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    """Rows trained with different settings in one table would be compared as equals."""
    begun(tmp_path / "run", {"seed": 1, "protocol": "paper"})
    begun(tmp_path / "run", {"seed": 1, "protocol": "paper"})
    with pytest.raises(InputError, match="seed: 1 there, 2 now"):
        begun(tmp_path / "run", {"seed": 2, "protocol": "paper"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"settings": {"se', "a damaged run"),
        ("config.json", "[]", "a damaged run"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    """What is left of it must not be overwritten as if it were empty."""
    begun(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(InputError, match=message):
        begun(tmp_path / "run")
    assert (tmp_path / "run" / name).read_text() == content


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """A student must not be taught by half a teacher."""
    run = begun(tmp_path / "run")
    path = run.checkpoint("teacher", "07")
    checkpoints.save(nn.Linear(2, 2).state_dict(), {}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"teacher-subject_07\.safetensors: damaged"):
            run.load("teacher", "07", nn.Linear(2, 2))
    path.write_bytes(whole)
    with pytest.raises(InputError, match="another model's"):
        run.load("teacher", "07", nn.Linear(3, 2))


def test_every_call_of_a_run_is_on_record(tmp_path: Path) -> None:
    """Rows trained earlier, with other versions or flags, keep theirs."""
    for device in ("first", "second"):
        begun(tmp_path / "run", {"seed": 1}, device_name=device)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [call["device_name"] for call in config["calls"]] == ["first", "second"]


def test_an_unwritable_folder_is_found_before_training(tmp_path: Path) -> None:
    """Hours of training must not end at a folder that cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"):
        begun(tmp_path / "file" / "run")


def test_new_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """Two runs started in the same second must not mix."""
    script = Path("Dataset_A_x.py")
    first = runs.run_folder(tmp_path, script, None)
    first.mkdir(parents=True)
    assert runs.run_folder(tmp_path, script, None) != first
    assert runs.run_folder(tmp_path, script, "mine") == tmp_path / "Dataset_A_x" / "mine"
    with pytest.raises(InputError, match="name of one folder"):
        runs.run_folder(tmp_path, script, "../mine")
    for name in ("", ".", ".."):
        with pytest.raises(InputError, match="name of one folder"):
            runs.run_folder(tmp_path, script, name)


def test_devices_that_are_not_there_are_refused() -> None:
    """A mistyped device ends with the names of those that exist."""
    assert flags.choose_device("cpu").type == "cpu"
    assert flags.choose_device("auto").type in ("cpu", "cuda")
    for wanted in ("gpu", "meta", "cuda:99"):
        with pytest.raises(InputError, match=f"--device {wanted}"):
            flags.choose_device(wanted)


def test_unknown_rows_are_refused_with_the_list() -> None:
    """A mistyped row must not be left out in silence; the table's order is kept."""
    rows = ["teacher", "student-foot", "distilled-foot"]
    assert flags.choose_rows(None, rows) == rows
    assert flags.choose_rows(["distilled-foot", "teacher"], rows) == ["teacher", "distilled-foot"]
    with pytest.raises(InputError, match="no row student; there are teacher student-foot"):
        flags.choose_rows(["student", "teacher"], rows)


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    """Both would train the same rows, and write over each other's tables."""
    refused = pytest.raises(InputError, match="another process works on this run")
    with runs.Run(tmp_path / "run").working({}, {}), refused:
        begun(tmp_path / "run")
    begun(tmp_path / "run")


def added(folder: Path, row: str = "teacher") -> tuple[runs.Run, pd.DataFrame]:
    """Add a result to a run."""
    lines = pd.DataFrame({"row": row, "test_subject": "07", "rmse": [0.1 + 0.2, 1 / 3, math.nan]})
    history = pd.DataFrame({"row": [row], "fold": ["07"], "epoch": [1]})
    run = begun(folder)
    model = checkpoints.Checkpoint(nn.Linear(1, 1).state_dict(), {"row": row})
    run.add(row, "07", model, {"truth": np.zeros(1)}, history, lines, "well")
    return run, lines


def test_going_on_with_a_run_keeps_its_numbers(tmp_path: Path) -> None:
    """Rows that a continued run takes over must stay the same to the last digit."""
    _, lines = added(tmp_path / "run", "student")
    added(tmp_path / "run", "teacher")
    again = begun(tmp_path / "run")
    assert again.has("teacher", "07")
    assert not again.has("teacher", "7")
    assert again.metrics["row"].tolist() == ["teacher"] * 3 + ["student"] * 3  # the tables' order
    taken = again.metrics[again.metrics["row"] == "student"]
    assert taken["rmse"].tolist() == pytest.approx(lines["rmse"].tolist(), abs=0, nan_ok=True)
    written = pd.read_csv(
        again.folder / "metrics.csv", engine="python", dtype={"test_subject": str}
    )
    pd.testing.assert_frame_equal(written, again.metrics, check_exact=True)


@pytest.mark.parametrize("name", ["results/*.json", "checkpoints/*", "predictions/*.npz"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_result_with_a_file_cut_in_half_does_not_count(
    tmp_path: Path, name: str, is_missing: bool
) -> None:
    """A full disk or a crash leaves such files: the row is done again, rather than believed."""
    run, _ = added(tmp_path / "run")
    (path,) = run.folder.glob(name)
    if is_missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not begun(tmp_path / "run").has("teacher", "07")


def test_tables_cut_in_half_are_written_anew(tmp_path: Path) -> None:
    """They are made of the results, so that nothing is lost with them."""
    run, _ = added(tmp_path / "run")
    begun(tmp_path / "run")
    whole = (run.folder / "metrics.csv").read_text()
    (run.folder / "metrics.csv").write_text(whole[: len(whole) // 2])
    begun(tmp_path / "run")
    assert (run.folder / "metrics.csv").read_text() == whole


def test_the_run_to_resume_is_the_newest_or_the_named(tmp_path: Path) -> None:
    """`--resume` after a lost night must not pick up last week's run."""
    script = Path("Dataset_A_x.py")
    with pytest.raises(InputError, match="no run to resume"):
        runs.find_run(tmp_path, script, "")
    for i, name in enumerate(("b", "c", "a")):
        path = begun(tmp_path / "Dataset_A_x" / name).folder / "config.json"
        os.utime(path, (i, i))
    assert runs.find_run(tmp_path, script, "").name == "a"
    assert runs.find_run(tmp_path, script, "b").name == "b"
    with pytest.raises(InputError, match="no run to resume"):
        runs.find_run(tmp_path, script, "d")


def test_flags_that_were_given_are_known_from_defaults() -> None:
    """A resumed run takes its own flags, but for those that are given again."""
    parser = flags.parser("", dataset="a", rows=[], epochs=40, learning_rate=1e-3)
    options = parser.parse_args(["--seed", "42", "--resume", "--rows", "a", "b"])
    assert sorted(options.given) == ["resume", "rows", "seed"]
    assert options.epochs is None
    assert options.resume == ""


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_numbers_out_of_range_are_refused(value: str) -> None:
    """No run starts with a learning rate or a number of epochs that makes no sense."""
    parser = flags.parser("", dataset="a", rows=[], epochs=40, learning_rate=1e-3)
    for flag in ("--learning-rate", "--epochs", "--batch-size", "--patience"):
        with pytest.raises(SystemExit):
            parser.parse_args([flag, value])


def test_every_flag_has_help_with_its_default() -> None:
    """`--help` is the manual."""
    parser = flags.parser("", dataset="a", rows=["teacher"], epochs=40, learning_rate=1e-3)
    flags.add_weight(parser, "--alpha", 0.5, "of something")
    for action in parser._actions:
        without_default = isinstance(action, argparse._HelpAction | argparse._StoreTrueAction)
        assert without_default or "(default" in action.help, action.option_strings
