"""One session at work on a feature head: like `model_session`, but what it reads are the target's own states.

    position     0    1    2    3    4                 the text is 5 tokens long, so the target was at position 3
    token       t0   t1   t2   t3   t4
    state       s0   s1   s2   s3                      told with the commit that brought t4
    row               t1   t2   t3   t4 ─┬─ a ── b     rows of the text: token p with the target's state at p - 1
                      s0   s1   s2   s3  │  h4   ha    rows of the tree: with the head's own state of the row before
                                         └─ c          (h4 of t4's row, ha of a's), since the target has none there yet
                                            h4

A commit shows the true states of what had been drafted, so rows of the tree are dropped, those of the committed tokens
are run again with these, and the tree begins anew from the last of them (EAGLE-3, Li et al. 2025): one pass for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from paceline.drafter.features import FeatureNeeds, Features, FeatureStretch, Floats, widened
from paceline.drafter.growing import GrowingTree, Growth
from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.models.base import KVCache, Rows, Scores
from paceline.drafter.reading import Reader
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import Budget, Candidates
from paceline.drafter.vocabulary.base import Bridge
from paceline.drafter.vocabulary.borrowing import BorrowingBridge

MAX_CHUNK = 256  # rows of a text run in one pass: other sessions wait for it


class FeatureSession:
    """The state of one session.

    The head's context begins where states begin: behind what the verifier didn't send, such as a long prompt's
    beginning, and anew behind a gap. Without the state of the last position but one there is no draft.

    Args:
        bridge: of the session, with its context: one draft token for each of the target's.
        reader: of the session.
        cache: empty.
        growth: how trees grow.
        length: of the context in tokens.
        max_length: positions that the head has, counted from where its context begins. Of its rows the text takes three
            quarters, or the head's window: when it is longer, the head's context is the latest half of that, read anew.
        needs: of the head; if it borrows, `bridge` is a `BorrowingBridge`.
    """

    lasting: ClassVar[bool] = False  # a commit shows better states than those that were thought ahead with

    def __init__(
        self,
        bridge: Bridge,
        reader: Reader,
        cache: KVCache,
        growth: Growth,
        length: int,
        max_length: int,
        needs: FeatureNeeds,
    ) -> None:
        self.length = length
        self._bridge = bridge
        self._cache = cache
        self._growing = GrowingTree(bridge, reader, growth)
        self._max_length = max_length
        self._most_rows = max(min(needs.window or max_length, 3 * max_length // 4), 1)
        self._needs = needs
        self._borrowing = bridge if isinstance(bridge, BorrowingBridge) else None
        self._states = FeatureStretch(needs.width, self._most_rows)
        self._start = 0  # position of the cache's first row
        self._num_cached = 0  # rows of the text, the cache's first

    @property
    def tree(self) -> LiveTree:
        return self._growing.tree

    @property
    def num_rows(self) -> int:
        """That it holds, be it the cache's or states to read."""
        return max(len(self._cache), len(self._states))

    @property
    def drawn(self) -> bool:
        """Whether the target draws its tokens."""
        return self._growing.drawn

    @property
    def told(self) -> Features | None:
        """For a head that takes over."""
        return self._states.features

    @property
    def is_told(self) -> bool:
        """The target's state before the last token is known, so there is something to draft from."""
        return len(self._states) > 0 and self._states.end == self.length - 1

    # The text goes on.

    def observe(self, tokens: Sequence[int], features: Features | None = None) -> None:
        """Target tokens committed, and what states came with them. Not between `next_rows` and `absorb`."""
        before = len(self._bridge.context)
        self._bridge.observe(tokens)
        self._growing.learn(self._bridge.context[before:])
        self._growing.clear()
        self._cache.keep(range(self._num_cached))
        self.length += len(tokens)
        self.tell(features)

    def tell(self, features: Features | None) -> None:
        """States of the text as it is; for commits, and for a session that another head was told of before."""
        if features is not None and self._borrowing is not None:
            self._borrowing.tell(features.first, widened(features.values[:, : self._needs.num_embedded]))
        if features is not None and not self._states.extend(features):
            self._begin(self._states.first + 1)
        if self.length - self._start > self._most_rows:
            self._begin(max(self._states.first + 1, self.length - max(self._most_rows // 2, 1)))

    def _begin(self, position: int) -> None:
        """The head's context begins there."""
        self._start, self._num_cached = position, 0
        self._cache.keep(range(0))

    def forget(self) -> None:
        """Gives rows and states back: if the session goes on, its context begins where the next states do."""
        self._states.clear()
        self._growing.clear()
        self._begin(self.length)

    # The head is asked.

    def next_rows(self, budget: Budget, times: Times, ahead: bool = False) -> Rows | None:
        """What to run next; None if the tree is as large as pays, for the draft that is due or, `ahead`, beyond it."""
        if not self.is_told:
            return None
        num_context = self.length - self._start
        if self._num_cached < num_context:
            return self._context_rows(num_context)
        nodes = self._growing.next_nodes(budget, times, ahead, self._max_length - num_context)
        return self._tree_rows(nodes) if nodes else None

    def _context_rows(self, num_context: int) -> Rows:
        held = self._num_cached
        count = min(MAX_CHUNK, num_context - held)
        first = self._start + held  # position in the text
        return Rows(
            cache=self._cache,
            tokens=np.array(self._bridge.context[first : first + count], np.int64),
            positions=np.arange(held, held + count),
            visible=np.tri(count, held + count, held, dtype=np.bool_),
            wanted=(count - 1,) if held + count == num_context else (),
            features=self._states.at(first - 1, first - 1 + count)[:, self._needs.num_embedded :],
            borrowed=self._borrowed,
            top_k=self._growing.reader.top_k,
            scale=self._growing.reader.scale,
        )

    def _tree_rows(self, nodes: Sequence[int]) -> Rows:
        growing, last = self._growing, self._num_cached - 1
        parents = [growing.tree.nodes[node].parent for node in nodes]
        return Rows(
            cache=self._cache,
            tokens=np.array(growing.tokens(nodes), np.int64),
            positions=np.array([last + depth for depth in growing.depths(nodes)], np.int64),
            visible=growing.visible(nodes, self._num_cached, len(self._cache)),
            wanted=tuple(range(len(nodes))),
            above=np.array([last if node == ROOT else growing.tree.nodes[node].row for node in parents], np.int64),
            borrowed=self._borrowed,
            top_k=self._growing.reader.top_k,
            scale=self._growing.reader.scale,
        )

    @property
    def _borrowed(self) -> Floats | None:
        return None if self._borrowing is None else self._borrowing.embeddings

    def absorb(self, scores: Scores) -> None:
        """Takes the scores of the rows that `next_rows` gave; the cache holds those rows now."""
        num_context = self.length - self._start
        if self._num_cached == num_context:
            self._growing.absorb(scores, self.length, len(self._cache))
            return
        self._num_cached = len(self._cache)
        if self._num_cached == num_context:
            self._growing.absorb_root(scores, self.length)

    # The draft.

    def candidates(self, budget: Budget, ahead: bool = False) -> Candidates:
        """The best of the tree as it is, in target tokens."""
        return self._growing.candidates(budget, ahead)
