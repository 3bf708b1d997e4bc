"""The run's own test once more: the same windows in the same batches give the same numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from common import about, faster, folds
from common.data import Recording
from common.files import InputError
from tools.prediction.blending import predictions
from tools.prediction.hdf5_file import choose_subject
from tools.prediction.recording import STRETCH, TIME
from tools.prediction.result import Result
from tools.trained import Trained

MOST_THREADS = 1024


class Settings(NamedTuple):
    """What decides the numbers of a run's test.

    `threads` is None for a run on a GPU; `faster` names `common.faster.WAYS`.
    """

    protocol: str
    batch_size: int
    threads: int | None
    faster: list[str]
    test_subject: str
    digest: str


def predict(
    checkpoint: Path,
    trained: Trained,
    data: Path,
    subject: str | None,
    device: torch.device,
    say: Callable[[str], None],
) -> Result:
    """Predict a subject, by default the run's test subject, as the run did.

    Args:
        checkpoint: Where the model is from; the run's predictions are looked for beside it.
        trained: The model, on `device`. data: The run's HDF5 file. subject: Its id.
        device: To work on. say: Told whether data and predictions are those of the run.

    Raises:
        InputError: The file, the subject or the checkpoint's settings cannot be used.
    """
    settings = _settings(checkpoint, trained)
    recording = trained.study.read(data)
    subject = choose_subject(data, recording.subjects, subject or settings.test_subject)
    if about.digest(recording) != settings.digest:
        say(f"WARNING: {data} holds other samples than the file that the run was made with")
    faster.set_up(settings.threads or torch.get_num_threads(), settings.faster)
    window = trained.study.window
    windows = folds.subject_windows(recording, [subject], window, settings.protocol, test=True)
    if not len(windows.rows):
        raise InputError(f"{data}: subject {subject}: no full window; give another --subject")
    batches = predictions(
        trained,
        recording.to(device).samples,
        torch.from_numpy(windows.rows),
        settings.batch_size,
    )
    prediction = torch.cat([predicted for _, predicted in batches]).numpy()[windows.first]
    rows = windows.rows[windows.first]
    if subject == settings.test_subject:
        _compare(checkpoint, prediction, say)
    return Result(
        _where(recording, rows, trained.study.rate_hz),
        recording.stretch[rows],
        prediction,
        recording.samples["targets"][rows].numpy(),
    )


def _settings(checkpoint: Path, trained: Trained) -> Settings:
    try:
        told: dict[str, Any] = trained.about["settings"]
        found = Settings(
            told["protocol"],
            told["batch_size"],
            told.get("threads"),
            told.get("faster", []),
            trained.about["test_subject"],
            told["data"]["digest"],
        )
        threads = found.threads or 1
        usable = (
            found.protocol in folds.PROTOCOLS
            and all(type(count) is int for count in (found.batch_size, threads))
            and found.batch_size > 0
            and 0 < threads <= MOST_THREADS
            and isinstance(found.faster, list)
            and isinstance(found.test_subject, str)
        )
    except (KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise InputError(
            f"{checkpoint}: it does not tell how its run was tested; leave --as-tested out, or use "
            "a checkpoint of this collection"
        )
    return found


def _where(recording: Recording, rows: np.ndarray, rate_hz: int) -> pd.DataFrame:
    """Tell of every row its subject, activity, stretch, and time from the start of the stretch."""
    stretch = recording.stretch[rows]
    first = np.searchsorted(recording.stretch, stretch)
    labels = {"subject": np.array(recording.subjects)[recording.subject[rows]]}
    if any(recording.activities):
        labels["activity"] = np.array(recording.activities)[recording.activity[rows]]
    return pd.DataFrame({**labels, STRETCH: stretch + 1, TIME: (rows - first) / rate_hz})


def _compare(checkpoint: Path, prediction: np.ndarray, say: Callable[[str], None]) -> None:
    """Say how far the prediction is from the run's, if that is where a run leaves it."""
    path = checkpoint.parent.parent / "predictions" / f"{checkpoint.stem}.npz"
    if not path.exists():
        return
    try:
        before = np.load(path)["prediction"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged; delete it, or copy it again") from error
    if before.shape != prediction.shape:
        say(f"WARNING: {path} holds {len(before):,} samples, this test {len(prediction):,}")
    elif np.array_equal(before, prediction):
        say(f"Equal to {path}, bit for bit")
    else:
        say(f"Differs from {path} by at most {np.abs(before - prediction).max():.2g}")
