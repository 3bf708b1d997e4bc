"""Sensors of a recording that are mounted differently from training: warnings, corrections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from common.cli import ArgumentParser
from tools import mounting
from tools.plausibility import ANY_NORM_M_S2, check_accelerometers, check_gyroscopes
from tools.predict.recording import Samples
from tools.trained import Trained, channel_names
from tools.trial_file import Source


class Checked(NamedTuple):
    """A recording whose mounting has been compared with training.

    Attributes:
        samples: the recording, corrected if that was wanted.
        warnings: what is different or cannot be told, a line each.
        description: the same for `prediction.json`.
    """

    samples: Samples
    warnings: list[str]
    description: list[dict[str, Any]]


def check_mounting(
    trained: Trained, samples: Samples, mapping: Mapping[str, Source] | None, mode: str | None
) -> Checked:
    """Compare the sensors with those in training; print what is different or corrected.

    Sensors with implausible sizes, which `check_sensors` reports, are not compared.

    Args:
        trained: the network; without sensor statistics in its checkpoint, nothing is compared.
        samples: the recording.
        mapping: column of the script -> column of the file, as in `--columns`; None if that flag
            cannot be used with the file.
        mode: `auto` to correct what is certain, None to change nothing.
    """
    script, names = trained.script, channel_names(trained.script, trained.sensor_set)
    is_used = samples.stretch >= 0
    imus = trained.sensor_set.sensors
    inputs = torch.cat(trained.inputs(samples.values), dim=-1)[is_used].numpy()
    acc, gyr = np.split(inputs[:, : 6 * len(imus)], 2, axis=1)
    is_gyr_odd = any(check_gyroscopes(imus, acc, gyr, script.UNITS["gyr"]))
    odd = {
        sensor
        for sensor, axes in zip(imus, np.split(acc, len(imus), axis=1), strict=True)
        if is_gyr_odd or any(check_accelerometers([sensor], axes, ANY_NORM_M_S2))
    }
    values = {kind: samples.values[kind].numpy() for kind in ("acc", "gyr")}
    measured = mounting.measure(*(v[is_used] for v in values.values()), script.SENSORS)
    known = mounting.in_training(trained.description)
    if mode == "auto" and (odd or not known):
        which = ", ".join(sorted(odd)) if known else "the checkpoint has no sensor statistics"
        print(f"NOTICE: --mounting auto: not compared: {which}")
    found = mounting.detect({s: measured[s] for s in imus if s in measured and s not in odd}, known)
    certain = [one for one in found if one.rotation is not None]
    applied = certain if mode == "auto" else []
    if applied:
        corrected = mounting.correct(values, script.SENSORS, applied)
        tensors = {kind: torch.from_numpy(v) for kind, v in corrected.items()}
        samples = samples._replace(values={**samples.values, **tensors})

    def columns(sensor: str) -> list[str]:
        i = 3 * trained.sensor_set.sensors.index(sensor)
        return [*names["acc"][i : i + 3], *names["gyr"][i : i + 3]]

    def yours(name: str) -> Source:
        return (mapping or {}).get(name, Source(name))

    warnings = []
    for one in found:
        text = mounting.describe(one)
        if one in applied:
            print(f"CORRECTED: {text}")
            continue
        if one in certain:
            text += "; correct it with --mounting auto"
            if mapping is not None:
                text += f", or --columns {' '.join(mounting.column_pairs(one, columns, yours))}"
        warnings.append(text)
        print(f"WARNING: {text}")
    description = [
        {
            "sensor": one.sensor,
            "source": one.source,
            "axes": None if one.rotation is None else mounting.axes(one.rotation),
            "reason": one.reason,
            "corrected": one in applied,
        }
        for one in found
    ]
    return Checked(samples, warnings, description)


def add_mounting(parser: ArgumentParser) -> None:
    """Add the flag `--mounting`."""
    parser.add_argument(
        "--mounting",
        choices=("auto",),
        help="auto: correct sensors that are clearly mounted differently from training, or swapped "
        "(default: only warn about them)",
    )
