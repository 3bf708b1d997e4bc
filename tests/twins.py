"""Keep the parts that several scripts share identical, character for character.

The scripts are self-contained, so the same class can be in several of them, those in beyond/
included. A name that several scripts define must have the same text in all of them if it is in the
section "Models", "Losses" or "Training", and in all scripts of a dataset if it is above them, where
the sensors, the targets and the reading of the data are defined. Repairs copy the text from the
first script in alphabetical order.

    python tests/twins.py            # list the copies that differ; exit status 1 if there are any
    python tests/twins.py --write    # replace them with the text of the first script
"""

from __future__ import annotations

import ast
import sys
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


def repair(sources: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the sources with every copy equal to its first text, and the copies that differed.

    Args:
        sources: path of the script -> its text.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    repaired, differences = {}, []
    for script in sorted(sources):
        lines = sources[script].splitlines(keepends=True)
        dataset = Path(script).name.split("_")[1]
        for definition in reversed(definitions(sources[script])):
            name, section, start, stop, text = definition
            if section in SHARED_BY_ALL:
                key = ("", name)
            elif not section and name not in NOT_SHARED:
                key = (dataset, name)
            else:
                continue
            origin, expected = first.setdefault(key, (script, text))
            if text != expected:
                differences.append(f"{script}:{start + 1}: {name} differs from {origin}")
                lines[start:stop] = [expected]
        repaired[script] = "".join(lines)
    return repaired, differences


def main(arguments: list[str]) -> int:
    """Check the scripts, or repair them with `--write`."""
    paths = [*ROOT.glob("Dataset_*.py"), *ROOT.glob("beyond/Dataset_*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    problems = [f"{name}: {what}" for name in sorted(sources) for what in missing(sources[name])]
    repaired, differences = repair(sources)
    for line in [*problems, *differences]:
        print(line)
    if differences and "--write" in arguments:
        for script, text in repaired.items():
            if text != sources[script]:
                (ROOT / script).write_text(text)
        print("repaired; review the changes before you commit them")
        differences = []
    elif differences:
        print("to repair them, change the first script and run `python tests/twins.py --write`")
    return 1 if problems or differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
