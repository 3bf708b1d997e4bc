"""The page `report.html`: it needs nothing else and shows everything."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tests.made_runs import (
    PAIR,
    SCRIPT,
    TWENTY_SUBJECTS,
    make_run,
    synthetic_data,
    write_predictions,
)
from tools.report.__main__ import main

HOSTILE = "<img src=x onerror=alert(1)>&`{{ 7 * 7 }}`"
ROWS = [*PAIR, (f"x{HOSTILE}-foot", "foot", 1), ("x" * 60 + "-foot", "foot", 1)]
HISTORY = "row,fold,epoch,training_loss,validation_loss,seconds\n"


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect an element."""
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data

    def values(self, name: str) -> list[str | None]:
        """Return the values of an attribute."""
        return [value for found, value in self.attributes if found == name]


def write_page(folder: Path) -> Path:
    """Return the page of a run on synthetic data and of one whose names are hostile."""
    synthetic = make_run(
        folder / "synthetic", subjects=TWENTY_SUBJECTS, tested=["7", "8"], data=synthetic_data()
    )
    for subject in ("7", "8"):
        write_predictions(synthetic, "distilled-foot", subject, ["Treadmill", "Ramp"], samples=200)
    losses = [f"student-foot,7,{i},{1 / i},{1.1 / i},1\n" for i in (1, 2, 3)]
    (synthetic / "history.csv").write_text(HISTORY + "".join(losses))
    hostile = make_run(folder / "hostile" / HOSTILE.replace("/", ""), rows=ROWS, tested=["7", "8"])
    config = json.loads((hostile / "config.json").read_text())
    config["settings"]["data"]["file"] = HOSTILE
    config["settings"]["alpha"] = 0.25
    config["calls"] = [{"device_name": HOSTILE, "versions": {"torch": "9.9.9"}, "git": "abc123"}]
    (hostile / "config.json").write_text(json.dumps(config))
    main([str(synthetic), str(hostile), "--out", str(folder / "out")])
    return folder / "out" / "report.html"


@pytest.mark.slow
def test_page_has_everything_and_runs_nothing(tmp_path: Path) -> None:
    """It is sent by mail and opened elsewhere: whatever it lacks is lost; names are plain text."""
    report = write_page(tmp_path)
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)
    assert str(tmp_path) not in text  # no path of the machine that wrote it
    assert page.text.count(HOSTILE) >= 4  # a row in several tables, the file, the device
    for shown in ("SYNTHETIC DATA: the gait", "learning_rate", "alpha", "0.25", "9.9.9", "abc123"):
        assert shown in page.text
    for path in report.parent.glob("*/table_*.csv"):
        for row in pd.read_csv(path)["row"]:
            assert row in page.text
    figures = sorted(report.parent.glob("*/figures/*.png"))
    assert len(page.values("src")) == len(figures) > 6
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert {p.stem for p in figures} > {"scatter-distilled-foot", f"learning_curves-{SCRIPT}"}
    numbers = pd.read_csv(report.parent / "A-paper-2" / "table_III.csv", index_col="row")
    assert f"{numbers.loc['student-foot', 'NRMSE % mean']:.2f} ± " in page.text
    ids, targets = page.values("id"), page.values("href")
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in targets} == set(ids)
