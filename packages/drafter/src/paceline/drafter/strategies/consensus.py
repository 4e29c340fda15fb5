"""Strategy `consensus`: what other answers to the same prompt said after the same last tokens.

*Speculative Decoding for Multi-Sample Inference* (Li et al. 2025). For prompts that are asked several times: n > 1
samples of one, best-of-n, self-consistency, the same question by many users of a tenant. Each other answer, running
or complete, has one vote for each next token; the more of them agree, the likelier it is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from copy import copy
from typing import ClassVar
from weakref import WeakSet

import numpy as np

from paceline.drafter.automaton import SuffixAutomaton
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, ScopeBounds
from paceline.drafter.strategies.matching import (
    CONFIDENCE,
    MATCH_WINDOW,
    MAX_SCANNED,
    View,
    grow_tree,
    match_length,
)

MAX_PROMPTS = 256  # prompts with answers, the least recently asked leaving first
MAX_COMPLETE = 16  # complete answers kept for one prompt
MAX_VOTERS = 16  # answers asked in one draft
PROMPT_TAIL = 8  # last tokens of the prompt that stand before each answer, so that first tokens have a context
MAX_ANSWER = 16_384  # tokens of one answer that are indexed
ENOUGH = 4  # answers with a match of so many tokens are equals; shorter ones are heard only if nobody has that
_LENGTH_BINS = (0, 0, 1, 1, 2)  # [length], up to ENOUGH
_AGREEING_BINS = 4  # one, two, three, and more
_SHARE_BINS = 3  # all who were asked, most of them, fewer


class Answer:
    """One sample: the end of the prompt and what came after it, findable."""

    def __init__(self) -> None:
        self.text = SuffixAutomaton()


class Prompt:
    """The answers to one prompt. Running ones belong to their sessions and are gone when those are dropped."""

    def __init__(self) -> None:
        self.running: WeakSet[Answer] = WeakSet()
        self.complete: deque[Answer] = deque()

    def copy(self) -> Prompt:
        """With the same answers."""
        other = Prompt()
        other.running, other.complete = WeakSet(self.running), self.complete.copy()
        return other

    def others(self, own: Answer) -> list[Answer]:
        """Running answers first, then complete ones, the latest first."""
        running = [answer for answer in self.running if answer is not own]
        return [*running, *reversed(self.complete)][:MAX_VOTERS]


class Consensus:
    """The prompts of one memory scope and their answers."""

    commit_top_k: ClassVar[int] = 0
    couples: ClassVar[bool] = True

    def __init__(self, bounds: ScopeBounds) -> None:
        self._max_tokens = bounds.max_tokens
        self._prompts: OrderedDict[bytes, Prompt] = OrderedDict()
        self._known: Mapping[bytes, Prompt] = {}  # somebody else's
        self._num_remembered = 0

    def begin(self, context: Context) -> ConsensusProposer:
        ids = np.array(context.tokens[: context.prompt_tokens], dtype=np.int64)
        return ConsensusProposer(self, hashlib.sha256(ids.tobytes()).digest(), context)

    def aside(self) -> Consensus:
        """Begins with copies of the prompts that it is asked for."""
        other = copy(self)
        other._prompts, other._known = OrderedDict(), self._prompts
        return other

    @property
    def num_remembered(self) -> int:
        return self._num_remembered

    def prompt(self, key: bytes) -> Prompt:
        """The prompt with that key, which becomes the most recently asked one."""
        found = self._prompts.get(key)
        if found is None:
            known = self._known.get(key)
            found = self._prompts[key] = Prompt() if known is None else known.copy()
        self._prompts.move_to_end(key)
        while len(self._prompts) > MAX_PROMPTS:
            self._forget_oldest()
        return found

    def keep(self, key: bytes, answer: Answer) -> None:
        """Adds a complete answer; the oldest leave so that the bound holds."""
        prompt = self.prompt(key)
        prompt.running.discard(answer)
        size = answer.text.num_tokens
        if size > self._max_tokens:
            return
        prompt.complete.append(answer)
        self._num_remembered += size
        if len(prompt.complete) > MAX_COMPLETE:
            self._num_remembered -= prompt.complete.popleft().text.num_tokens
        while self._num_remembered > self._max_tokens and len(self._prompts) > 1:
            self._forget_oldest()
        while self._num_remembered > self._max_tokens:
            self._num_remembered -= prompt.complete.popleft().text.num_tokens

    def _forget_oldest(self) -> None:
        _, prompt = self._prompts.popitem(last=False)
        self._num_remembered -= sum(answer.text.num_tokens for answer in prompt.complete)


class ConsensusProposer:
    """One session, as one of the answers to its prompt."""

    def __init__(self, scope: Consensus, key: bytes, context: Context) -> None:
        self._scope = scope
        self._key = key
        self._context = context
        self._start = max(0, context.prompt_tokens - PROMPT_TAIL)
        self._answer = Answer()
        self._prompt = scope.prompt(key)
        self._prompt.running.add(self._answer)
        self._index()

    def observe(self, commit: Commit) -> None:
        self._index()

    def draft(self, budget: Budget) -> Candidates:
        recent = self._context.tokens[max(self._start, len(self._context.tokens) - MATCH_WINDOW) :]
        others = self._prompt.others(self._answer)
        return grow_tree([(answer.text, *answer.text.match(recent)) for answer in others], budget, ballot)

    def end(self) -> None:
        self._scope.keep(self._key, self._answer)

    def _index(self) -> None:
        text = self._answer.text
        self._answer.text.extend(self._context.tokens[self._start + text.num_tokens : self._start + MAX_ANSWER])


def ballot(views: list[View], least: float) -> dict[int, tuple[float, int]]:
    """Next tokens that other answers vote for, each with its probability and calibration bin.

    Whoever said several things after its match divides its vote. That a lone answer is repeated is as likely as
    that a text repeats itself after so long a match; each one more that agrees leaves a smaller part of the doubt.
    """
    heard = min(max(map(match_length, views), default=0), ENOUGH)
    votes: dict[int, float] = {}
    num_voters = 0
    for text, state, length in views:
        followers, _ = text.followers(state, MAX_SCANNED) if length >= max(heard, 1) else ([], 0)
        total = sum([times for times, _ in followers])
        num_voters += bool(total)
        for times, token in followers:
            votes[token] = votes.get(token, 0.0) + times / total
    doubt = 1.0 - CONFIDENCE[heard]
    found: dict[int, tuple[float, int]] = {}
    for token in sorted(votes):  # others come in no order
        agreeing, share = votes[token], votes[token] / num_voters
        confidence = share * (1.0 - doubt / max(agreeing, 1.0))
        if confidence >= least:
            found[token] = (confidence, _bin(heard, agreeing, share))
    return found


def _bin(length: int, agreeing: float, share: float) -> int:
    agreeing_bin = min(max(int(agreeing + 0.5), 1), _AGREEING_BINS) - 1
    share_bin = 0 if share > 0.999 else 1 if share >= 0.5 else 2
    return (_LENGTH_BINS[length] * _AGREEING_BINS + agreeing_bin) * _SHARE_BINS + share_bin
