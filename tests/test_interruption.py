"""Interrupted, killed, out of disk space or diverged: a run resumes to the same numbers."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from common.cli import run_main
from common.files import FailedTasksError, load_checkpoint
from common.windows import Batch
from tests.conftest import ROOT, Capture, Files, Folders, Patch
from tests.running import (
    NAME,
    ROWS,
    left_overs,
    no_figures,
    outcome,
    run_python,
    script,
    usual_flags,
    wait_until,
)

STEPS = 4  # of each row: two epochs of two batches
pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def usual(synthetic_files: Files, tmp_path: Path) -> list[str]:
    """Return the flags of a small run into the folder of the test, which saves every epoch."""
    return [*usual_flags(synthetic_files["b"], tmp_path), "--save-every", "0.000001"]


@pytest.fixture(scope="module")
def whole(synthetic_files: Files, tmp_path_factory: Folders) -> dict[str, object]:
    """Return the numbers of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with no_figures():
        script.main([*usual_flags(synthetic_files["b"], folder), "--run-name", "whole"])
    return outcome(folder / NAME / "whole")


class CountedLoss:
    """The training loss of the script; counts its steps, and does something at one of them.

    Args:
        at: number of the step, from 1 over all rows; 0 for none.
        action: called at that step, with the network; its value is multiplied with the loss.
    """

    def __init__(self, at: int = 0, action: Callable[[nn.Module], float] | None = None) -> None:
        self.at, self.action, self.loss, self.steps = at, action, script.supervised_loss, 0

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        self.steps += 1
        factor = self.action(network) if self.steps == self.at else 1.0
        return factor * self.loss(network, batch)


def interrupt(network: nn.Module) -> float:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


# Interruptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 3, 5, 8])
def test_an_interrupted_run_is_resumed_to_the_same_numbers(
    at: int, usual: list[str], whole: dict[str, object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """Ctrl-C at any step costs at most an epoch."""
    folder = tmp_path / NAME / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(script, "supervised_loss", CountedLoss(at, interrupt))
        with pytest.raises(KeyboardInterrupt):
            script.main([*usual, "--run-name", "stopped"])
    row, step = divmod(at - 1, STEPS)
    assert len(list(folder.glob("results/*"))) == row
    states = [path.stem for path in folder.glob("unfinished/*")]
    assert states == ([f"{ROWS[row]}-subject_03"] if step >= 2 else [])
    resumed = CountedLoss()
    monkeypatch.setattr(script, "supervised_loss", resumed)
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert resumed.steps == 2 * STEPS - (at - 1) + step % 2  # the steps of an unfinished epoch
    assert outcome(folder) == whole
    assert left_overs(folder) == []


def test_a_damaged_state_costs_only_its_row(
    usual: list[str], whole: dict[str, object], tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Training restarts with a notice and gives the same numbers; other rows keep theirs."""
    with monkeypatch.context() as patch:
        patch.setattr(script, "supervised_loss", CountedLoss(7, interrupt))
        with pytest.raises(KeyboardInterrupt):
            script.main([*usual, "--run-name", "stopped"])
    folder = tmp_path / NAME / "stopped"
    (path,) = folder.glob("unfinished/*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    script.main(["--output-dir", str(tmp_path), "--resume", "stopped"])
    assert f"NOTICE: {path}: cannot be resumed (" in capsys.readouterr().out
    assert outcome(folder) == whole


# A full disk -------------------------------------------------------------------------------------

FULL = {  # what fails: module, function, at which call, and its error
    "predictions": (np, "savez_compressed", 2, OSError(errno.ENOSPC, "No space left on device")),
    "checkpoint": (
        safetensors.torch,
        "save_file",
        2,
        SafetensorError("I/O error: No space left on device"),
    ),
    "state": (torch, "save", 3, RuntimeError("[enforce fail at inline_container.cc:672]")),
}


@pytest.mark.parametrize("what", FULL)
def test_a_disk_that_fills_up_leaves_the_rest_intact(
    what: str, usual: list[str], whole: dict[str, object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The run ends with the reason, without half files and with what it had."""
    module, name, at, error = FULL[what]
    real, calls = getattr(module, name), []

    def failing(*arguments: object, **keywords: object) -> None:
        calls.append(name)
        if len(calls) == at:
            raise error
        real(*arguments, **keywords)

    folder = tmp_path / NAME / "full"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(FailedTasksError, match=f"{ROWS[1]}, subject 03: cannot write"):
            script.main([*usual, "--run-name", "full"])
    assert [path.stem for path in folder.glob("results/*")] == [f"{ROWS[0]}-subject_03"]
    assert not list(folder.rglob("*.part"))
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert outcome(folder) == whole


# Divergence --------------------------------------------------------------------------------------


def test_a_diverged_row_does_not_stop_the_others(
    usual: list[str], whole: dict[str, object], tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """It is named with row, fold and epoch; its best epoch is saved; it can be trained again."""
    networks = []

    def diverge(network: nn.Module) -> float:
        networks.append(weakref.ref(network))
        return float("nan")

    def check_memory(network: nn.Module) -> float:
        assert networks[0]() is None  # nothing of the diverged row is left in memory
        return 1.0

    folder = tmp_path / NAME / "nan"
    with monkeypatch.context() as patch:
        loss = CountedLoss(STEPS + 1, check_memory)
        loss.loss = CountedLoss(3, diverge)
        patch.setattr(script, "supervised_loss", loss)
        with pytest.raises(SystemExit, match="1"):
            run_main(lambda: script.main([*usual, "--run-name", "nan"]))
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: 1 of 2 tasks failed, 0 were not started; try them again")
    assert f"{ROWS[0]}, subject 03: epoch 2: the validation loss is not finite" in complaint
    assert "best epoch so far: 1" in complaint
    assert [path.stem for path in folder.glob("results/*")] == [f"{ROWS[1]}-subject_03"]
    assert left_overs(folder) == []
    path = folder / "checkpoints" / f"{ROWS[0]}-subject_03.diverged.safetensors"
    assert all(value.isfinite().all() for value in load_checkpoint(path).tensors.values())
    times = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ROWS[1]}*")}
    script.main(["--output-dir", str(tmp_path), "--resume"])
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ROWS[1]}*")}
    path.unlink()
    assert outcome(folder) == whole


def test_an_unforeseen_error_is_named_and_does_not_stop_the_others(
    usual: list[str], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A bug or a lack of memory in one row must not cost the others."""

    def fail(network: nn.Module) -> float:
        raise MemoryError

    monkeypatch.setattr(script, "supervised_loss", CountedLoss(1, fail))
    with pytest.raises(FailedTasksError, match=f"{ROWS[0]}, subject 03: out of memory .*--jobs"):
        script.main([*usual, "--run-name", "memory"])
    history = pd.read_csv(tmp_path / NAME / "memory" / "history.csv")
    assert set(history["row"]) == {ROWS[1]}


# Signals -----------------------------------------------------------------------------------------


LONG = ["--epochs", "100", "--patience", "100", "--batch-size", "4"]


def start_script(*flags: str) -> subprocess.Popen[str]:
    """Start the script in a new process group, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{NAME}.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may ignore it
    )


def group_is_empty(group: int) -> bool:
    """Return whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_with_one_line(jobs: str, usual: list[str], tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches the workers as well: no traceback, and no process is left."""
    process = start_script(*usual, *LONG, "--jobs", jobs, "--run-name", "stopped")
    folder = tmp_path / NAME / "stopped"
    wait_until(lambda: len(list(folder.glob("unfinished/*.pt"))) == int(jobs))
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert complaint == (
        f"error: interrupted: finished rows and saved epochs are in {folder}; "
        "continue with --resume stopped\n"
    )
    assert process.returncode == 130
    wait_until(lambda: group_is_empty(process.pid), seconds=60)


COMMANDS = {
    "script": [f"{NAME}.py", "--help"],
    "beyond": ["-m", "beyond.Dataset_B_streaming", "--help"],
    **{
        path.parent.name: ["-m", f"tools.{path.parent.name}", "--help"]
        for path in sorted(ROOT.glob("tools/*/__main__.py"))
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_during_imports_ends_with_one_line(command: str, tmp_path: Path) -> None:
    """Imports take seconds, in which a user notices a wrong flag."""
    marker = tmp_path / "importing"
    hook = (  # interrupts the first import of a module after the start of the interpreter
        "import os, signal, sys\n"
        "def interrupt(event, arguments):\n"
        "    if event == 'import' and arguments[0] in ('torch', 'pandas', 'h5py'):\n"
        f"        open({str(marker)!r}, 'a').write(arguments[0])\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run_python(*COMMANDS[command], folder=ROOT, seconds=100, PYTHONPATH=path)
    assert marker.exists()
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("seconds", [0.0, 1.5, 4.0])
def test_ctrl_c_while_workers_start_ends_with_one_line(
    presses: int, seconds: float, usual: list[str], tmp_path: Path
) -> None:
    """A worker imports for seconds; neither it nor the script may print a traceback."""
    process = start_script(*usual, *LONG, "--jobs", "2", "--run-name", "stopped")
    lines = iter(process.stdout)
    assert any("Rows are trained in parallel" in line for line in lines)
    time.sleep(seconds)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    _, complaint = process.communicate(timeout=120)
    assert complaint.startswith("error: interrupted")
    assert complaint.count("\n") == 1
    assert process.returncode == 130
    wait_until(lambda: group_is_empty(process.pid), seconds=60)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(
    number: int, usual: list[str], tmp_path: Path
) -> None:
    """Orphaned workers would keep a machine busy after its job has been cancelled."""
    process = start_script(*usual, *LONG, "--jobs", "2", "--run-name", "stopped")
    folder = tmp_path / NAME / "stopped"
    wait_until(lambda: len(list(folder.glob("unfinished/*.pt"))) == 2)
    os.kill(process.pid, number)
    assert process.wait(timeout=20) == -number
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    wait_until(lambda: group_is_empty(process.pid), seconds=60)


def last_change(folder: Path) -> int:
    """Return the time at which a file was last added to a run, 0 for none."""
    return max((path.stat().st_mtime_ns for path in folder.glob("*/")), default=0)


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "kills"), [("1", 5), ("2", 3)])
def test_killed_at_random_moments_it_ends_at_the_same_numbers(
    jobs: str, kills: int, usual: list[str], tmp_path: Path
) -> None:
    """After many kills, each followed by --resume, nothing is lost or counted twice."""
    flags, folder = [*usual, *LONG], tmp_path / NAME
    killed = [*flags, "--run-name", "killed", "--jobs", jobs]
    randomness = random.Random(kills)
    for _ in range(kills):
        before = last_change(folder / "killed")
        process = start_script(*killed)
        while last_change(folder / "killed") == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(randomness.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    done = run_python(script.__file__, *killed, folder=ROOT)
    assert done.returncode == 0, done.stderr
    script.main([*flags, "--run-name", "whole"])
    assert outcome(folder / "killed") == outcome(folder / "whole")
    assert left_overs(folder / "killed") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_from_outside_is_resumed(
    number: int, usual: list[str], whole: dict[str, object], tmp_path: Path
) -> None:
    """A job that is preempted or killed continues at its last epoch, to the same numbers."""
    folder = tmp_path / NAME / "ended"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        script.supervised_loss = CountedLoss(7, lambda network: time.sleep(600))
        script.main([*usual, "--run-name", "ended"])
        os._exit(0)
    (folder / "unfinished").mkdir(parents=True)
    wait_until(lambda: list(folder.glob("unfinished/*pelvis*.pt")) != [])
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
    resumed = CountedLoss()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "supervised_loss", resumed)
        script.main(["--output-dir", str(tmp_path), "--resume"])
    assert resumed.steps == 2
    assert outcome(folder) == whole
