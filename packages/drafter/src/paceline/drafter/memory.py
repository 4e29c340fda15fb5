"""What is remembered between sessions, and the walls inside it.

A scope holds one instance of each strategy. Sessions with the same memory key share a scope; a session
without a key gets one of its own, which goes when it ends. Scopes share nothing, so no session can be drafted
another tenant's text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.strategies.base import Resources, ScopeBounds, Strategy

MAX_SCOPES = 128


@dataclass(frozen=True, slots=True)
class ScopeKey:
    """Whose memory. The target is part of it: token ids and successors mean nothing to another one."""

    model: str
    tokenizer_hash: str
    vocab_size: int
    memory_key: bytes


Scope = tuple[Strategy, ...]  # one instance per strategy, in the drafter's order


class Memory:
    """All scopes of the process, the least recently used leaving first.

    Args:
        strategies: names, each a key of `STRATEGIES`.
        max_tokens: bound on what all scopes remember together; 0 remembers nothing.
        resources: what strategies may read besides.
    """

    def __init__(self, strategies: Sequence[str], max_tokens: int, resources: Resources | None = None) -> None:
        self._strategies = tuple(strategies)
        self._max_tokens = max_tokens
        self._resources = resources or Resources()
        self._scopes: OrderedDict[ScopeKey, Scope] = OrderedDict()

    @property
    def num_strategies(self) -> int:
        return len(self._strategies)

    def scope(self, key: ScopeKey) -> Scope:
        """The scope of a memory key; a new one, that nobody else will get, if the key is empty."""
        if not key.memory_key or self._max_tokens == 0:
            return self._new_scope(key, max_tokens=0)
        scope = self._scopes.get(key)
        if scope is None:
            # A share for each strategy, so that together they stay within the bound; half at most, so that one
            # tenant with much traffic does not push all others out.
            share = self._max_tokens // max(2, len(self._strategies))
            scope = self._scopes[key] = self._new_scope(key, share)
        self._scopes.move_to_end(key)
        self.settle()
        return scope

    def settle(self) -> None:
        """Forgets scopes until the bounds hold; for when a session has ended. Running ones keep theirs."""
        remembered = {key: _num_remembered(scope) for key, scope in self._scopes.items()}
        total = sum(remembered.values())
        for key, num_tokens in remembered.items():
            if total <= self._max_tokens and len(self._scopes) <= MAX_SCOPES:
                return
            del self._scopes[key]
            total -= num_tokens

    @property
    def num_scopes(self) -> int:
        return len(self._scopes)

    @property
    def num_remembered(self) -> int:
        """Tokens remembered by all scopes."""
        return sum(map(_num_remembered, self._scopes.values()))

    def _new_scope(self, key: ScopeKey, max_tokens: int) -> Scope:
        bounds = ScopeBounds(key.vocab_size, max_tokens, key.tokenizer_hash, self._resources)
        return tuple(STRATEGIES[name](bounds) for name in self._strategies)


def _num_remembered(scope: Scope) -> int:
    return sum(strategy.num_remembered for strategy in scope)
