"""Make the HDF5 file of your own dataset from one CSV or MATLAB file per trial.

The script that will read the dataset, a copy of one of this collection, says what the file holds:
its columns, their rate and their units. Trials are files <subject>/<activity>/<trial>.csv (or .mat)
in the folder --trials, or files of any name in a table with the columns file, subject and activity.
They are read as python -m tools.predict reads a recording; columns with other names are mapped by
--columns in the same way.

Every trial is resampled to the rate of the script and split at long gaps; parts shorter than a
window are left out. With --normalize, the targets are divided by body weight (9.8 m/s² times mass),
moments by height too, as their units in the script say. Trials that cannot be used are named with
the reason and left out.

  python -m tools.make_dataset --script my_gait.py --trials trials --columns my_columns.csv \\
      --subjects subjects.csv --normalize --out data/dataset_my_gait.h5
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from common.cli import ArgumentParser, run_main
from common.files import InputError, explain_write_errors, plural, shorten, write_atomically
from common.metrics import aligned_table
from common.runs import Script
from tools.make_dataset.trials import (
    Person,
    Place,
    convert,
    find_trials,
    read_people,
    target_divisors,
)
from tools.trained import dataset_name, open_script
from tools.trial_file import (
    LOWER,
    Clock,
    MissingColumnsError,
    Source,
    Units,
    add_flags,
    parse_clock,
    parse_mapping,
    print_template,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the file and print what is in it; return 0."""
    args = _parser().parse_args(argv)
    script = open_script(args.script)
    if script.DATASET in ("a", "b"):
        raise InputError(
            f"{args.script}: reads Dataset {dataset_name(script)}; give it a DATASET and columns "
            "of its own, see docs/your_own_data.md"
        )
    if args.normalize and not args.subjects:
        raise InputError("--normalize: needs --subjects FILE with id, mass_kg and height_m")
    places, others = find_trials(args.trials)
    people = read_people(args.subjects) if args.subjects else {}
    subjects = list(dict.fromkeys(place.subject for place in places))
    unknown = [subject for subject in subjects if args.subjects and subject not in people]
    if unknown:
        raise InputError(
            f"{args.subjects}: no subject {', '.join(unknown)}, of whom there are trials; add a "
            "line for each"
        )
    if others:
        print(f"NOTICE: {plural(len(others), 'other file')} ignored: {shorten(', '.join(others))}")
    absent = [subject for subject in people if subject not in subjects]
    if absent:
        print(f"NOTICE: no trials of subject {shorten(', '.join(absent))}")
    mapping = parse_mapping(args.columns or (), script)
    units = Units(args.acc_unit, args.gyr_unit)
    dataset = Dataset(script, parse_clock(args), units, mapping)
    with explain_write_errors(args.out, "--out"), write_atomically(args.out) as part:
        with h5py.File(part, "w") as file:
            for subject, its_places in groupby(places, key=lambda place: place.subject):
                person = people.get(subject)
                divisors = target_divisors(script, person) if args.normalize else {}
                dataset.add(file, subject, list(its_places), divisors, person)
            dataset.finish(file)
        if dataset.skipped and args.strict:
            raise InputError(f"--strict: {plural(dataset.skipped, 'trial')} left out, see above")
    print(f"\n{dataset.table()}\n")
    if dataset.skipped:
        print(f"NOTICE: {dataset.skipped} of {plural(len(places), 'trial')} left out, see above")
    if len(dataset.amounts) < 2:
        print("NOTICE: one subject; the scripts need one to train on and one to test on")
    print(f"Dataset {dataset_name(script)}: {args.out}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.make_dataset", description=__doc__)
    add = parser.add_argument
    add("--script", type=Path, required=True, metavar="FILE", help="script that reads the dataset")
    add(
        "--trials",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder with files <subject>/<activity>/<trial>.csv or .mat, or a table (CSV) with "
        "the columns file, subject and activity",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
    add(
        "--subjects",
        type=Path,
        metavar="FILE",
        help="table (CSV) of the subjects with the columns id, mass_kg and height_m",
    )
    add(
        "--normalize",
        action="store_true",
        help="the files have moments in N·m and forces in N: divide them by body weight, and "
        "moments by height, for the units in the script",
    )
    add(
        "--strict",
        action="store_true",
        help="if a trial cannot be used, write nothing and exit with status 2",
    )
    add_flags(parser)
    return parser


class Dataset:
    """The HDF5 file, written subject by subject.

    Attributes:
        script: the script that reads it.
        clock: the time of the trials.
        units: the units that the user has given.
        mapping: column of the script -> column of the trials.
        names: the columns of the file.
        amounts: subject -> number of trials, samples and samples with NaN.
        skipped: number of trials that were left out.
    """

    def __init__(
        self, script: Script, clock: Clock, units: Units, mapping: Mapping[str, Source]
    ) -> None:
        self.script, self.clock, self.units, self.mapping = script, clock, units, mapping
        self.names: list[str] = []
        self.amounts: dict[str, Counter[str]] = {}
        self.skipped = 0
        self._slow: list[float] = []  # rates below that of the script
        self._reason: InputError | None = None  # for leaving out the first trial

    def add(
        self,
        file: h5py.File,
        subject: str,
        places: Sequence[Place],
        divisors: Mapping[str, float],
        person: Person | None,
    ) -> None:
        """Write the activities of a subject; trials that cannot be used are named and left out.

        Raises:
            MissingColumnsError: The first trial lacks columns.
        """
        for activity, its_places in groupby(places, key=lambda place: place.activity):
            trials = [(place, self._convert(place, divisors)) for place in its_places]
            trials = [(place, stretches) for place, stretches in trials if stretches]
            if not trials:
                continue
            stretches = [stretch for _, its_stretches in trials for stretch in its_stretches]
            names = [place.path.name for place, its_stretches in trials for _ in its_stretches]
            values = np.concatenate(stretches)
            table = file.create_dataset(f"All_subjects/Subject_{subject}/{activity}", data=values)
            lengths = [len(stretch) for stretch in stretches]
            table.attrs["trial_starts"] = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
            table.attrs["trial_names"] = json.dumps(names)
            amount = self.amounts.setdefault(subject, Counter())
            amount["trials"] += len(trials)
            amount["samples"] += len(values)
            amount["with NaN"] += int(np.isnan(values).any(axis=1).sum())
        if person and subject in self.amounts:
            file[f"All_subjects/Subject_{subject}"].attrs.update(person._asdict())

    def _convert(self, place: Place, divisors: Mapping[str, float]) -> list[np.ndarray]:
        """Return the stretches of a trial, none if it cannot be used."""
        try:
            trial, stretches, notices = convert(
                place.path, self.script, self.clock, self.units, self.mapping, divisors
            )
        except InputError as error:
            if isinstance(error, MissingColumnsError) and not self.names and not self.skipped:
                with print_template():
                    raise
            self.skipped += 1
            self._reason = self._reason or error
            print(f"NOTICE: trial left out: {error}")
            return []
        for notice in notices:
            print(f"NOTICE: {place.path}: {notice}")
        self.names = trial.names
        if trial.own_hz < LOWER * self.script.RATE_HZ:
            self._slow.append(trial.own_hz)
        return stretches

    def finish(self, file: h5py.File) -> None:
        """Write the attributes of the file.

        Raises:
            InputError: No trial could be used.
        """
        if self._reason and not self.names:
            raise self._reason
        file.attrs["columns"] = json.dumps(self.names)
        file.attrs["made_by"] = "tools.make_dataset"
        file.attrs["rate_hz"] = self.script.RATE_HZ
        if self._slow:
            print(
                f"NOTICE: {plural(len(self._slow), 'trial')} recorded at {min(self._slow):.4g} Hz "
                f"or more, below the {self.script.RATE_HZ:g} Hz of the script: a lower RATE_HZ "
                "would lose nothing"
            )

    def table(self) -> str:
        """Return the amounts of data."""
        total = sum(self.amounts.values(), Counter())
        body = [
            [
                subject,
                str(amount["trials"]),
                f"{amount['samples'] / self.script.RATE_HZ / 60:.1f}",
                f"{100 * amount['with NaN'] / amount['samples']:.1f}",
            ]
            for subject, amount in {**self.amounts, "all": total}.items()
        ]
        return aligned_table(["subject", "trials", "minutes", "samples with NaN %"], body)


if __name__ == "__main__":
    run_main(main)
