"""Bridge `ngram_cache`: common tokens one for one, and runs of draft tokens that make one target token, as learned.

OmniDraft (arXiv 2507.02659). A run's token is worth the product of its draft tokens; what runs take is taken off the
token that they begin with (`spelling`). Runs are learned from what the target writes: where a committed token begins
and ends between draft tokens, those between are its run. So it begins as `intersection` and gets better with use.

What is learned is shared by all sessions: that certain draft tokens, whose bytes make a target token, were once
written as that token; nothing of the text around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.drafter.vocabulary.committed import follow, meant
from paceline.drafter.vocabulary.intersection import begin_with, direct_map
from paceline.drafter.vocabulary.retokenizer import Retokenizer
from paceline.drafter.vocabulary.run_table import RunTable
from paceline.drafter.vocabulary.spelling import Spelled, spell_tree
from paceline.wire.vocabulary.base import Vocabulary

MAX_UNALIGNED = 64  # tokens of the target that wait for the end of a character


class NgramCache:
    """For any two vocabularies; of use where the target's tokens are mostly longer than the draft's. One thread."""

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None:
        self.target, self.draft = target, draft
        direct = direct_map(target, draft)
        self._direct: list[int] = direct.tolist()
        self.table = RunTable(target, draft, direct >= 0)

    def begin(self, tokens: Sequence[int]) -> NgramCacheBridge:
        return NgramCacheBridge(self, tokens)

    def save(self) -> str:
        """What was learned, as JSON; see `RunTable.save`."""
        return self.table.save()

    def restore(self, content: str) -> None:
        """Adds what `save` wrote. Raises PacelineError as `RunTable.restore` does."""
        self.table.restore(content)

    def spell(self, held: bytes, tokens: Sequence[int]) -> Spelled:
        """Longest runs first; up to the first token that is in none and that the target hasn't got."""
        tokens = meant(self.draft, tokens)
        at, found = begin_with(held, self.target, self.draft, tokens)
        while 0 <= at < len(tokens):
            run = self.table.longest(tokens, at)
            length, token = run if run is not None else (1, self._direct[tokens[at]])
            if token < 0:
                break
            found.append(token)
            at += length
        return Spelled(found, len(found))


class NgramCacheBridge:
    """One session."""

    noise_ids: npt.NDArray[np.int64] | None = None

    def __init__(self, kind: NgramCache, tokens: Sequence[int]) -> None:
        self._kind = kind
        self._text = Retokenizer(kind.draft)
        self._unaligned: list[int] = []
        self.context: Sequence[int] = self._text.tokens
        self.allowed: npt.NDArray[np.bool_] | None = kind.table.allowed
        follow(self._text, kind.target, kind.draft, tokens)

    def observe(self, tokens: Sequence[int]) -> None:
        follow(self._text, self._kind.target, self._kind.draft, tokens)
        self._unaligned.extend(tokens)
        self._learn()

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        return spell_tree(tree, selected, lambda tokens: self._kind.spell(self._text.held, tokens))

    def _learn(self) -> None:
        """Aligns what was committed with the end of the context. The last token waits: what follows may change how the
        draft's tokens cut it."""
        if self._text.held:
            del self._unaligned[:-MAX_UNALIGNED]
            return
        draft, target, table = self._kind.draft, self._kind.target, self._kind.table
        at = len(self.context)  # draft tokens before it are not aligned yet
        behind = 0  # bytes of draft tokens from there on, less those of target tokens
        end: int | None = at  # where the run of the next target token ends, None if within a draft token
        for token in reversed(self._unaligned):
            data = target.bytes_of(token)
            if data is None:
                break  # a special token, or nothing: what lies before was aligned when that came
            behind -= len(data)
            while behind < 0 and at > 0:
                at -= 1
                behind += len(draft.bytes_of(self.context[at]) or b"")
            if behind == 0 and end is not None and end < len(self.context):
                table.learn(self.context[at:end], token)
            end = at if behind == 0 else None
        del self._unaligned[:-1]
