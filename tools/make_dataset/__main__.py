"""Convert trials to the HDF5 file of a user-supplied dataset.

The script that will read the dataset, a copy of one of our scripts, determines the columns of the
file, their rate and their units. Trials are files <subject>/<activity>/<trial>.csv (or .mat, .c3d,
.mot, .sto) in the folder --trials. A trial may consist of several files with a common clock: a
folder <subject>/<activity>/<trial>/, or files such as 01_imu.csv, 01_grf.mot and 01_id.sto.
--trials can also be a table with the columns file, subject and activity. Map other column names
with --columns; --list FILE prints a file's columns.

Every trial is resampled to the rate of the script and split at long gaps; stretches shorter than a
window are skipped. With --normalize, targets are converted to the units of TARGETS in the script:
forces are divided by body weight (9.8 m/s² times mass) and moments by body weight and height.
Trials that cannot be used are skipped, and the reason is printed.

  python -m tools.make_dataset --script my_gait.py --trials trials --columns my_columns.csv \\
      --subjects subjects.csv --normalize --out data/dataset_my_gait.h5
  python -m tools.make_dataset --list trials/Anna/level/01.c3d > my_columns.csv
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from common.cli import ArgumentParser, file_path, run_main
from common.files import InputError, plural, printable, shorten, write_atomically
from common.metrics import aligned_table
from tools import plausibility
from tools.c3d_file import C3D_SUFFIX
from tools.make_dataset import contact
from tools.make_dataset.sources import Sources, describe, read_placements
from tools.make_dataset.trials import convert_trial, find_trials, read_people, read_person
from tools.mounting import Statistics, compare_subjects, measure
from tools.output import check_writable, explain_write_errors, is_made_by
from tools.trained import all_sensors, dataset_name, input_columns, open_script, target_columns
from tools.trial_file import (
    LOWER,
    MissingColumnsError,
    Source,
    Units,
    add_flags,
    parse_clock,
    parse_mapping,
    print_template,
)

MADE_BY = "tools.make_dataset"
USED = ["subject", "activity", "hz", "samples", "nan", "contacts"]  # of a trial


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and print its content; return 0."""
    args = _parser().parse_args(argv)
    script = open_script(args.script)
    if script.DATASET in ("a", "b"):
        raise InputError(
            f"{args.script}: reads Dataset {dataset_name(script)}; change DATASET and its columns, "
            "see docs/your_own_data.md"
        )
    trials, others = find_trials(args.trials)
    files = [file for trial in trials for file in trial.files]
    tables = (args.script, args.subjects, args.virtual_imus, args.trials, *(args.columns or ()))
    inputs = [*files, *(Path(path) for path in tables if path)]
    check_writable(args.out, inputs, partial(is_made_by, command=MADE_BY))
    has_c3d = any(file.suffix.lower() == C3D_SUFFIX for file in files)
    if args.normalize and not args.subjects and not has_c3d:
        raise InputError("--normalize: needs --subjects FILE with id, mass_kg and height_m")
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
    mapping = parse_mapping(args.columns or (), script)
    clock = parse_clock(args)
    columns = input_columns(script, all_sensors(script))
    yours = [mapping.get(name, Source(name)).name for name in columns]
    imu_names = [name for kind in ("acc", "gyr") for name in script.COLUMNS[kind]]
    imu_columns = [columns.index(name) for name in imu_names]
    emg = [name for ours, name in zip(columns, yours, strict=True) if ours not in imu_names]
    sources = Sources(
        clock=clock,
        rate_hz=script.RATE_HZ,
        inputs=set(yours),
        offsets_s=_parse_offsets(args.offset or (), files),
        placements=read_placements(args.virtual_imus) if args.virtual_imus else {},
        raw_emg=emg if args.emg_envelope else (),
    )
    convert = partial(
        convert_trial,
        script=script,
        sources=sources,
        units=Units(args.acc_unit, args.gyr_unit),
        mapping=mapping,
        contact=contact.Contact.from_flags(args),
        normalize=args.normalize,
    )
    used: list[tuple[str, str, float, int, int, int]] = []  # columns of `USED`
    summaries: list[plausibility.Trial] = []
    measured: dict[str, list[dict[str, Statistics]]] = {}  # of each subject's trials
    skipped: list[InputError] = []
    with (
        explain_write_errors(args.out, "--out"),
        write_atomically(args.out) as part,
        h5py.File(part, "w") as file,
    ):
        for (subject, activity), group in groupby(trials, key=lambda trial: trial[:2]):
            person = people.get(subject)
            stretches: list[tuple[str, np.ndarray]] = []  # with the name of the trial
            for trial in group:
                try:
                    if has_c3d and not args.subjects:
                        person = read_person(trial.files)
                    converted = convert(trial, person=person)
                except InputError as error:
                    if isinstance(error, MissingColumnsError) and not used and not skipped:
                        with print_template():
                            raise
                    skipped.append(error)
                    print(f"NOTICE: trial skipped: {printable(error)}")
                    continue
                for notice in converted.notices:
                    print(f"NOTICE: {printable(trial.path)}: {printable(notice)}")
                has_nan = np.isnan(np.concatenate(converted.stretches)).any(axis=1)
                counts = len(has_nan), int(has_nan.sum()), converted.contacts
                used.append((subject, activity, converted.own_hz, *counts))
                summaries.append(converted.summary)
                values = np.concatenate(converted.stretches)[:, imu_columns]
                imus = np.split(values, 2, axis=1)
                measured.setdefault(subject, []).append(measure(*imus, script.SENSORS))
                stretches += [(trial.path.name, array) for array in converted.stretches]
            if stretches:
                subject_group = file.require_group(f"All_subjects/Subject_{subject}")
                subject_group.attrs.update(person._asdict() if person else {})
                _write_activity(subject_group, activity, stretches)
        if skipped and args.strict:
            raise InputError(f"--strict: {plural(len(skipped), 'trial')} skipped, see above")
        if not used:
            raise skipped[0]
        file.attrs["columns"] = json.dumps([*columns, *target_columns(script)])
        file.attrs["made_by"] = MADE_BY
        file.attrs["rate_hz"] = script.RATE_HZ
    _print_summary(pd.DataFrame(used, columns=USED), script.RATE_HZ, bool(args.valid_contact))
    for message in (*plausibility.compare_trials(summaries), *compare_subjects(measured)):
        print(f"WARNING: {printable(message)}")
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


def _parse_offsets(arguments: Sequence[str], files: Sequence[Path]) -> dict[str, float]:
    """Return pattern of a file name -> seconds to add to its times.

    Raises:
        InputError: An argument is malformed, or no file has such a name.
    """
    offsets: dict[str, float] = {}
    for argument in arguments:
        pattern, _, seconds = argument.rpartition("=")
        try:
            offsets[pattern] = float(seconds)
            is_valid = np.isfinite(offsets[pattern])
        except ValueError:
            is_valid = False
        if not pattern or not is_valid:
            raise InputError(
                f"--offset {argument}: write PATTERN=SECONDS, such as '*_grf.mot=-0.35'"
            )
        if not any(fnmatch(file.name, pattern) for file in files):
            raise InputError(
                f"--offset {argument}: no file has a name like {pattern}; correct the pattern"
            )
    return offsets


def _print_summary(used: pd.DataFrame, rate_hz: float, has_rule: bool) -> None:
    """Print the amount of data of each subject and in total, and what limits their use.

    With a rule for valid targets, there is a line for each activity of a subject.
    """
    slow = used["hz"][used["hz"] < LOWER * rate_hz]
    if len(slow):
        print(
            f"NOTICE: {plural(len(slow), 'trial')} recorded at {slow.min():.4g} Hz or more, below "
            f"the {rate_hz:g} Hz of the script: a lower RATE_HZ would lose nothing"
        )
    keys = ["subject", "activity"] if has_rule else ["subject"]
    groups = [*used.groupby(keys, sort=False), (("all", "")[: len(keys)], used)]
    body = [
        [
            *names,
            str(len(rows)),
            f"{rows['samples'].sum() / rate_hz / 60:.1f}",
            f"{100 * rows['nan'].sum() / rows['samples'].sum():.1f}",
            *([str(rows["contacts"].sum())] if has_rule else []),
            *([f"{(rows['samples'] - rows['nan']).sum() / rate_hz:.1f}"] if has_rule else []),
        ]
        for names, rows in groups
    ]
    rule = ["contacts", "valid s"] if has_rule else []
    print(f"\n{aligned_table([*keys, 'trials', 'minutes', 'samples with NaN %', *rule], body)}\n")
    if used["subject"].nunique() == 1:
        print("NOTICE: one subject; the scripts need one to train on and one to test on")


class _List(argparse.Action):
    """Print the columns of a file, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        """Print a template for `--columns` to standard output, and notices to standard error."""
        table, notices = describe(Path(str(values)))
        print("".join(f"NOTICE: {notice}\n" for notice in notices), end="", file=sys.stderr)
        print(table.to_csv(index=False, lineterminator="\n", float_format="%.4g"), end="")
        parser.exit()


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.make_dataset", description=__doc__)
    add = parser.add_argument
    add(
        "--script",
        type=file_path,
        required=True,
        metavar="FILE",
        help="script that reads the dataset",
    )
    add(
        "--trials",
        type=file_path,
        required=True,
        metavar="PATH",
        help="folder with files <subject>/<activity>/<trial>.csv, .mat, .c3d, .mot or .sto, or "
        "with several files for each trial, or a table (CSV) with the columns file, subject and "
        "activity",
    )
    add("--out", type=file_path, required=True, metavar="FILE", help="HDF5 file to write")
    add(
        "--subjects",
        type=file_path,
        metavar="FILE",
        help="table (CSV) of the subjects with the columns id, mass_kg and height_m (default: "
        "those in c3d files)",
    )
    add(
        "--normalize",
        action="store_true",
        help="convert forces, moments, angles and lengths to the units of TARGETS in the script, "
        "from those that the file or the column `unit` of the --columns file states, or else from "
        "N and N·m",
    )
    add(
        "--list",
        action=_List,
        metavar="FILE",
        help="print the columns of a file, as a template for --columns, and exit",
    )
    add(
        "--virtual-imus",
        type=file_path,
        metavar="TABLE",
        help="compute IMUs from the points of c3d files: a CSV with the columns sensor, origin, x, "
        "y, z and marker",
    )
    add(
        "--emg-envelope",
        action="store_true",
        help="the columns other than accelerometers, gyroscopes and targets are raw EMG: compute "
        "envelopes (band-pass 20 to 400 Hz, rectified, low-pass 6 Hz)",
    )
    add(
        "--offset",
        nargs="+",
        metavar="PATTERN=SECONDS",
        help="add SECONDS to the times of the files that match PATTERN, in trials of several files",
    )
    contact.add_flags(parser)
    add(
        "--strict",
        action="store_true",
        help="if a trial cannot be used, write nothing and exit with status 2",
    )
    add_flags(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
