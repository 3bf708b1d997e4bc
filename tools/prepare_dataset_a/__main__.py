"""Convert the public download of Camargo et al. 2021 to the HDF5 file of Dataset A.

Reads the download, complete or in part, as zips or unpacked: SubjectInfo.mat and, for each trial,
the tables imu, ik, id, jp (200 Hz), fp, emg and gon (1000 Hz). Writes 129 columns at 200 Hz for
each subject and activity. Trials that cannot be used are skipped, and the reason is printed. If the
command is interrupted, run it again: finished subjects are kept.

  python -m tools.prepare_dataset_a --raw camargo --out data/dataset_a.h5
  python -m tools.prepare_dataset_a --raw camargo --out two.h5 --subjects AB07 AB08 --jobs 4
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.cli import ArgumentParser, file_path, positive_int, run_main
from common.files import InputError, plural, printable
from tools.prepare_dataset_a import output
from tools.prepare_dataset_a.download import (
    RawTrial,
    UnusableError,
    check_person,
    format_subject,
    read_people,
    scan,
)
from tools.prepare_dataset_a.trial import Converted, Outcome, start_workers

PAPER_SUBJECTS = (*range(7, 20), 21, 23, 24, 25, 27, 28, 30)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a download; return 0, or 2 if something was skipped with `--strict`."""
    args = _parser().parse_args(argv)
    requested = sorted(set(args.subjects))
    download = scan(args.raw)
    people = read_people(download.subject_info)
    numbers = [number for number in requested or PAPER_SUBJECTS if number in download.trials]
    files = [file for n in numbers for trial in download.trials[n] for file in trial.files.values()]
    raw = {file.container for file in (download.subject_info, *files)}
    output.check_replaceable(args.out, numbers, raw)
    used, skipped = 0, Counter[str]()  # trials; and trials, subjects and zips, per reason

    def skip(problem: UnusableError) -> None:
        tqdm.write(f"skipped: {printable(problem.detail)} ({problem.kind})", file=sys.stderr)
        skipped[problem.kind] += 1

    for problem in download.problems:
        skip(problem)
    for number in sorted(set(requested) - set(numbers)):
        detail = f"{format_subject(number)}: not in {args.raw}"
        skip(UnusableError("unknown subject", detail))
    subject_files: dict[int, Path] = {}
    total = sum(len(download.trials[number]) for number in numbers)
    with start_workers(min(args.jobs, total)) as convert_all, tqdm(total=total) as bar:
        for number in numbers:
            name, raw_trials = format_subject(number), download.trials[number]
            bar.set_description(name)
            path = args.out.with_name(f"{args.out.name}.parts") / f"{output.subject_key(number)}.h5"
            if output.is_finished(path, raw_trials):
                bar.update(len(raw_trials))
                tqdm.write(f"{name}: reused from {path}")
                before, reasons = output.count_trials(path, number)
                used, skipped = used + before, skipped + reasons
                subject_files[number] = path
                continue
            try:
                check_person(people.get(number), name)
                outcomes = convert_all(raw_trials, people[number])
                trials, reasons = _usable(raw_trials, outcomes, skip, bar)
                if not trials:
                    detail = f"{name}: all of its trials were skipped"
                    raise UnusableError("no usable trial", detail)
            except UnusableError as problem:
                skip(problem)
                continue
            output.write_subject(path, number, people[number], trials, reasons)
            used += len(trials)
            subject_files[number] = path
    print(f"Used: {plural(used, 'trial')} of {plural(len(subject_files), 'subject')}")
    print(f"Skipped: {skipped.total()}")
    for kind, count in skipped.most_common():
        print(f"  {count} x {kind}")
    absent = [number for number in PAPER_SUBJECTS if number not in download.trials]
    if absent and not requested:
        print(f"Subjects of the paper that are not in {args.raw}: {_format(absent)}")
    if not subject_files:
        raise InputError(
            f"{args.raw}: no usable trial of the requested subjects, so nothing was written; it "
            f"contains {_format(download.trials)}; request subjects that the paper does not use "
            "with --subjects"
        )
    if args.strict and skipped:
        raise InputError(f"--strict: {skipped.total()} skipped; {args.out} not written")
    output.join_subjects(args.out, subject_files)
    print(f"Written: {args.out}")
    return 0


def _usable(
    raw_trials: Sequence[RawTrial],
    outcomes: Iterable[Outcome],
    skip: Callable[[UnusableError], None],
    bar: tqdm,
) -> tuple[list[Converted], dict[str, str]]:
    """Return the converted trials of a subject, and the reason for each skipped trial."""
    trials: list[Converted] = []
    reasons = {}
    for raw, outcome in zip(raw_trials, outcomes, strict=True):
        bar.update()
        if isinstance(outcome, Converted) and any(
            outcome.name == other.name
            and np.array_equal(outcome.values, other.values, equal_nan=True)
            for other in trials
        ):  # a folder that was downloaded or unpacked twice
            detail = f"{raw.place}: same values as in another folder"
            outcome = UnusableError("copy of another trial", detail)
        if isinstance(outcome, Converted):
            trials.append(outcome)
        else:
            skip(outcome)
            reasons[f"{raw.date}/{raw.name}"] = outcome.kind
    return trials, reasons


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.prepare_dataset_a", description=__doc__)
    add = parser.add_argument
    add("--raw", type=file_path, required=True, metavar="DIR", help="folder of the download")
    add("--out", type=file_path, required=True, metavar="FILE", help="HDF5 file to write")
    add(
        "--subjects",
        type=_subject_number,
        nargs="+",
        default=[],
        metavar="ID",
        help="e.g. AB07 or 7 (default: those of the paper's 20 subjects found in DIR; AB06 is not "
        "among them)",
    )
    add(
        "--jobs",
        type=positive_int,
        default=os.cpu_count(),
        metavar="N",
        help="number of trials to convert in parallel (default: one per core)",
    )
    add(
        "--strict",
        action="store_true",
        help="if anything is skipped, write nothing and exit with status 2",
    )
    return parser


def _subject_number(text: str) -> int:
    match = re.fullmatch(r"(?:ab)?(\d{1,3})", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a subject; they are AB06 to AB30")
    if int(match[1]) == 20:
        raise argparse.ArgumentTypeError(
            f"{text} has no ground reaction forces, and thus no joint moments; omit it"
        )
    return int(match[1])


def _format(numbers: Iterable[int]) -> str:
    return " ".join(map(format_subject, numbers))


if __name__ == "__main__":
    run_main(main)
