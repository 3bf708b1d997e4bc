"""Seconds of a training epoch, against the published loop in the same process."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from common import training
from tools.timing.published import PublishedLoop
from tools.timing.rows import Problem, Row

LONGEST_S = 60  # of a row, once there is a repeat: networks of 254 million parameters take minutes
EPOCHS = 40  # over which what is made once per fold is spread


def measure(
    row: Row, *, batches: int, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Train epochs of both loops in turns, on the same windows and the same network."""
    problem = Problem(row, batches, batch_size, device)
    published = PublishedLoop(problem)
    ours_s, published_s = [], []
    began = time.perf_counter()
    for repeat in range(repeats + 1):
        [ours] = problem.train(problem.model(), epochs=1)
        [theirs] = published.run(problem.model(), epochs=1)
        if repeat:  # the first one warms up
            ours_s.append(ours.seconds)
            published_s.append(theirs.seconds)
        if ours_s and time.perf_counter() - began > LONGEST_S:
            break
    once_s = _seconds_of_teaching(problem)
    amortised_s = float(np.median(ours_s)) + once_s / EPOCHS
    return {
        **row.title,
        "device": str(device),
        "batches": batches,
        "repeats": len(ours_s),
        "ours_s": float(np.median(ours_s)),
        "published_s": float(np.median(published_s)),
        "once_per_fold_s": once_s,
        "training_losses": [ours.training_loss, theirs.training_loss],  # equal but for rounding
        "validation_losses": [ours.validation_loss, theirs.validation_loss],
        "ratio": float(np.median(published_s)) / amortised_s,
        "ratios": [p / (o + once_s / EPOCHS) for p, o in zip(published_s, ours_s, strict=True)],
    }


def _seconds_of_teaching(problem: Problem) -> float:
    """Return the seconds in which the teacher's outputs are made, 0 without a teacher."""
    if problem.teaching is None:
        return 0.0
    started = time.perf_counter()
    made = training.Windows(problem.samples, problem.fold.train, None, problem.teaching).made
    float(next(iter(made.values())).flatten()[0])  # waits for the device
    return time.perf_counter() - started
