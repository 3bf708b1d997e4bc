"""Folds and windows. A window is `T` row numbers of a recording: nothing is copied, and a batch
of windows is an index into the recording's samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from common.data import Recording
from common.files import InputError

PROTOCOLS = ("paper", "strict")


class Fold(NamedTuple):
    """One held-out subject. Windows are `(windows, T)` row numbers, int64.

    `scored`, `(test windows, T)`, is False where a test row is repeated to fill a window, so that
    every row is scored once. (`strict` has no window for a stretch shorter than T.)
    """

    test_subject: str
    train: Tensor
    validation: Tensor
    test: Tensor
    scored: Tensor


class Windows(NamedTuple):
    """`(windows, T)` row numbers, and where each row stands for the first time."""

    rows: np.ndarray
    first: np.ndarray


def stream_windows(rows: np.ndarray, window: int) -> Windows:
    """Cut one stream of rows every `window` rows (protocol `paper`).

    With `b` rows left over, the stream's last `window - b` rows are appended again to fill a last
    window. Windows may cross steps, trials and subjects, as in the published evaluation.
    """
    left_over = len(rows) % window
    first = np.ones(len(rows), bool)
    if left_over:
        repeated = rows[-(window - left_over) :]
        rows = np.concatenate([rows, repeated])
        first = np.concatenate([first, np.zeros(len(repeated), bool)])
    return Windows(rows.reshape(-1, window), first.reshape(-1, window))


def stretch_windows(
    rows: np.ndarray, stretch: np.ndarray, window: int, cover_tail: bool = False
) -> Windows:
    """Cut each stretch on its own (protocol `strict`); an incomplete tail is left out.

    Args:
        rows: `(rows,)` row numbers. stretch: `(rows,)` the stretch of each, in one run.
        window: Samples of a window.
        cover_tail: Cover the tail by a window more that ends with the stretch, as is done for
            testing; its rows that the window before has already are not `first`.
    """
    bounds = np.flatnonzero(np.diff(stretch, prepend=-1, append=-1))
    starts, repeated = [np.empty(0, int)], [np.empty(0, int)]
    for start, stop in pairwise(bounds):
        cut = np.arange(start, stop - window + 1, window)
        tail = (stop - start) % window
        overlap = np.zeros(len(cut), int)
        if cover_tail and tail and len(cut):
            cut, overlap = np.append(cut, stop - window), np.append(overlap, window - tail)
        starts.append(cut)
        repeated.append(overlap)
    within = np.arange(window)
    first = within >= np.concatenate(repeated)[:, None]
    return Windows(rows[np.concatenate(starts)[:, None] + within], first)


def subject_windows(
    recording: Recording, subjects: Sequence[str], window: int, protocol: str, test: bool = False
) -> Windows:
    """Cut the rows of `subjects`, in the recording's order, into windows, for a test or not."""
    chosen = [recording.subjects.index(subject) for subject in subjects]
    rows = np.flatnonzero(np.isin(recording.subject, chosen))
    if protocol == "paper":
        return stream_windows(rows, window)
    return stretch_windows(rows, recording.stretch[rows], window, cover_tail=test)


def make_fold(
    recording: Recording, test_subject: str, window: int, protocol: str, seed: int
) -> Fold:
    """Hold out one subject, and 20 % of the rest for validation.

    Args:
        recording: All subjects. test_subject: Its id. window: Samples of a window.
        protocol: `paper`: windows of one stream of all training subjects, 20 % of the windows
            drawn at random (scikit-learn, random state 1) for validation. `strict`: windows
            within a trial or step, 20 % of the training subjects (at least one) for validation;
            the test subject's stretches are covered to their ends.
        seed: Draws the validation subjects of `strict`.
    """
    training = [subject for subject in recording.subjects if subject != test_subject]
    if protocol == "paper":
        windows = subject_windows(recording, training, window, protocol).rows
        train, validation = train_test_split(windows, test_size=0.2, random_state=1)
    else:
        held_out = validation_subjects(training, seed)
        rest = [subject for subject in training if subject not in held_out]
        train = subject_windows(recording, rest, window, protocol).rows
        validation = subject_windows(recording, held_out, window, protocol).rows
    test = subject_windows(recording, [test_subject], window, protocol, test=True)
    return Fold(test_subject, *map(torch.from_numpy, (train, validation, test.rows, test.first)))


def validation_subjects(training: Sequence[str], seed: int) -> list[str]:
    """Draw 20 % of the training subjects, at least one."""
    count = max(1, round(0.2 * len(training)))
    return np.random.default_rng(seed).permutation(training)[:count].tolist()


def check(recording: Recording, window: int, protocol: str) -> None:
    """Check that every subject has a full window and the protocol its number of subjects.

    Raises:
        InputError: One has none, there are too few to train and validate with, or `strict` has
            fewer than three subjects.
    """
    if protocol == "strict" and len(recording.subjects) < 3:
        raise InputError(
            f"{recording.path}: {len(recording.subjects)} subjects; --protocol strict needs three, "
            "to train, validate and test on different ones; use --protocol paper or add subjects"
        )
    counts = np.bincount(recording.subject, minlength=len(recording.subjects))
    for subject, rows in zip(recording.subjects, counts, strict=True):
        if rows < window or not len(subject_windows(recording, [subject], window, protocol).rows):
            raise InputError(
                f"{recording.path}: subject {subject}: {rows} usable rows and no full window of "
                f"{window}; leave the subject out of the file"
            )
    if protocol == "paper" and counts.sum() - counts.max() <= window:
        raise InputError(
            f"{recording.path}: one window to train on and none to validate with; add subjects"
        )


def find_subjects(recording: Recording, wanted: Sequence[str] | None) -> list[str]:
    """Return the ids of the test subjects: the last one by default, every one for `all`.

    Args:
        recording: All subjects. wanted: Ids as numbers (`7` is `07`), or `["all"]`, or None.

    Raises:
        InputError: The file has no such subject.
    """
    if wanted is None:
        return recording.subjects[-1:]
    if list(wanted) == ["all"]:
        return list(recording.subjects)
    by_number = {int(subject): subject for subject in recording.subjects}
    unknown = [name for name in wanted if not name.isdecimal() or int(name) not in by_number]
    if unknown:
        raise InputError(
            f"{recording.path}: no subject {', '.join(unknown)}; --test-subjects takes all or "
            f"some of {' '.join(recording.subjects)}"
        )
    return list(dict.fromkeys(by_number[int(name)] for name in wanted))
