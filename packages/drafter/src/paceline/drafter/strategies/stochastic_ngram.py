"""Strategy `stochastic_ngram`: an n-gram table that keeps probabilities, and draws as the target will draw.

STAND (Song et al. 2025), ADED (Liu et al. 2025). What followed the last 1 to 4 tokens is counted, and the target's
best successors count as a part of an occurrence each. At a temperature the target says `argmax(log p + noise)`, and
the noise is known: children come in the order of log q + noise, so that they are drawn from q with the target's own
luck, without replacement. Best at temperatures, where the most frequent continuation is often not what is sampled.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from typing import ClassVar

import numpy as np

from paceline.drafter.shared_noise import claims
from paceline.drafter.strategies.base import ROOT, Budget, Candidates, Commit, Context, Sampling, ScopeBounds
from paceline.drafter.strategies.matching import CONFIDENCE
from paceline.drafter.strategies.recycling import RANK_CONFIDENCE
from paceline.wire.noise import gumbel

MAX_ORDER = 4  # tokens of a context
MAX_SUCCESSORS = 16  # kept for one context, the rarest leaving first
MAX_COUNT = 64.0  # beyond this a context's counts are halved: what was long ago fades
LEAST_COUNT = 0.1  # what has faded to less is forgotten
MAX_CHILDREN = 8  # of a node
MIN_PATH_CONFIDENCE = 0.01
SESSION_CONTEXTS = 1 << 16  # of a session without a memory
INDEXED_PER_DRAFT = 256
_TOKENS_PER_CONTEXT = 3  # in memory, as much as so many remembered tokens of `suffix`
_CLAIM_BINS = 6

# Doubt of a context, in occurrences per different successor (Witten and Bell 1991), such that a successor that was
# seen once has the chance measured for a match of that length.
_DOUBT = [0.0, *(1.0 / CONFIDENCE[order] - 1.0 for order in range(1, MAX_ORDER + 1))]

Key = tuple[int, ...]


class StochasticNgram:
    """The table of one memory scope: contexts by recency of use, each with its successors' counts."""

    commit_top_k: ClassVar[int] = len(RANK_CONFIDENCE)
    couples: ClassVar[bool] = False

    def __init__(self, bounds: ScopeBounds) -> None:
        self._max_contexts = bounds.max_tokens // _TOKENS_PER_CONTEXT if bounds.max_tokens else SESSION_CONTEXTS
        self._successors: OrderedDict[Key, dict[int, float]] = OrderedDict()
        self._below: Mapping[Key, dict[int, float]] = {}  # read where this table has no such context

    def begin(self, context: Context) -> StochasticNgramProposer:
        return StochasticNgramProposer(self, context)

    def aside(self) -> StochasticNgram:
        """An empty table above this one, which it reads; contexts are copied when they change."""
        other = copy(self)
        other._successors, other._below = OrderedDict(), self._successors
        return other

    @property
    def num_remembered(self) -> int:
        return len(self._successors) * _TOKENS_PER_CONTEXT

    def learn(self, tokens: list[int], places: range) -> None:
        """Counts the tokens at these places, each after the contexts before it."""
        for place in places:
            for order in range(1, min(MAX_ORDER, place) + 1):
                self._add(tuple(tokens[place - order : place]), tokens[place], 1.0)

    def learn_guesses(self, commit: Commit) -> None:
        """Counts the target's best successors, each as much of an occurrence as its rank usually is."""
        if commit.top_k is None:
            return
        rows = zip(commit.top_k.tokens.tolist(), commit.top_k.successors.tolist(), strict=True)
        for token, row in rows:
            for successor, share in zip(row, RANK_CONFIDENCE, strict=False):
                self._add((token,), successor, share)

    def distribution(self, recent: list[int]) -> tuple[dict[int, float], int]:
        """What may follow, with probabilities that leave some for the unknown; and the longest context known."""
        found: dict[int, float] = {}
        longest, left = 0, 1.0
        for order in range(min(MAX_ORDER, len(recent)), 0, -1):
            key = tuple(recent[-order:])
            successors = self._successors.get(key) or self._below.get(key)
            if successors is None:
                continue
            longest = max(longest, order)
            doubt = _DOUBT[order] * len(successors)
            share = left / (sum(successors.values()) + doubt)
            for token, count in successors.items():
                found[token] = found.get(token, 0.0) + share * count
            left = share * doubt
        return found, longest

    def _add(self, key: Key, token: int, count: float) -> None:
        successors = self._successors.get(key)
        if successors is None:
            successors = self._successors[key] = dict(self._below.get(key, ()))
            if len(self._successors) > self._max_contexts:
                self._successors.popitem(last=False)
        else:
            self._successors.move_to_end(key)
        before = successors.get(token)
        if before is None and len(successors) == MAX_SUCCESSORS:
            del successors[min(successors, key=successors.__getitem__)]
        successors[token] = (before or 0.0) + count
        if successors[token] > MAX_COUNT:
            halved = {other: times / 2.0 for other, times in successors.items() if times >= LEAST_COUNT}
            self._successors[key] = halved


class StochasticNgramProposer:
    """One session on the scope's table."""

    def __init__(self, scope: StochasticNgram, context: Context) -> None:
        self._scope = scope
        self._context = context
        self._learned = 0

    def observe(self, commit: Commit) -> None:
        self._scope.learn_guesses(commit)

    def draft(self, budget: Budget) -> Candidates:
        """The budget's best nodes by product of claims."""
        self._learn()
        tree = Candidates()
        # (-probability of the path, age, token, parent, depth, claim, bin, last tokens before the token)
        heap: list[tuple[float, int, int, int, int, float, int, list[int]]] = []
        age, length = 0, len(self._context.tokens)
        floor = budget.floor(MIN_PATH_CONFIDENCE)
        probability, parent, depth, recent = 1.0, ROOT, 0, self._context.tokens[-MAX_ORDER:]
        while True:
            if depth < budget.max_depth:
                found, order = self._scope.distribution(recent)
                for token, claim in children(found, self._context.sampling, length + depth):
                    if probability * claim >= floor:
                        age += 1
                        kind = self._bin(order, claim)
                        path = -probability * claim
                        heapq.heappush(heap, (path, age, token, parent, depth + 1, claim, kind, recent))
            if not heap or len(tree) == budget.max_nodes:
                return tree
            negative, _, token, parent, depth, claim, kind, before = heapq.heappop(heap)
            probability = -negative
            parent = tree.add(token, parent, claim, kind)
            recent = [*before[1 - MAX_ORDER :], token]

    def end(self) -> None:
        self._learn()

    def _learn(self) -> None:
        """A stretch of the text, so that the first draft for a long prompt is not late."""
        tokens = self._context.tokens
        places = range(self._learned, min(len(tokens), self._learned + INDEXED_PER_DRAFT))
        self._scope.learn(tokens, places)
        self._learned = places.stop

    def _bin(self, order: int, claim: float) -> int:
        """By order, claim, and whether it was drawn: a draw is another kind of guess."""
        drawn = self._context.sampling.temperature > 0.0
        claim_bin = min(int(claim * _CLAIM_BINS), _CLAIM_BINS - 1)
        return ((order - 1) * _CLAIM_BINS + claim_bin) * 2 + drawn


def children(distribution: dict[int, float], sampling: Sampling, position: int) -> list[tuple[int, float]]:
    """The tokens to propose at a position, each with its claim: the likeliest at temperature 0, or else the first
    that are drawn.
    """
    tokens, probabilities = list(distribution), list(distribution.values())
    if sampling.temperature == 0.0 or not tokens:
        likeliest = sorted(zip(probabilities, tokens, strict=True), reverse=True)[:MAX_CHILDREN]
        return [(token, probability) for probability, token in likeliest]
    noise = gumbel(sampling.seed, position, np.array(tokens, dtype=np.int64)).tolist()
    scores = [math.log(probability) + g for probability, g in zip(probabilities, noise, strict=True)]
    ranked = sorted(zip(scores, tokens, claims(probabilities, noise), strict=True), reverse=True)[:MAX_CHILDREN]
    return [(token, claim) for _, token, claim in ranked]
