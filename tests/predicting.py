"""Helpers for the tests of `tools.predict`: networks with random weights, recordings, calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from common.data import Recording
from common.files import save_checkpoint
from common.runs import Script, describe_network, find_row
from common.windows import cut_windows
from tools.predict import output
from tools.predict.__main__ import main


def random_network(
    script: Script,
    row: str,
    folder: Path,
    recording: Recording | None = None,
    test_subject: str = "7",
    lookahead: int | None = None,
) -> Path:
    """Write the checkpoint of a row with random weights.

    Args:
        script: the script.
        row: name of the row.
        folder: where to write.
        recording: data whose statistics the norm of the inputs holds, as after a training.
        test_subject: the subject of the recording that is left out.
        lookahead: that of a streaming network, in samples; None for the default.
    """
    torch.manual_seed(0)
    chosen = find_row(script, row)
    if lookahead is not None:
        chosen = replace(chosen, network=partial(chosen.network, lookahead=lookahead))
    network = chosen.network()
    if recording is not None:
        training = [subject for subject in recording.subjects if subject != test_subject]
        samples, _ = cut_windows(recording, training, script.WINDOW, "paper")
        inputs = script.inputs(recording.samples, chosen.sensor_set)
        with torch.no_grad():
            network.train()(*(signal[torch.from_numpy(samples)] for signal in inputs))
    description = {**describe_network(script, chosen), "test_subject": test_subject}
    path = folder / f"{script.__name__}-{row}-{test_subject}.safetensors"
    save_checkpoint(path, network.state_dict(), description)
    return path


def predict(checkpoint: Path, data: Path, *more: str, draw: bool = False) -> pd.DataFrame:
    """Run the command in this process and return its CSV; drawing takes a second."""
    out = (
        Path(more[more.index("--out") + 1]) if "--out" in more else data.parent / f"{data.stem}-out"
    )
    where = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(output, "draw", lambda *_: Figure(figsize=(1, 1)))
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
