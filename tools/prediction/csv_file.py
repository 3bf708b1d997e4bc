"""A recording out of a CSV with named columns and a time column, at any rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from common.hdf5 import Columns

from common.files import InputError, brief
from tools.prediction.needs import Needs
from tools.prediction.recording import TIME, Piece
from tools.prediction.resampling import rate_of, resampled, stretches
from tools.raw.signals import on_grid

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SLOWEST, FASTEST = 0.1, 500.0  # times the model's rate; else the unit of time is another one
TIME_DIGITS = 6  # of the times in the output, in s


class Clock(NamedTuple):
    """How a CSV tells time.

    Args:
        column: Its name. unit: A key of `SECONDS`. max_gap_s: What is interpolated across.
    """

    column: str
    unit: str
    max_gap_s: float


def read(
    path: Path, needs: Needs, clock: Clock, rate_hz: float, say: Callable[[str], None]
) -> Iterator[Piece]:
    """Read a CSV, and give every stretch without a gap at the model's rate.

    A row with an empty cell in a column that the model reads counts as a gap.

    Args:
        path: The file. needs: The columns to read. clock: Its time.
        rate_hz: The model's. say: Told what the user should know of the recording's rate.

    Raises:
        InputError: The file is not like that; the message names the place and the remedy.
    """
    names = _header(path)
    known = needs.found_in(names, path)
    if clock.column not in names:
        raise InputError(
            f"{path}: no column {clock.column} for the time; name it by --time-column, of "
            f"{brief(', '.join(names))}"
        )
    frame = _numbers(path, names, dict.fromkeys((clock.column, *known)))
    _check_rising(path, clock.column, frame[clock.column].to_numpy())
    zero = frame[clock.column].iloc[0]
    there = frame[frame[list(needs.inputs)].notna().all(axis=1)]
    if len(there) < 2:
        raise InputError(
            f"{path}: no two rows have a number in every column that the model reads; supply "
            f"them in {brief(', '.join(name for name in known if frame[name].isna().all()))}"
        )
    # From the first row on: in seconds since 1970 there would be no digits left for microseconds.
    time_s = (there[clock.column].to_numpy() - zero) * SECONDS[clock.unit]
    own_hz = rate_of(time_s)
    _check_rate(path, own_hz, rate_hz)
    say(_rates(own_hz, rate_hz))
    for number, part in enumerate(stretches(time_s, clock.max_gap_s)):
        grid_s, inputs = resampled(
            time_s[part], there[list(needs.inputs)][part].to_numpy(), own_hz, rate_hz
        )
        targets = [name for name in known if name not in needs.inputs]
        measured = on_grid(there[targets][part].to_numpy(), time_s[part], grid_s)
        positions = {name: i for i, name in enumerate((*needs.inputs, *targets))}
        columns = Columns(path, "the table", positions, np.hstack([inputs, measured]))
        where = {TIME: np.round(zero * SECONDS[clock.unit] + grid_s, TIME_DIGITS)}
        yield Piece(where, columns, known, np.full(len(grid_s), number))


def _check_rate(path: Path, own_hz: float, rate_hz: float) -> None:
    if not SLOWEST * rate_hz <= own_hz <= FASTEST * rate_hz:
        raise InputError(
            f"{path}: {own_hz:.3g} samples per second, where the model reads {rate_hz:g}; look at "
            "--time-unit and --time-column, or record faster"
        )


def _rates(own_hz: float, rate_hz: float) -> str:
    text = f"Recorded at {own_hz:.4g} Hz, brought to the model's {rate_hz:g} Hz"
    if own_hz < 0.98 * rate_hz:
        text += f"; what the model was trained on above {own_hz / 2:.3g} Hz is not in it"
    return text


def _header(path: Path) -> list[str]:
    """Return the names of the columns, in order."""
    first = _parsed(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [name.strip() for name in first.iloc[0]]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise InputError(f"{path}: two columns are named {brief(twice[0])}; rename one")
    if len(names) == 1:
        raise InputError(
            f"{path}: one column, {brief(names[0])}; save it with names in the first line and "
            "commas between columns"
        )
    return names


def _numbers(path: Path, names: Sequence[str], wanted: Sequence[str]) -> pd.DataFrame:
    """Return the wanted columns as float64; an empty cell is NaN."""
    positions = sorted(names.index(name) for name in wanted)
    frame = _parsed(
        path, header=None, skiprows=1, usecols=positions, index_col=False, low_memory=False
    )
    frame.columns = [names[i] for i in positions]
    for name in frame:
        numbers = pd.to_numeric(frame[name], errors="coerce").astype(float)
        wrong = (numbers.isna() & frame[name].notna()) | np.isinf(numbers)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{path}: {name}, row {row + 1} below the names: {brief(frame[name][row])} is no "
                "number; correct it, or leave the cell empty where nothing was measured"
            )
        frame[name] = numbers
    return frame


def _parsed(path: Path, **options: Any) -> pd.DataFrame:  # noqa: ANN401 of pandas
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except pd.errors.EmptyDataError as error:
        raise InputError(
            f"{path}: no rows; it must have names in the first line and numbers below"
        ) from error
    except (OSError, ValueError) as error:  # pandas' errors and wrong encodings are ValueErrors
        raise InputError(
            f"{path}: no CSV ({brief(error)}); save it in UTF-8 with commas between columns"
        ) from error


def _check_rising(path: Path, column: str, ticks: np.ndarray) -> None:
    wrong = ~(np.diff(ticks) > 0)  # of NaN, too
    if wrong.any() or np.isnan(ticks).any():
        row = int(np.argmax(wrong)) + 1 if wrong.any() else 0
        raise InputError(
            f"{path}: {column}, row {row + 1} below the names: time does not rise there; sort the "
            "rows, drop doubled ones and give every row a time, or split the file"
        )
