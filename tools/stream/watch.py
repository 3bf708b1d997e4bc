"""Notices about samples that look wrong, as `tools.predict` gives them for a recording."""

from __future__ import annotations

import numpy as np

from tools.plausibility import check_samples
from tools.stream.lines import Sample
from tools.stream.stream import Stream

SHORTEST_S = 0.1  # that is checked at the end of the input


class Watch:
    """Checks a stream second by second, until something looks wrong.

    Args:
        stream: the stream that the samples are pushed into.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._samples, self._is_done = stream, [], False

    def add(self, sample: Sample) -> str:
        """Return what looks wrong in the second that a sample completes; empty for nothing."""
        if self._is_done:
            return ""
        self._samples.append(sample)
        return self._check() if len(self._samples) >= self._stream.rate_hz else ""

    def end(self) -> str:
        """Return what looks wrong in the samples that have not been checked yet."""
        is_long = len(self._samples) >= SHORTEST_S * self._stream.rate_hz
        return self._check() if is_long else ""

    def _check(self) -> str:
        samples, self._samples = self._samples, []
        stream = self._stream
        messages = check_samples(
            np.array([sample.values for sample in samples]),
            stream.column_names,
            stream.rate_hz,
            stream.description["sensors"],
            stream.script.UNITS["gyr"],
            where=lambda i: f"{samples[i].time_s:.10g} s",
        )
        self._is_done = bool(messages)
        return "; ".join(messages)
