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
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path

from tqdm import tqdm

from common.cli import ArgumentParser, positive_int, run_main
from common.files import InputError, plural
from tools.prepare_dataset_a.download import (
    Download,
    Person,
    UnusableError,
    check_person,
    format_subject,
    read_people,
    scan,
)
from tools.prepare_dataset_a.output import Output, compute_fingerprint, count_trials
from tools.prepare_dataset_a.trial import start_workers

PAPER_SUBJECTS = (*range(7, 20), 21, 23, 24, 25, 27, 28, 30)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a download; return 0, or 2 if something was skipped with `--strict`."""
    args = _parser().parse_args(argv)
    requested = sorted(set(args.subjects))
    download = scan(args.raw)
    people = read_people(download.subject_info)
    numbers = [number for number in requested or PAPER_SUBJECTS if number in download.trials]
    output = Output(args.out)
    output.check_replaceable(numbers)
    skipped: Counter[str] = Counter()  # trials, subjects and zips, per reason
    for problem in download.problems:
        _skip(problem, skipped)
    for number in sorted(set(requested) - set(numbers)):
        detail = f"{format_subject(number)}: not in {args.raw}"
        _skip(UnusableError("unknown subject", detail), skipped)
    with output.locked():
        sources, fingerprints = _reuse_finished(download, people, numbers, output, skipped)
        sources |= _convert_subjects(download, people, fingerprints, output, args.jobs, skipped)
        is_refused = args.strict and bool(skipped)
        used = sum(count_trials(path, number)[0] for number, path in sources.items())
        if sources and not is_refused:
            output.assemble(sources)
    print(f"Used: {plural(used, 'trial')} of {plural(len(sources), 'subject')}")
    print(f"Skipped: {skipped.total()}")
    for kind, count in skipped.most_common():
        print(f"  {count} x {kind}")
    absent = [number for number in PAPER_SUBJECTS if number not in download.trials]
    if absent and not requested:
        print(f"Subjects of the paper that are not in {args.raw}: {_format(absent)}")
    if not sources:
        raise InputError(
            f"{args.raw}: no usable trial of the requested subjects, so nothing was written; it "
            f"contains {_format(download.trials)}; request subjects that the paper does not use "
            "with --subjects"
        )
    if is_refused:
        print(
            f"error: --strict: {skipped.total()} skipped; {args.out} not written",
            file=sys.stderr,
        )
        return 2
    print(f"Written: {args.out}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.prepare_dataset_a", description=__doc__)
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder of the download")
    add("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
    add(
        "--subjects",
        type=_subject_number,
        nargs="+",
        default=[],
        metavar="ID",
        help="AB07 or 7 ... (default: those of the paper's 20 that are in DIR; AB06 is a 21st)",
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
            f"{text} has no ground reaction forces, and thus no joint moments; leave it out"
        )
    return int(match[1])


def _format(numbers: Iterable[int]) -> str:
    return " ".join(map(format_subject, numbers))


def _skip(problem: UnusableError, skipped: Counter[str]) -> None:
    """Count a skip and print it above the progress bar."""
    tqdm.write(f"skipped: {problem.detail} ({problem.kind})", file=sys.stderr)
    skipped[problem.kind] += 1


def _reuse_finished(
    download: Download,
    people: dict[int, Person],
    numbers: Sequence[int],
    output: Output,
    skipped: Counter[str],
) -> tuple[dict[int, Path], dict[int, str]]:
    """Return the file of each finished subject, and the fingerprint of each subject to convert."""
    sources, fingerprints = {}, {}
    for number in numbers:
        name = format_subject(number)
        try:
            check_person(people.get(number), name)
        except UnusableError as problem:
            _skip(problem, skipped)
            continue
        fingerprint = compute_fingerprint(people[number], download.trials[number])
        source = output.find_subject(number, fingerprint)
        if source is None:
            fingerprints[number] = fingerprint
        else:
            sources[number] = source
            _, reasons = count_trials(source, number)
            skipped.update(reasons)
            print(f"{name}: reused from {source} ({reasons.total()} trials skipped)")
    return sources, fingerprints


def _convert_subjects(
    download: Download,
    people: dict[int, Person],
    fingerprints: dict[int, str],
    output: Output,
    jobs: int,
    skipped: Counter[str],
) -> dict[int, Path]:
    """Convert the subjects in `fingerprints`; return the file of each one that was written.

    Raises:
        InputError: A worker process died, or the disk is full.
    """
    sources = {}
    total = sum(len(download.trials[number]) for number in fingerprints)
    with (
        start_workers(min(jobs, total)) as convert_all,
        tqdm(total=total, unit="trial", disable=not total) as bar,
    ):
        batches = (
            (number, convert_all(download.trials[number], people[number]))
            for number in fingerprints
        )
        # Pairing submits the next subject before this one is written: the workers stay busy.
        for (number, outcomes), _ in pairwise(chain(batches, [None])):
            bar.set_description(format_subject(number))
            trials, reasons = [], {}
            for raw, outcome in zip(download.trials[number], outcomes, strict=True):
                if isinstance(outcome, UnusableError):
                    _skip(outcome, skipped)
                    reasons[f"{raw.date}/{raw.name}"] = outcome.kind
                else:
                    trials.append(outcome)
                bar.update()
            if not trials:
                detail = f"{format_subject(number)}: all of its trials were skipped"
                _skip(UnusableError("no usable trial", detail), skipped)
                continue
            sources[number] = output.write_subject(
                number, people[number], trials, reasons, fingerprints[number]
            )
    return sources


if __name__ == "__main__":
    run_main(main)
