"""Tree policy `static`: the same tree of ranks for every context.

Medusa (Cai et al. 2024) and Token Recycling (Luo et al. 2024) choose such a tree once, from how often a guess of each
rank is right. Of use as a baseline, and for models whose claims say little: it never looks at them, but for leaving
out what is worth nothing.

The template holds the ranks that would be worth most if acceptance were the same everywhere: `TOP_ACCEPTANCE` for the
best successor, and for the others, of what that leaves, `MISSED / rank`. With the latter fitted to what was measured of
recycled successors (.40 .09 .05 .03 .02, which it gives as .40 .09 .045 .03 .023). A node's worth is the product over
its path, so best-first search finds the best template of every size, and each is the beginning of the next. Only where
`shape.width` keeps a node from having children is the choice greedy. The height of `TOP_ACCEPTANCE` matters little: of
the tokens expected of the best template for .4 or .8, where that is true, templates of 16 to 64 nodes made for .6 have
96% or more.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import can_expand, last_depth, log_floor

TOP_ACCEPTANCE = 0.6
MISSED = 0.15

Template = tuple[tuple[int, int], ...]


def acceptance(rank: int, top: float = TOP_ACCEPTANCE) -> float:
    """How often the successor with that rank is right, given that its parent is."""
    return top if rank == 0 else (1 - top) * MISSED / rank


@lru_cache(maxsize=64)
def template(width: int, depth: int, num_nodes: int, top: float = TOP_ACCEPTANCE) -> Template:
    """(parent, rank) of each node, the most valuable first; 0 is the root, which is left out, 1 the first of these.

    Ranks are below `width`, and at most `width` nodes of each depth below the root have children.
    """
    nodes: list[tuple[int, int]] = []
    parents: dict[int, set[int]] = {level: set() for level in range(depth)}
    # (-value, when it was thought of, value of the parent, parent, rank, depth)
    heap = [(-acceptance(0, top), 0, 1.0, 0, 0, 1)] if width > 0 and depth > 0 else []
    num_seen = 1
    while heap and len(nodes) < num_nodes:
        negative, _, above, parent, rank, level = heapq.heappop(heap)
        families = parents[level - 1]
        if parent not in families and len(families) == width:
            continue  # its siblings come after it, and go with it
        families.add(parent)
        nodes.append((parent, rank))
        if rank + 1 < width:
            sibling = -above * acceptance(rank + 1, top)
            heapq.heappush(heap, (sibling, num_seen, above, parent, rank + 1, level))
        if level < depth:
            heapq.heappush(heap, (negative * acceptance(0, top), num_seen + 1, -negative, len(nodes), 0, level + 1))
        num_seen += 2
    return tuple(nodes)


class Static:
    """The template's nodes. A larger budget takes more of the template."""

    draws: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        plan = self._template(budget)
        parents = {parent for parent, _ in plan}
        wanted = [
            node
            for place, node in _placed(tree, plan, budget).items()
            if place in parents and can_expand(tree, node, budget)
        ]
        shallowest = min((tree.nodes[node].depth for node in wanted), default=0)
        return [node for node in wanted if tree.nodes[node].depth == shallowest]

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return list(_placed(tree, self._template(budget), budget).values())[1:]

    def _template(self, budget: Budget) -> Template:
        return template(self._shape.width, last_depth(self._shape, budget), budget.max_nodes)


def _placed(tree: LiveTree, plan: Template, budget: Budget) -> dict[int, int]:
    """Nodes of the tree by their place in the template, as far as their parents are expanded; the root has place 0."""
    least = log_floor(budget)
    placed = {0: ROOT}
    for place, (parent, rank) in enumerate(plan, start=1):
        above = placed.get(parent)
        if above is None:
            continue
        successors = tree.nodes[above].successors
        if successors is None or rank >= len(successors):
            continue
        node = tree.add(above, rank)
        if tree.nodes[node].log_value >= least:
            placed[place] = node
    return placed
