"""Times of samples as devices write them: dates, clocks and counters that start again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from common.files import InputError
from tools.plausibility import find_period, unwrap, unwrap_counter

DAY_OR_MONTH = r"\d{1,2}([./-])\d{1,2}\1\d{2,4}\b"  # a date that does not begin with the year
MINUTES = r"\d+:\d\d(?:\.\d+)?"  # spreadsheets leave the hours out
LONGEST_DATE_GAP_S = 86400.0
PERIODS_S = (1, 60, 3600, 43200, 86400, 604800)  # after which a clock starts again
COUNT_BITS = (16, 24, 31, 32)  # of a count of time units that starts again at 0
DATE_PERIODS_S = (3600, 86400)  # daylight saving time; a date that was not counted on
WRAP_INTERVALS = 3.0  # median intervals to the first time after that, at most


def parse_times(text: pd.Series, notices: list[str]) -> pd.Series:
    """Return times of day as time since midnight, or dates as UTC; NaT where it is neither.

    Day and month are read in the order in which the times increase and span the shorter time.

    Args:
        text: the times, with decimal points.
        notices: to which a notice about the order is appended.
    """
    text = text.where(~text.str.fullmatch(MINUTES, na=False), "00:" + text)
    times = pd.to_timedelta(text, errors="coerce")
    if not times.isna().any():
        return times
    orders = {"month/day": _parse_dates(text, day_first=False)}
    if text.str.match(DAY_OR_MONTH, na=False).all():
        orders["day/month"] = _parse_dates(text, day_first=True)

    def cost(order: str) -> tuple[bool, bool, float]:
        times = orders[order]
        span_s = (times.max() - times.min()).total_seconds()
        return bool(times.isna().any()), bool((times.diff().dt.total_seconds() < 0).any()), span_s

    chosen = min(orders, key=cost)
    gap_s = orders[chosen].diff().dt.total_seconds().max()
    spans = [cost(order)[2] for order in orders if not cost(order)[0]]
    if len(spans) > 1 and spans[0] != spans[1]:
        notices.append(
            f"the dates were read as {chosen}, almost certainly: the other order gives a gap of "
            "days, or times that fall back"
        )
    elif gap_s > LONGEST_DATE_GAP_S:
        notices.append(f"a gap of {gap_s / 86400:.3g} days in the dates; is one of them wrong?")
    return orders[chosen]


def _parse_dates(text: pd.Series, day_first: bool) -> pd.Series:
    """Return dates; in the format of the first one if possible, which is fast, or else of each."""
    options: dict[str, Any] = {"dayfirst": day_first, "utc": True, "errors": "coerce"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of dates that fit the other order only
        stated = guess_datetime_format(str(text.iloc[0]), dayfirst=day_first)
        if stated and not (times := pd.to_datetime(text, format=stated, **options)).isna().any():
            return times
        return pd.to_datetime(text, format="mixed", **options)


def increase(
    time_s: np.ndarray,
    unit_s: float,
    is_date: bool,
    where: Callable[[int], str],
    place: str,
    notices: list[str],
) -> np.ndarray:
    """Return times that increase: those after a clock started again are shifted.

    Args:
        time_s: `(samples,)` as recorded, relative to the first one.
        unit_s: unit in which they were recorded; a count of units starts again at a power of two.
        is_date: whether they were dates, which fall back at the end of daylight saving time only.
        where: position of a sample.
        place: file and column, for errors.
        notices: to which a notice is appended.

    Raises:
        InputError: A time is missing or repeated, or falls back for an unknown reason.
    """
    missing = np.flatnonzero(np.isnan(time_s))
    if len(missing):
        raise InputError(
            f"{place}, {where(int(missing[0]))}: no time; fill it in or remove the line (there "
            f"are {len(missing):,}), or choose another --time-column"
        )
    steps_s = np.diff(time_s)
    if (steps_s > 0).all():
        return time_s
    falls = np.flatnonzero(steps_s < 0)
    if len(falls):
        period_s, after = _find_wrap(time_s, steps_s, unit_s, is_date), where(int(falls[0]) + 1)
        if period_s is None:
            k = int(falls[0])
            before, later = time_s[max(k - 1, 0) : k + 1], time_s[k + 1 : k + 3]
            cause = "clock was set or restarted, or recordings were joined: split the file there"
            if later[-1] > time_s[k] or later[0] > before[0]:
                cause = "time of a single line is wrong or out of order: correct or remove the line"
            raise InputError(
                f"{place}, {after}: the time falls back by {-steps_s[k]:.6g} s there; the {cause}"
            )
        cause = "at midnight" if period_s == 86400 else f"after {period_s:.10g} s"
        cause = "at the end of daylight saving time" if is_date and period_s == 3600 else cause
        notices.append(f"the clock starts again {cause}, at {after}; the later times were shifted")
        time_s = unwrap(time_s, period_s)
        steps_s = np.diff(time_s)
    repeated = np.flatnonzero(steps_s == 0)
    if not len(repeated):
        return time_s
    percent = 100 * len(repeated) / len(steps_s)
    hint = "remove repeated lines"
    if percent > 20:
        hint = "the times are too coarse: state --recorded-hz instead of a time column"
    raise InputError(
        f"{place}, {where(int(repeated[0]) + 1)}: the time does not increase there, as in "
        f"{percent:.3g} % of the lines; {hint}"
    )


def clock_periods(unit_s: float) -> list[float]:
    """Return the periods in s after which a clock that counts units may start again."""
    return sorted([*PERIODS_S, *(unit_s * 2**bits for bits in COUNT_BITS)])


def _find_wrap(
    time_s: np.ndarray, steps_s: np.ndarray, unit_s: float, is_date: bool
) -> float | None:
    """Return the period after which a clock started again; None if none explains all falls."""
    usual_s = float(np.median(steps_s[steps_s > 0])) if (steps_s > 0).any() else 0.0
    for period_s in DATE_PERIODS_S if is_date else clock_periods(unit_s):
        longest_s = max(WRAP_INTERVALS * usual_s, period_s / 1000)
        if find_period(time_s, [period_s], longest_s, is_within=not is_date):
            after_s = time_s[1:][steps_s < 0]
            is_joined = period_s <= 3600 and (np.abs(after_s) <= usual_s).all() and not is_date
            return None if is_joined else period_s  # recordings that start alike, at 0 for example
    return None


def count_to_time(
    counts: np.ndarray, rate_hz: float, where: Callable[[int], str], place: str, notices: list[str]
) -> np.ndarray:
    """Return the time in s, relative to the first sample, of a column that counts samples.

    Args:
        counts: `(samples,)`; a counter may start again at a power of two or ten.
        rate_hz: sampling rate.
        where: position of a sample.
        place: file and column, for errors.
        notices: to which notices are appended.

    Raises:
        InputError: The column does not count.
    """
    if np.isnan(counts).any() or (counts % 1).any():
        row = int(np.argmax(np.isnan(counts) | (counts % 1 != 0)))
        raise InputError(
            f"{place}, {where(row)}: no whole number, but with --recorded-hz the time column "
            "counts samples; omit --recorded-hz if it has times"
        )
    counts, period = unwrap_counter(counts)
    steps = np.diff(counts)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        raise InputError(
            f"{place}, {where(row)}: the counter does not increase there; it was restarted, or "
            "lines are repeated: split the file there, or remove them"
        )
    if period:
        notices.append(f"the counter starts again after {period:,}; counted on from there")
    return (counts - counts[0]) / (np.median(steps) if len(steps) else 1) / rate_hz
