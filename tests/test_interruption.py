"""A study takes days: what is killed, interrupted, full or diverged goes on, to the same end."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from common.study import FailedTasksError
from safetensors import SafetensorError
from torch import nn

import Dataset_B_lmfn_tfn_fusion_models as script
from common import checkpoints, cluster, flags, interruption, jobs, resources, training
from common.files import InputError
from common.training import Loss
from tests.conftest import ROOT

ROWS = ["lmfn-feet", "lmfn-feet_pelvis"]
NAME = "Dataset_B_lmfn_tfn_fusion_models"


@pytest.fixture
def usual(sample_files: dict[str, Path], tmp_path: Path) -> list[str]:
    """Flags of a small run of two rows into the test's folder."""
    return [
        *("--data", str(sample_files["b"]), "--output-dir", str(tmp_path)),
        *("--device", "cpu", "--jobs", "1", "--epochs", "2", "--rows", *ROWS),
    ]


def outcome(folder: Path) -> dict[str, object]:
    """Return every number of a run: metrics, losses, predictions and weights, bit for bit."""
    found: dict[str, object] = {"metrics": (folder / "metrics.csv").read_text()}
    lines = (folder / "history.csv").read_text().splitlines()
    found["history"] = [line.rpartition(",")[0] for line in lines]  # but for the seconds
    for path in sorted(folder.glob("predictions/*.npz")):
        found[path.name] = np.load(path)["prediction"].tobytes()
    for path in sorted(folder.glob("checkpoints/*")):
        state = checkpoints.load(path).tensors
        found[path.name] = [(name, value.numpy().tobytes()) for name, value in state.items()]
    return found


def no_half_files(folder: Path) -> bool:
    """Whether nothing half written is left, nor anything unfinished."""
    return not [*folder.rglob("*.part"), *folder.glob("unfinished/*.pt")]


def with_loss(monkeypatch: pytest.MonkeyPatch, row: str, change: Callable[[Loss], Loss]) -> None:
    """Change the training loss of a row."""
    study = script.STUDY
    changed = [
        dataclasses.replace(e, loss=lambda setup, make=e.loss: change(make(setup)))
        if e.row == row
        else e
        for e in study.experiments
    ]
    monkeypatch.setattr(script, "STUDY", dataclasses.replace(study, experiments=changed))


def recorded(sizes: list[int], stop_at: int | None = None) -> Callable[[Loss], Loss]:
    """Record the size of each batch, and ask to stop at one."""

    def change(loss: Loss) -> Loss:
        def recording(model: nn.Module, batch: training.Batch) -> torch.Tensor:
            sizes.append(len(batch["targets"]))
            if len(sizes) == stop_at:
                interruption.ask_to_stop()
            return loss(model, batch)

        return recording

    return change


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_stopped_training_goes_on_to_the_same_numbers(
    stop_at: int, usual: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any step, `--resume` alone gives what was asked for, and does no step twice."""
    usual += ["--batch-size", "16", "--epochs", "4", "--learning-rate", "0.3"]
    whole, stopped, resumed = [], [], []
    with monkeypatch.context() as patch:
        with_loss(patch, ROWS[1], recorded(whole))
        script.main([*usual, "--run-name", "whole"])
    with monkeypatch.context() as patch:
        with_loss(patch, ROWS[1], recorded(stopped, stop_at))
        with pytest.raises(interruption.InterruptedTrainingError):
            script.main([*usual, "--run-name", "stopped"])
    folder = tmp_path / NAME / "stopped"
    assert [path.stem for path in folder.glob("unfinished/*")] == [f"{ROWS[1]}-subject_03"]
    with_loss(monkeypatch, ROWS[1], recorded(resumed))
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert (
        len(whole) == 8
    )  # four epochs of two steps: stopped in the first, at its end, in the third
    history = pd.read_csv(folder / "history.csv").query("row == @ROWS[1]")
    best = history["validation_loss"].idxmin() - history.index[0] + 1
    assert 1 <= best <= 2  # so that the best weights are among what was kept
    assert (len(stopped), stopped + resumed) == (stop_at, whole)
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")
    assert no_half_files(folder)


def test_a_damaged_state_costs_its_training_only(
    usual: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A state cut in half starts its training afresh, says so, and ends at the same numbers."""
    script.main([*usual, "--run-name", "whole"])
    with monkeypatch.context() as patch:
        with_loss(patch, ROWS[1], recorded([], 1))
        with pytest.raises(interruption.InterruptedTrainingError):
            script.main([*usual, "--run-name", "stopped"])
    folder = tmp_path / NAME / "stopped"
    (path,) = folder.glob("unfinished/*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    script.main(["--output-dir", str(tmp_path), "--resume", "stopped"])
    assert f"{path}: damaged" in capsys.readouterr().out
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")


@pytest.mark.parametrize("cut", ["checkpoints/*", "predictions/*.npz", "results/*.json"])
def test_a_damaged_result_is_trained_again(cut: str, usual: list[str], tmp_path: Path) -> None:
    """Of a finished run only the row whose file was cut in half is done again."""
    script.main([*usual, "--run-name", "mine"])
    folder = tmp_path / NAME / "mine"
    before = outcome(folder)
    path, other = sorted(folder.glob(cut))
    time_of_other = other.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "metrics.csv").write_text("row,sens")
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert outcome(folder) == before
    assert other.stat().st_mtime_ns == time_of_other


def test_a_resumed_run_with_other_settings_is_refused(
    usual: list[str], tmp_path: Path, sample_files: dict[str, Path]
) -> None:
    """Half a run with one seed or file and half with another is no run; the difference is shown."""
    script.main([*usual[:-1], "--run-name", "mine"])
    where = ["--output-dir", str(tmp_path), "--resume", "mine"]
    with pytest.raises(InputError, match="seed: 42 there, 7 now"):
        script.main([*where, "--seed", "7"])
    other = tmp_path / "other" / sample_files["b"].name
    other.parent.mkdir()
    shutil.copy(sample_files["b"], other)
    with h5py.File(other, "r+") as file:
        file["subject_01"][0, 0, :] += 1
    with pytest.raises(InputError, match="data: .*digest"):
        script.main([*where, "--data", str(other)])


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, at: int) -> None:
    """Have the call number `at` of what writes predictions, checkpoints or states fail."""
    module = {"savez_compressed": np, "save_file": checkpoints, "save": torch}[name]
    real, calls = getattr(module, name), []

    def failing(*arguments: object, **named: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise error
        real(*arguments, **named)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(
    ("name", "at", "error"),
    [
        ("savez_compressed", 2, OSError(errno.ENOSPC, "No space left on device")),
        ("save_file", 2, SafetensorError("Error while serializing: I/O error: No space left")),
        (
            "save",  # of states, of which the first row has none here
            1,
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0"),
        ),
    ],
)
def test_a_disk_that_fills_up_leaves_the_rest_intact(
    name: str,
    at: int,
    error: Exception,
    usual: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run ends with its reason, no half file, and what it had; `--resume` does the rest."""
    script.main([*usual, "--run-name", "whole"])
    folder = tmp_path / NAME / "full"
    with monkeypatch.context() as patch:
        full_disk(patch, name, error, at)
        if name == "save":
            patch.setattr(interruption.Keeper, "is_due", lambda keeper: ROWS[1] in keeper.path.name)
        with pytest.raises(FailedTasksError, match=f"{ROWS[1]}, subject 03: cannot write"):
            script.main([*usual, "--run-name", "full"])
    assert [path.stem for path in folder.glob("results/*")] == [f"{ROWS[0]}-subject_03"]
    assert no_half_files(folder)
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")


def test_too_small_a_disk_is_found_before_training(
    usual: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Days of training must not end at a disk that was too small from the first minute."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(InputError, match=r"up to .* MB are needed, 1\.0 MB are free; give another"):
        script.main([*usual, "--run-name", "small"])
    assert not (tmp_path / NAME).exists()


def diverging(after: int) -> Callable[[Loss], Loss]:
    """Give NaN from a step on."""
    steps = []

    def change(loss: Loss) -> Loss:
        def diverged(model: nn.Module, batch: training.Batch) -> torch.Tensor:
            steps.append(1)
            return loss(model, batch) * (float("nan") if len(steps) > after else 1.0)

        return diverged

    return change


def test_one_diverged_training_does_not_stop_the_others(
    usual: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named with row, fold and epoch; its best epoch is kept; `--resume` trains it alone."""
    script.main([*usual, "--run-name", "whole"])
    folder = tmp_path / NAME / "nan"
    with monkeypatch.context() as patch:
        with_loss(patch, ROWS[0], diverging(after=1))
        message = f"{ROWS[0]}, subject 03, epoch 2: the validation loss is not finite"
        with pytest.raises(FailedTasksError, match=message) as failed:
            script.main([*usual, "--run-name", "nan"])
    assert "best epoch before: 1" in str(failed.value)
    assert [path.stem for path in folder.glob("results/*")] == [f"{ROWS[1]}-subject_03"]
    path = folder / "checkpoints" / f"{ROWS[0]}-subject_03.diverged.safetensors"
    assert all(value.isfinite().all() for value in checkpoints.load(path).tensors.values())
    times = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ROWS[1]}*")}
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ROWS[1]}*")}
    path.unlink()
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")


def test_what_needs_a_failed_row_is_not_begun() -> None:
    """A student of a teacher that failed has no teacher; the other subject's has."""
    done, failed = [], {}

    class Failing:
        def run(self, row: str, subject: str, name: str) -> str:
            if (row, subject) == ("teacher", "1"):
                raise MemoryError
            return "well"

    todo = {jobs.Task(r, s): "" for s in "12" for r in ("teacher", "distilled", "student")}
    needs = {"distilled": ["teacher"]}
    tasks = jobs.Tasks(
        todo,
        needs=lambda row: needs.get(row, []),
        done=lambda task, _: done.append(task),
        failed=failed.__setitem__,
    )
    jobs.run_here(Failing(), tasks)
    assert list(failed) == [("teacher", "1"), ("distilled", "1")]
    assert failed["teacher", "1"].startswith("out of memory")
    assert failed["distilled", "1"] == "it needs teacher, which failed"
    assert len(done) == 4


def test_jobs_fit_cores_memory_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """More trainings than the memory holds end all of them; GPUs take turns."""

    def count(*given: str, tasks: int = 20, device: str = "cpu") -> int:
        parser = flags.parser("", dataset="b", rows=[], epochs=1, learning_rate=1.0)
        options = parser.parse_args(given)
        return resources.count_jobs(options, 10_000_000, tasks, 10**8, torch.device(device))

    free_gb = 64

    monkeypatch.setattr(resources, "_free_memory", lambda: free_gb * 1e9)
    monkeypatch.setattr(resources, "_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count() == 8
    assert count("--threads", "3") == 2
    assert count(tasks=3) == 3
    assert count("--jobs", "12") == 12
    assert count(device="cuda") == 1
    assert count("--jobs", "3", device="cuda") == 6  # three on each
    assert count("--jobs", "3", device="cuda:1") == 3
    free_gb = 4
    assert count() == 2  # 1.6 GB each
    devices = [cluster.spread(torch.device("cuda"), worker).index for worker in range(4)]
    assert devices == [0, 1, 0, 1]
    assert cluster.spread(torch.device("cuda:1"), 0).index == 1
    assert cluster.spread(torch.device("cpu"), 1).type == "cpu"


def run_script(*more: str, path: Path = ROOT / f"{NAME}.py") -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def waited_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something has happened; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "jobs"),
    [(signal.SIGTERM, "1"), pytest.param(signal.SIGINT, "2", marks=pytest.mark.slow)],
)
def test_a_signal_keeps_the_state(number: int, jobs: str, usual: list[str], tmp_path: Path) -> None:
    """A preempted job has seconds: it saves between two steps, and says how to go on.

    Ctrl-C in a terminal reaches the processes of the workers as well.
    """
    more = ["--batch-size", "1", "--epochs", "500", "--save-every", "0.2", "--jobs", jobs]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / f"{NAME}.py"), *usual, *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / NAME
    waited_until(lambda: len(list(folder.glob("*/unfinished/*.pt"))) == int(jobs))
    os.killpg(process.pid, number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complaint.startswith("error: interrupted; ")
    assert "--resume goes on from there" in complaint
    states = [torch.load(path, weights_only=True) for path in folder.glob("*/unfinished/*.pt")]
    assert len(states) == int(jobs)
    assert all(state["step"] > 0 or state["epoch"] > 1 for state in states)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_at_the_same_numbers(usual: list[str], tmp_path: Path) -> None:
    """SIGKILL at 25 random moments, each time resumed: nothing lost, nothing counted twice."""
    more = ["--batch-size", "2", "--epochs", "60", "--patience", "60", "--save-every", "0.05"]
    script.main([*usual, *more, "--run-name", "whole"])
    command = [sys.executable, "-m", "tests.killing", NAME, "25", *usual, *more]
    done = subprocess.run(
        [*command, "--run-name", "killed"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("killed 25 times, then status 0\n"), done.stdout + done.stderr
    assert outcome(tmp_path / NAME / "killed") == outcome(tmp_path / NAME / "whole")


@pytest.mark.slow
def test_jobs_and_order_change_nothing(usual: list[str], tmp_path: Path) -> None:
    """The same bits from one process and from three, on all folds."""
    usual += ["--test-subjects", "all"]
    script.main([*usual, "--run-name", "one"])
    done = run_script(*usual, "--jobs", "3", "--run-name", "three")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "3 at a time" in done.stdout
    assert outcome(tmp_path / NAME / "three") == outcome(tmp_path / NAME / "one")


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and two workers on loopback, as the README says to start them."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    file = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    start("distributed.cli.dask_scheduler", *local, "--scheduler-file", str(file))
    waited_until(file.exists)
    address = json.loads(file.read_text())["address"]
    worker = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
    workers = [
        start("distributed.cli.dask_worker", address, *worker, "--local-directory", str(tmp_path))
        for _ in range(2)
    ]
    yield address, workers
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_lost_in_mid_task_is_made_good(
    number: int,
    usual: list[str],
    tmp_path: Path,
    two_workers: tuple[str, list[subprocess.Popen]],
) -> None:
    """A node of a cluster dies or is preempted: its training goes on elsewhere, to the same end."""
    address, workers = two_workers
    usual += ["--batch-size", "1", "--epochs", "25", "--save-every", "0.5"]
    script.main([*usual, "--run-name", "whole"])
    command = [sys.executable, str(ROOT / f"{NAME}.py"), *usual, "--scheduler", address]
    process = subprocess.Popen(
        [*command, "--run-name", "lost"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / NAME / "lost"
    waited_until(lambda: len(list(folder.glob("unfinished/*.pt"))) == 2)
    os.kill(workers[0].pid, number)
    printed, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    assert workers[0].wait(timeout=60) is not None
    assert printed.count("validation loss") == 2
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")
    assert no_half_files(folder)


DYING = """
import dataclasses, os, signal
from pathlib import Path
import Dataset_B_lmfn_tfn_fusion_models as original

def dying(setup):
    with open(Path(__file__).with_name("deaths"), "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)

first, *others = original.STUDY.experiments
changed = [dataclasses.replace(first, loss=dying), *others]
original.STUDY = STUDY = dataclasses.replace(
    original.STUDY, script=Path(__file__), experiments=changed
)
main = original.main
if __name__ == "__main__":
    original.study.start(main)
"""


@pytest.mark.slow
def test_a_training_whose_process_dies_twice_is_given_up(usual: list[str], tmp_path: Path) -> None:
    """What the kernel kills for want of memory is tried once more and named; others are done."""
    path = tmp_path / "dying.py"
    path.write_text(DYING)
    done = run_script(*usual, "--jobs", "2", path=path)
    assert done.returncode == 1, done.stderr
    assert f"{ROWS[0]}, subject 03: its process died twice" in done.stderr
    assert f"{ROWS[1]}, subject 03: best of 2 epochs" in done.stdout
    assert (tmp_path / "deaths").read_text() == "xx"
