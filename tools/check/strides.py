"""The average stride of every target and activity, and its spread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tools.check.layout import Layout, Part

POINTS = 101  # of a stride, 0 to 100 %
LOADED_BW = 0.05
DURATION_S = (0.6, 2.0)  # of a stride; a longer one has a contact off the plates within it


class Strides:
    """Sums over strides, activity by activity, so that no stride is kept.

    Args:
        layout: Of the file.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.counts: dict[str, int] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, part: Part) -> None:
        """Add the whole strides (A) or stances (B) of an activity."""
        activity = part.block.activity or "walking"
        targets = part.samples["targets"].astype(float)
        self.counts.setdefault(activity, 0)
        self._sums.setdefault(activity, np.zeros((2, POINTS, targets.shape[1])))
        share = np.linspace(0.0, 1.0, POINTS)
        for start, stop in self._bounds(part):
            stride = targets[start:stop]
            if not np.isfinite(stride).all():
                continue
            place = share * (len(stride) - 1)
            before = np.minimum(place.astype(int), len(stride) - 2)
            weight = (place - before)[:, None]
            curve = (1.0 - weight) * stride[before] + weight * stride[before + 1]
            self.counts[activity] += 1
            self._sums[activity] += np.stack([curve, curve**2])

    def mean_and_sd(self, activity: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and SD over strides, `(POINTS, targets)` each."""
        mean, square = self._sums[activity] / max(self.counts[activity], 1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def _bounds(self, part: Part) -> Iterator[tuple[int, int]]:
        """Give first and last row (excluded) of what happens within one trial or step.

        A: from a contact of the right foot to the next; B: while `force_phase` tells contact.
        """
        if part.contact is not None:
            edges = np.diff(part.contact.astype(int), prepend=0, append=0)
            yield from zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True)
            return
        vertical = part.samples["targets"][:, self.layout.vertical]
        loaded = vertical > LOADED_BW  # False where it is NaN
        off_before = vertical[:-1] <= LOADED_BW  # False where it is NaN, too
        goes_on = np.diff(part.block.trial) == 0
        contacts = np.flatnonzero(loaded[1:] & off_before & goes_on) + 1
        shortest, longest = (seconds * self.layout.study.rate_hz for seconds in DURATION_S)
        for start, stop in pairwise(contacts):
            same_trial = part.block.trial[start] == part.block.trial[stop]
            if same_trial and shortest <= stop - start <= longest:
                yield start, stop
