"""A run's folder: its settings, and results that appear whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.files import InputError, written_whole


class Run:
    """One output folder: `config.json`, `history.csv`, `metrics.csv` and the folders `predictions`,
    `checkpoints` and `figures`.

    A run is gone on with by opening it again: what it holds for a row and a test subject is kept.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], about: dict[str, Any]) -> None:
        """Create the folder, or open it if it was made with the same settings.

        Args:
            folder: `<output-dir>/<script>/<run>`. settings: What decides the numbers.
            about: What else `config.json` is to tell of this call; it keeps that of every call.

        Raises:
            InputError: The folder holds a run with other settings, or cannot be written.
        """
        self.folder = folder
        try:
            config = self._config()
            if config["calls"]:
                _check_same(folder, config["settings"], settings)
            self.history = self._read("history.csv", "fold")
            self.metrics = self._read("metrics.csv", "test_subject")
            self._write_config({"settings": settings, "calls": [*config["calls"], about]})
        except OSError as error:
            raise InputError(
                f"{folder}: cannot write there ({error.strerror}); give another --output-dir"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder}: a damaged run ({error}); use another --run-name"
            ) from error

    def _config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        if not path.exists():
            return {"settings": {}, "calls": []}
        config = json.loads(path.read_text())
        return {"settings": dict(config["settings"]), "calls": list(config["calls"])}

    def _write_config(self, config: dict[str, Any]) -> None:
        with written_whole(self.folder / "config.json") as part:
            part.write_text(json.dumps(config, indent=2) + "\n")

    def _read(self, name: str, fold_column: str) -> pd.DataFrame:
        """Read a results file; Python's parser, since the others may round a number."""
        path = self.folder / name
        if not path.exists():
            return pd.DataFrame()
        frame = pd.read_csv(path, dtype={fold_column: str}, engine="python")
        if not {"row", fold_column} <= set(frame.columns):
            raise ValueError(f"no columns row and {fold_column} in {name}")
        return frame

    def has(self, row: str, test_subject: str) -> bool:
        """Whether the run holds the result of a row on a test subject, with all of its files."""
        files = self.checkpoint(row, test_subject), self.predictions(row, test_subject)
        if self.metrics.empty or not all(path.exists() for path in files):
            return False
        return _chosen(self.metrics, "test_subject", row, test_subject).any()

    def parameters(self, row: str) -> int:
        """Return the number of parameters of a row that the run has."""
        return int(self.metrics.loc[self.metrics["row"] == row, "parameters"].iloc[0])

    def checkpoint(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's trained model."""
        return self.folder / "checkpoints" / f"{row}-subject_{test_subject}.pt"

    def predictions(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's truth and prediction of the test subject."""
        return self.folder / "predictions" / f"{row}-subject_{test_subject}.npz"

    def add(
        self,
        row: str,
        test_subject: str,
        state: Mapping[str, Tensor],
        predictions: dict[str, np.ndarray],
        history: pd.DataFrame,
        metrics: pd.DataFrame,
    ) -> None:
        """Write the results of a row on a test subject; `metrics.csv` last: it makes them count.

        `state`, the weights, is written tensor by tensor, from wherever it is: there may be no
        room for it twice.
        """
        with written_whole(self.checkpoint(row, test_subject)) as part:
            torch.save(dict(state), part)
        with written_whole(self.predictions(row, test_subject)) as part, part.open("wb") as file:
            np.savez_compressed(file, **predictions)
        self.history = _replaced(self.history, history, "fold", row, test_subject)
        self._write("history.csv", self.history)
        self.metrics = _replaced(self.metrics, metrics, "test_subject", row, test_subject)
        self._write("metrics.csv", self.metrics)

    def _write(self, name: str, frame: pd.DataFrame) -> None:
        with written_whole(self.folder / name) as part:
            frame.to_csv(part, index=False)

    def load(self, row: str, test_subject: str, model: nn.Module) -> nn.Module:
        """Load the trained weights of a row into `model`.

        Raises:
            InputError: The checkpoint is damaged or another model's.
        """
        path = self.checkpoint(row, test_subject)
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # of any kind, since the unpickler may meet any bytes
            raise InputError(
                f"{path}: damaged, or another model's; delete it to train {row} again"
            ) from error
        return model

    def save_figure(self, name: str, figure: Figure) -> None:
        """Write `figures/<name>.png`."""
        with written_whole(self.folder / "figures" / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=150)


def _chosen(frame: pd.DataFrame, fold_column: str, row: str, test_subject: str) -> pd.Series:
    return (frame["row"] == row) & (frame[fold_column] == test_subject)


def _replaced(
    frame: pd.DataFrame, new: pd.DataFrame, fold_column: str, row: str, test_subject: str
) -> pd.DataFrame:
    if frame.empty:
        return new
    kept = frame[~_chosen(frame, fold_column, row, test_subject)]
    return pd.concat([kept, new], ignore_index=True)


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    new = json.loads(json.dumps(new))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        parts = [f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names]
        raise InputError(
            f"{folder}: a run with other settings ({'; '.join(parts)}); use another --run-name"
        )


def run_folder(output_dir: Path, script: Path, run_name: str | None) -> Path:
    """Return `<output-dir>/<script>/<run>`, by default a new one named by date and time.

    Raises:
        InputError: The run's name is no name of a folder.
    """
    parent = output_dir / script.stem
    if run_name is not None:
        if Path(run_name).name != run_name or run_name in ("", ".", ".."):
            raise InputError(f"--run-name {run_name!r}: it must be the name of one folder")
        return parent / run_name
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    taken = sum(1 for _ in parent.glob(f"{name}*"))
    return parent / (f"{name}_{taken + 1}" if taken else name)
