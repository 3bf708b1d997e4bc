"""All trials of one subject, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from common.columns import DATASET_A_ACTIVITIES, DATASET_A_COLUMNS

from tools.raw import UnusableError
from tools.raw.matlab import Person
from tools.raw.tree import RawTrial
from tools.raw.trial import ENVELOPES, Converted

Outcome = Converted | UnusableError
"""What became of a trial."""


class Activity(NamedTuple):
    """The trials of one activity.

    Args:
        names: Of the trials. starts: Their first rows. rows: `(n, 129)` float32.
    """

    names: list[str]
    starts: list[int]
    rows: np.ndarray


class Subject(NamedTuple):
    """What the finished file holds of a subject.

    Args:
        number: Of the subject. person: Mass and height.
        activities: By name, in the file's order; one without a trial has no rows.
        found: What was told from the values -> value -> number of trials.
        skipped: Trial -> why it was left out, in a few words.
    """

    number: int
    person: Person
    activities: dict[str, Activity]
    found: dict[str, dict[str, int]]
    skipped: dict[str, str]

    @property
    def trials(self) -> int:
        """Number of trials in use."""
        return sum(len(activity.names) for activity in self.activities.values())


def gather(number: int, person: Person, outcomes: Iterable[tuple[RawTrial, Outcome]]) -> Subject:
    """Put a subject's trials together and divide each muscle's envelope by its maximum over them.

    Raises:
        UnusableError: None of the trials can be used.
    """
    names: dict[str, list[str]] = {activity: [] for activity in DATASET_A_ACTIVITIES}
    rows: dict[str, list[np.ndarray]] = {activity: [] for activity in DATASET_A_ACTIVITIES}
    found: dict[str, Counter[str]] = {}
    skipped = {}
    for trial, outcome in outcomes:
        if isinstance(outcome, UnusableError):
            skipped[f"{trial.date}/{trial.name}"] = outcome.kind
            continue
        names[trial.activity].append(trial.name)
        rows[trial.activity].append(outcome.rows)
        for quantity, value in outcome.found.items():
            found.setdefault(quantity, Counter())[value] += 1
    if not found:
        raise UnusableError("no usable trial", f"AB{number:02d}: all {len(skipped)} are skipped")
    _normalise([trial for trials in rows.values() for trial in trials])
    activities = {}
    for activity in DATASET_A_ACTIVITIES:
        starts = np.cumsum([0, *(len(trial) for trial in rows[activity])])[:-1]
        empty = np.empty((0, len(DATASET_A_COLUMNS)), np.float32)
        together = np.concatenate([empty, *rows.pop(activity)])  # popped: held once, not twice
        activities[activity] = Activity(names[activity], starts.tolist(), together)
    ordered = {quantity: dict(sorted(counts.items())) for quantity, counts in found.items()}
    return Subject(number, person, activities, ordered, skipped)


def _normalise(trials: list[np.ndarray]) -> None:
    """Divide the EMG envelopes, in place, by the subject's maximum; a dead channel stays 0."""
    largest = np.zeros(len(ENVELOPES), np.float32)
    for trial in trials:
        largest = np.fmax(largest, np.fmax.reduce(trial[:, ENVELOPES], axis=0))
    largest[largest == 0] = 1
    for trial in trials:
        trial[:, ENVELOPES] /= largest
