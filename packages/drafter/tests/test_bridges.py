"""Ways between vocabularies that are small enough to see through; `test_real_vocabularies` has real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import MERGES, OTHER_MERGES, byte_level, sentencepiece, vocabulary

from paceline.drafter.live_tree import ROOT as TREE_ROOT
from paceline.drafter.live_tree import LiveTree, Successors
from paceline.drafter.strategies.base import NUM_BINS, ROOT, Candidates
from paceline.drafter.vocabulary import BRIDGES, run_table
from paceline.drafter.vocabulary.base import Bridge
from paceline.drafter.vocabulary.choice import choose
from paceline.drafter.vocabulary.identity import Identity
from paceline.drafter.vocabulary.intersection import Intersection
from paceline.drafter.vocabulary.ngram_cache import NgramCache
from paceline.drafter.vocabulary.run_table import RunTable
from paceline.drafter.vocabulary.spelling import Spelled, Standing, bin_of, spell_tree
from paceline.drafter.vocabulary.string_exact import StringExact
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

TARGET = vocabulary(byte_level(specials=("<end>", "<turn>")))
DRAFT = vocabulary(byte_level(OTHER_MERGES, specials=("<s>", "<end>")))
PIECES = vocabulary(sentencepiece())
VOCABULARIES = [TARGET, DRAFT, PIECES]
TEXTS = st.text(alphabet=st.sampled_from(list("hello wrds\n'sé😀t12.")), max_size=40)


def grow(tree: LiveTree, parent: int, tokens: Sequence[int], claims: Sequence[float]) -> list[int]:
    """Makes these the children of a node."""
    logs = np.log(claims)
    tree.expand(parent, Successors(np.array(tokens, np.int64), logs, np.zeros(len(tokens)), logs, 1.0))
    return [tree.add(parent, rank) for rank in range(len(tokens))]


def chain(tokens: Sequence[int], claims: Sequence[float] | None = None) -> LiveTree:
    tree, node = LiveTree(), TREE_ROOT
    for index, token in enumerate(tokens):
        node = grow(tree, node, [token], [claims[index] if claims else 1.0])[0]
    return tree


def everything(tree: LiveTree) -> range:
    return range(1, len(tree) + 1)


def paths(candidates: Candidates) -> list[list[int]]:
    """Tokens from the root to each candidate."""
    found: list[list[int]] = []
    for token, parent in zip(candidates.tokens, candidates.parents, strict=True):
        found.append([*(found[parent] if parent != ROOT else []), token])
    return found


def texts(candidates: Candidates, of: TokenizerVocabulary) -> dict[str, float]:
    """Candidates as readable paths, with their confidences."""
    return {
        "|".join((of.bytes_of(token) or b"?").decode(errors="replace") for token in path): confidence
        for path, confidence in zip(paths(candidates), candidates.confidence, strict=True)
    }


def assert_valid(candidates: Candidates, target: TokenizerVocabulary) -> None:
    assert all(ROOT <= parent < node for node, parent in enumerate(candidates.parents))
    assert len(set(zip(candidates.parents, candidates.tokens, strict=True))) == len(candidates), "siblings differ"
    assert all(0.0 < confidence <= 1.0 for confidence in candidates.confidence)
    assert all(0 <= kind < NUM_BINS for kind in candidates.bins)
    assert all(target.bytes_of(token) is not None or target.special(token) is not None for token in candidates.tokens)


def proposed(kind: Any, before: Sequence[int], drafted: Sequence[int], target: TokenizerVocabulary) -> list[bytes]:
    """What becomes of a chain of draft tokens."""
    bridge: Bridge = kind.begin(before)
    tree = chain(drafted)
    candidates = bridge.translate(tree, everything(tree))
    assert_valid(candidates, target)
    assert candidates.parents == list(range(-1, len(candidates) - 1)), "a chain stays one"
    return [target.bytes_of(token) or (target.special(token) or "").encode() for token in candidates.tokens]


# Choosing


def test_auto_is_identity_for_the_same_content_and_string_exact_for_others() -> None:
    assert isinstance(choose(TARGET, vocabulary(byte_level(specials=("<end>", "<turn>")))), Identity)
    assert isinstance(choose(TARGET, DRAFT, "auto"), StringExact)


def test_a_bridge_can_be_named() -> None:
    for name, kind in BRIDGES.items():
        assert isinstance(choose(TARGET, TARGET, name), kind)


def test_an_unknown_bridge_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        PacelineError, match="auto or one of identity, string_exact, intersection, ngram_cache"
    ) as error:
        choose(TARGET, DRAFT, "rope")
    assert (error.value.reason, error.value.field) == (Reason.OUT_OF_RANGE, "bridge")


def test_what_cant_be_joined_is_refused_with_the_reason() -> None:
    with pytest.raises(PacelineError, match=r"identity can't join .* different meanings") as error:
        choose(TARGET, DRAFT, "identity")
    assert error.value.reason == Reason.VOCABULARY_MISMATCH
    words = {"type": "BPE", "vocab": {"<unk>": 0, "▁中": 1}, "merges": [], "unk_token": "<unk>"}
    with pytest.raises(PacelineError, match="no token in common"):
        choose(TARGET, vocabulary(sentencepiece(model=words, added_tokens=[])), "intersection")


# Trees


@st.composite
def trees(draw: st.DrawFn) -> tuple[LiveTree, list[int]]:
    """Small trees with claims that sum to at most 1, and which nodes are selected."""
    tree, nodes = LiveTree(), [TREE_ROOT]
    for _ in range(draw(st.integers(1, 5))):
        free = [node for node in nodes if tree.nodes[node].successors is None]
        claims = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3))
        scale = max(1.0, sum(claims))
        tokens = draw(st.permutations(range(4)))[: len(claims)]
        nodes += grow(tree, draw(st.sampled_from(free)), tokens, [claim / scale for claim in claims])
    selected: list[int] = []
    for node in nodes[1:]:
        if tree.nodes[node].parent in (TREE_ROOT, *selected) and draw(st.booleans()):
            selected.append(node)
    return tree, selected


@settings(deadline=None)
@given(tree_and_selected=trees(), table=st.dictionaries(st.tuples(*[st.integers(0, 3)] * 2), st.integers(10, 12)))
def test_a_candidate_is_worth_the_probability_of_all_ways_to_reach_it(
    tree_and_selected: tuple[LiveTree, list[int]], table: dict[tuple[int, int], int]
) -> None:
    """By enumeration: the text takes a selected child with its claim, or leaves the tree."""
    tree, selected = tree_and_selected

    def spell(tokens: Sequence[int]) -> Spelled:
        found, at = [], 0
        while at < len(tokens):
            pair = tuple(tokens[at : at + 2])
            found.append(table.get(pair, tokens[at]))  # type: ignore[arg-type]
            at += 2 if pair in table else 1
        return Spelled(found, len(found))

    worth: dict[tuple[int, ...], float] = {}
    stack = [(TREE_ROOT, 1.0)]
    while stack:
        node, probability = stack.pop()
        below = [child for child in tree.nodes[node].children if child in selected]
        leaves = probability * (1.0 - sum(math.exp(tree.nodes[child].claim) for child in below))
        path = tuple(spell(tree.tokens(node)).tokens)
        for end in range(1, len(path) + 1):
            worth[path[:end]] = worth.get(path[:end], 0.0) + leaves
        stack += [(child, probability * math.exp(tree.nodes[child].claim)) for child in below]

    candidates = spell_tree(tree, selected, spell)
    least = min((math.exp(tree.nodes[node].log_value) for node in selected), default=1.0)
    values: dict[tuple[int, ...], float] = {}
    for path, confidence in zip(map(tuple, paths(candidates)), candidates.confidence, strict=True):
        values[path] = confidence * values.get(path[:-1], 1.0)
        assert values[path] == pytest.approx(worth[path], rel=1e-4)
    assert set(values) >= {path for path, value in worth.items() if value > least * 1.01}
    assert set(values) <= {path for path, value in worth.items() if value > least * 0.99}


def test_in_a_chain_a_confidence_is_the_product_of_the_claims_consumed() -> None:
    tree = chain([1, 2, 3], [0.5, 0.8, 0.9])
    candidates = spell_tree(tree, [1, 2, 3], lambda tokens: Spelled([7, *tokens[2:]] if len(tokens) > 1 else [], 0))
    assert candidates.tokens == [7, 3]
    assert candidates.confidence == pytest.approx([0.4, 0.9])


def test_what_may_still_change_is_calibrated_apart() -> None:
    kinds = [bin_of(confidence, standing) for standing in Standing for confidence in (0.0, 0.5, 1.0)]
    assert sorted(set(kinds)) == kinds
    assert kinds[-1] < NUM_BINS


def test_hopeless_claims_raise_nothing() -> None:
    tree = LiveTree()
    tree.expand(TREE_ROOT, Successors(np.array([1, 2]), *[np.array([-np.inf, -2000.0])] * 3, 0.0))
    nodes = [tree.add(TREE_ROOT, 0), tree.add(TREE_ROOT, 1)]
    assert len(spell_tree(tree, nodes, lambda tokens: Spelled(tokens, 0))) == 0
    assert len(spell_tree(tree, [], lambda tokens: Spelled(tokens, 0))) == 0
    assert len(Identity(TARGET, TARGET).begin([1]).translate(tree, nodes)) == 0


# identity


def test_identity_changes_nothing_and_lets_special_tokens_pass() -> None:
    bridge = Identity(TARGET, TARGET).begin([1, 2])
    bridge.observe([3])
    end = TARGET.special_id("<end>")
    assert end is not None
    tree = LiveTree()
    first, _ = grow(tree, TREE_ROOT, [5, end], [0.6, 0.3])
    grow(tree, first, [6], [0.5])
    candidates = bridge.translate(tree, everything(tree))
    assert list(bridge.context) == [1, 2, 3]
    assert (candidates.tokens, candidates.parents) == ([5, end, 6], [ROOT, ROOT, 0])
    assert candidates.confidence == pytest.approx([0.6, 0.3, 0.5])
    assert bridge.noise_ids is not None
    assert bridge.noise_ids.tolist() == list(range(TARGET.size))
    assert bridge.allowed is None


def test_identity_never_proposes_what_stands_for_nothing() -> None:
    bridge = Identity(PIECES, PIECES).begin([])
    assert bridge.allowed is not None
    assert np.flatnonzero(~bridge.allowed).tolist() == [0], "unk"


# intersection


def test_intersection_maps_by_bytes_and_names() -> None:
    kind = Intersection(TARGET, DRAFT)
    for draft, target in enumerate(kind.noise_ids.tolist()):
        if target >= 0:
            assert TARGET.bytes_of(target) == DRAFT.bytes_of(draft)
            assert TARGET.special(target) == DRAFT.special(draft)
        else:
            assert TARGET.token_of(DRAFT.bytes_of(draft) or b"") is None
    assert kind.noise_ids.shape == kind.allowed.shape == (DRAFT.size,)
    assert (kind.allowed == (kind.noise_ids >= 0)).all()
    start = DRAFT.special_id("<s>")
    assert start is not None
    assert not kind.allowed[start], "the target has no such special token"


def test_intersection_proposes_up_to_the_first_token_that_is_not_shared() -> None:
    kind = Intersection(TARGET, DRAFT)
    drafted = DRAFT.encode(" wor") + DRAFT.encode("ld") + DRAFT.encode("lo") + DRAFT.encode("x")
    assert proposed(kind, TARGET.encode("x"), drafted, TARGET) == [b" wor", b"ld"]


def test_a_character_that_the_target_has_begun_is_gone_on_with() -> None:
    whole = DRAFT.encode("é")
    begun = TARGET.token_of(b"\xc3")
    assert begun is not None
    assert len(whole) == 1
    before = [*TARGET.encode("x"), begun]
    for name in ("intersection", "string_exact", "ngram_cache"):
        kind = BRIDGES[name](TARGET, DRAFT)
        assert list(kind.begin(before).context) == DRAFT.encode("x")
        assert proposed(kind, before, [*whole, *DRAFT.encode("s")], TARGET) == [b"\xa9", b"s"], name
        assert proposed(kind, before, DRAFT.encode("s"), TARGET) == [], "not what begins the character"


# string_exact


def test_a_draft_is_written_in_the_targets_own_tokens() -> None:
    kind = StringExact(TARGET, DRAFT)
    before = TARGET.encode("hello")
    assert proposed(kind, before, DRAFT.encode(" worlds the"), TARGET) == [b" world", b"s", b" ", b"the"]
    assert proposed(StringExact(TARGET, PIECES), before, PIECES.encode(" world"), TARGET) == [b" world"]
    assert proposed(StringExact(PIECES, TARGET), PIECES.encode("a"), TARGET.encode(" world"), PIECES) == [
        b" wor",
        b"l",
        b"d",
    ]


def test_committed_tokens_stand() -> None:
    """The target wrote "wor", though "world" would be one token: it goes on behind that."""
    kind = StringExact(TARGET, DRAFT)
    before = TARGET.encode("hello wor")
    assert TARGET.bytes_of(before[-1]) == b" wor"
    assert proposed(kind, before, DRAFT.encode("ld hello"), TARGET) == [b"ld", b" ", b"hello"]


def test_a_part_of_a_character_is_held_back() -> None:
    kind = StringExact(TARGET, DRAFT)
    half = DRAFT.token_of(b"\xc3")
    assert half is not None
    end = DRAFT.special_id("<end>")
    assert end is not None
    assert proposed(kind, TARGET.encode("x"), [*DRAFT.encode("the"), half], TARGET) == [b"the"]
    assert proposed(kind, TARGET.encode("x"), [*DRAFT.encode("the"), half, end], TARGET) == [b"the"], "nor what follows"


def test_special_tokens_pass_by_name_and_end_the_path_where_there_is_none() -> None:
    kind = StringExact(TARGET, DRAFT)
    end, start = DRAFT.special_id("<end>"), DRAFT.special_id("<s>")
    assert end is not None
    assert start is not None
    assert proposed(kind, [], [*DRAFT.encode("he"), end, *DRAFT.encode("ll")], TARGET) == [b"he", b"<end>", b"ll"]
    assert proposed(kind, [], [*DRAFT.encode("he"), start, *DRAFT.encode("ll")], TARGET) == [b"he"]
    assert proposed(kind, [], [*DRAFT.encode("he"), DRAFT.size + 5, *DRAFT.encode("ll")], TARGET) == [b"he"]


def test_ways_that_join_share_what_is_alike_and_the_rest_is_corrected() -> None:
    kind = StringExact(TARGET, DRAFT)
    tree = LiveTree()
    wor = grow(tree, TREE_ROOT, DRAFT.encode(" wor"), [0.8])[0]
    ld, _ = grow(tree, wor, [*DRAFT.encode("ld"), *DRAFT.encode("t")], [0.5, 0.25])
    grow(tree, ld, DRAFT.encode("s"), [0.5])
    found = texts(kind.begin(TARGET.encode("x")).translate(tree, everything(tree)), TARGET)
    assert found == pytest.approx(
        {" world": 0.4, " world|s": 0.5, " wor": 0.8 * (1 - 0.5), " wor|t": 0.2 / 0.4},
    )


def test_what_may_go_on_is_marked() -> None:
    bridge = StringExact(TARGET, DRAFT).begin([])
    for text, standing in (("the wor", Standing.IN_WORD), ("the\n\n", Standing.IN_BLANK)):
        tree = chain(DRAFT.encode(text))
        bins = bridge.translate(tree, everything(tree)).bins
        assert bins[0] == bin_of(1.0)
        assert bins[-1] == bin_of(1.0, standing)


@pytest.mark.parametrize("target", VOCABULARIES)
@pytest.mark.parametrize("draft", VOCABULARIES)
@pytest.mark.parametrize("name", ["string_exact", "intersection", "ngram_cache"])
@settings(max_examples=25, deadline=None)
@given(
    before=st.lists(st.integers(0, 300), max_size=12),
    drafted=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    text=TEXTS,
)
def test_whatever_is_committed_and_drafted_a_path_is_a_beginning_of_the_drafted_bytes(
    name: str, target: TokenizerVocabulary, draft: TokenizerVocabulary, before: list[int], drafted: list[int], text: str
) -> None:
    bridge = BRIDGES[name](target, draft).begin(target.encode(text))
    bridge.observe(before)
    tree = chain(drafted)
    candidates = bridge.translate(tree, everything(tree))
    assert_valid(candidates, target)
    held = b""
    for token in [*target.encode(text), *before]:
        meaning = target.bytes_of(token)
        held = held + meaning if meaning is not None else (b"" if target.special(token) is not None else held)
    held = _incomplete(held)
    written = b"".join(target.bytes_of(token) or (target.special(token) or "").encode() for token in candidates.tokens)
    said = b"".join(draft.bytes_of(token) or (draft.special(token) or "?").encode() for token in drafted)
    assert not candidates.tokens or said.startswith(held + written)


def _incomplete(data: bytes) -> bytes:
    for length in (3, 2, 1):
        end = data[-length:]
        if len(end) == length and end[0] >= 0xC0:
            try:
                end.decode()
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data" and error.start == 0:
                    return end
    return b""


# ngram_cache


def test_a_run_that_the_target_writes_as_one_token_is_learned_and_proposed() -> None:
    kind = NgramCache(TARGET, DRAFT)
    draft_hello = DRAFT.encode("hello")
    assert len(draft_hello) == 2, "hel, lo"
    assert proposed(kind, [], draft_hello, TARGET) == [], "the target has no such tokens"
    bridge = kind.begin(TARGET.encode("x."))
    assert bridge.allowed is not None
    assert not bridge.allowed[draft_hello].any()
    bridge.observe(TARGET.encode("hello"))
    assert len(kind.table) == 0, "what follows may change how the draft cuts it"
    bridge.observe(TARGET.encode("."))
    assert len(kind.table) == 1
    assert bridge.allowed[draft_hello].all(), "in place: sessions that run see it"
    assert proposed(kind, [], [*draft_hello, *DRAFT.encode(".")], TARGET) == [b"hello", b"."]


def test_runs_are_learned_only_between_common_cuts() -> None:
    kind = NgramCache(TARGET, DRAFT)
    bridge = kind.begin([])
    bridge.observe([*TARGET.encode(" the world"), *TARGET.encode("s hello.")])
    known = {
        (b"".join(DRAFT.bytes_of(token) or b"" for token in run), TARGET.bytes_of(token))
        for run, token in kind.table.runs()
    }
    assert known == {(b"hello", b"hello")}, "' the' is one token here and two there; ' worl' and 'ds' overlap 's'"


def test_what_runs_take_is_taken_off_their_first_token() -> None:
    """q'(d1) = q(d1) - sum of the products of all runs that begin with d1."""
    kind = NgramCache(TARGET, DRAFT)
    wor, ld, t = DRAFT.encode(" wor")[0], DRAFT.encode("ld")[0], DRAFT.encode("t")[0]
    kind.table.learn([wor, ld], TARGET.encode(" world")[0])
    tree = LiveTree()
    node = grow(tree, TREE_ROOT, [wor], [0.8])[0]
    grow(tree, node, [ld, t], [0.5, 0.25])
    found = texts(kind.begin([]).translate(tree, everything(tree)), TARGET)
    assert found == pytest.approx({" world": 0.4, " wor": 0.4, " wor|t": 0.5})


def test_the_table_is_bounded_and_the_least_recently_seen_run_leaves() -> None:
    direct = np.zeros(DRAFT.size, np.bool_)
    table = RunTable(TARGET, DRAFT, direct, max_runs=2)
    runs = [
        ([DRAFT.token_of(bytes([byte])) or 0 for byte in text], TARGET.token_of(text) or 0)
        for text in (b"he", b"ll", b"the")
    ]
    table.learn(*runs[0])
    table.learn(*runs[1])
    table.learn(*runs[0])
    table.learn(*runs[2])
    assert [run for run, _ in table.runs()] == [tuple(runs[0][0]), tuple(runs[2][0])]
    assert table.longest(runs[1][0], 0) is None
    left = {token for run, _ in table.runs() for token in run}
    assert set(np.flatnonzero(table.allowed).tolist()) == left


def test_a_run_with_other_bytes_is_not_learned() -> None:
    table = RunTable(TARGET, DRAFT, np.zeros(DRAFT.size, np.bool_))
    table.learn(DRAFT.encode("he") + DRAFT.encode("y"), TARGET.encode("hello")[0])
    table.learn([DRAFT.size + 1, 0], TARGET.encode("hello")[0])
    table.learn([0, 1], TARGET.special_id("<end>") or 0)
    assert len(table) == 0


def test_what_was_learned_is_kept_and_restored() -> None:
    kind = NgramCache(TARGET, DRAFT)
    kind.begin([]).observe(TARGET.encode("the hello. hello."))
    saved = kind.save()
    assert len(kind.table) > 0
    again = NgramCache(TARGET, DRAFT)
    again.restore(saved)
    assert again.save() == saved
    assert (again.table.allowed == kind.table.allowed).all()


def saved_with(**parts: Any) -> str:
    kind = NgramCache(TARGET, DRAFT)
    kind.begin([]).observe(TARGET.encode("hello."))
    return json.dumps(json.loads(kind.save()) | parts)


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        ("{", Reason.MALFORMED, "ngram_cache"),
        ("[" * 100_000, Reason.MALFORMED, "ngram_cache"),
        ("[]", Reason.MALFORMED, "ngram_cache.version"),
        (saved_with(version=2), Reason.MALFORMED, "ngram_cache.version"),
        (saved_with(target="0" * 64), Reason.VOCABULARY_MISMATCH, "ngram_cache.target"),
        (saved_with(draft=None), Reason.VOCABULARY_MISMATCH, "ngram_cache.draft"),
        (saved_with(runs={}), Reason.MALFORMED, "ngram_cache.runs"),
        (saved_with(runs=[[1, 2]]), Reason.MALFORMED, "ngram_cache.runs[0]"),
        (saved_with(runs=[[1] * 99]), Reason.MALFORMED, "ngram_cache.runs[0]"),
        (saved_with(runs=[[1, 2.0, 3]]), Reason.MALFORMED, "ngram_cache.runs[0]"),
        (saved_with(runs=[[1, -2, 3]]), Reason.MALFORMED, "ngram_cache.runs[0]"),
        (saved_with(runs=[[10**9, 10**9, 3]]), Reason.MALFORMED, "ngram_cache.runs[0]"),
        (saved_with(runs=[[1, 2, 3]]), Reason.MALFORMED, "ngram_cache.runs[0]"),
    ],
)
def test_a_kept_table_is_checked_and_adds_nothing_if_it_is_bad(content: str, reason: Reason, field: str) -> None:
    kind = NgramCache(TARGET, DRAFT)
    with pytest.raises(PacelineError) as error:
        kind.restore(content)
    assert (error.value.reason, error.value.field) == (reason, field)
    assert len(kind.table) == 0


def test_a_kept_table_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved_with()
    monkeypatch.setattr(run_table, "MAX_SAVED_CHARS", 10)
    with pytest.raises(PacelineError, match="at most 10"):
        NgramCache(TARGET, DRAFT).restore(content)


def test_merges_differ() -> None:
    """What the tests above rest on."""
    assert set(MERGES) != set(OTHER_MERGES)
    assert [DRAFT.bytes_of(token) for token in DRAFT.encode(" worlds the")] == [b" wor", b"lds", b" the"]
