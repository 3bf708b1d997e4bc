"""Keep the copies of a model or loss in several scripts the same, character for character.

Scripts are self-contained, so a class may stand in several. Every class, and every function of the
sections "Models" and "Losses", must have the same text wherever its name stands; a function above
them, which reads the data, the same text in all scripts of a dataset. The first script in name
order is the source.

    python tests/twins.py            # name the copies that differ, exit 1 if there are any
    python tests/twins.py --write    # replace them by the source's text
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODELS, ROWS = "# Models --", "# Rows of the table --"


class Definition(NamedTuple):
    """A top-level class or function: lines `start` up to, without, `stop`, counted from 0.

    `family` is empty where all scripts share it, else the dataset's letter.
    """

    family: str
    name: str
    start: int
    stop: int
    text: str


def definitions(script: str, source: str) -> list[Definition]:
    """Return the classes of a script and the functions above its rows."""
    lines = source.splitlines(keepends=True)
    models, rows = (
        next(i for i, line in enumerate(lines) if line.startswith(heading))
        for heading in (MODELS, ROWS)
    )
    dataset = script.split("_")[1]
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        if isinstance(node, ast.ClassDef) or start < rows:
            shared = isinstance(node, ast.ClassDef) or start > models
            text = "".join(lines[start : node.end_lineno])
            family = "" if shared else dataset
            found.append(Definition(family, node.name, start, node.end_lineno, text))
    return found


def repair(sources: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the sources with every copy equal to its first text, and what differed."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    repaired, differences = {}, []
    for script in sorted(sources):
        lines = sources[script].splitlines(keepends=True)
        for definition in reversed(definitions(script, sources[script])):
            key = definition.family, definition.name
            origin, text = first.setdefault(key, (script, definition.text))
            if text != definition.text:
                line = definition.start + 1
                differences.append(f"{script}:{line}: {definition.name} differs from {origin}")
                lines[definition.start : definition.stop] = [text]
        repaired[script] = "".join(lines)
    return repaired, differences


def main(arguments: list[str]) -> int:
    """Check the scripts, or repair them with `--write`."""
    sources = {path.name: path.read_text() for path in ROOT.glob("Dataset_*.py")}
    repaired, differences = repair(sources)
    for difference in differences:
        print(difference)
    if differences and "--write" in arguments:
        for script, text in repaired.items():
            if text != sources[script]:
                (ROOT / script).write_text(text)
        print("repaired; look at the change before you commit it")
        return 0
    if differences:
        print("run `python tests/twins.py --write` to repair, after changing the first script")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
