"""Turn runs into the paper's tables, with its statistics and figures.

    python -m tools.report outputs/*/full
    python -m tools.report outputs/Dataset_B_*/full --out report_b --agreement teacher

Give the folders of any runs, of one script or several, of all subjects or some. Runs of one dataset
and protocol that share data file, seed and training make the tables together; others are kept
apart, and the report says so. It prints Markdown and writes into DIR:

  report.md              what is printed
  tables.tex             all tables as LaTeX (booktabs); it compiles as it is
  per_subject.csv        every number that the tables are made of
  <A|B>-<protocol>/      each table as CSV in full precision, and the figures

Exit status 2, with one line that says what to do, for folders that cannot be used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common import flags, study
from common.files import InputError, written_whole
from tools.reporting import comparison, figures, readme, summary, text
from tools.reporting.collect import Results, collect


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report of the runs that `argv` names, and write it.

    Raises:
        InputError: Folders that are no runs, are damaged or do not go together.
    """
    options = _parser().parse_args(argv)
    all_results = collect(options.runs)
    if options.readme:
        readme.update(options.readme, all_results)
        print(f"Wrote the results into {options.readme}")
        return
    rows = list(dict.fromkeys(row for results in all_results for row in results.lines["row"]))
    unknown = [row for row in options.agreement or () if row not in rows]
    if unknown:
        raise InputError(f"--agreement: no row {' '.join(unknown)}; there are {' '.join(rows)}")
    tables = {
        results.name: [*summary.tables(results), *comparison.tables(results)]
        for results in all_results
    }
    report = "# Report\n\n" + "\n".join(
        _introduction(results) + "\n".join(text.markdown(t) for t in _read(tables[results.name]))
        for results in all_results
    )
    print(report)
    try:
        _write(options.out / "report.md", report)
        latex = "\n".join(text.latex(t) for found in tables.values() for t in _read(found))
        _write(options.out / "tables.tex", text.LATEX_START + latex + text.LATEX_END)
        _write(options.out / "per_subject.csv", _numbers(all_results))
        for results in all_results:
            for table in tables[results.name]:
                _write(options.out / results.name / f"{table.stem}.csv", text.csv_text(table))
            if not options.no_figures:
                folder = options.out / results.name / "figures"
                figures.write_all(results, folder, options.agreement)
    except OSError as error:
        raise InputError(
            f"{options.out}: cannot write there ({error.strerror}); give another --out"
        ) from error
    print(f"Report: {options.out}")


def _read(tables: Sequence[text.Table]) -> list[text.Table]:
    """Return the tables that are short enough to be read."""
    return [table for table in tables if not table.is_long]


def _parser() -> flags.Parser:
    parser = flags.Parser(
        prog="python -m tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="folder of a run, outputs/<script>/<run>",
    )
    add(
        "--out",
        type=Path,
        default=Path("outputs/report"),
        metavar="DIR",
        help="folder of the report (default: outputs/report)",
    )
    add(
        "--agreement",
        nargs="+",
        metavar="ROW",
        help="rows whose Bland-Altman and scatter plots are drawn; they read predictions/, some "
        "seconds per row and subject (default: the teacher and the distilled student with the "
        "fewest IMUs, else the most accurate row)",
    )
    add("--no-figures", action="store_true", help="tables only")
    add(
        "--readme",
        type=Path,
        metavar="FILE",
        help="write the results between the marks in FILE in place of a report",
    )
    return parser


def _introduction(results: Results) -> str:
    settings = results.settings
    lines = [f"## Dataset {results.dataset}, protocol `{settings['protocol']}` ({results.name})\n"]
    if results.is_synthetic:
        lines.append(
            "**SYNTHETIC DATA: simulated gait. These figures are not the paper's, and say nothing "
            "of people.**\n"
        )
    data = settings["data"]
    lines.append(
        f"Data: {data['file']}, {len(data['subjects'])} subjects. Trained with {results.training}."
        "\n"
    )
    lines += [f"- NOTICE: {notice}" for notice in results.notices]
    return "\n".join(lines) + "\n\n"


def _numbers(all_results: Sequence[Results]) -> str:
    parts = []
    for results in all_results:
        lines = results.lines.drop(columns=["folder"])
        parts.append(lines.assign(results=results.name, data_file=results.settings["data"]["file"]))
    return pd.concat(parts).to_csv(index=False)


def _write(path: Path, content: str) -> None:
    with written_whole(path) as part:
        part.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    study.start(main)
