"""A guide goes along texts and back, says what may follow, and gets over its own failures."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_documents import SCHEMAS, constraint_for, encoded, failing, guide_for
from tiny_models import EOS, VOCAB

from paceline.verifier.grammar.constraint import Constraint
from paceline.verifier.grammar.guide import one_line
from paceline.verifier.grammar.mask import allowed, num_words
from paceline.verifier.grammar.tree_masks import ROOT, TreeMasks
from paceline.wire.errors import PacelineError, Reason

DOCUMENTS = {
    "object": '{"name":"Füx","age":34,"happy":true}',
    "list of words": '["red","grün","blue"]',
    "one of two": '{ "b": null}',
}


def ids(mask: np.ndarray) -> set[int]:
    return set(np.flatnonzero(allowed(mask, VOCAB)).tolist())


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_document_may_follow_token_by_token_and_then_only_the_end(name):
    guide, tokens = guide_for(SCHEMAS[name]), encoded(DOCUMENTS[name])
    for token in tokens:
        mask = guide.mask()
        assert mask.shape == (num_words(VOCAB),)
        assert token in ids(mask)
        assert EOS not in ids(mask)
        guide.take([token])
    assert ids(guide.mask()) == {EOS}
    guide.take([EOS])
    assert guide.follows([EOS]) == 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_mask_is_exactly_what_may_follow(name):
    tokens = encoded(DOCUMENTS[name])
    for count in (0, 1, len(tokens) // 2, len(tokens) - 1, len(tokens)):
        guide = guide_for(SCHEMAS[name], tokens[:count])
        assert ids(guide.mask()) == {token for token in range(VOCAB) if guide.follows([token]) == 1}


def test_what_is_forbidden_is_refused_and_moves_nothing():
    guide, tokens = guide_for(SCHEMAS["object"]), encoded(DOCUMENTS["object"])
    guide.take(tokens[:3])
    before = guide.mask().copy()
    with pytest.raises(PacelineError) as caught:
        guide.take([*tokens[3:5], 5, 5])
    assert (caught.value.reason, caught.value.field) == (Reason.MALFORMED, "constraint.json_schema")
    assert np.array_equal(guide.mask(), before)
    guide.take(tokens[3:])


def test_tokens_behind_the_end_are_no_text_and_tokens_behind_a_whole_document_are_a_mistake():
    tokens = encoded(DOCUMENTS["object"])
    guide = guide_for(SCHEMAS["object"])
    guide.take([*tokens, EOS, 7, 8])
    assert ids(guide.mask()) == {EOS}
    with pytest.raises(PacelineError, match="token 7 can't follow"):
        guide_for(SCHEMAS["object"]).take([*tokens, 7])


@given(st.integers(0, 2**32), st.sampled_from(sorted(SCHEMAS)))
@settings(max_examples=30, deadline=None)
def test_a_tree_has_the_masks_of_its_paths_in_whatever_order_they_are_asked_for(seed, name):
    rng = random.Random(seed)
    tokens, parents, paths = [], [], []
    scout = guide_for(SCHEMAS[name])
    for node in range(12):
        parent = rng.randrange(-1, node)
        path = [] if parent == ROOT else paths[parent]
        if path and path[-1] == EOS:
            parent, path = ROOT, []
        token = rng.choice(sorted(ids(scout.mask(path))))
        tokens.append(token)
        parents.append(parent)
        paths.append([*path, token])
    lazily, at_once = (TreeMasks(guide_for(SCHEMAS[name]), tokens, parents) for _ in range(2))
    order = [ROOT, *range(12)]
    rng.shuffle(order)
    known = at_once.known()
    for node in order:
        expected = guide_for(SCHEMAS[name]).mask([] if node == ROOT else paths[node])
        assert np.array_equal(lazily.after(node), expected)
        assert np.array_equal(known[node], expected)
    end = max(paths, key=len)
    lazily.take(end)
    expected = guide_for(SCHEMAS[name], end)
    assert np.array_equal(TreeMasks(lazily._guide, (), ()).after(ROOT), expected.mask())


def test_candidates_are_cut_where_the_grammar_forbids_them_and_the_guide_that_decides_never_moves():
    constraint, tokens = constraint_for(SCHEMAS["object"]), encoded(DOCUMENTS["object"])
    before = constraint.masks((), ()).after(ROOT).copy()
    assert constraint.admits(tokens[:4])
    assert not constraint.admits([*tokens[:4], 5])
    assert not constraint.admits([*tokens, EOS, EOS])
    assert np.array_equal(constraint.masks((), ()).after(ROOT), before)
    constraint.take(tokens[:2])
    assert constraint.admits(tokens[2:6])
    assert not constraint.admits(tokens[:2])


def test_a_failure_along_a_candidate_is_that_candidates_alone():
    guide, tokens = failing(limit=4), encoded(DOCUMENTS["object"])
    guide.take(tokens[:2])
    masks = TreeMasks(guide, tokens[2:8], range(-1, 5))
    known = masks.known()
    assert sorted(known) == [ROOT, 0, 1]
    with pytest.raises(PacelineError) as caught:
        masks.after(2)
    error = caught.value
    assert (error.reason, error.field) == (Reason.OUT_OF_RANGE, "constraint.json_schema")
    assert "further than 2 tokens: ParserTooComplex; simplify it" in error.message
    masks.take(tokens[2:4])
    assert np.array_equal(guide.mask(), guide_for(SCHEMAS["object"], tokens[:4]).mask())


def test_a_constraint_whose_drafts_can_no_longer_be_followed_has_none():
    constraint, tokens = Constraint(failing(limit=3)), encoded(DOCUMENTS["object"])
    assert constraint.admits(tokens[:3])
    assert not constraint.admits(tokens[:4])
    assert constraint.admits(tokens[:2])
    constraint.take(tokens[:4])
    assert not constraint.admits(tokens[4:5])


def test_what_llguidance_says_is_told_in_one_short_line_without_its_state():
    assert one_line("Bad\n  thing \n<state>secret</state>") == "Bad thing"
    assert len(one_line("x " * 10_000)) <= 300
    assert one_line("") == "llguidance doesn't say why"
