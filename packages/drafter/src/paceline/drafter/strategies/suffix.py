"""Strategy `suffix`: what followed the last few tokens before, in this session or earlier ones of its scope.

SAM Decoding (Hu et al. 2024), SuffixDecoding (Oliaro et al. 2024); `matching` makes the tree. Best where the
answer repeats the prompt or itself: code, summaries, extraction, agents.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from paceline.drafter.automaton import BREAK, ROOT, SuffixAutomaton
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, ScopeBounds
from paceline.drafter.strategies.matching import MATCH_WINDOW, View, grow_tree

# Tokens indexed in one draft: of the session's own text, so that the first draft for a long prompt is not
# late, and of earlier sessions', so that the end of a session holds up no other.
OWN_PER_DRAFT = 1024
EARLIER_PER_DRAFT = 128


class Suffix:
    """The texts of one memory scope.

    What is remembered is two automata, young and old, and text that waits to be indexed. When the young one
    is full it becomes the old one, so the oldest text leaves without being taken out of an automaton, which
    can't be done.
    """

    commit_top_k: ClassVar[int] = 0
    couples: ClassVar[bool] = True

    def __init__(self, bounds: ScopeBounds) -> None:
        self._max_part = bounds.max_tokens // 3  # of each of the three
        self._young = SuffixAutomaton()
        self._old = SuffixAutomaton()
        self._waiting: deque[int] = deque()

    def begin(self, context: Context) -> SuffixProposer:
        return SuffixProposer(self, context)

    def aside(self) -> Suffix:
        """Itself: only the end of a session adds text."""
        return self

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
        self.index()
        own, earlier = self.own_match(), self.earlier_matches()
        return grow_tree([own, *earlier], budget)

    def end(self) -> None:
        self._scope.remember(self._context.tokens)

    def index(self) -> None:
        """Makes text findable that is not yet, as much of it as one draft has time for."""
        indexed = self._own.num_tokens
        self._own.extend(self._context.tokens[indexed : indexed + OWN_PER_DRAFT])
        self._scope.index(EARLIER_PER_DRAFT)

    def own_match(self) -> View:
        """The longest match of the context's end earlier in the session's own text."""
        own = self._own
        if own.num_tokens == len(self._context.tokens):
            # The whole text matches itself; its link is the longest suffix that occurred before.
            before = max(own.link[own.last], ROOT)
            return own, before, own.length[before]
        return own, *own.match(self._context.tokens[-MATCH_WINDOW:])

    def earlier_matches(self) -> list[View]:
        """The longest match of the context's end in each text of the scope's earlier sessions."""
        recent = self._context.tokens[-MATCH_WINDOW:]
        return [(text, *text.match(recent)) for text in self._scope.texts()]
