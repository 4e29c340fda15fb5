"""Strategy `suffix`: what followed the last few tokens before, in this session or earlier ones of its scope.

SAM Decoding (Hu et al. 2024), SuffixDecoding (Oliaro et al. 2024). Where the longest match continues in
several ways the tree branches by their counts; what that leaves open goes to shorter matches, as in
prediction by partial matching (Cleary and Witten 1984). Best where the answer repeats the prompt or itself:
code, summaries, extraction, agents.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import pairwise
from operator import itemgetter
from typing import ClassVar

from paceline.drafter.automaton import BREAK, ROOT, SuffixAutomaton
from paceline.drafter.strategies.base import ROOT as CONTEXT
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, ScopeBounds

# Acceptance of the continuation of the longest match, by its length, measured on greedy answers of a small
# chat model.
_MEASURED = ((0, 0.0), (1, 0.26), (2, 0.48), (3, 0.64), (4, 0.68), (6, 0.75), (8, 0.87), (16, 0.93))
MATCH_WINDOW = 24  # longer matches are no better: that many last tokens are looked up
MAX_LEVELS = 3  # match lengths looked at for one position, over all texts
MAX_BRANCHES = 4  # continuations taken from one match
MAX_SCANNED = 32  # continuations looked at; a match with more is a short one, and its first ones are its frequent ones
MIN_PATH_CONFIDENCE = 0.01  # a path less likely than this is not worth a row of the target's forward
NOVELTY = 0.25  # chance, in occurrences per further continuation seen, that something else follows

# Tokens indexed in one draft: of the session's own text, so that the first draft for a long prompt is not
# late, and of earlier sessions', so that the end of a session holds up no other.
OWN_PER_DRAFT = 1024
EARLIER_PER_DRAFT = 128


def _interpolated() -> list[float]:
    table = []
    for (low, at_low), (high, at_high) in pairwise(_MEASURED):
        table += [at_low + (at_high - at_low) * step / (high - low) for step in range(high - low)]
    return [*table, _MEASURED[-1][1]]


CONFIDENCE = _interpolated()  # [length], the last holds for longer ones too
_LONGEST = len(CONFIDENCE) - 1
_LENGTH_BIN = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7]  # [length], up to _LONGEST
_SHARE_BINS = 5

View = tuple[SuffixAutomaton, int, int]  # a text, and the state and length of a match in it
_match_length = itemgetter(2)


class Suffix:
    """The texts of one memory scope.

    What is remembered is two automata, young and old, and text that waits to be indexed. When the young one
    is full it becomes the old one, so the oldest text leaves without being taken out of an automaton, which
    can't be done.
    """

    commit_top_k: ClassVar[int] = 0

    def __init__(self, bounds: ScopeBounds) -> None:
        self._max_part = bounds.max_tokens // 3  # of each of the three
        self._young = SuffixAutomaton()
        self._old = SuffixAutomaton()
        self._waiting: deque[int] = deque()

    def begin(self, context: Context) -> SuffixProposer:
        return SuffixProposer(self, context)

    @property
    def num_remembered(self) -> int:
        return self._young.num_tokens + self._old.num_tokens + len(self._waiting)

    def remember(self, tokens: list[int]) -> None:
        """Adds a session's text; of one that is too long, the end."""
        if self._max_part < 2:
            return
        kept = tokens[1 - self._max_part :]
        self.index(len(self._waiting) + len(kept) + 1 - self._max_part)
        self._waiting.extend(kept)
        self._waiting.append(BREAK)

    def index(self, max_tokens: int) -> None:
        """Makes up to max_tokens of the waiting text findable."""
        left = min(max_tokens, len(self._waiting))
        while left > 0:
            if self._young.num_tokens == self._max_part:
                self._young, self._old = SuffixAutomaton(), self._young
            size = min(left, self._max_part - self._young.num_tokens)
            self._young.extend([self._waiting.popleft() for _ in range(size)])
            left -= size

    def texts(self) -> list[SuffixAutomaton]:
        return [text for text in (self._young, self._old) if text.num_tokens]


class SuffixProposer:
    """One session: its own text, indexed as it grows, before those of its scope."""

    def __init__(self, scope: Suffix, context: Context) -> None:
        self._scope = scope
        self._context = context
        self._own = SuffixAutomaton()

    def observe(self, commit: Commit) -> None:
        """Nothing to do: the context holds the tokens, and `draft` indexes what it has not seen of it."""

    def draft(self, budget: Budget) -> Candidates:
        indexed = self._own.num_tokens
        self._own.extend(self._context.tokens[indexed : indexed + OWN_PER_DRAFT])
        self._scope.index(EARLIER_PER_DRAFT)
        return grow_tree(self._views(), budget)

    def end(self) -> None:
        self._scope.remember(self._context.tokens)

    def _views(self) -> list[View]:
        """The longest match of the context's end in each text."""
        recent = self._context.tokens[-MATCH_WINDOW:]
        own = self._own
        if own.num_tokens == len(self._context.tokens):
            # The whole text matches itself; its link is the longest suffix that occurred before.
            earlier = max(own.link[own.last], ROOT)
            views = [(own, earlier, own.length[earlier])]
        else:
            views = [(own, *own.match(recent))]
        return views + [(text, *text.match(recent)) for text in self._scope.texts()]


def grow_tree(views: list[View], budget: Budget) -> Candidates:
    """The likeliest continuations of the matches, best first, at most budget.max_nodes of them."""
    tree = Candidates()
    # (-probability of the path, age, token, parent, depth, confidence, bin, matches before the token)
    heap: list[tuple[float, int, int, int, int, float, int, list[View]]] = []
    age = 0
    probability, parent, depth = 1.0, CONTEXT, 0
    while True:
        if depth < budget.max_depth:
            least = MIN_PATH_CONFIDENCE / probability
            for token, (confidence, bin_index) in continuations(views, least).items():
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
        longest = max(levels, key=_match_length)
        levels.remove(longest)
        text, state, length = longest
        certainty = CONFIDENCE[min(length, _LONGEST)]
        if _add_level(found, text, state, length, left * certainty):
            left *= 1.0 - certainty
        shorter = text.link[state]
        if shorter > ROOT:
            levels.append((text, shorter, text.length[shorter]))
    return found


def _add_level(
    found: dict[int, tuple[float, int]], text: SuffixAutomaton, state: int, length: int, weight: float
) -> bool:
    """Adds what followed one match; False if nothing did, because the text ends there."""
    count = text.count
    followers = [(count[after] or 1, token) for token, after in text.transitions(state, MAX_SCANNED)]
    if len(followers) > MAX_BRANCHES:
        followers.sort(reverse=True)
        del followers[MAX_BRANCHES:]
    # The state's own count includes what was left out here, and is 0 where long matches are not counted.
    total = max(count[state], sum([times for times, _ in followers])) + NOVELTY * (len(followers) - 1)
    first_bin = _LENGTH_BIN[min(length, _LONGEST)] * _SHARE_BINS
    for times, token in followers:
        share = times / total
        if token in found:
            probability, bin_index = found[token]
            found[token] = (probability + weight * share, bin_index)
        elif token != BREAK:
            found[token] = (weight * share, first_bin + min(int(share * _SHARE_BINS), _SHARE_BINS - 1))
    return bool(followers)
