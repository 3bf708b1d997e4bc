"""Tables of a report: their numbers, and their layout as Markdown, LaTeX, HTML and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from tabulate import LATEX_ESCAPE_RULES, tabulate

from common.files import InputError, plural
from tools.report import paper
from tools.report.runs import OLD_SETTINGS, Results

MAX_LISTED_ROWS = 10  # in a note
DIFFERENT_SUBJECTS = "The rows were tested on different subjects: their means are not comparable"
SYNTHETIC_NOTE = (
    "SYNTHETIC DATA: the gait is simulated. These results are not the paper's and say nothing "
    "about people."
)
SHOWN_METRICS = {"nrmse_percent": ("NRMSE %", 2), "pcc": ("PCC", 3)}  # heading, decimal places
THREE_DIGITS = ("Mauchly's W", "Greenhouse-Geisser ε")  # columns; other numbers have two
P_VALUE = re.compile(r"(^|\s)p(,|$)")  # headings of columns of p values

LATEX_START = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[a4paper,margin=15mm]{geometry}
\usepackage{booktabs,graphicx}
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
\begin{document}
"""
LATEX_END = "\\end{document}\n"
LATEX_SYMBOLS = {"±": r"$\pm$", "²": "$^2$", "·": r"$\cdot$", "−": "$-$", "ε": r"$\varepsilon$"}


class MeanSD(NamedTuple):
    """A mean, its SD (None for a single value), and the decimal places to print."""

    mean: float
    sd: float | None
    digits: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "undefined"
        text = f"{self.mean:.{self.digits}f}"
        return text if self.sd is None else f"{text} ± {self.sd:.{self.digits}f}"


Cell = str | int | float | MeanSD | None


@dataclass
class Table:
    """A table that can be written as Markdown, LaTeX, HTML and CSV.

    Attributes:
        stem: name of its CSV file without the suffix.
        title: heading or caption.
        columns: headings of the columns.
        rows: a cell per column; columns that a row lacks are empty, NaN is undefined.
        notes: remarks below the table.
        is_long: write the table as CSV only.
    """

    stem: str
    title: str
    columns: Sequence[str]
    rows: list[dict[str, Cell]]
    notes: list[str] = field(default_factory=list)
    is_long: bool = False

    def markdown(self) -> str:
        """Return the table in Markdown with its heading and notes."""
        parts = [f"### {self.title}", layout(self.columns, self.rows, "pipe"), *self.notes]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Return the table in LaTeX; it needs the preamble `LATEX_START`."""
        texts = pd.DataFrame(_texts(self.columns, self.rows), columns=self.columns)
        alignment = "".join(side[0] for side in _alignment(self.columns, self.rows))
        body = texts.to_latex(index=False, escape=True, column_format=alignment)
        notes = [rf"\par\smallskip\parbox{{0.95\linewidth}}{{{_latex(n)}}}" for n in self.notes]
        lines = [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\fitted{{{body.strip()}}}",
            *notes,
            r"\end{table}",
        ]
        return "\n".join(lines).translate(str.maketrans(LATEX_SYMBOLS)) + "\n"

    def html(self) -> str:
        """Return the table in HTML, without its heading and notes; the text is escaped."""
        return layout(self.columns, self.rows, "html")

    def csv(self) -> str:
        """Return the table as CSV in full precision, with columns for the mean and for the SD."""
        columns: dict[str, list[object]] = {}
        for name in self.columns:
            cells = [row.get(name) for row in self.rows]
            if any(isinstance(cell, MeanSD) for cell in cells):
                pairs = [cell[:2] if isinstance(cell, MeanSD) else (cell, None) for cell in cells]
                columns[f"{name} mean"], columns[f"{name} SD"] = zip(*pairs, strict=True)
            else:
                columns[name] = cells
        return pd.DataFrame(columns, dtype=object).to_csv(index=False)


def layout(columns: Sequence[str], rows: Sequence[dict[str, Cell]], style: str) -> str:
    """Return the table alone, in a style of tabulate."""
    texts, alignment = _texts(columns, rows), _alignment(columns, rows)
    if style == "pipe":
        texts = [[text.replace("|", r"\|") for text in row] for row in texts]
    return tabulate(texts, columns, style, colalign=alignment, disable_numparse=True)


def _alignment(columns: Sequence[str], rows: Sequence[dict[str, Cell]]) -> list[str]:
    """Return `left` for the columns with words, `right` for those with numbers."""
    cells = [[row.get(column) for row in rows] for column in columns]
    return ["left" if any(map(_is_word, column)) else "right" for column in cells]


def _is_word(cell: Cell) -> bool:
    return isinstance(cell, str) and cell.lstrip("`")[:1].isalpha()


def _texts(columns: Sequence[str], rows: Sequence[dict[str, Cell]]) -> list[list[str]]:
    return [[_text(column, row.get(column)) for column in columns] for row in rows]


def _text(column: str, cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    if not isinstance(cell, float):
        return str(cell)
    if math.isnan(cell):
        return "undefined"
    if P_VALUE.search(column):
        return "< 0.001" if cell < 0.001 else f"{cell:.3f}"
    return f"{cell:.{3 if column in THREE_DIGITS else 2}f}"


def _latex(text: str) -> str:
    escaped = text.translate(str.maketrans(LATEX_ESCAPE_RULES))
    return re.sub("`([^`]*)`", r"\\texttt{\1}", escaped)


def subject_means(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric's mean over targets, over all activities.

    Returns:
        `(rows, subjects)`; NaN where a row was not tested on a subject or a target is undefined.
    """
    overall = metrics[metrics["activity"] == "all"]
    groups = overall.groupby(["row", "test_subject"], sort=False)[metric]
    return groups.agg(lambda values: values.mean(skipna=False)).unstack("test_subject")


def common_subjects(metrics: pd.DataFrame) -> list[str]:
    """Return the subjects on which every row was tested and its NRMSE is defined."""
    means = subject_means(metrics, "nrmse_percent")
    return list(means.columns[means.notna().all()])


def rows_by_table(results: Results) -> dict[paper.PaperTable, dict[str, list[str]]]:
    """Return the rows of each table and sensor set, in the paper's order."""
    known = results.metrics.drop_duplicates("row")
    scripts = dict(zip(known["row"], known["script"], strict=True))
    tables: dict[paper.PaperTable, dict[str, list[str]]] = {}
    pairs = zip(known["row"], known["sensor_set"], strict=True)
    for row, sensor_set in paper.sort_rows(list(results.imus), pairs):
        table = paper.table(results.dataset, scripts[row], sensor_set)
        tables.setdefault(table, {}).setdefault(sensor_set, []).append(row)
    return dict(sorted(tables.items(), key=lambda item: item[0].number))


def summary_tables(results: Results) -> list[Table]:
    """Return the paper's tables, each followed by NRMSE and PCC per target."""
    tables = []
    for table, by_sensor_set in rows_by_table(results).items():
        rows = sum(by_sensor_set.values(), [])
        title = f"{table.title}, {results.label}"
        if results.dataset in paper.SUBJECTS:
            is_extra = "," in table.number
            title += " (not in the paper)" if is_extra else f" (Table {table.number} of the paper)"
        tables.append(_means_table(results, rows, table, title))
        tables += [_per_target_table(results, rows, m, table.stem, title) for m in SHOWN_METRICS]
    return tables


def _means_table(
    results: Results, rows: Sequence[str], table: paper.PaperTable, title: str
) -> Table:
    metrics = results.select(rows)
    means, common = subject_means(metrics, "nrmse_percent"), common_subjects(metrics)
    body = [_summarize_row(results, row) for row in rows]
    for row, cells in zip(rows, body, strict=True):
        if not _same_subjects(metrics):
            name = f"NRMSE % on {plural(len(common), 'common subject')}"
            cells[name] = mean_sd(means.loc[row, common], 2)
        if is_comparable_to_paper(results):
            published = paper.NRMSE_PERCENT[results.dataset].get(row)
            cells["paper's NRMSE %"] = published if _is_of_paper(results, row) else None
    notes = _notes(results, metrics, rows, table.number)
    return Table(table.stem, title, list(body[0]), body, notes)


def _summarize_row(results: Results, row: str) -> dict[str, Cell]:
    metrics = results.select([row])
    cells: dict[str, Cell] = {
        "model": paper.label(row),
        "row": row,
        "parameters": int(metrics["parameters"].iloc[0]),
        "folds": _folds(results, metrics),
    }
    for metric, (name, digits) in SHOWN_METRICS.items():
        means = subject_means(metrics, metric).loc[row, metrics["test_subject"].unique()]
        cells[name] = mean_sd(means, digits)
    return cells


def _per_target_table(
    results: Results, rows: Sequence[str], metric: str, stem: str, title: str
) -> Table:
    name, digits = SHOWN_METRICS[metric]
    metrics = results.select(rows)
    overall = metrics[metrics["activity"] == "all"]
    body = []
    for row in rows:
        of_row = overall[overall["row"] == row]
        by_target = of_row.groupby("target", sort=False)[metric]
        cells = {target: mean_sd(values, digits) for target, values in by_target}
        body.append({"row": row, "folds": _folds(results, of_row), **cells})
    stem = f"{stem}_{metric.split('_')[0]}_per_target"
    notes = [] if _same_subjects(metrics) else [f"{DIFFERENT_SUBJECTS}."]
    columns = ["row", "folds", *metrics["target"].unique()]
    return Table(stem, f"{title}: {name} per target", columns, body, notes)


def _notes(results: Results, metrics: pd.DataFrame, rows: Sequence[str], number: str) -> list[str]:
    notes = ["Mean over targets, then mean ± SD over test subjects."]
    if not _same_subjects(metrics):
        common = ", ".join(common_subjects(metrics)) or "none"
        notes.append(f"{DIFFERENT_SUBJECTS}; common subjects: {common}.")
    if is_comparable_to_paper(results):
        if any(paper.kind(row) == "lstm" for row in rows):
            notes.append(paper.LSTM_NOTE[results.dataset])
        if results.dataset == "B" and any(paper.kind(row) == "distilled" for row in rows):
            notes.append(paper.DISTILLATION_NOTE)
    elif results.dataset in paper.SUBJECTS and not results.is_synthetic:
        theirs = f"{paper.SUBJECTS[results.dataset]} subjects, protocol `paper`"
        count = plural(len(results.subjects), "subject")
        ours = f"{count}, protocol `{results.settings['protocol']}`"
        old = [name for name in OLD_SETTINGS if results.settings.get(name)]
        ours += "".join(f", {name} `{results.settings[name]}`" for name in old)
        notes.append(
            f"The paper's values ({theirs}) are left out because they are not comparable with "
            f"these results ({ours})."
        )
    missing = [row for row in paper.expected_rows(results.dataset, number) if row not in rows]
    if missing:
        names = f": {', '.join(missing)}" if len(missing) <= MAX_LISTED_ROWS else ""
        notes.append(f"Rows of the paper that were not run ({len(missing)}){names}.")
    return notes


def is_comparable_to_paper(results: Results) -> bool:
    """Return whether data are measured, and subjects, protocol and training are the paper's."""
    is_whole = len(results.subjects) == paper.SUBJECTS.get(results.dataset)
    is_of_paper = results.settings["protocol"] == "paper" and not any(
        results.settings.get(name) for name in OLD_SETTINGS
    )
    return is_whole and is_of_paper and not results.is_synthetic


def _is_of_paper(results: Results, row: str) -> bool:
    """Return whether a row has results from one of the paper's scripts."""
    return any(script.lower() in paper.SCRIPTS for script in results.select([row])["script"])


def readme_tables(all_results: Sequence[Results]) -> str:
    """Return the README's tables: the paper's values next to ours, then other measured results.

    Raises:
        InputError: Some of the results are for synthetic data.
    """
    synthetic = [results.name for results in all_results if results.is_synthetic]
    if synthetic:
        raise InputError(
            f"{', '.join(synthetic)}: synthetic data do not belong in the README; leave them out"
        )
    comparable: dict[str, Results] = {}
    others = []
    for results in all_results:
        if is_comparable_to_paper(results) and results.dataset not in comparable:
            comparable[results.dataset] = results
        else:
            others.append(results)
    parts = [_next_to_paper(dataset, comparable.get(dataset)) for dataset in ("A", "B")]
    return "\n".join(parts + [_measured(results) for results in others])


def _next_to_paper(dataset: str, results: Results | None) -> str:
    title = f"Dataset {dataset}, {paper.SUBJECTS[dataset]} subjects, protocol `paper`"
    title += f"; ours trained for {results.training}:" if results else ":"
    body = []
    for row, published in paper.NRMSE_PERCENT[dataset].items():
        ours: dict[str, Cell] = {"NRMSE %": "not run"}
        if results is not None and _is_of_paper(results, row):
            ours = _summarize_row(results, row)
        body.append(
            {
                "model": paper.label(row),
                "row": f"`{row}`",
                "paper's NRMSE %": published,
                "our NRMSE %": ours["NRMSE %"],
                "our PCC": ours.get("PCC"),
                "folds": ours.get("folds"),
            }
        )
    return f"{title}\n\n{layout(list(body[0]), body, 'pipe')}\n"


def _measured(results: Results) -> str:
    data = results.settings["data"]
    title = (
        f"Dataset {results.dataset}, `{data['file']}`, {len(data['subjects'])} subjects, protocol "
        f"`{results.settings['protocol']}`, trained for {results.training}:"
    )
    rows = [row for sets in rows_by_table(results).values() for row in sum(sets.values(), [])]
    body = [{**_summarize_row(results, row), "row": f"`{row}`"} for row in rows]
    columns = ["row", "parameters", *(name for name, _ in SHOWN_METRICS.values()), "folds"]
    return f"{title}\n\n{layout(columns, body, 'pipe')}\n"


def mean_sd(values: pd.Series, digits: int) -> MeanSD | None:
    """Return mean and sample SD; no SD for a single value, None for no value."""
    if not len(values):
        return None
    sd = values.std(skipna=False) if len(values) > 1 else None
    return MeanSD(values.mean(skipna=False), sd, digits)


def _folds(results: Results, metrics: pd.DataFrame) -> str:
    return f"{metrics['test_subject'].nunique()} of {len(results.subjects)}"


def _same_subjects(metrics: pd.DataFrame) -> bool:
    return metrics.groupby("row")["test_subject"].agg(frozenset).nunique() == 1
