"""Trees from matches: what followed the end of the context where it occurred before, in one text or several.

SAM Decoding (Hu et al. 2024), SuffixDecoding (Oliaro et al. 2024). Where the longest match continues in
several ways the tree branches by their counts; what that leaves open goes to shorter matches, as in
prediction by partial matching (Cleary and Witten 1984).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter
from typing import Any, Protocol

from paceline.drafter.automaton import BREAK
from paceline.drafter.strategies.base import ROOT, Budget, Candidates

# Acceptance of the continuation of the longest match, by its length, measured on greedy answers of a small
# chat model.
_MEASURED = ((0, 0.0), (1, 0.26), (2, 0.48), (3, 0.64), (4, 0.68), (6, 0.75), (8, 0.87), (16, 0.93))
MATCH_WINDOW = 24  # longer matches are no better: that many last tokens are looked up
MAX_LEVELS = 3  # match lengths looked at for one position, over all texts
MAX_BRANCHES = 4  # continuations taken from one match
MAX_SCANNED = 32  # continuations looked at; a match with more is a short one, and its first ones are its frequent ones
MIN_PATH_CONFIDENCE = 0.001  # a path less likely than this is not worth looking for, whatever room there is
NOVELTY = 0.25  # chance, in occurrences per further continuation seen, that something else follows


def _interpolated() -> list[float]:
    table = []
    for (low, at_low), (high, at_high) in pairwise(_MEASURED):
        table += [at_low + (at_high - at_low) * step / (high - low) for step in range(high - low)]
    return [*table, _MEASURED[-1][1]]


CONFIDENCE = _interpolated()  # [length], the last holds for longer ones too
LONGEST = len(CONFIDENCE) - 1
LENGTH_BIN = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7]  # [length], up to LONGEST
LENGTH_BINS = 8
SHARE_BINS = 5  # a node's calibration bin is that of its match's length times this plus that of its share


class Text(Protocol):
    """A text in which matches are found and followed. A state stands for the places where a match ends."""

    def followers(self, state: Any, max_followers: int) -> tuple[list[tuple[int, int]], int]:
        """The (count, token) of what followed there, and how many places there are, 0 if that isn't known."""

    def shorter(self, state: Any) -> tuple[Any, int]:
        """State and length of a shorter match with more places; length 0 if there is none."""

    def advance(self, state: Any, length: int, token: int) -> tuple[Any, int]:
        """The match after one more token; length 0 if there is none."""


View = tuple[Text, Any, int]  # a text, and the state and length of a match in it
match_length = itemgetter(2)

Following = Callable[[list[View], float], dict[int, tuple[float, int]]]
"""Tokens that may follow the matches, each with its probability and calibration bin; those below a probability may
be left out."""


def continuations(views: list[View], least: float) -> dict[int, tuple[float, int]]:
    """Tokens that followed the matches, each with its probability and calibration bin.

    The longest match has the first word: with the measured chance for its length, the next token is one
    that followed it, in proportion to the counts. What that leaves of the probability goes to shorter
    matches; if it is below `least` they are not asked, since no token that they add could reach that.
    """
    found: dict[int, tuple[float, int]] = {}
    levels = [view for view in views if view[2]]
    left = 1.0
    for _ in range(MAX_LEVELS):
        if not levels or left < least:
            break
        longest = max(levels, key=match_length)
        levels.remove(longest)
        text, state, length = longest
        certainty = CONFIDENCE[min(length, LONGEST)]
        if _add_level(found, text, state, length, left * certainty):
            left *= 1.0 - certainty
        shorter, shorter_length = text.shorter(state)
        if shorter_length:
            levels.append((text, shorter, shorter_length))
    return found


def _add_level(found: dict[int, tuple[float, int]], text: Text, state: Any, length: int, weight: float) -> bool:
    """Adds what followed one match; False if nothing did, because the text ends there."""
    followers, num_places = text.followers(state, MAX_SCANNED)
    if len(followers) > MAX_BRANCHES:
        followers.sort(reverse=True)
        del followers[MAX_BRANCHES:]
    # The number of places includes what was left out here, and is 0 where long matches are not counted.
    total = max(num_places, sum([times for times, _ in followers])) + NOVELTY * (len(followers) - 1)
    first_bin = LENGTH_BIN[min(length, LONGEST)] * SHARE_BINS
    for times, token in followers:
        share = times / total
        if token in found:
            probability, bin_index = found[token]
            found[token] = (probability + weight * share, bin_index)
        elif token != BREAK:
            found[token] = (weight * share, first_bin + min(int(share * SHARE_BINS), SHARE_BINS - 1))
    return bool(followers)


def grow_tree(views: list[View], budget: Budget, following: Following = continuations) -> Candidates:
    """The likeliest continuations of the matches, best first, at most budget.max_nodes of them."""
    tree = Candidates()
    # (-probability of the path, age, token, parent, depth, confidence, bin, matches before the token)
    heap: list[tuple[float, int, int, int, int, float, int, list[View]]] = []
    age = 0
    floor = budget.floor(MIN_PATH_CONFIDENCE)
    probability, parent, depth = 1.0, ROOT, 0
    while True:
        if depth < budget.max_depth:
            least = floor / probability
            for token, (confidence, bin_index) in following(views, least).items():
                if confidence >= least:
                    age += 1
                    path = -probability * confidence
                    heapq.heappush(heap, (path, age, token, parent, depth + 1, confidence, bin_index, views))
        if not heap or len(tree) == budget.max_nodes:
            return tree
        negative, _, token, parent, depth, confidence, bin_index, views = heapq.heappop(heap)
        probability = -negative
        parent = tree.add(token, parent, confidence, bin_index)
        views = [(text, *text.advance(state, length, token)) for text, state, length in views]
