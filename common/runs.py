"""A run's folder: its settings, and results that appear whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from torch import nn

from common import checkpoints
from common.files import InputError, written_whole


class Run:
    """One output folder: `config.json`, `history.csv`, `metrics.csv` and the folders `results`,
    `predictions`, `checkpoints`, `unfinished` and `figures`.

    What decides is in `results`: a file per row and test subject, written when everything else of
    it is there. `history.csv` and `metrics.csv` are made of these files, by the one process that
    began the run.
    """

    def __init__(self, folder: Path, rows: Sequence[str] = ()) -> None:
        """Look at a folder, which need not exist.

        Args:
            folder: `<output-dir>/<script>/<run>`. rows: In the order of the tables.
        """
        self.folder, self.rows = folder, list(rows)
        self.taken: dict[tuple[str, str], dict[str, Any]] = {}

    @contextmanager
    def working(self, settings: dict[str, Any], about: dict[str, Any]) -> Iterator[None]:
        """Create the folder, or open it if it was made with the same settings, for this process.

        Args:
            settings: What decides the numbers.
            about: What else `config.json` is to tell of this call; it keeps that of every call.

        Raises:
            InputError: The folder holds a run with other settings, cannot be written, or is
                another process's.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self._begin(lock, settings, about)
            yield
        finally:
            lock.release()

    def _begin(self, lock: FileLock, settings: dict[str, Any], about: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            config = self._config()
            if config["calls"]:
                _check_same(self.folder, config["settings"], settings)
            self._write_config({"settings": settings, "calls": [*config["calls"], about]})
            self.take_all()
            if self.taken:
                self.write_tables()
        except Timeout as error:
            raise InputError(
                f"{self.folder}: another process works on this run; use another --run-name"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot write there ({error.strerror}); give another --output-dir"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.folder}: a damaged run ({error}); use another --run-name"
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

    def take_all(self) -> None:
        """Take what the run has."""
        for path in sorted((self.folder / "results").glob("*.json")):
            row, _, subject = path.stem.rpartition("-subject_")
            self.take(row, subject)

    def take(self, row: str, test_subject: str) -> bool:
        """Take the result of a row on a test subject, if all of its files are there, and whole."""
        try:
            result = json.loads(self.result(row, test_subject).read_text())
            sizes = result["bytes"]
            for path in (self.checkpoint(row, test_subject), self.predictions(row, test_subject)):
                if path.stat().st_size != sizes[path.name]:
                    return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.taken[row, test_subject] = result
        return True

    def has(self, row: str, test_subject: str) -> bool:
        """Whether the result of a row on a test subject has been taken."""
        return (row, test_subject) in self.taken

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of what has been taken, subject by subject, rows in the tables' order."""
        return self._frame("metrics")

    @property
    def history(self) -> pd.DataFrame:
        """The epochs of what has been taken."""
        return self._frame("history")

    def _frame(self, part: str) -> pd.DataFrame:
        def place(key: tuple[str, str]) -> tuple[object, ...]:
            row, subject = key
            known = row in self.rows
            return int(subject), not known, self.rows.index(row) if known else row

        keys = sorted(self.taken, key=place)
        return pd.DataFrame([line for key in keys for line in self.taken[key][part]])

    def parameters(self, row: str, test_subject: str) -> int:
        """Return the number of parameters of a row that the run has."""
        result = json.loads(self.result(row, test_subject).read_text())
        return int(result["metrics"][0]["parameters"])

    def result(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's history and metrics."""
        return self.folder / "results" / f"{row}-subject_{test_subject}.json"

    def checkpoint(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's trained model."""
        name = f"{row}-subject_{test_subject}{checkpoints.SUFFIX}"
        return self.folder / "checkpoints" / name

    def predictions(self, row: str, test_subject: str) -> Path:
        """Return the path of a row's truth and prediction of the test subject."""
        return self.folder / "predictions" / f"{row}-subject_{test_subject}.npz"

    def unfinished(self, row: str, test_subject: str) -> Path:
        """Return the path of the state of a training under way."""
        return self.folder / "unfinished" / f"{row}-subject_{test_subject}.pt"

    def add(
        self,
        row: str,
        test_subject: str,
        model: checkpoints.Checkpoint,
        predictions: dict[str, np.ndarray],
        history: pd.DataFrame,
        metrics: pd.DataFrame,
        summary: str,
    ) -> None:
        """Write the results of a row on a test subject; its file in `results` makes them count."""
        paths = self.checkpoint(row, test_subject), self.predictions(row, test_subject)
        checkpoints.save(*model, paths[0])
        with written_whole(paths[1]) as part, part.open("wb") as file:
            np.savez_compressed(file, **predictions)
        result = {
            "bytes": {path.name: path.stat().st_size for path in paths},
            "history": history.to_dict("records"),
            "metrics": metrics.to_dict("records"),
            "summary": summary,
        }
        with written_whole(self.result(row, test_subject)) as part:
            part.write_text(json.dumps(result) + "\n")

    def keep_diverged(self, row: str, test_subject: str, model: checkpoints.Checkpoint) -> None:
        """Write the best epoch before a training diverged, beside the checkpoints that count."""
        path = self.checkpoint(row, test_subject)
        checkpoints.save(*model, path.with_suffix(f".diverged{path.suffix}"))

    def write_tables(self) -> None:
        """Write `history.csv` and `metrics.csv`."""
        for name in ("history", "metrics"):
            with written_whole(self.folder / f"{name}.csv") as part:
                self._frame(name).to_csv(part, index=False)

    def load(self, row: str, test_subject: str, model: nn.Module) -> nn.Module:
        """Load the trained weights of a row into `model`.

        Raises:
            InputError: The checkpoint is damaged or another model's.
        """
        path = self.checkpoint(row, test_subject)
        try:
            model.load_state_dict(checkpoints.load(path).tensors)
        except (InputError, RuntimeError) as error:
            raise InputError(
                f"{path}: damaged, or another model's; delete it to train {row} again"
            ) from error
        return model

    def save_figure(self, name: str, figure: Figure) -> None:
        """Write `figures/<name>.png`."""
        with written_whole(self.folder / "figures" / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=150)


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


def find_run(output_dir: Path, script: Path, run_name: str) -> Path:
    """Return the folder of a run that is there; the newest for an empty name.

    Raises:
        InputError: There is none.
    """
    parent = output_dir / script.stem
    if run_name:
        folder = run_folder(output_dir, script, run_name)
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: no run to resume; leave --resume out to begin one")
        return folder
    configs = sorted(parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise InputError(f"{parent}: no run to resume; leave --resume out to begin one")
    return configs[-1].parent


def last_flags(folder: Path) -> dict[str, Any]:
    """Return the flags of a run's last call.

    Raises:
        InputError: The run's `config.json` is damaged.
    """
    try:
        return dict(json.loads((folder / "config.json").read_text())["calls"][-1]["flags"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{folder}: a damaged run ({error}); use another --run-name") from error
