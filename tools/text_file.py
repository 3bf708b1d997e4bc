"""Read columns of a text file (CSV) in the formats of devices and spreadsheets.

Encoding, delimiter, decimal commas, lines above the column names, names in two lines, and lines of
units below them are recognized. Every line must have as many cells as there are names.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd

from common.files import InputError, plural, shorten

HEAD_BYTES, HEAD_LINES = 2**17, 100  # from which the format is recognized
LONGEST_LINE = 2**20  # characters; reading a line must not need much memory
INCOMPLETE = "the last line is incomplete and was left out"
DELIMITERS = ",;\t|"
COUNTER = (
    r"(?i)counter|count$|pack(et|age)|frame|sequence|\bseq\b|sample[ _]?(no|nr|num|id|index)"
    r"|^(index|n|no\.?|nr\.?)$"
)
STATED_RATE = r"(?im)^(?=.*hz).*(?:rate|freq)\D*(\d+(?:\.\d+)?)"
UNIT_SPELLINGS = {  # in a line of units, without the characters of `IN_UNITS`
    **dict.fromkeys(("m/s2", "m/s/s", "ms-2", "mps2"), "m/s2"),
    **dict.fromkeys(("g", "gn", "g0"), "g"),
    **dict.fromkeys(("rad/s", "rads-1", "rad/sec", "radps"), "rad/s"),
    **dict.fromkeys(("deg/s", "degs-1", "deg/sec", "degps", "dps"), "deg/s"),
    **dict.fromkeys(("s", "sec", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanoseconds"), "ns"),
}
IN_UNITS = {**dict.fromkeys("[](){}^*·\"' ", ""), "²": "2", "⁻": "-", "¹": "1", "°": "deg"}
IN_UNITS |= dict.fromkeys("µμ", "u")


class TextFile(NamedTuple):
    """Columns of a text file.

    Attributes:
        names: the names of all its columns.
        table: the wanted columns that the file has; the index counts the lines below the names
            from 0. Lines without any cell are left out.
        counters: other columns whose name is that of a counter of samples, with the same index.
        units: column name -> unit as written; empty without a line of units.
        decimal: the decimal sign.
        stated_hz: the sampling rate in the lines above the names; None if there is none.
        notices: facts about the file that a user should know.
    """

    names: list[str]
    table: pd.DataFrame
    counters: pd.DataFrame
    units: dict[str, str]
    decimal: str
    stated_hz: float | None
    notices: list[str]


def find_unit(written: str) -> str | None:
    """Return a unit as the flags spell it; None for an unknown unit."""
    return UNIT_SPELLINGS.get(written.translate(str.maketrans(IN_UNITS)).casefold())


def to_numbers(column: pd.Series, decimal: str) -> pd.Series:
    """Return a column as numbers, NaN where a cell is not a number."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    text = column.astype(str).str.replace(decimal, ".", regex=False)
    return pd.to_numeric(text, errors="coerce").astype(float)


def read_text(
    path: Path,
    wanted: Sequence[str],
    measured: Sequence[str] = (),
    **options: Any,  # noqa: ANN401
) -> TextFile:
    """Read columns of a text file.

    Args:
        path: the file.
        wanted: names of columns.
        measured: names of further columns, with numbers; lines of text below the names may state
            their units.
        options: options of `pandas.read_csv`.

    Raises:
        InputError: The file cannot be read; the message says where, and how to fix it.
    """
    encoding, text = _read_head(path)
    lines = list(islice(io.StringIO(text, newline=None), HEAD_LINES))
    if not text.strip():
        raise InputError(f"{path}: empty; it must have column names and numbers below")
    used = {*wanted, *measured}
    line, delimiter, names = _find_names(lines, used)
    if len(names) < 2:
        found = f"one column, {shorten(lines[0], 60)}" if names else "no column names"
        raise InputError(
            f"{path}: {found}; save it with column names and a comma, "
            "semicolon or tab between columns"
        )
    repeated = [name for name, count in Counter(names).items() if count > 1 and name in used]
    if repeated:
        raise InputError(f"{path}: two columns are named {shorten(repeated[0])}; rename one")
    below = _split(lines[line + 1 :], delimiter)
    decimal = _find_decimal(below, names, measured, delimiter)
    units, text_lines = _find_units(below, names, measured, decimal)
    counters = [name for name in {*names} - used if re.search(COUNTER, name)]
    positions = {name: names.index(name) for name in names if name in {*used, *counters}}
    notices: list[str] = []
    try:
        with _open_below(path, encoding, line) as file:
            kept = _check_lines(file, f"{path}: line ", line + 1, names, delimiter, notices)
        kept = kept[text_lines:]
        if not kept:
            raise InputError(f"{path}: no lines below the column names; add the numbers")
        skipped = np.setdiff1d(np.arange(kept[-1]), kept).tolist()
        with _open_below(path, encoding, line) as file:
            table = pd.read_csv(
                file,
                sep=delimiter,
                decimal=decimal,
                header=None,
                names=range(len(names)),
                skiprows=skipped,
                nrows=len(kept),
                usecols=[*positions.values()],
                index_col=False,
                low_memory=False,
                skipinitialspace=True,
                skip_blank_lines=False,
                **options,
            )
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pandas' errors and wrong encodings, too
        raise InputError(
            f"{path}: not a table ({shorten(error)}); save it as CSV in UTF-8"
        ) from error
    table = table[[*positions.values()]].set_axis([*positions], axis=1).set_axis(kept, axis=0)
    rate = re.search(STATED_RATE, "".join(lines[:line]))
    return TextFile(
        names,
        table.drop(columns=counters),
        table[counters],
        units,
        decimal,
        float(rate[1]) if rate else None,
        notices,
    )


def _read_head(path: Path) -> tuple[str, str]:
    """Return the encoding of a text file and the start of its text."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    encodings = ["utf-8-sig", "cp1252"]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif head[1:100:2] and not any(head[1:100:2]) and any(head):
        encodings = ["utf-16-le"]
    for encoding in encodings:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        written = text.rstrip("\0")  # some loggers fill the rest of a file with NUL
        if "\0" not in written and (written or not text):
            return encoding, written
    raise InputError(f"{path}: not a text file; save it as CSV in UTF-8")


def _open_below(path: Path, encoding: str, line: int) -> TextIO:
    """Open a text file below its line of names."""
    file = path.open(encoding=encoding)
    for _ in range(line + 1):
        file.readline(HEAD_BYTES)
    return file


def _split(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the cells of each line that has any."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error:  # reported for the line by `_check_lines`
        return []
    return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]


def _check_lines(
    file: TextIO,
    place: str,
    above: int,
    names: Sequence[str],
    delimiter: str,
    notices: list[str],
) -> list[int]:
    """Return the numbers, from 0, of the lines that have cells, after checking the cells.

    A last line that ends early, as after a power cut, is left out with a notice.

    Args:
        file: the file, below the names.
        place: start of the position of a line in errors.
        above: number of lines up to the names.
        names: column names.
        delimiter: delimiter.
        notices: to which a notice is appended.

    Raises:
        InputError: A line has more or fewer cells than there are names, or is damaged.
    """
    read = 0  # physical lines

    def limited() -> Iterator[str]:
        nonlocal read
        while line := file.readline(LONGEST_LINE):
            read += 1
            if "\0" in line:
                written = line.rstrip("\0")
                if "\0" in written:
                    raise InputError(f"{place}{above + read}: damaged, with NUL in it; correct it")
                if written:
                    notices.append(INCOMPLETE)
                continue
            if len(line) == LONGEST_LINE:
                raise InputError(
                    f"{place}{above + read}: longer than {LONGEST_LINE:,} characters; is it a "
                    "text file with one sample per line?"
                )
            yield line

    fewest = max(i for i, name in enumerate(names, start=1) if name)
    kept: list[int] = []
    short = ""
    rows = csv.reader(limited(), delimiter=delimiter, skipinitialspace=True)
    for number in count():
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{place}{above + read}: {shorten(error)}; is a quotation mark missing above?"
            ) from error
        if row is None:
            break
        if not any(row) or not "".join(row).strip():
            continue
        if short:
            raise InputError(short)
        if len(row) < fewest or any(map(str.strip, row[len(names) :])):
            text = f"{plural(len(row), 'cell')}, but {len(names)} column names; correct the line"
            short = f"{place}{above + read}: {text}"
            if len(row) > fewest or not kept:
                raise InputError(
                    f"{short}, put quotation marks around text with a delimiter in it, and give "
                    "every column a name"
                )
            continue
        kept.append(number)
    if short:
        notices.append(INCOMPLETE)
    return kept


def _find_names(lines: Sequence[str], wanted: set[str]) -> tuple[int, str, list[str]]:
    """Return index, delimiter and cells of the line of column names.

    It is the line with most of the wanted names, or else with most cells that contain a letter.
    Names may be in two lines, such as sensors above axes; they are joined by an underscore.
    """

    def score(found: tuple[int, str, list[str]]) -> tuple[int, int]:
        cells = found[2]
        return len(wanted & {*cells}), sum(any(map(str.isalpha, cell)) for cell in {*cells})

    candidates = []
    for delimiter in DELIMITERS:
        above: list[str] = []
        for i, line in enumerate(lines):
            cells = next(iter(_split([line], delimiter)), [])
            candidates.append((i, delimiter, cells))
            is_text = all(any(map(str.isalpha, cell)) for cell in filter(None, cells))
            if len(above) > 1 and len(cells) > 1 and is_text and not any(map(find_unit, cells)):
                groups = pd.Series(above).reindex(range(len(cells))).replace("", None).ffill()
                joined = [
                    "_".join(dict.fromkeys(filter(None, (group, cell))))
                    for group, cell in zip(groups.fillna(""), cells, strict=True)
                ]
                candidates.append((i, delimiter, joined))
            above = cells
    return max(candidates, key=score, default=(0, ",", [""]))


def _find_decimal(
    rows: Sequence[Sequence[str]], names: Sequence[str], measured: Sequence[str], delimiter: str
) -> str:
    """Return the decimal sign; cells in quotes may have commas even between commas."""
    if delimiter != ",":
        return ","
    positions = [names.index(name) for name in measured if name in names]
    numbers = [row[i] for row in rows for i in positions if i < len(row)]
    has_commas = any(re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", cell) for cell in numbers)
    return "," if has_commas and not any("." in cell for cell in numbers) else "."


def _find_units(
    rows: Sequence[Sequence[str]], names: Sequence[str], measured: Sequence[str], decimal: str
) -> tuple[dict[str, str], int]:
    """Return column -> unit, and the number of lines of text below the names.

    Of several lines of text, such as units, ranges and types, one with known units counts.
    """
    positions = [names.index(name) for name in measured if name in names]
    texts = []
    for row in rows:
        stated = [row[i] for i in positions if i < len(row) and row[i]]
        if not stated or to_numbers(pd.Series(stated), decimal).notna().any():
            break
        texts.append(row)
    texts_of_units = [row for row in texts if not {*row} & {*names} - {""}]  # not the names again
    known = [row for row in texts_of_units if any(map(find_unit, row))]
    cells = (known or texts_of_units[: len(texts) == 1] or [[]])[0]
    return dict(zip(names, cells, strict=False)), len(texts)
