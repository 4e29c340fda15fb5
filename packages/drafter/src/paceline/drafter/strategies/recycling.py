"""Strategy `recycling`: the target's own best guesses after a token, from the last time it was at that token.

Token Recycling (Luo et al. 2024). The verifier sends the target's top-k at each position that it verified,
the refused ones included, with every commit; a table keeps the latest row for each token. A tree grows from
the last token of the context by rows. Works from the first answers on, on any text, and complements `suffix`,
which needs repetition.
"""

from __future__ import annotations

import heapq
from copy import copy
from typing import ClassVar

import numpy as np

from paceline.drafter.strategies.base import ROOT, Budget, Candidates, Commit, Context, ScopeBounds

# Acceptance by rank in a row, measured on greedy answers of a small chat model; a path is worth its product.
RANK_CONFIDENCE = (0.40, 0.09, 0.05, 0.03, 0.02, 0.015, 0.01, 0.008)
SEED_CONFIDENCE = 0.26  # of the token that last followed, where the target's own guesses are not known yet
MIN_PATH_CONFIDENCE = 0.002
_SEED_BIN = len(RANK_CONFIDENCE)
_DEPTH_BINS = 2  # a guess from the context's last token, and one from a guess


class Recycling:
    """The successor table of one memory scope."""

    commit_top_k: ClassVar[int] = len(RANK_CONFIDENCE)
    couples: ClassVar[bool] = True

    def __init__(self, bounds: ScopeBounds) -> None:
        # Ids are kept plus one, so that an untouched row reads as empty and the operating system hands out
        # only those pages of the tables that are written to.
        self._rows = np.zeros((bounds.vocab_size, self.commit_top_k), dtype=np.int32)
        self._seeds = np.zeros(bounds.vocab_size, dtype=np.int32)
        self._known = 0

    def begin(self, context: Context) -> RecyclingProposer:
        proposer = RecyclingProposer(self, context)
        self.seed(context.tokens)
        return proposer

    def aside(self) -> Recycling:
        """A copy: rows change while a session goes on."""
        other = copy(self)
        other._rows, other._seeds = self._rows.copy(), self._seeds.copy()
        return other

    @property
    def num_remembered(self) -> int:
        return self._known

    def seed(self, tokens: list[int]) -> None:
        """Learns from a stretch of text which token followed which last."""
        text = np.array(tokens, dtype=np.int32)
        self._seeds[text[:-1]] = text[1:] + 1

    def learn(self, commit: Commit) -> None:
        """Takes over the target's successors."""
        top_k = commit.top_k
        if top_k is None or not len(top_k.tokens):
            return
        width = min(top_k.successors.shape[1], self.commit_top_k)
        tokens, rows = top_k.tokens, self._rows
        unknown = tokens[rows[tokens, 0] == 0]
        self._known += len(set(unknown.tolist()))
        rows[tokens, width:] = 0
        rows[tokens, :width] = top_k.successors[:, :width] + 1

    def successors(self, token: int) -> tuple[list[int], bool]:
        """Likely successors of a token, best first, and whether they are the target's own guesses."""
        row = self._rows[token].tolist()
        if row[0]:
            return [entry - 1 for entry in row if entry], True
        seed = int(self._seeds[token])
        return ([seed - 1] if seed else []), False


class RecyclingProposer:
    """One session on the scope's table."""

    def __init__(self, scope: Recycling, context: Context) -> None:
        self._scope = scope
        self._context = context

    def observe(self, commit: Commit) -> None:
        self._scope.learn(commit)
        self._scope.seed(self._context.tokens[-len(commit.tokens) - 1 :])

    def draft(self, budget: Budget) -> Candidates:
        """The budget's best nodes by product of rank confidences.

        Successors of a node are in descending order, so a node waits in the queue only for its next best
        sibling.
        """
        tree = Candidates()
        heap: list[tuple[float, int, int, int, float, int, list[int], bool]] = []
        age = 0
        least = budget.floor(MIN_PATH_CONFIDENCE)

        def push(above: float, rank: int, parent: int, depth: int, row: list[int], targets: bool) -> None:
            nonlocal age
            confidence = RANK_CONFIDENCE[rank] if targets else SEED_CONFIDENCE
            if above * confidence >= least:
                age += 1
                heapq.heappush(heap, (-above * confidence, age, rank, parent, confidence, depth, row, targets))

        row, targets = self._scope.successors(self._context.tokens[-1])
        if row and budget.max_depth > 0:
            push(1.0, 0, ROOT, 1, row, targets)
        while heap and len(tree) < budget.max_nodes:
            negative, _, rank, parent, confidence, depth, row, targets = heapq.heappop(heap)
            kind = rank if targets else _SEED_BIN
            node = tree.add(row[rank], parent, confidence, kind * _DEPTH_BINS + (depth > 1))
            if rank + 1 < len(row):
                push(-negative / confidence, rank + 1, parent, depth, row, targets)
            if depth < budget.max_depth:
                below, below_targets = self._scope.successors(row[rank])
                if below:
                    push(-negative, 0, node, depth + 1, below, below_targets)
        return tree

    def end(self) -> None:
        """Nothing to do: the table has it already."""
