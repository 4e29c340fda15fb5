"""Links between pages lead somewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fences import outside_blocks
from pages import ROOT, all_pages, read

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
PAGES = all_pages()


def anchor_of(heading: str) -> str:
    """As GitHub makes them."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    found: set[str] = set()
    for heading in HEADING.findall(outside_blocks(read(page))):
        plain, number = anchor_of(heading), 0
        while (name := f"{plain}-{number}" if number else plain) in found:
            number += 1
        found.add(name)
    return found


def test_anchors_are_githubs() -> None:
    assert anchor_of("OpenAI's HTTP API") == "openais-http-api"
    assert anchor_of("`paceline-router serve`") == "paceline-router-serve"
    assert anchor_of("What is measured, and what isn't") == "what-is-measured-and-what-isnt"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in LINK.findall(outside_blocks(read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = Path(os.path.normpath(page.parent / name)) if name else page
        if not (ROOT / there).exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert not lost, f"{page}: {lost}"
