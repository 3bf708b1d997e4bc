"""What the two datasets hold, and their files read subject by subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from common.columns import (
    COORDINATES,
    DATASET_A_ACTIVITIES,
    DATASET_A_COLUMNS,
    GONIOMETERS,
    MUSCLES,
    PELVIS,
    TREE_COORDINATES,
)
from common.experiments import Study, Target

import Dataset_A_Sensor_Distillation as script_a
import Dataset_B_sensor_distillation as script_b
from common import hdf5
from common.data import Block, block_a, block_b
from common.files import InputError


class Layout(NamedTuple):
    """What is to be known of a dataset.

    Args:
        study: The script whose window and rate count.
        sensors: Names of the IMUs. gyroscope_unit: Of the file.
        channels: Modality to its names. targets: Their names and units.
        vertical: Which target is the vertical force. forces: Which are forces.
        moment_range: Smallest and largest plausible 99th percentile of a moment's size.
        still: Channels that are 0 by definition.
        others: Columns that no script reads: block -> unit and names.
    """

    study: Study
    sensors: tuple[str, ...]
    gyroscope_unit: str
    channels: dict[str, list[str]]
    targets: list[Target]
    vertical: int
    forces: list[int]
    moment_range: tuple[float, float]
    still: frozenset[str]
    others: dict[str, tuple[str, list[str]]]

    @property
    def units(self) -> dict[str, str]:
        """Modality to the unit of its channels."""
        video = "pixels / m"
        return {"acc": "m/s²", "gyr": self.gyroscope_unit, "emg": "1", "video": video}


def of(dataset: str) -> Layout:
    """Return the layout of Dataset `a` or `b`."""
    return {"a": _layout_a, "b": _layout_b}[dataset]()


def _layout_a() -> Layout:
    angles = [name for name in COORDINATES if name not in PELVIS[3:]]
    axes = [f"{s}_{{}}_{axis}" for s in script_a.SENSORS for axis in "XYZ"]
    return Layout(
        study=script_a.STUDY,
        sensors=script_a.SENSORS,
        gyroscope_unit="rad/s",
        channels={
            "acc": [name.format("Accel") for name in axes],
            "gyr": [name.format("Gyro") for name in axes],
            "emg": list(script_a.MUSCLES),
        },
        targets=list(script_a.TARGETS.values()),
        vertical=5,
        forces=[4, 5, 6],
        moment_range=(0.005, 0.5),
        still=frozenset(),
        others={
            "joint angles": ("degrees", angles),
            "pelvis position": ("m", list(PELVIS[3:])),
            "free moment": ("BW·m", [f"right_moment_{axis}" for axis in "xyz"]),
            "centre of pressure": ("m", [f"right_p{axis}" for axis in "xyz"]),
            "goniometers": ("degrees", list(GONIOMETERS)),
            "raw EMG": ("mV", [f"{muscle}_raw" for muscle in MUSCLES]),
            "joint power": ("W", [f"{name}_power" for name in TREE_COORDINATES]),
        },
    )


def _layout_b() -> Layout:
    axes = [f"{{}}{axis}_{s}" for s in script_b.SENSORS for axis in "XYZ"]
    views = script_b.VIEWS
    return Layout(
        study=script_b.STUDY,
        sensors=script_b.SENSORS,
        gyroscope_unit="deg/s",
        channels={
            "acc": [name.format("Accel") for name in axes],
            "gyr": [name.format("Gyro") for name in axes],
            "video": [f"{joint}_{view}" for joint in script_b.JOINTS for view in views],
        },
        targets=list(script_b.TARGETS),
        vertical=3,
        forces=[2, 3, 4],
        moment_range=(0.3, 30.0),
        still=frozenset(f"MidHip_{view}" for view in views),  # relative to itself
        others={"body weight": ("kg", ["body weight"]), "body height": ("m", ["body height"])},
    )


class Part(NamedTuple):
    """An activity (A) or all steps (B) of a subject.

    Args:
        block: Its columns and trials or steps.
        samples: Modality, and `targets`, to `(rows, C)`, NaN and all.
        contact: `(rows,)` in B: `force_phase`, whether the right foot is on its plate.
    """

    block: Block
    samples: dict[str, np.ndarray]
    contact: np.ndarray | None


def opened(path: Path) -> tuple[Layout, Callable[[], Iterator[list[Part]]], bool]:
    """Return the layout of a file, a reader that gives it subject by subject, and if it has trials.

    Raises:
        InputError: It is no file of either dataset; the message names the place and the remedy.
    """
    with hdf5.opened(path) as file:
        if "All_subjects" in file:
            tables = list(_tables_a(path, file))
            has_trials = all("trial_starts" in table.attrs for _, _, table in tables)
            return of("a"), lambda: _read_a(path), has_trials
        if any(key.startswith("subject_") for key in file):
            return of("b"), lambda: _read_b(path), True
    raise InputError(f"{path}: neither All_subjects (Dataset A) nor subject_01 ... (B) in it")


def _tables_a(path: Path, file: h5py.File) -> Iterator[tuple[str, str, h5py.Dataset]]:
    root = hdf5.member(path, file, "All_subjects")
    names = hdf5.column_names(path, file) or DATASET_A_COLUMNS
    for subject, key in hdf5.subject_keys(path, root, "Subject_").items():
        for activity in DATASET_A_ACTIVITIES:
            table = hdf5.member(path, hdf5.member(path, root, key), activity)
            hdf5.check_table(path, table, axes=2, width=len(names))
            yield subject, activity, table


def _read_a(path: Path) -> Iterator[list[Part]]:
    with hdf5.opened(path) as file:
        names = hdf5.column_names(path, file) or DATASET_A_COLUMNS
        positions = {name: i for i, name in enumerate(names)}
        parts: list[Part] = []
        for subject, activity, table in _tables_a(path, file):
            if parts and parts[0].block.subject != subject:
                yield parts
                parts = []
            block = block_a(path, subject, activity, table, positions)
            parts.append(Part(block, script_a.prepare(block.columns), None))
        yield parts


def _read_b(path: Path) -> Iterator[list[Part]]:
    with hdf5.opened(path) as file:
        names = hdf5.column_names(path, file)
        if names is None:
            raise InputError(f"{path}: no attribute `columns` (a JSON list of names); add it")
        positions = {name: i for i, name in enumerate(names)}
        for subject, key in hdf5.subject_keys(path, file, "subject_").items():
            table = hdf5.member(path, file, key)
            hdf5.check_table(path, table, axes=3, width=len(names))
            block = block_b(path, subject, table, positions)
            with np.errstate(divide="ignore", invalid="ignore"):
                samples = script_b.prepare(block.columns)
            yield [Part(block, samples, block.columns["force_phase"][:, 0] > 0)]
