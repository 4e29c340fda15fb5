"""A drafting strategy of one's own: what followed this token last time will follow it again."""

import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from paceline.drafter.strategies.base import ROOT, Budget, Candidates, Commit, Context, ScopeBounds


@dataclass
class BigramProposer:
    """At work on one session. `context.tokens` grows by itself as tokens commit."""

    context: Context

    def observe(self, commit: Commit) -> None: ...
    def end(self) -> None: ...
    def draft(self, budget: Budget) -> Candidates:
        tree, node, worth = Candidates(), ROOT, 0.4
        token, after = self.context.tokens[-1], dict(pairwise(self.context.tokens))
        while token in after and worth >= budget.floor(0.01) and len(tree) < min(budget.max_nodes, budget.max_depth):
            token, worth = after[token], worth * 0.4
            node = tree.add(token, parent=node, confidence=0.4, bin_index=0)
        return tree


class Bigram:
    """One memory scope: a tenant's sessions, or one session that may leave nothing behind."""

    commit_top_k: ClassVar[int] = 0  # asks for none of the target's guesses
    couples: ClassVar[bool] = True  # knows nothing of the request's noise: its claims are corrected by it
    num_remembered = 0  # nothing outlives a session

    def __init__(self, bounds: ScopeBounds) -> None: ...
    def begin(self, context: Context) -> BigramProposer:
        return BigramProposer(context)

    def aside(self) -> "Bigram":
        return self  # has nothing that a session could leave behind


if __name__ == "__main__":
    from paceline.drafter.__main__ import main
    from paceline.drafter.strategies import STRATEGIES

    STRATEGIES["bigram"] = Bigram
    sys.exit(main())
