"""Turn runs into the paper's tables, plus statistics and figures.

    python -m tools.report outputs/*/full
    python -m tools.report outputs/Dataset_B_*/full --out report_b --agreement teacher

Pass the folders of any runs, of one script or several, with all test subjects or some. Runs of one
dataset that share the data file, protocol, seed and training go into the same tables; others are
reported separately, with a notice. The command prints Markdown and writes into DIR:

  report.html            tables, figures, settings and versions: one self-contained page
  report.md              the printed text
  tables.tex             all tables in LaTeX (booktabs), ready to compile
  per_subject.csv        the values of each test subject
  <A|B>-<protocol>/      each table as CSV in full precision, the figures, and MODEL_CARD.md of
                         each run in a separate folder

If a run cannot be used, the command exits with status 2 and one line that says how to fix it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.cli import ArgumentParser, add_figure_format, file_path, run_main
from common.files import InputError, printable, write_text
from tools.output import check_writable, explain_write_errors
from tools.report import figures
from tools.report.html import Section, html_page
from tools.report.model_card import model_card
from tools.report.runs import Results, load_results
from tools.report.stances import load_stances, stance_tables
from tools.report.statistics import statistics_tables
from tools.report.tables import LATEX, SYNTHETIC_NOTE, Table, readme_tables, summary_tables
from tools.trained import find_script

FILES = ("report.md", "report.html", "tables.tex", "per_subject.csv")  # the first is written first
RUN_FILES = ("config.json", "metrics.csv", "history.csv", "stances.csv")  # that are read
START = "# Report\n\n## Dataset "
README_START, README_END = "<!-- results -->", "<!-- /results -->"


def main(argv: Sequence[str] | None = None) -> None:
    """Print and write a report of the runs that `argv` names.

    Raises:
        InputError: A folder is not a run, is damaged or contradicts another, or the report cannot
            be written.
    """
    args = _parse(argv)
    all_results = load_results(args.runs)
    check_outputs(args, all_results)
    if args.readme:
        update_readme(args.readme, all_results)
        print(f"Wrote the results to {args.readme}")
        return
    rows = list(dict.fromkeys(row for results in all_results for row in results.metrics["row"]))
    unknown = [row for row in args.agreement or () if row not in rows]
    if unknown:
        raise InputError(f"--agreement: no row {' '.join(unknown)}; choose from {' '.join(rows)}")
    with explain_write_errors(args.out, "--out"):
        _write_report(all_results, args)
    print(f"Report: {args.out}")


def check_outputs(args: argparse.Namespace, all_results: Sequence[Results]) -> None:
    """Check that only files of an earlier report are replaced.

    Raises:
        InputError: An output is a file of a run, or its folder has files of another origin.
    """
    runs = [run.folder for results in all_results for run in results.runs]
    inputs = [run / name for run in runs for name in RUN_FILES]
    inputs += [path for run in runs for path in run.glob("predictions/*.npz")]
    if args.readme:  # it must have the marks
        check_writable(args.readme, inputs, lambda _: True, "--readme")
        return
    first = args.out / FILES[0]
    try:
        is_ours = first.read_text(encoding="utf-8").startswith(START)
    except (OSError, ValueError):
        is_ours = False
    for name in FILES:
        check_writable(args.out / name, inputs, lambda _: is_ours)
    for results in all_results:
        if (args.out / results.name).exists() and not is_ours:
            raise InputError(
                f"{args.out / results.name}: already exists and was not written by this command; "
                "choose another --out"
            )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m tools.report", description=__doc__)
    add = parser.add_argument
    text = "folder of a run, outputs/<script>/<run>"
    add("runs", nargs="+", type=file_path, metavar="RUN_DIR", help=text)
    text = "folder of the report (default: outputs/report)"
    add("--out", type=file_path, default=Path("outputs/report"), metavar="DIR", help=text)
    text = (
        "rows to draw stance curves, Bland-Altman and scatter plots of (default: the teacher and "
        "the distilled student with the fewest IMUs, or else the most accurate row)"
    )
    add("--agreement", nargs="+", metavar="ROW", help=text)
    add("--no-figures", action="store_true", help="write tables only")
    add_figure_format(parser, "also write the figures as pdf or svg (default: png only)")
    text = f"instead of a report, write the results between {README_START} and {README_END} in FILE"
    add("--readme", type=file_path, metavar="FILE", help=text)
    return parser.parse_args(argv)


def _write_report(all_results: Sequence[Results], args: argparse.Namespace) -> None:
    all_stances = [load_stances(results) for results in all_results]
    all_tables = [
        [*summary_tables(results), *stance_tables(results, stances), *statistics_tables(results)]
        for results, stances in zip(all_results, all_stances, strict=True)
    ]
    text, latex, metrics, sections = _markdown(all_results, all_tables), "", [], []
    if not args.no_figures:
        folders = ", ".join(f"`{results.name}/figures/`" for results in all_results)
        text += f"\nFigures: {folders}; `report.html` shows them next to the tables.\n"
    write_text(args.out / FILES[0], text)
    for results, tables, stances in zip(all_results, all_tables, all_stances, strict=True):
        folder = args.out / results.name
        shown = [table for table in tables if not table.is_long]
        latex += "".join(table.latex() + "\n" for table in shown)
        labels = {"results": results.name, "data_file": results.data["file"]}
        metrics.append(results.metrics.drop(columns="folder").assign(**labels))
        for table in tables:
            write_text(folder / f"{table.stem}.csv", table.numbers.to_csv(index=False))
        _write_model_cards(results, folder)
        images = []
        if not args.no_figures:
            images = figures.write_figures(
                results, stances, folder / "figures", args.figure_format, args.agreement
            )
        sections.append(Section(results, shown, images))
    print(text)
    write_text(args.out / "tables.tex", LATEX % latex)
    write_text(args.out / "per_subject.csv", pd.concat(metrics).to_csv(index=False))
    write_text(args.out / "report.html", html_page(sections))


def _markdown(all_results: Sequence[Results], all_tables: Sequence[Sequence[Table]]) -> str:
    text = "# Report\n"
    for results, tables in zip(all_results, all_tables, strict=True):
        shown = [table.markdown() for table in tables if not table.is_long]
        text += "\n" + "\n".join([_introduction(results), *shown])
    return printable(text)


def _write_model_cards(results: Results, folder: Path) -> None:
    """Write the model card of each run with finished rows, if its script is still there."""
    runs = [run for run in results.runs if len(run.metrics)]
    names = [f"{run.script}-{run.folder.name}" for run in runs]
    for number, (name, run) in enumerate(zip(names, runs, strict=True), start=1):
        unique = name if names.count(name) == 1 else f"{name}-{number}"
        try:
            card = model_card(run, find_script(run.script))
            write_text(folder / unique / "MODEL_CARD.md", printable(card))
        except ValueError as error:
            print(printable(f"{name}: no model card, because {error}."))


def _introduction(results: Results) -> str:
    protocol = results.settings["protocol"]
    paragraphs = [f"## Dataset {results.dataset}, protocol `{protocol}` ({results.name})"]
    if results.is_synthetic:
        paragraphs.append(f"**{SYNTHETIC_NOTE}**")
    paragraphs.append(results.description)
    if results.notices:
        paragraphs.append("\n".join(f"- NOTICE: {notice}" for notice in results.notices))
    return "\n\n".join(paragraphs) + "\n"


def update_readme(path: Path, all_results: Sequence[Results]) -> None:
    """Replace the text between the marks in a page with tables of the results.

    Raises:
        InputError: The file cannot be used or lacks the marks, or the data are synthetic.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); pass a text file") from error
    if content.count(README_START) != 1 or content.count(README_END) != 1:
        raise InputError(
            f"{path}: needs the lines {README_START} and {README_END} exactly once; add them"
        )
    block = f"{README_START}\n{readme_tables(all_results)}{README_END}"
    marked = re.compile(f"{README_START}.*{README_END}", re.DOTALL)
    with explain_write_errors(path, "--readme"):
        write_text(path.resolve(), marked.sub(lambda _: block, content))  # may be a link


if __name__ == "__main__":
    run_main(main)
