"""Run a script again and again in processes that are killed, until it is done.

    python -m tests.killing SCRIPT KILLS FLAGS...

Processes are forked from one that has imported everything, so that the kill hits a run and not an
import. Each is killed after a random time; the next goes on with `--resume`. At the end one runs
undisturbed. Prints how many were killed.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path


def forked(script: object, flags: list[str]) -> int:
    """Run the script in a child process; return its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        script.study.start(lambda: script.main(flags))
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def main(name: str, kills: int, flags: list[str]) -> None:
    """Kill the script that many times, then let it finish."""
    script = importlib.import_module(name)
    moments = random.Random(kills)
    killed = 0
    resume: list[str] = []
    while killed < kills:
        pid = forked(script, [*flags, *resume])
        time.sleep(moments.uniform(0.02, 0.8))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"it ended by itself after {killed} kills; give it more to do")
        killed += 1
        resume = ["--resume"] if begun(flags) else []
    _, status = os.waitpid(forked(script, [*flags, *resume]), 0)
    print(f"killed {killed} times, then status {os.waitstatus_to_exitcode(status)}")


def begun(flags: list[str]) -> bool:
    """Whether the run is there to be resumed."""
    folder, name = (flags[flags.index(flag) + 1] for flag in ("--output-dir", "--run-name"))
    return any(Path(folder).glob(f"*/{name}/config.json"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
