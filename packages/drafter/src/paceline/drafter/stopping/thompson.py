"""Stopping rule `thompson`: keeps count of what was accepted, and acts on a draw from what the counts leave open.

EESD (Liu et al. 2024, *Speculative Decoding via Early-exiting with Thompson Sampling Control Mechanism*) holds a Beta
posterior of the acceptance of draft tokens. Drawing from it, instead of taking its mean, makes the rule try longer
drafts now and then while it knows little, and hardly ever once it knows. Here there is a posterior for each tenth of
claimed probability, Beta(s·c + right, s·(1 - c) + wrong), where c is the claim and s how many observations it is worth.
Of use for a model whose claims have not been calibrated, such as a new one.

With θ drawn for each kind of claim, a node's value v is the product over its path. Once times are known, thinking on
pays as in the rule `cost`, with A counted on the path alone; until then, if it promises `least` tokens more.
"""

from __future__ import annotations

import math

import numpy as np

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times
from paceline.drafter.stopping.cost import are_known, gained

NUM_KINDS = 10
PRIOR_STRENGTH = 2.0  # observations that a claim is worth before there are any
MAX_COUNT = 512.0  # beyond this both counts of a kind are halved: what was true long ago fades
_KEY = 0x7061_6365_6C69_6E65  # any number will do; with it and what it was told, a rule's decisions are determined


class Thompson:
    """Draws come from a counter-based generator of its own.

    Args:
        least: tokens that a forward pass must promise while times are unknown, in [0, 1]; ValueError otherwise.
    """

    def __init__(self, least: float = 0.2) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"stopping rule thompson: the threshold must be in [0, 1], but is {least!r}")
        self._least = least
        self._right = [PRIOR_STRENGTH * (kind + 0.5) / NUM_KINDS for kind in range(NUM_KINDS)]
        self._wrong = [PRIOR_STRENGTH * (NUM_KINDS - kind - 0.5) / NUM_KINDS for kind in range(NUM_KINDS)]
        self._generator = np.random.Generator(np.random.Philox(key=_KEY))

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        drawn: dict[int, float] = {}
        value, tokens = 1.0, 1.0
        for on_path in tree.path(node):
            kind = _kind(tree, on_path)
            if kind not in drawn:
                drawn[kind] = float(self._generator.beta(self._right[kind], self._wrong[kind]))
            value *= drawn[kind]
            tokens += value
        gain = gained(value, tree.nodes[node].depth)
        return gain * times.step_s <= times.draft_s * tokens if are_known(times) else gain < self._least

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """Counts it."""
        kind = _kind(tree, node)
        counts = self._right if right else self._wrong
        counts[kind] += 1.0
        if self._right[kind] + self._wrong[kind] > MAX_COUNT:
            self._right[kind] /= 2
            self._wrong[kind] /= 2


def _kind(tree: LiveTree, node: int) -> int:
    return min(int(math.exp(tree.nodes[node].claim) * NUM_KINDS), NUM_KINDS - 1)
