"""Rows in several processes and on a Dask cluster: the same numbers, whatever fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import LocalCluster, default_client
from distributed.core import connect
from distributed.security import Security
from torch import Tensor, nn

import Dataset_B_sensor_distillation as distillation
from common import parallel
from common.files import FailedTasksError, InputError
from common.folder import Task
from common.runs import Row, Run
from common.windows import Batch
from tests.conftest import ROOT, Capture, Files, Patch
from tests.running import (
    NAME,
    ROWS,
    copy_script,
    left_overs,
    outcome,
    run_python,
    script,
    usual_flags,
    wait_until,
)

SCRIPT = str(ROOT / f"{NAME}.py")

# On a scheduler ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a scheduler on loopback with one worker of two threads in this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def usual(synthetic_files: Files, tmp_path: Path, without_figures: None) -> list[str]:
    """Return the flags of a small run into the folder of the test; draw no figures."""
    return usual_flags(synthetic_files["b"], tmp_path)


def test_a_cluster_changes_nothing(
    usual: list[str], address: str, tmp_path: Path, capsys: Capture
) -> None:
    """The same bits from one process and from threads of a worker, in any order, on all folds."""
    usual += ["--test-subjects", "all"]
    script.main([*usual, "--run-name", "one"])
    script.main([*usual, "--run-name", "cluster", "--scheduler", address])
    assert f"in parallel, on the cluster at {address}" in capsys.readouterr().out
    folder = tmp_path / NAME
    assert outcome(folder / "cluster") == outcome(folder / "one")
    assert left_overs(folder / "cluster") == []


def test_a_row_that_fails_on_a_cluster_is_named(
    usual: list[str], address: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """It does not stop the others, and its best epoch is saved."""
    loss, steps = script.supervised_loss, []

    def diverging(network: nn.Module, batch: Batch) -> Tensor:
        is_first_row = batch.inputs[0].shape[-1] == 6  # accelerometers of both feet
        steps.append(is_first_row)
        return loss(network, batch) * (float("nan") if is_first_row and sum(steps) > 2 else 1)

    monkeypatch.setattr(script, "supervised_loss", diverging)
    message = f"{ROWS[0]}, subject 03: epoch 2: the validation loss is not finite"
    with pytest.raises(FailedTasksError, match=message):
        script.main([*usual, "--scheduler", address, "--run-name", "mine"])
    folder = tmp_path / NAME / "mine"
    assert [path.stem for path in folder.glob("results/*")] == [f"{ROWS[1]}-subject_03"]
    assert (folder / "checkpoints" / f"{ROWS[0]}-subject_03.diverged.safetensors").exists()


def test_workers_that_do_not_share_the_folder_are_named(
    usual: list[str], address: str, monkeypatch: Patch
) -> None:
    """Results that a worker writes to its own disk must not end as a traceback."""
    monkeypatch.setattr(script, "train_and_test", lambda row, test_subject, run: None)
    with pytest.raises(FailedTasksError, match="no result file; all workers must share"):
        script.main([*usual, "--scheduler", address])


def test_a_scheduler_that_does_not_exist_is_refused(usual: list[str]) -> None:
    """A mistyped address ends with one line."""
    wrong = "http://127.0.0.1:1"
    with pytest.raises(InputError, match=f"--scheduler {wrong}: no Dask scheduler responds"):
        script.main([*usual, "--scheduler", wrong])


# Rows that need others ---------------------------------------------------------------------------


def teacher_1_fails(folder: Path, row: str, subject: str, *needed: None) -> None:
    """Leave a trace, and fail as the teacher of subject 1."""
    (folder / f"{row}-{subject}").touch()
    if (row, subject) == ("teacher", "1"):
        raise MemoryError("too little")


def test_on_a_cluster_a_row_that_needs_a_failed_row_is_not_begun(
    tmp_path: Path, address: str
) -> None:
    """A student of a teacher that failed has no teacher; that of the other subject has one."""
    tasks = {
        Task(row, subject): [Task("teacher", subject)] * (row == "distilled")
        for subject in "12"
        for row in ("teacher", "distilled", "student")
    }
    work = partial(teacher_1_fails, tmp_path)
    errors = dict(parallel.in_workers(work, tasks, 1, address))
    failed = {task for task, error in errors.items() if isinstance(error, MemoryError)}
    assert errors.keys() == tasks.keys()
    assert failed == {("teacher", "1"), ("distilled", "1")}
    assert [error for task, error in errors.items() if task not in failed] == [None] * 4
    begun = {path.name for path in tmp_path.iterdir()}
    assert begun == {"-".join(task) for task in tasks} - {"distilled-1"}


def test_a_row_that_needs_a_failed_row_names_it(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The reason in the list of failures must be the teacher, not a missing file."""
    begun = []

    def fail(row: Row, test_subject: str, run: Run) -> None:
        begun.append(row.name)
        raise MemoryError("too little")

    monkeypatch.setattr(distillation, "train_and_test", fail)
    flags = ["--data", str(synthetic_files["b"]), "--output-dir", str(tmp_path)]
    with pytest.raises(FailedTasksError, match="distilled-feet, .*: needs teacher, which failed"):
        distillation.main([*flags, "--rows", "student-feet", "distilled-feet"])
    assert begun == ["teacher", "student-feet"]


# In several processes ----------------------------------------------------------------------------


def touch(folder: Path, row: str, subject: str, *needed: None) -> None:
    """Leave a trace."""
    (folder / row).touch()


@pytest.mark.slow
def test_local_workers_accept_only_the_user_who_started_them(tmp_path: Path) -> None:
    """Whoever can connect to a Dask scheduler runs code as its user: needs the run's credentials.

    Neither a client without encryption nor one with credentials of its own gets through.
    """
    finished = parallel.in_workers(partial(touch, tmp_path), {Task("a", "1"): []}, 1, None)
    assert next(finished) == (("a", "1"), None)
    client = default_client()
    scheduler = client.scheduler_info()
    addresses = [scheduler["address"], *scheduler["workers"]]
    assert len(addresses) == 2
    for address in addresses:
        assert address.startswith("tls://")
        assert can_connect(address, client.security)
        assert not can_connect(address, Security.temporary())
        assert not can_connect(address.replace("tls://", "tcp://"), Security())
    assert list(finished) == []
    assert (tmp_path / "a").exists()


OTHER_USER = 65534  # nobody
SUBMIT = """
import os, sys
from distributed import Client
os.setgroups([])
os.setgid({user})
os.setuid({user})
for address in sys.argv[2:]:
    for url in (address, address.replace("tls://", "tcp://")):
        try:
            client = Client(url, timeout=3)
            client.submit(os.open, sys.argv[1], os.O_CREAT).result(timeout=10)
        except Exception as error:
            print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_another_user_cannot_run_code_in_the_workers(tmp_path: Path) -> None:
    """On a shared machine, `--jobs 2` must not give an account to everybody who finds the port."""
    finished = parallel.in_workers(partial(touch, tmp_path), {Task("a", "1"): []}, 1, None)
    assert next(finished) == (("a", "1"), None)
    client = default_client()
    scheduler = client.scheduler_info()
    made = tmp_path / "made by another user"
    code = SUBMIT.format(user=OTHER_USER)
    addresses = [scheduler["address"], *scheduler["workers"]]
    command = [sys.executable, "-c", code, str(made), *addresses]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=300, check=False
    )
    assert list(finished) == []
    assert len(done.stdout.split()) == 2 * len(addresses), done.stderr
    assert not made.exists()


def can_connect(address: str, security: Security) -> bool:
    """Return whether a scheduler or a worker accepts a connection."""

    async def try_to_connect() -> None:
        comm = await connect(address, timeout=2, **security.get_connection_args("client"))
        await comm.close()

    try:
        asyncio.run(try_to_connect())
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_processes_change_nothing(usual: list[str], tmp_path: Path) -> None:
    """The same bits from one process and from three, and only the results on the screen."""
    usual += ["--test-subjects", "all"]
    script.main([*usual, "--run-name", "one"])
    done = run_python(SCRIPT, *usual, "--jobs", "3", "--run-name", "three", folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Rows are trained in parallel, 3 at a time." in done.stdout
    assert outcome(tmp_path / NAME / "three") == outcome(tmp_path / NAME / "one")


FATAL = """
    import os, signal
    from pathlib import Path
    deaths = Path(__file__).with_name(f"deaths-{{row.name}}")
    count = len(deaths.read_text()) if deaths.exists() else 0
    if count < {deaths}.get(row.name, 0):
        deaths.write_text("x" * (count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    args = run.args
    signals = """


@pytest.mark.slow
def test_a_row_that_kills_its_workers_fails_alone(usual: list[str], tmp_path: Path) -> None:
    """A row that is out of memory is named after a few tries; one unlucky death is retried.

    Dask would give up a worker that takes longer to restart than the time set here.
    """
    deaths = {ROWS[0]: 1000, "lmfn-all_imus": 1}
    change = ("    args = run.args\n    signals = ", FATAL.format(deaths=deaths))
    path = copy_script(tmp_path, "fatal", change)
    done = run_python(
        *(str(path), *usual, "lmfn-all_imus", "--jobs", "2", "--run-name", "mine"),
        folder=ROOT,
        PYTHONPATH=str(ROOT),
        DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT="100ms",
    )
    assert done.returncode == 1, done.stderr
    assert f"{ROWS[0]}, subject 03: its worker process died several times" in done.stderr
    assert len((tmp_path / f"deaths-{ROWS[0]}").read_text()) == 4
    names = [file.stem for file in (tmp_path / "fatal" / "mine").glob("results/*")]
    assert sorted(names) == ["lmfn-all_imus-subject_03", f"{ROWS[1]}-subject_03"]
    assert "Traceback" not in done.stdout + done.stderr


# With workers that come and go -------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Start a scheduler and two workers on loopback with the commands in docs/cluster.md."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    file = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    flags = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path)]
    try:
        start("distributed.cli.dask_scheduler", *local, "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and file.stat().st_size > 0)  # written in one piece
        address = json.loads(file.read_text())["address"]
        for _ in range(2):
            start("distributed.cli.dask_worker", address, *flags)
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["worker killed", "worker terminated", "client killed"])
def test_what_is_lost_on_a_cluster_is_repeated(
    lost: str, usual: list[str], tmp_path: Path, cluster: tuple[str, list[subprocess.Popen]]
) -> None:
    """A node dies or is preempted, or the job that started the run: the numbers stay the same."""
    address, (_, worker, _) = cluster
    usual += ["--batch-size", "1", "--epochs", "12", "--save-every", "0.000001"]
    script.main([*usual, "--run-name", "whole"])
    command = [sys.executable, SCRIPT, *usual, "--scheduler", address]
    process = subprocess.Popen([*command, "--run-name", "lost"], stdout=subprocess.DEVNULL)
    folder = tmp_path / NAME / "lost"
    wait_until(lambda: len(list(folder.glob("unfinished/*.pt"))) == 2)
    if lost == "client killed":
        process.kill()
        process.wait()
        script.main(["--output-dir", str(tmp_path), "--resume", "lost", "--scheduler", address])
    else:
        number = signal.SIGKILL if lost == "worker killed" else signal.SIGTERM
        os.kill(worker.pid, number)
        assert process.wait(timeout=300) == 0
        worker.wait(timeout=60)
    assert outcome(folder) == outcome(tmp_path / NAME / "whole")
    assert left_overs(folder) == []


@pytest.mark.slow
def test_a_lost_scheduler_is_named(
    usual: list[str], tmp_path: Path, cluster: tuple[str, list[subprocess.Popen]]
) -> None:
    """The user must look for the scheduler, not for a missing result or a full disk."""
    address, (scheduler, *_) = cluster
    usual += ["--batch-size", "1", "--epochs", "12", "--save-every", "0.000001"]
    command = [sys.executable, SCRIPT, *usual, "--run-name", "lost", "--scheduler", address]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(list(tmp_path.glob("*/lost/unfinished/*.pt"))) == 2)
    scheduler.kill()
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 1
    assert complaint.count("the connection to the Dask scheduler was lost") == len(ROWS)
    assert "Traceback" not in complaint
