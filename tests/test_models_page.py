"""docs/models.md lists every network class with its true number of parameters."""

from __future__ import annotations

import ast
import re

from tests.conftest import ROOT
from tests.networks import BEYOND, SCRIPTS, count_parameters, meta_network

LINES = re.findall(r"^\| (`\w.*)\|$", (ROOT / "docs/models.md").read_text("utf-8"), re.MULTILINE)


def test_page_lists_every_network_class_once() -> None:
    """A class that the page does not list will not be found by who wants to copy it."""
    classes = {
        node.name
        for pattern in ("Dataset_*.py", "beyond/*.py")
        for path in ROOT.glob(pattern)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "nn.Module" in map(ast.unparse, node.bases)
    }
    listed = [name for line in LINES for name in re.findall(r"`(\w+)`", line.split("|")[0])]
    assert sorted(listed) == sorted(classes)


def test_page_states_the_numbers_of_parameters() -> None:
    """Sizes are a reason to choose a network, for example for a small device."""
    stated = {}
    for line in LINES:
        cells = [cell.strip() for cell in line.split("|")]
        if cells[-1]:
            stated[cells[0].strip("`")] = cells[-2:]
    counts: dict[str, dict[str, list[int]]] = {}
    for script in SCRIPTS + BEYOND:
        for row in script.ROWS:
            sizes = counts.setdefault(row.network.func.__name__, {"a": [], "b": []})
            sizes[script.DATASET].append(count_parameters(meta_network(script, row.name)))
    assert stated == {
        name: [f"{min(sizes):,} to {max(sizes):,}" for sizes in by_dataset.values()]
        for name, by_dataset in counts.items()
    }
