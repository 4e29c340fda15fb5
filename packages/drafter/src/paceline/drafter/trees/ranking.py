"""What tree policies have in common: which nodes are worth anything, and which are worth most.

A node's value is the probability that it comes true, so a tree's nodes add up to the tokens that a verifier is expected
to accept of it. A child is never worth more than its parent: so the best n nodes are a tree, and of all trees of n
nodes none is worth more (OPT-Tree, Wang et al. 2024; EAGLE-2, Li et al. 2024).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape

# What is less likely than the smallest normal number has no logarithm worth sending: it never comes true.
_LEAST_LOG = math.log(sys.float_info.min)


def log_floor(budget: Budget) -> float:
    """The least `log_value` that a node may have."""
    return max(math.log(budget.least_value), _LEAST_LOG) if budget.least_value > 0 else _LEAST_LOG


def last_depth(shape: Shape, budget: Budget) -> int:
    """How deep a tree may be; nodes there are leaves."""
    return min(shape.depth, budget.max_depth)


def children(tree: LiveTree, node: int, num: int, budget: Budget) -> list[int]:
    """A node's first `num` successors as nodes, in their order, without those that are worth nothing.

    Empty if the node is not expanded.
    """
    above = tree.nodes[node]
    if above.successors is None:
        return []
    least, value = log_floor(budget), above.log_value
    claims = above.successors.claims[:num].tolist()
    return tree.add_all(node, [rank for rank, claim in enumerate(claims) if value + min(claim, 0.0) >= least])


def make_children(tree: LiveTree, node: int, num: int, budget: Budget) -> None:
    """Sees to it that a node's `children` are there; nothing to do if all its successors are."""
    above = tree.nodes[node]
    if above.successors is not None and len(above.children) < len(above.successors):
        children(tree, node, num, budget)


def best(tree: LiveTree, nodes: Iterable[int], num: int) -> list[int]:
    """The `num` most valuable of these nodes, best first; of equal ones those that were given first."""
    known = tree.nodes
    return sorted(nodes, key=lambda node: -known[node].log_value)[: max(num, 0)]


def can_expand(tree: LiveTree, node: int, budget: Budget) -> bool:
    """Neither expanded nor closed, and worth it."""
    it = tree.nodes[node]
    return it.successors is None and not it.closed and it.log_value >= log_floor(budget)


def worth_expanding(tree: LiveTree, layer: Iterable[int], width: int, budget: Budget) -> list[int]:
    """The `width` best of a layer, of these what can be expanded, and of that what would be selected as of now:
    children of other nodes never will be, since they are worth no more than their parent."""
    open_nodes = [node for node in best(tree, layer, width) if can_expand(tree, node, budget)]
    if not open_nodes:
        return []
    chosen = set(best_tree(tree, budget))
    return [node for node in open_nodes if node in chosen]


def best_tree(tree: LiveTree, budget: Budget) -> list[int]:
    """The most valuable tree within the budget, parents before children."""
    least = log_floor(budget)
    worthy = [
        index
        for index, node in enumerate(tree.nodes)
        if index != ROOT and node.depth <= budget.max_depth and node.log_value >= least
    ]
    # Stable, and parents have the lower index: a child never goes before a parent of equal value.
    return best(tree, worthy, budget.max_nodes)
