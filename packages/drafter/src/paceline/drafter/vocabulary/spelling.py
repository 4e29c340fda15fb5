"""A tree of draft tokens told in target tokens.

Each selected node is where the text may leave the tree: it goes on to the node, and then to nothing that was selected.
The probability of that is the node's own less its selected children's. The path to it is spelled in target tokens, and
that much is laid on each of them. So a target token is worth the sum over all ways on which it is reached; a way to
spell a draft token by itself is worth less by what longer runs take (OmniDraft's correction, arXiv 2507.02659); and
what several draft paths spell alike is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import NUM_BINS, ROOT, Candidates

_ROUNDING = 1e-6
_LEAST = 1e-12  # what is less likely is as good as impossible


class Standing(IntEnum):
    """Whether a target token stands as it is, the text going on as it may."""

    SETTLED = 0
    IN_WORD = 1  # the word may go on
    IN_BLANK = 2  # more spaces and line ends may follow, and what follows may take some of them


_SHARE = NUM_BINS // len(Standing)


@dataclass(frozen=True, slots=True)
class Spelled:
    """A path in target tokens. The last ones, from index `open_from` on, may change when the text goes on.

    Attributes:
        end: how those stand.
    """

    tokens: Sequence[int]
    open_from: int
    end: Standing = Standing.IN_WORD


Spell = Callable[[Sequence[int]], Spelled]


def spell_tree(tree: LiveTree, selected: Sequence[int], spell: Spell) -> Candidates:
    """Candidates for the selected nodes, parents first; `spell` is given the draft tokens from the root to a node.

    Candidates that are less likely than the least likely selected node are left out: nobody asked for them.
    """
    chosen = set(selected)
    worth = {node: math.exp(min(0.0, tree.nodes[node].log_value)) for node in selected}
    least = max(min(worth.values(), default=0.0) * (1.0 - _ROUNDING), _LEAST)
    spelled = _Spellings()
    for node in selected:
        below = sum(worth[child] for child in tree.nodes[node].children if child in chosen)
        if worth[node] - below > _ROUNDING * worth[node]:
            spelled.lay(spell(tree.tokens(node)), worth[node] - below)
    return spelled.candidates(least)


def bin_of(confidence: float, standing: Standing = Standing.SETTLED) -> int:
    """Guesses of like confidence are calibrated together; those that may change by what follows, apart."""
    return min(int(confidence * _SHARE), _SHARE - 1) + standing * _SHARE


class _Spellings:
    """Paths of target tokens that share their beginnings."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], int] = {}
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._worth: list[float] = []
        self._standing: list[Standing] = []

    def lay(self, path: Spelled, worth: float) -> None:
        at = ROOT
        for index, token in enumerate(path.tokens):
            place = self._places.get((at, token))
            if place is None:
                place = self._places[at, token] = len(self._tokens)
                self._tokens.append(token)
                self._parents.append(at)
                self._worth.append(0.0)
                self._standing.append(Standing.IN_BLANK)
            self._worth[place] += worth
            standing = path.end if index >= path.open_from else Standing.SETTLED
            self._standing[place] = min(self._standing[place], standing)
            at = place

    def candidates(self, least: float) -> Candidates:
        found = Candidates()
        places = {ROOT: ROOT}
        for place, (token, parent, worth) in enumerate(zip(self._tokens, self._parents, self._worth, strict=True)):
            if worth >= least:  # then so is its parent
                above = 1.0 if parent == ROOT else self._worth[parent]
                confidence = min(worth / above, 1.0)
                places[place] = found.add(token, places[parent], confidence, bin_of(confidence, self._standing[place]))
        return found
