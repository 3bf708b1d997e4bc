"""The README's results: what is published, and what was measured here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.files import InputError, written_whole
from tools.reporting import layout, summary
from tools.reporting.collect import Results
from tools.reporting.text import Cell, markdown_lines

START, END = "<!-- results -->", "<!-- /results -->"


def update(path: Path, all_results: Sequence[Results]) -> None:
    """Replace what stands between the marks in a file.

    Raises:
        InputError: There is no such file, it lacks the marks, or the data are synthetic.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read it ({error.strerror}); give a text file") from error
    if content.count(START) != 1 or content.count(END) != 1:
        raise InputError(f"{path}: it needs the lines {START} and {END} once each")
    new = re.sub(
        f"{START}.*{END}", lambda _: f"{START}\n{block(all_results)}{END}", content, flags=re.DOTALL
    )
    with written_whole(path) as part:
        part.write_text(new, encoding="utf-8")


def block(all_results: Sequence[Results]) -> str:
    """Return the results as Markdown: beside the paper's figures, then on other measured data.

    Raises:
        InputError: Results on synthetic data.
    """
    synthetic = [results.name for results in all_results if results.is_synthetic]
    if synthetic:
        raise InputError(f"{', '.join(synthetic)}: synthetic data have no place in the README")
    whole: dict[str, Results] = {}
    others = []
    for results in all_results:
        if summary.paper_column_fits(results) and results.dataset not in whole:
            whole[results.dataset] = results
        else:
            others.append(results)
    parts = [_beside_the_paper(dataset, whole.get(dataset)) for dataset in ("A", "B")]
    parts += [_measured(results) for results in others]
    return "\n".join(parts)


def _beside_the_paper(dataset: str, results: Results | None) -> str:
    body = []
    for row, figure in layout.PAPER_NRMSE[dataset].items():
        ours: list[Cell] = ["not run", None, None]
        if results is not None and (results.lines["row"] == row).any():
            means = {metric: _over_subjects(results, row, metric) for metric in summary.METRICS}
            ours = [*means.values(), summary.folds(results.lines, row, results)]
        body.append([layout.label(row), f"`{row}`", figure, *ours])
    header = ["model", "row", "paper's NRMSE %", "our NRMSE %", "our PCC", "folds"]
    title = f"Dataset {dataset}, {layout.SUBJECTS[dataset]} subjects, protocol `paper`"
    title += f"; ours {results.training}:" if results is not None else ":"
    return "\n".join([title, "", *markdown_lines(header, body)]) + "\n"


def _measured(results: Results) -> str:
    data, rows = results.settings["data"], sum(summary.places(results).values(), [])
    lines = results.lines
    body = []
    for row in rows:
        parameters = int(lines.loc[lines["row"] == row, "parameters"].iloc[0])
        means = [_over_subjects(results, row, metric) for metric in summary.METRICS]
        body.append([f"`{row}`", parameters, *means, summary.folds(lines, row, results)])
    title = (
        f"Dataset {results.dataset}, `{data['file']}`, {len(data['subjects'])} subjects, protocol "
        f"`{results.settings['protocol']}`, {results.training}:"
    )
    header = ["row", "parameters", "NRMSE %", "PCC", "folds"]
    return "\n".join([title, "", *markdown_lines(header, body)]) + "\n"


def _over_subjects(results: Results, row: str, metric: str) -> Cell:
    lines = results.lines[results.lines["row"] == row]
    return summary.mean_sd(
        summary.subject_means(lines, metric).loc[row], summary.METRICS[metric][1]
    )
