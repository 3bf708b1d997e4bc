"""Damaged files of a run: named and replaced, never used, and never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch

from common import training
from common.files import FailedTasksError, InputError, file_digest, load_checkpoint, name_problem
from common.folder import RunFolder, Task, new_run
from common.runs import Run
from tests.conftest import Capture, Files, Folders, Patch
from tests.running import NAME, ROWS, left_overs, no_figures, outcome, script, usual_flags
from tests.test_interruption import CountedLoss, interrupt

Main = Callable[..., pd.DataFrame]
TASK = Task(ROWS[0], "03")
pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def main(synthetic_files: Files, tmp_path: Path) -> Main:
    """Return a function that runs the script with more flags, into the folder of the test."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--run-name", "mine"]
    return lambda *more: script.main([*flags, *more])


@pytest.fixture(scope="module")
def finished(synthetic_files: Files, tmp_path_factory: Folders) -> tuple[Path, dict[str, object]]:
    """Return the folder of a finished run of both rows, and its numbers."""
    output_dir = tmp_path_factory.mktemp("finished")
    with no_figures():
        script.main([*usual_flags(synthetic_files["b"], output_dir), "--run-name", "mine"])
    folder = output_dir / NAME / "mine"
    return folder, outcome(folder)


@pytest.fixture
def folder(finished: tuple[Path, dict[str, object]], tmp_path: Path) -> Path:
    """Return a copy of the finished run in the folder of the test."""
    return shutil.copytree(finished[0], tmp_path / NAME / "mine")


# One file, one damage ----------------------------------------------------------------------------


def flip_bit(path: Path) -> None:
    """Change one bit in the middle; size and time stay the same."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_with_other(path: Path) -> None:
    """Replace the file with that of the other row."""
    others = [p for p in path.parent.iterdir() if p != path and p.suffix == path.suffix]
    shutil.copy(others[0] if others else path.parent / "metrics.csv", path)


def replace_by_folder(path: Path) -> None:
    """Put a folder with a file where the file was."""
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def replace_by_pipe(path: Path) -> None:
    """Put a pipe, which nobody writes to, where the file was."""
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    """Put a link to nowhere where the file was."""
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a bit": flip_bit,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another file": swap_with_other,
    "list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "empty object": lambda path: path.write_text("{}"),
    "nested": lambda path: path.write_text("[" * 200_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe" * 50),
    "folder": replace_by_folder,
    "pipe": replace_by_pipe,
    "link": replace_by_link,
    "missing": lambda path: path.unlink(),
}
QUICK = ("a bit", "empty", "folder")  # damages of the default suite
SOME = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGE]
FILES = {
    "config": "config.json",
    "result": f"results/{ROWS[0]}-subject_03.json",
    "checkpoint": f"checkpoints/{ROWS[0]}-subject_03.safetensors",
    "predictions": f"predictions/{ROWS[0]}-subject_03.npz",
    "metrics": "metrics.csv",
    "history": "history.csv",
}


@pytest.mark.parametrize("damage", SOME)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_replaced(
    file: str, damage: str, main: Main, folder: Path, finished: tuple, capsys: Capture
) -> None:
    """A table must not hold, nor a student learn from, what a disk has changed.

    Only a row whose own files are damaged is trained again.
    """
    path = folder / FILES[file]
    others = [p for p in folder.glob(f"*/{ROWS[1]}*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in others}
    DAMAGE[damage](path)
    main()
    printed = capsys.readouterr().out
    assert outcome(folder) == finished[1]
    assert before == {p: p.stat().st_mtime_ns for p in others}
    assert left_overs(folder) == []
    is_of_row = file in ("result", "checkpoint", "predictions")
    assert printed.count("already done") == (1 if is_of_row else 2)
    if file in ("checkpoint", "predictions") or (file == "result" and damage != "missing"):
        assert printed.count(f"NOTICE: {path}") >= 1
    main()
    printed = capsys.readouterr().out
    assert printed.count("already done") == 2
    assert "NOTICE: /" not in printed


@pytest.mark.parametrize("digit", ["rmse", "validation_loss", "bytes", "sha256", "settings"])
def test_a_changed_number_of_a_result_is_noticed(
    digit: str, main: Main, folder: Path, finished: tuple, capsys: Capture
) -> None:
    """Valid JSON with another digit is the damage that is hardest to see."""
    path = folder / FILES["result"]
    text = path.read_text()
    start = text.index(f'"{digit}"')
    place = next(i for i in range(start, len(text)) if text[i].isdecimal() and text[i] != "9")
    path.write_text(text[:place] + str(int(text[place]) + 1) + text[place + 1 :])
    main()
    assert f"NOTICE: {path}: damaged (its digest differs)" in capsys.readouterr().out
    assert outcome(folder) == finished[1]


def to_earlier_version(folder: Path) -> None:
    """Remove digests, and settings from the results, as in runs of version 1.0.0."""
    for path in (folder / "config.json", *folder.glob("results/*.json")):
        content = json.loads(path.read_text())
        names = {"digest", "sha256", *(["settings"] if "metrics" in content else [])}
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in names}))


def test_a_run_of_an_earlier_version_is_kept(
    main: Main, folder: Path, finished: tuple, capsys: Capture
) -> None:
    """An update must not cost days of training; a result that has only sizes is finished."""
    to_earlier_version(folder)
    main()
    printed = capsys.readouterr().out
    assert printed.count("already done") == 2
    assert "NOTICE: /" not in printed
    assert outcome(folder) == finished[1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["result", "predictions"])
def test_a_damaged_file_of_an_earlier_version_is_no_traceback(
    file: str, damage: str, main: Main, folder: Path, finished: tuple
) -> None:
    """Without digests, the checksums in the file and the form of the result are left."""
    to_earlier_version(folder)
    path = folder / FILES[file]
    if (file, damage) == ("result", "a bit"):
        path.write_text(path.read_text().replace('"metrics"', '"metrixs"'))
    else:
        DAMAGE[damage](path)
    main()
    assert outcome(folder) == finished[1]


def test_predictions_that_are_damaged_later_end_in_one_line(
    main: Main, folder: Path, monkeypatch: Patch
) -> None:
    """The figures are drawn after training; a disk that fails then must not hide the table."""
    path = folder / FILES["predictions"]
    write_tables = RunFolder.write_tables

    def damage(run_folder: RunFolder) -> None:
        write_tables(run_folder)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(RunFolder, "write_tables", damage)
    with pytest.raises(FailedTasksError, match=f"tables and figures: {path}: damaged"):
        main()


def status_of(main: Callable[..., object], *arguments: object) -> object:
    """Return the exit status of a command."""
    try:
        main(*arguments)
    except SystemExit as error:
        return error.code
    return 0


# config.json -------------------------------------------------------------------------------------


def test_settings_come_from_the_results_if_they_are_lost(
    main: Main, folder: Path, finished: tuple, capsys: Capture
) -> None:
    """Other flags must not continue the run just because its settings cannot be read."""
    path = folder / "config.json"
    for content in ("", None):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(
            InputError, match="different settings .seed: 42 in the run, 7 now.*--run"
        ):
            main("--seed", "7")
    main()
    printed = capsys.readouterr().out
    assert f"NOTICE: {path}: restored from the settings of 2 finished tasks" in printed
    assert printed.count("already done") == 2
    path.write_text(path.read_text().replace('"seed": 42', '"seed": 43', 1))
    main()
    assert capsys.readouterr().out.count("already done") == 2
    assert json.loads(path.read_text())["settings"]["seed"] == 42
    assert (folder / "config.json.unusable").exists()
    assert outcome(folder) == finished[1]


def test_without_any_settings_nothing_is_mixed(main: Main, folder: Path) -> None:
    """A run of an earlier version does not say how its rows were trained."""
    to_earlier_version(folder)
    (folder / "config.json").write_text("")
    with pytest.raises(InputError, match="settings of the finished rows are not known; use anoth"):
        main()


def test_a_result_of_another_run_is_trained_again(
    main: Main, folder: Path, finished: tuple, tmp_path: Path, capsys: Capture
) -> None:
    """Files that were copied into a run must not mix settings."""
    main("--run-name", "other", "--seed", "7", "--rows", ROWS[0])
    for kind in ("results", "checkpoints", "predictions"):
        for path in (tmp_path / NAME / "other" / kind).iterdir():
            shutil.copy(path, folder / kind)
    capsys.readouterr()
    main()
    assert "from a run with other settings (seed: 7 in the run, 42 now)" in capsys.readouterr().out
    assert outcome(folder) == finished[1]


@pytest.mark.parametrize(
    "flags",
    [
        {"epochs": [2]},
        {"rows": 5},
        {"data": 5},
        {"seed": "x"},
        {"run_name": {}},
        {"jobs": None, "batch_size": -1},
        {"test_subjects": [[]]},
        [],
        5,
    ],
)
def test_flags_of_a_damaged_run_are_checked(
    flags: object, main: Main, folder: Path, synthetic_files: Files, tmp_path: Path
) -> None:
    """`--resume` takes flags from a file, which can hold anything."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["digest"]  # as in a run of an earlier version, or after an edit by hand
    stored = config["calls"][-1]["flags"]
    config["calls"][-1]["flags"] = {**stored, **flags} if isinstance(flags, dict) else flags
    path.write_text(json.dumps(config))
    with suppress(InputError):  # or the flag is ignored because its value says the same
        assert status_of(script.main, ["--output-dir", str(tmp_path), "--resume", "mine"]) in (0, 2)


# Saved states ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", SOME[:-2])  # all but "link" and "missing"
def test_a_damaged_state_is_set_aside(
    damage: str, main: Main, finished: tuple, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """It costs the epochs of one row, and is kept for those who want to know what happened."""
    save = ["--save-every", "0.000001"]
    with monkeypatch.context() as patch:
        patch.setattr(script, "supervised_loss", CountedLoss(4, interrupt))
        with pytest.raises(KeyboardInterrupt):
            main(*save)
    folder = tmp_path / NAME / "mine"
    (path,) = folder.glob("unfinished/*.pt")
    if damage == "another file":  # of the same network, but of another fold
        other = torch.load(path, weights_only=True)
        torch.save({**other, "file": "lmfn-feet-subject_02.pt"}, path)
    elif damage == "a bit":
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size // 3)
            byte = file.read(1)[0]
            file.seek(size // 3)
            file.write(bytes([byte ^ 1]))
    else:
        DAMAGE[damage](path)
    capsys.readouterr()
    main(*save)
    printed = capsys.readouterr().out
    assert f"NOTICE: {path}" in printed
    assert path.with_name(f"{path.name}.unusable").exists()
    assert outcome(folder) == finished[1]


def test_states_without_settings_are_not_resumed(
    main: Main, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """If nothing tells with which settings a state was trained, other ones might continue it."""
    with monkeypatch.context() as patch:
        patch.setattr(script, "supervised_loss", CountedLoss(4, interrupt))
        with pytest.raises(KeyboardInterrupt):
            main("--save-every", "0.000001")
    folder = tmp_path / NAME / "mine"
    (state,) = folder.glob("unfinished/*.pt")
    (folder / "config.json").write_text("")
    main("--seed", "7")
    assert f"NOTICE: {state}: its settings are not known; renamed to" in capsys.readouterr().out
    assert state.with_name(f"{state.name}.unusable").exists()


# Temporary files ---------------------------------------------------------------------------------


def test_half_written_files_are_removed_wherever_they_are(main: Main, folder: Path) -> None:
    """After a kill, the states of large networks are gigabytes that nobody would find."""
    for name in (".config.json.abc.part", "results/.x.json.abc.part", "figures/.x.png.abc.part"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{")
    (folder / ".x.part").mkdir()
    main()
    assert left_overs(folder) == [folder / ".x.part"]


# Teachers ----------------------------------------------------------------------------------------


def test_weights_that_differ_from_their_result_are_not_loaded(
    main: Main, folder: Path, monkeypatch: Patch
) -> None:
    """A teacher can be damaged between its training and that of its students."""
    runs: list[Run] = []
    monkeypatch.setattr(Run, "each", lambda run, train_and_test: runs.append(run))
    main()
    path = folder / FILES["checkpoint"]
    content = bytearray(path.read_bytes())
    content[-10] ^= 1  # still a valid checkpoint
    path.write_bytes(content)
    load_checkpoint(path)
    with pytest.raises(InputError, match=f"{path}: damaged, .*delete it to retrain {ROWS[0]}"):
        runs[0].load_network(ROWS[0], "03")


# Names and numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\nb", "\x1b[31m", "ö" * 200])
@pytest.mark.parametrize(
    "flag", ["--run-name", "--rows", "--test-subjects", "--output-dir", "--data"]
)
def test_impossible_names_are_refused_in_one_line(
    flag: str, name: str, main: Main, capsys: Capture
) -> None:
    """Names with 300 characters or NUL end system calls, and control characters a terminal."""
    if flag == "--output-dir" and name in ("a\nb", "\x1b[31m"):
        pytest.skip("a valid folder")
    try:
        status = status_of(main, flag, name)
        message = capsys.readouterr().err.removesuffix("\n")
    except InputError as error:
        status, message = 2, str(error)
    assert status == 2
    if flag != "--data":  # printed by `run_main` without control characters
        assert message.isprintable()
    assert len(message) < 1000


def test_names_of_files_are_checked() -> None:
    """Text from a file must not become a path."""
    assert name_problem("lmfn-feet") is None
    for name in ("../x", "a/b", "a\\b", "", ".", "..", "a\0b", "a\nb", "x" * 256):
        assert name_problem(name)
    assert name_problem("x" * 200) is None
    assert name_problem("x" * 200, more_bytes=100)
    with pytest.raises(InputError, match="must be a folder name, but is a path"):
        new_run(Path("x"), "a/b")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_estimates_that_are_not_finite_fail_the_row(
    value: float, main: Main, monkeypatch: Patch, tmp_path: Path
) -> None:
    """NaN in a table is no result, and would end the figures of the other rows."""
    predict = script.predict

    def broken(network: torch.nn.Module, *rest: object) -> torch.Tensor:
        return predict(network, *rest) * value

    monkeypatch.setattr(training, "predict", broken)
    with pytest.raises(
        FailedTasksError, match=f"{ROWS[0]}, subject 03: the estimates .* not finit"
    ):
        main()
    folder = tmp_path / NAME / "mine"
    assert list(folder.glob("results/*")) == []
    assert len(list(folder.glob("checkpoints/*.diverged.safetensors"))) == 2


def test_a_digest_is_computed_once(tmp_path: Path, monkeypatch: Patch) -> None:
    """A run of hundreds of gigabytes is read when it is opened, not at every row."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    opened: list[Path] = []
    open_file = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a, **k: opened.append(p) or open_file(p, *a, **k))
    digests = {file_digest(path) for _ in range(3)}
    assert digests == {"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert opened == [path]
    path.write_bytes(b"abcd")
    assert file_digest(path) not in digests
