"""Windows over the stretches of a recording, and how what they give becomes one curve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.training import batch_of
from tools.trained import Trained

TIMED = 5  # windows of which the median time is taken


def overlapping_windows(stretch: np.ndarray, window: int, hop: int) -> Tensor:
    """Cut every stretch of at least a window; the last window ends with its stretch.

    Args:
        stretch: `(rows,)` number of the row's stretch, rising, -1 for rows of none.
        window: Samples of a window, T. hop: Samples from one to the next, at most `window`.

    Returns:
        `(windows, T)` row numbers, int64.
    """
    bounds = np.flatnonzero(np.diff(stretch, prepend=-1, append=-1))
    starts: list[int] = []
    for start, stop in pairwise(bounds.tolist()):
        last = stop - window
        if stretch[start] >= 0 and last >= start:
            starts += [*range(start, last, hop), last]
    return torch.tensor(starts, dtype=torch.int64)[:, None] + torch.arange(window)


def taper(window: int) -> Tensor:
    """Return the weights `(T,)`, float64, of a window's samples: least at its ends, above 0."""
    middle = torch.arange(window, dtype=torch.float64) + 0.5
    return torch.sin(torch.pi * middle / window) ** 2


@torch.no_grad()
def predictions(
    trained: Trained, samples: dict[str, Tensor], windows: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict batch by batch, with a bar that tells the time left.

    Args:
        trained: Its model on the samples' device. samples: Modality to `(rows, C)`.
        windows: `(windows, T)` row numbers. batch_size: Windows at a time.

    Yields:
        `(B, T)` row numbers and `(B, T, K)` predictions, on the CPU.
    """
    device = samples["targets"].device
    with tqdm(total=len(windows), unit="window", leave=False, disable=None) as bar:
        for rows in windows.split(batch_size):
            yield rows, trained.predict(batch_of(samples, rows.to(device))).cpu()
            bar.update(len(rows))


def blended(
    trained: Trained, samples: dict[str, Tensor], windows: Tensor, batch_size: int
) -> np.ndarray:
    """Predict `(rows, K)` float32: the mean over all windows that hold a row, weighted by `taper`.

    A row that one window holds has what that one gives; a row that none holds has NaN.
    """
    rows, targets = len(samples["targets"]), len(trained.study.targets)
    total = torch.zeros(rows, targets, dtype=torch.float64)
    weight = torch.zeros(rows, dtype=torch.float64)
    weights = taper(windows.shape[1])
    for chosen, predicted in predictions(trained, samples, windows, batch_size):
        total.index_add_(0, chosen.flatten(), (weights[:, None] * predicted).flatten(0, 1))
        weight.index_add_(0, chosen.flatten(), weights.repeat(len(chosen)))
    return (total / weight[:, None]).float().numpy()  # 0 / 0 is NaN


@torch.no_grad()
def computation_s(trained: Trained, samples: dict[str, Tensor], window: Tensor) -> float:
    """Return how long one window `(T,)` takes, in s: the median of a few, after a first one."""
    rows = window[None].to(samples["targets"].device)
    taken_s = []
    for _ in range(TIMED + 1):
        began = time.perf_counter()
        trained.predict(batch_of(samples, rows)).cpu()
        taken_s.append(time.perf_counter() - began)
    return float(np.median(taken_s[1:]))
