"""A tree of draft tokens that grows while a model thinks, in the drafter's own vocabulary.

Node 0 is the root: the end of the context. A node is *expanded* when the model has said what may follow it; only then
it can have children. Tree policies decide which nodes to expand next, stopping rules which are not worth it.
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
        claim: logarithm of the probability that it is right given that its parent is.
        log_value: sum of the claims on its path.
        log_q: sum of the model's own log-probabilities on its path.
        row: where a model's cache holds it, -1 while it is not expanded.
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


class LiveTree:
    """Nodes by index, parents before children. Indices hold until `reroot`."""

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
        self.nodes[index].successors = successors

    def add(self, parent: int, rank: int) -> int:
        """Makes the successor with that rank of an expanded node a node, if it isn't one; returns its index."""
        above = self.nodes[parent]
        for child in above.children:
            if self.nodes[child].rank == rank:
                return child
        successors = above.successors
        assert successors is not None, "only an expanded node has successors"
        claim, log_q = float(successors.claims[rank]), float(successors.log_q[rank])
        node = LiveNode(
            token=int(successors.tokens[rank]),
            parent=parent,
            depth=above.depth + 1,
            rank=rank,
            claim=claim,
            log_value=above.log_value + claim,
            log_q=above.log_q + log_q,
        )
        self.nodes.append(node)
        above.children.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

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
        """The text went on to that node: what lies below it stays, with depths and values counted from there."""
        places: dict[int, int] = {index: ROOT}
        top = self.nodes[index]
        kept = [top]
        for place, node in enumerate(self.nodes):
            if place != index and node.parent in places and place > index:
                places[place] = len(kept)
                kept.append(node)
        depth, log_value, log_q = top.depth, top.log_value, top.log_q
        for node in kept:
            node.parent = places.get(node.parent, -1)
            node.children = [places[child] for child in node.children]
            node.depth -= depth
            node.log_value -= log_value
            node.log_q -= log_q
        top.parent = -1
        self.nodes = kept
