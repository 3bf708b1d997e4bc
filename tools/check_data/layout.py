"""The layouts of both datasets and of user-supplied scripts, and files read subject by subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import h5py
import numpy as np

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.data import (
    NAME,
    NUMBER,
    Table,
    dataset_a_tables,
    dataset_b_tables,
    ignored_members,
    trial_tables,
)
from common.files import InputError
from common.stances import vertical_force
from tools.dataset_a import COORDINATES, GONIOMETERS, PELVIS, TREE_COORDINATES
from tools.trained import to_modalities

LOADED_BW = 0.05  # vertical force from which a foot is on the ground


class Layout(NamedTuple):
    """The layout of a dataset and its plausible values.

    Attributes:
        script: the script whose sensors, targets, units, window and rate apply.
        stance_moment: index of a moment that is this large only while the foot is on the ground;
            None if none is known.
        stance_moment_size: its magnitude.
        zero_channels: channels that are 0 by definition.
        others: columns whose range is of interest: block -> unit and names.
    """

    script: ModuleType
    stance_moment: int | None = None
    stance_moment_size: float = 0.0
    zero_channels: frozenset[str] = frozenset()
    others: Mapping[str, tuple[str, list[str]]] = {}

    @property
    def is_b(self) -> bool:
        """Whether this is the layout of Dataset B, with video and a contact phase."""
        return self.script.DATASET == "b"

    @property
    def vertical(self) -> int | None:
        """The index of the target that is the vertical force; None if there is none."""
        return vertical_force(self.script.TARGETS)

    @property
    def forces(self) -> list[int]:
        """The indices of the targets that are forces in body weights."""
        return [i for i, target in enumerate(self.script.TARGETS) if target.unit == "BW"]


LAYOUTS = {
    "a": Layout(
        script=script_a,
        stance_moment=3,  # ankle; it is near 0 in swing and 0.1 at push-off
        stance_moment_size=0.03,
        others={
            "joint angles": ("degrees", [name for name in COORDINATES if name not in PELVIS[3:]]),
            "pelvis position": ("m", list(PELVIS[3:])),
            "free moment": ("BW·m", [f"right_moment_{axis}" for axis in "xyz"]),
            "center of pressure": ("m", [f"right_p{axis}" for axis in "xyz"]),
            "goniometers": ("degrees", list(GONIOMETERS)),
            "raw EMG": ("mV", [f"{muscle}_raw" for muscle in script_a.MUSCLES]),
            "joint power": ("W", [f"{name}_power" for name in TREE_COORDINATES]),
        },
    ),
    "b": Layout(
        script=script_b,
        stance_moment=0,  # KFM; below 0.4 in swing and 2 to 5 in stance
        stance_moment_size=1.0,
        zero_channels=frozenset(f"MidHip_{view}" for view in script_b.VIEWS),  # minus itself
        others={"body weight": ("kg", ["body weight"]), "body height": ("m", ["body height"])},
    ),
}


class Part(NamedTuple):
    """One activity, or all steps (B), of a subject.

    Attributes:
        activity: name of the activity; empty in Dataset B.
        table: the HDF5 dataset, which can be used as long as its file is open.
        trial: `(samples,)` number of the trial or step.
        columns: its columns `(samples, C)` as stored: entries of the script's `COLUMNS` and of
            `Layout.others` that the file has, and in Dataset B `"force_phase"`.
        samples: modality, or `"targets"`, -> `(samples, C)`, with NaN.
    """

    activity: str
    table: h5py.Dataset
    trial: np.ndarray
    columns: dict[str, np.ndarray]
    samples: Mapping[str, np.ndarray]

    @property
    def is_usable(self) -> np.ndarray:
        """Whether a sample has a finite number in every used column, `(samples,)`."""
        finite = [np.isfinite(array).all(axis=1) for array in self.samples.values()]
        return np.logical_and.reduce(finite)


class DataFile:
    """An open HDF5 file of either dataset, or of a user-supplied script.

    Args:
        path: the file.
        file: the open file.
        script: the script that reads it; None for those of Dataset A or B.

    Attributes:
        layout: its layout.
        has_trials: whether the file states where its trials (A) or steps (B) start.
        ignored: members that seem to be subjects but are not read because of their names.

    Raises:
        InputError: The file does not have the layout of either dataset, or of the script.
    """

    def __init__(self, path: Path, file: h5py.File, script: ModuleType | None = None) -> None:
        if script is None and file.attrs.get("made_by") == "tools.make_dataset":
            raise InputError(f"{path}: not of Dataset A or B; name its script with --script")
        dataset = script.DATASET if script else "a" if "All_subjects" in file else "b"
        if dataset == "b" and not any(key.startswith("subject_") for key in file):
            raise InputError(
                f"{path}: neither All_subjects (Dataset A) nor subject_01 ... (Dataset B) in it; "
                "see docs/data.md for the layout of the file"
            )
        find_tables = {"a": dataset_a_tables, "b": dataset_b_tables}.get(dataset, trial_tables)
        self._tables = find_tables(path, file)
        self.layout = LAYOUTS.get(dataset) or Layout(script)
        self.ignored = ignored_members(file, NUMBER if dataset in LAYOUTS else NAME)
        self.has_trials = dataset == "b" or all(
            "trial_starts" in table.dataset.attrs for table in self._tables
        )

    def subjects(self) -> Iterator[tuple[str, list[Part]]]:
        """Read the file subject by subject; yield ids and parts."""
        for subject, tables in groupby(self._tables, key=lambda table: table.subject):
            yield subject, [self._part(table) for table in tables]

    def _part(self, table: Table) -> Part:
        script, others = self.layout.script, self.layout.others.items()
        wanted = {
            **script.COLUMNS,
            **({"force_phase": ["force_phase"]} if self.layout.is_b else {}),
        }
        wanted |= {block: names for block, (_, names) in others if {*names} <= {*table.positions}}
        columns, trial = table.read(wanted)
        samples = to_modalities(script, {group: columns[group] for group in script.COLUMNS})
        return Part(table.activity, table.dataset, trial, columns, samples)
