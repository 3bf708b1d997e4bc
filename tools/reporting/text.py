"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class MeanSD(NamedTuple):
    """A mean and its SD, None where there is none, and the digits to print."""

    mean: float
    sd: float | None
    digits: int


class Number(NamedTuple):
    """A number and the digits to print."""

    value: float
    digits: int


Cell = str | int | Number | MeanSD | None


@dataclass
class Table:
    """A table: every line of `body` has a cell per entry of `header`; notes stand beneath.

    One that is too long to be read (`is_long`) is written as CSV only.
    """

    stem: str
    title: str
    header: Sequence[str]
    body: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    is_long: bool = False


def p_value(p: float) -> str:
    """Return a p value with three digits."""
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def shown(cell: Cell) -> str:
    """Return a cell as a reader sees it."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    value, digits = (cell.mean, cell.digits) if isinstance(cell, MeanSD) else cell
    if math.isnan(value):
        return "undefined"
    text = f"{value:.{digits}f}"
    if isinstance(cell, MeanSD) and cell.sd is not None:
        text += f" ± {cell.sd:.{digits}f}"
    return text


def markdown(table: Table, heading: str = "###") -> str:
    """Return a table in Markdown, under a heading, its notes beneath."""
    lines = [f"{heading} {table.title}", "", *markdown_lines(table.header, table.body)]
    lines += [f"\n{note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def markdown_lines(header: Sequence[str], body: Sequence[Sequence[Cell]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown; the columns align where they are read as text."""
    cells = [list(header), *([shown(cell) for cell in line] for line in body)]
    cells = [[text.replace("|", "\\|") for text in line] for line in cells]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(header))]
    numeric = _numeric_columns(header, body)

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(texts, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rules = zip(widths, numeric, strict=True)
    yield line(cells[0])
    yield line(["-" * (width - 1) + (":" if is_number else "-") for width, is_number in rules])
    yield from map(line, cells[1:])


def _numeric_columns(header: Sequence[str], body: Sequence[Sequence[Cell]]) -> list[bool]:
    def is_text(i: int) -> bool:
        return any(isinstance(line[i], str) and line[i].lstrip("`")[:1].isalpha() for line in body)

    return [not is_text(i) for i in range(len(header))]


def csv_text(table: Table) -> str:
    """Return a table as CSV in full precision; a mean and its SD are columns of their own."""
    pairs = [
        any(isinstance(line[i], MeanSD) for line in table.body) for i in range(len(table.header))
    ]
    header: list[str] = []
    for name, is_pair in zip(table.header, pairs, strict=True):
        header += [f"{name} mean", f"{name} SD"] if is_pair else [name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for line in table.body:
        values: list[object] = []
        for cell, is_pair in zip(line, pairs, strict=True):
            if is_pair:
                values += [cell.mean, cell.sd] if isinstance(cell, MeanSD) else [cell, None]
            else:
                values.append(cell.value if isinstance(cell, Number) else cell)
        writer.writerow(values)
    return text.getvalue()


LATEX_START = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=15mm]{geometry}
\usepackage{booktabs,graphicx}
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
\begin{document}
"""
LATEX_END = "\\end{document}\n"

_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "²": "$^2$",
    "·": r"$\cdot$",
    "−": "$-$",
    "ε": r"$\varepsilon$",
    "–": "--",
}


def escaped(text: str) -> str:
    """Return text as LaTeX sets it."""
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def latex(table: Table) -> str:
    """Return a table in LaTeX; it needs booktabs and `\\fitted` of `LATEX_START`."""
    numeric = _numeric_columns(table.header, table.body)
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}",
        rf"\caption{{{escaped(table.title)}}}",
        rf"\fitted{{\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_line(table.header),
        r"\midrule",
        *(_latex_line([shown(cell) for cell in line]) for line in table.body),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip\parbox{{0.95\linewidth}}{{{escaped(n)}}}" for n in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(map(escaped, texts)) + r" \\"
