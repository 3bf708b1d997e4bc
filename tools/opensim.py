"""Read and write the files of OpenSim: `.mot` (motion, forces) and `.sto` (storage)."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.files import InputError, plural, shorten, write_text

SUFFIXES = (".mot", ".sto")
TIME = "time"
LONGEST_HEADER = 500  # lines
MISSING = ("-nan", "-nan(ind)", "nan(ind)", "1.#QNAN", "-1.#IND")  # in addition to those of pandas
UNITS = {  # by the end of a column's name
    r"_(v[xyz]|force)": "N",
    r"_(m[xyz]|moment)": "N·m",
    r"_[pt][xyz]": "m",
}
# Of OpenSim's models; in version 4, states end with `/value`.
ANGLES = r"_(angle|flex|ext|add|rot|tilt|list|bend|dev|sup)[a-z]*(_[lr])?(/value)?"
ROWS, ANGLE_UNIT = ("nrows", "datarows"), {"yes": "deg", "no": "rad"}


class OpenSimFile(NamedTuple):
    """Columns of a file.

    Attributes:
        names: the names of all its columns; one of them is `time`, in s.
        table: the wanted columns that the file has, NaN where a value is missing.
        units: column name -> unit, for forces, moments, lengths and, if the header states
            `inDegrees`, angles.
        notices: facts about the file that a user should know.
    """

    names: list[str]
    table: pd.DataFrame
    units: dict[str, str]
    notices: list[str]


def read_opensim(path: Path, wanted: Collection[str]) -> OpenSimFile:
    """Read the wanted columns and the time of a `.mot` or `.sto` file, of any version.

    The header ends with the line `endheader`; the names follow, separated by tabs or spaces.

    Raises:
        InputError: The file cannot be read; the message says why, and how to fix it.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = [line.strip() for line in islice(file, LONGEST_HEADER)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    end = next((i for i, line in enumerate(head) if line.casefold() == "endheader"), None)
    if end is None:
        raise InputError(f"{path}: no line `endheader`; export it from OpenSim again")
    pairs = (re.split(r"[=\s]+", line, maxsplit=1) for line in head[:end] if line)
    header = {pair[0].casefold(): pair[-1].strip().casefold() for pair in pairs}
    if (kind := header.get("datatype", "double")) != "double":
        hint = "export acceleration and angular velocity of the sensors as CSV"
        if kind != "quaternion":
            hint = "save it with one number per column"
        raise InputError(f"{path}: its values are of type {shorten(kind, 40)}, not numbers; {hint}")
    start = next((i for i in range(end + 1, len(head)) if head[i]), len(head))
    line = head[start] if start < len(head) else ""
    names = [name.strip() for name in (line.split("\t") if "\t" in line else line.split())]
    if not {TIME, "Time"} & {*names} or len({*names}) < len(names):
        raise InputError(
            f"{path}: the line below `endheader` must name the columns, each once, and one of them "
            f"`{TIME}`; found {shorten(line, 80) or 'nothing'}"
        )
    names = [TIME if name == "Time" else name for name in names]
    has_tabs = any("\t" in line.strip() for line in head[start + 1 :])
    try:
        table = pd.read_csv(
            path,
            sep="\t" if has_tabs else r"\s+",
            header=None,
            names=[*names, "beyond the names"],  # filled by a tab at the end of the lines
            index_col=False,
            skiprows=start + 1,
            skipinitialspace=True,
            na_values=MISSING,
            encoding="utf-8",
            encoding_errors="replace",
            on_bad_lines="error",
            low_memory=False,
        )
    except (OSError, ValueError) as error:  # also errors of pandas
        raise InputError(
            f"{path}: not a table ({shorten(error)}); every line must have as many cells as there "
            "are names"
        ) from error
    if table.pop("beyond the names").notna().any():
        raise InputError(f"{path}: more cells in a line than names; export it again")
    notices = []
    rows = next((header[key] for key in ROWS if key in header), "")
    if rows.isdecimal() and int(rows) != len(table):
        message = f"nRows is {rows}, but there are {plural(len(table), 'line')}"
        if int(rows) > len(table):
            raise InputError(f"{path}: {message}: cut off? export it again, or correct nRows")
        notices.append(message)
    units = {
        name: unit
        for name in names
        for ending, unit in UNITS.items()
        if re.search(f"{ending}$", name, re.IGNORECASE)
    }
    kept = [name for name in names if name in {TIME, *wanted}]
    angles = [name for name in names if re.search(f"{ANGLES}$", name)]
    if angle_unit := ANGLE_UNIT.get(header.get("indegrees", "")):
        units |= dict.fromkeys(angles, angle_unit)
    elif of_unknown_unit := [name for name in angles if name in kept]:
        notices.append(
            f"`inDegrees` is not stated: the unit of {shorten(', '.join(of_unknown_unit))} is that "
            "of the script, unless the --columns file states another one in a column `unit`"
        )
    return OpenSimFile(names, table[kept], units, notices)


def write_opensim(path: Path, table: pd.DataFrame) -> None:
    """Write a `.mot` or `.sto` file of OpenSim 4; its first column is `time`, which increases.

    Missing values are written as `nan`. OpenSim reads them from files of version 3, while from
    those of version 1 its class `Storage` drops lines.
    """
    header = [path.stem, "DataType=double", "version=3"]
    header += [f"nRows={len(table)}", f"nColumns={table.shape[1]}", "inDegrees=no", "endheader"]
    lines = table.to_csv(sep="\t", index=False, na_rep="nan", lineterminator="\n")
    write_text(path, "\n".join([*header, lines]))
