"""Training data that differ in every epoch: shifted windows and rotated sensors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from beyond.sequences import cut_padded
from common.cli import ArgumentParser, finite_number, positive_int
from common.data import Recording
from common.windows import Batch, Fold, Windows, cut_stream, cut_stretches

WINDOWS = ("shifted", "all", "training")
MAX_ROTATION_DEG = 20.0
EPOCH_FACTOR = 2


def cut_shifted(
    recording: Recording,
    subjects: Sequence[str],
    length: int,
    protocol: str,
    offset: int,
    is_sequence: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the samples of `subjects` like `cut_windows` or `cut_sequences`, `offset` samples later.

    Args:
        recording: all subjects.
        subjects: ids of the subjects to use.
        length: samples per window or sequence, T.
        protocol: `paper`: the stream of all samples is rotated by the offset. `strict`: windows
            start up to as many samples later as are left over at the end of their stretch.
        offset: samples, from 0 to `length` - 1.
        is_sequence: whether to cut sequences: the samples before the offset are one of their own.

    Returns:
        The same as `cut_windows`.
    """
    chosen = [recording.subjects.index(subject) for subject in subjects]
    samples = np.flatnonzero(np.isin(recording.subject, chosen))
    stretch = recording.stretch[samples]
    if is_sequence:
        return cut_padded(samples, stretch, length, offset)
    if protocol == "paper":
        return cut_stream(np.roll(samples, -offset), length)
    _, start, counts = np.unique(stretch, return_index=True, return_counts=True)
    within = np.arange(len(samples)) - np.repeat(start, counts)
    is_kept = within >= np.repeat(offset % (counts % length + 1), counts)
    return cut_stretches(samples[is_kept], stretch[is_kept], length)


def draw_shifted(
    fold: Fold,
    recording: Recording,
    targets: Tensor,
    args: argparse.Namespace,
    is_sequence: bool,
) -> Callable[[int], Windows]:
    """Return a function that returns the training windows for the offset of an epoch.

    Args:
        fold: its training windows are used as they are with `--windows training`.
        recording: all subjects.
        targets: `(samples, K)`, as the network is trained on them.
        args: command line.
        is_sequence: whether the windows are sequences of a streaming network.
    """
    subjects = [subject for subject in recording.subjects if subject != fold.test_subject]
    length = fold.train.samples.shape[1]

    def draw(offset: int) -> Windows:
        if args.windows == "training":
            return fold.train
        offset = offset if args.windows == "shifted" else 0
        cuts = cut_shifted(recording, subjects, length, args.protocol, offset, is_sequence)
        windows = Windows(fold.train.signals, targets, *cuts)
        windows.cached = (windows.is_scored,) if is_sequence else ()
        return windows

    return draw


def rotate_sensors(batch: Batch, max_deg: float, generator: torch.Generator) -> Batch:
    """Rotate every IMU of every window about a random axis by up to `max_deg`.

    It imitates a sensor that is attached differently. An IMU keeps its rotation for the window, and
    its accelerometer and gyroscope are rotated together.

    Args:
        batch: windows whose inputs are accelerometers and gyroscopes, `(B, T, 3 * sensors)` each.
        max_deg: the largest angle; the angles are uniformly distributed.
        generator: source of the random numbers, on the CPU.
    """
    acc = batch.inputs[0]
    shape = len(acc), acc.shape[-1] // 3
    axis = torch.nn.functional.normalize(torch.randn(*shape, 3, generator=generator), dim=-1)
    angle = math.radians(max_deg) * torch.rand(*shape, 1, generator=generator)
    x, y, z = (angle * axis).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    rotation = torch.linalg.matrix_exp(cross).to(acc.device)
    rotated = (
        torch.einsum("bsij,btsj->btsi", rotation, signal.unflatten(-1, (-1, 3))).flatten(-2)
        for signal in batch.inputs
    )
    return batch._replace(inputs=tuple(rotated))


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that show which part of the training of augmented rows matters."""
    add = parser.add_argument
    add(
        "--windows",
        choices=WINDOWS,
        default=WINDOWS[0],
        help="windows of augmented rows: shifted (of all training subjects, with a new offset in "
        "every epoch), all (the same in every epoch) or training (without the validation windows); "
        "default: shifted",
    )
    add(
        "--max-rotation",
        type=finite_number,
        default=MAX_ROTATION_DEG,
        metavar="DEG",
        help=f"largest random rotation of an IMU in augmented rows (default: {MAX_ROTATION_DEG:g})",
    )
    add(
        "--epoch-factor",
        type=positive_int,
        default=EPOCH_FACTOR,
        metavar="N",
        help=f"epochs of augmented rows, as a multiple of --epochs (default: {EPOCH_FACTOR})",
    )
