"""Read a c3d file, in which laboratories store markers, model outputs and analog channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import ezc3d
import numpy as np

from common.files import InputError, shorten
from tools.c3d_header import check_c3d
from tools.units import LIMITS

C3D_SUFFIX = ".c3d"
OUTPUT_KINDS = ("ANGLE", "FORCE", "MOMENT", "POWER", "SCALAR")  # of Plug-in Gait and similar models
HEIGHT_UNITS_M = (1e-3, 1e-2, 1.0)  # mm in Plug-in Gait; a body height tells them apart
NEVER_ZERO = (None, "ANGLE", "MOMENT")  # kinds of which 0, 0, 0 is missing; None for markers


class C3dFile(NamedTuple):
    """The content of a c3d file.

    Attributes:
        path: the file.
        points: `(frames, 3)` per label, markers and model outputs alike; NaN where missing.
        analog: `(samples,)` per label.
        point_hz: rate of the points.
        analog_hz: rate of the analog channels; 0 without any.
        start_s: time of the first frame and of the first analog sample.
        units: unit per label, as the file states it: model outputs per kg of body mass and forces
            in percent of body weight are often stated as Nmm and N.
        outputs: label -> one of `OUTPUT_KINDS`, for the points that are model outputs.
        zeros: label -> number of frames in which 0, 0, 0 means that the point is missing.
        duplicates: labels of several points or of several channels; only the first one is read.
        mass_kg: body mass; None if the file has none, or an impossible one.
        height_m: body height, from mm, cm or m; None likewise.
    """

    path: Path
    points: dict[str, np.ndarray]
    analog: dict[str, np.ndarray]
    point_hz: float
    analog_hz: float
    start_s: float
    units: dict[str, str]
    outputs: dict[str, str]
    zeros: dict[str, int]
    duplicates: list[str]
    mass_kg: float | None
    height_m: float | None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(next(iter(self.points.values()), ()))


def read_c3d(path: Path) -> C3dFile:
    """Read a c3d file.

    A point is missing in a frame if its residual is negative, and a marker, an angle or a moment
    also if all three of its coordinates are 0. Other model outputs may be 0, such as a force in the
    swing phase.

    Raises:
        InputError: The file cannot be read, or has neither points nor analog channels.
    """
    check_c3d(path)
    try:
        return _convert(path, ezc3d.c3d(str(path)))
    except InputError:
        raise
    except Exception as error:  # damaged files can raise anything
        raise InputError(f"{path}: damaged c3d file ({shorten(error)}); export it again") from error


def _convert(path: Path, content: ezc3d.c3d) -> C3dFile:
    """Return the content of a file as read by ezc3d.

    Raises:
        InputError: It has neither points nor analog channels.
    """
    parameters, data = content["parameters"], content["data"]
    point, analog = parameters["POINT"], parameters["ANALOG"]
    coordinates = data["points"][:3].transpose(1, 2, 0).copy()  # (points, frames, 3)
    labels = _labels(point, "LABELS")[: len(coordinates)]
    channels = _labels(analog, "LABELS")[: data["analogs"].shape[1]]
    if not (labels and coordinates.size) and not (channels and data["analogs"].size):
        raise InputError(
            f"{path}: no points and no analog channels; export markers and model outputs with the "
            "trial"
        )
    coordinates[data["meta_points"]["residuals"][0] < 0] = np.nan
    units, outputs = dict.fromkeys(labels, _text(point, "UNITS")), {}
    for kind in OUTPUT_KINDS:
        kind_labels = _labels(point, f"{kind}S")
        units |= dict.fromkeys(kind_labels, _text(point, f"{kind}_UNITS"))
        outputs |= dict.fromkeys((label for label in kind_labels if label in labels), kind)
    is_zero = (coordinates[: len(labels)] == 0).all(axis=-1)
    is_zero &= np.array([outputs.get(label) in NEVER_ZERO for label in labels], bool)[:, None]
    coordinates[: len(labels)][is_zero] = np.nan
    units |= dict(zip(channels, _labels(analog, "UNITS"), strict=False))
    numbers = Counter(labels) + Counter(channels)
    person = parameters.get("PROCESSING", {})
    mass_kg, height = _number(person, "Bodymass"), _number(person, "Height")
    (lightest, heaviest), (shortest, tallest) = LIMITS["mass_kg"], LIMITS["height_m"]
    heights_m = [height * unit_m for unit_m in HEIGHT_UNITS_M]
    point_hz = float(content["header"]["points"]["frame_rate"])
    return C3dFile(
        path,
        points=_by_label(labels, coordinates),
        analog=_by_label(channels, data["analogs"][0]),
        point_hz=point_hz,
        analog_hz=float(content["header"]["analogs"]["frame_rate"]) if channels else 0.0,
        start_s=_first_frame(content) / point_hz if point_hz else 0.0,
        units={label: units[label] for label in numbers if label in units},
        outputs=outputs,
        zeros={label: int(n) for label, n in zip(labels, is_zero.sum(axis=1), strict=True) if n},
        duplicates=sorted(label for label, number in numbers.items() if number > 1),
        mass_kg=mass_kg if lightest <= mass_kg <= heaviest else None,
        height_m=next((h for h in heights_m if shortest <= h <= tallest), None),
    )


def _labels(group: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of a parameter, which continue in NAME2, NAME3 and so on after 255."""
    found: list[str] = []
    for number in count(1):
        key = name if number == 1 else f"{name}{number}"
        if key not in group:
            return found
        found += [_decode(text).strip() for text in group[key]["value"]]
    return found


def _first_frame(content: ezc3d.c3d) -> int:
    """Return the number of the first frame, from 0; the header has only 16 bits for it."""
    trial = content["parameters"].get("TRIAL", {})
    if "ACTUAL_START_FIELD" not in trial:
        return int(content["header"]["points"]["first_frame"])
    low, high, *_ = (int(word) % 2**16 for word in [*trial["ACTUAL_START_FIELD"]["value"], 0])
    return low + 2**16 * high - 1


def _decode(text: str) -> str:
    """Return printable text, with the bytes that are not UTF-8 read as Latin-1."""
    raw = text.encode(errors="surrogateescape")
    try:
        decoded = raw.decode()
    except UnicodeDecodeError:
        decoded = raw.decode("latin-1")
    return "".join(c if c.isprintable() else " " for c in decoded)


def _by_label(labels: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values per label; the first of duplicates."""
    found: dict[str, np.ndarray] = {}
    for label, array in zip(labels, values, strict=False):
        found.setdefault(label, array)
    return found


def _text(group: Mapping[str, Any], name: str) -> str:
    return next(iter(_labels(group, name)), "")


def _number(group: Mapping[str, Any], name: str) -> float:
    """Return a number; NaN if there is none."""
    values = group[name]["value"] if name in group else ()
    return float(values[0]) if len(values) else np.nan
