"""A feature head run by ONNX Runtime, against the same function in numpy."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_heads import (
    CARD_OF_HEAD,
    CARD_OF_LM,
    CARD_THAT_BORROWS,
    FEATURES,
    IDS,
    LENGTH,
    TOKENIZER_HASH,
    VOCAB,
    WEIGHTS,
    WIDTH,
    Array,
    head_alone,
    save_head,
)

from paceline.drafter.models import onnx_lm
from paceline.drafter.models.base import KVCache, Rows
from paceline.drafter.models.feature_head import FeatureHead, load_feature_head
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard, card_json
from paceline.wire.revision_folder import CARD, FUSE, GRAPH, VOCABULARY, open_revision, seal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("made") / "head")


@pytest.fixture(scope="module")
def head(folder: Path) -> FeatureHead:
    model = load_feature_head(folder).model
    assert isinstance(model, FeatureHead)
    return model


def text(count: int, seed: int) -> tuple[list[int], Array]:
    """Tokens, of which some are any other, and the target's features before each."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, VOCAB + 1, count).tolist(), chance.standard_normal((count, FEATURES)).astype(np.float32)


def text_rows(cache: KVCache, tokens: Sequence[int], features: Array, wanted: tuple[int, ...] | None = None) -> Rows:
    held, count = len(cache), len(tokens)
    seen = np.tri(count, held + count, held, dtype=bool)
    wanted = tuple(range(count)) if wanted is None else wanted
    return Rows(cache, np.array(tokens), np.arange(held, held + count), seen, wanted, features)


def drafted_rows(cache: KVCache, tokens: Sequence[int], above: Sequence[int], paths: Sequence[Sequence[int]]) -> Rows:
    """Rows told by those above them; paths: the cached rows that each sees."""
    held, count = len(cache), len(tokens)
    seen = np.zeros((count, held + count), bool)
    for index, path in enumerate(paths):
        seen[index, [*path, held + index]] = True
    positions = np.array([len(path) for path in paths])
    return Rows(cache, np.array(tokens), positions, seen, tuple(range(count)), above=np.array(above))


def test_a_loaded_head_says_what_it_is_and_what_it_needs(folder: Path):
    loaded = load_feature_head(folder)
    assert loaded.needs is not None
    assert (loaded.needs.layers, loaded.needs.hidden_size, loaded.needs.window) == ((2, 5), 3, 0)
    assert loaded.cut is not None
    assert loaded.cut.ids.tolist() == IDS.tolist()
    assert loaded.cut.tokenizer_hash == TOKENIZER_HASH
    assert (loaded.name, loaded.tokenizer_json, loaded.model.max_length) == ("tiny", "", LENGTH)


def test_a_text_is_told_by_the_target(head: FeatureHead):
    tokens, features = text(20, 0)
    scores = head.score([text_rows(head.new_cache(), tokens, features)])[0]
    np.testing.assert_allclose(scores, head_alone(tokens, features), rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 1000), size=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_branches_score_as_paths_alone(head: FeatureHead, seed: int, size: int):
    """A tree that grows in several passes, each row told the state of the one above."""
    chance = random.Random(seed)
    tokens, features = text(10, seed)
    cache = head.new_cache()
    head.score([text_rows(cache, tokens, features, ())])
    nodes: list[tuple[list[int], list[int]]] = [(list(range(10)), [])]  # cached rows and drafted tokens down to a node
    while size > 0:
        count = min(size, chance.randrange(1, 4))
        size -= count
        above = [chance.choice(nodes) for _ in range(count)]
        new = [chance.randrange(VOCAB) for _ in range(count)]
        first = len(cache)
        rows = drafted_rows(cache, new, [path[-1] for path, _ in above], [path for path, _ in above])
        scores = head.score([rows])[0]
        for index, ((path, drafted), token) in enumerate(zip(above, new, strict=True)):
            expected = head_alone([*tokens, *drafted, token], features, len(drafted) + 1)[-1]
            np.testing.assert_allclose(scores[index], expected, rtol=1e-3, atol=1e-3)
            nodes.append(([*path, first + index], [*drafted, token]))


def test_a_batch_scores_as_its_sessions_alone(head: FeatureHead):
    """Some are told by the target and some by themselves, and one begins."""
    texts = [text(12, 1), text(5, 2), text(40, 3)]
    caches = [head.new_cache() for _ in texts]
    for cache, (tokens, features) in zip(caches[:2], texts[:2], strict=True):
        head.score([text_rows(cache, tokens, features, ())])
    goes_on = text(3, 4)
    batch = [
        drafted_rows(caches[0], [7, 8], [11, 11], [range(12), range(12)]),
        text_rows(caches[1], *goes_on),
        text_rows(caches[2], *texts[2], (39,)),
    ]
    together = head.score(batch)
    both = ([*texts[1][0], *goes_on[0]], np.concatenate([texts[1][1], goes_on[1]]))
    for index, token in enumerate((7, 8)):
        expected = head_alone([*texts[0][0], token], texts[0][1], 1)[-1]
        np.testing.assert_allclose(together[0][index], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(together[1], head_alone(*both)[-3:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(together[2], head_alone(*texts[2])[-1:], rtol=1e-3, atol=1e-3)


def test_what_is_kept_keeps_its_state(head: FeatureHead):
    tokens, features = text(8, 5)
    cache = head.new_cache()
    head.score([text_rows(cache, tokens, features, ())])
    head.score([drafted_rows(cache, [1, 2], [7, 7], [range(8), range(8)])])
    cache.keep([*range(8), 9])  # of two branches the second
    scores = head.score([drafted_rows(cache, [3], [8], [range(9)])])[0]
    np.testing.assert_allclose(scores[0], head_alone([*tokens, 2, 3], features, 2)[-1], rtol=1e-3, atol=1e-3)


def test_a_text_in_pieces_is_the_text(head: FeatureHead, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_lm, "MAX_ROWS", 7)
    tokens, features = text(30, 6)
    cache = head.new_cache()
    scores = head.score([text_rows(cache, tokens, features)])[0]
    np.testing.assert_allclose(scores, head_alone(tokens, features), rtol=1e-4, atol=1e-4)
    branches = drafted_rows(cache, [1] * 10, [*range(10)], [range(row + 1) for row in range(10)])
    scores = head.score([branches])[0]
    for row in range(10):
        expected = head_alone([*tokens[: row + 1], 1], features, 1)[-1]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def borrower(tmp_path_factory: pytest.TempPathFactory) -> FeatureHead:
    loaded = load_feature_head(save_head(tmp_path_factory.mktemp("made") / "head", CARD_THAT_BORROWS))
    assert loaded.needs is not None
    assert (loaded.needs.layers, loaded.needs.num_embedded) == ((0, 5), WIDTH)
    assert isinstance(loaded.model, FeatureHead)
    return loaded.model


def borrowing_text(count: int, num_borrowed: int, seed: int) -> tuple[list[int], Array, Array]:
    """Tokens, some of them borrowed; states before each; embeddings of what is borrowed."""
    chance = np.random.default_rng(seed)
    tokens = chance.integers(VOCAB - 5, VOCAB + 1 + num_borrowed, count).tolist()
    features, borrowed = (chance.standard_normal((size, WIDTH)).astype(np.float32) for size in (count, num_borrowed))
    return tokens, features, borrowed


@pytest.mark.parametrize("num_borrowed", [0, 1, 4])
def test_borrowed_tokens_are_read_and_scored(borrower: FeatureHead, num_borrowed: int):
    tokens, features, borrowed = borrowing_text(12, num_borrowed, 1)
    cache = borrower.new_cache()
    rows = dataclasses.replace(text_rows(cache, tokens, features), borrowed=borrowed)
    expected = head_alone(tokens, features, 0, borrowed)
    np.testing.assert_allclose(
        borrower.score([rows])[0], expected if num_borrowed else expected[:, :VOCAB], rtol=1e-4, atol=1e-4
    )
    drafted = [VOCAB + num_borrowed if num_borrowed else 2, 3]
    for depth, token in enumerate(drafted, 1):
        rows = drafted_rows(cache, [token], [len(cache) - 1], [range(len(cache))])
        scores = borrower.score([dataclasses.replace(rows, borrowed=borrowed)])[0][0]
        expected = head_alone([*tokens, *drafted[:depth]], features, depth, borrowed)[-1]
        np.testing.assert_allclose(scores, expected[: len(scores)], rtol=1e-3, atol=1e-3)


def test_sessions_in_a_batch_borrow_their_own(borrower: FeatureHead, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_lm, "MAX_ROWS", 7)  # and the longer ones come in pieces
    texts = [borrowing_text(12, 3, 2), borrowing_text(5, 1, 3), borrowing_text(9, 0, 4)]
    batch = [
        dataclasses.replace(text_rows(borrower.new_cache(), tokens, features), borrowed=borrowed)
        for tokens, features, borrowed in texts
    ]
    for scores, (tokens, features, borrowed) in zip(borrower.score(batch), texts, strict=True):
        expected = head_alone(tokens, features, 0, borrowed)
        if not len(borrowed):
            expected = expected[:, :VOCAB]
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


def test_what_was_not_borrowed_is_refused(borrower: FeatureHead):
    tokens, features, borrowed = borrowing_text(4, 2, 5)
    rows = dataclasses.replace(text_rows(borrower.new_cache(), tokens, features), borrowed=borrowed)
    for changes in ({"tokens": np.full(4, VOCAB + 3)}, {"tokens": np.full(4, VOCAB + 1), "borrowed": None}):
        with pytest.raises(PacelineError) as caught:
            borrower.score([dataclasses.replace(rows, **changes)])
        assert caught.value.reason == Reason.OUT_OF_RANGE


def test_bad_rows_are_refused(head: FeatureHead):
    tokens, features = text(4, 7)
    cache = head.new_cache()
    head.score([text_rows(cache, tokens, features, ())])
    good = text_rows(cache, tokens, features)
    for changes, reason in (
        ({"features": None}, Reason.MALFORMED),
        ({"features": features[:3]}, Reason.MALFORMED),
        ({"features": features[:, :-1]}, Reason.MALFORMED),
        ({"above": np.zeros(4, np.int64)}, Reason.MALFORMED),
        ({"features": None, "above": np.zeros(3, np.int64)}, Reason.MALFORMED),
        ({"features": None, "above": np.full(4, 4)}, Reason.OUT_OF_RANGE),
        ({"features": None, "above": np.full(4, -1)}, Reason.OUT_OF_RANGE),
        ({"tokens": np.full(4, VOCAB + 1)}, Reason.OUT_OF_RANGE),
    ):
        with pytest.raises(PacelineError) as caught:
            head.score([dataclasses.replace(good, **changes)])
        assert caught.value.reason == reason
    assert len(cache) == 4


def test_no_torch_is_needed(folder: Path):
    code = """
import sys
from pathlib import Path
from paceline.drafter.models.feature_head import load_feature_head
load_feature_head(Path(sys.argv[1]))
print([name for name in ("torch", "transformers", "onnx", "tokenizers") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# Folders that are wrong.


def refused(folder: Path, out: Path, change: Callable[[Path], object], load: Callable = load_feature_head) -> str:
    """Changes a new folder, and its manifest to match; returns why it is refused."""
    save_head(out)
    change(out)
    seal(out, open_revision(folder).manifest)
    with pytest.raises(PacelineError) as caught:
        load(out)
    assert caught.value.reason == Reason.UNUSABLE_REVISION
    return caught.value.message


@pytest.mark.parametrize(
    "changes",
    [{"width": 4}, {"target_hidden_size": 2}, {"feature_layers": (1,)}, {"num_layers": 2}, {"key_dim": 4}],
)
def test_a_card_that_is_wrong_about_its_graphs_is_refused(folder: Path, tmp_path: Path, changes: dict):
    card = card_json(dataclasses.replace(CARD_OF_HEAD, **changes))
    refused(folder, tmp_path / "odd", lambda out: (out / CARD).write_bytes(card))


@pytest.mark.parametrize("name", [GRAPH, FUSE, VOCABULARY])
def test_what_is_missing_or_no_graph_is_refused(folder: Path, tmp_path: Path, name: str):
    assert name in refused(folder, tmp_path / "without", lambda out: (out / name).unlink())
    refused(folder, tmp_path / "odd", lambda out: (out / name).write_bytes(b"\x08" * 100))


@pytest.mark.parametrize(("name", "weights"), [(GRAPH, "head"), (GRAPH, "to_value"), (FUSE, "fuse")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path, name: str, weights: str):
    def spoil(out: Path) -> None:
        graph = onnx.load(str(out / name))
        for part in graph.graph.initializer:
            if part.name == weights:
                part.CopyFrom(onnx.numpy_helper.from_array(WEIGHTS[weights] * np.float32(np.nan), weights))
        onnx.save(graph, str(out / name))

    assert "not finite" in refused(folder, tmp_path / "odd", spoil)


@pytest.mark.parametrize("ids", [[*IDS[:-1], IDS[0]], [*IDS[:-1], 1 << 21], IDS[:-1]])
def test_a_vocabulary_that_is_none_is_refused(folder: Path, tmp_path: Path, ids: Sequence[int]):
    content = np.array(ids, "<u4").tobytes()
    assert VOCABULARY in refused(folder, tmp_path / "odd", lambda out: (out / VOCABULARY).write_bytes(content))


def test_a_cut_vocabulary_of_nobody_knows_what_is_refused(tmp_path: Path):
    with pytest.raises(PacelineError, match="which tokenizer"):
        load_feature_head(save_head(tmp_path / "odd", tokenizer_hash=""))


def test_each_kind_of_revision_has_its_strategy(folder: Path, tmp_path: Path):
    with pytest.raises(PacelineError, match="feature_head"):
        load_onnx(folder)
    lm = save_head(tmp_path / "lm", CARD_OF_LM)
    with pytest.raises(PacelineError, match="onnx_lm"):
        load_feature_head(lm)


def test_a_language_model_may_have_a_cut_vocabulary(tmp_path: Path):
    loaded = load_onnx(save_head(tmp_path / "lm", CARD_OF_LM))
    assert loaded.cut is not None
    assert loaded.cut.size == VOCAB
    assert (loaded.tokenizer_json, loaded.needs) == ("", None)
    cache = loaded.model.new_cache()
    any_other = Rows(cache, np.array([VOCAB]), np.array([0]), np.ones((1, 1), bool), (0,))
    assert loaded.model.score([any_other])[0].shape == (1, VOCAB)
    assert not isinstance(loaded.model._card, FeatureHeadCard)  # type: ignore[attr-defined]
    assert type(CARD_OF_LM) is LanguageModelCard
