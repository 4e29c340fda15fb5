"""All live candidates of one session, merged.

Drafters' trees meet here: the same token after the same context is one node, whoever proposed it. The root stands for
the last committed token; when tokens commit, the trie is re-rooted and what lies below the new root survives.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from paceline.wire.tree import ROOT, DraftTree

MAX_TRIE_NODES = 1024  # of a session


class Source(NamedTuple):
    """Who proposed a candidate."""

    drafter_id: str
    strategy: str


@dataclass(slots=True, eq=False)
class Node:
    """A candidate token. `proposals` maps each source to its claimed log-confidence given the parent."""

    token: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    proposals: dict[Source, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grafted:
    """What became of a tree: `stale` if it doesn't fit the committed tokens, `num_dropped` for lack of room."""

    stale: bool
    num_nodes: int = 0
    num_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A planned node: `parent` is its parent's index in the plan (`ROOT`: the trie's root), `value` the estimated
    probability that it commits."""

    node: Node
    parent: int
    value: float


class CandidateTrie:
    """Candidates below the last committed token.

    Args:
        max_nodes: room for that many; what doesn't fit is dropped and counted, since a slow step must not let a fast
            drafter fill the memory.
        max_drafter_nodes: of those, so many that one drafter was the first to propose, so that a fast one that
            talks nonsense leaves room for the others. 0 sets no such bound.
        admits: whether a path below the root, given as its tokens, may be text; one that may not is left out, with all
            that lies below.
    """

    def __init__(
        self, max_nodes: int = 1024, max_drafter_nodes: int = 0, admits: Callable[[Sequence[int]], bool] | None = None
    ) -> None:
        self.root = Node(token=-1, parent=None)
        self.num_nodes = 0
        self._max_nodes = max_nodes
        self._max_drafter_nodes = max_drafter_nodes or max_nodes
        self._num_first: Counter[str] = Counter()
        self._admits = admits

    def graft(self, tree: DraftTree, sources: Sequence[Source], committed: Sequence[int] = ()) -> Grafted:
        """Adds a tree.

        Args:
            tree: with bounds already checked (`paceline.wire.tree.decode_tree`).
            sources: the source of each strategy index.
            committed: tokens committed since the tree's anchor. If the tree contains them as a path, the rest is
                grafted below; if not, the tree is stale.
        """
        anchors = _descend(tree, committed)
        if not anchors:
            return Grafted(stale=True)
        placed: dict[int, Node] = dict.fromkeys(anchors, self.root)
        num_dropped = 0
        for index, parent_index in enumerate(tree.parents):
            parent = placed.get(parent_index)
            if parent is None:
                continue
            node = parent.children.get(tree.tokens[index])
            if node is None:
                if self._admits is not None and not self._admits((*self._path(parent), tree.tokens[index])):
                    continue
                drafter_id = sources[tree.strategy[index]].drafter_id
                if self.num_nodes >= self._max_nodes or self._num_first[drafter_id] >= self._max_drafter_nodes:
                    num_dropped += 1
                    continue
                node = Node(tree.tokens[index], parent)
                parent.children[node.token] = node
                self.num_nodes += 1
                self._num_first[drafter_id] += 1
            node.proposals[sources[tree.strategy[index]]] = tree.log_confidence[index]
            placed[index] = node
        return Grafted(False, len(placed) - len(anchors), num_dropped)

    def _path(self, node: Node) -> list[int]:
        """Tokens from below the root to this node."""
        tokens: list[int] = []
        while node is not self.root:
            assert node.parent is not None
            tokens.append(node.token)
            node = node.parent
        return tokens[::-1]

    def plan(
        self, probability: Callable[[Node], float], max_nodes: int, max_depth: int, min_value: float = 0.0
    ) -> list[Candidate]:
        """The `max_nodes` most valuable nodes that are worth `min_value` or more, parents first.

        A node's value is the product of the probabilities on its path, so no child is worth more than its parent and
        best-first search finds the best subtree of every size (OPT-Tree, EAGLE-2): each prefix of the list is one.
        """
        order = 0
        frontier: list[tuple[float, int, Node, int, int]] = []

        def push_children(parent: Node, parent_index: int, value: float, depth: int) -> None:
            nonlocal order
            weights = [(child, probability(child)) for child in parent.children.values()]
            # At most one of several siblings can be right.
            scale = value / max(1.0, sum(weight for _, weight in weights))
            for child, weight in weights:
                if weight * scale >= min_value:
                    heapq.heappush(frontier, (-weight * scale, order, child, parent_index, depth))
                    order += 1

        planned: list[Candidate] = []
        push_children(self.root, ROOT, 1.0, 1)
        while frontier and len(planned) < max_nodes:
            negative, _, node, parent_index, depth = heapq.heappop(frontier)
            planned.append(Candidate(node, parent_index, -negative))
            if depth < max_depth:
                push_children(node, len(planned) - 1, -negative, depth + 1)
        return planned

    def advance(self, tokens: Sequence[int]) -> None:
        """Tokens committed: what lies below them stays, the rest goes."""
        for token in tokens:
            child = self.root.children.get(token)
            if child is None:
                self.root = Node(token=token, parent=None)
                break
            child.parent = None
            self.root = child
        self._recount()

    def forget(self, drafter_id: str) -> None:
        """Removes what only this drafter proposed (it was disengaged, or can't be trusted)."""
        for node in list(self.nodes()):
            for source in [source for source in node.proposals if source.drafter_id == drafter_id]:
                del node.proposals[source]
        _prune(self.root)
        self._recount()

    def _recount(self) -> None:
        self._num_first = Counter(next(iter(node.proposals)).drafter_id for node in self.nodes())
        self.num_nodes = self._num_first.total()

    def nodes(self) -> Iterator[Node]:
        """Every candidate, parents before children."""
        pending = list(self.root.children.values())
        while pending:
            node = pending.pop()
            yield node
            pending.extend(node.children.values())


def _prune(root: Node) -> None:
    """Drops every node without proposals, and so its descendants: nobody stands for the path to them any more."""
    pending = [root]
    while pending:
        node = pending.pop()
        for token in [token for token, child in node.children.items() if not child.proposals]:
            del node.children[token]
        pending.extend(node.children.values())


def _descend(tree: DraftTree, committed: Sequence[int]) -> set[int]:
    """Indices of the tree's nodes at the end of the path `committed`: `ROOT` if that is empty, none if it isn't there,
    several if the tree says the same more than once."""
    at = {ROOT}
    for token in committed:
        at = {i for i in range(len(tree)) if tree.parents[i] in at and tree.tokens[i] == token}
        if not at:
            break
    return at
