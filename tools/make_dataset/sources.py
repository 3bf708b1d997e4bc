"""Read the files of a trial, c3d included, and join them if there are several.

A c3d file counts as two files, because points and analog channels have different rates. Its points
are the columns `LABEL_X`, `LABEL_Y` and `LABEL_Z`, its analog channels have the names of their
labels, and its time starts at the first frame. Virtual IMUs are computed from its points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.files import InputError, plural, read_problem, shorten
from tools.c3d_file import C3D_SUFFIX, C3dFile, read_c3d
from tools.plausibility import percentile
from tools.prepare_dataset_a.trial import EMG_BAND_HZ, compute_emg_envelope
from tools.signals import ROUNDING_S, find_runs
from tools.trial_file import (
    LONGEST_GAP,
    LOWER,
    ROUNDING,
    Clock,
    NamedColumns,
    check_rate,
    column_numbers,
    read_columns,
    read_table,
    read_time,
    resample,
    resample_with_nan,
    split_at_gaps,
)
from tools.units import FORCES, MOMENTS, unit_key
from tools.virtual_imus import Placement, virtual_imu

TIME = "time"
AXES = "XYZ"
LENGTHS_M = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}
# Model outputs whose 95th percentile is below these limits are per kg of body mass, whatever unit
# the file states: in children of 15 kg, moments exceed 15 N·m and forces 100 N, and per kg, 2 N·m
# and 30 N are large (but moments that were computed without the force of the other plate reach 9).
LARGEST_PER_KG = {"MOMENT": (MOMENTS, 15.0), "FORCE": (FORCES, 100.0)}
SHARED = 0.9  # of the shortest file of a trial: less suggests that the clocks differ
UPRIGHT_M = 0.5  # distance between sensors on a person above which they are above each other
PLACEMENT_COLUMNS = ["sensor", "origin", "x", "y", "z", "marker"]


class Sources(NamedTuple):
    """How the files of a trial are read and joined.

    Attributes:
        clock: how to find the times.
        rate_hz: rate of the joined columns.
        inputs: columns of the files that are inputs; short gaps in them are interpolated.
        offsets_s: pattern of a file name -> seconds to add to its times.
        placements: sensor -> where this virtual IMU is attached.
        raw_emg: columns of the files of which the envelope is computed.
    """

    clock: Clock
    rate_hz: float
    inputs: Collection[str]
    offsets_s: Mapping[str, float]
    placements: Mapping[str, Placement]
    raw_emg: Collection[str] = ()

    def read(self, files: Sequence[Path], path: Path, measured: Sequence[str]) -> NamedColumns:
        """Read the columns of a trial; if they are in several files, at the rate of the script.

        Args:
            files: its files.
            path: the name of the trial, for messages.
            measured: the columns to read.

        Raises:
            InputError: A file cannot be read, or the files have no common clock.
        """
        parts = [part for file in files for part in self.parts(file, measured)]
        names = list(dict.fromkeys(name for part in parts for name in part.names))
        used = [self._envelopes(part) for part in parts if {*measured} & {*part.names}]
        for one, two in combinations(used, 2):
            if both := [name for name in measured if name in one.names and name in two.names]:
                raise InputError(
                    f"{path}: {one.path.name} and {two.path.name} both have the column {both[0]}; "
                    "rename one column, or, if they are two trials, replace the last `_` in the "
                    "names of the files with `-`"
                )
        notices = [text for part in parts for text in part.notices]
        if len(used) > 1:
            file, more = self._join(path, used)
            notices += more
        else:  # without any of the columns, the caller names those that are missing
            file = (used or parts)[0]
        return file._replace(names=names, notices=notices)

    def parts(self, file: Path, measured: Sequence[str]) -> Iterator[NamedColumns]:
        """Yield the columns of a file with one clock each."""
        if file.suffix.lower() == C3D_SUFFIX:
            yield from c3d_columns(read_c3d(file), measured, self.placements, self.clock.max_gap_s)
        else:
            yield read_columns(file, [self.clock.column], measured)

    def _envelopes(self, part: NamedColumns) -> NamedColumns:
        """Return a file with the envelopes of its raw EMG, at the same rate.

        Raises:
            InputError: Its rate is too low.
        """
        names = [name for name in part.table if name in self.raw_emg]
        if not names:
            return part
        time_s = self._time(part, [])
        own_hz = (len(time_s) - 1) / float(np.ptp(time_s)) if len(time_s) > 1 else 0.0
        if own_hz <= 2 * EMG_BAND_HZ[1]:
            raise InputError(
                f"{part.path}: {names[0]}: {own_hz:.4g} samples per second, too few for the "
                f"envelope of raw EMG, which takes more than {2 * EMG_BAND_HZ[1]:g}; omit "
                "--emg-envelope if it is an envelope already"
            )
        raw = np.column_stack([column_numbers(part, name) for name in names])
        envelopes = dict(zip(names, compute_emg_envelope(raw, own_hz).T, strict=True))
        return part._replace(table=part.table.assign(**envelopes))

    def _join(self, path: Path, parts: Sequence[NamedColumns]) -> tuple[NamedColumns, list[str]]:
        """Return the columns of several files at the same times, and notices.

        Raises:
            InputError: The files have no common clock.
        """
        # Spreadsheets write empty lines.
        parts = [part._replace(table=part.table.dropna(how="all")) for part in parts]
        notices: list[str] = []
        times = [self._time(part, notices) for part in parts]
        start_s, stop_s = max(time_s[0] for time_s in times), min(time_s[-1] for time_s in times)
        ranges = ", ".join(
            f"{part.path.name} from {time_s[0]:.10g} to {time_s[-1]:.10g} s"
            for part, time_s in zip(parts, times, strict=True)
        )
        if start_s >= stop_s:
            raise InputError(
                f"{path}: the times of its files do not overlap ({ranges}): they have no common "
                "clock; state --offset PATTERN=SECONDS to shift one of them, or export them with "
                "the same clock"
            )
        shortest_s = min(float(np.ptp(time_s)) for time_s in times)
        if stop_s - start_s < SHARED * shortest_s:
            notices.append(
                f"only {stop_s - start_s:.3g} s are in all of its files ({ranges}); if they have "
                "no common clock, shift one of them with --offset PATTERN=SECONDS"
            )
        samples = int((stop_s - start_s) * self.rate_hz + ROUNDING) + 1
        grid_s = start_s + np.arange(samples) / self.rate_hz
        columns = {TIME: grid_s}
        for part, time_s in zip(parts, times, strict=True):
            found, more = self._resample(part, time_s, grid_s)
            columns |= found
            notices += [f"{part.path.name}: {text}" for text in more]
        units = {name: unit for part in parts for name, unit in part.units.items()}
        position = f"sample {{}} at {self.rate_hz:g} Hz"
        table = pd.DataFrame(columns)
        return NamedColumns(path, [*table], table, units, ".", position, TIME), notices

    def _time(self, part: NamedColumns, notices: list[str]) -> np.ndarray:
        """Return the absolute times of a file in s, shifted by its offset.

        Raises:
            InputError: It has no times.
        """
        clock = part.own_clock(self.clock)
        if clock.rate_hz or clock.column not in part.names:
            same = [name for name in part.names if name.casefold() == clock.column.casefold()]
            hint = "add one from a clock that they share, and name it with --time-column"
            if same and not clock.rate_hz:
                hint = (
                    f"pass --time-column {same[0]} if all files have it, or rename it to "
                    f"{clock.column} in this one"
                )
            raise InputError(
                f"{part.path}: has no time column, so it cannot be joined with the other files of "
                f"its trial; {hint}"
            )
        time_s, start_s = read_time(part, clock, [], notices)
        return time_s + start_s + self.offset_s(part.path)

    def offset_s(self, path: Path) -> float:
        """Return the seconds to add to the times of a file."""
        return sum(s for pattern, s in self.offsets_s.items() if fnmatch(path.name, pattern))

    def _resample(
        self, part: NamedColumns, time_s: np.ndarray, grid_s: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the columns of a file at the times of the grid, NaN in gaps, and notices."""
        clock = part.own_clock(self.clock)
        names = [name for name in part.table if name != clock.column]
        values = np.column_stack([column_numbers(part, name) for name in names])
        is_input = np.array([name in self.inputs for name in names])
        # As in a single file, a line with an empty cell in an input is a gap.
        is_whole = np.isfinite(values[:, is_input]).all(axis=1)
        columns: dict[str, np.ndarray] = {}
        notices: list[str] = []
        for chosen, kept in ((is_input, np.flatnonzero(is_whole)), (~is_input, slice(None))):
            own_s, own = time_s[kept], values[kept][:, chosen]
            result = np.full((len(grid_s), int(chosen.sum())), np.nan)
            stretches = split_at_gaps(own_s, clock.max_gap_s) if own.size and len(own) > 1 else []
            if stretches:
                seconds = sum(np.ptp(own_s[stretch]) for stretch in stretches)
                own_hz = sum(s.stop - s.start - 1 for s in stretches) / seconds
                notices += check_rate(part.path, own_hz, self.rate_hz, own_s, [])
                if own_hz < LOWER * self.rate_hz:
                    notices.append(f"recorded at {own_hz:.4g} Hz, fewer than {self.rate_hz:g} Hz")
            for stretch in stretches:
                first_s, last_s = own_s[stretch][[0, -1]]
                inside = (grid_s > first_s - ROUNDING_S) & (grid_s < last_s + ROUNDING_S)
                arguments = own_s[stretch], own[stretch], own_hz, self.rate_hz, grid_s[inside]
                if inside.any() and chosen is is_input:
                    result[inside] = resample(*arguments)[1]
                elif inside.any():
                    result[inside] = resample_with_nan(*arguments)
            columns |= dict(zip(np.array(names)[chosen], result.T, strict=True))
        return columns, [*dict.fromkeys(notices)]


def c3d_columns(
    file: C3dFile, wanted: Collection[str], placements: Mapping[str, Placement], max_gap_s: float
) -> Iterator[NamedColumns]:
    """Yield the points and the analog channels of a c3d file as columns with a time of their own.

    Args:
        file: the file.
        wanted: the columns to return.
        placements: sensor -> where this virtual IMU is attached.
        max_gap_s: the longest gap in a marker of a virtual IMU that is interpolated, at least two
            frames.

    Raises:
        InputError: A virtual IMU cannot be computed.
    """
    stated, notices = assume_units(file, wanted)
    if file.duplicates:
        notices.append(
            f"several points or channels are named {', '.join(file.duplicates)}; the "
            "first of each is read"
        )
    columns: dict[str, np.ndarray] = {}
    units: dict[str, str] = {}
    for label, values in file.points.items():
        columns |= {f"{label}_{axis}": values[:, i] for i, axis in enumerate(AXES)}
        units |= dict.fromkeys((f"{label}_{axis}" for axis in AXES), stated.get(label, ""))
    markers = {label for label in file.points if {f"{label}_{axis}" for axis in AXES} & {*wanted}}
    for sensor, placement in placements.items():
        names = [f"{sensor}_{kind}_{axis}" for kind in ("Accel", "Gyro") for axis in AXES]
        columns |= dict.fromkeys(names, np.empty(0))
        if not {*names} & {*wanted}:
            continue
        markers |= {*placement.frame, placement.marker}
        unit = stated.get(placement.marker, "")
        if placement.marker in file.points and unit not in LENGTHS_M:
            raise InputError(
                f"{file.path}: POINT:UNITS is {shorten(unit) or 'missing'}; it must be one of "
                f"{', '.join(LENGTHS_M)} to compute virtual IMUs"
            )
        unit_m, longest_s = LENGTHS_M.get(unit, 1.0), max(max_gap_s, LONGEST_GAP / file.point_hz)
        try:
            signals = virtual_imu(
                file.points, placement, file.point_hz, unit_m, max_gap_s=longest_s
            )
        except InputError as error:
            raise InputError(f"{file.path}: {error}") from error
        columns |= dict(zip(names, np.hstack(signals).T, strict=True))
        units |= dict(zip(names, ["m/s2"] * 3 + ["rad/s"] * 3, strict=True))
    notices += _describe_missing(file, markers - {*file.outputs})
    notices += _describe_vertical(file, [p.marker for p in placements.values()], stated)
    first = round(file.start_s * file.point_hz)
    yield _timed_columns(file, columns, wanted, units, file.point_hz, "frame {}", first, notices)
    if file.analog:
        units = {label: stated.get(label, "") for label in file.analog}
        place = "analog sample {}"
        yield _timed_columns(file, file.analog, wanted, units, file.analog_hz, place, 0, ())


def _timed_columns(
    file: C3dFile,
    columns: Mapping[str, np.ndarray],
    wanted: Collection[str],
    units: Mapping[str, str],
    rate_hz: float,
    position: str,
    first: int,
    notices: Sequence[str],
) -> NamedColumns:
    """Return the wanted columns of one rate, with their time."""
    samples = max(map(len, columns.values()), default=0)
    found = {name: values for name, values in columns.items() if name in wanted}
    time_s = file.start_s + np.arange(samples) / (rate_hz or 1.0)
    table = pd.DataFrame({TIME: time_s, **found}, index=first + np.arange(samples))
    known = {name: unit for name, unit in units.items() if unit and name in wanted}
    names = [TIME, *columns]
    return NamedColumns(file.path, names, table, known, ".", position, TIME, notices)


def assume_units(file: C3dFile, wanted: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return label -> unit of a c3d file, and notices if a wanted column has another than stated.

    Plug-in Gait, among others, divides moments and forces by body mass and states `Nmm` and `N`.
    """
    units, notices = dict(file.units), []
    for kind, (table, limit) in LARGEST_PER_KG.items():
        labels = [label for label, found in file.outputs.items() if found == kind]
        percent = [
            label for label in labels if kind == "FORCE" and "normalised" in label.casefold()
        ]
        units |= dict.fromkeys(percent, "%BW")
        labels = [label for label in labels if label not in percent]
        for unit in {units.get(label, "") for label in labels}:
            same = [label for label in labels if units.get(label, "") == unit]
            size, divided_by = table.get(unit_key(unit), (0.0, ""))
            sizes = [np.linalg.norm(file.points[label], axis=1) for label in same]
            large = [percentile(norm[norm > 0], 95) for norm in sizes]  # off the plate, it is 0
            largest = np.fmax.reduce(large)
            if size and not divided_by and 0 < largest * size < limit:
                units |= dict.fromkeys(same, f"{unit}/kg")
                if not {f"{label}_{axis}" for label in same for axis in AXES} & {*wanted}:
                    continue
                notices.append(
                    f"95 % of the {kind.lower()}s are below {largest:.3g} {unit}: taken as "
                    f"{unit}/kg; if that is wrong, state the unit in a column `unit` of the "
                    "--columns file"
                )
    return units, notices


def _describe_missing(file: C3dFile, markers: Collection[str]) -> Iterator[str]:
    """Yield a notice for the markers that are missing in some frames."""
    found: dict[str, list[str]] = {}
    for label in sorted(markers & {*file.points}):
        is_missing = np.isnan(file.points[label]).any(axis=1)
        if is_missing.any():
            zeros = file.zeros.get(label, 0)
            text = (
                f"missing in {is_missing.sum()} of {plural(file.frames, 'frame')}, at most "
                f"{np.diff(find_runs(is_missing)).max()} in succession"
            )
            text += f"; {zeros} of them are 0, 0, 0" if zeros else ""
            found.setdefault(text, []).append(label)
    yield from (f"{shorten(', '.join(labels))}: {text}" for text, labels in found.items())


def _describe_vertical(
    file: C3dFile, markers: Collection[str], units: Mapping[str, str]
) -> Iterator[str]:
    """Yield a notice if the markers of virtual IMUs are not above each other along Z."""
    places = np.array(
        [
            file.points[label] * LENGTHS_M.get(units.get(label, ""), np.nan)
            for label in markers
            if label in file.points
        ]
    )
    is_whole = np.isfinite(places).all(axis=(0, 2)) if len(places) else np.zeros(0, bool)
    if not is_whole.any():
        return
    extent_m = np.ptp(places[:, is_whole].mean(axis=1), axis=0)
    if extent_m.max() > UPRIGHT_M and extent_m.argmax() != AXES.index("Z"):
        yield (
            f"the markers of the virtual IMUs are spread most along {AXES[extent_m.argmax()]}; if "
            "this axis is vertical, all accelerations are wrong: export the file with Z up"
        )


def read_placements(path: Path) -> dict[str, Placement]:
    """Read the table of virtual IMUs: `sensor`, `origin`, `x`, `y`, `z` and `marker`.

    `origin`, `x`, `y` and `z` are the labels of a segment frame, or, if `z` is empty, of three
    markers; see `Placement`.

    Raises:
        InputError: A line cannot be used.
    """
    table = read_table(path, PLACEMENT_COLUMNS)
    placements: dict[str, Placement] = {}
    for i, (sensor, *frame, marker) in zip(table.index, table.values, strict=True):
        frame = [label for k, label in enumerate(frame) if label or k < len(frame) - 1]
        is_complete = all([sensor, *frame, marker]) and len({*frame}) == len(frame)
        if not is_complete or sensor in placements:
            raise InputError(
                f"{path}: line {i + 2}: a sensor needs a unique name, different points as "
                "`origin`, `x`, `y` (and `z` unless these are three markers), and `marker`; "
                "correct the line"
            )
        placements[sensor] = Placement(tuple(frame), marker)
    return placements


def describe(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return a template for `--columns` with all columns of a file, and notices.

    Returns:
        Columns `yours`, `ours` (empty), `unit`, `rate_hz` and `missing_percent`; notices.

    Raises:
        InputError: The file cannot be read.
    """
    if problem := read_problem(path):
        raise InputError(f"--list {path}: {problem}; pass one file of a trial")
    sources = Sources(Clock(), 1.0, (), {}, {})
    names = [name for part in sources.parts(path, ()) for name in part.names if name]
    lines: list[tuple[str, str, str, float, float]] = []
    notices: list[str] = []
    if path.suffix.lower() == C3D_SUFFIX:
        file = read_c3d(path)
        mass = f"{file.mass_kg:.4g} kg" if file.mass_kg else "unknown"
        height = f"{file.height_m:.4g} m" if file.height_m else "unknown"
        notices.append(f"body mass: {mass}; height: {height}")
    for part in sources.parts(path, names):
        notices += part.notices
        is_time = (name for name in part.names if name.casefold().startswith(TIME))
        clock, rate_hz = part.clock or next(is_time, ""), np.nan
        if clock and len(part.table) > 1:
            time_s, start_s = read_time(part, Clock(clock), [])
            rate_hz = 1 / float(np.median(np.diff(time_s)))
            span = f"{start_s:.10g} to {start_s + time_s[-1]:.10g} s"
            notices.append(f"{plural(len(time_s), 'sample')} at {rate_hz:.4g} Hz, {span}")
        for name in part.table:
            if name != clock:
                missing = 100 * float(part.table[name].isna().mean())
                lines.append((name, "", part.units.get(name, ""), rate_hz, missing))
    columns = ["yours", "ours", "unit", "rate_hz", "missing_percent"]
    return pd.DataFrame(lines, columns=columns), notices
