"""Keep the parts that several scripts share identical, character for character.

The scripts are self-contained, so the same class can be in several of them, those in beyond/
included. A name that several scripts define must have the same text in all of them if it is in the
section "Models", "Losses" or "Training", and in all scripts of a dataset if it is above them, where
the sensors, the targets and the reading of the data are defined. Repairs copy the text that differs
from the last commit. If several copies were edited differently, or none, nothing is written.

    python tests/twins.py            # list the copies that differ; exit status 1 if there are any
    python tests/twins.py --write    # replace them with the copy that was edited
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("Models", "Losses", "Rows of the table", "Training", "Running")
SHARED_BY_ALL = ("Models", "Losses", "Training")
IN_EVERY_SCRIPT = {"train": "Training"}  # function: its section
NOT_SHARED = ("LEARNING_RATE",)  # above the models; that of the baselines differs


class Definition(NamedTuple):
    """A top-level class, function or constant.

    Attributes:
        name: its name.
        section: the section that contains it; empty above the models.
        start: its first line, counted from 0.
        stop: the line after its last.
        text: these lines.
    """

    name: str
    section: str
    start: int
    stop: int
    text: str


def headings(source: str) -> dict[str, int]:
    """Return the line of every section's heading, counted from 0, in the order of the script."""
    lines = enumerate(source.splitlines())
    found = {line.strip("#- "): i for i, line in lines if line.startswith("# ") and "----" in line}
    return {name: i for name, i in found.items() if name in SECTIONS}


def definitions(source: str) -> list[Definition]:
    """Return the top-level classes, functions and constants of a script."""
    lines = source.splitlines(keepends=True)
    sections = headings(source)
    found = []
    for node in ast.parse(source).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        else:
            continue
        section = next((h for h, line in reversed(sections.items()) if line < start), "")
        text = "".join(lines[start : node.end_lineno])
        found.append(Definition(name, section, start, node.end_lineno, text))
    return found


def missing(source: str) -> list[str]:
    """Return which required sections and functions a script lacks."""
    found = {definition.name: definition.section for definition in definitions(source)}
    problems = []
    if tuple(headings(source)) != SECTIONS:
        problems.append(f"the sections must be {', '.join(SECTIONS)}, in this order")
    problems += [
        f"no {name} in the section {section}"
        for name, section in IN_EVERY_SCRIPT.items()
        if found.get(name) != section
    ]
    return problems


def copies(sources: Mapping[str, str]) -> dict[tuple[str, str], dict[str, Definition]]:
    """Return the definitions that must have the same text: dataset and name -> script -> copy.

    Args:
        sources: path of the script -> its text.
    """
    found: dict[tuple[str, str], dict[str, Definition]] = {}
    for script in sorted(sources):
        dataset = Path(script).name.split("_")[1]
        for definition in definitions(sources[script]):
            if definition.section in SHARED_BY_ALL:
                found.setdefault(("", definition.name), {})[script] = definition
            elif not definition.section and definition.name not in NOT_SHARED:
                found.setdefault((dataset, definition.name), {})[script] = definition
    return found


def differences(sources: Mapping[str, str]) -> list[str]:
    """Return a line for each copy that differs from the first one."""
    lines = []
    for (_, name), by_script in copies(sources).items():
        origin, first = next(iter(by_script.items()))
        lines += [
            f"{script}:{copy.start + 1}: {name} differs from {origin}"
            for script, copy in by_script.items()
            if copy.text != first.text
        ]
    return sorted(lines)


def repair(
    sources: Mapping[str, str], committed: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the sources with every copy equal to the edited one, and what cannot be decided.

    Args:
        sources: path of the script -> its text.
        committed: the same at the last commit; empty without git.
    """
    before = copies(committed)
    repaired, problems = dict(sources), []
    lines = {script: text.splitlines(keepends=True) for script, text in sources.items()}
    replaced: dict[str, list[tuple[Definition, str]]] = {}
    for key, by_script in copies(sources).items():
        texts = {copy.text for copy in by_script.values()}
        if len(texts) == 1:
            continue
        old = {copy.text for copy in before.get(key, {}).values()}
        edited = {s: copy.text for s, copy in by_script.items() if copy.text not in old}
        if len(set(edited.values())) != 1:
            where = f"edited differently in {', '.join(edited)}" if edited else "not edited"
            problems.append(
                f"{key[1]}: {where} since the last commit; copy the right text to the others by "
                "hand"
            )
            continue
        (text,) = set(edited.values())
        for script, copy in by_script.items():
            replaced.setdefault(script, []).append((copy, text))
    for script, found in replaced.items():
        for copy, text in sorted(found, key=lambda pair: -pair[0].start):
            lines[script][copy.start : copy.stop] = [text]
        repaired[script] = "".join(lines[script])
    return repaired, problems


def read_committed(scripts: list[str]) -> dict[str, str]:
    """Return the texts at the last commit; empty if this is not a checkout, or without git."""
    found = {}
    for script in scripts:
        command = ["git", "-C", str(ROOT), "show", f"HEAD:./{script}"]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            return {}
        if done.returncode == 0:
            found[script] = done.stdout.decode().replace("\r\n", "\n")
    return found


def main(arguments: list[str]) -> int:
    """Check the scripts, or repair them with `--write`."""
    paths = [*ROOT.glob("Dataset_*.py"), *ROOT.glob("beyond/Dataset_*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    problems = [f"{name}: {what}" for name in sorted(sources) for what in missing(sources[name])]
    found = differences(sources)
    for line in [*problems, *found]:
        print(line)
    if found and "--write" in arguments:
        committed = read_committed(list(sources))
        if not committed:
            print("no git history to find the edited copy; copy its text to the others by hand")
            return 1
        repaired, undecided = repair(sources, committed)
        for line in undecided:
            print(line)
        for script, text in repaired.items():
            if text != sources[script]:
                (ROOT / script).write_text(text)
                print(f"repaired {script}; review the change before you commit it")
        found = undecided
    elif found:
        print("to copy the edited text to the others, run `python tests/twins.py --write`")
    return 1 if problems or found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
