"""Follows a text through a grammar, and looks ahead along paths of candidates.

The grammar is an Earley parser of llguidance, whose matcher goes back as cheaply as forward (some microseconds a
token). So a tree of candidates is walked with one matcher: to a node by the shortest way from where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher

from paceline.verifier.grammar.mask import Mask, num_words, packed
from paceline.wire.errors import PacelineError, Reason

MAX_WHY = 300
FIELD = "constraint.json_schema"


class Guide:
    """Where a grammar stands after a text. One thread uses it at a time.

    Args:
        matcher: at its beginning; the guide copies it.
        vocab_size: length of a row of logits.
        eos_token_ids: that end a document.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._origin = matcher
        self._matcher = matcher.deep_copy()
        self._vocab_size = vocab_size
        self._eos = eos_token_ids
        self._text: list[int] = []
        self._only_end = packed(eos_token_ids, vocab_size)
        self._ahead: list[int] = []  # tokens behind the text after which the matcher stands now

    def copy(self) -> Guide:
        """Another one at the same place, for another thread."""
        twin = Guide(self._origin, self._vocab_size, self._eos)
        twin.take(self._text)
        return twin

    def follows(self, path: Sequence[int]) -> int:
        """How many of these tokens may follow the text, one after the other.

        Raises:
            PacelineError: the grammar became too complex to follow; the guide stays where it was.
        """
        return self._go(path)

    def take(self, tokens: Sequence[int]) -> None:
        """The text goes on with these tokens; what comes after an end of sequence isn't text any more.

        Raises:
            PacelineError: MALFORMED if it can't; or as `follows`.
        """
        count = self._go(tokens)
        if count < len(tokens) and (not count or tokens[count - 1] not in self._eos):
            raise PacelineError(
                Reason.MALFORMED, f"token {tokens[count]} can't follow by {FIELD}", field=FIELD, value=tokens[count]
            )
        self._text += self._ahead
        self._ahead = []

    def mask(self, path: Sequence[int] = ()) -> Mask:
        """Which tokens may follow the text and then this path, of which all `follows`.

        Raises:
            PacelineError: as `follows`; also if no token may, since none of the vocabulary spells what must come.
        """
        self._go(path)
        if self._ended:
            return self._only_end
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype="<i4")[: num_words(self._vocab_size)]
        self._check()
        if not mask.any():
            raise self._too_hard("no token of the model's vocabulary can come next")
        return mask

    def _go(self, path: Sequence[int]) -> int:
        """Stands after as much of the path as may follow; returns how many tokens that is."""
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._ahead, path, strict=False)))
        if shared < len(self._ahead):
            self._matcher.rollback(len(self._ahead) - shared - self._ended)
            del self._ahead[shared:]
        if shared < len(path) and not self._ended:
            rest = path[shared:]
            inner = list(takewhile(lambda token: token not in self._eos, rest))
            count = self._matcher.try_consume_tokens(inner)
            self._ahead += inner[:count]
            if count == len(inner) < len(rest) and self._matcher.is_accepting():
                self._ahead.append(rest[count])
        self._check()
        return len(self._ahead)

    @property
    def _ended(self) -> bool:
        """Whether it stands after an end of sequence. The matcher takes these in some states only, so it sees none."""
        return (self._ahead or self._text or (-1,))[-1] in self._eos

    def _check(self) -> None:
        """A matcher that has failed stays so: another one takes its place."""
        if self._matcher.is_error():
            why = one_line(self._matcher.get_error())
            self._matcher = self._origin.deep_copy()
            self._matcher.try_consume_tokens([token for token in self._text if token not in self._eos])
            self._ahead = []
            raise self._too_hard(why)

    def _too_hard(self, why: str) -> PacelineError:
        return PacelineError(
            Reason.OUT_OF_RANGE,
            f"{FIELD} can't be followed further than {len(self._text)} tokens: {why}; simplify it",
            field=FIELD,
        )


def one_line(text: str) -> str:
    """What llguidance says: its first lines, before it shows its state."""
    return " ".join(text.partition("\n<")[0].split())[:MAX_WHY] or "llguidance doesn't say why"
