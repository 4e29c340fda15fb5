"""Stopping rule `cost`: thinks on as long as that makes tokens come faster, by the times that were measured.

With known acceptance the best draft length is given by a threshold (SpecDec++, Huang et al. 2024); here the threshold
follows from the times. A forward pass below a node of depth d and path value v gives about g = v^(1 + 1/d) tokens more:
the next one is taken to be as likely as those before it were on average. With A, 1 and the values of the tree's nodes
added up, a step of `step_s` brings A tokens, and each is worth step_s / A. So expand if

    g · step_s / A > price · draft_s

`step_s` is measured from commit to commit, drafting included if the verifier waits for it. Lengths and times then
settle where tokens come fastest, or within a few per cent of that. Of use wherever claims can be trusted, and most
where drafting is dear. A pass that expands several nodes is charged to each: side branches must be worth it alone.
"""

from __future__ import annotations

import math

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times


class Cost:
    """Never stops while one of the times is unknown.

    Args:
        price: how much of a forward pass counts, above 0; ValueError otherwise. Below 1 where drafting costs less than
            its time, because the verifier doesn't wait for it; above 1 where the drafter's machine is wanted by others.
    """

    def __init__(self, price: float = 1.0) -> None:
        if not 0 < price < math.inf:
            raise ValueError(f"stopping rule cost: the price must be a number above 0, but is {price!r}")
        self._price = price

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        if not are_known(times):
            return False
        it = tree.nodes[node]
        tokens = sum([math.exp(other.log_value) for other in tree.nodes])  # the root's 1 is the token after the draft
        gain = gained(math.exp(it.log_value), it.depth)
        return gain * times.step_s <= self._price * times.draft_s * tokens

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """Learns nothing: claims are what calibration makes of them, and times are measured elsewhere."""


def are_known(times: Times) -> bool:
    return times.draft_s > 0 and times.step_s > 0


def gained(value: float, depth: int) -> float:
    """Tokens to expect of a forward pass below a node, if the next is as likely as those above it on average."""
    return value ** (1 + 1 / depth)
