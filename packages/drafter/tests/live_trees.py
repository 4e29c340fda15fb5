"""Trees to try policies and rules on: a model that is a hash of the path, and the loop that drives a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.drafter.live_tree import ROOT, LiveTree, Successors
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape, TreePolicy


def successors(
    probabilities: Sequence[float],
    claims: Sequence[float] | None = None,
    noise: Sequence[float] | None = None,
    entropy: float | None = None,
) -> Successors:
    """Tokens 0, 1, … with these probabilities, in the order in which they are eligible. Claims are probabilities, too,
    and the same ones by default.
    """
    q = np.array(probabilities, dtype=np.float64)
    noise_of = np.zeros(len(q)) if noise is None else np.array(noise, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_q = np.log(q)
        log_claims = log_q if claims is None else np.log(np.array(claims, dtype=np.float64))
    if entropy is None:
        entropy = -math.fsum(p * math.log(p) for p in probabilities if p > 0)
    order = np.argsort(-(log_q + noise_of), kind="stable")
    return Successors(order.astype(np.int64), log_q[order], noise_of[order], log_claims[order], entropy)


@dataclass(frozen=True)
class HashModel:
    """A distribution for every path of tokens, with claims that are not the probabilities, some of them 0 or equal."""

    seed: int
    vocab_size: int
    draws: bool = False

    def __call__(self, path: Sequence[int]) -> Successors:
        random = np.random.default_rng([self.seed, len(path), *path])
        size = int(random.integers(0, self.vocab_size + 1))  # a filter may leave few, or none
        if not size:
            return successors([])
        probabilities = random.dirichlet(np.ones(size))
        claims = np.round(random.dirichlet(np.ones(size)), 1)
        return successors(probabilities, claims, random.gumbel(size=size) if self.draws else None)


Model = Callable[[Sequence[int]], Successors]


def new_tree(model: Model) -> LiveTree:
    tree = LiveTree()
    tree.expand(ROOT, model([]))
    return tree


def drive(
    policy: TreePolicy,
    tree: LiveTree,
    shape: Shape,
    budget: Budget,
    model: Model,
    stops: Callable[[int], bool] = lambda node: False,
    before: Sequence[int] = (),
) -> int:
    """Grows a tree as a session does, and checks each node asked for; returns the number of forward passes.

    Args:
        stops: a stopping rule.
        before: tokens that were above the root before it became that, for the model.
    """
    passes = 0
    while wanted := policy.grow(tree, budget):
        passes += 1
        assert passes < shape.depth, "does not end"
        assert len(set(wanted)) == len(wanted) <= shape.width
        for node in wanted:
            it = tree.nodes[node]
            assert node != ROOT
            assert it.successors is None
            assert not it.closed
            assert it.depth < budget.max_depth
            assert math.exp(it.log_value) >= budget.least_value * (1 - 1e-12)
            if stops(node):
                tree.close(node)
            else:
                tree.expand(node, model([*before, *tree.tokens(node)]))
    return passes


def paths(tree: LiveTree, nodes: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tree.tokens(node)) for node in nodes]


def worth(tree: LiveTree, nodes: Sequence[int]) -> float:
    return math.fsum(math.exp(tree.nodes[node].log_value) for node in nodes)
