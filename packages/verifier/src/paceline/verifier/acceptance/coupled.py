"""`coupled`: a candidate is accepted exactly when it is the token that plain decoding picks there.

Lossless against any drafter, and the output doesn't depend on the drafter at all (Daliri et al., *Coupling without
Communication and Drafter-Invariant Speculative Decoding*): the tree only decides how far one step gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROOT = -1


@dataclass(frozen=True, slots=True)
class Walk:
    """tokens: the accepted candidates and the target's own token after them; accepted: the nodes walked."""

    tokens: tuple[int, ...]
    accepted: tuple[int, ...]


def coupled(tokens: Sequence[int], parents: Sequence[int], pick: Callable[[int], int]) -> Walk:
    """Walks down a tree of candidates.

    Args:
        tokens: [n] candidates.
        parents: [n] index of each one's parent, `ROOT` for the anchor; parents come first.
        pick: the token that the target picks after node i (`ROOT`: after the anchor). Called once for each visited
            node, in order of depth.
    """
    children: dict[tuple[int, int], int] = {}
    for child, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        children.setdefault((parent, token), child)
    committed: list[int] = []
    accepted: list[int] = []
    node: int | None = ROOT
    while node is not None:
        token = pick(node)
        committed.append(token)
        node = children.get((node, token))
        if node is not None:
            accepted.append(node)
    return Walk(tuple(committed), tuple(accepted))
