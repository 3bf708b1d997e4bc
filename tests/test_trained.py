"""Scripts and their columns; checkpoints that do not match are refused and never executed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import Dataset_A_lmfn_tfn_fusion_models as script
import Dataset_B_sensor_distillation as script_b
from beyond import Dataset_A_streaming as streaming
from common.files import (
    InputError,
    file_digest,
    load_checkpoint,
    save_checkpoint,
    write_json,
)
from tests.conftest import Files
from tests.networks import BEYOND, SCRIPTS, random_samples, row_named
from tests.predicting import describe, random_network
from tools.trained import (
    Trained,
    all_sensors,
    channel_names,
    count_channels,
    find_script,
    input_columns,
    load_trained,
    open_script,
    target_columns,
)

ROW = "lmfn-foot"
Description = dict[str, Any]
Checkpoint = tuple[dict[str, Tensor], Description]


@pytest.fixture(scope="module")
def valid() -> Checkpoint:
    """Random weights of a small row, and the description of its network."""
    torch.manual_seed(0)
    network = row_named(script, ROW).network()
    return network.state_dict(), describe(script, ROW, test_subject="7", settings={})


def refusal(path: Path) -> str:
    """Return the error for a checkpoint: one line that names it."""
    with pytest.raises(InputError) as caught:
        load_trained(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message


# Scripts and columns ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS + BEYOND, ids=lambda script: script.__name__)
def test_channels_are_named_as_in_the_data(script: ModuleType) -> None:
    """A user would feed the channels of one modality into the input of another."""
    counts = count_channels(script)
    one = {name: values[:, 0] for name, values in random_samples(script, 1).items()}
    for row in script.ROWS:
        trained = Trained(torch.nn.Identity(), script, row, {})
        sensors, modalities = trained.sensor_set
        names = channel_names(script, trained.sensor_set)
        assert tuple(names) == modalities
        for modality, channels in names.items():
            imu = {"acc": "Accel", "gyr": "Gyro"}.get(modality, "")
            assert len(channels) == (3 * len(sensors) if imu else counts[modality])
            assert all(imu in name for name in channels)
        inputs = torch.cat(trained.inputs(one), dim=-1)
        assert inputs.shape[-1] == sum(map(len, names.values()))


def test_columns_of_inputs_and_targets_are_distinguished() -> None:
    """Users with IMUs only would have to provide the body mass or the joints of a video."""
    feet = script_b.SENSOR_SETS["feet"]
    assert input_columns(script_b, feet) == [
        f"{kind}{axis}_{foot}"
        for kind in ("Accel", "Gyro")
        for foot in feet.sensors
        for axis in "XYZ"
    ]
    everything = input_columns(script_b, all_sensors(script_b))
    assert "body height" in everything
    assert "body weight" not in everything
    assert target_columns(script_b) == [*script_b.COLUMNS["targets"], "body weight"]


def test_other_files_are_not_taken_for_scripts(tmp_path: Path) -> None:
    """Users would get an AttributeError from the depths of a tool."""
    (tmp_path / "half_a_script.py").write_text("ROWS = []\n")
    (tmp_path / "broken_script.py").write_text("ROWS = [\n")
    for name, message in (
        ("half_a_script.py", r"half_a_script\.py: no DATASET, .* pass a copy of one"),
        ("broken_script.py", r"broken_script\.py: SyntaxError"),
        ("none.py", "no such script"),
    ):
        with pytest.raises(InputError, match=message):
            open_script(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "CON", "/etc/x", "../x", "a\\b", "a\0b", "x" * 300, "tests.twins", "common", 7],
    ids=ascii,
)
def test_a_name_in_a_file_finds_nothing_but_scripts(name: object) -> None:
    """A checkpoint from somebody else would choose which file is executed."""
    with pytest.raises(ValueError, match="there is no script"):
        find_script(name)


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("narrow")
def test_a_valid_checkpoint_is_loaded(tmp_path: Path) -> None:
    """Refusing every checkpoint would pass all tests below; networks could not be used."""
    for module, row in ((script, ROW), (streaming, "streaming-foot")):
        path = random_network(module, row, tmp_path)
        trained, tensors = load_trained(path), load_checkpoint(path).tensors
        assert (trained.script, trained.row.name) == (module, row)
        assert trained.lookahead == (streaming.LOOKAHEAD if module is streaming else None)
        assert not trained.network.training
        for name, values in trained.network.state_dict().items():
            assert torch.equal(values, tensors[name])
    old = {**trained.description, "script": "Dataset_A_Sensor_Distillation"}
    save_checkpoint(path, tensors, old)
    assert "the script has no row 'streaming-foot'" in refusal(path)


LIES = {
    "another class": {"model": "LowRank"},
    "not a name": {"model": ["LMFN"]},
    "another folder": {"script": "../x"},
    "a tool": {"script": "tools.predict"},
    "not a script": {"script": "sequences"},
    "several lines": {"script": "x\nerror: fine\x1b[2J" * 1000},
    "no such row": {"row": "tfn-moon"},
    "another row": {"row": "lmfn-foot_trunk"},
    "huge": {"arguments": {"channels": [3, 3], "targets": 10**12}},
    "an argument more": {"arguments": {"channels": [3, 3], "targets": 7, "file": "/etc/passwd"}},
    "other targets": {"targets": [{"name": "KFM", "unit": "Nm"}]},
    "other window": {"window": 10**9},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_nothing_is_built_from_the_description(
    lie: Description, valid: Checkpoint, tmp_path: Path
) -> None:
    """A file could determine what runs on the user's machine, or how much memory that takes."""
    tensors, description = valid
    save_checkpoint(tmp_path / "x.safetensors", tensors, {**description, **lie})
    refusal(tmp_path / "x.safetensors")
    rest = {key: value for key, value in description.items() if key not in lie}
    save_checkpoint(tmp_path / "x.safetensors", tensors, rest)
    assert f"its description has no {next(iter(lie))}" in refusal(tmp_path / "x.safetensors")


def test_other_metadata_are_refused(valid: Checkpoint, tmp_path: Path) -> None:
    """A safetensors file of another program would end in a traceback."""
    path = tmp_path / "x.safetensors"
    for metadata in (None, *({"about": t} for t in ("{", "[1]", "[" * 100_000 + "]" * 100_000))):
        save_file(valid[0], path, metadata=metadata)
        refusal(path)


def test_weights_of_another_network_are_refused(valid: Checkpoint, tmp_path: Path) -> None:
    """Users would see the many lines of PyTorch, or weights would be used in another precision."""
    tensors, description = dict(valid[0]), valid[1]
    name = next(iter(tensors))
    values = tensors.pop(name)
    for changed in (
        {name: values[..., :-1].contiguous()},
        {name: values.double()},
        {name: values, "x" * 10_000: torch.zeros(1)},
        {},
    ):
        save_checkpoint(tmp_path / "x.safetensors", {**tensors, **changed}, description)
        refusal(tmp_path / "x.safetensors")
    save_checkpoint(tmp_path / "x.safetensors", valid[0], {**description, "format": "2\n"})
    refusal(tmp_path / "x.safetensors")


class Exploding:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_other_files_are_refused_and_not_executed(
    valid: Checkpoint, synthetic_files: Files, tmp_path: Path
) -> None:
    """A pickle could do anything to the user who opens it."""
    path, trace = tmp_path / "x.safetensors", tmp_path / "exploded"
    torch.save({"weights": Exploding(trace)}, path)
    refusal(path)
    assert not trace.exists()
    save_checkpoint(path, *valid)
    whole = path.read_bytes()
    for part in (b"", whole[:4], whole[:100], whole[:-1], whole + b"\0", whole[8:]):
        path.write_bytes(part)
        refusal(path)
    shutil.copy(synthetic_files["a"], path)
    refusal(path)
    (tmp_path / "run" / "results").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / "x.safetensors"
    path.parent.mkdir()
    save_checkpoint(path, *valid)
    result = tmp_path / "run" / "results" / "x.json"
    write_json(result, {"sha256": {path.name: file_digest(path)}})
    load_trained(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    assert "damaged or replaced (differs from" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors")
