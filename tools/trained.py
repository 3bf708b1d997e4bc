"""A trained network from its checkpoint, together with the script that defines its class."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.data import Columns, SensorSet
from common.files import InputError, load_checkpoint, shorten
from common.runs import Row, Script, describe_network, find_row, load_script

PROJECT = Path(__file__).parents[1]  # the folder of the scripts, those of the user included


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        network: the network, frozen, in eval mode, on the CPU.
        script: the script that defines it.
        row: its row in the table of the script.
        description: the description in its checkpoint.
    """

    network: nn.Module
    script: Script
    row: Row
    description: dict[str, Any]

    @property
    def sensor_set(self) -> SensorSet:
        """The IMUs and modalities that the network reads."""
        return self.script.SENSOR_SETS[self.row.sensor_set]

    @property
    def training_data(self) -> dict[str, Any]:
        """The data file of its run, as the checkpoint describes it; empty if it does not."""
        settings = self.description.get("settings")
        data = settings.get("data") if isinstance(settings, dict) else None
        return data if isinstance(data, dict) else {}

    @property
    def is_trained_on_synthetic_data(self) -> bool:
        """Whether the checkpoint says so."""
        return bool(self.training_data.get("synthetic"))

    def has_seen(self, path: Path, subject: str) -> bool:
        """Whether its training used a subject of this file, known by its name and size.

        With the protocol `strict`, some of these subjects only chose the best epoch.
        """
        data, file = self.training_data, (path.name, path.stat().st_size)
        is_same_file = (data.get("file"), data.get("bytes")) == file
        return is_same_file and subject != self.description.get("test_subject")

    @property
    def lookahead(self) -> int | None:
        """Samples by which the output of a streaming network is late; None if it reads windows."""
        return getattr(self.network, "lookahead", None)

    def inputs(self, samples: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the inputs of the network, from modalities `(..., C)` with all sensors."""
        return self.script.inputs(samples, self.row.sensor_set)

    def stream(
        self, *inputs: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a streaming network on its next sample, quickly; return its output and state.

        On the CPU, PyTorch computes an LSTM with oneDNN, which is made for whole sequences. For a
        single sample, the network is a third faster without it.
        """
        onednn = torch.backends.mkldnn
        before, onednn.enabled = onednn.enabled, False
        try:
            return self.network.stream(*inputs, state=state)
        finally:
            onednn.enabled = before

    def predict(self, samples: Mapping[str, Tensor]) -> Tensor:
        """Return the prediction `(B, T, K)` for windows of all modalities, `(B, T, C)` each."""
        return self.network(*self.inputs(samples))


def load_trained(path: Path) -> Trained:
    """Build the network of a checkpoint and load its weights.

    The network is built from a row of a script in the project's folder. The description in the
    file only selects that row and must match it exactly, except for the lookahead of a streaming
    network, a number from 0 to a window; nothing else is built from the file itself, so an
    untrusted file can do no harm.

    Raises:
        InputError: The file is damaged or does not match a row of these scripts.
    """
    tensors, description = load_checkpoint(path)
    try:
        script = find_script(_entry(description, "script"))
        row = _matching_row(script, description)
        with torch.device("meta"):  # no memory for initial weights, which are replaced
            network = row.network()
        _load_weights(network, tensors)
    except Exception as error:  # the file may contain anything
        raise InputError(
            f"{path}: does not match a network of these scripts ({shorten(error)}); use a "
            "checkpoint written by this version"
        ) from error
    return Trained(network.eval().requires_grad_(False), script, row, description)


def find_script(name: object) -> Script:
    """Import the script of that name from the project's folder.

    A file is imported only if its text has a table of rows, because other files of the folder may
    do anything when they are imported.

    Raises:
        ValueError: There is no such script.
    """
    path = PROJECT / f"{name}.py"
    if not (isinstance(name, str) and name.isidentifier() and path.is_file()):
        raise ValueError(f"there is no script {reprlib.repr(name)} in {PROJECT}")
    if not re.search(r"^ROWS\b", path.read_text(encoding="utf-8"), re.MULTILINE):
        raise ValueError(f"{path.name} has no table of rows")
    return load_script(path)


def open_script(path: Path) -> Script:
    """Import a script that the user has named.

    Raises:
        InputError: It cannot be imported, or is not like the scripts of this collection.
    """
    if path.suffix != ".py" or not path.stem.isidentifier() or not path.is_file():
        raise InputError(f"--script {path}: no such script; give a copy of one of the scripts")
    try:
        script = load_script(path.resolve())
        missing = [name for name in Script.__annotations__ if not hasattr(script, name)]
    except Exception as error:  # of the user's code: anything
        raise InputError(f"--script {path}: {type(error).__name__}: {shorten(error)}") from error
    if missing:
        raise InputError(
            f"--script {path}: no {', '.join(missing)}; give a copy of one of the scripts"
        )
    return script


def dataset_name(script: Script) -> str:
    """Return the name of a script's dataset in titles and messages: A, B, or as the script says."""
    return {"a": "A", "b": "B"}.get(script.DATASET, script.DATASET)


def script_columns(script: Script) -> list[str]:
    """Return all columns that a script reads."""
    columns = _no_samples()
    script.prepare(columns)
    return list(columns.nan_counts)  # has an entry for every column that was looked up


def target_columns(script: Script) -> list[str]:
    """Return the columns that only the targets are computed from."""
    of_inputs = script.column_names(all_sensors(script))
    return [name for name in script_columns(script) if name not in of_inputs]


def all_sensors(script: Script) -> SensorSet:
    """Return the set of all sensors and modalities."""
    return SensorSet(tuple(script.SENSORS), tuple(script.UNITS))


def count_channels(script: Script) -> dict[str, int]:
    """Return the number of channels of every modality of the dataset, and of `"targets"`."""
    return {name: values.shape[1] for name, values in script.prepare(_no_samples()).items()}


def channel_names(script: Script, sensor_set: SensorSet) -> dict[str, list[str]]:
    """Return the names of the channels of each modality of a sensor set, in order."""
    columns = iter(script.column_names(sensor_set))
    imu_channels = 3 * len(sensor_set.sensors)
    names = {modality: list(islice(columns, imu_channels)) for modality in ("acc", "gyr")}
    others = [name for name in columns if name != "body height"]  # only scales the video
    return names | dict.fromkeys(sensor_set.modalities[2:], others)


def _no_samples() -> Columns:
    return Columns(Path(), "", {}, np.empty((0, 1)), fill_missing=True)


def _entry(description: Mapping[str, Any], name: str) -> object:
    if name not in description:
        raise ValueError(f"its description has no {name}")
    return description[name]


def _matching_row(script: Script, description: Mapping[str, Any]) -> Row:
    """Return the row of the description; its network, inputs and targets must match."""
    name = _entry(description, "row")
    if name not in [row.name for row in script.ROWS]:
        raise ValueError(f"the script has no row {reprlib.repr(name)}")
    row = find_row(script, name)
    arguments = _entry(description, "arguments")
    if "lookahead" in row.network.keywords and isinstance(arguments, dict):
        lookahead = arguments.get("lookahead")  # --lookahead of the run
        if type(lookahead) is int and 0 <= lookahead <= script.WINDOW:
            row = replace(row, network=partial(row.network, lookahead=lookahead))
    expected = json.loads(json.dumps(describe_network(script, row)))  # tuples become lists
    for key, value in expected.items():
        found = _entry(description, key)
        if found != value:
            raise ValueError(f"{key} is {reprlib.repr(found)}, but must be {reprlib.repr(value)}")
    return row


def _load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Use the tensors as weights; names, shapes and types must be those of the network."""
    expected = network.state_dict()
    for name in {**expected, **tensors}:
        if name not in expected or name not in tensors:
            where = "file" if name in expected else "network"
            raise ValueError(f"{reprlib.repr(name)} is not in the {where}")
        found, wanted = (f"{p[name].dtype} {[*p[name].shape]}" for p in (tensors, expected))
        if found != wanted:
            raise ValueError(f"{name} is {found}, but must be {wanted}")
    network.load_state_dict(tensors, assign=True)
