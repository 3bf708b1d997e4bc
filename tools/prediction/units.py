"""Units of a recording: turned into those that the scripts read, and told from the values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from common.experiments import SensorSet
from torch import Tensor

from tools.check import plausible
from tools.raw.units import TO_M_S2, TO_RAD_S
from tools.trained import Trained

ACC_UNITS = {"m/s2": TO_M_S2["m/s²"], "g": TO_M_S2["g"]}  # in m/s², as both datasets
GYR_UNITS = TO_RAD_S  # in rad/s
# Of the median norm: wide, since a recording may be of nothing but running. In g it is 1 to 3.
ACC_LIMITS_M_S2 = (4.0, 40.0)
GYR_UNIT = {"a": "rad/s", "b": "deg/s"}  # of the datasets


def factors(dataset: str, acc_unit: str, gyr_unit: str | None) -> dict[str, float]:
    """Return modality to what turns a recording's unit into its dataset's, the default.

    Args:
        dataset: `a` or `b`. acc_unit: A key of `ACC_UNITS`. gyr_unit: Of `GYR_UNITS`, or None.
    """
    own = GYR_UNIT[dataset]
    return {"acc": ACC_UNITS[acc_unit], "gyr": GYR_UNITS[gyr_unit or own] / GYR_UNITS[own]}


def doubts(trained: Trained, values: dict[str, Tensor]) -> Iterator[str]:
    """Give what is not plausible of the accelerometers and gyroscopes that the model reads.

    Args:
        trained: The model. values: Modality to `(rows, C)`, after the units were turned.
    """
    sensors = trained.sensor_set.sensors
    unit = GYR_UNIT[trained.study.dataset]

    def signals(modality: str) -> np.ndarray:
        [found] = trained.study.inputs(values, SensorSet(sensors, (modality,)))
        return found.numpy()

    flags = "; see --acc-unit", "; see --gyr-unit"
    for doubt in plausible.accelerometers(sensors, signals("acc"), ACC_LIMITS_M_S2):
        yield doubt + flags[0]
    for doubt in plausible.gyroscopes(sensors, unit, signals("gyr")):
        yield doubt + flags[1]
