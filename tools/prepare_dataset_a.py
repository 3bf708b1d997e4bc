"""Make the HDF5 file of Dataset A from the public download of Camargo et al. 2021.

Reads the folders or the zips as downloaded, or the part of them that is there: of each trial the
tables imu, ik, id, jp (200 Hz), fp, emg and gon (1000 Hz), and SubjectInfo.mat. Writes 129 columns
at 200 Hz per subject and activity. A trial that cannot be used is named with the reason and left
out. A call that was stopped goes on where it was when it is made again.

  python -m tools.prepare_dataset_a --raw camargo --out data/dataset_a.h5
  python -m tools.prepare_dataset_a --raw camargo --out two.h5 --subjects AB07 AB08 --jobs 4
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.files import InputError
from tools.command import start
from tools.raw import UnusableError, matlab, output, parallel, tree
from tools.raw.matlab import Person
from tools.raw.subject import Outcome, gather
from tools.raw.tree import RawTrial

PAPER_SUBJECTS = (*range(7, 20), 21, 23, 24, 25, 27, 28, 30)
REFUSED = {20: "it has no ground reaction forces, and so no joint moments"}


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; return the exit status: 0, or 2 where `--strict` meets a skip."""
    options = _parser().parse_args(argv)
    asked = _subject_numbers(options.subjects)
    files = tree.scan(options.raw)
    people = _people(files)
    numbers = [n for n in asked or PAPER_SUBJECTS if n in files.trials]
    work = output.Output(options.out)
    work.check(numbers)
    report = Report()
    for problem in files.problems:
        report.skip(problem)
    for number in sorted(set(asked) - set(numbers)):
        report.skip(UnusableError("unknown subject", f"AB{number:02d}: not in {options.raw}"))
    with work.locked():
        homes = _convert_subjects(files, people, numbers, work, options.jobs, report)
        refused = options.strict and bool(report.skipped)
        if homes and not refused:
            work.assemble(homes)
    print(report.summary(len(homes)))
    if not asked:
        _name_absent(files, options.raw)
    if not homes:
        raise InputError(
            f"{options.raw}: no usable trial of the wanted subjects, nothing written; it has "
            f"{_names(files.trials)}, and --subjects takes others than the paper's"
        )
    if refused:
        print(f"error: --strict: something was skipped, {options.out} not written", file=sys.stderr)
        return 2
    print(f"Written: {options.out}")
    return 0


def _names(numbers: Iterable[int]) -> str:
    return " ".join(f"AB{number:02d}" for number in numbers)


def _name_absent(files: tree.Tree, raw: Path) -> None:
    """Say which of the default subjects are not there, which is no skip."""
    absent = [number for number in PAPER_SUBJECTS if number not in files.trials]
    if absent:
        print(f"Of the paper's subjects not in {raw}: {_names(absent)}")


def _parser() -> argparse.ArgumentParser:
    from common import flags  # here, since it loads PyTorch, which the worker processes do without

    parser = flags.Parser(
        prog="python -m tools.prepare_dataset_a",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder of the download")
    add("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
    add(
        "--subjects",
        nargs="+",
        default=[],
        metavar="ID",
        help="AB07 or 7 ... (default: the paper's 20, as far as they are there; AB06 is a 21st)",
    )
    add(
        "--jobs",
        type=flags.positive_int,
        default=os.cpu_count(),
        metavar="N",
        help="trials converted at a time (default: one per core)",
    )
    add("--strict", action="store_true", help="write nothing and end with 2 if anything is skipped")
    return parser


def _subject_numbers(wanted: Sequence[str]) -> list[int]:
    """Return the numbers of `AB07`, `ab7` or `7`, each once, in numeric order."""
    numbers = set()
    for name in wanted:
        match = re.fullmatch(r"(?:ab)?(\d{1,3})", name, re.IGNORECASE)
        if match is None:
            raise InputError(f"--subjects {name}: no subject; they are AB06 to AB30")
        number = int(match[1])
        if number in REFUSED:
            raise InputError(f"--subjects {name}: refused, {REFUSED[number]}; leave it out")
        numbers.add(number)
    return sorted(numbers)


def _people(files: tree.Tree) -> dict[int, Person]:
    try:
        with files.people.on_disk() as path:
            return matlab.read_people(path, files.people.place)
    except UnusableError as error:
        raise InputError(f"{error}; download SubjectInfo.mat again") from error


@dataclass
class Report:
    """What was used and what was skipped, and why."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def skip(self, problem: UnusableError) -> None:
        """Name it at once, above the progress bar, and count it for the summary."""
        tqdm.write(f"skipped: {problem.detail} ({problem.kind})", file=sys.stderr)
        self.skipped[problem.kind] += 1

    def take_over(self, home: Path, number: int) -> None:
        """Count a subject that an earlier call has finished."""
        skipped = output.skipped_in(home, number)
        self.used += output.trials_in(home, number)
        self.skipped.update(skipped.values())
        print(f"AB{number:02d}: taken from {home}, {len(skipped)} trials skipped in it")

    def summary(self, subjects: int) -> str:
        """Return the lines for the end."""
        lines = [f"Used: {self.used} trials of {subjects} subjects"]
        lines.append(f"Skipped: {self.skipped.total()}")
        lines += [f"  {count} x {kind}" for kind, count in self.skipped.most_common()]
        return "\n".join(lines)


def _convert_subjects(
    files: tree.Tree,
    people: dict[int, Person],
    numbers: Sequence[int],
    work: output.Output,
    jobs: int,
    report: Report,
) -> dict[int, Path]:
    """Convert what is not finished yet; return subject -> the file that holds it."""
    homes: dict[int, Path] = {}
    todo: dict[int, str] = {}
    for number in numbers:
        try:
            person = matlab.check_person(people.get(number), f"AB{number:02d}")
        except UnusableError as problem:
            report.skip(problem)
            continue
        fingerprint = output.fingerprint(person, files.trials[number])
        home = work.home(number, fingerprint)
        if home is None:
            todo[number] = fingerprint
        else:
            homes[number] = home
            report.take_over(home, number)
    tasks = [(trial, people[number]) for number in todo for trial in files.trials[number]]
    outcomes = parallel.outcomes(tasks, jobs)
    with closing(outcomes), tqdm(total=len(tasks), unit="trial", disable=not tasks) as bar:
        for number, fingerprint in todo.items():
            bar.set_description(f"AB{number:02d}")
            of_subject = _watched(files.trials[number], outcomes, report, bar)
            try:
                subject = gather(number, people[number], of_subject)
            except UnusableError as problem:
                report.skip(problem)
                continue
            homes[number] = work.write_subject(subject, fingerprint)
            report.used += subject.trials
    return homes


def _watched(
    trials: Sequence[RawTrial], outcomes: Iterator[Outcome], report: Report, bar: tqdm
) -> Iterator[tuple[RawTrial, Outcome]]:
    """Give every trial with its outcome; a skip is reported and the bar moves on."""
    for trial in trials:
        outcome = next(outcomes)
        if isinstance(outcome, UnusableError):
            report.skip(outcome)
        bar.update()
        yield trial, outcome


if __name__ == "__main__":
    start(main)
