"""Checks that several commands share: silent on intact data, a message for each kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Files
from tools.check_data.checks import summarize_trials
from tools.check_data.layout import DataFile, Part
from tools.plausibility import Trial, check_counter, check_samples, compare_trials, summarize_trial

RATE_HZ = 200.0
SENSORS = ("foot", "trunk")
NAMES = [
    f"{sensor} {kind} {axis}" for kind in ("acc", "gyr") for sensor in SENSORS for axis in "XYZ"
]
UNITS = ("BW·BH", "BW")


def walk(seed: int = 0, seconds: float = 2.0) -> np.ndarray:
    """Return `(samples, 12)` of a movement with gravity, noise and 0.02 rad/s resolution."""
    random = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * time_s[:, None] + np.arange(12) + seed
    values = 3 * np.sin(phase) + random.normal(0, 0.05, (len(time_s), 12))
    values[:, [1, 4]] += 9.8
    return values.round(4)


def check(values: np.ndarray, unit: str = "rad/s") -> list[str]:
    """Return the messages about samples."""
    return check_samples(values, NAMES, RATE_HZ, SENSORS, unit)


def hold(values: np.ndarray, part: slice, channels: slice | list[int]) -> None:
    """Repeat the first values of a part."""
    values[part, channels] = values[part.start, channels]


def test_intact_samples_cause_no_message(synthetic_files: Files, example_b: Path) -> None:
    """Messages about intact sensors would be ignored where they matter."""
    assert not check(walk())
    for path in (*synthetic_files.values(), example_b):
        with h5py.File(path) as file:
            data = DataFile(path, file)
            script, trials = data.layout.script, []
            rate = int(script.RATE_HZ)
            names = [*script.COLUMNS["acc"], *script.COLUMNS["gyr"]]
            for subject, parts in data.subjects():
                trials += summarize_trials(data.layout, subject, parts)
                for part in parts:
                    for start in range(0, len(part.trial) - rate, 3 * rate):
                        values = imus(part)[start : start + rate]
                        unit = script.UNITS["gyr"]
                        assert not check_samples(values, names, rate, script.SENSORS, unit)
        assert not compare_trials(trials)


def imus(part: Part) -> np.ndarray:
    """Return the accelerometers and gyroscopes of a part."""
    return np.hstack([part.samples["acc"], part.samples["gyr"]])


def test_standing_still_is_no_wrong_unit() -> None:
    """A person who stands still in the first second would be told that the gyroscopes are wrong."""
    still = np.random.default_rng(0).normal(0, 0.02, (200, 12))
    still[:, [1, 4]] += 9.8
    assert not check(still, "deg/s")
    assert not check(still, "rad/s")
    assert "in rad/s?" in check(walk() * np.r_[np.ones(6), np.full(6, 0.3)], "deg/s")[0]
    slow = walk() * np.r_[np.ones(6), np.full(6, 1 / 57.3)]
    assert "rad/s taken as deg/s?" in check(slow, "rad/s")[0]


FAULTS: dict[str, tuple[Callable[[np.ndarray], object], str]] = {
    "held for 25 ms": (
        lambda v: hold(v, slice(50, 55), [0, 1, 2, 6, 7, 8]),
        "foot: all six channels unchanged for 0.025 s from 0.250 s on, 1.25 % *almost certainly*",
    ),
    "held at the end": (
        lambda v: hold(v, slice(360, 400), slice(None)),
        "foot, trunk: all six channels unchanged for 0.2 s from 1.800 s on, 10 % *; probably *",
    ),
    "held again and again": (
        lambda v: [hold(v, slice(i, i + 20), slice(None)) for i in (20, 100, 200)],
        "foot, trunk: *unchanged in 3 places, 15 % of the samples; the longest, 0.1 s, from 0.1*",
    ),
    "throughout": (
        lambda v: hold(v, slice(0, 400), [3, 4, 5, 9, 10, 11]),
        "trunk: all six channels unchanged throughout: dead, or not connected",
    ),
    "zeros": (
        lambda v: v.__setitem__(slice(100, 180), 0.0),
        "foot, trunk: all six channels exactly 0 for 0.4 s from 0.500 s on, 20 % *almost*",
    ),
    "one sample of zeros": (
        lambda v: v.__setitem__((40, slice(0, 3)), 0.0),
        "foot: accelerometer exactly 0 for 0.005 s from 0.200 s on, 0.25 % of the samples; *",
    ),
    "g": (lambda v: v.__setitem__(slice(None), v / 9.8), "accelerometer foot: *; in g?"),
    "deg/s": (
        lambda v: v.__setitem__((slice(None), slice(6, 12)), 57.3 * v[:, 6:]),
        "gyroscope foot: 99th percentile * rad/s; in deg/s?",
    ),
    "code": (
        lambda v: v.__setitem__((slice(0, None, 50), 7), -9999.0),
        "foot gyr Y: -9999 in 2 % of the samples; if *",
    ),
    "damaged cell": (
        lambda v: v.__setitem__((40, 4), 1e6),
        "accelerometer trunk: up to 1e+06 m/s² in 0.25 % of the samples, almost certainly damaged*",
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_samples_is_found(spoil: Callable[[np.ndarray], object], expected: str) -> None:
    """A plausible curve would be estimated from samples that were lost or have another unit."""
    values = walk()
    spoil(values)
    assert any(fnmatchcase(message, expected) for message in check(values)), check(values)


COUNTS: dict[str, tuple[np.ndarray, str]] = {
    "intact": (np.arange(100), ""),
    "starts again at 2^16": ((65_500 + np.arange(100)) % 2**16, ""),
    "starts again every second": (np.arange(500) % 200, ""),
    "starts again after 255": (np.arange(600) % 255, ""),
    "by twos": (np.arange(0, 200, 2), ""),
    "not a counter": (np.random.default_rng(0).integers(0, 9, 100), ""),
    "lost": (np.delete(np.arange(100), slice(40, 47)), "by 8 instead of 1 after sample 39: *7 sam"),
    "lost where it starts again": (
        np.delete((65_500 + np.arange(100)) % 2**16, slice(30, 45)),
        "by 16 instead of 1 after sample 29: almost certainly 15 samples lost",
    ),
    "lost in two places": (
        np.delete(np.arange(0, 400, 2), [20, 60, 61]),
        "by 6 instead of 2 after sample 58, and jumps in 2 places: almost certainly 3 samples",
    ),
    "restarted": (np.r_[np.arange(60), np.arange(40)], "does not count on after sample 59; probab"),
}


@pytest.mark.parametrize(("counts", "expected"), COUNTS.values(), ids=COUNTS)
def test_lost_samples_are_found_by_a_counter(counts: np.ndarray, expected: str) -> None:
    """Samples before and after lost packets would be joined."""
    found = list(check_counter("Packet", counts.astype(float), lambda i: f"sample {i}"))
    assert len(found) == bool(expected)
    assert fnmatchcase("".join(found), f"*{expected}*")


def trial(subject: str, name: str, seed: int, factors: dict[str, float] | None = None) -> Trial:
    """Return a trial whose signals are multiplied by factors."""
    values, f = walk(seed), factors or {}
    acc, gyr = values[:, :6] * f.get("acc", 1.0), values[:, 6:] * f.get("gyr", 1.0)
    targets = np.abs(np.sin(values[:, :2])) * [0.1 * f.get("moment", 1.0), f.get("force", 1.0)]
    return summarize_trial(subject, name, SENSORS, acc, gyr, targets, UNITS)


UNITS_MIXED = {
    "one subject in rad/s": (
        {("Zoë", i): {"gyr": 1 / 57.3} for i in range(2)},
        "subject Zoë: gyroscope foot, trunk: 1/5?* of those of the other subjects; probably rad/s",
    ),
    "one trial in deg/s": (
        {("Ben", 1): {"gyr": 57.3}},
        "subject Ben: trial 1: gyroscope foot, trunk: 5?.? times *; probably rad/s and deg/s mixed",
    ),
    "g": (
        {("Ben", i): {"acc": 1 / 9.8} for i in range(2)},
        "subject Ben: accelerometer foot, trunk: 1/* of those *; probably g and m/s² mixed up",
    ),
    "divided by body weight twice": (
        {("Ben", 0): {"force": 1 / 735, "moment": 1 / 1300}},
        "subject Ben: trial 0: forces in BW: 1/* of those of the other subjects; probably N",
    ),
    "divided by mass": (
        {("Ben", i): {"force": 1 / 75, "moment": 1 / 75} for i in range(2)},
        "subject Ben: * in BW*: 1/75 of those of the other subjects; probably N*/kg*",
    ),
    "kN": (
        {("P 9", 0): {"force": 1e-3}},
        "subject P 9: trial 0: forces in BW: 1/* probably N, and",
    ),
    "N·m": (
        {("P 9", 1): {"moment": 1300.0}},
        "subject P 9: trial 1: targets in BW·BH: 1,* times *; probably N·m, and divided by bo",
    ),
}


@pytest.mark.parametrize(("factors", "expected"), UNITS_MIXED.values(), ids=UNITS_MIXED)
def test_a_subject_or_trial_in_another_unit_is_found(
    factors: dict[tuple[str, int], dict[str, float]], expected: str
) -> None:
    """A network would be trained on a subject who turns 57 times as fast as the others."""
    places = [(subject, i) for subject in ("Anna", "Ben", "P 9", "Zoë") for i in range(2)]
    intact = [trial(s, f"trial {i}", 10 * k + i) for k, (s, i) in enumerate(places)]
    assert not compare_trials(intact)
    trials = [
        trial(s, f"trial {i}", 10 * k + i, factors.get((s, i))) for k, (s, i) in enumerate(places)
    ]
    found = compare_trials(trials)
    assert any(fnmatchcase(message, f"{expected}*") for message in found), found
    assert len({message.split(":")[0] for message in found}) == 1


def test_one_damaged_cell_is_no_wrong_unit() -> None:
    """The message would name a unit that is right, and users would convert it."""
    intact = [trial(name, "1", k) for k, name in enumerate("ABCD")]
    values = walk(4)
    values[50, 0], values[60, 7] = 1e6, 1e4
    targets = np.abs(np.sin(values[:, :2])) * [0.1, 1.0]
    damaged = summarize_trial("E", "1", SENSORS, values[:, :6], values[:, 6:], targets, UNITS)
    assert not compare_trials([*intact, damaged])


def test_two_subjects_in_different_units_are_reported_once() -> None:
    """The message would say of each of two subjects that it is wrong."""
    trials = [trial("A", "1", 0), trial("B", "1", 1, {"gyr": 1 / 57.3})]
    [message] = compare_trials(trials)
    assert "those of the other subject;" in message
    [message] = compare_trials([trial("A", "1", 0), trial("A", "2", 1, {"force": 1e-3})])
    assert "subject A: 1: forces in BW: 1,0" in message  # neither is 1/1 of the other
    assert "those of the other trials; probably N, and kN" in message


def test_copies_of_a_trial_are_found() -> None:
    """A held-out subject would be in the training data, and the errors too small."""
    one, other = trial("Ben", "level 1", 0), trial("Zoë", "level 2", 0)
    others = [trial("Zoë", "level 1", 1), trial("Ben", "level 2", 2)]
    [message] = compare_trials([one, *others, other])
    assert (
        "subject Ben, level 1 and subject Zoë, level 2: 100 % of the samples are equal" in message
    )
    assert "a held-out subject would be trained on" in message
    [message] = compare_trials([one, *others, one._replace(name="level 1 (1)")])
    assert message.startswith("subject Ben: level 1 and level 1 (1): 100 %")
    part = other._replace(hashes=other.hashes[100:300])  # a part of it, and from another start
    assert len(compare_trials([one, *others, part])) == 1
