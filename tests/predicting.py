"""Helpers for the tests of `tools.predict`: networks with random weights, recordings, calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch

from common.files import save_checkpoint
from common.runs import Script, describe_network, find_row
from tools.predict.__main__ import main


def random_network(script: Script, row: str, folder: Path) -> Path:
    """Write the checkpoint of a row with random weights."""
    torch.manual_seed(0)
    description = {**describe_network(script, find_row(script, row)), "test_subject": "7"}
    path = folder / f"{script.__name__}-{row}.safetensors"
    save_checkpoint(path, find_row(script, row).network().state_dict(), description)
    return path


def predict(checkpoint: Path, data: Path, *more: str) -> pd.DataFrame:
    """Run the command in this process and return its CSV."""
    out = data.parent / f"{data.stem}-out"
    where = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)]
    assert main([*where, *more]) == 0
    return pd.read_csv(out / "prediction.csv", dtype={"subject": str})


def target_values(lines: pd.DataFrame) -> np.ndarray:
    """Return the targets in a CSV, `(samples, K)` float32."""
    time = lines.columns.get_loc("time (s)")
    return lines.iloc[:, time + 1 :].to_numpy(np.float32)


def copy_columns(
    path: Path, out: Path, table: str, names: Sequence[str], part: slice = slice(None)
) -> Path:
    """Copy some columns of one table, and nothing else, to a new HDF5 file."""
    with h5py.File(path) as file, h5py.File(out, "w") as copy:
        present = json.loads(file.attrs["columns"])
        copy.attrs["columns"] = json.dumps(list(names))
        copy[table] = file[table][part][..., [present.index(name) for name in names]]
    return out
