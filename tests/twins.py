"""Keep the copies of a model or loss in several scripts the same, character for character.

Scripts are self-contained, so the same class may appear in several. All copies of a class, and of a
function in the sections "Models" and "Losses", must have the same text. Functions above these
sections read the data; their copies must have the same text in all scripts of one dataset. The
first script in alphabetical order is the source.

    python tests/twins.py            # list the copies that differ; exit 1 if there are any
    python tests/twins.py --write    # replace them with the source's text
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODELS, ROWS = "# Models --", "# Rows of the table --"


class Definition(NamedTuple):
    """A top-level class or function.

    Attributes:
        family: empty if its text is the same in all scripts, else the letter of the dataset.
        name: its name.
        start: index of its first line.
        stop: index of the line after its last.
        text: its source.
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
    """Return the sources with all copies equal to the first one, and the differences found."""
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
        print("repaired; review the changes before committing them")
        return 0
    if differences:
        print("edit the first script, then run `python tests/twins.py --write`")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
