"""An online suffix automaton that counts: all substrings of a growing text, and how often each occurred.

Blumer et al., *The smallest automaton recognizing the subwords of a text* (1985); used for drafting by SAM
Decoding (Hu et al. 2024). A state stands for the substrings that end at the same set of positions; they are
suffixes of one another, with lengths from `length[link[state]] + 1` to `length[state]`. Following a
transition appends a token; following a link goes on to shorter suffixes. There are at most 2n states and 3n
transitions after n tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import islice

ROOT = 0
NONE = -1
BREAK = -1  # stands between texts that do not follow one another; no context contains it

# Occurrences are counted for states that hold some substring of at most this length. Counting every suffix
# would cost as many steps as the text has repeated itself: quadratic in "aaaa…". Longer matches need no count
# to be trusted.
COUNTED_LENGTH = 8


class SuffixAutomaton:
    """Append tokens with `extend`; read the lists by state. O(1) amortised per token, whatever the text.

    Attributes:
        length: [num_states] length of the longest substring of the state.
        link: [num_states] state of the longest suffix that occurs elsewhere too; NONE for the root.
        count: [num_states] occurrences of the state's substrings; 0 if its shortest is longer than
            COUNTED_LENGTH.
        last: state of the whole text; the link of it is the longest suffix that occurred before.
        num_tokens: tokens appended.
    """

    # Most states have exactly one transition. It is kept in two flat arrays, and only branching states pay
    # for a dictionary: a sixth of the memory of one dictionary per state.
    __slots__ = (
        "_counted",
        "_counted_length",
        "_target",
        "_token",
        "branches",
        "count",
        "last",
        "length",
        "link",
        "num_tokens",
    )

    def __init__(self) -> None:
        self.length = array("i", [0])
        self.link = array("i", [NONE])
        self.count = array("i", [0])
        self._token = array("i", [NONE])
        self._target = array("i", [NONE])
        self.branches: dict[int, dict[int, int]] = {ROOT: {}}
        self.last = ROOT
        self.num_tokens = 0
        self._counted = ROOT  # the state of the text's suffix of length _counted_length <= COUNTED_LENGTH
        self._counted_length = 0

    @property
    def num_states(self) -> int:
        return len(self.length)

    def extend(self, tokens: Iterable[int]) -> None:
        """Appends tokens (or BREAK) to the text."""
        for token in tokens:
            self._append(token)
            self._count(token)

    def follow(self, state: int, token: int) -> int:
        """The state after `token`, or NONE if that continuation never occurred."""
        many = self.branches.get(state)
        if many is not None:
            return many.get(token, NONE)
        return self._target[state] if self._target[state] > 0 and self._token[state] == token else NONE

    def transitions(self, state: int, max_transitions: int) -> list[tuple[int, int]]:
        """The (token, state) that follow, in order of first occurrence; at most so many."""
        many = self.branches.get(state)
        if many is not None:
            return list(islice(many.items(), max_transitions)) if len(many) > max_transitions else list(many.items())
        return [(self._token[state], self._target[state])] if self._target[state] > 0 else []

    def followers(self, state: int, max_followers: int) -> tuple[list[tuple[int, int]], int]:
        """The (count, token) of what followed, in order of first occurrence, and how often the state occurred.

        That number is 0 where occurrences are not counted, and a follower's count is 1 there.
        """
        count = self.count
        found = [(count[after] or 1, token) for token, after in self.transitions(state, max_followers)]
        return found, count[state]

    def shorter(self, state: int) -> tuple[int, int]:
        """State and length of the longest suffix of the state that occurs elsewhere too."""
        link = self.link[state]
        return link, self.length[link]

    def match(self, tokens: Sequence[int]) -> tuple[int, int]:
        """State and length of the longest suffix of `tokens` that occurs in the text."""
        state, length = ROOT, 0
        for token in tokens:
            state, length = self.advance(state, length, token)
        return state, length

    def advance(self, state: int, length: int, token: int) -> tuple[int, int]:
        """The longest match after one more token, given the longest one (state, length) before it."""
        while (after := self.follow(state, token)) == NONE:
            state = self.link[state]
            if state == NONE:
                return ROOT, 0
            length = self.length[state]
        return after, length + 1

    def _append(self, token: int) -> None:
        new = self._new_state(self.length[self.last] + 1, NONE, 0)
        state = self.last
        while state != NONE and (after := self.follow(state, token)) == NONE:
            self._connect(state, token, new)
            state = self.link[state]
        if state == NONE:
            self.link[new] = ROOT
        elif self.length[state] + 1 == self.length[after]:
            self.link[new] = after
        else:
            self.link[new] = self._split(state, token, after)
        self.last = new
        self.num_tokens += 1

    def _split(self, state: int, token: int, after: int) -> int:
        """A state for the shorter substrings of `after`, which now occur once more than the longer ones."""
        clone = self._new_state(self.length[state] + 1, self.link[after], self.count[after])
        self._token[clone] = self._token[after]
        self._target[clone] = self._target[after]
        if after in self.branches:
            self.branches[clone] = self.branches[after].copy()
        self.link[after] = clone
        while state != NONE and self.follow(state, token) == after:
            self._connect(state, token, clone)
            state = self.link[state]
        return clone

    def _new_state(self, length: int, link: int, count: int) -> int:
        self.length.append(length)
        self.link.append(link)
        self.count.append(count)
        self._token.append(NONE)
        self._target.append(NONE)
        return len(self.length) - 1

    def _connect(self, state: int, token: int, after: int) -> None:
        many = self.branches.get(state)
        if many is not None:
            many[token] = after
        elif self._target[state] == NONE or self._token[state] == token:
            self._token[state] = token
            self._target[state] = after
        else:
            self.branches[state] = {self._token[state]: self._target[state], token: after}

    def _count(self, token: int) -> None:
        """One more occurrence for each suffix of the text that is short enough to be counted."""
        link, lengths, count = self.link, self.length, self.count
        state = self.follow(self._counted, token)
        length = min(self._counted_length + 1, COUNTED_LENGTH)
        while lengths[link[state]] >= length:
            state = link[state]
        self._counted, self._counted_length = state, length
        while state != ROOT:
            count[state] += 1
            state = link[state]
