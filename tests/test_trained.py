"""Checkpoints from elsewhere are refused in one line, and nothing in them is executed."""

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
import Dataset_A_Sensor_Distillation as distillation
from common.files import InputError, save_checkpoint
from common.runs import describe_network, find_row
from tests.conftest import Files
from tools.trained import load_trained

ROW = "lmfn-foot"
Description = dict[str, Any]


class Exploding:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def honest() -> tuple[dict[str, Tensor], Description]:
    """Random weights of a small row, and the description of its network."""
    torch.manual_seed(0)
    row = find_row(script, ROW)
    description = {**describe_network(script, row), "test_subject": "7", "settings": {}}
    return row.network().state_dict(), json.loads(json.dumps(description))


def refusal(path: Path) -> str:
    """Return the error for a checkpoint: one line that names it."""
    with pytest.raises(InputError) as caught:
        load_trained(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message


def test_an_honest_checkpoint_is_loaded(
    honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """Refusing every checkpoint would pass all tests below."""
    tensors, description = honest
    save_checkpoint(tmp_path / "x.safetensors", tensors, description)
    trained = load_trained(tmp_path / "x.safetensors")
    assert trained.row.name == ROW
    assert trained.lookahead is None
    assert not trained.network.training
    for name, values in trained.network.state_dict().items():
        torch.testing.assert_close(values, tensors[name], rtol=0, atol=0)


LIES = {
    "another class": {"model": "LowRank"},
    "partial": {"model": "partial"},
    "Path": {"model": "Path"},
    "a function": {"model": "main"},
    "a class of PyTorch": {"model": "torch.nn.Linear"},
    "not a name": {"model": ["LMFN"]},
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
def test_nothing_is_built_from_the_description(
    lie: Description, honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """A file could choose what runs on the user's machine, or how much memory that takes."""
    tensors, description = honest
    save_checkpoint(tmp_path / "x.safetensors", tensors, {**description, **lie})
    refusal(tmp_path / "x.safetensors")


def streaming_checkpoint(path: Path, **arguments: object) -> Path:
    """Write a streaming network whose description has other arguments."""
    row = find_row(distillation, "streaming-foot")
    description = json.loads(json.dumps(describe_network(distillation, row)))
    description["arguments"] |= arguments
    save_checkpoint(path, row.network().state_dict(), description)
    return path


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("lookahead", [0, 7, 10, 100])
def test_a_streaming_network_keeps_the_lookahead_of_its_training(
    lookahead: int, tmp_path: Path
) -> None:
    """Its estimates would be shown at the wrong time, or other delays could not be used at all."""
    path = streaming_checkpoint(tmp_path / "x.safetensors", lookahead=lookahead)
    trained = load_trained(path)
    assert trained.lookahead == trained.network.lookahead == lookahead
    row = find_row(distillation, trained.row.name)
    assert row.network.keywords["lookahead"] == 10  # that of the script stays


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "arguments",
    [
        *({"lookahead": value} for value in (-1, 101, 10**12, True, "10", 7.5, None, [10])),
        {"lookahead": 7, "dropout": 0.5},
        {"lookahead": 7, "hidden_sizes": [6, 9]},
        {"lookahead": 7, "file": "/etc/passwd"},
    ],
    ids=str,
)
def test_nothing_but_a_sensible_lookahead_is_taken_from_a_file(
    arguments: Description, tmp_path: Path
) -> None:
    """A file could choose a delay without end, or use the one free number to change others."""
    refusal(streaming_checkpoint(tmp_path / "x.safetensors", **arguments))


@pytest.mark.parametrize("name", ["script", "row", "model", "arguments", "targets", "rate_hz"])
def test_a_missing_entry_is_named(
    name: str, honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """Users would see a KeyError."""
    tensors, description = honest
    rest = {key: value for key, value in description.items() if key != name}
    save_checkpoint(tmp_path / "x.safetensors", tensors, rest)
    assert f"its description has no {name}" in refusal(tmp_path / "x.safetensors")


TEXTS = {
    "nothing": None,
    "empty": "",
    "not JSON": "{",
    "a list": "[1]",
    "null": "null",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep within": '{"format": 1, "script": ' + "[" * 900 + "]" * 900 + "}",
    "a long number": '{"format": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_metadata_of_another_kind_are_refused(
    text: str | None, honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """A safetensors file of another program would end in a traceback."""
    path = tmp_path / "x.safetensors"
    save_file(honest[0], path, metadata=None if text is None else {"about": text})
    refusal(path)


def damage(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """Return weights with a fault in the first tensor."""
    name = next(iter(tensors))
    faults = {
        "shape": {name: tensors[name][..., :-1].contiguous()},
        "type": {name: tensors[name].double()},
        "one more": {"x" * 10_000: torch.zeros(1)},
    }
    changed = {**tensors, **faults.get(how, {})}
    return {key: value for key, value in changed.items() if how != "one less" or key != name}


@pytest.mark.parametrize("how", ["shape", "type", "one more", "one less"])
def test_weights_of_another_network_are_refused(
    how: str, honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """Users would see the many lines of PyTorch, or weights would be used in another precision."""
    tensors, description = honest
    save_checkpoint(tmp_path / "x.safetensors", damage(tensors, how), description)
    refusal(tmp_path / "x.safetensors")


def test_no_wrong_byte_in_the_header_goes_unnoticed(
    honest: tuple[dict[str, Tensor], Description], tmp_path: Path
) -> None:
    """A bad disk or bad intent could change the network that is loaded."""
    tensors, description = honest
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, tensors, description)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    dice = random.Random(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[dice.randrange(header)] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            state = load_trained(path).network.state_dict()
        except InputError:
            refused += 1
        else:
            assert all(torch.equal(values, tensors[name]) for name, values in state.items())
    assert refused > 200


def test_other_files_are_refused_and_not_executed(
    honest: tuple[dict[str, Tensor], Description], synthetic_files: Files, tmp_path: Path
) -> None:
    """A pickle could do anything to the user who opens it."""
    path, trace = tmp_path / "x.safetensors", tmp_path / "exploded"
    torch.save({"weights": Exploding(trace)}, path)
    refusal(path)
    assert not trace.exists()
    save_checkpoint(path, *honest)
    whole = path.read_bytes()
    for part in (b"", whole[:4], whole[:100], whole[:-1], whole + b"\0", whole[8:]):
        path.write_bytes(part)
        refusal(path)
    shutil.copy(synthetic_files["a"], path)
    refusal(path)
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors")
