"""Run a script once, then again in processes that are killed and resumed until it is done.

    python -m tests.killing SCRIPT KILLS FLAGS...

The first run is called `whole` and has one process; the second, `killed`, has the flags given. The
processes are forked from one that has imported everything and has a single thread, so that a kill
hits a run and not an import. Each is killed at a random moment: three of ten while it starts, the
others once it has saved something. At the end one is left undisturbed. Prints how many were killed.

Nothing here has a time limit; that is left to the caller, who can end all processes.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

from common.cli import run_main


def fork(script: ModuleType, flags: list[str]) -> int:
    """Run the script in a child process; return its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status: object = 1
    try:
        run_main(lambda: script.main(flags))
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def newest_change(folder: Path) -> float:
    """Return the time of the last change in the folders of a run, 0 for none."""
    times = [0.0]
    for path in folder.glob("*/"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def wait_for_random_moment(pid: int, folder: Path, randomness: random.Random) -> None:
    """Wait while a run starts, or until a random moment after it has saved something."""
    if randomness.random() < 0.3:
        time.sleep(randomness.uniform(0.02, 1))
        return
    before = newest_change(folder)
    while (
        newest_change(folder) == before
        and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    ):
        time.sleep(0.01)
    time.sleep(randomness.uniform(0, 0.3))


def main(name: str, kills: int, flags: list[str]) -> None:
    """Run the script undisturbed, kill it that many times, then let it finish."""
    script = importlib.import_module(name)
    output_dir = Path(flags[flags.index("--output-dir") + 1])
    folder = output_dir / name / "killed"
    os.waitpid(fork(script, [*flags, "--run-name", "whole", "--jobs", "1"]), 0)
    flags = [*flags, "--run-name", "killed"]
    randomness = random.Random(kills)
    for killed in range(kills):
        resume = ["--resume"] if (folder / "config.json").exists() else []
        pid = fork(script, [*flags, *resume])
        wait_for_random_moment(pid, folder, randomness)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"it ended by itself after {killed} kills; give it more to do")
    _, status = os.waitpid(fork(script, [*flags, "--resume"]), 0)
    print(f"killed {kills} times, then status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
