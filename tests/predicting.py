"""Helpers for tests of trained networks: checkpoints with random weights, recordings, calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from common.data import Recording
from common.files import save_checkpoint
from common.runs import describe_network
from common.windows import Windows, cut_windows, sensor_statistics
from tests.networks import row_named
from tools.predict import output
from tools.predict.__main__ import main


def describe(script: ModuleType, row_name: str, **others: object) -> dict[str, Any]:
    """Return the description of a row's network as in a checkpoint, with other entries."""
    row = row_named(script, row_name)
    sensor_set = script.SENSOR_SETS[row.sensor_set]
    network = describe_network(row, sensor_set, script.TARGETS, script.WINDOW, script.RATE_HZ)
    return json.loads(json.dumps({"script": Path(script.__file__).stem, **network, **others}))


def random_network(
    script: ModuleType,
    row: str,
    folder: Path,
    recording: Recording | None = None,
    test_subject: str = "7",
) -> Path:
    """Write the checkpoint of a row with random weights.

    Args:
        script: the script.
        row: name of the row.
        folder: where to write.
        recording: data whose statistics network and checkpoint contain, as after training.
        test_subject: the subject of the recording that is left out.
    """
    torch.manual_seed(0)
    network, sensor_set = row_named(script, row).network(), row_named(script, row).sensor_set
    description = describe(script, row, test_subject=test_subject)
    if recording is not None:
        training = [subject for subject in recording.subjects if subject != test_subject]
        cut = cut_windows(recording, training, script.WINDOW, "paper")
        inputs = script.inputs(recording.samples, sensor_set)
        windows = Windows(inputs, recording.samples["targets"], *cut)
        sensors = script.SENSOR_SETS[sensor_set].sensors
        description["sensor_statistics"] = sensor_statistics(windows, sensors)
        with torch.no_grad():
            network.train()(*(signal[windows.samples] for signal in inputs))
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
            for name in ("draw", "draw_stances"):
                patch.setattr(output, name, lambda *_: Figure(figsize=(1, 1)))
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
