"""Checkpoints of somebody else: refused in one line, and nothing in them is run."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import Dataset_A_lmfn_tfn_fusion_models as script
from common import about, checkpoints
from common.files import InputError
from tools import predict
from tools.command import start
from tools.trained import restore

ROW = "lmfn-foot"
About = dict[str, Any]


class Exploding:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def model() -> tuple[dict[str, Tensor], About]:
    """Random weights of a small row, and what its checkpoint tells."""
    torch.manual_seed(0)
    experiment = script.STUDY.experiment(ROW)
    told = about.checkpoint(script.STUDY, experiment, "7", {})
    return experiment.model().state_dict(), json.loads(json.dumps(told))


def refusal(path: Path) -> str:
    """Return why a checkpoint is refused: a line that names it."""
    with pytest.raises(InputError) as caught:
        restore(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < len(str(path)) + 400
    return said


def test_an_honest_checkpoint_gives_its_model(
    model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """Else every checkpoint is refused, which would pass all tests below."""
    tensors, told = model
    checkpoints.save(tensors, told, tmp_path / "x.safetensors")
    trained = restore(tmp_path / "x.safetensors")
    assert trained.row == ROW
    assert not trained.model.training
    for name, values in trained.model.state_dict().items():
        torch.testing.assert_close(values, tensors[name], rtol=0, atol=0)


LIES = {
    "another class": {"model": "LowRank"},
    "partial": {"model": "partial"},
    "Path": {"model": "Path"},
    "a function": {"model": "main"},
    "a class of PyTorch": {"model": "torch.nn.Linear"},
    "no name of a class": {"model": ["LMFN"]},
    "os": {"script": "os"},
    "another folder": {"script": "../x"},
    "a tool": {"script": "tools.predict"},
    "several lines": {"script": "x\nerror: fine\x1b[2J" * 1000},
    "no such row": {"row": "tfn-moon"},
    "another row": {"row": "lmfn-foot_trunk"},
    "no row": {"row": {"lmfn-foot": 1}},
    "huge": {"arguments": {"channels": [3, 3], "targets": 10**12}},
    "many": {"arguments": {"channels": [3] * 10**5, "targets": 7}},
    "wrong type": {"arguments": {"channels": "3", "targets": None}},
    "no arguments": {"arguments": [1, 2]},
    "an argument more": {"arguments": {"channels": [3, 3], "targets": 7, "file": "/etc/passwd"}},
    "other targets": {"targets": [{"name": "KFM", "unit": "Nm"}]},
    "other sensors": {"sensors": ["trunk"]},
    "other window": {"window": 10**9},
    "other format": {"format": "2\n"},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_said_is_compared_and_never_built(
    lie: About, model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """Else a file chooses what runs, or how much memory it takes, on its user's machine."""
    tensors, told = model
    checkpoints.save(tensors, {**told, **lie}, tmp_path / "x.safetensors")
    refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["script", "row", "model", "arguments", "targets", "rate_hz"])
def test_what_is_not_said_is_named(
    name: str, model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """A user must learn what is missing, not see a KeyError."""
    tensors, told = model
    rest = {key: value for key, value in told.items() if key != name}
    checkpoints.save(tensors, rest, tmp_path / "x.safetensors")
    assert f"does not tell its {name}" in refusal(tmp_path / "x.safetensors")


TEXTS = {
    "nothing": None,
    "empty": "",
    "no JSON": "{",
    "a list": "[1]",
    "null": "null",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep within": '{"format": 1, "script": ' + "[" * 900 + "]" * 900 + "}",
    "a long number": '{"format": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_metadata_of_any_kind_are_refused(
    text: str | None, model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """A file of safetensors that another program made is no error of this one."""
    path = tmp_path / "x.safetensors"
    save_file(model[0], path, metadata=None if text is None else {"about": text})
    refusal(path)


def spoilt(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """Return weights with a fault in the first of them."""
    name = next(iter(tensors))
    faults = {
        "shape": {name: tensors[name][..., :-1].contiguous()},
        "type": {name: tensors[name].double()},
        "one more": {"x" * 10_000: torch.zeros(1)},
    }
    changed = {**tensors, **faults.get(how, {})}
    return {key: value for key, value in changed.items() if how != "one less" or key != name}


@pytest.mark.parametrize("how", ["shape", "type", "one more", "one less"])
def test_weights_of_another_model_are_refused(
    how: str, model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """Else PyTorch's many lines are the answer, or the weights are used in another precision."""
    tensors, told = model
    checkpoints.save(spoilt(tensors, how), told, tmp_path / "x.safetensors")
    refusal(tmp_path / "x.safetensors")


def test_any_byte_of_the_header_may_be_wrong(
    model: tuple[dict[str, Tensor], About], tmp_path: Path
) -> None:
    """A bad disk or a bad will: what is not refused must be the model as it was."""
    tensors, told = model
    path = tmp_path / "x.safetensors"
    checkpoints.save(tensors, told, path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    dice = random.Random(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[dice.randrange(header)] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            state = restore(path).model.state_dict()
        except InputError:
            refused += 1
        else:
            assert all(torch.equal(values, tensors[name]) for name, values in state.items())
    assert refused > 200


def test_foreign_files_are_refused_and_not_run(
    model: tuple[dict[str, Tensor], About],
    sample_files: dict[str, Path],
    tmp_path: Path,
) -> None:
    """A pickle can do anything to the user who opens it; others are simply no checkpoints."""
    path, trace = tmp_path / "x.safetensors", tmp_path / "exploded"
    torch.save({"weights": Exploding(trace)}, path)
    refusal(path)
    assert not trace.exists()
    checkpoints.save(*model, path)
    whole = path.read_bytes()
    for part in (b"", whole[:4], whole[:100], whole[:-1], whole + b"\0", whole[8:]):
        path.write_bytes(part)
        refusal(path)
    shutil.copy(sample_files["a"], path)
    refusal(path)
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors")


def test_the_command_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a user sees of all this."""
    path = tmp_path / "x.safetensors"
    torch.save({"weights": Exploding(tmp_path / "exploded")}, path)
    (tmp_path / "walk.csv").write_text("time,x\n0,1\n")
    arguments = ["--checkpoint", path, "--data", tmp_path / "walk.csv", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match="2"):
        start(lambda: predict.main([*map(str, arguments)]))
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()
