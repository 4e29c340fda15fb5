"""What must be true of every `LanguageModel`, whatever runs it. Tests of each runtime call these."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_lms import (
    LENGTH,
    VOCAB,
    Tree,
    chain_rows,
    close,
    filled,
    fresh,
    random_tokens,
    random_tree,
    tree_rows,
)

from paceline.drafter.models.base import LanguageModel, Rows
from paceline.wire.errors import PacelineError, Reason

CONTEXT = random_tokens(40, 1)


def branches_score_as_paths_alone(model: LanguageModel, tree: Tree, within: float = 1e-4) -> None:
    scores = model.score([tree_rows(filled(model, CONTEXT), tree)])[0]
    for node in range(len(tree.tokens)):
        path = [tree.tokens[above] for above in tree.path(node)]
        assert close(scores[node], fresh(model, CONTEXT + path)[-1], within), node


def a_batch_scores_as_its_sessions_alone(model: LanguageModel, within: float = 1e-4) -> None:
    contexts = [CONTEXT, CONTEXT[:3], random_tokens(70, 2)]
    trees = [random_tree(size, seed) for seed, size in enumerate((9, 1, 4))]
    caches = [filled(model, context) for context in contexts]
    new = model.new_cache()  # a session that begins while others are at work
    begun = [chain_rows(new, CONTEXT[:5], (4, 0))]
    together = model.score([*(tree_rows(cache, tree) for cache, tree in zip(caches, trees, strict=True)), *begun])
    for context, tree, scores in zip(contexts, trees, together, strict=False):
        alone = model.score([tree_rows(filled(model, context), tree)])[0]
        assert scores.shape == (len(tree.tokens), VOCAB)
        assert close(scores, alone, within)
    assert close(together[3], fresh(model, CONTEXT[:5])[[4, 0]], within)
    assert [len(cache) for cache in [*caches, new]] == [49, 4, 74, 5]


def what_is_kept_is_as_if_run_afresh(model: LanguageModel, within: float = 1e-4) -> None:
    """After a commit along one path, then after another cut."""
    tree = random_tree(12, 5)
    cache = filled(model, CONTEXT)
    model.score([tree_rows(cache, tree)])
    path = tree.path(max(range(12), key=lambda node: len(tree.path(node))))
    assert path != list(range(len(path))), "rows must move"
    cache.keep([*range(len(CONTEXT)), *(len(CONTEXT) + node for node in path)])
    text = CONTEXT + [tree.tokens[node] for node in path]
    assert len(cache) == len(text)
    more = random_tokens(30, 6)  # beyond windows, and beyond the room that a cache has at first
    assert close(model.score([chain_rows(cache, more)])[0], fresh(model, text + more)[len(text) :], within)
    cache.keep(range(30))
    assert close(model.score([chain_rows(cache, more)])[0], fresh(model, text[:30] + more)[30:], within)
    cache.keep([])
    assert close(model.score([chain_rows(cache, more)])[0], fresh(model, more), within)


def a_text_in_pieces_is_the_text(model: LanguageModel, within: float = 1e-4) -> None:
    """To be called with few rows allowed at once."""
    texts = [random_tokens(33, 7), random_tokens(20, 8)]
    caches = [model.new_cache() for _ in texts]
    for wanted in ((19, 0, 7), ()):
        rows = [chain_rows(cache, text, wanted) for cache, text in zip(caches, texts, strict=True)]
        scores = model.score(rows)
        assert [len(cache) for cache in caches] == [33, 20]
        for text, found in zip(texts, scores, strict=True):
            assert close(found, fresh(model, text)[list(wanted)], within)
        for cache in caches:
            cache.keep(())


def bad_rows_are_refused(model: LanguageModel) -> None:
    """And change nothing."""
    cache = filled(model, CONTEXT)
    good = chain_rows(cache, [1, 2])
    one = np.array([1])
    blind = good.visible.copy()
    blind[1, 41] = False
    refused = [
        ([Rows(cache, np.array([1, VOCAB]), good.positions, good.visible, (0,))], Reason.OUT_OF_RANGE),
        ([Rows(cache, np.array([-1, 1]), good.positions, good.visible, (0,))], Reason.OUT_OF_RANGE),
        ([Rows(cache, good.tokens, np.array([40, LENGTH]), good.visible, (0,))], Reason.OUT_OF_RANGE),
        ([Rows(cache, good.tokens, good.positions, good.visible, (2,))], Reason.OUT_OF_RANGE),
        ([Rows(cache, good.tokens, good.positions, good.visible[:, 1:], (0,))], Reason.MALFORMED),
        ([Rows(cache, good.tokens, one, good.visible, (0,))], Reason.MALFORMED),
        ([Rows(cache, good.tokens, good.positions, blind, (0,))], Reason.MALFORMED),
        ([Rows(cache, one[:0], one[:0], good.visible[:0, :40], ())], Reason.MALFORMED),
        ([good, good], Reason.MALFORMED),
    ]
    for batch, reason in refused:
        with pytest.raises(PacelineError) as caught:
            model.score(batch)
        assert caught.value.reason == reason
    for rows in ([40], [-1], range(41)):
        with pytest.raises(PacelineError, match="rows is"):
            cache.keep(rows)
    assert len(cache) == len(CONTEXT)
    assert model.score([]) == []
    assert close(model.score([good])[0], fresh(model, [*CONTEXT, 1, 2])[-2:], 1e-3)
