"""A tree of draft tokens that grows while a model thinks, in the drafter's own vocabulary.

Node 0 is the root: the end of the context. A node is *expanded* when the model has said what may follow it; only then
it can have children. Tree policies decide which nodes to expand next, stopping rules which are not worth it: those are
*closed*, and stay leaves until the text has moved on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

ROOT = 0


@dataclass(frozen=True, slots=True)
class Successors:
    """What a model says may follow a node; the most eligible first.

    At a temperature, or for a tree policy that draws, tokens are in the order of `log_q + noise`: the first is a
    sample, the first k are k samples without replacement (Gumbel-top-k). Else they are in the order of `log_q`.

    Attributes:
        tokens: ids in the drafter's vocabulary [k].
        log_q: natural logarithms of the model's probabilities after temperature and filters [k].
        noise: the shared Gumbel noise of each [k]; zeros where nothing is drawn.
        claims: logarithms of the probability that each is what the target says, given that the node is right [k].
        entropy: of the whole distribution, in nats.
    """

    tokens: npt.NDArray[np.int64]
    log_q: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    claims: npt.NDArray[np.float64]
    entropy: float

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class LiveNode:
    """A token that may come: `rank` among its parent's successors, `depth` 1 for a child of the root.

    Attributes:
        claim: logarithm of the probability that it is right given that its parent is; never above 0.
        log_value: sum of the claims on its path, so never above its parent's.
        log_q: sum of the model's own log-probabilities on its path.
        row: where a model's cache holds it, -1 while it is not expanded.
        closed: a stopping rule doesn't want it to be expanded.
    """

    token: int
    parent: int
    depth: int
    rank: int
    claim: float
    log_value: float
    log_q: float
    children: list[int] = field(default_factory=list)
    successors: Successors | None = None
    row: int = -1
    closed: bool = False


class LiveTree:
    """Nodes by index, parents before children: they are only ever appended. Indices hold until `reroot`."""

    def __init__(self) -> None:
        self.nodes: list[LiveNode] = [LiveNode(-1, -1, 0, 0, 0.0, 0.0, 0.0)]

    def __len__(self) -> int:
        """Nodes without the root."""
        return len(self.nodes) - 1

    @property
    def root(self) -> LiveNode:
        return self.nodes[ROOT]

    def expand(self, index: int, successors: Successors) -> None:
        """The model has said what may follow a node. It has no children yet: `add` makes them."""
        node = self.nodes[index]
        assert not node.children, "children are ranks of the successors that they were made of"
        node.successors = successors

    def close(self, index: int) -> None:
        """A stopping rule has spoken: tree policies leave the node a leaf."""
        self.nodes[index].closed = True

    def add(self, parent: int, rank: int) -> int:
        """Makes the successor with that rank of an expanded node a node, if it isn't one; returns its index."""
        return self.add_all(parent, (rank,))[0]

    def add_all(self, parent: int, ranks: Sequence[int]) -> list[int]:
        """`add` for several of a node's successors, in that order."""
        above = self.nodes[parent]
        known = {self.nodes[child].rank: child for child in above.children}
        if all(rank in known for rank in ranks):
            return [known[rank] for rank in ranks]
        successors = above.successors
        assert successors is not None, "only an expanded node has successors"
        tokens, log_q, claims = successors.tokens.tolist(), successors.log_q.tolist(), successors.claims.tolist()
        depth, log_value, above_log_q = above.depth + 1, above.log_value, above.log_q
        for rank in ranks:
            if rank not in known:
                claim = min(claims[rank], 0.0)  # rounding may leave a certainty a hair above 0
                known[rank] = len(self.nodes)
                above.children.append(len(self.nodes))
                value, path_log_q = log_value + claim, above_log_q + log_q[rank]
                self.nodes.append(LiveNode(tokens[rank], parent, depth, rank, claim, value, path_log_q))
        return [known[rank] for rank in ranks]

    def path(self, index: int) -> list[int]:
        """Indices from the child of the root down to the node; empty for the root."""
        found: list[int] = []
        while index != ROOT:
            found.append(index)
            index = self.nodes[index].parent
        return found[::-1]

    def tokens(self, index: int) -> list[int]:
        """Tokens from the root down to the node."""
        return [self.nodes[node].token for node in self.path(index)]

    def descend(self, tokens: Sequence[int]) -> int | None:
        """The node at the end of a path of tokens from the root; None if the tree hasn't got it."""
        at = ROOT
        for token in tokens:
            for child in self.nodes[at].children:
                if self.nodes[child].token == token:
                    at = child
                    break
            else:
                return None
        return at

    def reroot(self, index: int) -> None:
        """The text went on to that node: it is the root, and what lies below it stays, as if grown from there.

        Depths and sums are counted anew, in the order in which `add` would, so not even a path of impossible claims or
        a long chain of roots leaves a trace in them. Closed nodes open: a shorter path may be worth thinking on from.
        """
        places = {index: ROOT}
        kept = [self.nodes[index]]
        for place in range(index + 1, len(self.nodes)):
            node = self.nodes[place]
            if node.parent in places:
                places[place] = len(kept)
                kept.append(node)
        top = kept[ROOT]
        top.parent, top.depth, top.rank, top.claim, top.log_value, top.log_q = -1, 0, 0, 0.0, 0.0, 0.0
        for node in kept:
            node.closed = False
            node.children = [places[child] for child in node.children]
            if node is not top:
                node.parent = places[node.parent]
                self._measure(node, kept[node.parent])
        self.nodes = kept

    @staticmethod
    def _measure(node: LiveNode, above: LiveNode) -> None:
        successors = above.successors
        assert successors is not None, "a parent is expanded"
        node.depth = above.depth + 1
        node.log_value = above.log_value + node.claim
        node.log_q = above.log_q + float(successors.log_q[node.rank])
