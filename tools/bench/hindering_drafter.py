"""`paceline-drafter` with two strategies more, for measurements of what a router makes of drafters that don't pay.

    python tools/bench/hindering_drafter.py serve --strategies late …

`late` drafts what `suffix` drafts, but each time only after `PACELINE_LATE_MS` (100) milliseconds: a drafter far away,
or on a device that is too slow. `random` drafts tokens at random and is always sure of them.
"""

from __future__ import annotations

import os
import sys
import time
from random import Random
from typing import ClassVar

from paceline.drafter.__main__ import main
from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.strategies.base import ROOT, Budget, Candidates, Commit, Context, Proposer, ScopeBounds
from paceline.drafter.strategies.suffix import Suffix

LATE_MS = float(os.environ.get("PACELINE_LATE_MS", "100"))
CHAIN = 4  # random tokens in a row


class _Delayed:
    """A proposer whose every draft takes a while longer."""

    def __init__(self, inner: Proposer) -> None:
        self._inner = inner
        self.observe = inner.observe
        self.end = inner.end

    def draft(self, budget: Budget) -> Candidates:
        time.sleep(LATE_MS / 1000.0)
        return self._inner.draft(budget)


class Late(Suffix):
    """`suffix`, late."""

    def begin(self, context: Context) -> Proposer:  # type: ignore[override]
        return _Delayed(super().begin(context))


class RandomTokens:
    """Chains of random tokens, each claimed to be almost certain."""

    commit_top_k: ClassVar[int] = 0
    couples: ClassVar[bool] = True
    num_remembered = 0

    def __init__(self, bounds: ScopeBounds) -> None:
        self._vocab_size = bounds.vocab_size

    def begin(self, context: Context) -> Proposer:
        return _RandomProposer(Random(len(context.tokens)), self._vocab_size)


class _RandomProposer:
    def __init__(self, random: Random, vocab_size: int) -> None:
        self._random = random
        self._vocab_size = vocab_size

    def observe(self, commit: Commit) -> None:
        pass

    def draft(self, budget: Budget) -> Candidates:
        candidates, parent = Candidates(), ROOT
        for _ in range(min(CHAIN, budget.max_nodes, budget.max_depth)):
            parent = candidates.add(self._random.randrange(self._vocab_size), parent, 0.95, 0)
        return candidates

    def end(self) -> None:
        pass


HINDERING = {"late": Late, "random": RandomTokens}

if __name__ == "__main__":
    STRATEGIES.update(HINDERING)
    sys.exit(main())
