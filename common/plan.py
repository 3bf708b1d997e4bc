"""What a call of a script is going to do: which rows, and how each is trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from common import faster, flags
from common.experiments import Study
from common.training import Settings


@dataclass(frozen=True)
class Plan:
    """The rows of a call and how they are trained.

    Attributes:
        rows: In the table's order, with those that others need.
        added: Those of them that were not asked for. settings: Of rows without epochs of their own.
        row_epochs: Row to its own number of epochs. is_sample: Whether the sample stands in.
        is_short: Whether it is a quick look, with fewer epochs than the paper's.
        is_part: Whether it is a quick look at some of the rows.
    """

    rows: list[str]
    added: list[str]
    settings: Settings
    row_epochs: dict[str, int]
    is_sample: bool
    is_short: bool
    is_part: bool

    def settings_of(self, row: str) -> Settings:
        """Return how a row is trained."""
        return self.settings._replace(epochs=self.row_epochs.get(row, self.settings.epochs))


def make_plan(study: Study, options: argparse.Namespace, is_sample: bool) -> Plan:
    """Choose rows and epochs by the flags, and on the sample those of a quick look.

    Raises:
        InputError: There is no such row.
    """
    is_part = is_sample and options.rows is None and study.sample.rows is not None
    asked = flags.choose_rows(study.sample.rows if is_part else options.rows, study.rows)
    rows = _with_needs(study, asked)
    is_short = is_sample and options.epochs is None
    epochs = options.epochs or (study.sample.epochs if is_short else study.epochs)
    own = (
        {}
        if is_short or options.epochs
        else {e.row: e.epochs for e in study.experiments if e.epochs}
    )
    return Plan(
        rows,
        added=[row for row in rows if row not in asked],
        settings=Settings(
            epochs,
            options.patience,
            options.batch_size,
            options.learning_rate,
            options.seed,
            tuple(way for way in faster.WAYS if way in options.faster),
        ),
        row_epochs=own,
        is_sample=is_sample,
        is_short=is_short,
        is_part=is_part,
    )


def _with_needs(study: Study, rows: Sequence[str]) -> list[str]:
    """Add the rows that `rows` need, in the table's order."""
    needed = {need for row in rows for need in study.experiment(row).needs}
    if needed <= set(rows):
        return list(rows)
    return _with_needs(study, [row for row in study.rows if row in needed.union(rows)])
