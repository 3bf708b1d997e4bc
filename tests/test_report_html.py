"""The page `report.html`: it needs nothing else, shows everything, and fits a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Folders
from tests.made_runs import (
    PAIR,
    SCRIPT,
    TWENTY_SUBJECTS,
    make_run,
    synthetic_data,
    write_predictions,
)
from tools.report.__main__ import main

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
FLAGS = (  # nothing but the page is opened
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = "<img src=x onerror=alert(1)>&`{{ 7 * 7 }}`"
ROWS = [*PAIR, (f"x{HOSTILE}-foot", "foot", 1), ("x" * 60 + "-foot", "foot", 1)]
VOID = {"meta", "img", "br", "hr", "link", "input"}
HISTORY = "row,fold,epoch,training_loss,validation_loss,seconds\n"


class Page(HTMLParser):
    """The elements of a page; every element must be closed by its own end tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it closes the last open element."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect the text that a reader sees."""
        if self.open[-1:] != ["style"]:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        """Return the values of an attribute."""
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: Folders) -> Path:
    """Return the page of a run on synthetic data and of one whose names are hostile."""
    folder = tmp_path_factory.mktemp("report")
    synthetic = make_run(
        folder / "synthetic", subjects=TWENTY_SUBJECTS, tested=["7", "8"], data=synthetic_data()
    )
    for subject in ("7", "8"):
        write_predictions(synthetic, "distilled-foot", subject, ["Treadmill", "Ramp"], samples=50)
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


def test_page_needs_no_network_and_no_other_file(report: Path) -> None:
    """It is sent by mail and opened on another machine, perhaps without a network."""
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["html"] == tags["body"] == tags["main"] == 1
    assert not {"script", "link", "iframe", "object", "base"} & set(tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert all(target.startswith("#") for target in page.values("href"))
    assert not re.search(r"url\(|@import|https?://", text)
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert str(report.parents[2]) not in text  # no path of the machine that wrote it


def test_page_shows_everything_and_runs_nothing(report: Path) -> None:
    """Numbers, figures, settings and versions belong together; names of runs are plain text."""
    page = Page(report.read_text(encoding="utf-8"))
    assert page.text.count(HOSTILE) >= 4  # a row in several tables, the file, the device
    for shown in ("SYNTHETIC DATA: the gait", "learning_rate", "alpha", "0.25", "9.9.9", "abc123"):
        assert shown in page.text
    figures = sorted(report.parent.glob("*/figures/*.png"))
    assert len(page.values("src")) == len(figures) > 6
    assert {p.stem for p in figures} > {"scatter-distilled-foot", f"learning_curves-{SCRIPT}"}
    assert all(page.values("alt"))
    numbers = pd.read_csv(report.parent / "A-paper-2" / "table_III.csv", index_col="row")
    assert f"{numbers.loc['student-foot', 'NRMSE % mean']:.2f} ± " in page.text
    ids, targets = page.values("id"), page.values("href")
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in targets} == set(ids)


@pytest.mark.parametrize("size", [(1366, 768), (390, 844)], ids=["laptop", "phone"])
def test_page_fits_the_screen(report: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """In a browser: nothing overflows sideways, all figures load, all links of the page lead on."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page was not opened in a browser")
    width, height = size
    wrapper = tmp_path / "wrapper.html"  # a window cannot be as narrow as a phone, but a frame can
    wrapper.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><pre id="result"></pre>
        <iframe id="frame" style="width: {width}px; height: {height}px; border: 0"
        srcdoc="{html.escape(report.read_text(encoding="utf-8"))}"></iframe>
        <script>onload = () => {{
            const page = frame.contentDocument, root = page.documentElement
            const tables = [...page.querySelectorAll(".scroll")]
            result.textContent = JSON.stringify({{
                width: frame.contentWindow.innerWidth,
                overflow: Math.max(root.scrollWidth, page.body.scrollWidth) - root.clientWidth,
                images: [...page.images].map((i) => i.complete && i.naturalWidth > 0),
                wide: [...page.images].filter((i) => i.width > root.clientWidth).length,
                lost: [...page.links].filter((a) => !page.getElementById(a.hash.slice(1))).length,
                scrolling: tables.some((t) => t.scrollWidth > t.clientWidth),
            }})
        }}</script>""",
        encoding="utf-8",
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, wrapper.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    result = json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout)[1]))
    assert result["width"] == width
    assert result["overflow"] == result["wide"] == result["lost"] == 0
    assert result["images"]
    assert all(result["images"])
    assert result["scrolling"]  # wide tables do exist, and scroll in a place of their own
