"""The folder of a run: what is in it, what is refused, and that nothing in it is half there."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from common import cli, files, parallel
from common.files import InputError
from common.folder import find_run, new_run
from common.runs import Run
from tests.conftest import Capture, Files, Folders, Patch
from tests.running import NAME, ROWS, left_overs, no_figures, outcome, script, usual_flags

# Files -------------------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """A metrics file cut off by a full disk or a kill would be read as the whole result."""
    path = tmp_path / "folder" / "metrics.csv"
    with files.write_atomically(path) as part:
        part.write_text("first")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"):
        write_until_the_disk_is_full(path)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def write_until_the_disk_is_full(path: Path) -> None:
    """Fail in the middle of a file."""
    with files.write_atomically(path) as part:
        part.write_text("sec")
        raise OSError("disk full")


# A run that exists already -----------------------------------------------------------------------

Main = Callable[..., pd.DataFrame]


@pytest.fixture
def main(synthetic_files: Files, tmp_path: Path) -> Iterator[Main]:
    """Return a function that runs the script with more flags, into the folder of the test."""
    with no_figures():
        yield lambda *more: script.main([*usual_flags(synthetic_files["b"], tmp_path), *more])


@pytest.fixture(scope="module")
def finished(synthetic_files: Files, tmp_path_factory: Folders) -> tuple[Path, dict[str, object]]:
    """Return the folder of a finished run of both rows, and its numbers."""
    with no_figures():
        output_dir = tmp_path_factory.mktemp("finished")
        script.main([*usual_flags(synthetic_files["b"], output_dir), "--run-name", "mine"])
    folder = output_dir / NAME / "mine"
    return folder, outcome(folder)


@pytest.fixture
def folder(finished: tuple[Path, dict[str, object]], tmp_path: Path) -> Path:
    """Return a copy of the finished run in the folder of the test."""
    return shutil.copytree(finished[0], tmp_path / NAME / "mine")


def test_a_finished_run_is_not_trained_again(main: Main, folder: Path, capsys: Capture) -> None:
    """Asking twice costs nothing; the numbers stay the same, even if the tables were damaged."""
    before = outcome(folder)
    for name in ("metrics.csv", "history.csv"):  # cut off; they are assembled from the results
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    metrics = main("--run-name", "mine")
    printed = capsys.readouterr().out
    assert printed.count("already done") == 2
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    assert outcome(folder) == before
    written = pd.read_csv(
        folder / "metrics.csv",
        dtype={"test_subject": str},
        engine="python",  # which rounds nothing
    )
    pd.testing.assert_frame_equal(written, metrics, check_exact=True)


def test_a_run_can_be_extended_by_rows(main: Main, finished: tuple, tmp_path: Path) -> None:
    """Only the missing row is trained, to the same numbers; the order is that of the table.

    The model card has the rows of both calls.
    """
    main("--run-name", "grown", "--rows", ROWS[1])
    grown = main("--run-name", "grown", "--rows", ROWS[0])
    assert list(dict.fromkeys(grown["row"])) == ROWS
    assert outcome(tmp_path / NAME / "grown") == finished[1]
    card = (tmp_path / NAME / "grown" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(card.count(f"| {row} ") == 2 for row in ROWS)  # networks, and results


@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("kind", ["checkpoints/*", "predictions/*.npz", "results/*.json"])
def test_a_damaged_result_is_trained_again(
    main: Main, folder: Path, finished: tuple, kind: str, is_missing: bool
) -> None:
    """A full disk or a crash leaves such files: of all rows, only that one is trained again."""
    path, other = sorted(folder.glob(kind))
    time_of_other = other.stat().st_mtime_ns
    if is_missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "results" / ".teacher.json.abc.part").write_text("{")
    main("--resume", "mine")
    assert outcome(folder) == finished[1]
    assert other.stat().st_mtime_ns == time_of_other
    assert left_overs(folder) == []


def test_a_run_with_other_settings_is_refused(
    main: Main, folder: Path, tmp_path: Path, synthetic_files: Files
) -> None:
    """Rows trained with different settings or data in one table would be compared as equals."""
    with pytest.raises(InputError, match="seed: 42 in the run, 7 now.*use another --run-name"):
        main("--run-name", "mine", "--seed", "7")
    with pytest.raises(InputError, match="protocol: paper in the run, strict now"):
        main("--resume", "mine", "--protocol", "strict")
    other = tmp_path / "other" / synthetic_files["b"].name
    other.parent.mkdir()
    shutil.copy(synthetic_files["b"], other)
    with h5py.File(other, "r+") as file:
        file["subject_01"][0, 0, :] += 1
    with pytest.raises(InputError, match="data: .*digest"):
        main("--resume", "mine", "--data", str(other))


@pytest.mark.parametrize("content", ['{"settings": {"se', "[]", '{"settings": 1, "calls": 2}'])
@pytest.mark.parametrize("flag", ["--run-name", "--resume"])
def test_a_damaged_run_is_refused(main: Main, folder: Path, flag: str, content: str) -> None:
    """What is left of it must not be overwritten as if it were empty."""
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=f"{folder}: damaged run .*use another --run-name"):
        main(flag, "mine")
    assert (folder / "config.json").read_text() == content


def test_every_call_is_on_record(main: Main, folder: Path) -> None:
    """Rows trained earlier, with other flags or versions, keep theirs."""
    main("--run-name", "mine", "--patience", "10", "--save-every", "7")
    calls = json.loads((folder / "config.json").read_text())["calls"]
    assert [call["flags"]["save_every"] for call in calls] == [180, 7]
    assert all(call["versions"].keys() >= {"python", "torch", "numpy"} for call in calls)


def test_two_processes_do_not_share_a_run(main: Main, folder: Path) -> None:
    """Both would train the same rows, and overwrite each other's tables."""
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process"):
        main("--run-name", "mine")
    main("--run-name", "mine")


def test_a_damaged_checkpoint_is_named(
    folder: Path, synthetic_files: Files, tmp_path: Path
) -> None:
    """A student must not learn from half a teacher."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--run-name", "mine"]
    run = Run(script, cli.parse(script, cli.script_parser(script), flags))
    path = folder / "checkpoints" / f"{ROWS[0]}-subject_03.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path}: damaged.*delete it to retrain {ROWS[0]}"):
            run.load_network(ROWS[0], "03")
    path.write_bytes(whole)
    with pytest.raises(InputError, match="damaged, or from a different network"):
        run.load_weights(ROWS[0], "03", nn.Linear(3, 2))
    network = run.load_network(ROWS[0], "03")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


# Where a run is written --------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_found_before_training(
    main: Main, tmp_path: Path
) -> None:
    """Hours of training must not end at a folder that cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.*: cannot write to this folder .*--output-dir"):
        main("--output-dir", str(tmp_path / "file"))


def test_new_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """Two runs started in the same second must not mix; a name must not leave its folder."""
    first = new_run(tmp_path / NAME, None)
    first.mkdir(parents=True)
    assert new_run(tmp_path / NAME, None) != first
    assert new_run(tmp_path / NAME, "mine") == tmp_path / NAME / "mine"
    for name in ("../mine", "", ".", ".."):
        with pytest.raises(InputError, match="must be a folder name"):
            new_run(tmp_path / NAME, name)


def test_the_run_to_resume_is_the_newest_or_the_named_one(tmp_path: Path) -> None:
    """`--resume` after a lost night must not continue the run of last week."""
    with pytest.raises(InputError, match="no run to resume; leave out --resume"):
        find_run(tmp_path / NAME, "")
    for i, name in enumerate(("b", "c", "a")):
        path = tmp_path / NAME / name / "config.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        os.utime(path, (i, i))
    assert find_run(tmp_path / NAME, "").name == "a"
    assert find_run(tmp_path / NAME, "b").name == "b"
    with pytest.raises(InputError, match="no run to resume"):
        find_run(tmp_path / NAME, "d")


def test_resuming_restores_the_flags(
    main: Main, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A resumed run gets its own flags, except those that are given again."""
    where = ["--output-dir", str(tmp_path), "--resume"]
    args = cli.parse(script, cli.script_parser(script), [*where, "--rows", "all", "--jobs", "3"])
    assert (args.epochs, args.batch_size, args.device) == (2, 16, "cpu")
    assert (args.rows, args.jobs, args.run_name) == (["all"], 3, "mine")
    assert isinstance(args.data, Path)
    script.main(where)
    assert capsys.readouterr().out.count("already done") == len(ROWS)


# Room and memory ---------------------------------------------------------------------------------


def test_too_small_a_disk_is_found_before_training(
    main: Main, monkeypatch: Patch, tmp_path: Path
) -> None:
    """Days of training must not end at a disk that was too small from the first minute."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(InputError, match=r"needs up to .* MB, but 1\.0 MB are free; use another"):
        main("--run-name", "small")
    assert not (tmp_path / NAME).exists()


def test_jobs_fit_cores_memory_and_gpus(monkeypatch: Patch) -> None:
    """More trainings than the memory holds would end all of them."""
    monkeypatch.setattr(parallel, "_free_memory", lambda: 64e9)
    monkeypatch.setattr(parallel, "_available_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cpu, all_gpus, one_gpu = map(torch.device, ("cpu", "cuda", "cuda:1"))
    count = partial(
        parallel.count_jobs,
        None,
        threads=1,
        device=cpu,
        tasks=20,
        parameters=10_000_000,
        recording_bytes=10**8,
    )
    assert count() == 8
    assert count(threads=3) == 2
    assert count(tasks=3) == 3
    assert count(device=all_gpus) == 1
    count_given = partial(count.func, **count.keywords)
    assert count_given(12) == 12
    assert count_given(3, device=all_gpus) == 6  # three on each
    assert count_given(3, device=one_gpu) == 3
    monkeypatch.setattr(parallel, "_free_memory", lambda: 4e9)
    assert count() == 2  # about 2 GB each


# The command line --------------------------------------------------------------------------------


def test_every_flag_has_help_with_its_default() -> None:
    """`--help` is the manual."""
    parser = cli.script_parser(script)
    cli.add_weight(parser, "--alpha", 0.5, "of something")
    for action in parser._actions:
        without_default = isinstance(action, argparse._HelpAction | argparse._StoreTrueAction)
        assert without_default or "(default" in action.help, action.option_strings
    text = parser.format_help()
    assert all(row.name in text for row in script.ROWS)
