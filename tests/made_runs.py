"""Runs made up for the report: folders as the scripts write them, with chosen numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common.tables import COLUMNS

TARGETS = {
    "A": {
        "hip flexion moment": "BW·BH",
        "hip adduction moment": "BW·BH",
        "knee moment": "BW·BH",
        "ankle moment": "BW·BH",
        "GRF x": "BW",
        "GRF y": "BW",
        "GRF z": "BW",
    },
    "B": {
        "KFM": "%BW·BH",
        "KAM": "%BW·BH",
        "GRF medio-lateral": "BW",
        "GRF vertical": "BW",
        "GRF antero-posterior": "BW",
    },
}
Row = tuple[str, str, int]  # name, sensor set, parameters
SCRIPT = "Dataset_A_Sensor_Distillation"
PAIR = [("student-foot", "foot", 1863304), ("distilled-foot", "foot", 1863304)]
TWENTY = [str(number) for number in range(7, 27)]


def settings(script: str, subjects: Sequence[str], **others: object) -> dict[str, Any]:
    """Return settings as `config.json` holds them, those of a full run by default."""
    data = {"file": "dataset.h5", "bytes": 1000, "subjects": list(subjects)}
    training = {"epochs": 40, "patience": 10, "batch_size": 64, "learning_rate": 1e-3, "seed": 42}
    return {"script": script, "data": data, "protocol": "paper", **training, **others}


def write_run(
    folder: Path,
    script: str,
    rows: Sequence[Row],
    nrmse: Callable[[str, str, int], float],
    *,
    subjects: Sequence[str],
    tested: Sequence[str] | None = None,
    **others: object,
) -> Path:
    """Write a run's `config.json` and `metrics.csv`.

    Args:
        nrmse: NRMSE in % of a row, subject and number of a target; PCC is made of it.
        subjects: Of the data file. tested: Those held out, by default all.
        others: Settings that differ from a full run's.
    """
    folder.mkdir(parents=True)
    config = {"settings": settings(script, subjects, **others), "calls": [{}]}
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for row, sensor_set, parameters in rows:
        for subject in subjects if tested is None else tested:
            for k, (target, unit) in enumerate(TARGETS[script.split("_")[1]].items()):
                value = nrmse(row, subject, k)
                scores = (100, value, value / 100, 1 - value / 100, 0.5)
                place = (row, sensor_set, "acc+gyr", parameters, subject, "all", target, unit)
                lines.append(dict(zip(COLUMNS, (*place, *scores), strict=True)))
    pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(folder / "metrics.csv", index=False)
    return folder


def write_predictions(
    folder: Path, row: str, subject: str, activities: Sequence[str], samples: int, seed: int
) -> Path:
    """Write a walk-like truth and a prediction of it, `samples` of each activity."""
    random = np.random.default_rng(seed)
    targets = TARGETS[json.loads((folder / "config.json").read_text())["settings"]["script"][8]]
    count = samples * len(activities)
    phase = np.linspace(0, 0.1 * count, count)[:, None] + np.arange(len(targets))
    truth = np.sin(phase) + 0.4 * np.sin(2 * phase)
    prediction = 0.9 * truth + random.normal(0.05, 0.15, truth.shape) + random.normal(0, 0.05)
    path = folder / "predictions" / f"{row}-subject_{subject}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(
        path,
        truth=truth.astype(np.float32),
        prediction=prediction.astype(np.float32),
        activity=np.repeat(np.array(activities), samples),
        stretch=np.zeros(count, np.int32),
        target=np.array(list(targets)),
        unit=np.array(list(targets.values())),
    )
    return path


def made(
    folder: Path,
    rows: list[Row] = PAIR,
    nrmse: float = 5.0,
    script: str = SCRIPT,
    subjects: list[str] | None = None,
    **others: object,
) -> Path:
    """Write a run of three subjects whose NRMSE grows with the subject and the row's name."""

    def value(row: str, subject: str, k: int) -> float:
        return nrmse + 0.1 * int(subject) + 0.01 * len(row) * int(subject) ** 0.5 + k

    return write_run(folder, script, rows, value, subjects=subjects or ["7", "8", "9"], **others)
