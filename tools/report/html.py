"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import PIL.Image
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from tools.report.runs import SHARED_SETTINGS, Results
from tools.report.tables import SYNTHETIC_NOTE, Table, layout


class Section(NamedTuple):
    """The part of the page for results that can be compared, with its tables and figures."""

    results: Results
    tables: Sequence[Table]
    images: Sequence[Path]


def html_page(sections: Sequence[Section]) -> str:
    """Return the page; figures are embedded, and all text from runs is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "data_uri": _data_uri}
    return environment.get_template("report.html.jinja").render(
        sections=[(section, settings_tables(section.results)) for section in sections],
        is_synthetic=any(section.results.is_synthetic for section in sections),
        synthetic_note=SYNTHETIC_NOTE,
        date=time.strftime("%Y-%m-%d"),
    )


def settings_tables(results: Results) -> dict[str, str]:
    """Return HTML of the settings that the runs share, and of each run's own and its versions."""
    shared = {name: results.settings[name] for name in SHARED_SETTINGS}
    shared |= {f"data: {name}": value for name, value in shared.pop("data").items()}
    lines = [{"setting": name, "value": _value(value)} for name, value in shared.items()]
    runs = []
    for run in results.runs:
        own = {name: v for name, v in run.settings.items() if name not in SHARED_SETTINGS}
        for call in run.calls:
            machine = {"device name": call.get("device_name"), **call.get("versions", {})}
            values = {"run": run.folder.name, **own, **machine, "code": call.get("git")}
            runs.append({name: _value(value) for name, value in values.items()})
    calls = pd.DataFrame(runs).drop_duplicates()  # most calls of a run are alike
    tables = {"Settings": pd.DataFrame(lines), "Runs and versions": calls}
    return {title: layout(numbers, "html") for title, numbers in tables.items()}


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _code(text: str) -> Markup:
    """Return escaped text, with `...` as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _data_uri(path: Path) -> str:
    """Return a figure with 256 colors, which takes a third of the space of its file."""
    png = io.BytesIO()
    with PIL.Image.open(path) as figure:
        figure.convert("RGB").quantize(256).save(png, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
