"""What each way of `--faster` does to speed and to NRMSE, on the synthetic sample."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import faster, folds, metrics, training
from common.sample import write_sample
from tools.timing.rows import Row

SAMPLE = {"subjects": 4, "minutes": 0.35, "seed": 0}
USUAL = "none"


def measure(row: Row, *, epochs: int, seeds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Train a row as usual and in every way that the device has, with several seeds.

    NRMSE is that of the sample's last subject: it tells whether a way harms, and nothing else.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.h5"
        write_sample(path, row.study.dataset, **SAMPLE)
        recording = row.study.read(path).to(device)
    fold = folds.make_fold(recording, recording.subjects[-1], row.study.window, "paper", 1)
    usual_s = None
    for way in (USUAL, *faster.WAYS):
        found = {**row.title, "device": str(device), "way": way, "seeds": seeds, "epochs": epochs}
        if way in faster.ON_CUDA and device.type != "cuda":
            yield {**found, "seconds_per_epoch": None}
            continue
        ways = () if way == USUAL else (way,)
        faster.set_up(torch.get_num_threads(), ways)
        try:
            trainings = [_train(row, recording, fold, epochs, seed, ways) for seed in range(seeds)]
        except RuntimeError as error:  # as of torch.compile without a compiler
            yield {**found, "seconds_per_epoch": None, "problem": str(error).splitlines()[0]}
            continue
        finally:
            faster.set_up(torch.get_num_threads(), ())
        found["seconds_per_epoch"] = float(np.median([s for s, _, _ in trainings]))
        usual_s = usual_s or found["seconds_per_epoch"]
        found["ratio"] = usual_s / found["seconds_per_epoch"]
        found["nrmse_percent"] = [nrmse for _, nrmse, _ in trainings]
        found["validation_loss"] = [loss for _, _, loss in trainings]
        yield found


def _train(
    row: Row, recording: object, fold: folds.Fold, epochs: int, seed: int, ways: tuple[str, ...]
) -> tuple[float, float, float]:
    """Return seconds of an epoch (not the first of several), NRMSE in %, best validation loss."""
    study, experiment = row.study, row.experiment
    torch.manual_seed(seed)
    model, predict = experiment.model(), study.predict(row.name)
    model = model.to(recording.samples["targets"].device)
    history = training.train(
        model,
        recording.samples,
        fold,
        loss=experiment.loss(argparse.Namespace()),
        predict=predict,
        criterion=study.criterion,
        settings=training.Settings(epochs, epochs, 64, 1e-3, seed, ways),
        name=row.name,
        features=experiment.features,
        show_progress=False,
    )
    samples = recording.samples
    predicted = training.predict_windows(model, samples, fold.test, predict, 64)
    scored = fold.scored.to(predicted.device)
    truth = samples["targets"][fold.test.to(predicted.device)][scored].cpu().numpy()
    names = [target.name for target in study.targets]
    scores = metrics.score(truth, predicted[scored].cpu().numpy(), names)
    seconds = float(np.median([epoch.seconds for epoch in history[1:] or history]))
    best = min(epoch.validation_loss for epoch in history)
    return seconds, float(np.mean(scores["nrmse_percent"])), best
