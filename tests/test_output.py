"""No command overwrites its inputs, or a file that it cannot have written."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

import Dataset_A_Sensor_Distillation as script
import synthetic_gait.__main__ as synthetic_gait
import tools.benchmark.__main__ as benchmark
import tools.check_data.__main__ as check_data
import tools.export_onnx.__main__ as export_onnx
import tools.predict.__main__ as predict
import tools.report.__main__ as report
from beyond import evidence
from common.cli import run_main
from common.files import InputError
from tests.conftest import Capture, Files, Patch
from tests.made_runs import make_run
from tests.predicting import random_network
from tools.output import check_writable, is_figure, is_made_by
from tools.prepare_dataset_a.output import check_replaceable, join_subjects

CONTENT = b"recorded on a day that does not come back"
LINKS: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda path, _: path,
    "relative path": lambda path, _: Path(os.path.relpath(path)),
    "path with ..": lambda path, folder: folder / "x" / ".." / path.name,
    "symbolic link": lambda path, folder: (folder / "link").symlink_to(path) or folder / "link",
    "hard link": lambda path, folder: (folder / "link").hardlink_to(path) or folder / "link",
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_an_input_is_recognized_under_any_name(
    link: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    """The recording would be replaced with what was computed from it."""
    (tmp_path / "x").mkdir()
    path = tmp_path / "walk.csv"
    path.write_bytes(CONTENT)
    out = link(path, tmp_path)
    with pytest.raises(InputError, match="is an input and would be overwritten; choose another"):
        check_writable(out, [tmp_path / "missing", path], lambda _: True)


def test_only_files_of_the_command_are_replaced(tmp_path: Path) -> None:
    """A typo in a flag would cost a file; as root, `/dev/null` would become a regular file."""
    path = tmp_path / "file"
    check_writable(path, [path], lambda _: False)  # does not exist
    check_writable(tmp_path / ("x" * 300), [], lambda _: False)  # writing it explains the error
    path.write_bytes(CONTENT)
    check_writable(path, [], lambda _: True)
    with pytest.raises(InputError, match="file: already exists and was not written by this com"):
        check_writable(path, [], lambda _: False)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError, match="exists and is not a file; choose another --figure"):
            check_writable(other, [], lambda _: True, "--figure")
    assert not is_made_by(path, "tools.x")
    assert not is_figure(path)


def run_synthetic_gait(files: dict[str, Path], out: Path) -> None:
    """Simulate walking."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", errors)
        status = synthetic_gait.main(["--dataset", "b", "--out", str(out)])
    if status == 2:
        raise InputError(errors.getvalue())


def run_predict(files: dict[str, Path], out: Path) -> None:
    """Run a network on a recording; `out` is one of the files."""
    folder = str(out.parent)
    flags = ["--checkpoint", str(files["checkpoint"]), "--data", str(files["data"])]
    predict.main([*flags, "--subject", "7", "--out", folder])


def run_export(files: dict[str, Path], out: Path) -> None:
    """Export a network."""
    export_onnx.main(["--checkpoint", str(files["checkpoint"]), "--out", str(out)])


def run_report(files: dict[str, Path], out: Path) -> None:
    """Report a run; `out` is one of the files."""
    folder = out.parents[1] if out.parent.name == "A-paper" else out.parent
    report.main([str(files["run"]), "--no-figures", "--out", str(folder)])


def run_check(files: dict[str, Path], out: Path) -> None:
    """Check a data file."""
    check_data.main([str(files["data"]), "--figure", str(out)])


def run_benchmark(files: dict[str, Path], out: Path) -> None:
    """Measure the speed."""
    benchmark.main(["--out", str(out.parent)])


def run_evidence(files: dict[str, Path], out: Path) -> None:
    """Compare the rows of runs."""
    evidence.main([str(files["run"]), "--out", str(out.parent)])


def run_prepare(files: dict[str, Path], out: Path) -> None:
    """Check the output of a conversion; the conversion itself needs a download."""
    check_replaceable(out, [7], [])


OUTPUTS = {
    "any.h5": [run_synthetic_gait, run_prepare],
    **dict.fromkeys(("prediction.csv", "prediction.json", "prediction.png"), [run_predict]),
    "network.onnx": [run_export],
    **dict.fromkeys(("report.html", "report.md", "tables.tex", "per_subject.csv"), [run_report]),
    "A-paper/table_III.csv": [run_report],
    **dict.fromkeys(("page.png", "page.pdf", "page.svg"), [run_check]),
    **dict.fromkeys(("benchmark.json", "benchmark.md", "latency.png"), [run_benchmark]),
    **dict.fromkeys(("beyond.md", "scores.csv"), [run_evidence]),
}
CASES = [(name, command) for name, commands in OUTPUTS.items() for command in commands]


@pytest.fixture
def files(synthetic_files: Files, tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, data and a run."""
    (tmp_path / "inputs").mkdir()
    data = Path(shutil.copy(synthetic_files["a"], tmp_path / "inputs"))
    checkpoint = random_network(script, "student-foot", tmp_path / "inputs")
    run = make_run(tmp_path / "inputs" / "run")
    return {"checkpoint": checkpoint, "data": data, "run": run}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "command"), CASES, ids=[name for name, _ in CASES])
def test_commands_refuse_to_replace_files_of_others(
    name: str, command: Callable[[dict[str, Path], Path], None], files: dict, tmp_path: Path
) -> None:
    """A file that happens to have this name, or is named by mistake, would be lost."""
    if command is run_export:
        pytest.importorskip("onnx", reason="onnx of requirements-export.txt is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    out = tmp_path / "out" / name
    out.parent.mkdir(parents=True)
    with h5py.File(files["data"], "r+") as file:  # as if it was recorded
        del file.attrs["synthetic"], file.attrs["description"]
    for content in (CONTENT, files["data"].read_bytes()):
        out.write_bytes(content)
        with pytest.raises(InputError, match=r"already exists and|damaged|was not written by"):
            command(files, out)
        assert out.read_bytes() == content
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [out]


def test_an_input_is_refused_by_every_command(
    files: dict[str, Path], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The data, a run or a script would be lost if it is given as the output by mistake."""
    monkeypatch.chdir(tmp_path)
    for name, source in (
        ("per_subject.csv", files["run"] / "metrics.csv"),
        ("report.md", files["run"] / "config.json"),
    ):
        link = tmp_path / "linked" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(source)
        with pytest.raises(InputError, match=f"{name}: is an input and would be overwritten"):
            run_report(files, link)
        with pytest.raises(InputError, match="is an input and would be overwritten.* --readme"):
            report.main([str(files["run"]), "--readme", str(link)])
        link.unlink()
    figure = tmp_path / "page.png"
    figure.symlink_to(files["data"])
    with pytest.raises(InputError, match=r"page\.png: is an input and would be overwritten"):
        run_check(files, figure)
    out = tmp_path / "scores.csv"
    out.hardlink_to(files["run"] / "metrics.csv")
    with pytest.raises(InputError, match=r"scores\.csv: is an input and would be overwritten"):
        run_evidence(files, out)


def test_commands_replace_what_they_wrote(
    files: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    """A second call with the same flags must not need a cleanup, and a link must stay one."""
    for _ in range(2):
        out = tmp_path / "gait.h5"
        flags = ["--dataset", "b", "--subjects", "1", "--minutes", "0.05", "--out", str(out)]
        assert synthetic_gait.main(flags) == 0
        run_report(files, tmp_path / "report" / "report.md")
        run_report(files, files["run"] / "report" / "report.md")  # within the run
    readme, link = tmp_path / "README.md", tmp_path / "link.md"
    readme.write_text(f"{report.README_START}\n{report.README_END}\n")
    link.symlink_to(readme)
    report.main([str(files["run"]), "--readme", str(link)])
    assert link.is_symlink()
    assert "Dataset A" in readme.read_text()


def test_the_folder_of_parts_is_not_deleted_with_files_of_others(tmp_path: Path) -> None:
    """With `--out walk.h5`, everything in `walk.h5.parts` was deleted, even the download."""
    folder = tmp_path / "walk.h5.parts"
    folder.mkdir()
    (folder / "raw.zip").write_bytes(CONTENT)
    with h5py.File(folder / "Subject_7.h5", "w") as file:
        file.create_group("All_subjects/Subject_7")
    join_subjects(tmp_path / "walk.h5", {7: folder / "Subject_7.h5"})
    assert [path.name for path in folder.iterdir()] == ["raw.zip"]
    assert json.loads(h5py.File(tmp_path / "walk.h5").attrs["columns"])
    assert is_made_by(tmp_path / "walk.h5", "tools.prepare_dataset_a")


def test_raw_files_of_the_download_are_inputs(tmp_path: Path) -> None:
    """A zip of the download is hundreds of megabytes and a day of work."""
    path = tmp_path / "AB07.zip"
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match=r"AB07\.zip: is an input and would be overwritten"):
        check_replaceable(path, [7], {path})


def test_names_in_files_cannot_control_the_terminal(
    files: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    """A recording from somebody else could rename the window, or hide a warning."""
    path = tmp_path / "walk.csv"
    names = ["time", "\x1b]0;title\x07Acc", "\u202eGyr", "\x9bred"]
    path.write_text("\n".join([",".join(names), *(f"{i / 200},1,2,3" for i in range(300))]))
    command = ["--checkpoint", str(files["checkpoint"]), "--data", str(path)]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: predict.main([*command, "--out", str(tmp_path / "out")]))
    printed = "".join(capsys.readouterr())
    assert "Acc" in printed
    assert not set(printed) & {"\x1b", "\x07", "\u202e", "\x9b"}
