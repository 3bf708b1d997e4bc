"""The recording of a new person: the beginning to train on, and the rest to test on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from beyond.sequences import cut_padded
from common.data import number_stretches
from common.files import InputError
from common.stances import find_in
from common.windows import Fold, Windows, cut_stretches
from tools.predict.recording import Samples
from tools.trained import Trained

HELD_OUT = 0.2  # of the windows or sequences, the last ones, for early stopping


def number_measured(path: Path, trained: Trained, samples: Samples) -> np.ndarray:
    """Return the number of the stretch of each sample; -1 where an input or target is missing.

    Raises:
        InputError: A target has no value at all.
    """
    is_measured = samples.values["targets"].isfinite().numpy()
    missing = [
        target.name
        for target, measured in zip(trained.script.TARGETS, is_measured.T, strict=True)
        if not measured.any()
    ]
    if missing:
        raise InputError(
            f"{path}: no measured {', '.join(missing)}; fine-tuning needs all targets of the "
            "network"
        )
    is_usable = is_measured.all(axis=1) & (samples.stretch >= 0)
    stretch = number_stretches(is_usable, samples.stretch)
    if not is_usable.any():
        raise InputError(f"{path}: no sample has all inputs and targets; use another recording")
    return stretch


def number_steps(stretch: np.ndarray, targets: Tensor, trained: Trained) -> np.ndarray:
    """Return the number of the step of each sample, from 0; -1 for samples in no stretch.

    A step ends with its stretch, or before the next complete stance of the stretch.

    Args:
        stretch: `(samples,)` number of the stretch; -1 for none.
        targets: `(samples, K)`.
        trained: the network; without a vertical force among its targets, a stretch is a step.
    """
    is_used, samples = stretch >= 0, np.flatnonzero(stretch >= 0)
    arrays = {"truth": targets.cpu().numpy()[samples], "stretch": stretch[samples]}
    starts = samples[find_in(arrays, trained.script.TARGETS, trained.script.RATE_HZ)[:, 0]]
    is_later = stretch[starts[1:]] == stretch[starts[:-1]]  # not the first stance of its stretch
    is_first = np.diff(stretch, prepend=-1) != 0
    is_first[starts[1:][is_later]] = True
    return np.where(is_used, np.cumsum(is_first & is_used) - 1, -1)


def is_beginning(
    step: np.ndarray, rate_hz: float, steps: int | None, minutes: float | None
) -> np.ndarray:
    """Return which samples to train on, `(samples,)`.

    Args:
        step: `(samples,)` number of the step; -1 for none.
        rate_hz: sampling rate.
        steps: the first steps; None for no such limit.
        minutes: the first minutes, in whole steps; only a first step that is longer is cut.
    """
    is_used = step >= 0
    if steps is not None:
        return is_used & (step < steps)
    if minutes is None:
        return is_used
    wanted = round(60 * rate_hz * minutes)
    ends = np.cumsum(np.bincount(step[is_used]))
    whole = int(np.searchsorted(ends, wanted, side="right"))
    return is_used & (step < whole if whole else np.cumsum(is_used) <= wanted)


def cut_fold(
    path: Path, trained: Trained, signals: list[Tensor], targets: Tensor, stretch: np.ndarray
) -> Fold:
    """Cut stretches into windows or sequences; the last ones of all are for early stopping.

    A single window or sequence is used for both.

    Args:
        path: the recording, for the error.
        trained: the network.
        signals: its inputs, `(samples, C)` each.
        targets: `(samples, K)`.
        stretch: `(samples,)`, -1 for samples not to use.

    Raises:
        InputError: There is none.
    """
    script, is_stream = trained.script, trained.lookahead is not None
    cut: Callable[..., tuple[np.ndarray, np.ndarray]] = cut_padded if is_stream else cut_stretches
    length = script.SEQUENCE if is_stream else script.WINDOW
    used = np.flatnonzero(stretch >= 0)
    numbers, is_scored = cut(used, stretch[used], length)
    if not len(numbers):
        raise InputError(
            f"{path}: no stretch of {length} samples to train on; use more steps or another file"
        )
    first = max(1, len(numbers) - max(1, round(HELD_OUT * len(numbers))))
    train, validation = (
        Windows(signals, targets, numbers[part], is_scored[part])
        for part in (slice(first), slice(min(first, len(numbers) - 1), None))
    )
    return Fold("", train, validation, validation)
