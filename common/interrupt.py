"""Ctrl-C ends a command with one line and status 130: during its imports, later, or pressed twice.

`common/__init__.py` imports this module before everything that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import active_children
from types import FrameType
from typing import Any, NoReturn

STATUS = 130  # of a process that was ended by Ctrl-C

_is_reported = False


def catch_in_imports() -> None:
    """Let Ctrl-C end the process at once until `run_main` starts: there is nothing to clean up.

    A notebook, a worker or a program that imports something is left alone: only a command calls
    `run_main` in its own text, or is looked for by `python -m`.
    """
    frame, importing = sys._getframe(), ("common", "importlib", "_frozen_importlib")
    while (name := frame.f_globals.get("__name__", "")).startswith(importing):
        frame = frame.f_back
    is_command = name == "__main__" and "run_main" in frame.f_code.co_names
    if is_command or sys.argv[:1] == ["-m"]:
        catch(end_now)


def catch(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """Let `handler` handle Ctrl-C, unless something else does or the process ignores it."""
    replaced = (signal.default_int_handler, interrupt_once, end_now)
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread and signal.getsignal(signal.SIGINT) in replaced:
        signal.signal(signal.SIGINT, handler)


def interrupt_once(*_: object) -> NoReturn:
    """Interrupt the program; the next Ctrl-C ends it at once."""
    catch(end_now)
    raise KeyboardInterrupt


def report(details: str = "") -> None:
    """Print one line, once; the program may be in the middle of a print.

    The process is about to end and ignores Ctrl-C from now on: while Python shuts down, another
    one would end it with another status.
    """
    global _is_reported
    catch(signal.SIG_IGN)
    if not _is_reported:
        _is_reported = True
        with suppress(OSError):  # standard error may be closed
            os.write(2, f"error: interrupted{details and ': '}{details}\n".encode())


def end_now(*_: object) -> NoReturn:
    """End the process and its workers at once."""
    kill_workers()
    report()
    os._exit(STATUS)


def end_with_workers(number: int, _: FrameType | None) -> None:
    """End as the signal does by default, but not without the workers."""
    kill_workers()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def kill_workers() -> None:
    """Kill the child processes that `multiprocessing` started."""
    for worker in active_children():
        worker.kill()
