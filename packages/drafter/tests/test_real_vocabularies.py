"""Laws of vocabularies and bridges over tokenizers of real models."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_vocabularies import MAKERS, real_vocabulary

from paceline.drafter.live_tree import ROOT as TREE_ROOT
from paceline.drafter.live_tree import LiveTree, Successors
from paceline.drafter.strategies.base import ROOT
from paceline.drafter.vocabulary import BRIDGES
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.drafter.vocabulary.choice import choose
from paceline.drafter.vocabulary.identity import Identity
from paceline.drafter.vocabulary.retokenizer import Retokenizer
from paceline.drafter.vocabulary.string_exact import StringExact
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

TARGET = "smollm2"
FOREIGN = [name for name in MAKERS if name != TARGET]
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What tokenizers cut differently; mixed with anything.
TRICKY = (
    " the| don't|we'll|I'D| 12,345.67|naïve|e\u0301|中文字符|かな|한국어|русский|العربية|हिन्दी|🇫🇷|ﬁ|"
    "▁x|Ġy|<0x41>|</s>|helloWorld|URLParser|==>|def f(self):|\n\n|\n    return x\n|  |\t|\r\n|"
    "\0|\ufffd|\u00a0|\u200b|\U0001f469\u200d\U0001f467"
)
SNIPPETS = st.sampled_from([*TRICKY.split("|"), "<|im_end|>"])
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(SNIPPETS | st.text(ANY, max_size=6), max_size=14).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[bytes]:
    """A text in parts that may end within characters."""
    data = draw(TEXTS).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


@pytest.mark.parametrize("name", MAKERS)
@few
@given(text=TEXTS)
def test_bytes_in_are_bytes_out(name: str, text: str) -> None:
    of = real_vocabulary(name)
    tokens = of.encode(text)
    assert b"".join(of.bytes_of(token) or b"" for token in tokens) == _sayable(of, text.encode())
    pieces = of.pieces(text)
    assert "".join(piece.text for piece in pieces) == text
    assert [token for piece in pieces for token in piece.tokens] == tokens
    assert [token for piece in pieces for token in of.encode(piece.text)] == tokens, "pieces depend on nothing outside"


@pytest.mark.parametrize("name", MAKERS)
@few
@given(parts=cut_texts(), end=st.binary(max_size=3))
def test_text_that_grows_has_the_tokens_of_the_whole(name: str, parts: list[bytes], end: bytes) -> None:
    of = real_vocabulary(name)
    growing, whole = Retokenizer(of), Retokenizer(of)
    for part in (*parts, end):
        growing.append(part)
    whole.append(b"".join(parts) + end)
    assert (growing.tokens, growing.held) == (whole.tokens, whole.held)
    written = b"".join(of.bytes_of(token) or b"" for token in growing.tokens)
    assert written + growing.held == _sayable(of, b"".join(parts) + end)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("bridge", ["string_exact", "intersection", "ngram_cache"])
@few
@given(parts=cut_texts(), coming=TEXTS, seed=st.integers(0, 1 << 16))
def test_translated_trees_are_valid_and_their_paths_begin_drafted_bytes(
    name: str, bridge: str, parts: list[bytes], coming: str, seed: int
) -> None:
    """The target's context may end within a character; the draft goes on with what is left of it, or with nonsense."""
    target, draft = real_vocabulary(TARGET), real_vocabulary(name)
    committed = [token for part in parts for token in _spelled(part)]
    session = _kind(bridge, name).begin(committed[: len(committed) // 2])
    session.observe(committed[len(committed) // 2 :])
    text = Retokenizer(draft)
    text.append(_sayable(target, b"".join(parts)))
    tree = _tree(draft.encode(coming)[:12], draft.size, seed)
    candidates = session.translate(tree, range(1, len(tree) + 1))
    assert all(ROOT <= parent < node for node, parent in enumerate(candidates.parents))
    assert all(0.0 < confidence <= 1.0 for confidence in candidates.confidence)
    drafted = [
        b"".join(draft.bytes_of(token) or (draft.special(token) or "?").encode() for token in tree.tokens(node))
        for node in range(1, len(tree) + 1)
    ]
    written: list[bytes] = []
    for token, parent in zip(candidates.tokens, candidates.parents, strict=True):
        meaning = target.bytes_of(token)
        if meaning is None:
            assert draft.special_id(target.special(token) or "") is not None, "only mapped special tokens"
            meaning = (target.special(token) or "").encode()
        written.append((written[parent] if parent != ROOT else text.held) + meaning)
        assert any(path.startswith(written[-1]) for path in drafted)


@pytest.mark.parametrize("name", FOREIGN)
@few
@given(text=TEXTS, coming=TEXTS)
def test_what_the_target_would_encode_at_once_is_proposed_as_it_would(name: str, text: str, coming: str) -> None:
    target, draft = real_vocabulary(TARGET), real_vocabulary(name)
    whole, before = target.encode(text + coming), target.encode(text)
    if whole[: len(before)] != before or _sayable(target, coming.encode()) != coming.encode():
        return  # committed tokens stand; there is no saying what the target would do
    tree = _tree(draft.encode(coming), draft.size, None)
    candidates = StringExact(target, draft).begin(before).translate(tree, range(1, len(tree) + 1))
    assert candidates.tokens == whole[len(before) :]


def test_auto_chooses_identity_for_the_same_tokenizer_only() -> None:
    target = real_vocabulary(TARGET)
    assert isinstance(choose(target, target), Identity)
    for name in FOREIGN:
        assert isinstance(choose(target, real_vocabulary(name)), StringExact)
        assert real_vocabulary(name).content_hash != target.content_hash


@cache
def _kind(bridge: str, name: str) -> BridgeKind:
    return BRIDGES[bridge](real_vocabulary(TARGET), real_vocabulary(name))


def _sayable(of: TokenizerVocabulary, data: bytes) -> bytes:
    """Without bytes that the vocabulary has no token for: SmolLM2 lacks those that only rare planes of Unicode use."""
    return bytes(byte for byte in data if of.token_of(bytes([byte])) is not None)


def _spelled(data: bytes) -> list[int]:
    """Target tokens for any bytes."""
    target = real_vocabulary(TARGET)
    text = Retokenizer(target)
    text.append(data)
    rest = [target.token_of(bytes([byte])) for byte in text.held]
    return [*text.tokens, *(token for token in rest if token is not None)]


def _tree(tokens: list[int], size: int, seed: int | None) -> LiveTree:
    """A chain of these tokens; with a seed, each has two siblings that are anything."""
    rng = np.random.default_rng(seed)
    tree, node = LiveTree(), TREE_ROOT
    for token in tokens:
        others = [] if seed is None else [other for other in rng.integers(0, size, 2).tolist() if other != token]
        row = np.array([token, *dict.fromkeys(others)], np.int64)
        claims = np.log(np.array([0.9, 0.07, 0.03])[: len(row)]) if seed is not None else np.zeros(1)
        tree.expand(node, Successors(row, claims, np.zeros(len(row)), claims, 0.5))
        nodes = [tree.add(node, rank) for rank in range(len(row))]
        node = nodes[0]
    return tree
