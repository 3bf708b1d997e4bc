"""The folder of a run: what is in it, what is refused, what is deleted, and what a copy does."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import h5py
import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

import Dataset_B_sensor_distillation as distillation
from common import cli, files, parallel, training
from common import runs as common_runs
from common.files import FailedTasksError, InputError, load_checkpoint, save_checkpoint
from common.folder import find_run, new_run
from common.runs import Row, Run
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.networks import SCRIPTS
from tests.running import (
    NAME,
    ROWS,
    copy_script,
    left_overs,
    load_script,
    no_figures,
    outcome,
    run_python,
    script,
    usual_flags,
)

DISTILLATION = distillation.__name__

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
    """Only the missing row is trained, to the same numbers; the order is that of the table."""
    main("--run-name", "grown", "--rows", ROWS[1])
    grown = main("--run-name", "grown", "--rows", ROWS[0])
    assert list(dict.fromkeys(grown["row"])) == ROWS
    assert outcome(tmp_path / NAME / "grown") == finished[1]


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
def test_a_damaged_run_is_not_resumed_without_its_flags(
    main: Main, folder: Path, content: str
) -> None:
    """Its flags are lost, and the defaults may be others."""
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="damaged .*use --run-name mine with the flags of the run"):
        main("--resume", "mine")
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


# Disk and cores ----------------------------------------------------------------------------------


def test_too_small_a_disk_is_found_before_training(
    main: Main, monkeypatch: Patch, tmp_path: Path
) -> None:
    """Days of training must not end at a disk that was too small from the first minute."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(InputError, match=r"needs up to .* MB, but 1\.0 MB are free; use another"):
        main("--run-name", "small")
    assert not (tmp_path / NAME).exists()


def pretend_cores(patch: Patch, cores: int) -> None:
    """Run as on a machine with this many cores."""
    patch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)


def test_a_hint_shows_how_to_use_more_cores(
    main: Main, monkeypatch: Patch, capsys: Capture
) -> None:
    """One process uses one core; without the hint, the others would be idle unnoticed."""
    pretend_cores(monkeypatch, 64)
    main("--run-name", "new")
    assert "\nHint: --jobs 2 uses more cores" in capsys.readouterr().out
    main("--run-name", "new")  # nothing is left to train
    pretend_cores(monkeypatch, 1)
    main("--run-name", "other", "--rows", ROWS[0])
    assert "Hint" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "jobs", "tasks", "line"),
    [
        (
            "cuda",
            1,
            3,
            "NOTICE: 3 of 4 GPUs stay idle; --device cuda --jobs 3 trains a row on each",
        ),
        (
            "cuda",
            2,
            8,
            "NOTICE: 2 of 4 GPUs stay idle; --device cuda --jobs 4 trains a row on each",
        ),
        ("cuda:1", 2, 8, "NOTICE: 3 of 4 GPUs stay idle; --device cuda --jobs 4"),
        ("cuda", 1, 1, "NOTICE: 3 of 4 GPUs stay idle.\n"),
        ("cuda", 4, 8, ""),
    ],
)
def test_idle_gpus_are_named(
    device: str, jobs: int, tasks: int, line: str, main: Main, runs: list[Run], monkeypatch: Patch,
    capsys: Capture,
) -> None:  # fmt: skip
    """On a machine with four GPUs, three of them would be paid for and not used."""
    main()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    runs[0].device = torch.device(device)
    capsys.readouterr()
    runs[0]._suggest_jobs(tasks, jobs)
    printed = capsys.readouterr().out
    assert printed.startswith(line)
    assert bool(printed) == bool(line)


def test_jobs_are_compared_with_the_memory_of_the_gpus(
    main: Main, runs: list[Run], monkeypatch: Patch
) -> None:
    """Eight jobs on one GPU must not fail one after another, hours later; nor the only job."""
    main()
    run, asked = runs[0], []

    def memory(device: torch.device) -> tuple[int, int]:
        asked.append(device.index)
        return (700_000_000, 8_000_000_000)

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run.device, run.args.jobs = torch.device("cuda", 1), 2
    with pytest.raises(
        InputError, match=r"--jobs 2: 2 jobs on a GPU need .* 0.7 GB are free; use f"
    ):
        run._check_gpu_memory()
    assert asked == [1]
    run.device = torch.device("cuda")
    run._check_gpu_memory()  # one on each
    assert asked == [1, 0, 1]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100_000_000, 8_000_000_000))
    run.args.jobs = 1
    with pytest.raises(InputError, match="a row needs at least .* use another --device"):
        run._check_gpu_memory()


def test_a_gpu_that_failed_ends_the_run(main: Main, monkeypatch: Patch) -> None:
    """After an error on a GPU, every later row of the process fails; out of memory is no such."""
    begun, message = [], ""

    def fail(row: Row, test_subject: str, run: Run) -> None:
        begun.append(row.name)
        raise RuntimeError(f"{message}: device-side assert triggered\nCUDA kernel errors might")

    monkeypatch.setattr(script, "train_and_test", fail)
    for cause, count in (("CUDA error", 1), ("other error", 2)):
        message = cause
        begun.clear()
        with pytest.raises(FailedTasksError, match=f"{count} of 2 tasks failed"):
            main()
        assert len(begun) == count


# The flags ---------------------------------------------------------------------------------------


def parser_of(module: ModuleType, patch: Patch) -> cli.ArgumentParser:
    """Return the parser of a script."""
    parsers = []

    def stop(parser: cli.ArgumentParser, argv: object = None) -> None:
        parsers.append(parser)
        raise SystemExit

    with patch.context() as within:
        within.setattr(cli.ArgumentParser, "parse_args", stop)
        with pytest.raises(SystemExit):
            module.main([])
    return parsers[0]


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda module: module.__name__)
def test_every_flag_has_help_with_its_default(module: ModuleType, monkeypatch: Patch) -> None:
    """`--help` is the manual."""
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        without_default = isinstance(action, argparse._HelpAction | argparse._StoreTrueAction)
        assert without_default or "(default" in action.help or action.dest == "scheduler"
    text = parser.format_help()
    assert all(row.name in text for row in module.ROWS)


@pytest.fixture
def runs(monkeypatch: Patch) -> list[Run]:
    """Train nothing; return the runs that a script would have started."""
    started = []
    monkeypatch.setattr(Run, "each", lambda run, train_and_test: started.append(run))
    return started


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda module: module.__name__)
def test_every_flag_is_a_setting_unless_it_cannot_change_a_result(
    module: ModuleType, synthetic_files: Files, tmp_path: Path, runs: list[Run], monkeypatch: Patch
) -> None:
    """Rows trained with different flags must not be mixed; resuming must restore all of them."""
    where = ["--data", str(synthetic_files[module.DATASET]), "--output-dir", str(tmp_path)]
    module.main([*where, "--device", "cpu", "--seed", "7"])
    flags = {action.dest for action in parser_of(module, monkeypatch)._actions} - {"help"}
    assert flags > set(cli.NOT_SETTINGS)
    assert runs[0].settings.keys() >= flags - set(cli.NOT_SETTINGS)
    assert set(cli.NOT_SETTINGS) & runs[0].settings.keys() == {"data"}  # with its digest
    module.main(["--output-dir", str(tmp_path), "--resume"])
    assert runs[0].settings == runs[1].settings
    assert runs[0].folder.path == runs[1].folder.path


@pytest.mark.usefixtures("folder")
def test_flags_that_are_given_again_replace_those_of_the_run(
    tmp_path: Path, runs: list[Run]
) -> None:
    """A resumed run can get more rows, or more jobs."""
    script.main(["--output-dir", str(tmp_path), "--resume", "--rows", "all", "--jobs", "3"])
    args = runs[0].args
    assert (args.epochs, args.batch_size, args.device, args.jobs) == (2, 16, "cpu", 3)
    assert len(args.rows) == len(script.ROWS)


# Checkpoints -------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_is_named(main: Main, folder: Path, runs: list[Run]) -> None:
    """A student must not learn from half a teacher, nor from that of another version."""
    main("--run-name", "mine")
    run, path = runs[0], folder / "checkpoints" / f"{ROWS[0]}-subject_03.safetensors"
    message = f"{path}: damaged, or from a different network; delete it to retrain {ROWS[0]}$"
    whole, checkpoint = path.read_bytes(), load_checkpoint(path)
    tensors = {name: values.clone() for name, values in checkpoint.tensors.items()}
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            run.load_network(ROWS[0], "03")
    name, values = tensors.popitem()
    for other in (tensors, {**tensors, name: values[:1]}):
        save_checkpoint(path, other, checkpoint.description)
        with pytest.raises(InputError, match=message):
            run.load_network(ROWS[0], "03")
    path.write_bytes(whole)
    with pytest.raises(InputError, match=message):
        run.load_weights(ROWS[0], "03", nn.Linear(3, 2))
    network = run.load_network(ROWS[0], "03")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def results_of(folder: Path) -> dict[str, object]:
    """Return every number of a run but its weights."""
    return {name: v for name, v in outcome(folder).items() if not name.endswith(".safetensors")}


def check_deleting(main: Main, folder: Path, *more: str) -> None:
    """Run rows, rows again, and a row that needs deleted weights, with `--no-checkpoints`.

    Args:
        main: runs the script with more flags.
        folder: where its runs are.
        more: further flags.
    """
    first, all_rows = ["teacher", "distilled-feet"], ["teacher", "distilled-feet", "student-feet"]
    all_rows += ["distilled-feet_pelvis"]
    main("--run-name", "kept", "--rows", *all_rows)
    lean = ["--run-name", "lean", "--no-checkpoints", *more]
    main(*lean, "--rows", *first)
    times = {path: path.stat().st_mtime_ns for path in (folder / "lean").glob("results/*")}
    assert len(times) == 2
    main(*lean, "--rows", *first)
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "lean").glob("results/*")}
    assert list((folder / "lean").glob("checkpoints/*")) == []
    main(*lean, "--rows", *all_rows)
    assert list((folder / "lean").glob("checkpoints/*")) == []
    assert len(list((folder / "kept").glob("checkpoints/*"))) == len(all_rows)
    assert results_of(folder / "lean") == results_of(folder / "kept")
    for path, time in times.items():  # only the teacher is trained again
        assert (path.stat().st_mtime_ns == time) == ("teacher" not in path.name)


@pytest.mark.usefixtures("narrow", "without_figures")
def test_weights_are_deleted_once_nothing_needs_them(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """All tables together have 372 GB of weights; without them, the results must be the same."""
    kept, train_and_test = {}, distillation.train_and_test

    def recorded(row: Row, test_subject: str, run: Run) -> None:
        if run.args.no_checkpoints:
            files = run.folder.path.glob("checkpoints/*")
            kept[row.name] = sorted(file.name.partition("-subject")[0] for file in files)
        train_and_test(row, test_subject, run)

    monkeypatch.setattr(distillation, "train_and_test", recorded)
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--epochs", "1"]
    check_deleting(lambda *more: distillation.main([*flags, *more]), tmp_path / DISTILLATION)
    others = ("distilled-feet", "student-feet", "distilled-feet_pelvis")  # the last needs it
    assert kept == {"teacher": [], **dict.fromkeys(others, ["teacher"])}


@pytest.mark.slow
def test_weights_are_deleted_with_several_jobs(synthetic_files: Files, tmp_path: Path) -> None:
    """The workers that need a teacher must still find it."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--epochs", "1"]

    def main(*more: str) -> None:
        done = run_python(distillation.__file__, *flags, *more, folder=ROOT)
        assert done.returncode == 0, done.stderr

    check_deleting(main, tmp_path / DISTILLATION, "--jobs", "2")


@pytest.mark.usefixtures("narrow", "without_figures")
def test_a_row_without_weights_is_not_trained_twice(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Dask repeats finished tasks of a worker that died; that could be half of a run of days.

    Weights that an earlier call kept are deleted, too, by a call that asks for it.
    """
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--epochs", "1", "--rows"]
    flags += ["student-feet", "--run-name", "lean"]
    distillation.main(flags)
    folder = tmp_path / DISTILLATION / "lean"
    assert list(folder.glob("checkpoints/*"))
    opened: list[Run] = []
    monkeypatch.setattr(Run, "report", lambda run: opened.append(run))
    distillation.main([*flags, "--no-checkpoints"])
    assert list(folder.glob("checkpoints/*")) == []
    monkeypatch.setattr(parallel, "print_on_client", lambda: print)
    monkeypatch.setattr(parallel, "worker_device", lambda device: device)

    def train_and_test(*_: object) -> None:
        pytest.fail("trained again")

    subject = opened[0].test_subjects[0]
    run = pickle.loads(pickle.dumps(opened[0]))
    common_runs._run_task(run, train_and_test, "student-feet", subject)


@pytest.mark.usefixtures("narrow", "without_figures")
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_file_shows_progress_in_lines(
    is_terminal: bool,
    synthetic_files: Files,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    """A batch job of days must show in its log how far it is; a terminal shows a bar instead."""
    monkeypatch.setattr(training, "LINE_EVERY_S", 0.01)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--rows", "student-feet"]
    distillation.main(flags)
    lines = capsys.readouterr().out.splitlines()
    of_epochs = [
        line for line in lines if re.match(r"student-feet, .* \(0 of 1 finished\): ", line)
    ]
    assert bool(of_epochs) != is_terminal


# Copies of a script ------------------------------------------------------------------------------


def test_a_copy_of_a_script_is_drawn_guarded_and_compared_with_its_text(
    synthetic_files: Files, tmp_path: Path, capsys: Capture
) -> None:
    """Users copy a script, add flags and rows: figures, settings and notices must follow."""
    path = copy_script(
        tmp_path,
        "my_script",
        ('Row(f"{model}-{sensor_set}"', 'Row(f"my {model} = {sensor_set}"'),
        ("quick_look=QUICK_LOOK,", "quick_look=QUICK_LOOK,\n        add_flags=add_width,"),
        ("def main(", ADD_WIDTH + "\n\ndef main("),
    )
    where = ["--output-dir", str(tmp_path)]
    rows = [row.replace("lmfn-", "my lmfn = ") for row in ROWS]
    flags = [*usual_flags(synthetic_files["b"], tmp_path)[:-2], *rows, "--width", "4"]
    load_script(path).main(flags)
    assert "NOTICE: my_script.py has changed" not in capsys.readouterr().out
    (folder,) = (tmp_path / "my_script").iterdir()
    figures = {figure.stem: figure.stat().st_size for figure in folder.glob("figures/*")}
    assert figures.keys() == {"learning_curves", "estimates", "nrmse", "stance_curves"}
    assert min(figures.values()) > 10_000
    with pytest.raises(InputError, match="width: 4 in the run, 5 now"):
        load_script(path).main([*where, "--resume", "--width", "5"])
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    capsys.readouterr()
    with no_figures():
        load_script(path).main([*where, "--resume"])
    printed = capsys.readouterr().out
    assert "NOTICE: my_script.py has changed since this run was started" in printed
    assert printed.count("already done") == len(rows)


ADD_WIDTH = """def add_width(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=3, help="a flag of the copy")
"""
