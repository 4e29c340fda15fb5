"""What tests of strategies share: a session's context, its commits, and trees as paths."""

from __future__ import annotations

import numpy as np

from paceline.drafter.strategies.base import ROOT, Candidates, Commit, Context, Sampling, TopK


def context(tokens: list[int], prompt_tokens: int | None = None, sampling: Sampling | None = None) -> Context:
    return Context(list(tokens), len(tokens) if prompt_tokens is None else prompt_tokens, sampling or Sampling())


def commit(tokens: list[int], rows: dict[int, list[int]] | None = None) -> Commit:
    top_k = None
    if rows:
        top_k = TopK(np.array(list(rows)), np.array(list(rows.values())))
    return Commit(session_id=1, tokens=tuple(tokens), length=0, digest=0, top_k=top_k)


def paths(tree: Candidates) -> dict[tuple[int, ...], float]:
    """Each node's path of tokens, and the product of its confidences."""
    found: list[tuple[tuple[int, ...], float]] = []
    for token, parent, confidence in zip(tree.tokens, tree.parents, tree.confidence, strict=True):
        above, worth = ((), 1.0) if parent == ROOT else found[parent]
        found.append(((*above, token), worth * confidence))
    assert len(dict(found)) == len(found), "the same token twice under one parent"
    return dict(found)
