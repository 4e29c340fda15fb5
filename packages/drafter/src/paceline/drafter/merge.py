"""Merging the trees of several strategies into one.

Strategies that fail on different text are worth more together than the best of them alone, as long as their
confidences mean the same (`calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paceline.drafter.strategies.base import ROOT, Budget, Candidates
from paceline.wire.tree import DraftTree


def merge(trees: Sequence[Candidates], budget: Budget, first_strategy: int = 0) -> DraftTree:
    """The budget's best nodes of all trees together; a node's strategy is first_strategy + the index of its tree.

    The same token under the same parent is one node, with the greatest of its confidences (strategies that
    read the same text do not err independently, so their confidences are not combined as if they did). A node
    is worth the product of the confidences on its path, and is never worth more than its parent: so the best
    nodes form a tree, and so do those that are worth the budget's least value.
    """
    union, strategies = _union(trees, budget.max_depth)
    worth: list[float] = []
    for parent, confidence in zip(union.parents, union.confidence, strict=True):
        worth.append(confidence if parent == ROOT else worth[parent] * confidence)
    # The sort is stable and parents come first, so a child never goes before a parent of equal worth.
    eligible = [node for node, value in enumerate(worth) if value >= budget.least_value]
    best = sorted(eligible, key=worth.__getitem__, reverse=True)[: budget.max_nodes]
    places = {ROOT: ROOT} | {node: place for place, node in enumerate(best)}
    return DraftTree(
        tokens=tuple([union.tokens[node] for node in best]),
        parents=tuple([places[union.parents[node]] for node in best]),
        log_confidence=tuple([math.log(union.confidence[node]) for node in best]),
        strategy=tuple([first_strategy + strategies[node] for node in best]),
    )


def _union(trees: Sequence[Candidates], max_depth: int) -> tuple[Candidates, list[int]]:
    """One tree with all nodes down to max_depth, and for each the index of the tree that trusts it most."""
    union = Candidates()
    strategies: list[int] = []
    depths = {ROOT: 0}
    seen: dict[tuple[int, int], int] = {}
    for strategy, tree in enumerate(trees):
        places: dict[int, int] = {ROOT: ROOT}  # where each node of this tree went
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            above = places.get(parent)
            if above is None or depths[above] == max_depth:
                continue  # too deep, or below one that is
            confidence = tree.confidence[node]
            place = seen.get((above, token))
            if place is None:
                place = seen[above, token] = union.add(token, above, confidence, tree.bins[node])
                depths[place] = depths[above] + 1
                strategies.append(strategy)
            elif confidence > union.confidence[place]:
                union.confidence[place] = confidence
                strategies[place] = strategy
            places[node] = place
    return union, strategies
