"""Stopping rule `acceptance_head`: learns how likely tokens are to be accepted, and stops when one is likely refused.

SpecDec++ (Huang et al. 2024): with f the estimated acceptance of each token on a path, stop when 1 - Π f > γ. Its head
reads the draft model's hidden states and is trained beforehand; this one reads what a tree tells of a token, so it
fits any model, and is trained while it serves, as OmniDraft (Ramakrishnan et al. 2025) does:

    f = sigmoid(logit(claim) - log w + weights · features)

The loss is binary cross-entropy in which refused tokens weigh w = 6 times as much, as with the authors, because most
tokens are accepted and going on below a wrong one is what costs. That makes the best f lower than the acceptance a,
a / (a + w(1 - a)), and where it starts, with weights of 0, is that for a = claim. Of use where claims are off in ways
that depend on depth, rank or entropy. Every step is bounded, so whatever it is told the weights stay finite.
"""

from __future__ import annotations

import math

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times, drawn_from

REFUSED_WEIGHT = 6.0
RATE = 0.02
MAX_WEIGHT = 16.0
_SURE = (-16.0, -1e-6)  # claims beyond these are as good as these
_SCALE = 8.0  # nats, or ranks, that make a feature 1; features are cut there


class AcceptanceHead:
    """One logistic regression for all sessions, by stochastic gradient descent with a constant rate: the past fades.

    Args:
        most: γ in [0, 1]; ValueError otherwise. Since f is weighted, 0.7 is not as bold as it looks: drafts are 2
            tokens long where each is 80% sure, 3 where 90%, 5 where 95%.
    """

    def __init__(self, most: float = 0.7) -> None:
        if not 0 <= most <= 1:
            raise ValueError(f"stopping rule acceptance_head: the threshold must be in [0, 1], but is {most!r}")
        self._most = most
        self._weights = [0.0] * NUM_FEATURES

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        accepted = 1.0
        for on_path in tree.path(node):
            accepted *= self.estimate(tree, on_path)
        return 1.0 - accepted > self._most

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """One step down the gradient of the weighted cross-entropy."""
        estimate = self.estimate(tree, node)
        slope = estimate - 1.0 if right else REFUSED_WEIGHT * estimate
        for index, value in enumerate(features(tree, node)):
            self._weights[index] = _bounded(self._weights[index] - RATE * slope * value, -MAX_WEIGHT, MAX_WEIGHT)

    def estimate(self, tree: LiveTree, node: int) -> float:
        """f, in [0, 1]."""
        claim = _bounded(tree.nodes[node].claim, *_SURE)
        score = claim - math.log(-math.expm1(claim)) - math.log(REFUSED_WEIGHT)
        for weight, value in zip(self._weights, features(tree, node), strict=True):
            score += weight * value
        # Of two equal forms the one whose exponential can't overflow.
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else math.exp(score) / (1.0 + math.exp(score))


NUM_FEATURES = 7


def features(tree: LiveTree, node: int) -> tuple[float, ...]:
    """What is known of a node [NUM_FEATURES], each in [-1, 1]; the first is always 1.

    They are log_q, claim, entropy, depth, rank, and by how much the model prefers it to the next successor.
    """
    it = tree.nodes[node]
    successors = drawn_from(tree, node)
    log_q = float(successors.log_q[it.rank])
    following = float(successors.log_q[it.rank + 1]) if it.rank + 1 < len(successors) else -math.inf
    return (
        1.0,
        _scaled(log_q),
        _scaled(it.claim),
        _scaled(successors.entropy),
        _scaled(it.depth),
        _scaled(it.rank),
        _scaled(log_q - following if log_q > -math.inf else 0.0),
    )


def _scaled(value: float) -> float:
    return _bounded(value / _SCALE, -1.0, 1.0)


def _bounded(value: float, least: float, most: float) -> float:
    return min(max(least, value), most)
