"""A user-supplied dataset for tests: trials of a laboratory, and a copy of a script."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "your_own_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)  # language, content
PYTHON = [block for language, block in BLOCKS if language == "python"]
[MAPPING] = [block for _, block in BLOCKS if block.startswith("yours,ours\n")]
RECORDED_HZ = 148.0
PEOPLE = {  # id: mass in kg, height in m
    "Anna": (61.0, 1.68),
    "P 9": (55.5, 1.60),
    "P 10": (70.0, 1.75),
    "ben-2": (82.5, 1.83),
    "Zoë": (90.0, 1.90),
}
G = 9.8


def definition(node: ast.stmt) -> str:
    """Return the name that a top-level statement defines, or the module that it imports from."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return getattr(node, "name", getattr(node, "module", None)) or ""


def replace_definitions(source: str, block: str) -> str:
    """Return a script whose definitions are replaced with those in a block of the page."""
    lines = block.splitlines()
    new = {definition(n): lines[n.lineno - 1 : n.end_lineno] for n in ast.parse(block).body}
    result = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if definition(node) in new:
            result[node.lineno - 1 : node.end_lineno] = new.pop(definition(node))
    assert not new, "the script has no such definitions"
    return "\n".join(result) + "\n"


def simulate(subject: str, seconds: float, seed: int) -> pd.DataFrame:
    """Return a trial: IMUs in g and deg/s, the knee moment in N·m, the vertical force in N."""
    random = np.random.default_rng(seed)
    mass_kg, height_m = PEOPLE[subject]
    time_s = np.arange(int(seconds * RECORDED_HZ)) / RECORDED_HZ
    phase = 2 * np.pi * (0.8 + mass_kg / 400) * time_s + seed
    columns = {"Time": time_s}
    for sensor, size in (("Shank", 1.0), ("Pelvis", 0.5)):
        for i, axis in enumerate("XYZ"):
            noise = random.normal(0, 0.02, (2, len(time_s)))
            wave = size * np.sin(phase * (1 + i) + i)
            gravity = (0.3, -0.2, 0.9)[i]  # tells the axes of all subjects apart
            columns[f"{sensor} acc {axis}"] = gravity + 0.3 * wave + noise[0]
            columns[f"{sensor} gyr {axis}"] = 150 * wave + 100 * noise[1]
    load = np.maximum(np.sin(phase), 0)
    columns["Knee (Nm)"] = 0.05 * G * mass_kg * height_m * load * np.sin(2 * phase)
    columns["Fz"] = G * mass_kg * np.where(load > 0, 0.6 + 0.5 * load, 0)
    return pd.DataFrame(columns)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV as a spreadsheet in much of Europe does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep=";", decimal=",", index=False, encoding="utf-8")


def write_trials(folder: Path, seconds: float = 3.0) -> None:
    """Write two activities of every subject, one trial with a gap and one too short, and people."""
    for i, subject in enumerate(PEOPLE):
        for k, activity in enumerate(("level", "fast")):
            trial = simulate(subject, seconds, seed=2 * i + k)
            write_csv(folder / "trials" / subject / activity / "01.csv", trial)
    with_gap = simulate("Anna", seconds, seed=0).drop(index=range(200, 300))
    write_csv(folder / "trials" / "Anna" / "level" / "01.csv", with_gap)
    write_csv(folder / "trials" / "P 9" / "fast" / "02.csv", simulate("P 9", 0.3, seed=20))
    people = [(subject, *person) for subject, person in PEOPLE.items()]
    write_csv(folder / "subjects.csv", pd.DataFrame(people, columns=["id", "mass_kg", "height_m"]))


def copy_script(name: str, path: Path, blocks: list[str] = PYTHON) -> None:
    """Copy a script to `path` and replace the definitions in the blocks."""
    source = (ROOT / name).read_text(encoding="utf-8")
    for block in blocks:
        source = replace_definitions(source, block)
    path.write_text(source, encoding="utf-8")
