"""The command `report`: the runs it accepts and refuses, and the files it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from common.cli import run_main
from common.files import InputError, shorten
from tests.conftest import ROOT, Capture, Patch
from tests.made_runs import PAIR, SCRIPT, TWENTY_SUBJECTS, make_run, settings, synthetic_data
from tools.report import paper
from tools.report.__main__ import README_END, README_START, main
from tools.report.runs import load_results
from tools.report.tables import readme_tables


def write_report(tmp_path: Path, *runs: Path) -> Path:
    """Run the command without figures and return the folder of the report."""
    main([*map(str, runs), "--out", str(tmp_path / "report"), "--no-figures"])
    return tmp_path / "report"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "not a run (no config.json)"),
        ("config.json", '{"settings": {"se', "config.json: damaged"),
        ("config.json", "[]", "config.json: damaged"),
        ("config.json", '{"settings": {"script": "Dataset_A_x"}}', "lack batch_size, data"),
        ("config.json", json.dumps({"settings": settings("x", [])}), "there is no script 'x'"),
        ("metrics.csv", "a,b\n1,2\n", "metrics.csv: damaged (no column"),
        ("metrics.csv", "", "metrics.csv: damaged"),
        ("metrics.csv", "repeated line", "appears twice"),
        ("metrics.csv", "missing line", "subject 9 lacks GRF medio-lateral"),
        ("metrics.csv", "broken line", "metrics.csv: damaged"),
    ],
)
def test_folders_that_are_not_intact_runs_are_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    """A truncated file would be averaged as if it were complete."""
    path = make_run(tmp_path / "run") / name
    lines = path.read_text().splitlines(keepends=True)
    changed = {
        "repeated line": [*lines, lines[-1]],
        "missing line": lines[:-1],
        "broken line": [*lines[:-1], "x" * 9],
    }
    if content is None:
        path.unlink()
    else:
        path.write_text("".join(changed.get(content, [content])))
    with pytest.raises(InputError) as error:
        write_report(tmp_path, tmp_path / "run")
    assert message in str(error.value)
    assert str(tmp_path / "run") in str(error.value)
    assert not (tmp_path / "report").exists()


HOSTILE = [
    *("../../x", "/x", "a/../../x", "a\\..\\x", "", ".", "..", "x" * 300, "a\0b", "a\nNOTICE: b"),
    *("\x1b[2Jcleared", "\x1b]0;title\x07", "\u202egnp.exe", "a\rb", "a\tb"),
    *("=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_of_a_run_becomes_a_path_a_formula_or_a_command_of_the_terminal(
    text: str, tmp_path: Path
) -> None:
    """The report of a run from somebody else wrote files anywhere, and lied on the terminal."""
    run = make_run(tmp_path / "in" / "run")
    config, metrics = (
        json.loads((run / "config.json").read_text()),
        pd.read_csv(run / "metrics.csv"),
    )
    changes = {"protocol": text, "script": text, "seed": text}
    data = {"subjects": [text]}
    if not set(text) & {*"/\\."}:  # the name of the data file does not become a path
        data["file"] = text or "\n"
    changed = [{**config["settings"], name: value} for name, value in changes.items()]
    changed += [{**config["settings"], "script": f"Dataset_A_{text}\x1b"}]
    changed += [
        {**config["settings"], "data": {**config["settings"]["data"], name: value}}
        for name, value in data.items()
    ]

    def check() -> None:
        with pytest.raises(InputError) as error:
            write_report(tmp_path, run)
        assert shorten(error.value, 10_000) == str(error.value)
        assert "damaged" in str(error.value)
        assert not (tmp_path / "report").exists()

    for settings_of_run in changed:
        content = json.dumps({**config, "settings": settings_of_run})
        (run / "config.json").write_text(content)
        check()
    (run / "config.json").write_text(json.dumps(config))
    names = ["row", "test_subject"]
    if text and not set(text) & {*"/\\."}:  # the others are not parts of file names
        names += ["activity", "target", "unit", "sensor_set", "modalities"]
    for name in names:
        metrics.assign(**{name: metrics[name].where(metrics.index > 0, text)}).to_csv(
            run / "metrics.csv", index=False
        )
        check()
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"run"}


@pytest.mark.slow
def test_unusual_names_are_reported(tmp_path: Path) -> None:
    """A check that refuses the names of real subjects, rows and units is switched off by users."""
    rows = [("my net (2 layers), α=0.5-foot", "foot", 1), ("CON", "foot", 2), ("1", "foot", 3)]
    run = make_run(tmp_path / "run", rows, subjects=["7", "8"])
    metrics = pd.read_csv(run / "metrics.csv", dtype=str)
    metrics["unit"] = "%BW·BH"
    metrics["test_subject"] = metrics["test_subject"].replace({"7": "Anna Müller-2.1"})
    metrics.to_csv(run / "metrics.csv", index=False)
    (run / "config.json").write_text(
        (run / "config.json").read_text().replace('"7"', '"Anna Müller-2.1"')
    )
    main([str(run), "--out", str(tmp_path / "report")])
    numbers = pd.read_csv(tmp_path / "report" / "per_subject.csv", dtype=str)
    assert set(numbers["row"]) == {name for name, *_ in rows}
    assert (numbers["nrmse_percent"].astype(float) > 0).all()


def test_other_text_of_a_run_cannot_control_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    """Settings of other kinds are shown as they are, in the model card and in errors."""
    code = "\x1b]0;title\x07\u202e"
    run = make_run(tmp_path / "run", threads=code, device=code)
    out = write_report(tmp_path, run, make_run(tmp_path / f"r{code}2", device="cpu"))
    texts = [path.read_text() for path in out.rglob("*.md")]
    assert len(texts) > 1
    for text in (capsys.readouterr().out, *texts):
        assert not set(text) & {*code[:1], *code[-2:]}
    with pytest.raises(SystemExit):
        run_main(lambda: main([str(run), str(make_run(tmp_path / "3", alpha=code))]))
    assert not set(capsys.readouterr().err) & {*code[:1], *code[-2:]}


@pytest.mark.parametrize(
    ("setting", "value", "names"),
    [
        ("protocol", "strict", ["A-paper", "A-strict"]),
        ("seed", 1, ["A-paper-1", "A-paper-2"]),
        ("data", synthetic_data(), ["A-paper-1", "A-paper-2"]),
        ("epochs", 3, ["A-paper-1", "A-paper-2"]),
        ("loss", "balanced", ["A-paper-1", "A-paper-2"]),  # of version 1.0.0
    ],
)
def test_runs_that_differ_are_reported_separately(
    tmp_path: Path, setting: str, value: object, names: list[str]
) -> None:
    """A mean over different protocols, seeds, files or settings would be meaningless."""
    first = make_run(tmp_path / "1")
    out = write_report(tmp_path, first, make_run(tmp_path / "2", nrmse=9.0, **{setting: value}))
    tables = [pd.read_csv(out / name / "table_III.csv") for name in names]
    difference = tables[1]["NRMSE % mean"] - tables[0]["NRMSE % mean"]
    assert abs(difference[0]) > 2.5
    numbers = pd.read_csv(out / "per_subject.csv")
    assert set(numbers["results"]) == set(names)
    if setting != "protocol":
        notice = f"Runs that differ in {setting} are reported separately: this is set 1 of 2"
        assert notice in (out / "report.md").read_text()


def test_runs_of_a_script_with_other_flags_are_refused(tmp_path: Path) -> None:
    """Distilled students trained with another alpha would be averaged as the same row."""
    first = make_run(tmp_path / "1", alpha=0.5)
    with pytest.raises(InputError, match=r"2: alpha is 0\.1, but 0\.5 in .*1; report these runs"):
        write_report(tmp_path, first, make_run(tmp_path / "2", alpha=0.1))
    other = make_run(tmp_path / "3", script="Dataset_A_lmfn", rows=[("lmfn-foot", "foot", 9)])
    out = write_report(tmp_path, first, other)  # other scripts have flags of their own
    assert len(pd.read_csv(out / "A-paper" / "table_III.csv")) == 3


def test_a_row_and_subject_counts_once(tmp_path: Path) -> None:
    """A fold that is in two runs would weigh twice; nobody knows which of two results is right."""
    first = make_run(tmp_path / "1")
    out = write_report(tmp_path, first, make_run(tmp_path / "2", tested=["8"]), first)
    assert len(pd.read_csv(out / "per_subject.csv")) == 2 * 3 * 7
    report = (out / "report.md").read_text()
    assert report.count("subject 8: identical results in 2 runs, counted once") == 2
    with pytest.raises(InputError, match="row student-foot, subject 9 differs from its result"):
        write_report(
            tmp_path, first, make_run(tmp_path / "3", rows=PAIR[:1], tested=["9"], nrmse=6)
        )


def test_rows_of_other_scripts_are_reported_under_their_own_names(tmp_path: Path) -> None:
    """A script that is not the paper's may reuse a row's name; the two must not be mixed."""
    rows = [*PAIR, ("streaming-foot", "foot", 7)]
    other = make_run(tmp_path / "1", rows, nrmse=9.0, script="Dataset_A_streaming")
    out = write_report(tmp_path, other, make_run(tmp_path / "2"))
    table = pd.read_csv(out / "A-paper" / "table_III.csv", index_col="row")
    marked = ["student-foot (Dataset_A_streaming)", "distilled-foot (Dataset_A_streaming)"]
    assert set(table.index) == {"student-foot", "distilled-foot", "streaming-foot", *marked}
    assert table.loc[marked[0], "NRMSE % mean"] > table.loc["student-foot", "NRMSE % mean"] + 3
    pairs = pd.read_csv(out / "A-paper" / "statistics_pairs.csv")
    assert list(pairs["first"]) == ["student-foot"]  # the paper's tests, without further rows
    twenty = {"subjects": TWENTY_SUBJECTS, "script": "Dataset_A_streaming"}
    rows = [("student-foot_shank_trunk", "foot_shank_trunk", 9)]
    out = write_report(tmp_path, make_run(tmp_path / "3", rows, **twenty))
    assert "4.98" not in (out / "report.md").read_text()  # the paper's value for its own row


@pytest.mark.slow
def test_a_variant_of_a_script_is_reported_together_with_the_original(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Users could not compare a change with the original, or with new names of rows."""
    shutil.copy(ROOT / f"{SCRIPT}.py", tmp_path / "my_A_variant.py")
    monkeypatch.setattr("tools.trained.PROJECT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    new = [*PAIR, ("wide-foot", "foot", 9), ("new", "my_sensors", 9)]
    runs = make_run(tmp_path / "runs/1"), make_run(tmp_path / "runs/2", new, script="my_A_variant")
    for run, rows in zip(runs, (PAIR, new), strict=True):
        history = pd.DataFrame({"row": [row for row, *_ in rows], "fold": "7", "epoch": 1})
        losses = {"training_loss": 2.0, "validation_loss": 1.0}
        history.assign(**losses).to_csv(run / "history.csv", index=False)
    main([*map(str, runs), "--out", str(tmp_path / "report")])
    names = [row for row, *_ in PAIR]
    found = pd.read_csv(tmp_path / "report" / "per_subject.csv")["row"].unique()
    assert {*found} == {*names, *(f"{name} (my_A_variant)" for name in names), "wide-foot", "new"}
    figures = {path.stem for path in (tmp_path / "report" / "A-paper" / "figures").iterdir()}
    assert {
        "nrmse_against_parameters",
        "models_table_III",
        "learning_curves-my_A_variant",
    } <= figures


def test_changed_scripts_are_noticed(tmp_path: Path) -> None:
    """Rows from two versions of a script look like one experiment; old runs have no digest."""
    runs = [make_run(tmp_path / str(i), tested=[subject]) for i, subject in enumerate("789")]

    def report_of(*digests: str | None) -> str:
        for run, digest in zip(runs, digests, strict=True):
            config = json.loads((run / "config.json").read_text())
            config["calls"] = [{} if digest is None else {"script_digest": digest}]
            (run / "config.json").write_text(json.dumps(config))
        return (write_report(tmp_path, *runs) / "report.md").read_text()

    assert "NOTICE" not in report_of("1", "1", None)
    assert f"NOTICE: `{SCRIPT}.py` was changed" in report_of("1", "2", None)
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"NOTICE: <code>{SCRIPT}.py</code> was changed" in page


def test_unfinished_runs_are_reported(tmp_path: Path) -> None:
    """A study takes days; its results so far must be visible, with the folds that are missing."""
    empty = make_run(tmp_path / "empty", rows=[])
    unwritten = make_run(tmp_path / "unwritten", rows=[])
    (unwritten / "metrics.csv").unlink()
    with pytest.raises(InputError, match="no row has finished yet"):
        write_report(tmp_path, empty, unwritten)
    out = write_report(tmp_path, empty, make_run(tmp_path / "1", tested=["9"]))
    assert "empty has no finished row yet and is left out" in (out / "report.md").read_text()
    table = pd.read_csv(out / "A-paper" / "table_III.csv")
    assert list(table["folds"]) == ["1 of 3", "1 of 3"]
    assert table["NRMSE % SD"].isna().all()


@pytest.mark.parametrize(
    ("subjects", "others", "is_shown"),
    [
        (TWENTY_SUBJECTS, {}, True),
        (TWENTY_SUBJECTS, {"protocol": "strict"}, False),
        (TWENTY_SUBJECTS[:3], {}, False),
        (TWENTY_SUBJECTS, {"loss": "balanced"}, False),  # of version 1.0.0
        (TWENTY_SUBJECTS, {"faster": []}, True),
        (TWENTY_SUBJECTS, {"data": synthetic_data()}, False),
    ],
)
def test_the_papers_values_are_shown_next_to_comparable_results_only(
    tmp_path: Path, subjects: list[str], others: dict[str, object], is_shown: bool
) -> None:
    """Readers compare what stands side by side, and must not take the paper's values for ours."""
    rows = [("student-foot_shank_trunk", "foot_shank_trunk", 1884808), *PAIR]
    out = write_report(tmp_path, make_run(tmp_path / "1", rows, subjects=subjects, **others))
    report = (out / "report.md").read_text()
    assert ("paper's NRMSE %" in report) == ("4.98" in report) == is_shown
    if is_shown:
        [table] = out.glob("*/table_III.csv")
        assert list(pd.read_csv(table)["paper's NRMSE %"].dropna()) == [4.98]


def test_report_files_hold_what_is_printed(tmp_path: Path, capsys: Capture) -> None:
    """Markdown, CSV and LaTeX must agree; results on synthetic data are marked in every title."""
    twenty = {"subjects": TWENTY_SUBJECTS}
    synthetic = make_run(tmp_path / "2", protocol="strict", data=synthetic_data(), **twenty)
    out = write_report(tmp_path, make_run(tmp_path / "1", **twenty), synthetic)
    report = (out / "report.md").read_text()
    assert report in capsys.readouterr().out
    measured, of_synthetic = report.split("(A-strict)")
    assert "SYNTHETIC" not in measured
    assert "**SYNTHETIC DATA" in of_synthetic
    titles = [line for line in of_synthetic.splitlines() if line.startswith("###")]
    assert all("SYNTHETIC DATA" in title for title in titles)
    numbers = pd.read_csv(out / "per_subject.csv").query("results == 'A-paper'")
    means = numbers.groupby(["row", "test_subject"])["nrmse_percent"].mean().loc["student-foot"]
    table = pd.read_csv(out / "A-paper" / "table_III.csv").set_index("row").loc["student-foot"]
    assert table["NRMSE % mean"] == pytest.approx(means.mean(), rel=1e-12)
    assert table["NRMSE % SD"] == pytest.approx(means.std(), rel=1e-12)
    assert f"{means.mean():.2f} ± {means.std():.2f}" in measured
    assert rf"{means.mean():.2f} $\pm$ {means.std():.2f}" in (out / "tables.tex").read_text()


def test_latex_compiles_with_special_characters(tmp_path: Path) -> None:
    """A `_` or `%` in the name of a row would end LaTeX with an error in the middle of a paper."""
    row = ("mine_50%&#~^{}$<²·-foot", "foot", 1)
    out = write_report(tmp_path, make_run(tmp_path / "1", [*PAIR, row], subjects=TWENTY_SUBJECTS))
    latex = (out / "tables.tex").read_text()
    assert r"mine\_50\%\&\#" in latex
    assert latex.isascii()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == latex.count(r"\caption") > 3
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine: compiling was not tested")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=out, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: not a run"),
        (["{run}", "--agreement", "x"], "no row x; choose from student-foot distilled-foot"),
        (["{run}", "--out", "{run}/config.json"], "choose another --out"),
        (["{run}", "--readme", "{run}/config.json"], "choose another --readme"),
        (["{run}", "--readme", str(ROOT / "LICENSE")], "needs the lines <!-- results -->"),
        (["{run}", "--readme", "nowhere.md"], "nowhere.md: cannot be read"),
    ],
)
def test_mistakes_end_with_one_line(
    tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    """A user must see how to fix it, not a traceback; scripts rely on exit status 2."""
    run = make_run(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        run_main(lambda: main([a.format(run=run) for a in arguments]))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_results_in_the_docs_are_up_to_date() -> None:
    """Tables that were typed in, or not updated after a run, would be wrong."""
    runs = sorted((ROOT / "docs" / "results").glob("dataset_*"))
    expected = f"{README_START}\n{readme_tables(load_results(runs))}{README_END}"
    command = "run: python -m tools.report docs/results/dataset_* --readme docs/results.md"
    assert expected in (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), command


def test_readme_shows_complete_datasets_next_to_the_paper(tmp_path: Path) -> None:
    """Results with other settings would pass for those to be compared with the paper."""
    rows = [("distilled-foot_trunk", "foot_trunk", 1874056)]
    twenty = {"rows": rows, "subjects": TWENTY_SUBJECTS}
    first = make_run(tmp_path / "1", tested=TWENTY_SUBJECTS[:2], nrmse=1.0, **twenty)
    second = make_run(tmp_path / "2", nrmse=2.0, seed=1, **twenty)
    path = tmp_path / "README.md"
    path.write_text(f"before\n{README_START}\nold table\n{README_END}\nafter\n")
    main([str(first), str(second), "--readme", str(path)])
    content = path.read_text()
    assert content.startswith("before\n")
    assert content.endswith("after\n")
    assert "old table" not in content
    lines = [line for line in content.splitlines() if "`distilled-foot_trunk`" in line]
    assert ["4.91" in line for line in lines] == [True, False]
    assert ["2 of 20" in line for line in lines] == [True, False]
    assert content.count("not run") == sum(map(len, paper.NRMSE_PERCENT.values())) - 1
    synthetic = make_run(tmp_path / "3", data=synthetic_data())
    with pytest.raises(InputError, match="results on synthetic data cannot be published"):
        main([str(synthetic), "--readme", str(path)])
