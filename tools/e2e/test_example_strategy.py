"""The worked example of the drafter's README: whoever follows it has a strategy that drafts."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from paceline.drafter.strategies.base import Budget, Context, Sampling, ScopeBounds

README = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "packages" / "drafter" / "README.md"


def test_it_is_short_and_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = README.read_text().split("<!-- a test runs this -->\n```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 30
    (tmp_path / "bigram.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    strategy = importlib.import_module("bigram").Bigram(ScopeBounds(10, 0))
    tree = strategy.begin(Context([1, 2, 3, 1], 0, Sampling())).draft(Budget(8, 8))
    assert tree.tokens[:3] == [2, 3, 1]
    assert tree.parents[:3] == [-1, 0, 1]
