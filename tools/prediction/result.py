"""What a prediction gives: lines of a CSV, a table for the screen, and where it came from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from common.experiments import Target

from common.files import InputError, written_whole
from common.metrics import score
from tools.prediction import figure


class Result(NamedTuple):
    """A prediction of every row of a recording.

    Args:
        where: A line per row: where it is from, and its time.
        stretch: `(rows,)` number of the row's stretch, -1 for none.
        prediction: `(rows, K)` float32, NaN where there is none.
        truth: `(rows, K)` measured targets, NaN where there are none.
        delay: How late a live estimate would be, in a sentence; empty where that is not asked.
    """

    where: pd.DataFrame
    stretch: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    delay: str = ""

    def nrmse_percent(self, targets: Sequence[Target]) -> np.ndarray:
        """Return NRMSE in % per target over the rows that are measured and predicted, or NaN."""
        both = np.isfinite(self.prediction).all(axis=1) & np.isfinite(self.truth).all(axis=1)
        if not both.any():
            return np.full(len(targets), np.nan)
        with warnings.catch_warnings():  # of a constant target, whose NRMSE is NaN
            warnings.simplefilter("ignore", RuntimeWarning)
            scores = score(self.truth[both], self.prediction[both], [t.name for t in targets])
        return scores["nrmse_percent"]

    def table(self, targets: Sequence[Target]) -> str:
        """Return ranges per target, and NRMSE where the targets were measured."""
        low, high = np.nanmin(self.prediction, axis=0), np.nanmax(self.prediction, axis=0)
        nrmse = self.nrmse_percent(targets)
        lines = [f"{'target':<24}{'unit':<10}{'least':>10}{'largest':>10}{'NRMSE %':>10}"]
        for target, *numbers in zip(targets, low, high, nrmse, strict=True):
            cells = [f"{n:>10.3g}" if np.isfinite(n) else f"{'-':>10}" for n in numbers]
            lines.append(f"{target.name:<24}{target.unit:<10}{''.join(cells)}")
        if np.isfinite(nrmse).any():
            lines.append(f"{'mean':<24}{'':<30}{np.mean(nrmse):>10.3g}")
        return "\n".join(lines)

    def save(
        self, folder: Path, targets: Sequence[Target], rate_hz: int, about: Mapping[str, Any]
    ) -> None:
        """Write `prediction.csv`, `prediction.json` (`about`) and `prediction.png`, each whole.

        Args:
            folder: Where to. targets: Names and units. rate_hz: Samples per second.
            about: What the numbers came from; its `title` and `delay` stand in the figure, too.

        Raises:
            InputError: They cannot be written.
        """
        columns = [f"{target.name} ({target.unit})" for target in targets]
        lines = pd.concat([self.where, pd.DataFrame(self.prediction, columns=columns)], axis=1)
        try:
            with written_whole(folder / "prediction.csv") as part:
                lines.to_csv(part, index=False)
            with written_whole(folder / "prediction.json") as part:
                part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
            figure.save(folder / "prediction.png", self, targets, rate_hz, about)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot write there ({error.strerror}); choose another --out"
            ) from error
