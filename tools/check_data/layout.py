"""The layouts of the two datasets, and their files read subject by subject."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import h5py
import numpy as np

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common.data import (
    COORDINATES,
    GONIOMETERS,
    PELVIS,
    TREE_COORDINATES,
    Columns,
    Table,
    dataset_a_tables,
    dataset_b_tables,
    ignored_members,
)
from common.files import InputError
from tools.trained import UNITS, channel_names

LOADED_BW = 0.05  # vertical force from which a foot is on the ground


class Layout(NamedTuple):
    """The layout of a dataset and what is plausible in it.

    Attributes:
        script: the script whose sensors, targets, window and rate apply.
        channels: modality -> names of its channels.
        units: modality -> unit of its channels in the file.
        forces: indices of the targets that are forces.
        vertical: index of the target that is the vertical force.
        moment_range: smallest and largest plausible 99th percentile of a moment's magnitude.
        stance_moment: index of a moment that is this large only while the foot is on the ground.
        stance_moment_size: its magnitude.
        zero_channels: channels that are 0 by definition.
        others: columns whose range is of interest: block -> unit and names.
    """

    script: ModuleType
    channels: dict[str, list[str]]
    units: dict[str, str]
    forces: list[int]
    vertical: int
    moment_range: tuple[float, float]
    stance_moment: int
    stance_moment_size: float
    zero_channels: frozenset[str]
    others: dict[str, tuple[str, list[str]]]


LAYOUTS = {
    "a": Layout(
        script=script_a,
        channels=channel_names(script_a, script_a.SENSOR_SETS["all_imus_emg"]),
        units=UNITS["a"],
        forces=[4, 5, 6],
        vertical=5,
        moment_range=(0.005, 0.5),
        stance_moment=3,  # ankle; it is near 0 in swing and 0.1 at push-off
        stance_moment_size=0.03,
        zero_channels=frozenset(),
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
        channels=channel_names(script_b, script_b.SENSOR_SETS["all_imus_video"]),
        units=UNITS["b"],
        forces=[2, 3, 4],
        vertical=3,
        moment_range=(0.3, 30.0),
        stance_moment=0,  # KFM; below 0.4 in swing and 2 to 5 in stance
        stance_moment_size=1.0,
        zero_channels=frozenset(f"MidHip_{view}" for view in script_b.VIEWS),  # minus itself
        others={"body weight": ("kg", ["body weight"]), "body height": ("m", ["body height"])},
    ),
}


class Part(NamedTuple):
    """One activity (A) or all steps (B) of a subject.

    Attributes:
        activity: name of the activity; empty in Dataset B.
        table: the HDF5 dataset, open as long as its file.
        columns: its samples, by column name.
        trial: `(samples,)` number of the trial or step.
        samples: modality, or `"targets"`, -> `(samples, C)`, with NaN.
    """

    activity: str
    table: h5py.Dataset
    columns: Columns
    trial: np.ndarray
    samples: dict[str, np.ndarray]

    @property
    def is_usable(self) -> np.ndarray:
        """Whether a sample has a finite number in every used column, `(samples,)`."""
        finite = [np.isfinite(array).all(axis=1) for array in self.samples.values()]
        return np.logical_and.reduce(finite)


class DataFile:
    """An open HDF5 file of either dataset.

    Attributes:
        dataset: `a` or `b`.
        layout: its layout.
        has_trials: whether the file says where its trials (A) or steps (B) start.
        ignored: members that seem to be subjects but are not read because of their names.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        """Find the tables of the file.

        Raises:
            InputError: The file does not have the layout of either dataset.
        """
        if "All_subjects" in file:
            self.dataset, self._tables = "a", dataset_a_tables(path, file)
        elif any(key.startswith("subject_") for key in file):
            self.dataset, self._tables = "b", dataset_b_tables(path, file)
        else:
            raise InputError(
                f"{path}: neither All_subjects (Dataset A) nor subject_01 ... (Dataset B) in it; "
                "see docs/data.md for the layout of the file"
            )
        self.layout = LAYOUTS[self.dataset]
        self.ignored = ignored_members(file)
        self.has_trials = self.dataset == "b" or all(
            "trial_starts" in table.dataset.attrs for table in self._tables
        )

    def subjects(self) -> Iterator[tuple[str, list[Part]]]:
        """Read the file subject by subject; yield ids and parts."""
        for subject, tables in groupby(self._tables, key=lambda table: table.subject):
            yield subject, [self._part(table) for table in tables]

    def _part(self, table: Table) -> Part:
        columns, trial = table.read()
        with np.errstate(divide="ignore", invalid="ignore"):
            samples = self.layout.script.prepare(columns)
        return Part(table.activity, table.dataset, columns, trial, samples)
