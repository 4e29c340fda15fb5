"""What keeps one session to its grammar."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.verifier.grammar.guide import Guide
from paceline.verifier.grammar.tree_masks import TreeMasks
from paceline.wire.errors import PacelineError


class Constraint:
    """Two guides at the end of the session's text: the model's thread draws with one, and the event loop cuts drafts
    with the other as they arrive, while the model computes. So neither waits for the other, and what drafters propose
    can't move the guide that decides.

    Args:
        guide: at the end of the tokens that are committed; the model's thread has it from now on.
    """

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._drafts: Guide | None = guide.copy()

    def masks(self, tokens: Sequence[int], parents: Sequence[int]) -> TreeMasks:
        """For a step with this tree of candidates."""
        return TreeMasks(self._guide, tokens, parents)

    def admits(self, path: Sequence[int]) -> bool:
        """Whether candidates may follow the text, so that verifying them isn't wasted."""
        try:
            return self._drafts is not None and self._drafts.follows(path) == len(path)
        except PacelineError:  # too complex to follow there: if the text goes there, the session says so
            return False

    def take(self, tokens: Sequence[int]) -> None:
        """Tokens committed."""
        if self._drafts is None:
            return
        try:
            self._drafts.take(tokens)
        except PacelineError:  # the guide that decides got through, so the session goes on, without candidates
            self._drafts = None
