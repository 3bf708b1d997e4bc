"""Faults of recordings: functions that change a table with a column per channel in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

Fault = Callable[[pd.DataFrame], None]


def scale(prefixes: Sequence[str], factor: float) -> Fault:
    """Return a fault that multiplies the columns whose names begin with one of the prefixes."""

    def fault(table: pd.DataFrame) -> None:
        table[[name for name in table if name.startswith(tuple(prefixes))]] *= factor

    return fault


def exchange(first: Sequence[str], second: Sequence[str]) -> Fault:
    """Return a fault that exchanges columns."""

    def fault(table: pd.DataFrame) -> None:
        table[[*first, *second]] = table[[*second, *first]].to_numpy()

    return fault


def fill(names: Sequence[str], value: float, part: slice = slice(None)) -> Fault:
    """Return a fault that overwrites a part of columns."""

    def fault(table: pd.DataFrame) -> None:
        table.loc[table.index[part], [*names]] = value

    return fault


def freeze(names: Sequence[str], part: slice) -> Fault:
    """Return a fault that repeats the first values of a part of columns."""

    def fault(table: pd.DataFrame) -> None:
        table.loc[table.index[part], [*names]] = table.loc[part.start, [*names]].to_numpy()

    return fault
