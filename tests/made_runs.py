"""Made-up runs for tests of the report: folders as the scripts write them, with chosen numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.metrics import COLUMNS
from common.stances import find_in, stance_table

TARGETS = {  # with their units
    "A": {
        **dict.fromkeys(("hip flexion moment", "hip adduction moment"), "BW·BH"),
        **dict.fromkeys(("knee moment", "ankle moment"), "BW·BH"),
        **dict.fromkeys(("GRF antero-posterior", "GRF vertical", "GRF medio-lateral"), "BW"),
    },
    "B": {
        **dict.fromkeys(("KFM", "KAM"), "%BW·BH"),
        **dict.fromkeys(("GRF medio-lateral", "GRF vertical", "GRF antero-posterior"), "BW"),
    },
}
MADE_HZ = 50.0  # sampling rate of made-up predictions
Row = tuple[str, str, int]  # name, sensor set, number of parameters
SCRIPT = "Dataset_A_Sensor_Distillation"
PAIR = [("student-foot", "foot", 1863304), ("distilled-foot", "foot", 1863304)]
TWENTY_SUBJECTS = [str(number) for number in range(7, 27)]


def settings(script: str, subjects: Sequence[str], **others: object) -> dict[str, Any]:
    """Return settings as in `config.json`, by default those of a full run."""
    data = {"file": "dataset.h5", "bytes": 1000, "subjects": list(subjects)}
    training = {"epochs": 40, "patience": 10, "batch_size": 64, "learning_rate": 1e-3, "seed": 42}
    return {"script": script, "data": data, "protocol": "paper", **training, **others}


def synthetic_data(subjects: Sequence[str] = TWENTY_SUBJECTS) -> dict[str, Any]:
    """Return the setting `data` of a run on synthetic data."""
    return {"file": "a.h5", "bytes": 5, "subjects": list(subjects), "synthetic": True}


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
    """Write the `config.json` and `metrics.csv` of a run.

    Args:
        folder: the folder to create.
        script: name of the script.
        rows: the rows of the run.
        nrmse: returns the NRMSE in % of a row, subject and target (a number from 0); the PCC
            follows from it.
        subjects: subjects of the data file.
        tested: subjects that were held out, by default all.
        others: settings that differ from those of a full run.
    """
    folder.mkdir(parents=True)
    config = {"settings": settings(script, subjects, **others), "calls": [{}]}
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for row, sensor_set, parameters in rows:
        for subject in subjects if tested is None else tested:
            for k, (target, unit) in enumerate(TARGETS[script.split("_")[1]].items()):
                value = nrmse(row, subject, k)
                place = (row, sensor_set, "acc+gyr", parameters, subject, "all")
                scores = (100, value, value / 100, 1 - value / 100, 0.5)
                lines.append((*place, "all", target, unit, *scores))
    pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(folder / "metrics.csv", index=False)
    return folder


def make_run(
    folder: Path,
    rows: Sequence[Row] = PAIR,
    nrmse: float = 5.0,
    script: str = SCRIPT,
    subjects: Sequence[str] = ("7", "8", "9"),
    **others: object,
) -> Path:
    """Write a run whose NRMSE grows with the subject and the length of the row's name."""

    def value(row: str, subject: str, k: int) -> float:
        return nrmse + 0.1 * int(subject) + 0.01 * len(row) * int(subject) ** 0.5 + k

    return write_run(folder, script, rows, value, subjects=subjects, **others)


def write_predictions(
    folder: Path, row: str, subject: str, activities: Sequence[str], samples: int
) -> Path:
    """Write a periodic truth and a noisy prediction of it, with `samples` of each activity.

    At 50 Hz, each period of 1.3 s has a stance. The stances are added to `stances.csv`.
    """
    random = np.random.default_rng(int(subject))
    targets = TARGETS[json.loads((folder / "config.json").read_text())["settings"]["script"][8]]
    count = samples * len(activities)
    phase = np.linspace(0, 0.1 * count, count)[:, None] + np.arange(len(targets))
    truth = np.sin(phase) + 0.4 * np.sin(2 * phase)
    prediction = 0.9 * truth + random.normal(0.05, 0.15, truth.shape) + random.normal(0, 0.05)
    path = folder / "predictions" / f"{row}-subject_{subject}.npz"
    path.parent.mkdir(exist_ok=True)
    arrays = {
        "truth": truth.astype(np.float32),
        "prediction": prediction.astype(np.float32),
        "activity": np.repeat(np.array(activities), samples),
        "stretch": np.zeros(count, np.int32),
    }
    names = {"target": np.array(list(targets)), "unit": np.array(list(targets.values()))}
    np.savez(path, **arrays, **names, rate_hz=MADE_HZ)
    stances = find_in(arrays, list(targets.items()), MADE_HZ)
    table = stance_table(arrays, stances, list(targets.items()), MADE_HZ)
    table = table.assign(row=row, test_subject=subject)
    stance_file = folder / "stances.csv"
    table.to_csv(stance_file, index=False, mode="a", header=not stance_file.exists())
    return path
