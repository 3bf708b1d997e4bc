"""One trial: seven tables of the download become rows of 129 columns at 200 Hz."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from common.columns import (
    COORDINATES,
    DATASET_A_COLUMNS,
    GONIOMETERS,
    IMU_SENSORS,
    MUSCLES,
    PELVIS,
    TREE_COORDINATES,
    load_name,
)

from tools.raw import UnusableError, matlab, plates, signals, units
from tools.raw.matlab import Person
from tools.raw.tree import RawTrial

# Rate of each sensor's table in Hz; the grid of a trial lies at the samples of the first.
SENSORS_HZ = {"id": 200, "imu": 200, "ik": 200, "jp": 200, "fp": 1000, "emg": 1000, "gon": 1000}
BODY_WEIGHT_M_S2 = 9.8  # the paper's: body weight in N is this times the mass in kg

_IMU = DATASET_A_COLUMNS[:24]
_LOADS = tuple(map(load_name, TREE_COORDINATES))
_POWERS = tuple(f"{coordinate}_power" for coordinate in TREE_COORDINATES)
ENVELOPES = [DATASET_A_COLUMNS.index(muscle) for muscle in MUSCLES]


class Converted(NamedTuple):
    """A trial.

    Args:
        rows: `(n, 129)` float32 at 200 Hz in the file's units, but the EMG envelope, which waits
            for the subject's maximum, as stored.
        found: What was told from the values: accelerometer unit, gyroscope unit, CoP unit, and
            the plates that were loaded.
    """

    rows: np.ndarray
    found: dict[str, str]


def convert(trial: RawTrial, person: Person) -> Converted:
    """Read and convert a trial.

    Raises:
        UnusableError: It cannot be used; the message tells which file and why.
    """
    missing = [sensor for sensor in SENSORS_HZ if sensor not in trial.files]
    if missing:
        raise UnusableError("missing sensor file", f"{trial.place}: no {', '.join(missing)}")
    under_foot = plates.under_right_foot(trial.activity, trial.name)
    tables = {sensor: _Table.read(trial, sensor) for sensor in SENSORS_HZ}
    headers_s = {sensor: table.header_s for sensor, table in tables.items()}
    grid_s = signals.common_grid(headers_s, anchor="id", place=trial.place)

    imu, accelerometer, gyroscope = _imu(tables["imu"])
    fp = tables["fp"]
    ground, pressure, used = plates.right_ground_reaction(
        fp.frame, under_foot, fp.rate_hz, fp.place
    )
    weight_n = BODY_WEIGHT_M_S2 * person.mass_kg
    emg = tables["emg"].numbers(MUSCLES)
    emg_hz, gon_hz = tables["emg"].rate_hz, tables["gon"].rate_hz
    blocks = {
        "imu": imu,
        "ik": tables["ik"].numbers(COORDINATES),
        "id": tables["id"].numbers(_LOADS) / _load_scale(weight_n, person.height_m),
        "fp": ground / np.repeat([weight_n, weight_n, 1.0], 3),
        "gon": signals.anti_aliased(tables["gon"].numbers(GONIOMETERS), gon_hz),
        "emg": np.concatenate(
            [signals.anti_aliased(emg, emg_hz), signals.emg_envelope(emg, emg_hz)], axis=1
        ),
        "jp": tables["jp"].numbers(_POWERS),
    }  # in the order of the columns
    at_grid = {
        sensor: signals.on_grid(values, tables[sensor].header_s, grid_s)
        for sensor, values in blocks.items()
    }
    at_grid["fp"][:, 6:] = np.nan_to_num(at_grid["fp"][:, 6:])  # off the plates, as in README
    rows = np.concatenate(list(at_grid.values()), axis=1).astype(np.float32)
    found = {
        "accelerometer_unit": accelerometer,
        "gyroscope_unit": gyroscope,
        "cop_unit": pressure,
        "plates": f"{trial.activity}: {'+'.join(used)}",
    }
    return Converted(rows, found)


class _Table(NamedTuple):
    """A sensor's table with the times and the rate that its `Header` tells."""

    frame: pd.DataFrame
    header_s: np.ndarray
    rate_hz: float
    place: str

    @classmethod
    def read(cls, trial: RawTrial, sensor: str) -> _Table:
        file = trial.files[sensor]
        with file.on_disk() as path:
            frame = matlab.read_table(path, file.place)
        header_s = matlab.numbers(frame, ["Header"], file.place)[:, 0]
        rate_hz = signals.sampling_rate_hz(header_s, SENSORS_HZ[sensor], file.place)
        return cls(frame, header_s, rate_hz, file.place)

    def numbers(self, names: tuple[str, ...]) -> np.ndarray:
        """Return the named columns, `(n, len(names))`."""
        return matlab.numbers(self.frame, names, self.place)


def _imu(table: _Table) -> tuple[np.ndarray, str, str]:
    """Return `(n, 24)` in m/s² and rad/s, and the units they were stored in."""
    imu = table.numbers(_IMU)
    by_sensor = imu.reshape(len(imu), len(IMU_SENSORS), 2, 3)
    found = {
        units.accelerometer_unit(by_sensor[:, i, 0], f"{table.place}, {sensor}")
        for i, sensor in enumerate(IMU_SENSORS)
    }
    if len(found) > 1:
        detail = f"{table.place}: accelerometers in {' and '.join(sorted(found))}"
        raise UnusableError("unit cannot be told", detail)
    accelerometer = found.pop()
    gyroscope = units.gyroscope_unit(by_sensor[:, 0, 1], table.place)
    scale = [units.TO_M_S2[accelerometer], units.TO_RAD_S[gyroscope]]
    return imu * np.tile(np.repeat(scale, 3), len(IMU_SENSORS)), accelerometer, gyroscope


def _load_scale(weight_n: float, height_m: float) -> np.ndarray:
    """Return `(23,)` what generalised forces are divided by: moments in Nm, pelvis forces in N."""
    is_force = np.isin(TREE_COORDINATES, PELVIS[3:])
    return np.where(is_force, weight_n, weight_n * height_m)
