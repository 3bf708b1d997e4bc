"""A script by its name, its columns, and a trained network from its checkpoint."""

from __future__ import annotations

import importlib
import json
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from common.data import SensorSet, open_hdf5
from common.files import InputError, load_checkpoint, shorten
from common.runs import Row, describe_network
from tools.checkpoint import check_checkpoint

PROJECT = Path(__file__).parents[1]  # the folder of the scripts, including user-supplied ones
USED_NAMES = (  # of a script, by the tools
    *("DATASET", "RATE_HZ", "WINDOW", "SENSORS", "COLUMNS", "UNITS", "SENSOR_SETS", "TARGETS"),
    *("ROWS", "read", "inputs"),
)
RENAMED_TARGETS = {  # of Dataset A: names in earlier versions -> names now
    "GRF x": "GRF antero-posterior",
    "GRF y": "GRF vertical",
    "GRF z": "GRF medio-lateral",
}
LONGEST_NAME = 200  # characters of a script's name; file systems end at 255 bytes
BODY_HEIGHT = "body height"  # scales the video of Dataset B


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        network: the network, frozen, in eval mode, on the CPU.
        script: the script that defines it.
        row: its row in the table of the script.
        description: the description in its checkpoint.
    """

    network: nn.Module
    script: ModuleType
    row: Row
    description: dict[str, Any]

    @property
    def sensor_set(self) -> SensorSet:
        """The IMUs and modalities that the network reads."""
        return self.script.SENSOR_SETS[self.row.sensor_set]

    @property
    def training_data(self) -> dict[str, Any]:
        """The data file of its run, as described in the checkpoint; empty without a description."""
        settings = self.description.get("settings")
        data = settings.get("data") if isinstance(settings, dict) else None
        return data if isinstance(data, dict) else {}

    @property
    def is_trained_on_synthetic_data(self) -> bool:
        """Whether the checkpoint describes its data as synthetic."""
        return bool(self.training_data.get("synthetic"))

    @property
    def fine_tuned(self) -> list[dict[str, Any]]:
        """What `tools.fine_tune` has recorded about the further training, each time it was run."""
        entries = self.description.get("fine_tuned")
        is_valid = isinstance(entries, list) and all(
            isinstance(entry, dict) and isinstance(entry.get("data"), dict) for entry in entries
        )
        return entries if is_valid else []

    def was_trained_on(self, path: Path, subject: str | None) -> bool:
        """Return whether a subject of this file, known by its name and size, was used in training.

        With the protocol `strict`, some of these subjects only determined the best epoch.

        Args:
            path: the file.
            subject: id of the subject; None for a file of one unnamed person.
        """
        data, file = self.training_data, (path.name, path.stat().st_size)
        is_same_file = (data.get("file"), data.get("bytes")) == file
        if is_same_file and subject not in (None, self.description.get("test_subject")):
            return True
        used = [entry["data"] for entry in self.fine_tuned]
        wanted = (*file, subject)
        return any((d.get("file"), d.get("bytes"), d.get("subject")) == wanted for d in used)

    @property
    def lookahead(self) -> int | None:
        """Latency of the output of a streaming network in samples; None if it reads windows."""
        return getattr(self.network, "lookahead", None)

    def inputs(self, samples: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the inputs of the network, from modalities `(..., C)` with all sensors."""
        return self.script.inputs(samples, self.row.sensor_set)

    def predict(self, samples: Mapping[str, Tensor]) -> Tensor:
        """Return the estimates `(B, T, K)` for windows of all modalities, `(B, T, C)` each."""
        return self.network(*self.inputs(samples))

    def stream(
        self, *inputs: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a streaming network on its next sample; return its output and state.

        On the CPU, PyTorch computes an LSTM with oneDNN, which is optimized for whole sequences.
        For a single sample, the network is a third faster without it.
        """
        onednn = torch.backends.mkldnn
        before, onednn.enabled = onednn.enabled, False
        try:
            return self.network.stream(*inputs, state=state)
        finally:
            onednn.enabled = before


def load_trained(path: Path) -> Trained:
    """Build the network of a checkpoint and load its weights.

    The network is built from a row of a script in the project's folder. The description in the file
    only selects that row and must match it exactly; nothing is built from the file itself, so an
    untrusted file can do no harm.

    Raises:
        InputError: The file is damaged or does not match a row of these scripts.
    """
    check_checkpoint(path)
    tensors, description = load_checkpoint(path)
    try:
        script = find_script(_entry(description, "script"))
        row = _matching_row(script, description)
        with torch.device("meta"):  # no memory for initial weights, which are replaced
            network = row.network()
        types = {name: values.dtype for name, values in network.state_dict().items()}
        network.load_state_dict(tensors, assign=True)
        if types != {name: values.dtype for name, values in tensors.items()}:
            raise ValueError("another precision")
    except Exception as error:  # the file may contain anything
        raise InputError(
            f"{path}: does not match a network of these scripts ({shorten(error)}); use a "
            "checkpoint written by this version"
        ) from error
    return Trained(network.eval().requires_grad_(False), script, row, description)


def _entry(description: Mapping[str, Any], name: str) -> object:
    if name not in description:
        raise ValueError(f"its description has no {name}")
    return description[name]


def _matching_row(script: ModuleType, description: Mapping[str, Any]) -> Row:
    """Return the row of the description; its network, inputs and targets must match."""
    name = _entry(description, "row")
    row = next((row for row in script.ROWS if row.name == name), None)
    if row is None:
        raise ValueError(f"the script has no row {reprlib.repr(name)}")
    sensor_set = script.SENSOR_SETS[row.sensor_set]
    expected = describe_network(row, sensor_set, script.TARGETS, script.WINDOW, script.RATE_HZ)
    for key, value in json.loads(json.dumps(expected)).items():  # tuples become lists
        found = _entry(description, key)
        if key == "targets":  # forces of Dataset A have other names in earlier versions
            renamed = renamed_targets(script.__name__)
            found = [{**t, "name": renamed.get(t["name"], t["name"])} for t in found]
        if found != value:
            raise ValueError(f"{key} is {reprlib.repr(found)}, but must be {reprlib.repr(value)}")
    return row


def renamed_targets(script: str) -> dict[str, str]:
    """Return the targets of a script that have another name in earlier versions, with that now."""
    return RENAMED_TARGETS if re.match("Dataset_A_", script.rpartition(".")[2]) else {}


# Scripts ------------------------------------------------------------------------------------------


def find_script(name: object) -> ModuleType:
    """Import the script of that name from the project's folder or from `beyond/`.

    A file is imported only if its text has a table of rows, because other files of the folder may
    do anything when they are imported.

    Raises:
        ValueError: There is no such script.
    """
    if isinstance(name, str) and name.isidentifier() and len(name) <= LONGEST_NAME:
        for path in (PROJECT / f"{name}.py", PROJECT / "beyond" / f"{name}.py"):
            if not path.is_file():
                continue
            if not re.search(r"^ROWS\b", path.read_text(encoding="utf-8"), re.MULTILINE):
                raise ValueError(f"{path.name} has no table of rows")
            return importlib.import_module(
                ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            )
    raise ValueError(f"there is no script {reprlib.repr(name)} in {PROJECT}")


def open_script(path: Path) -> ModuleType:
    """Import a script that the user has named.

    Raises:
        InputError: It cannot be imported, or is not a copy of one of the scripts.
    """
    if path.suffix != ".py" or not path.stem.isidentifier() or not path.is_file():
        raise InputError(f"--script {path}: no such script; pass a copy of one of the scripts")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        script = importlib.import_module(path.stem)
    except Exception as error:  # user code may raise anything
        raise InputError(f"--script {path}: {type(error).__name__}: {shorten(error)}") from error
    if missing := [name for name in USED_NAMES if not hasattr(script, name)]:
        raise InputError(
            f"--script {path}: no {', '.join(missing)}; pass a copy of one of the scripts"
        )
    return script


def dataset_name(script: ModuleType) -> str:
    """Return the name of a script's dataset in titles and messages: A, B, or its own name."""
    return {"a": "A", "b": "B"}.get(script.DATASET, script.DATASET)


def is_synthetic(path: Path) -> bool:
    """Return whether a file is marked as simulated (HDF5 attribute `synthetic`)."""
    if not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return bool(file.attrs.get("synthetic", False))


# Columns ------------------------------------------------------------------------------------------


def all_sensors(script: ModuleType) -> SensorSet:
    """Return the set of all sensors and modalities."""
    return SensorSet(tuple(script.SENSORS), tuple(script.UNITS))


def channel_names(script: ModuleType, sensor_set: SensorSet) -> dict[str, list[str]]:
    """Return the names of the channels of each modality of a sensor set, in order."""
    names = {modality: script.COLUMNS[modality] for modality in sensor_set.modalities}
    firsts = [3 * script.SENSORS.index(sensor) for sensor in sensor_set.sensors]
    for modality in {"acc", "gyr"} & set(names):
        names[modality] = [name for i in firsts for name in names[modality][i : i + 3]]
    return names


def count_channels(script: ModuleType) -> dict[str, int]:
    """Return the number of channels of every modality of the dataset, and of `"targets"`."""
    counts = {modality: len(script.COLUMNS[modality]) for modality in script.UNITS}
    return {**counts, "targets": len(script.TARGETS)}


def input_columns(script: ModuleType, sensor_set: SensorSet) -> list[str]:
    """Return the columns that the inputs of a sensor set are computed from."""
    names = [name for channels in channel_names(script, sensor_set).values() for name in channels]
    return [*names, BODY_HEIGHT] if "video" in sensor_set.modalities else names


def target_columns(script: ModuleType) -> list[str]:
    """Return the columns that only the targets are computed from."""
    inputs = input_columns(script, all_sensors(script))
    return [name for names in script.COLUMNS.values() for name in names if name not in inputs]


def to_modalities(script: ModuleType, groups: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return modalities and `"targets"`, `(samples, C)` each, from groups of columns.

    Args:
        script: the script, whose `convert` is applied if it exists.
        groups: `(samples, ...)` per entry of `COLUMNS`, as `Table.read` returns them.
    """
    convert = getattr(script, "convert", None)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 gives NaN, and x/0 infinity
        return convert(groups) if convert else groups
