"""Convert trials, one CSV or MATLAB file each, to the HDF5 file of a user-supplied dataset.

The script that will read the dataset, a copy of one of the scripts here, determines the columns of
the file, their rate and their units. Trials are files <subject>/<activity>/<trial>.csv (or .mat) in
the folder --trials, or files of any name in a table with the columns file, subject and activity.
They are read like the recordings of python -m tools.predict; map other column names with --columns.

Every trial is resampled to the rate of the script and split at long gaps; parts shorter than a
window are skipped. With --normalize, forces are divided by body weight (9.8 m/s² times mass) and
moments by body weight and height, according to the units of TARGETS in the script. Trials that
cannot be used are skipped, and the reason is printed.

  python -m tools.make_dataset --script my_gait.py --trials trials --columns my_columns.csv \\
      --subjects subjects.csv --normalize --out data/dataset_my_gait.h5
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from common.cli import ArgumentParser, run_main
from common.files import InputError, plural, shorten, write_atomically
from common.metrics import aligned_table
from tools.make_dataset.trials import convert_trial, find_trials, read_people, target_divisors
from tools.output import explain_write_errors
from tools.trained import all_sensors, dataset_name, input_columns, open_script, target_columns
from tools.trial_file import (
    LOWER,
    MissingColumnsError,
    Units,
    add_flags,
    parse_clock,
    parse_mapping,
    print_template,
)

MADE_BY = "tools.make_dataset"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and print its content; return 0."""
    args = _parser().parse_args(argv)
    script = open_script(args.script)
    if script.DATASET in ("a", "b"):
        raise InputError(
            f"{args.script}: reads Dataset {dataset_name(script)}; change DATASET and its columns, "
            "see docs/your_own_data.md"
        )
    if args.normalize and not args.subjects:
        raise InputError("--normalize: needs --subjects FILE with id, mass_kg and height_m")
    _check_replaceable(args.out)
    trials, others = find_trials(args.trials)
    people = read_people(args.subjects) if args.subjects else {}
    subjects = list(dict.fromkeys(trial.subject for trial in trials))
    unknown = [subject for subject in subjects if args.subjects and subject not in people]
    if unknown:
        raise InputError(
            f"{args.subjects}: no line for subject {', '.join(unknown)}, who has trials; add one"
        )
    if others:
        print(f"NOTICE: {plural(len(others), 'other file')} ignored: {shorten(', '.join(others))}")
    absent = [subject for subject in people if subject not in subjects]
    if absent:
        print(f"NOTICE: no trials of subject {shorten(', '.join(absent))}")
    convert = partial(
        convert_trial,
        script=script,
        clock=parse_clock(args),
        units=Units(args.acc_unit, args.gyr_unit),
        mapping=parse_mapping(args.columns or (), script),
    )
    used: list[tuple[str, float, int, int]] = []  # subject, rate, samples, samples with NaN
    skipped: list[InputError] = []
    with (
        explain_write_errors(args.out, "--out"),
        write_atomically(args.out) as part,
        h5py.File(part, "w") as file,
    ):
        for (subject, activity), group in groupby(trials, key=lambda trial: trial[:2]):
            person = people.get(subject)
            divisors = target_divisors(script, person) if args.normalize else {}
            stretches: list[tuple[str, np.ndarray]] = []  # with the name of the file
            for _, _, path in group:
                try:
                    trial, arrays, notices = convert(path, divisors=divisors)
                except InputError as error:
                    if isinstance(error, MissingColumnsError) and not used and not skipped:
                        with print_template():
                            raise
                    skipped.append(error)
                    print(f"NOTICE: trial skipped: {error}")
                    continue
                for notice in notices:
                    print(f"NOTICE: {path}: {notice}")
                has_nan = np.isnan(np.concatenate(arrays)).any(axis=1)
                used.append((subject, trial.own_hz, len(has_nan), int(has_nan.sum())))
                stretches += [(path.name, array) for array in arrays]
            if stretches:
                subject_group = file.require_group(f"All_subjects/Subject_{subject}")
                subject_group.attrs.update(person._asdict() if person else {})
                _write_activity(subject_group, activity, stretches)
        if skipped and args.strict:
            raise InputError(f"--strict: {plural(len(skipped), 'trial')} skipped, see above")
        if not used:
            raise skipped[0]
        columns = [*input_columns(script, all_sensors(script)), *target_columns(script)]
        file.attrs["columns"] = json.dumps(columns)
        file.attrs["made_by"] = MADE_BY
        file.attrs["rate_hz"] = script.RATE_HZ
    _print_summary(pd.DataFrame(used, columns=["subject", "hz", "samples", "nan"]), script.RATE_HZ)
    if skipped:
        print(f"NOTICE: {len(skipped)} of {plural(len(trials), 'trial')} skipped, see above")
    print(f"Dataset {dataset_name(script)}: {args.out}")
    return 0


def _write_activity(
    group: h5py.Group, activity: str, stretches: Sequence[tuple[str, np.ndarray]]
) -> None:
    """Write the samples of an activity, and where each stretch starts and comes from."""
    names, arrays = zip(*stretches, strict=True)
    table = group.create_dataset(activity, data=np.concatenate(arrays))
    table.attrs["trial_starts"] = np.cumsum([0, *map(len, arrays)], dtype=np.int64)[:-1]
    table.attrs["trial_names"] = json.dumps(names)


def _check_replaceable(path: Path) -> None:
    """Check that an existing file was written by this command.

    Raises:
        InputError: It was not.
    """
    if path.exists():
        made_by = None
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                made_by = file.attrs.get("made_by")
        if made_by != MADE_BY:
            raise InputError(
                f"{path}: already exists and was not written by this command; move it away or "
                "choose another --out"
            )


def _print_summary(used: pd.DataFrame, rate_hz: float) -> None:
    """Print the amount of data of each subject and in total, and what limits their use."""
    slow = used["hz"][used["hz"] < LOWER * rate_hz]
    if len(slow):
        print(
            f"NOTICE: {plural(len(slow), 'trial')} recorded at {slow.min():.4g} Hz or more, below "
            f"the {rate_hz:g} Hz of the script: a lower RATE_HZ would lose nothing"
        )
    groups = [*used.groupby("subject", sort=False), ("all", used)]
    body = [
        [
            subject,
            str(len(rows)),
            f"{rows['samples'].sum() / rate_hz / 60:.1f}",
            f"{100 * rows['nan'].sum() / rows['samples'].sum():.1f}",
        ]
        for subject, rows in groups
    ]
    print(f"\n{aligned_table(['subject', 'trials', 'minutes', 'samples with NaN %'], body)}\n")
    if len(groups) == 2:
        print("NOTICE: one subject; the scripts need one to train on and one to test on")


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


if __name__ == "__main__":
    run_main(main)
