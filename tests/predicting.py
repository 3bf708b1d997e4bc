"""Models with random weights, and recordings, for the tests of `tools.predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import torch

from common import about, checkpoints
from tools import predict


def random_model(script: ModuleType, row: str, folder: Path) -> Path:
    """Write a checkpoint of a row with random weights, as the script would."""
    torch.manual_seed(0)
    experiment = script.STUDY.experiment(row)
    told = about.checkpoint(script.STUDY, experiment, "7", {})
    path = folder / f"{script.__name__}-{row}.safetensors"
    checkpoints.save(experiment.model().state_dict(), told, path)
    return path


def predicted(checkpoint: Path, data: Path, *more: str) -> pd.DataFrame:
    """Run the command in this process and return its CSV."""
    out = data.parent / f"{data.stem}-out"
    where = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)]
    assert predict.main([*where, *more]) == 0
    return pd.read_csv(out / "prediction.csv", dtype={"subject": str})


def targets_of(lines: pd.DataFrame) -> np.ndarray:
    """Return the targets of a CSV, `(rows, K)` float32."""
    time = lines.columns.get_loc("time (s)")
    return lines.iloc[:, time + 1 :].to_numpy(np.float32)


def only(
    path: Path, out: Path, table: str, names: Sequence[str], rows: slice = slice(None)
) -> Path:
    """Copy some columns of one table, and nothing else, to a new HDF5 file."""
    with h5py.File(path) as file, h5py.File(out, "w") as copy:
        there = json.loads(file.attrs["columns"])
        copy.attrs["columns"] = json.dumps(list(names))
        copy[table] = file[table][rows][..., [there.index(name) for name in names]]
    return out
