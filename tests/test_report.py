"""The report's command: what it reads, refuses and writes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from common import study
from common.files import InputError
from tests.conftest import ROOT
from tests.made_runs import PAIR, TWENTY, made, settings
from tools import report
from tools.reporting import layout, readme, summary, text
from tools.reporting.collect import collect


def sample(**others: object) -> dict[str, object]:
    """Return the data setting of the synthetic sample."""
    return {"file": "sample_dataset_a.h5", "bytes": 5, "subjects": TWENTY, **others}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no run (no config.json)"),
        ("config.json", '{"settings": {"se', "config.json: damaged"),
        ("config.json", "[]", "config.json: damaged"),
        ("config.json", '{"settings": {"script": "Dataset_A_x"}}', "no batch_size, data"),
        ("config.json", json.dumps({"settings": settings("other", [])}), "of neither dataset"),
        ("metrics.csv", "a,b\n1,2\n", "metrics.csv: damaged (no column"),
        ("metrics.csv", "", "metrics.csv: damaged"),
        ("metrics.csv", "twice", "stands twice"),
        ("metrics.csv", "cut", "subject 9 lacks GRF z"),
        ("metrics.csv", "text", "metrics.csv: damaged"),
    ],
)
def test_what_is_no_run_or_damaged_is_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    """Half a file must not be averaged as if it were whole; the error is one line."""
    path = made(tmp_path / "run") / name
    lines = path.read_text().splitlines(keepends=True)
    changed = {"twice": [*lines, lines[-1]], "cut": lines[:-1], "text": [*lines[:-1], "x" * 9]}
    if content is None:
        path.unlink()
    else:
        path.write_text("".join(changed.get(content, [content])))
    with pytest.raises(InputError) as error:
        collect([tmp_path / "run"])
    assert message in str(error.value)
    assert str(tmp_path / "run") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"), [("protocol", "strict"), ("seed", 1), ("data", sample()), ("epochs", 3)]
)
def test_runs_that_differ_are_kept_apart(tmp_path: Path, setting: str, value: object) -> None:
    """A mean over two protocols, seeds, files or trainings is the mean of nothing."""
    folders = [made(tmp_path / "1"), made(tmp_path / "2", nrmse=9.0, **{setting: value})]
    results = collect(folders)
    assert [len(r.lines) for r in results] == [42, 42]
    assert len({r.name for r in results}) == 2
    means = [summary.subject_means(r.lines, "nrmse_percent").iloc[0, 0] for r in results]
    assert abs(means[0] - means[1]) == pytest.approx(4)
    if setting != "protocol":
        assert f"differ in {setting} are kept apart" in results[0].notices[0]


def test_runs_of_a_script_with_other_flags_are_refused(tmp_path: Path) -> None:
    """Distilled rows of another alpha would be merged into the same row."""
    folders = [made(tmp_path / "1", alpha=0.5), made(tmp_path / "2", alpha=0.1)]
    with pytest.raises(InputError, match=r"2: alpha is 0\.1, but 0\.5 in .*1; report one"):
        collect(folders)
    folders[1] = made(tmp_path / "3", script="Dataset_A_lmfn", rows=[("lmfn-foot", "foot", 9)])
    assert len(collect(folders)) == 1  # other scripts have flags of their own


def test_a_row_and_subject_counts_once(tmp_path: Path) -> None:
    """The same fold in two runs would weigh twice; two different results are nobody's."""
    first, same = made(tmp_path / "1"), made(tmp_path / "2", tested=["8"])
    [results] = collect([first, same, first])
    assert len(results.lines) == 42
    assert sorted(results.notices) == [
        f"{row}, subject 8: the same numbers in 2 runs; counted once."
        for row in ("distilled-foot", "student-foot")
    ]
    with pytest.raises(InputError, match="row student-foot, subject 9 has other numbers"):
        collect([first, made(tmp_path / "3", rows=PAIR[:1], tested=["9"], nrmse=6.0)])


def test_a_run_going_on_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    """Days before the end one wants to see what is there; an empty run is named."""
    empty = made(tmp_path / "empty", rows=[])
    unwritten = made(tmp_path / "unwritten", rows=[])
    (unwritten / "metrics.csv").unlink()
    with pytest.raises(InputError, match="no finished row yet"):
        collect([empty, unwritten])
    [results] = collect([empty, made(tmp_path / "1", tested=["9"])])
    assert results.notices == ["empty: no finished row yet; left out."]
    table = summary.tables(results)[0]
    assert [line[3] for line in table.body] == ["1 of 3", "1 of 3"]
    assert [line[4].sd for line in table.body] == [None, None]


@pytest.mark.parametrize(
    ("subjects", "others", "is_shown"),
    [
        (TWENTY, {}, True),
        (TWENTY, {"protocol": "strict"}, False),
        (TWENTY[:3], {}, False),
        (TWENTY, {"data": sample()}, False),
    ],
)
def test_the_papers_figure_stands_beside_comparable_results_only(
    tmp_path: Path, subjects: list[str], others: dict[str, object], is_shown: bool
) -> None:
    """A reader compares what stands side by side; it is never a figure of ours."""
    rows = [("student-foot_shank_trunk", "foot_shank_trunk", 1884808), *PAIR]
    [results] = collect([made(tmp_path / "1", rows=rows, subjects=subjects, **others)])
    table = summary.tables(results)[0]
    shown = [line[table.header.index("paper's NRMSE %")] for line in table.body] if is_shown else []
    assert shown == ([None, None, "4.98"] if is_shown else [])
    assert is_shown == ("4.98" in text.markdown(table))


def run_report(tmp_path: Path, folders: list[Path], *flags: str) -> Path:
    """Run the command; return its folder."""
    out = tmp_path / "report"
    report.main([*map(str, folders), "--out", str(out), *flags])
    return out


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markdown, CSV in full precision, LaTeX and the numbers behind it; synthetic data say so."""
    folders = [made(tmp_path / "1", subjects=TWENTY)]
    folders.append(made(tmp_path / "2", protocol="strict", subjects=TWENTY, data=sample()))
    out = run_report(tmp_path, folders, "--no-figures")
    printed = capsys.readouterr().out
    markdown = (out / "report.md").read_text()
    assert markdown in printed
    real, synthetic = markdown.split("(A-strict)")
    assert "SYNTHETIC" not in real
    assert "**SYNTHETIC DATA" in synthetic
    titles = [line for line in synthetic.splitlines() if line.startswith("###")]
    assert all("SYNTHETIC DATA" in title for title in titles)
    with (out / "A-paper" / "table_III.csv").open() as file:
        lines = list(csv.DictReader(file))
    numbers = pd.read_csv(out / "per_subject.csv").query("results == 'A-paper'")
    means = numbers.groupby(["row", "test_subject"])["nrmse_percent"].mean().loc["student-foot"]
    assert float(lines[0]["NRMSE % mean"]) == pytest.approx(means.mean(), rel=1e-12)
    assert float(lines[0]["NRMSE % SD"]) == pytest.approx(means.std(), rel=1e-12)
    assert "| student-foot" in markdown
    assert rf"{means.mean():.2f} $\pm$ {means.std():.2f}" in (out / "tables.tex").read_text()
    pairs = (out / "A-paper" / "statistics_pairs.csv").read_text()
    assert pairs.count("\n") == 2


def test_latex_is_escaped_and_compiles(tmp_path: Path) -> None:
    """A `_` or `%` of a row's name or a unit would stop LaTeX in the middle of a paper."""
    row = ("mine_50%&#-foot", "foot", 1)
    out = run_report(tmp_path, [made(tmp_path / "1", rows=[*PAIR, row])], "--no-figures")
    latex = (out / "tables.tex").read_text()
    assert r"mine\_50\%\&\#-foot" in latex
    body = latex.split(r"\begin{document}")[1]
    assert body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\caption") > 3
    assert text.escaped("\\~^{}$<p ± ²") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\$$<$p $\pm$ $^2$"
    )
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here: structure and escapes were checked, compiling was not")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=out, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (out / "tables.pdf").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no run"),
        (["{run}", "--agreement", "tutor"], "no row tutor; there are student-foot distilled-foot"),
        (["{run}", "--out", "{run}/config.json"], "give another --out"),
        (["{run}", "--readme", "{run}/config.json"], "it needs the lines"),
    ],
)
def test_mistakes_end_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """No traceback, exit status 2."""
    run = made(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        study.start(lambda: report.main([a.format(run=run) for a in arguments]))
    assert end.value.code == 2
    problem = capsys.readouterr().err
    assert message in problem
    assert problem.count("\n") == 1


def test_help_tells_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` is the manual, and the README names the flags."""
    with pytest.raises(SystemExit, match="0"):
        report.main(["--help"])
    printed = capsys.readouterr().out
    content = (ROOT / "README.md").read_text()
    for flag in ("--out", "--agreement", "--no-figures", "--readme"):
        assert flag in printed
        assert f"`{flag}" in content


def test_the_readmes_results_are_up_to_date() -> None:
    """A table that was typed, or forgotten after a run, is no result."""
    content = (ROOT / "README.md").read_text()
    runs = sorted((ROOT / "docs" / "results").iterdir())
    expected = f"{readme.START}\n{readme.block(collect(runs))}{readme.END}"
    assert expected in content, "python -m tools.report docs/results/* --readme README.md"


def test_the_readmes_results_take_whole_datasets_and_no_synthetic_data(tmp_path: Path) -> None:
    """All 20 subjects stand beside the paper, a second seed on its own; the sample nowhere."""
    rows = [("distilled-foot_trunk", "foot_trunk", 1874056)]
    first = made(tmp_path / "1", rows=rows, subjects=TWENTY, tested=TWENTY[:2], nrmse=1.0)
    other = made(tmp_path / "2", rows=rows, subjects=TWENTY, nrmse=2.0, seed=1)
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.START}\nstale table\n{readme.END}\nafter\n")
    readme.update(path, collect([first, other]))
    content = path.read_text()
    assert content.startswith("before\n")
    assert content.endswith("after\n")
    assert "stale table" not in content
    lines = [line for line in content.splitlines() if "`distilled-foot_trunk`" in line]
    assert len(lines) == 2
    assert "4.91" in lines[0]
    assert "2 of 20" in lines[0]
    assert "20 of 20" in lines[1]
    assert content.count("not run") == sum(map(len, layout.PAPER_NRMSE.values())) - 1
    with pytest.raises(InputError, match="synthetic data have no place"):
        readme.update(path, collect([made(tmp_path / "3", data=sample())]))
