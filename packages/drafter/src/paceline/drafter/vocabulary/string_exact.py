"""Bridge `string_exact`: the drafted text, encoded again in the target's tokens.

String-level exact match (SLEM; Timor et al., *Accelerating LLM Inference with Lossless Speculative Decoding Algorithms
for Heterogeneous Vocabularies*). Works for any two vocabularies, and the draft model may say whatever it wants.

The target's committed tokens stand, so the question is how it would go on writing. A model writes the tokens it has
learned on, those of the text encoded as a whole: the end of the committed text is encoded with the draft, and what
comes behind the committed tokens is proposed. Where a token would span both, because the target chose to end one where
the encoding doesn't, the part that is drafted is encoded by itself up to the next place at which both agree.

At the end of a path the last piece may come out otherwise when the text goes on ("wor", then "world"). SLEM would hold
it back. But a draft token mostly ends where a word does, and each leaf of a tree is an end: holding back costs a whole
token a step, and everything where trees are one token deep (`tools/bench/oracle.py` measures it). So these tokens are
proposed, and marked for calibration, which learns what they are worth. Parts of a character are held back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.drafter.vocabulary.committed import follow, meant, runs
from paceline.drafter.vocabulary.retokenizer import Retokenizer, Stretch, stretches
from paceline.drafter.vocabulary.spelling import Spelled, Standing, spell_tree
from paceline.wire.vocabulary.base import Vocabulary


class StringExact:
    """For any two vocabularies."""

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None:
        self.target, self.draft = target, draft

    def begin(self, tokens: Sequence[int]) -> StringExactBridge:
        return StringExactBridge(self, tokens)

    def spell(self, held: bytes, tail: bytes, tokens: Sequence[int]) -> Spelled:
        """Target tokens of a draft path.

        Args:
            held: bytes at the end of the text that the path has to begin with.
            tail: end of the committed text, from a place at which one of the target's pieces begins; with `held`.
            tokens: the path.
        """
        found: list[int] = []
        closed = 0
        for run in runs(self.draft, meant(self.draft, tokens)):
            if isinstance(run, str):
                special = self.target.special_id(run)
                if special is None or held:
                    break  # what comes behind would not stand there; an incomplete character comes first
                found.append(special)
                closed, tail = len(found), b""
                continue
            if not run.startswith(held):
                break
            written, num_closed, complete = self._continue(tail, run[len(held) :])
            closed = len(found) + num_closed
            found += written
            held = b""
            if not complete:
                break
        return Spelled(found, closed, self._standing(found))

    def _standing(self, tokens: Sequence[int]) -> Standing:
        end = self.target.bytes_of(tokens[-1]) if tokens else None
        return Standing.IN_BLANK if end is not None and end.isspace() else Standing.IN_WORD

    def _continue(self, tail: bytes, data: bytes) -> tuple[list[int], int, bool]:
        """How the target goes on behind the tail; how many of those tokens stand; whether that says all of it."""
        tokens: list[int] = []
        closed = at = 0
        found, cut_off = stretches(self.target, tail + data)
        for stretch in found:
            begun = len(tail) - at  # how much of the piece is committed
            at += len(stretch.data)
            if at > len(tail):
                closed = len(tokens)
                rest = self._rest(stretch, begun) if begun > 0 else stretch.tokens
                if not self._says(rest, stretch.data[max(begun, 0) :]):
                    return tokens, closed, False
                tokens += rest
        return tokens, closed, not cut_off

    def _says(self, tokens: Sequence[int], data: bytes) -> bool:
        return b"".join(self.target.bytes_of(token) or b"" for token in tokens) == data

    def _rest(self, stretch: Stretch, begun: int) -> Sequence[int]:
        """Tokens of a piece behind its first bytes, which are committed."""
        at = 0
        for index, token in enumerate(stretch.tokens):
            if at == begun:
                return stretch.tokens[index:]
            at += len(self.target.bytes_of(token) or b"")
        apart, _ = stretches(self.target, stretch.data[begun:])
        return [token for part in apart for token in part.tokens]


class StringExactBridge:
    """One session."""

    allowed: npt.NDArray[np.bool_] | None = None
    noise_ids: npt.NDArray[np.int64] | None = None

    def __init__(self, kind: StringExact, tokens: Sequence[int]) -> None:
        self._kind = kind
        self._text = Retokenizer(kind.draft)
        self._target_text = Retokenizer(kind.target)
        self.context: Sequence[int] = self._text.tokens
        self.observe(tokens)

    def observe(self, tokens: Sequence[int]) -> None:
        follow(self._text, self._kind.target, self._kind.draft, tokens)
        follow(self._target_text, self._kind.target, self._kind.target, tokens)

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        held, tail = self._text.held, self._target_text.tail
        return spell_tree(tree, selected, lambda tokens: self._kind.spell(held, tail, tokens))
