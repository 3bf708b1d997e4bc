"""A recording that nobody has tested: what can be predicted of it, in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.files import InputError
from tools.prediction import blending, units
from tools.prediction.needs import Needs
from tools.prediction.recording import Piece, Samples, samples_of
from tools.prediction.result import Result
from tools.trained import Trained

BATCH = 64  # windows at a time


def predict(
    trained: Trained,
    data: Path,
    needs: Needs,
    pieces: Iterable[Piece],
    factors: Mapping[str, float],
    hop: int,
    device: torch.device,
    say: Callable[[str], None],
) -> Result:
    """Predict every stretch of a recording that is long enough for a window.

    Args:
        trained: The model, on `device`. data: The recording's file, for errors.
        needs: What the model reads. pieces: Of the recording, at the model's rate.
        factors: Modality to what turns its unit into the script's.
        hop: Samples from one window to the next. device: To work on.
        say: Told what looks wrong, what is left out and how late an estimate would be.

    Raises:
        InputError: Nothing can be predicted, or the model gives no numbers.
    """
    samples = samples_of(data, trained, needs, pieces, factors)
    windows = blending.overlapping_windows(samples.stretch, trained.study.window, hop)
    _say_left_out(samples, windows, trained, data, say)
    for doubt in units.doubts(trained, samples.values):
        say(f"WARNING: {doubt}")
    values = {name: value.to(device) for name, value in samples.values.items()}
    delay = _delay(trained, hop, blending.computation_s(trained, values, windows[0]))
    prediction = blending.blended(trained, values, windows, BATCH)
    if np.isnan(prediction[windows.flatten().unique()]).any():
        raise InputError(
            f"{data}: the model gives no numbers for it; its checkpoint is of a training that "
            "went astray, or the values are far too large: look at the units"
        )
    say(delay)
    truth = samples.values["targets"].numpy()
    return Result(samples.where, samples.stretch, prediction, truth, delay)


def _say_left_out(
    samples: Samples, windows: Tensor, trained: Trained, data: Path, say: Callable[[str], None]
) -> None:
    """Say how many samples cannot be predicted, and why.

    Raises:
        InputError: None can.
    """
    rows = len(samples.stretch)
    lacking = int((samples.stretch < 0).sum())
    short = rows - lacking - len(windows.flatten().unique())
    window = trained.study.window
    reasons = [
        f"{short:,} are in stretches shorter than a window of {window} samples "
        f"({window / trained.study.rate_hz:g} s)",
        f"{lacking:,} lack a column that the model reads",
    ]
    reasons = [reason for reason, count in zip(reasons, (short, lacking), strict=True) if count]
    if not len(windows):
        told = "; ".join(reasons) or "it is empty"
        raise InputError(f"{data}: nothing can be predicted of {rows:,} samples: {told}; record on")
    say(f"Samples: {rows:,}, {rows / trained.study.rate_hz / 60:.1f} minutes")
    if reasons:
        say(f"NOTICE: not predicted, and left empty: {'; '.join(reasons)}")


def _delay(trained: Trained, hop: int, computation_s: float) -> str:
    rate_hz = trained.study.rate_hz
    return (
        f"Delay of a live estimate: at most window {trained.study.window / rate_hz:g} s + hop "
        f"{hop / rate_hz:g} s + computation {computation_s:.2g} s"
    )
