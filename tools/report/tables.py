"""Tables of a report: their numbers, and their layout as Markdown, LaTeX, HTML and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
from tabulate import LATEX_ESCAPE_RULES, tabulate

from common.files import InputError, plural
from common.metrics import overall
from tools.report import paper
from tools.report.runs import OLD_SETTINGS, Results

DIFFERENT_SUBJECTS = "The rows were tested on different subjects: their means are not comparable"
SYNTHETIC_NOTE = (
    "SYNTHETIC DATA: the gait is simulated. These results are not the paper's and say nothing "
    "about people."
)
SHOWN_METRICS = {"nrmse_percent": "NRMSE %", "pcc": "PCC"}
THREE_DIGITS = ("PCC", "Mauchly's W", "Greenhouse-Geisser ε")  # columns; other numbers have two
P_VALUE = re.compile(r"(^|\s)p(,|$)")  # headings of columns of p values

LATEX = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[a4paper,margin=15mm]{geometry}
\usepackage{booktabs,graphicx}
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
\begin{document}
%s\end{document}
"""
LATEX_SYMBOLS = {"±": r"$\pm$", "²": "$^2$", "·": r"$\cdot$", "−": "$-$", "ε": r"$\varepsilon$"}


@dataclass
class Table:
    """A table that can be written as Markdown, LaTeX, HTML and CSV."""

    stem: str  # of its CSV file
    title: str
    numbers: pd.DataFrame  # in full precision; `<name> mean` and `<name> SD` are shown as one
    notes: list[str]
    digits: int = 2  # decimal places of most columns
    is_long: bool = False  # written as CSV only

    def markdown(self) -> str:
        """Return the table in Markdown with its heading and notes."""
        parts = [f"### {self.title}", layout(self.numbers, "pipe", self.digits), *self.notes]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Return the table in LaTeX; it needs the preamble in `LATEX`."""
        texts = _texts(self.numbers, self.digits)
        alignment = "".join(side[0] for side in _alignment(texts))
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
        return layout(self.numbers, "html", self.digits)


def layout(numbers: pd.DataFrame, style: str, digits: int = 2) -> str:
    """Return the table alone, in a style of tabulate."""
    texts = _texts(numbers, digits)
    alignment = _alignment(texts)
    if style == "pipe":
        texts = texts.replace(r"\|", r"\\|", regex=True)
    rows, headers = texts.to_numpy().tolist(), list(texts)
    return tabulate(rows, headers, style, colalign=alignment, disable_numparse=True)


def _texts(numbers: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Return a table as text; an undefined mean is named, other missing values are empty."""
    texts = {}
    for column, values in numbers.items():
        name = column.removesuffix(" mean")
        if name != column:
            pairs = zip(values, numbers[f"{name} SD"], strict=True)
            parts = ([_text(name, value, digits) for value in pair] for pair in pairs)
            texts[name] = [" ± ".join(filter(None, pair)) or "undefined" for pair in parts]
        elif f"{column.removesuffix(' SD')} mean" not in numbers:
            texts[name] = [_text(name, value, digits) for value in values]
    return pd.DataFrame(texts)


def _text(name: str, value: object, digits: int) -> str:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return value if isinstance(value, str) else f"{value:,}"
    if P_VALUE.search(name):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.{3 if name in THREE_DIGITS else digits}f}"


def _alignment(texts: pd.DataFrame) -> list[str]:
    """Return `left` for the columns with words, `right` for those with numbers."""
    words = texts.apply(lambda column: column.str.match("`?[A-Za-z]") & (column != "undefined"))
    return ["left" if has_words else "right" for has_words in words.any()]


def _latex(text: str) -> str:
    escaped = text.translate(str.maketrans(LATEX_ESCAPE_RULES))
    return re.sub("`([^`]*)`", r"\\texttt{\1}", escaped)


# Numbers ------------------------------------------------------------------------------------------


def subject_means(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric's mean over targets, over all activities.

    Returns:
        `(rows, subjects)`; NaN where a row was not tested on a subject or a target is undefined.
    """
    groups = overall(metrics).groupby(["row", "test_subject"], sort=False)[metric]
    return groups.agg(lambda values: values.mean(skipna=False)).unstack("test_subject")


def common_nrmse(results: Results, rows: Sequence[str]) -> pd.DataFrame:
    """Return NRMSE in %, mean over targets, `(subjects, rows)`.

    It has the subjects on which every row was tested and its NRMSE is defined.
    """
    means = subject_means(results.select(rows), "nrmse_percent")
    return means.loc[list(rows), means.notna().all()].T


def mean_sd(values: pd.Series) -> dict[str, float]:
    """Return mean and sample SD, both NaN if a value is undefined; no SD for a single value."""
    return {"mean": values.mean(skipna=False), "SD": values.std(skipna=False)}


def summarize_rows(metrics: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    """Return mean and SD over subjects of the shown metrics, a line per row."""
    lines = []
    for row in rows:
        of_row = metrics[metrics["row"] == row]
        line: dict[str, object] = {"row": row, "parameters": of_row["parameters"].iloc[0]}
        for metric, name in SHOWN_METRICS.items():
            means = subject_means(of_row, metric).loc[row, of_row["test_subject"].unique()]
            line |= {f"{name} {key}": value for key, value in mean_sd(means).items()}
        lines.append(line)
    return pd.DataFrame(lines)


def count_folds(results: Results, rows: Sequence[str]) -> list[str]:
    """Return the finished folds of each row, as in `3 of 20`."""
    tested = results.metrics.groupby("row")["test_subject"].nunique()
    return [f"{tested[row]} of {len(results.subjects)}" for row in rows]


def rows_by_table(results: Results) -> dict[paper.PaperTable, dict[str, list[str]]]:
    """Return the rows of each table and sensor set, in the paper's order."""
    known = results.metrics.drop_duplicates("row").set_index("row")
    tables: dict[paper.PaperTable, dict[str, list[str]]] = {}
    for row, sensor_set in paper.sort_rows(list(results.imus), known["sensor_set"].items()):
        table = paper.table(results.dataset, known.loc[row, "script"], sensor_set)
        tables.setdefault(table, {}).setdefault(sensor_set, []).append(row)
    return dict(sorted(tables.items(), key=lambda item: item[0].number))


def sort_rows(results: Results) -> list[str]:
    """Return all rows, in the order of the tables."""
    return [
        row for sets in rows_by_table(results).values() for rows in sets.values() for row in rows
    ]


# The paper's tables -------------------------------------------------------------------------------


def summary_tables(results: Results) -> list[Table]:
    """Return the paper's tables, each followed by NRMSE and PCC per target."""
    tables = []
    for table, by_sensor_set in rows_by_table(results).items():
        rows = [row for names in by_sensor_set.values() for row in names]
        metrics = results.select(rows)
        tested = metrics.groupby("row")["test_subject"].agg(frozenset)
        common = common_nrmse(results, rows) if tested.nunique() > 1 else None
        title = f"{table.title}, {results.label}"
        if results.dataset in paper.SUBJECTS:
            is_extra = "," in table.number
            title += " (not in the paper)" if is_extra else f" (Table {table.number} of the paper)"
        notes = _notes(results, rows)
        if common is not None:
            names = ", ".join(common.index) or "none"
            notes.insert(1, f"{DIFFERENT_SUBJECTS}; common subjects: {names}.")
        tables.append(Table(table.stem, title, _means(results, rows, common), notes))
        whole = overall(metrics)
        for metric, name in SHOWN_METRICS.items():
            numbers = pd.DataFrame({"row": rows, "folds": count_folds(results, rows)})
            summary = whole.groupby(["target", "row"], sort=False)[metric].apply(mean_sd)
            for target, key in product(whole["target"].unique(), ("mean", "SD")):
                numbers[f"{target} {key}"] = summary[target, :, key].reindex(rows).to_numpy()
            stem, digits = metric.removesuffix("_percent"), {"PCC": 3}.get(name, 2)
            per_target = f"{table.stem}_{stem}_per_target", f"{title}: {name} per target"
            notes = ["Mean ± SD over test subjects."]
            notes += [] if common is None else [f"{DIFFERENT_SUBJECTS}."]
            tables.append(Table(*per_target, numbers, notes, digits))
    return tables


def _means(results: Results, rows: Sequence[str], common: pd.DataFrame | None) -> pd.DataFrame:
    numbers = summarize_rows(results.metrics, rows)
    numbers.insert(0, "model", [paper.label(row) for row in rows])
    numbers.insert(3, "folds", count_folds(results, rows))
    if common is not None:
        name = f"NRMSE % on {plural(len(common), 'common subject')}"
        on_common = pd.DataFrame([mean_sd(common[row]) for row in rows])
        numbers = numbers.join(on_common.add_prefix(f"{name} "))
    if is_comparable_to_paper(results):
        ours, published = _rows_of_paper(results), paper.NRMSE_PERCENT[results.dataset]
        numbers["paper's NRMSE %"] = [published.get(row) if row in ours else None for row in rows]
    return numbers


def _notes(results: Results, rows: Sequence[str]) -> list[str]:
    notes = ["Mean over targets, then mean ± SD over test subjects."]
    kinds = {paper.kind(row) for row in rows}
    if is_comparable_to_paper(results):
        notes += [paper.LSTM_NOTE] if "lstm" in kinds else []
        if results.dataset == "B" and "distilled" in kinds:
            notes.append(paper.DISTILLATION_NOTE)
    elif results.dataset in paper.SUBJECTS and not results.is_synthetic:
        old = [f"{name} `{v}`" for name in OLD_SETTINGS if (v := results.settings.get(name))]
        count = plural(len(results.subjects), "subject")
        ours = ", ".join([count, f"protocol `{results.settings['protocol']}`", *old])
        notes.append(
            f"The paper's values ({paper.SUBJECTS[results.dataset]} subjects, protocol `paper`) "
            f"are left out because they are not comparable with these results ({ours})."
        )
    return notes


def is_comparable_to_paper(results: Results) -> bool:
    """Return whether data are measured, and subjects, protocol and training are the paper's."""
    settings = results.settings
    is_whole = len(results.subjects) == paper.SUBJECTS.get(results.dataset)
    is_of_paper = settings["protocol"] == "paper" and not any(map(settings.get, OLD_SETTINGS))
    return is_whole and is_of_paper and not results.is_synthetic


def _rows_of_paper(results: Results) -> set[str]:
    """Return the rows that have results from one of the paper's scripts."""
    is_of_paper = results.metrics["script"].str.lower().isin(paper.SCRIPTS)
    return set(results.metrics.loc[is_of_paper, "row"])


# Tables for a page of the documentation -----------------------------------------------------------


def readme_tables(all_results: Sequence[Results]) -> str:
    """Return tables for a page: the paper's values next to ours, then other measured results.

    Raises:
        InputError: Some of the results are for synthetic data.
    """
    if synthetic := [results.name for results in all_results if results.is_synthetic]:
        raise InputError(
            f"{', '.join(synthetic)}: results on synthetic data cannot be published; leave them out"
        )
    comparable = {r.dataset: r for r in reversed(all_results) if is_comparable_to_paper(r)}
    others = [results for results in all_results if results not in comparable.values()]
    parts = [_next_to_paper(dataset, comparable.get(dataset)) for dataset in ("A", "B")]
    return "\n".join(parts + [_measured(results) for results in others])


def _next_to_paper(dataset: str, results: Results | None) -> str:
    title = f"Dataset {dataset}, {paper.SUBJECTS[dataset]} subjects, protocol `paper`"
    published = pd.Series(paper.NRMSE_PERCENT[dataset])
    numbers = pd.DataFrame({"model": published.index.map(paper.label), "row": published.index})
    numbers["paper's NRMSE %"] = published.to_numpy()
    numbers[["our NRMSE %", "our PCC", "folds"]] = "not run", "", ""
    ours_of = _rows_of_paper(results) if results else set()
    title += f"; ours trained for {results.training}" if results else ""
    if rows := [row for row in published.index if row in ours_of]:
        ours = _texts(summarize_rows(results.metrics, rows), 2)
        found = numbers["row"].isin(rows)
        numbers.loc[found, ["our NRMSE %", "our PCC"]] = ours[["NRMSE %", "PCC"]].to_numpy()
        numbers.loc[found, "folds"] = count_folds(results, rows)
    return f"{title}:\n\n{_with_code(numbers)}\n"


def _measured(results: Results) -> str:
    title = (
        f"Dataset {results.dataset}, `{results.data['file']}`, {len(results.subjects)} subjects, "
        f"protocol `{results.settings['protocol']}`, trained for {results.training}:"
    )
    rows = sort_rows(results)
    numbers = summarize_rows(results.metrics, rows).assign(folds=count_folds(results, rows))
    return f"{title}\n\n{_with_code(numbers)}\n"


def _with_code(numbers: pd.DataFrame) -> str:
    return layout(numbers.assign(row="`" + numbers["row"] + "`"), "pipe")
