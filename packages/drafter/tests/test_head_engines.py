"""What runs a head: native code only where it is there and says what the graph says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_heads import save_head

from paceline.drafter.models import head_engines
from paceline.drafter.models.base import LoadedModel, Rows
from paceline.drafter.models.feature_head import FeatureHead
from paceline.drafter.models.head_engines import load_head
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.native.library import NoNativeCode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head whose weights are float32, so that native code can't run it."""
    return save_head(tmp_path_factory.mktemp("made") / "head")


class Other:
    """Says the same as a head, times a factor."""

    product = "vnni"

    def __init__(self, head: FeatureHead, factor: float) -> None:
        self._head = head
        self._factor = np.float32(factor)
        self.vocab_size, self.max_length = head.vocab_size, head.max_length
        self.new_cache = head.new_cache

    def score(self, batch: list[Rows]) -> list[np.ndarray]:
        return [logits * self._factor for logits in self._head.score(batch)]


def loaded_with(folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float, engine: str) -> LoadedModel:
    head = load_head(folder, engine="onnx").model
    assert isinstance(head, FeatureHead)
    monkeypatch.setattr(head_engines, "_native", lambda _folder, _threads: Other(head, factor))
    return load_head(folder, engine=engine)


def test_native_code_that_says_the_same_takes_over(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for engine in ("auto", "native"):
        loaded = loaded_with(folder, monkeypatch, 1.01, engine)
        assert isinstance(loaded.model, Other)
        assert loaded.needs is not None
        assert loaded.cut is not None


@pytest.mark.parametrize("factor", [1.2, -1.0, 0.0, np.nan, np.inf])
def test_native_code_that_says_something_else_is_not_used(folder: Path, monkeypatch, factor: float):
    assert isinstance(loaded_with(folder, monkeypatch, factor, "auto").model, FeatureHead)
    with pytest.raises(PacelineError, match="something else") as caught:
        loaded_with(folder, monkeypatch, factor, "native")
    assert caught.value.reason == Reason.UNUSABLE_REVISION


def test_where_there_is_none_the_graph_is_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(load_head(folder).model, FeatureHead)
    with pytest.raises(PacelineError, match="not in int8"):
        load_head(folder, engine="native")

    def nothing(*_: object) -> None:
        raise NoNativeCode("there is no C++ compiler")

    monkeypatch.setattr(head_engines, "_native", nothing)
    assert isinstance(load_head(folder).model, FeatureHead)
    with pytest.raises(PacelineError, match=r"no C\+\+ compiler.*--head-engine onnx"):
        load_head(folder, engine="native")
