"""Stop a training so that it can go on: what asks for it, and the file that keeps its state."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from common.files import save_tensors

stop_requested = threading.Event()
"""Set by a signal, by the cluster's client or by a worker that is told to end."""


class InterruptedTrainingError(Exception):
    """A training was asked to stop, by the signal in `args` if there is one; its state is kept."""


def ask_to_stop() -> None:
    """Have the training of this process keep its state and end."""
    stop_requested.set()


def allow_to_go_on() -> None:
    """Take a request to stop back."""
    stop_requested.clear()


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Take SIGINT and SIGTERM as a request to stop; a second one ends the process at once.

    Outside the main thread it does nothing.

    Raises:
        InterruptedTrainingError: As it was raised within, with the signal.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        ask_to_stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except InterruptedTrainingError as error:
        raise InterruptedTrainingError(*received) from error
    finally:
        allow_to_go_on()
        for number, handler in before.items():
            signal.signal(number, handler)


class Keeper:
    """Keeps the state of one training in a file, every few minutes and when asked to stop.

    Args:
        path: The file; it is written whole. every_seconds: Between two savings.
    """

    def __init__(self, path: Path, every_seconds: float) -> None:
        self.path, self.every_seconds = path, every_seconds
        self.saved = time.monotonic()

    def restored(self) -> dict[str, Any] | None:
        """Return the state that was kept, on the CPU; None for none, or none that can be read."""
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # of any kind, since the unpickler may meet any bytes
            reason = str(error).splitlines()[0]
            print(f"{self.path}: damaged ({reason}); this training starts afresh", flush=True)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write the state."""
        save_tensors(state, self.path)
        self.saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return stop_requested.is_set() or time.monotonic() - self.saved >= self.every_seconds

    def forget(self) -> None:
        """Delete the state."""
        self.path.unlink(missing_ok=True)
