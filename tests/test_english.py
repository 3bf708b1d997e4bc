"""Phrases that sound translated do not come back, in pages, help, messages and comments."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMPOUNDS = "batch|data|epoch|loop|loss|method|procedure|run|sequence|set|step|subject|window"
PATTERNS = {  # what was found in earlier texts -> what to write instead
    rf"\b(a|an)( \w+)? training\b(?! ({COMPOUNDS}))": "a training run; training (no article)",
    r"\btrainings\b": "training runs",
    r"\bpredict(s|ed|ing)? (a|the|your|this) (recording|subject|person|data|file)\b": (
        "estimate moments and forces for a recording; run a network on it"
    ),
    r"\b(late by|how late|are late|is late)\b": "has a latency of; lags by",
    r"\bone sample after another\b": "one sample at a time; sample by sample",
    r"\bbeside\b": "next to; in addition to; off (the plates)",
    r"\breplac(e|es|ing) (?:[^\s.;:|]+ ){1,6}?by\b": "replace X with Y",
    r"\banew\b": "again; from scratch",
    r"\b(say|says|said|saying) so\b|\bis said on\b": "prints a message; reports",
    r"\bnames the (place|remedy|reason)\b": "says what is wrong and how to fix it",
    r"\b(mend|mends|mended|mending|remedy|remedies)\b": "fix",
    r"\bsuppl(y|ies|ying)\b": "provide",
    r"\b(moves no number|does to the numbers)\b": "does not change any result",
    r"\bthis collection\b": "this repository",
    r"\bnaive\b": "student (no distillation)",
    r"\b(of one's own|file of your own)\b": "user-supplied; your own file",
    r"\bstands for all\b": "a reserved name",
    r"\bwhom the data show\b": "participants and activities",
    r"\bdied for good\b": "could not be recovered",
    r"\bnot like that\b": "state the condition",
    r"\b(normalisation|initialis|standardis|behaviour|colour|centred?\b|grey\b|licence)": (
        "American spelling"
    ),
}
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.txt"), ROOT / "CITATION.cff"]
FOLDERS = ("beyond", "common", "synthetic_gait", "tests", "tools")
CODE = [*ROOT.glob("*.py"), *(path for name in FOLDERS for path in ROOT.glob(f"{name}/**/*.py"))]


def texts_of_code(source: str) -> Iterator[str]:
    """Yield strings and comments; those that follow each other, such as lines, are one text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    relevant = (token for token in tokens if token.type not in (tokenize.NL, tokenize.NEWLINE))
    for kind, group in itertools.groupby(relevant, key=lambda token: token.type):
        if kind in (tokenize.STRING, tokenize.COMMENT):
            yield plain(" ".join(token.string for token in group))


def plain(text: str) -> str:
    """Return text without quotation marks, comment signs, emphasis and line breaks."""
    return " ".join(re.sub(r"[\"#*_]", "", text).split())


CONTENT = {
    path: path.read_text(encoding="utf-8") for path in [*PAGES, *CODE] if path != Path(__file__)
}
PLAIN = {path: plain(content) for path, content in CONTENT.items()}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_phrase_does_not_come_back(pattern: str) -> None:
    """Users would read pages and messages that sound translated."""
    found = [
        f"{path.relative_to(ROOT)}: ...{text[max(m.start() - 40, 0) : m.end() + 40]}..."
        for path, content in CONTENT.items()
        if re.search(pattern, PLAIN[path], re.IGNORECASE)  # fast
        for text in (texts_of_code(content) if path.suffix == ".py" else [PLAIN[path]])
        for m in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, f"instead: {PATTERNS[pattern]}"
