"""A target and a head that is that target in disguise, as long as each row is told the right state.

The state at a position is a number below 251, made of the state before and the token there; what follows is a function
of it. So a head that is told the state of another position says something else, and so does all that it drafts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from fake_model import Never

from paceline.drafter.feature_session import FeatureSession
from paceline.drafter.features import FeatureNeeds, Features
from paceline.drafter.growing import Growth
from paceline.drafter.models.base import Logits, Rows
from paceline.drafter.reading import Reader
from paceline.drafter.strategies.base import Sampling
from paceline.drafter.trees.ahead import Ahead
from paceline.drafter.trees.base import Shape, TreePolicy
from paceline.drafter.trees.chain import Chain
from paceline.drafter.vocabulary.cut import Cut, CutVocabulary

TARGET_VOCAB = 60
CUT = CutVocabulary(np.array([3, 5, 59, *range(10, 41)]), "hash of the target's tokenizer")
KIND = Cut(CUT, CUT.tokenizer_hash, TARGET_VOCAB)
NEEDS = FeatureNeeds(layers=(1, 4), hidden_size=2)
DEPTH = 6


def next_state(before: int, token: int) -> int:
    """token: of the draft's; all that were cut are one."""
    return (before * 7 + token * 3 + 1) % 251  # bfloat16 has every whole number up to 256


def logits_at(state: int) -> Logits:
    return (np.random.default_rng(state).standard_normal(CUT.size) * 3.0).astype(np.float32)


def states_of(tokens: Sequence[int]) -> list[int]:
    """The target's state at each position of a text in its own tokens."""
    found, state = [], 0
    for token in KIND.draft_ids[list(tokens)].tolist():
        state = next_state(state, token)
        found.append(state)
    return found


def greedy(tokens: Sequence[int], count: int) -> list[int]:
    """How the target goes on."""
    text = list(tokens)
    for _ in range(count):
        text.append(int(CUT.ids[logits_at(states_of(text)[-1]).argmax()]))
    return text[len(tokens) :]


def features_of(tokens: Sequence[int], first: int, end: int | None = None) -> Features:
    """What a verifier tells of positions [first, end) of a text, by default up to the last that it has read."""
    states = np.array(states_of(tokens), np.float32)[first : len(tokens) - 1 if end is None else end]
    values = np.stack([states, states + 1, -states, np.ones_like(states)], axis=1)
    return Features(first, (values.view(np.uint32) >> 16).astype(np.uint16))


class HeadCache:
    """Token, position and state of each row."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


@dataclass
class FakeHead:
    """Checks what it is told as far as it can; what is told of another position shows in what it says."""

    vocab_size: int = CUT.size
    max_length: int = 64

    def __post_init__(self) -> None:
        self.passes: list[int] = []  # rows of each
        self.largest = 0  # rows in a cache

    def new_cache(self) -> HeadCache:
        return HeadCache()

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        self.passes.append(sum(len(rows.tokens) for rows in batch))
        return [self._score(rows) for rows in batch]

    def _score(self, rows: Rows) -> Logits:
        cache, held, count = rows.cache, len(rows.cache), len(rows.tokens)
        assert isinstance(cache, HeadCache)
        assert rows.visible.shape == (count, held + count)
        assert rows.positions.max() < self.max_length
        assert rows.tokens.max() <= self.vocab_size
        if rows.features is not None:
            assert rows.above is None
            told = rows.features[:, 0].astype(int)
            np.testing.assert_array_equal(rows.features, np.stack([told, told + 1, -told, told * 0 + 1], axis=1))
        else:
            assert rows.above is not None
            told = np.array([cache.rows[row][2] for row in rows.above])
        for token, position, state in zip(rows.tokens.tolist(), rows.positions.tolist(), told.tolist(), strict=True):
            cache.rows.append((token, position, next_state(state, token)))
        self.largest = max(self.largest, len(cache))
        for index in range(count):
            seen = [cache.rows[row] for row in np.flatnonzero(rows.visible[index])]
            assert seen[-1] == cache.rows[held + index]
            assert [position for _, position, _ in seen] == list(range(len(seen))), "one path from the beginning"
            for (_, _, before), (token, _, state) in pairwise(seen):
                assert state == next_state(before, token), "a row is told the state of what it follows"
        wanted = [logits_at(cache.rows[held + row][2]) for row in rows.wanted]
        return np.array(wanted, np.float32).reshape(len(wanted), self.vocab_size)


def session_on(
    head: FakeHead,
    tokens: Sequence[int],
    policy: TreePolicy | None = None,
    sampling: Sampling | None = None,
    needs: FeatureNeeds = NEEDS,
) -> FeatureSession:
    reader = Reader(sampling or Sampling(), CUT.size, width=4, noise_ids=KIND.noise_ids)
    growth = Growth(policy or Chain(Shape(4, DEPTH)), Ahead(Shape(4, DEPTH)), Never())
    return FeatureSession(KIND.begin(tokens), reader, head.new_cache(), growth, len(tokens), head.max_length, needs)
