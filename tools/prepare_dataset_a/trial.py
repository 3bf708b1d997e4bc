"""Conversion of trials: seven tables of the download become `(n, 129)` at 200 Hz."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import repeat
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.data import IMU_SENSORS, MUSCLES
from common.files import InputError
from tools.dataset_a import (
    COORDINATES,
    DATASET_A_COLUMNS,
    GONIOMETERS,
    PELVIS,
    TREE_COORDINATES,
    load_name,
)
from tools.prepare_dataset_a.checks import (
    RATE_HZ,
    find_common_times,
    identify_accelerometer_unit,
    identify_gyroscope_unit,
    measure_rate_hz,
)
from tools.prepare_dataset_a.download import Person, RawTrial, UnusableError, read_table, to_numbers
from tools.prepare_dataset_a.plates import compute_ground_reaction, find_right_plates
from tools.signals import (
    BODY_WEIGHT_M_S2,
    TO_M_S2,
    TO_RAD_S,
    anti_alias,
    filter_zero_phase,
    interpolate,
)

SENSORS_HZ = {"id": 200, "imu": 200, "ik": 200, "jp": 200, "fp": 1000, "emg": 1000, "gon": 1000}
# The paper's band is 20-460 Hz, but the download has already been band-passed to 20-400 Hz.
EMG_BAND_HZ = (20.0, 400.0)
ENVELOPE_CUTOFF_HZ = 6.0  # the paper's

_IMU_COLUMNS = DATASET_A_COLUMNS[:24]
_LOADS = tuple(map(load_name, TREE_COORDINATES))
_POWERS = tuple(f"{coordinate}_power" for coordinate in TREE_COORDINATES)


class Converted(NamedTuple):
    """A converted trial.

    Attributes:
        activity: activity, as in `DATASET_A_ACTIVITIES`.
        name: name of the trial.
        values: `(n, 129)` float32 at 200 Hz in the units of the HDF5 file, except that the EMG
            envelopes are not yet divided by the maximum of the subject.
        detected: units and loaded plates that were found in the download.
    """

    activity: str
    name: str
    values: np.ndarray
    detected: dict[str, str]


class _Table(NamedTuple):
    frame: pd.DataFrame
    time_s: np.ndarray
    rate_hz: float
    place: str

    def to_numbers(self, names: tuple[str, ...]) -> np.ndarray:
        return to_numbers(self.frame, names, self.place)


Outcome = Converted | UnusableError


@contextmanager
def start_workers(jobs: int) -> Iterator[Callable[[Sequence[RawTrial], Person], Iterable[Outcome]]]:
    """Yield a function that converts the trials of a person and returns the outcomes in order.

    Args:
        jobs: number of processes; with fewer than two, this process converts the trials.

    Raises:
        InputError: A worker process died.
    """
    if jobs < 2:
        yield lambda trials, person: map(_convert_or_explain, trials, repeat(person))
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _set_up_worker)
    try:
        yield lambda trials, person: pool.map(_convert_or_explain, trials, repeat(person))
    except BrokenProcessPool as error:
        raise InputError(
            "--jobs: a worker process died, possibly out of memory; use fewer jobs"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _set_up_worker() -> None:
    """Ignore SIGINT, and exit when the parent process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def exit_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _convert_or_explain(trial: RawTrial, person: Person) -> Outcome:
    """Convert a trial, or return the reason why it cannot be used."""
    try:
        return convert(trial, person)
    except UnusableError as problem:
        return problem
    except OSError as error:
        return UnusableError("file cannot be read", f"{trial.place}: {error}")


def convert(trial: RawTrial, person: Person) -> Converted:
    """Read and convert a trial.

    Raises:
        UnusableError: It cannot be used; the message names the file and the reason.
    """
    missing = [sensor for sensor in SENSORS_HZ if sensor not in trial.files]
    if missing:
        raise UnusableError("missing sensor file", f"{trial.place}: no {', '.join(missing)}")
    plates = find_right_plates(trial.activity, trial.name)
    tables = {sensor: _read_sensor(trial, sensor) for sensor in SENSORS_HZ}
    times_s = {sensor: table.time_s for sensor, table in tables.items()}
    time_s = find_common_times(times_s, anchor="id", place=trial.place)

    imu, accelerometer_unit, gyroscope_unit = _convert_imu(tables["imu"])
    fp, gon = tables["fp"], tables["gon"]
    ground = compute_ground_reaction(fp.frame, plates, fp.rate_hz, fp.place)
    weight_n = BODY_WEIGHT_M_S2 * person.mass_kg
    emg, emg_hz = tables["emg"].to_numbers(MUSCLES), tables["emg"].rate_hz
    blocks = {
        "imu": imu,
        "ik": tables["ik"].to_numbers(COORDINATES),
        "id": tables["id"].to_numbers(_LOADS) / _load_divisors(weight_n, person.height_m),
        "fp": ground.values / np.repeat([weight_n, weight_n, 1.0], 3),
        "gon": anti_alias(gon.to_numbers(GONIOMETERS), gon.rate_hz, RATE_HZ),
        "emg": np.concatenate(
            [anti_alias(emg, emg_hz, RATE_HZ), compute_emg_envelope(emg, emg_hz)], axis=1
        ),
        "jp": tables["jp"].to_numbers(_POWERS),
    }  # in the order of the columns
    aligned = {
        sensor: interpolate(values, tables[sensor].time_s, time_s)
        for sensor, values in blocks.items()
    }
    aligned["fp"][:, 6:] = np.nan_to_num(aligned["fp"][:, 6:])  # the center of pressure off plates
    values = np.concatenate(list(aligned.values()), axis=1).astype(np.float32)
    detected = {
        "accelerometer_unit": accelerometer_unit,
        "gyroscope_unit": gyroscope_unit,
        "cop_unit": ground.cop_unit,
        "plates": f"{trial.activity}: {'+'.join(ground.plates)}",
    }
    return Converted(trial.activity, trial.name, values, detected)


def compute_emg_envelope(values: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the envelope of raw EMG `(n, c)` in its unit: band-pass, rectify, low-pass."""
    rectified = np.abs(filter_zero_phase(values, rate_hz, EMG_BAND_HZ))
    envelope = filter_zero_phase(rectified, rate_hz, ENVELOPE_CUTOFF_HZ, padding="even")
    return np.maximum(envelope, 0.0)


def _read_sensor(trial: RawTrial, sensor: str) -> _Table:
    file = trial.files[sensor]
    frame = read_table(file)
    time_s = to_numbers(frame, ["Header"], file.place)[:, 0]
    rate_hz = measure_rate_hz(time_s, SENSORS_HZ[sensor], file.place)
    return _Table(frame, time_s, rate_hz, file.place)


def _convert_imu(table: _Table) -> tuple[np.ndarray, str, str]:
    """Return `(n, 24)` in m/s² and rad/s, and the original units."""
    imu = table.to_numbers(_IMU_COLUMNS)
    by_sensor = imu.reshape(len(imu), len(IMU_SENSORS), 2, 3)
    units = {
        identify_accelerometer_unit(by_sensor[:, i, 0], f"{table.place}, {sensor}")
        for i, sensor in enumerate(IMU_SENSORS)
    }
    if len(units) > 1:
        detail = f"{table.place}: accelerometers in {' and '.join(sorted(units))}"
        raise UnusableError("unknown unit", detail)
    accelerometer_unit = units.pop()
    gyroscope_unit = identify_gyroscope_unit(by_sensor[:, 0, 1], table.place)
    factors = [TO_M_S2[accelerometer_unit], TO_RAD_S[gyroscope_unit]]
    imu = imu * np.tile(np.repeat(factors, 3), len(IMU_SENSORS))
    return imu, accelerometer_unit, gyroscope_unit


def _load_divisors(weight_n: float, height_m: float) -> np.ndarray:
    """Return the divisors `(23,)` that normalize moments in Nm, and the pelvis forces in N."""
    is_force = np.isin(TREE_COORDINATES, PELVIS[3:])
    return np.where(is_force, weight_n, weight_n * height_m)
