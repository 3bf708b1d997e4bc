"""Sequences of samples on which a streaming network is trained, and streams on which it is tested.

A streaming network is one with an attribute `lookahead` (samples) and a method
`stream(*modalities, state=None) -> (output, state)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.data import Recording
from common.windows import Windows


def describe_columns(
    columns: Mapping[str, Sequence[str]],
    units: Mapping[str, str],
    inputs: Callable[[Mapping[str, Tensor]], Sequence[Tensor]],
) -> dict[str, Any]:
    """Return what `tools.stream` needs to read columns, without importing the script.

    Args:
        columns: the script's `COLUMNS`.
        units: its `UNITS`.
        inputs: returns the inputs of the network, `(..., C)` each, from all modalities.
    """
    positions = {modality: torch.arange(len(columns[modality])) for modality in units}
    chosen = zip(units, inputs(positions), strict=False)  # a sensor set starts with the IMUs
    channels = {name: [columns[name][i] for i in indices] for name, indices in chosen}
    return {"columns": dict(columns), "units": dict(units), "channels": channels}


def cut_sequences(
    recording: Recording,
    subjects: Sequence[str],
    length: int,
    protocol: str,
    cover_tails: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the trials or steps of `subjects` into sequences; see `cut_padded`.

    Sequences never cross trials or steps and contain every sample once, whatever the protocol.
    `make_fold` passes `protocol` and `cover_tails`, which have no effect here.

    Args:
        recording: all subjects.
        subjects: ids of the subjects to use.
        length: samples per sequence, T.
        protocol: no effect.
        cover_tails: no effect.

    Returns:
        The same as `cut_padded`.
    """
    chosen = [recording.subjects.index(subject) for subject in subjects]
    samples = np.flatnonzero(np.isin(recording.subject, chosen))
    return cut_padded(samples, recording.stretch[samples], length)


def cut_padded(
    samples: np.ndarray, stretch: np.ndarray, length: int, offset: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each stretch into sequences; a short one is padded by repeating its last sample.

    Args:
        samples: `(n,)` sample indices.
        stretch: `(n,)` stretch of each sample; the samples of a stretch are adjacent.
        length: samples per sequence, T.
        offset: samples of the first sequence of a stretch, below `length`; 0 for a full one.

    Returns:
        Sample indices `(sequences, T)`, and a mask that is False for repeated samples.
    """
    bounds = np.flatnonzero(np.diff(stretch, prepend=-1, append=-1))
    before = -offset % length
    starts = np.concatenate(
        [np.arange(start - before, stop, length).clip(start) for start, stop in pairwise(bounds)]
    )
    last = np.append(starts[1:], bounds[-1])[:, None] - 1
    wanted = starts[:, None] + np.arange(length)
    return samples[np.minimum(wanted, last)], wanted <= last


@torch.no_grad()
def predict_stream(
    network: nn.Module, sequences: Windows, stretch: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Run a streaming network on a recording in eval mode.

    Every stretch starts from a zero state, which is then carried from sequence to sequence. The
    output lags by `network.lookahead` samples, so the last samples of a stretch get no estimate.

    Args:
        network: the streaming network.
        sequences: sequences of one subject in the order of the recording, from `cut_padded`.
        stretch: `(samples,)` stretch of every sample of the recording.

    Returns:
        The estimate for every sample, `(sequences, T, K)`, and a mask `(sequences, T)` that is
        False for samples without an estimate.
    """
    network.eval()
    stretches = torch.from_numpy(stretch).to(sequences.samples.device)[sequences.samples]
    outputs, state, before = [], None, None
    for samples, is_valid, number in zip(
        sequences.samples, sequences.is_scored, stretches[:, 0].tolist(), strict=True
    ):
        state, before = state if number == before else None, number
        inputs = (signal[samples[is_valid]][None] for signal in sequences.signals)
        output, state = network.stream(*inputs, state=state)
        outputs.append(output[0])
    output, stretches = torch.cat(outputs), stretches[sequences.is_scored]
    has_estimate = stretches == stretches.roll(-network.lookahead)
    has_estimate[len(stretches) - network.lookahead :] = False
    prediction = output.new_zeros(*sequences.samples.shape, output.shape[-1])
    prediction[sequences.is_scored] = output.roll(-network.lookahead, dims=0)
    is_estimated = sequences.is_scored.clone()
    is_estimated[sequences.is_scored] = has_estimate
    return prediction, is_estimated
