"""Trees of strategies that know nothing of the request's noise, corrected by it (`shared_noise`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.drafter.shared_noise import claims
from paceline.drafter.strategies.base import ROOT, Candidates, Sampling
from paceline.wire.noise import gumbel


def coupled(tree: Candidates, sampling: Sampling, length: int) -> Candidates:
    """The tree with claims as they are when the noise is known; the same tree at temperature 0.

    For trees of strategies whose `couples` is True, after their calibration.

    Args:
        length: of the context, in tokens: a child of it stands at that position.
    """
    if sampling.temperature == 0.0 or not len(tree):
        return tree
    siblings: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents):
        siblings.setdefault(parent, []).append(node)
    noise = _noise_of(tree, sampling.seed, length)
    confidence = list(tree.confidence)
    for nodes in siblings.values():
        claimed = claims([confidence[node] for node in nodes], [noise[node] for node in nodes])
        for node, claim in zip(nodes, claimed, strict=True):
            confidence[node] = claim
    return Candidates(tree.tokens, tree.parents, confidence, tree.bins)


def _noise_of(tree: Candidates, seed: int, length: int) -> list[float]:
    """Each node's noise; one call for all nodes of a depth."""
    depths: list[int] = []
    levels: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents):
        depths.append(0 if parent == ROOT else depths[parent] + 1)
        levels.setdefault(depths[-1], []).append(node)
    noise: npt.NDArray[np.float64] = np.empty(len(tree))
    tokens = np.array(tree.tokens, dtype=np.int64)
    for depth, nodes in levels.items():
        noise[nodes] = gumbel(seed, length + depth, tokens[nodes])
    return noise.tolist()
