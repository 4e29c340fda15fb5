"""A language model for tests, and sessions on it.

Its logits are a pure function of the tokens that a row sees, and its caches check what they are told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.drafter.growing import Growth
from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.model_session import ModelSession
from paceline.drafter.models.base import Logits, Rows
from paceline.drafter.reading import Reader
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import ROOT as CONTEXT
from paceline.drafter.strategies.base import Candidates, Context, Sampling, ScopeBounds
from paceline.drafter.strategies.suffix import Suffix
from paceline.drafter.trees.ahead import Ahead
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.chain import Chain

VOCAB = 40


class FakeCache:
    """Remembers the tokens and positions of its rows."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class FakeModel:
    """Row sees tokens t0 … tn in the order of their positions -> `logits_after([t0, …, tn])`."""

    def __init__(self, vocab_size: int = 40, max_length: int = 512, seed: int = 0, order: int = 3) -> None:
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.num_passes = 0
        self.num_rows = 0
        self.largest_batch = 0
        self._seed = seed
        self._order = order

    def new_cache(self) -> FakeCache:
        return FakeCache()

    def logits_after(self, tokens: Sequence[int]) -> Logits:
        """Looks at the last `order` tokens."""
        rng = np.random.default_rng([self._seed, *tokens[-self._order :]])
        return (rng.standard_normal(self.vocab_size) * 3.0).astype(np.float32)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """How the text goes on by this model alone."""
        text = list(tokens)
        for _ in range(count):
            text.append(int(self.logits_after(text).argmax()))
        return text[len(tokens) :]

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        self.num_passes += 1
        self.largest_batch = max(self.largest_batch, len(batch))
        return [self._score(rows) for rows in batch]

    def _score(self, rows: Rows) -> Logits:
        cache = rows.cache
        assert isinstance(cache, FakeCache)
        num_new, held = len(rows.tokens), len(cache)
        assert rows.visible.shape == (num_new, held + num_new)
        assert rows.positions.max() < self.max_length
        cache.rows += zip(rows.tokens.tolist(), rows.positions.tolist(), strict=True)
        self.num_rows += num_new
        logits = []
        for index in range(num_new):
            seen = [cache.rows[row] for row in np.flatnonzero(rows.visible[index])]
            assert rows.visible[index, held + index], "a row sees itself"
            assert [position for _, position in seen] == list(range(len(seen))), (
                "a row sees one path from the beginning"
            )
            if index in rows.wanted:
                logits.append(self.logits_after([token for token, _ in seen]))
        return np.array(logits, np.float32).reshape(len(rows.wanted), self.vocab_size)


class Plain:
    """A bridge between a vocabulary and itself; `retokenise` makes it change the end of its context."""

    allowed = None
    noise_ids = np.arange(VOCAB)

    def __init__(self, tokens: Sequence[int]) -> None:
        self.context = list(tokens)

    def observe(self, tokens: Sequence[int]) -> None:
        self.context = [*self.context, *tokens]

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        found, places = Candidates(), {ROOT: CONTEXT}
        for index in selected:
            node = tree.nodes[index]
            places[index] = found.add(node.token, places[node.parent], float(np.exp(node.claim)), 0)
        return found


class Never:
    """A stopping rule that only listens."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bool]] = []

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        return False

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        self.heard.append((tree.nodes[node].token, right))


def session_on(model: FakeModel, tokens: Sequence[int], policy=None, guesses=False, sampling=None) -> ModelSession:
    reader = Reader(sampling or Sampling(), VOCAB, width=4, noise_ids=np.arange(VOCAB))
    growth = Growth(policy or Chain(Shape(4, 6)), Ahead(Shape(4, 6)), Never())

    def guesser(context: list[int]):
        return Suffix(ScopeBounds(VOCAB, max_tokens=0)).begin(Context(context, 0, Sampling()))

    return ModelSession(
        Plain(tokens),
        reader,
        model.new_cache(),
        growth,
        length=len(tokens),
        max_length=model.max_length,
        new_guesser=guesser if guesses else None,
    )
