"""Ctrl-C ends a command with one line and status 130: during its imports, later, or pressed twice.

`common/__init__.py` imports this module before everything that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

STATUS = 130  # of a process that was ended by Ctrl-C
IMPORTING = "<frozen importlib"  # file name of the functions that import a module

_is_reported = False


def report(details: str = "") -> None:
    """Print one line; ignore Ctrl-C from now on, because the process is about to end."""
    global _is_reported
    catch(signal.SIG_IGN)
    _is_reported = True
    print(f"error: interrupted{details and ': '}{details}", file=sys.stderr)


def end_now(*_: object) -> NoReturn:
    """End the process and its workers at once."""
    _kill_workers()
    if not _is_reported:
        os.write(2, b"error: interrupted\n")  # the program may be in the middle of a print
    os._exit(STATUS)


def end_with_workers(number: int, _: FrameType | None) -> None:
    """End as the signal does by default, but not without the workers."""
    _kill_workers()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _kill_workers() -> None:
    workers = getattr(sys.modules.get("multiprocessing.process"), "active_children", list)
    for worker in workers():
        worker.kill()


def interrupt_once(*_: object) -> NoReturn:
    """Interrupt the program; the next Ctrl-C ends it at once."""
    catch(end_now)
    raise KeyboardInterrupt


def catch(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """Let `handler` handle Ctrl-C, unless something else does or the process ignores it."""
    replaced = (signal.default_int_handler, _handle_import, interrupt_once, end_now)
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread and signal.getsignal(signal.SIGINT) in replaced:
        signal.signal(signal.SIGINT, handler)


def catch_in_imports() -> None:
    """Handle Ctrl-C during the imports of a command, but not in a notebook, a test or a worker.

    An import that is interrupted can raise any exception, and there is nothing to clean up.
    """
    importer = sys._getframe(1)
    while importer.f_back and (
        importer.f_code.co_filename.startswith(IMPORTING)
        or importer.f_globals["__name__"] == "common"
    ):
        importer = importer.f_back
    names = importer.f_globals
    is_script = names["__name__"] == "__main__" and "__file__" in names
    if is_script or sys.argv[:1] == ["-m"]:  # `python -m tools.<...>`, before it is found
        catch(_handle_import)
        sys.excepthook = _end_without_traceback


def _handle_import(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORTING):
            end_now()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_without_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        end_now()
    sys.__excepthook__(kind, error, trace)
